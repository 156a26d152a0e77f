//! The wiring: which actors and tasks a role is made of, and the order in which they stop.

use crate::config::{Config, NodeRole};

/// Why a node could not start, or went down.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// This build cannot run nodes yet.
    #[error("running a {} is not part of this build yet", .0.as_str())]
    NotWired(NodeRole),
}

/// Runs a node until it is asked to stop.
///
/// # Errors
/// [`WiringError`].
pub fn run(role: NodeRole, _config: &Config) -> Result<(), WiringError> {
    Err(WiringError::NotWired(role))
}
