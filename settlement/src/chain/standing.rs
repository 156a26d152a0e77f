//! How far what a chain client says can be trusted at this moment.

use cocoon_protocol::UnixMillis;
use serde::{Deserialize, Serialize};

/// Whether the newest block is one whose signatures this program could check.
///
/// A network upgrade may bring forms of blocks or signatures that an older program does not know. Then the node does not
/// stop: it goes on with what was proved last, takes no more risk than its operator allowed, and says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ChainStanding {
    /// Everything answered is proved against signed blocks.
    Verified,
    /// Answers come from a chain whose blocks are not proved to this client (a devnet's HTTP interface, one's own
    /// process).
    Trusted,
    /// The chain's head cannot be verified since then.
    Unverifiable {
        /// When a head was verified last, by this node's clock.
        since: UnixMillis,
        /// The last masterchain block that was verified.
        last_seqno: u32,
        /// What is not understood, or who does not answer.
        reason: String,
    },
}

impl ChainStanding {
    /// Whether what the chain says may be acted upon without a limit of risk.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !matches!(self, Self::Unverifiable { .. })
    }
}

impl std::fmt::Display for ChainStanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verified => write!(f, "verified"),
            Self::Trusted => write!(f, "trusted, not proved"),
            Self::Unverifiable {
                since,
                last_seqno,
                reason,
            } => write!(
                f,
                "chain head unverifiable since unix second {} (last verified: masterchain block {last_seqno}): {reason}",
                since.seconds()
            ),
        }
    }
}
