//! `cocoon verify RECEIPT`, which is `cocoon receipt verify`: factor by factor; exit 0 only if verified.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_attestation::FactorResult;
use cocoon_protocol::evidence::Beacon;
use cocoon_settlement::chain::lite::Progress;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Config, Effective, Environment, Flags};
use crate::receipt_check::{Block, MAX_DOCUMENT_BYTES, Opened, Report, check};
use crate::terminal::plain;
use crate::trust;
use crate::wiring::chain::connect;

/// Flags of `cocoon verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// A file from `cocoon receipt export` or `GET /v1/receipts/{id}`, or - for standard input
    #[arg(value_name = "RECEIPT")]
    pub receipt: PathBuf,
    /// The block that the evidence names, as you know it, instead of asking the chain: 1234:HASH
    #[arg(long, value_name = "SEQNO:HASH", value_parser = block_argument)]
    pub block: Option<Beacon>,
    /// Ask nobody; without --block the factor of the block is skipped, and the receipt not verified
    #[arg(long)]
    pub offline: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which root, policy and chain to judge by
    #[command(flatten)]
    pub flags: Flags,
}

/// Reads, checks, prints.
///
/// # Errors
/// A document that is no receipt, a configuration that makes no verifier. A receipt that is wrong
/// is no error here but an exit code.
pub fn run(args: &VerifyArgs) -> CommandResult {
    let effective = Effective::load(&args.flags, &Environment::of_process())?;
    let verifier = trust::verifier(&effective.config)?;
    let opened = Opened::read(&read(&args.receipt)?)?;
    let block = match (args.block, opened.claimed_beacon()) {
        (Some(block), _) => Block::Known(block),
        (None, Some(claimed)) if !args.offline => {
            block_on(async { Ok(block(&effective.config, claimed.seqno).await) })?
        }
        (None, _) => Block::Unknown(
            "nobody was asked; say --block SEQNO:HASH with the hash from a source that you trust"
                .to_owned(),
        ),
    };
    let report = check(&opened, &verifier, &block);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    Ok(if report.verified {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// A document from a file or from standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let what = format!("cannot read {}", path.display());
    // One byte more than fits, so that what is too large is seen to be.
    let limit = u64::try_from(MAX_DOCUMENT_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .map_err(CommandError::io(what))?;
    Ok(bytes)
}

/// A block as the chain has it.
pub(super) async fn block_of_chain(
    config: &Config,
    seqno: u32,
) -> Result<Beacon, cocoon_settlement::chain::ChainError> {
    let chain = connect(config, told()).await?;
    let block = chain.block(seqno).await?;
    Ok(Beacon {
        seqno: block.seqno,
        hash: block.hash,
    })
}

/// A first look at a chain may take a while; says how far it is.
pub(super) fn told() -> Progress {
    Progress::telling(|at, target| eprintln!("checking key blocks: {at} of {target}"))
}

async fn block(config: &Config, seqno: u32) -> Block {
    match block_of_chain(config, seqno).await {
        Ok(beacon) => Block::Known(beacon),
        Err(error) => Block::Unknown(error.to_string()),
    }
}

fn block_argument(text: &str) -> Result<Beacon, String> {
    let parsed = text
        .split_once(':')
        .and_then(|(seqno, hash)| Some((seqno.parse().ok()?, hash.parse().ok()?)));
    let (seqno, hash) = parsed.ok_or("write it as the block's number, a colon, and its hash")?;
    Ok(Beacon { seqno, hash })
}

/// For people.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for line in &report.factors {
        table.add_row([
            line.result.to_string(),
            line.name.clone(),
            plain(&line.reason).into_owned(),
        ]);
    }
    let count = |result| {
        report
            .factors
            .iter()
            .filter(|line| line.result == result)
            .count()
    };
    format!(
        "{table}\n{} under the {} root: {} passed, {} failed, {} skipped\n",
        if report.verified {
            "VERIFIED"
        } else {
            "NOT VERIFIED"
        },
        report.trust,
        count(FactorResult::Pass),
        count(FactorResult::Fail),
        count(FactorResult::Skip),
    )
}
