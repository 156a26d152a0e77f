//! `cocoon bench`: how fast this machine is, beside what it could be and beside others.

mod device;
mod peers;
mod processor;
mod settlement;
mod verify;

use std::path::PathBuf;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::{CommandError, CommandResult};

/// Flags of `cocoon bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What can be measured.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BenchWhat {
    /// The engine: tokens per second, as a share of this machine's ceilings and beside llama.cpp
    Engine(EngineArgs),
    /// A verdict on evidence: first contact, warm, refused early; beside dcap-qvl alone
    Verify(verify::VerifyBenchArgs),
    /// Settlement: vouchers to disk beside RocksDB alone, gas and fees of every operation, receipts in a batch
    Settlement(settlement::SettlementBenchArgs),
}

/// Where the engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// The processor, with kernels for quantised weights
    Processor,
    /// The first CUDA device, bf16; only in a binary built with `--features cuda`
    Cuda,
    /// The processor, with burn's plain operations in f32: slow, for checking
    Reference,
}

/// Flags of `cocoon bench engine`.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineArgs {
    /// The model: a GGUF file or a Hugging Face folder
    #[arg(long, value_name = "PATH", env = "COCOON_MODEL")]
    pub model: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "processor")]
    pub device: Where,
    /// Processor: threads that compute [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Processor: tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 434)]
    pub prompt_tokens: usize,
    /// Tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub answer_tokens: u32,
    /// Processor: rounds, each of this engine and then of the peers; the best of each counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Processor: leave llama.cpp out
    #[arg(long)]
    pub no_peer: bool,
    /// Processor: where `scripts/bench/fetch-peers.sh` has put llama.cpp's builds
    #[arg(long, value_name = "DIR", env = "COCOON_PEERS")]
    pub peers: Option<PathBuf>,
    /// Other devices: answers at once, for decoding
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8, 32, 128])]
    pub batches: Vec<usize>,
    /// Other devices: tokens of the prompts
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [512, 2_048, 8_192])]
    pub prompts: Vec<usize>,
    /// Other devices: instead of measuring, compare the logits after the filler's 64 tokens with these (JSON, a
    /// list of numbers); exit 0 only if they agree
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Only the closing line of JSON
    #[arg(long)]
    pub json: bool,
}

/// One figure of the closing line.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// A model that does not load, a device that is not there.
pub fn run(args: &BenchArgs) -> CommandResult {
    match &args.what {
        BenchWhat::Engine(args) => match args.device {
            Where::Processor => processor::run(args),
            Where::Cuda | Where::Reference => device::run(args),
        },
        BenchWhat::Verify(args) => verify::run(args),
        BenchWhat::Settlement(args) => settlement::run(args),
    }
}

fn failed(source: cocoon_inference::EngineError) -> CommandError {
    CommandError::Engine { source }
}

fn say(args: &EngineArgs, line: &str) {
    if !args.json {
        eprintln!("{line}");
    }
}

fn close(figures: &[Figure]) {
    println!(
        "{}",
        serde_json::json!({ "bench": "engine", "figures": figures })
    );
}

fn right_aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
