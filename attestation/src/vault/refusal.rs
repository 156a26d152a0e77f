//! Why a vault says no.

use cocoon_protocol::vault::VaultRefusal;

/// Why a key is not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key for it.
    #[error("this vault holds no key for that model")]
    UnknownModel,
    /// Rate.
    #[error("the peer claimed a moment ago; it may ask again in {wait_ms} ms")]
    TooSoon {
        /// Until it may ask again, milliseconds.
        wait_ms: u32,
    },
    /// Too many at once.
    #[error("{limit} claims are examined already")]
    Busy {
        /// The bound.
        limit: usize,
    },
    /// Never drawn here, or long forgotten.
    #[error("the nonce was not drawn by this vault, or long ago")]
    NonceUnknown,
    /// A replay.
    #[error("the nonce was used before: this request is a replay")]
    NonceUsed,
    /// Too late.
    #[error("the nonce is over since {since_ms} ms")]
    NonceOver {
        /// Milliseconds since then.
        since_ms: u64,
    },
    /// Somebody else's.
    #[error("the nonce was drawn for another peer")]
    NonceOfAnotherPeer,
    /// For something else.
    #[error("the nonce was drawn for another model")]
    NonceOfAnotherModel,
    /// Not to be had.
    #[error("no evidence: {0}")]
    NoEvidence(String),
    /// Nobody looked.
    #[error("evidence not examined: {0}")]
    NotExamined(String),
    /// Not in order.
    #[error("{factor}: {reason}")]
    Evidence {
        /// The first factor that failed.
        factor: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is not writable.
    #[error("the release could not be recorded, so it was not made")]
    CannotRecord,
    /// The session failed.
    #[error("not delivered: {0}")]
    NotDelivered(String),
}

impl Refusal {
    /// What the guest is told.
    #[must_use]
    pub const fn told(&self) -> VaultRefusal {
        match self {
            Self::UnknownModel => VaultRefusal::UnknownModel,
            Self::TooSoon { .. } => VaultRefusal::TooSoon,
            Self::Busy { .. } => VaultRefusal::Busy,
            Self::NonceUnknown
            | Self::NonceUsed
            | Self::NonceOver { .. }
            | Self::NonceOfAnotherPeer
            | Self::NonceOfAnotherModel => VaultRefusal::Nonce,
            Self::NoEvidence(_) => VaultRefusal::NoEvidence,
            Self::NotExamined(_) | Self::Evidence { .. } => VaultRefusal::Evidence,
            Self::CannotRecord => VaultRefusal::CannotRecord,
            Self::NotDelivered(_) => VaultRefusal::NotDelivered,
        }
    }

    /// For the owner's log: one word each.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown_model",
            Self::TooSoon { .. } => "too_soon",
            Self::Busy { .. } => "busy",
            Self::NonceUnknown => "nonce_unknown",
            Self::NonceUsed => "nonce_replayed",
            Self::NonceOver { .. } => "nonce_over",
            Self::NonceOfAnotherPeer => "nonce_of_another_peer",
            Self::NonceOfAnotherModel => "nonce_of_another_model",
            Self::NoEvidence(_) => "no_evidence",
            Self::NotExamined(_) => "not_examined",
            Self::Evidence { .. } => "evidence",
            Self::CannotRecord => "cannot_record",
            Self::NotDelivered(_) => "not_delivered",
        }
    }

    /// The factor of the verdict that failed, if it was one.
    #[must_use]
    pub const fn factor(&self) -> &'static str {
        match self {
            Self::Evidence { factor, .. } => factor,
            _ => "",
        }
    }
}
