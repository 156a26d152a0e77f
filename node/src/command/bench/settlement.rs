//! `cocoon bench settlement`: vouchers to disk, jobs to the chain, receipts into a batch.
//!
//! Durable vouchers are measured beside RocksDB's write-ahead log alone, with as many threads and bytes and on the same
//! disk; the rounds interleave and the median of the ratios counts. Gas and fees are not estimated: every
//! operation is executed by the real contracts in a devnet in this process, under mainnet's prices.

mod batch;
mod durable;
mod fees;

use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_protocol::{JobId, NanoTon};
use comfy_table::{Cell, Table};

use super::{Figure, right_aligned};
use crate::command::{CommandError, CommandResult, block_on};
use crate::terminal::HEADER_LINE;

/// Jobs a claim that are compared.
const JOBS_PER_CLAIM: [u32; 4] = [1, 10, 100, 1_000];

/// Flags of `cocoon bench settlement`.
#[derive(Clone, Debug, clap::Args)]
pub struct SettlementBenchArgs {
    /// Threads that accept vouchers at once, each on a channel of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=128))]
    pub threads: u8,
    /// Vouchers of each thread in a round
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub vouchers: u32,
    /// Rounds; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Receipts of the large batch
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub receipts: u32,
    /// On which disk to write [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Only the closing line of JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &SettlementBenchArgs) -> CommandResult {
    let durable = durable::measure(args)?;
    let verified = durable::verified_per_second()?;
    let fees = block_on(fees::measure())?;
    let batch = batch::measure(args.receipts)?;
    let mut figures = vec![
        Figure::new("durable_vs_wal", durable.ratio, "×"),
        Figure::new("vouchers_durable_per_s", durable.ours_per_second, "1/s"),
        Figure::new("bare_wal_per_s", durable.bare_per_second, "1/s"),
        Figure::new("vouchers_per_fsync", durable.per_sync, "1"),
        Figure::new("vouchers_verified_per_s", verified, "1/s"),
    ];
    for (jobs, cost) in &fees.per_claim {
        let name = format!("fee_per_job_{jobs}_nanoton");
        figures.push(Figure::new(name, cost.per_job(*jobs), "nanoTON"));
    }
    figures.extend([
        Figure::new("batch_receipts", f64::from(args.receipts), "1"),
        Figure::new("batch_cut_ms", batch.cut_ms, "ms"),
        Figure::new("proof_bytes", batch.proof_bytes, "B"),
        Figure::new("proof_make_ms", batch.make_ms, "ms"),
        Figure::new("proof_check_ms", batch.check_ms, "ms"),
    ]);
    if !args.json {
        eprintln!("{}\n", operations(&fees));
        eprintln!("{}\n", per_job(&fees));
        eprintln!("{}", listed(&figures));
    }
    println!(
        "{}",
        serde_json::json!({ "bench": "settlement", "figures": figures })
    );
    Ok(ExitCode::SUCCESS)
}

fn operations(fees: &fees::Fees) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["operation", "gas", "fees", "fees of all its transactions"]);
    for operation in &fees.operations {
        table.add_row([
            operation.name.to_owned(),
            operation.gas.to_string(),
            operation.fees.to_string(),
            operation.in_all.to_string(),
        ]);
    }
    right_aligned(table)
}

fn per_job(fees: &fees::Fees) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["jobs a claim", "gas", "cost to the worker", "nanoTON a job"]);
    for (jobs, cost) in &fees.per_claim {
        table.add_row([
            jobs.to_string(),
            cost.gas.to_string(),
            cost.paid.to_string(),
            format!("{:.1}", cost.per_job(*jobs)),
        ]);
    }
    right_aligned(table)
}

fn listed(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(["figure", "value"]);
    for figure in figures {
        table.add_row([
            Cell::new(&figure.name),
            Cell::new(format!("{:.2} {}", figure.value, figure.unit)),
        ]);
    }
    right_aligned(table)
}

/// A number as a job's id.
fn job(number: u32) -> JobId {
    let mut id = [0; 16];
    if let Some(tail) = id.last_chunk_mut::<4>() {
        *tail = number.to_be_bytes();
    }
    JobId::from_bytes(id)
}

fn nano(nano: u64) -> NanoTon {
    NanoTon::from_nano(nano)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_div(2).unwrap_or_default();
    values.get(middle).copied().unwrap_or(f64::NAN)
}

/// A failure that this machine's memory and disk should not produce.
fn odd(what: impl std::fmt::Display) -> CommandError {
    CommandError::io("the measurement")(std::io::Error::other(what.to_string()))
}
