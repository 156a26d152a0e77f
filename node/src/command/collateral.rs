//! `cocoon collateral`: look at Intel's collateral, fetch it, hand it to a node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use cocoon_actors::clock;
use cocoon_attestation::provisioning::INTEL_PCS;
use cocoon_attestation::shelf::{CollateralFacts, facts};
use cocoon_protocol::collateral::{PckAuthority, PlatformFamily};
use cocoon_protocol::units::UnixMillis;
use serde_json::{Value, json};

use super::{CommandError, CommandResult, FAILURE};
use crate::collateral::{directory, fetch, file_of, read_bounded};
use crate::config::{Effective, Environment, Flags};

/// Arguments of `cocoon collateral`.
#[derive(Debug, Args)]
pub struct CollateralArgs {
    /// What to do
    #[command(subcommand)]
    pub action: CollateralAction,
}

/// What can be done with collateral.
#[derive(Debug, Subcommand)]
pub enum CollateralAction {
    /// For which platforms it is, and how long it is in force; exit 0 only if it is in force now
    Show {
        /// The file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch it from Intel or from a caching service
    Fetch {
        /// The platforms: 12 hexadecimal digits, as `cocoon collateral show` prints them
        #[arg(long, value_parser = fmspc)]
        fmspc: [u8; 6],
        /// Who certifies them
        #[arg(long, value_enum, default_value_t = Authority::Platform)]
        authority: Authority,
        /// The service
        #[arg(long, value_name = "URL", default_value = INTEL_PCS)]
        url: String,
        /// Where to put it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Hand it to this machine's node, which checks it before it counts
    Import {
        /// The file
        file: PathBuf,
        /// Where the node keeps its data
        #[command(flatten)]
        settings: Box<Flags>,
    },
}

/// The authority of Intel's that certifies the platforms.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Authority {
    /// Several packages
    Platform,
    /// One package
    Processor,
}

fn fmspc(text: &str) -> Result<[u8; 6], String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| format!("6 bytes in hexadecimal, not {}", bytes.len()))
}

/// Runs the command.
///
/// # Errors
/// A file or a service, or bytes that are not collateral.
pub fn run(args: &CollateralArgs) -> CommandResult {
    match &args.action {
        CollateralAction::Show { file, json } => {
            let (_, facts) = read(file)?;
            let now = clock::now();
            if *json {
                println!("{}", serde_json::to_string_pretty(&as_json(now, &facts))?);
            } else {
                print!("{}", as_text(now, &facts));
            }
            let in_force = now >= facts.from && now < facts.until;
            Ok(ExitCode::from(if in_force { 0 } else { FAILURE }))
        }
        CollateralAction::Fetch {
            fmspc,
            authority,
            url,
            out,
        } => {
            let authority = match authority {
                Authority::Platform => PckAuthority::Platform,
                Authority::Processor => PckAuthority::Processor,
            };
            let family = PlatformFamily {
                fmspc: *fmspc,
                authority,
            };
            eprintln!("asking {url} for {family}");
            let json = fetch(url, &family)?;
            write(out, &json)?;
            let facts = facts(&json)?;
            print!("{}", as_text(clock::now(), &facts));
            println!("written to {}", out.display());
            Ok(ExitCode::SUCCESS)
        }
        CollateralAction::Import { file, settings } => {
            let (json, facts) = read(file)?;
            let config = Effective::load(settings, &Environment::of_process())?.config;
            let path = file_of(&config.data_dir, &facts.family);
            let directory = directory(&config.data_dir);
            std::fs::create_dir_all(&directory).map_err(CommandError::io(format!(
                "cannot make {}",
                directory.display()
            )))?;
            write(&path, &json)?;
            print!("{}", as_text(clock::now(), &facts));
            println!(
                "the node finds it in {} when it next needs it, and checks its signatures then",
                path.display()
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, CollateralFacts), CommandError> {
    let json =
        read_bounded(path).map_err(CommandError::io(format!("cannot read {}", path.display())))?;
    let facts = facts(&json)?;
    Ok((json, facts))
}

/// Whole or not at all: a node may be reading it.
fn write(path: &Path, json: &[u8]) -> Result<(), CommandError> {
    let half = path.with_extension("json.new");
    std::fs::write(&half, json)
        .and_then(|()| std::fs::rename(&half, path))
        .map_err(CommandError::io(format!("cannot write {}", path.display())))
}

fn as_json(now: UnixMillis, facts: &CollateralFacts) -> Value {
    json!({
        "fmspc": hex::encode(facts.family.fmspc),
        "authority": facts.family.authority.name(),
        "evaluation": facts.evaluation,
        "from_unix_ms": facts.from.millis(),
        "until_unix_ms": facts.until.millis(),
        "in_force": now >= facts.from && now < facts.until,
    })
}

fn as_text(now: UnixMillis, facts: &CollateralFacts) -> String {
    const DAY_S: u64 = 86_400;
    let days = |ms: u64| ms / 1_000 / DAY_S;
    let state = if now < facts.from {
        format!(
            "not in force for another {} days",
            days(facts.from.saturating_since(now))
        )
    } else if now >= facts.until {
        format!(
            "out of force for {} days",
            days(now.saturating_since(facts.until))
        )
    } else {
        format!(
            "in force for another {} days",
            days(facts.until.saturating_since(now))
        )
    };
    format!(
        "platforms {}, evaluation {}: {state}\nsignatures not checked: that takes a quote, see `cocoon verify`\n",
        facts.family, facts.evaluation
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_that_is_no_collateral_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        std::fs::write(&path, "{}").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("not collateral"), "{error}");
    }

    #[test]
    fn an_fmspc_has_twelve_digits() {
        assert_eq!(fmspc("b0c06f000000").unwrap(), [0xb0, 0xc0, 0x6f, 0, 0, 0]);
        assert!(fmspc("b0c06f").unwrap_err().contains("not 3"));
    }
}
