//! `cocoon-sim`: runs a scenario on virtual time and prints what it found.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cocoon_simulations::{Scenario, run};

/// Simulates a Cocoon network on virtual time with the protocol code that nodes run.
///
/// The same scenario and seed give the same history bit for bit, on every machine; the trace hash
/// is its fingerprint. The exit status is 1 if something happened that must never happen.
#[derive(Debug, Parser)]
#[command(name = "cocoon-sim", version)]
struct Arguments {
    /// A scenario file (TOML); see simulations/scenarios/.
    scenario: PathBuf,
    /// Use this seed and not the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let path = arguments.scenario.display();
    let text = std::fs::read_to_string(&arguments.scenario)
        .with_context(|| format!("cannot read {path}"))?;
    let scenario = Scenario::from_toml(&text).with_context(|| format!("in {path}"))?;
    let report = run(&scenario, arguments.seed.unwrap_or(scenario.seed));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
