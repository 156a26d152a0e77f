//! `cocoon ledger prove` and `cocoon ledger publish`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_protocol::merkle::{InclusionProof, MAX_PROOF_STEPS};
use cocoon_protocol::{Digest, JobId, NanoTon, TonAddress};
use cocoon_settlement::audit;
use cocoon_settlement::contract::fetch_ledger;
use cocoon_settlement::ledger::{self, BatchProgress, Leaf, LeafClaim, WorkerLedger};
use serde::{Deserialize, Serialize};

use super::{LedgerToolError, Where, chain, rows};
use crate::command::{CommandError, CommandResult, FAILURE, block_on};

/// Of the document.
const FORMAT: u32 = 1;
/// Largest proof that is read, bytes: a leaf in hexadecimal and 64 steps.
const MAX_PROOF_BYTES: u64 = 256 * 1024;

/// Flags of `cocoon ledger prove`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProveArgs {
    /// The job
    #[arg(
        value_name = "JOB",
        required_unless_present = "verify",
        conflicts_with = "verify"
    )]
    pub job: Option<JobId>,
    /// Check this proof instead of making one; exit 0 only if it holds
    #[arg(long, value_name = "FILE")]
    pub verify: Option<PathBuf>,
    /// Check without the chain: whether the proof leads to the root that it names, whoever committed that
    #[arg(long, requires = "verify")]
    pub offline: bool,
    /// The worker's ledger contract; checking a proof needs it here or in the proof
    #[arg(long, value_name = "ADDRESS")]
    pub contract: Option<TonAddress>,
    /// The result of a check as JSON; proofs are always JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger and which chain
    #[command(flatten)]
    pub place: Where,
}

/// Flags of `cocoon ledger publish`.
#[derive(Clone, Debug, clap::Args)]
pub struct PublishArgs {
    /// Where to write the leaves; must not be there yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The worker's ledger contract
    #[arg(long, value_name = "ADDRESS")]
    pub contract: TonAddress,
    /// Which ledger
    #[command(flatten)]
    pub place: Where,
}

/// What `cocoon ledger prove` prints.
#[derive(Debug, Serialize, Deserialize)]
struct ProofDocument {
    format: u32,
    ledger: Option<TonAddress>,
    /// Its commit's number.
    batch: u32,
    root: Digest,
    /// The number of leaves under that root, and this one's place.
    leaves: u64,
    index: u64,
    /// Sibling hashes, lowest first.
    path: Vec<Digest>,
    /// In hexadecimal: the signed receipt, or the statement of a payment without one.
    leaf: String,
    channel: TonAddress,
    total_nanoton: u64,
    credited_nanoton: u64,
    /// Whether this worker has seen the commit on chain, and its transaction if that was seen too.
    confirmed: bool,
    transaction: Option<Digest>,
}

pub(super) fn prove(args: &ProveArgs) -> CommandResult {
    match (&args.verify, &args.job) {
        (Some(file), _) => verify(args, file),
        (None, Some(job)) => make(args, job),
        (None, None) => Err(LedgerToolError::Missing("name a job".to_owned()).into()),
    }
}

fn make(args: &ProveArgs, job: &JobId) -> CommandResult {
    let ledger = WorkerLedger::new(args.place.reader()?);
    let entry = ledger
        .job(job)?
        .and_then(|record| record.end)
        .and_then(|end| end.entry)
        .ok_or_else(|| LedgerToolError::NoEntry(job.to_string()))?;
    let proven = ledger.prove_entry(entry)?;
    let (confirmed, transaction) = match proven.batch.progress {
        BatchProgress::Confirmed { transaction, .. } => (true, transaction),
        BatchProgress::Prepared | BatchProgress::Submitted { .. } => (false, None),
    };
    let total = proven
        .entry
        .voucher
        .map_or(NanoTon::ZERO, |held| held.cumulative);
    let document = ProofDocument {
        format: FORMAT,
        ledger: args.contract,
        batch: proven.batch.seqno,
        root: proven.batch.root(),
        leaves: proven.proof.size,
        index: proven.proof.index,
        path: proven.proof.path.clone(),
        leaf: hex::encode(proven.entry.leaf_bytes()),
        channel: proven.entry.channel,
        total_nanoton: total.nano(),
        credited_nanoton: proven.entry.credited.nano(),
        confirmed,
        transaction: transaction.map(|seen| seen.hash),
    };
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(ExitCode::SUCCESS)
}

