//! `cocoon gpu show REPORT`.

use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_attestation::gpu::Report;
use cocoon_attestation::gpu::report::{Opaque, Switch};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use super::{CommandResult, GpuFileError, read_report};

/// Flags of `cocoon gpu show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// A report as the driver gives it out, or as hexadecimal digits; - for standard input
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,
    /// As JSON, with all measurements
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &ShowArgs) -> CommandResult {
    let bytes = read_report(&args.report)?;
    let report = Report::parse(&bytes).map_err(|source| GpuFileError::Report {
        file: args.report.display().to_string(),
        source,
    })?;
    let facts = facts(&report);
    if args.json {
        let measurements: serde_json::Map<String, Value> = report
            .measurements
            .iter()
            .map(|(block, value)| (block.to_string(), Value::from(hex::encode(value))))
            .collect();
        let facts: serde_json::Map<String, Value> = facts
            .into_iter()
            .map(|(name, value)| (name.replace(' ', "_"), Value::from(value)))
            .collect();
        let shown = json!({ "checked": false, "facts": facts, "measurements": measurements });
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        for (name, value) in facts {
            table.add_row([name.to_owned(), value]);
        }
        println!("{table}\nnothing of this is checked; see `cocoon gpu verify`");
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(report: &Report<'_>) -> Vec<(&'static str, String)> {
    let text = |field| report.text(field).unwrap_or("-").to_owned();
    let switch = |field| {
        match report.switch(field) {
            Switch::On => "on",
            Switch::Off => "off",
            Switch::Absent => "-",
            Switch::Unknown => "unknown",
        }
        .to_owned()
    };
    vec![
        ("nonce", hex::encode(report.nonce)),
        ("driver", text(Opaque::DriverVersion)),
        (
            "vbios",
            report.vbios_version().unwrap_or_else(|| "-".to_owned()),
        ),
        ("chip", text(Opaque::ChipInfo)),
        ("chip sku", text(Opaque::ChipSku)),
        ("project", text(Opaque::Project)),
        ("project sku", text(Opaque::ProjectSku)),
        (
            "mode",
            report
                .mode()
                .map_or_else(|| "not said".to_owned(), |mode| mode.to_string()),
        ),
        ("protected pcie", switch(Opaque::ProtectedPcie)),
        ("video decoder 0", switch(Opaque::Nvdec0)),
        (
            "firmware",
            report
                .opaque(Opaque::Fwid)
                .map_or_else(|| "-".to_owned(), hex::encode),
        ),
        ("measurements", report.measurements.len().to_string()),
    ]
}
