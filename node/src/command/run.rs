//! `cocoon run`: a node.

use std::process::ExitCode;

use super::CommandResult;
use crate::config::{Effective, Environment, Flags};
use crate::{telemetry, wiring};

/// Runs until it is asked to stop.
///
/// # Errors
/// A configuration that makes no node, or what brought the node down.
pub fn run(flags: &Flags) -> CommandResult {
    let effective = Effective::load(flags, &Environment::of_process())?;
    let role = effective.validate()?;
    telemetry::start_logging(effective.config.log_format)?;
    wiring::run(role, &effective.config)?;
    Ok(ExitCode::SUCCESS)
}