/// `cocoon ledger prove --verify --json`.
#[derive(Debug, Default, Serialize)]
struct Verified {
    holds: bool,
    job: Option<String>,
    receipt: bool,
    /// The leaf is what it says, and leads to the root.
    leads_to_root: bool,
    /// Whether that root is on chain; `null` if nobody was asked.
    on_chain: Option<bool>,
    why: Vec<String>,
}

fn verify(args: &ProveArgs, file: &Path) -> CommandResult {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(MAX_PROOF_BYTES).read_to_string(&mut text))
        .map_err(CommandError::io(format!("cannot read {}", file.display())))?;
    let document: ProofDocument = serde_json::from_str(&text)?;
    let mut verified = Verified::default();
    examine(&document, &mut verified);
    if !args.offline {
        let contract = args.contract.or(document.ledger).ok_or_else(|| {
            LedgerToolError::Missing(
                "the proof names no ledger contract: say --contract, or --offline".to_owned(),
            )
        })?;
        let on_chain = look(args, contract, &document)?;
        verified.on_chain = Some(on_chain);
        if !on_chain {
            let why = format!(
                "{contract} never committed this root as batch {}",
                document.batch
            );
            verified.why.push(why);
        }
    }
    verified.holds = verified.leads_to_root && verified.on_chain != Some(false);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verified)?);
    } else {
        let mut table = rows();
        table.add_row(["job", verified.job.as_deref().unwrap_or("-")]);
        let kind = if verified.receipt {
            "a signed receipt"
        } else {
            "a payment without a receipt"
        };
        table.add_row(["leaf", kind]);
        table.add_row(["root", &document.root.to_string()]);
        println!("{table}");
        for why in &verified.why {
            println!("{why}");
        }
        println!(
            "{}",
            match (verified.holds, verified.on_chain) {
                (true, Some(_)) => "PROVEN: it is in what the worker committed on chain",
                (true, None) => "LEADS TO THE ROOT; nobody was asked whether that is on chain",
                (false, _) => "NOT PROVEN",
            }
        );
    }
    Ok(ExitCode::from(if verified.holds { 0 } else { FAILURE }))
}

fn examine(document: &ProofDocument, verified: &mut Verified) {
    let mut fail = |why: &str| verified.why.push(why.to_owned());
    if document.format != FORMAT {
        return fail("another format of proof");
    }
    let Ok(bytes) = hex::decode(&document.leaf) else {
        return fail("the leaf is not hexadecimal");
    };
    if document.path.len() > MAX_PROOF_STEPS {
        return fail("the path is too long");
    }
    let leaf = Leaf {
        channel: document.channel,
        total: NanoTon::from_nano(document.total_nanoton),
        credited: NanoTon::from_nano(document.credited_nanoton),
        bytes,
    };
    let proof = InclusionProof {
        index: document.index,
        size: document.leaves,
        path: document.path.clone(),
    };
    match leaf.claim() {
        Ok(LeafClaim::Receipt { job, .. }) => {
            verified.job = Some(job.to_string());
            verified.receipt = true;
        }
        Ok(LeafClaim::Unreceipted { job }) => verified.job = Some(job.to_string()),
        Err(why) => return fail(why),
    }
    if proof.leads(leaf.hash(), document.root) {
        verified.leads_to_root = true;
    } else {
        fail("the path does not lead from the leaf to the root");
    }
}

/// First among the roots that the contract remembers, then among all its transactions.
fn look(
    args: &ProveArgs,
    contract: TonAddress,
    document: &ProofDocument,
) -> Result<bool, CommandError> {
    let config = args.place.config()?;
    block_on(async {
        let chain = chain(&config).await?;
        let state = fetch_ledger(chain.as_ref(), contract).await?;
        let Some(state) = state else { return Ok(false) };
        if let Some(root) = state.root_of(document.batch) {
            return Ok(root == document.root);
        }
        let commits = audit::commits(chain.as_ref(), contract, |_| {}).await?;
        Ok(commits
            .iter()
            .any(|commit| commit.seqno == document.batch && commit.root == document.root))
    })
}

pub(super) fn publish(args: &PublishArgs) -> CommandResult {
    let ledger = WorkerLedger::new(args.place.reader()?);
    let failed = || CommandError::io(format!("cannot write {}", args.out.display()));
    let file = std::fs::File::create_new(&args.out).map_err(failed())?;
    let mut out = std::io::BufWriter::new(file);
    let leaves = ledger::publish(&ledger, args.contract, &mut out)?;
    out.get_ref().sync_all().map_err(failed())?;
    println!(
        "{leaves} leaves written to {}\nThey show which client had how many tokens of which model when, at which price \
         and on which channel. They show nothing of prompts and answers",
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}
