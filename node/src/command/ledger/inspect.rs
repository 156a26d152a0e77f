//! `cocoon ledger check` and `cocoon ledger dump`.

use std::io::Write as _;
use std::process::ExitCode;

use cocoon_settlement::ledger::{self, SCHEMA};
use cocoon_settlement::store::Column;

use super::{LedgerToolError, Where, rows};
use crate::command::{CommandError, CommandResult, FAILURE};
use crate::terminal::plain;

/// Flags of `cocoon ledger check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The network's number: with it, the signatures of all vouchers are checked too
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub global_id: Option<i32>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger
    #[command(flatten)]
    pub place: Where,
}

/// Flags of `cocoon ledger dump`.
#[derive(Clone, Debug, clap::Args)]
pub struct DumpArgs {
    /// Only this column, for example worker.channels
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Which ledger
    #[command(flatten)]
    pub place: Where,
}

pub(super) fn check(args: &CheckArgs) -> CommandResult {
    let reader = args.place.reader()?;
    let report = ledger::check(&reader, args.global_id)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let mut table = rows();
        for (column, records) in &report.records {
            table.add_row([(*column).to_owned(), format!("{records} records")]);
        }
        println!("{table}");
        for finding in &report.findings {
            let key = finding.key.as_deref().unwrap_or("-");
            println!(
                "{} {} {key}: {}",
                finding.name,
                finding.column,
                plain(&finding.what)
            );
        }
        match report.found {
            0 => println!("OK: every record, index, sum and root"),
            found => println!("WRONG in {found} places; docs/ledger.md says what each name means"),
        }
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

pub(super) fn dump(args: &DumpArgs) -> CommandResult {
    let reader = args.place.reader()?;
    let columns: Vec<Column> = SCHEMA
        .columns
        .iter()
        .filter(|column| {
            args.column
                .as_ref()
                .is_none_or(|name| name == column.name())
        })
        .copied()
        .collect();
    if let (true, Some(asked)) = (columns.is_empty(), &args.column) {
        return Err(LedgerToolError::NoColumn {
            asked: asked.clone(),
            known: SCHEMA.columns.iter().map(|column| column.name()).collect(),
        }
        .into());
    }
    let mut out = std::io::stdout().lock();
    let mut failed = None;
    ledger::for_each_pair(&reader, &columns, |column, page| {
        for (key, value) in page {
            if failed.is_none() {
                let line = ledger::describe(column, &key, &value);
                failed = writeln!(out, "{line}").err();
            }
        }
        Ok(())
    })?;
    match failed {
        // A reader that has seen enough, `head` for one, is no failure.
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::io("cannot write")(error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
