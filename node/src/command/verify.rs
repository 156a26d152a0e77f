//! `cocoon verify RECEIPT`: factor by factor; exit 0 only if verified.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_attestation::FactorResult;
use cocoon_protocol::evidence::Beacon;
use cocoon_settlement::chain::{Chain, DevnetClient};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Effective, Environment, Flags};
use crate::receipt_check::{MAX_DOCUMENT_BYTES, Opened, Report, check};
use crate::terminal::plain;
use crate::trust;

/// Flags of `cocoon verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// A file from `GET /v1/receipts/{id}`, or - for standard input
    #[arg(value_name = "RECEIPT")]
    pub receipt: PathBuf,
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
    let opened = Opened::read(&read(args)?)?;
    let beacons = match opened.claimed_beacon() {
        None => Vec::new(),
        Some(claimed) => block_on(async {
            Ok(
                match block(&effective.config.chain_url, claimed.seqno).await {
                    Ok(beacon) => vec![beacon],
                    Err(error) => {
                        eprintln!("the block that the evidence names cannot be checked: {error}");
                        Vec::new()
                    }
                },
            )
        })?,
    };
    let report = check(&opened, &verifier, &beacons);
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

fn read(args: &VerifyArgs) -> Result<Vec<u8>, CommandError> {
    let what = format!("cannot read {}", args.receipt.display());
    // One byte more than fits, so that what is too large is seen to be.
    let limit = u64::try_from(MAX_DOCUMENT_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    if args.receipt.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(&args.receipt).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .map_err(CommandError::io(what))?;
    Ok(bytes)
}

/// A block as the chain has it.
pub(super) async fn block(url: &str, seqno: u32) -> Result<Beacon, cocoon_settlement::chain::ChainError> {
    let block = DevnetClient::new(url)?.block(seqno).await?;
    Ok(Beacon {
        seqno: block.seqno,
        hash: block.hash,
    })
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
