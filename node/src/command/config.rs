//! `cocoon config`: what is in force, and where each value comes from.

use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Map, Value, json};

use super::{CommandResult, FAILURE};
use crate::config::{Effective, Environment, Flags};

/// Flags of `cocoon config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Say what is wrong with it as well, and fail if anything is
    #[arg(long)]
    pub check: bool,
    /// The settings
    #[command(flatten)]
    pub flags: Flags,
}

/// Prints it.
///
/// # Errors
/// A file that does not parse, a setting that does not exist.
pub fn run(args: &ConfigArgs) -> CommandResult {
    let effective = Effective::load(&args.flags, &Environment::of_process())?;
    if args.json {
        let values = serde_json::to_value(&effective.config)?;
        let settings: Map<String, Value> = effective
            .origins
            .iter()
            .map(|(name, origin)| {
                let value = values.get(name).cloned().unwrap_or(Value::Null);
                (
                    (*name).to_owned(),
                    json!({"value": value, "origin": origin.to_string()}),
                )
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&settings)?);
    } else {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        for (name, value, origin) in effective.rows()? {
            table.add_row([name.to_owned(), value, format!("# {origin}")]);
        }
        println!("{table}");
    }
    match effective.validate() {
        Err(problems) if args.check => {
            eprintln!("{problems}");
            Ok(ExitCode::from(FAILURE))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
