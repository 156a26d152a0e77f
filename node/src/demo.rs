//! The demo: a devnet, a bootstrap node, three workers and a client, each its own process.

use crate::command::demo::DemoArgs;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// This build has no demo yet.
    #[error("the demo is not part of this build yet")]
    NotWritten,
}

/// Runs the demo.
///
/// # Errors
/// [`DemoError`].
pub fn run(_args: &DemoArgs) -> Result<(), DemoError> {
    Err(DemoError::NotWritten)
}
