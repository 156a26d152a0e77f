//! `cocoon receipt`: what a job's receipt says, whether it is true, and whether it billed what was there.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_actors::gateway_port::ReceiptDocument;
use cocoon_inference::Tokenizer;
use cocoon_inference::store::Store;
use cocoon_protocol::Salt;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::verify::{self, VerifyArgs};
use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::gateway_client::{DEFAULT_URL, GatewayClient};
use crate::receipt_check::{Line, Opened, Statement};
use crate::receipt_recount::{Finding, MAX_PAPER_BYTES, Papers, Recounted, recount};
use crate::terminal::plain;

/// Flags of `cocoon receipt`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReceiptArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ReceiptAction,
}

/// What can be done with receipts.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ReceiptAction {
    /// Print what a receipt says; exit 0 only if the key that it names has signed it
    Show(ShowArgs),
    /// Check a receipt, factor by factor; exit 0 only if it is verified. The same as `cocoon verify`
    Verify(Box<VerifyArgs>),
    /// Fetch a receipt with all that it takes to check it years later
    Export(ExportArgs),
    /// Count again what a receipt bills; exit 0 only if it bills no more than was there
    Recount(RecountArgs),
}

/// Where the gateway is that keeps the receipts.
#[derive(Clone, Debug, clap::Args)]
pub struct GatewayFlags {
    /// The gateway's HTTP
    #[arg(long, visible_alias = "gateway", env = "COCOON_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Needed beyond loopback: the content of <data_dir>/api-token
    #[arg(long, env = "COCOON_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

/// Flags of `cocoon receipt show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// A file, - for standard input, or the name of a receipt, a job or a completion that the gateway knows
    #[arg(value_name = "FILE|ID")]
    pub receipt: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Whom to ask for an ID
    #[command(flatten)]
    pub gateway: GatewayFlags,
}

/// Flags of `cocoon receipt export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// The name of a receipt, a job or a completion
    #[arg(value_name = "ID")]
    pub id: String,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// With the salt: whoever gets the file can tell whether a text is what was asked or answered
    #[arg(long)]
    pub open: bool,
    /// Whom to ask
    #[command(flatten)]
    pub gateway: GatewayFlags,
}

