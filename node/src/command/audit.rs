//! `cocoon audit`: a worker's whole history, held against the chain by anybody.

use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_protocol::TonAddress;
use cocoon_settlement::audit::{self, AuditReport, Progress};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};

use super::ledger::chain;
use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Effective, Environment, Flags};
use crate::terminal::plain;

/// Largest file of leaves that is fetched, bytes: some ten million receipts.
const MAX_LEAVES_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Flags of `cocoon audit`.
#[derive(Clone, Debug, clap::Args)]
pub struct AuditArgs {
    /// The worker's ledger contract
    #[arg(value_name = "LEDGER")]
    pub ledger: TonAddress,
    /// What the worker published with `cocoon ledger publish`
    #[arg(long, value_name = "FILE|URL")]
    pub leaves: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which chain
    #[command(flatten)]
    pub flags: Flags,
}

/// Audits and prints; exit 0 only if nothing is wrong.
///
/// # Errors
/// A chain that does not answer, leaves that cannot be read or are another's.
pub fn run(args: &AuditArgs) -> CommandResult {
    let config = Effective::load(&args.flags, &Environment::of_process())?.config;
    let bar = if args.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len}") {
        bar.set_style(style);
    }
    let report = block_on(async {
        let chain = chain(&config).await?;
        let fetched = Fetched::get(&args.leaves).await?;
        let what = format!("cannot read {}", args.leaves);
        let file = std::fs::File::open(&fetched.path).map_err(CommandError::io(what))?;
        let report = audit::audit(
            chain.as_ref(),
            args.ledger,
            BufReader::new(file),
            |progress| {
                show(&bar, progress);
            },
        )
        .await?;
        Ok(report)
    });
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    Ok(ExitCode::from(if report.is_clean() { 0 } else { FAILURE }))
}

fn show(bar: &ProgressBar, progress: Progress) {
    let (what, done, all) = match progress {
        Progress::Commits(done) => ("commits", done, done),
        Progress::Leaves(done, all) => ("leaves", done, all),
        Progress::Channels(done, all) => ("channels", done, all),
    };
    bar.set_message(what);
    bar.set_length(all);
    bar.set_position(done);
}

/// For people.
#[must_use]
pub fn render(report: &AuditReport) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.add_row(["commits".to_owned(), report.commits.to_string()]);
    let jobs = format!("{}, {} with a receipt", report.jobs, report.receipts);
    table.add_row(["jobs".to_owned(), jobs]);
    table.add_row(["credited".to_owned(), report.credited.to_string()]);
    let paid = format!("{} by {} channels", report.claimed, report.channels);
    table.add_row(["paid".to_owned(), paid]);
    let mut text = format!("{table}\n");
    for finding in &report.findings {
        let commit = finding.commit.map(|seqno| format!(" commit {seqno}"));
        let leaf = finding.leaf.map(|index| format!(" leaf {index}"));
        let channel = finding.channel.map(|address| format!(" channel {address}"));
        let place: String = [commit, leaf, channel].into_iter().flatten().collect();
        text.push_str(&format!(
            "{}{place}: {}\n",
            finding.name,
            plain(&finding.what)
        ));
    }
    text.push_str(&match report.found {
        0 => "OK: every root, total and claim follows from the published leaves\n".to_owned(),
        found => format!("WRONG in {found} places\n"),
    });
    text
}

/// Leaves on this disk; those that were fetched go when this does.
struct Fetched {
    path: PathBuf,
    is_ours: bool,
}

impl Fetched {
    async fn get(from: &str) -> Result<Self, CommandError> {
        if !(from.starts_with("http://") || from.starts_with("https://")) {
            return Ok(Self {
                path: Path::new(from).to_path_buf(),
                is_ours: false,
            });
        }
        let failed = |what: String| {
            let error = std::io::Error::other(what);
            CommandError::io(format!("cannot fetch {from}"))(error)
        };
        let path = std::env::temp_dir().join(format!("cocoon-leaves-{}", std::process::id()));
        let mut file = std::fs::File::create(&path)
            .map_err(CommandError::io(format!("cannot write {}", path.display())))?;
        let fetched = Self {
            path,
            is_ours: true,
        };
        let mut response = reqwest::get(from)
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| failed(error.to_string()))?;
        let mut length = 0_u64;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| failed(error.to_string()))?
        {
            length = length.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if length > MAX_LEAVES_BYTES {
                return Err(failed(format!("more than {MAX_LEAVES_BYTES} bytes")));
            }
            file.write_all(&chunk)
                .map_err(CommandError::io("cannot write the leaves"))?;
        }
        Ok(fetched)
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if self.is_ours {
            // What is left over lies among temporary files.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
