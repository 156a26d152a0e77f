//! `cocoon doctor`: what a machine lacks to run a worker; exit 0 only if nothing is missing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_actors::clock;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::verify::told;
use super::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Config, ConfigError, Effective, Environment, Flags, NodeRole};
use crate::doctor::{
    ChainView, Live, Machine, OnlyFiles, Outcome, Patient, Place, Report, examine,
};
use crate::terminal::plain;
use crate::wiring::chain::connect;
use crate::wiring::keys;

/// Flags of `cocoon doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Look at the files of another machine below this folder, and at nothing that runs
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Read the model for its digest however large it is
    #[arg(long)]
    pub thorough: bool,
    /// The settings of the node; a worker unless --role says otherwise
    #[command(flatten)]
    pub flags: Flags,
}

/// Looks, prints.
///
/// # Errors
/// A configuration that cannot be put together. What a machine lacks is no error here but an exit code.
pub fn run(args: &DoctorArgs) -> CommandResult {
    let mut effective = Effective::load(&args.flags, &Environment::of_process())?;
    effective.config.role.get_or_insert(NodeRole::Worker);
    let place = Place::new(&args.root);
    let live = args.root == Path::new("/");
    let problems = match rooted(&effective, &place).validate() {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => problems,
        Err(other) => return Err(other.into()),
    };
    let config = &effective.config;
    let chain = match config.role {
        Some(NodeRole::Worker | NodeRole::Client) if live => Some(ask_chain(config)?),
        _ => None,
    };
    let machine: &dyn Machine = if live { &Live } else { &OnlyFiles };
    let report = examine(&Patient {
        place: &place,
        machine,
        config,
        problems: &problems,
        chain: chain.as_ref(),
        now: clock::now(),
        thorough: args.thorough,
    });
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    Ok(if report.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// With the files that the configuration names where they are here.
fn rooted(effective: &Effective, place: &Place) -> Effective {
    let mut rooted = effective.clone();
    for path in [
        &mut rooted.config.model_path,
        &mut rooted.config.policy_path,
    ] {
        *path = path.take().map(|path| place.path(path));
    }
    rooted
}

fn ask_chain(config: &Config) -> Result<ChainView, CommandError> {
    // A key that cannot be read has a finding of its own, under the data directory.
    let key = keys::wallet_key(&config.data_dir).unwrap_or(None);
    block_on(async {
        Ok(match connect(config, told()).await {
            Ok(chain) => ChainView::of(chain.as_ref(), key).await,
            Err(error) => ChainView::silent(error.to_string()),
        })
    })
}

/// For people: all checks, then what to do about those that are not in order.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for finding in &report.findings {
        table.add_row([
            finding.outcome.as_str().to_owned(),
            finding.check.to_owned(),
            plain(&finding.found).into_owned(),
        ]);
    }
    let mut text = format!("{table}\n");
    for outcome in [Outcome::Missing, Outcome::Warning] {
        for finding in &report.findings {
            if finding.outcome != outcome {
                continue;
            }
            text.push_str(&format!(
                "\n{}: {}\n  looked at  {}\n  found      {}\n  why        {}\n  next       {}\n",
                outcome.as_str(),
                finding.check,
                plain(&finding.looked_at),
                plain(&finding.found),
                finding.why,
                plain(&finding.next),
            ));
        }
    }
    text.push_str(&format!(
        "\n{}: {} with {} evidence; {} ok, {} missing, {} warnings, {} not applicable\n",
        if report.ready { "READY" } else { "NOT READY" },
        report.role,
        match report.evidence {
            crate::config::EvidenceSource::Tdx => "TDX",
            crate::config::EvidenceSource::Simulated => "simulated",
        },
        report.count(Outcome::Ok),
        report.count(Outcome::Missing),
        report.count(Outcome::Warning),
        report.count(Outcome::NotApplicable),
    ));
    text
}