/// Flags of `cocoon receipt recount`.
#[derive(Clone, Debug, clap::Args)]
pub struct RecountArgs {
    /// A file from `cocoon receipt export`, or - for standard input
    #[arg(value_name = "FILE")]
    pub receipt: PathBuf,
    /// The model: its name here, a GGUF file (one with the vocabulary alone will do) or a folder
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// The body that was sent to the gateway
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// The body that came back; asked for with `return_token_ids`, the count is exact
    #[arg(long, value_name = "FILE")]
    pub response: PathBuf,
    /// What opens the receipt [default: the one in a file exported with --open]
    #[arg(long, value_name = "HEX", value_parser = salt)]
    pub salt: Option<Salt>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

fn salt(text: &str) -> Result<Salt, String> {
    text.parse()
        .map_err(|error: cocoon_protocol::ids::IdError| error.to_string())
}

/// Does it.
///
/// # Errors
/// A document that is no receipt, a gateway that does not answer, files that cannot be read. A receipt that is
/// wrong is no error here but an exit code.
pub fn run(args: &ReceiptArgs) -> CommandResult {
    match &args.action {
        ReceiptAction::Show(args) => show(args),
        ReceiptAction::Verify(args) => verify::run(args),
        ReceiptAction::Export(args) => export(args),
        ReceiptAction::Recount(args) => recount_receipt(args),
    }
}

/// `cocoon receipt show --json`.
#[derive(Serialize)]
struct Shown {
    signed: bool,
    receipt: Option<Statement>,
    beacon_seqno: Option<u32>,
    beacon_hash: Option<String>,
    has_evidence: bool,
}

fn show(args: &ShowArgs) -> CommandResult {
    let path = Path::new(&args.receipt);
    let opened = if args.receipt == "-" || path.is_file() {
        Opened::read(&verify::read(path)?)?
    } else {
        Opened::from_document(fetch(&args.gateway, &args.receipt, false)?)?
    };
    let beacon = opened.claimed_beacon();
    let shown = Shown {
        signed: opened.receipt().is_ok(),
        receipt: opened.statement(),
        beacon_seqno: beacon.map(|beacon| beacon.seqno),
        beacon_hash: beacon.map(|beacon| beacon.hash.to_string()),
        has_evidence: beacon.is_some(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        let mut table = rows();
        for (name, value) in shown.receipt.iter().flat_map(Statement::rows) {
            table.add_row([name.to_owned(), plain(&value).into_owned()]);
        }
        let block = beacon.map_or_else(
            || "none: the document holds no evidence".to_owned(),
            |beacon| format!("{} {}", beacon.seqno, beacon.hash),
        );
        table.add_row(["evidence's block".to_owned(), block]);
        println!("{table}");
        println!(
            "{}; whether that key is an enclave's says `cocoon receipt verify`",
            if shown.signed {
                "SIGNED by its receipt key"
            } else {
                "NOT SIGNED by its receipt key"
            }
        );
    }
    Ok(exit(shown.signed))
}

fn export(args: &ExportArgs) -> CommandResult {
    let document = fetch(&args.gateway, &args.id, args.open)?;
    if document.evidence.is_none() {
        eprintln!(
            "the gateway no longer has the evidence, so whose key signed this cannot be shown"
        );
    }
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    match &args.out {
        None => print!("{text}"),
        Some(path) => {
            let what = format!("cannot write {}", path.display());
            // Never over something that is there: it may be the only copy of another receipt.
            std::fs::File::create_new(path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(CommandError::io(what))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fetch(gateway: &GatewayFlags, id: &str, open: bool) -> Result<ReceiptDocument, CommandError> {
    let client = GatewayClient::new(&gateway.url, gateway.api_key.clone())?;
    block_on(async {
        Ok(if open {
            client.open_receipt(id).await?
        } else {
            client.receipt(id).await?
        })
    })
}

fn recount_receipt(args: &RecountArgs) -> CommandResult {
    let opened = Opened::read(&verify::read(&args.receipt)?)?;
    let (request, response) = (paper(&args.request)?, paper(&args.response)?);
    let path = Store::of_environment()?.find(&args.model)?.path;
    let tokenizer = Tokenizer::open(&path).map_err(|source| CommandError::Engine { source })?;
    let papers = Papers {
        request: &request,
        response: &response,
        salt: args.salt,
    };
    let recounted = recount(&opened, &papers, &tokenizer);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&recounted)?);
    } else {
        print!("{}", render(&recounted));
    }
    Ok(exit(recounted.finding.passes()))
}

fn paper(path: &Path) -> Result<Vec<u8>, CommandError> {
    let what = format!("cannot read {}", path.display());
    let limit = u64::try_from(MAX_PAPER_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(CommandError::io(what))?;
    Ok(bytes)
}

/// For people.
#[must_use]
pub fn render(recounted: &Recounted) -> String {
    let mut table = rows();
    for Line {
        name,
        result,
        reason,
        ..
    } in &recounted.factors
    {
        table.add_row([result.to_string(), name.clone(), plain(reason).into_owned()]);
    }
    let proof = if recounted.proven {
        "proven by what the worker signed"
    } else {
        "not proven"
    };
    let nanoton = recounted.overbilled_nanoton.unwrap_or(0);
    let finding = match recounted.finding {
        Finding::Agrees => "AGREES: no more was billed than was there".to_owned(),
        Finding::WithinTolerance => {
            "WITHIN TOLERANCE: as near as text without its tokens can show".to_owned()
        }
        Finding::Overbilled => format!("OVERBILLED by {nanoton} nanoTON, {proof}"),
        Finding::Contradiction => {
            "CONTRADICTION: the tokens that the worker signed for do not say its answer".to_owned()
        }
        Finding::NotComparable => {
            "NOT COMPARABLE: request, response, salt and model are not all this receipt's"
                .to_owned()
        }
    };
    format!("{table}\n{finding}\n")
}

fn rows() -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn exit(passes: bool) -> ExitCode {
    if passes {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    }
}
