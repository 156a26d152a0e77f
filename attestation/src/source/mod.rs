//! Where evidence comes from, inside a guest.

mod configfs_tsm;
#[cfg(feature = "simulated-evidence")]
mod simulated;

use std::io;

use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;

pub use self::configfs_tsm::{ConfigfsTsmSource, TSM_REPORTS};
#[cfg(feature = "simulated-evidence")]
pub use self::simulated::{GuestShape, SimulatedSource};
use crate::Trust;

/// Makes evidence for claims. Blocking: a real quote takes tens of milliseconds.
pub trait EvidenceSource: Send + Sync {
    /// The root that a verifier will need.
    fn trust(&self) -> Trust;

    /// A bundle whose quote binds `claims`.
    ///
    /// # Errors
    /// If no quote can be had, or no collateral.
    fn make(&self, now: UnixMillis, claims: &Claims) -> Result<EvidenceBundle, EvidenceError>;
}

/// Why no evidence could be made.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The kernel's interface, or the collateral's file, failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel would make another kind of report.
    #[error("the kernel's report provider is {found:?}, not {wanted:?}: is this a TDX guest?")]
    Provider {
        /// What the kernel offers.
        found: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// A number could not be read.
    #[error("the report's generation reads {found:?}, which is no number")]
    Generation {
        /// What it read.
        found: String,
    },
    /// Somebody else wrote to the same report, so the quote may be theirs.
    #[error("the report went from generation {before} to {after}; exactly one step was ours")]
    Raced {
        /// Before our write.
        before: u64,
        /// After our read.
        after: u64,
    },
    /// Larger than what goes over the wire.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// Quote or collateral.
        what: &'static str,
        /// The limit, bytes.
        limit: usize,
    },
    /// The quote does not bind what was asked for, or is none.
    #[error("the kernel's quote does not bind the claims")]
    NotBound,
    /// The simulator refused.
    #[cfg(feature = "simulated-evidence")]
    #[error(transparent)]
    Simulator(#[from] cocoon_tdx_simulator::SimulatorError),
    /// The collateral could not be written as JSON.
    #[cfg(feature = "simulated-evidence")]
    #[error("collateral: {0}")]
    Json(#[from] serde_json::Error),
}
