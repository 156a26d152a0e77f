//! `cocoon demo`: the whole network on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use super::CommandResult;
use crate::demo;

/// Flags of `cocoon demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The model, a GGUF file; `make model` fetches a small one
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Leave the mesh running at the end and say how to talk to it
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// The first step that did not do what it should.
pub fn run(args: &DemoArgs) -> CommandResult {
    demo::run(args)?;
    Ok(ExitCode::SUCCESS)
}
