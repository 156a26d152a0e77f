//! What a liteserver does wrong when it is asked to, so that clients can show what they survive.

use serde::{Deserialize, Serialize};

/// Longest delay of an answer in milliseconds.
pub const MAX_DELAY_MS: u64 = 60_000;

/// Faults of one liteserver. All of them may be on at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Every answer comes this much later. At most [`MAX_DELAY_MS`].
    pub delay_ms: u64,
    /// The head that it tells of is not the one that other liteservers tell of.
    pub forked_head: Option<Fork>,
    /// Accepts external messages, and forgets them.
    pub drop_sends: bool,
    /// Accounts have one TON more than they have, signatures have a bit flipped, headers are another block's.
    pub wrong_proofs: bool,
    /// Signature sets have a form that nobody knows, as after an upgrade of the network.
    pub unknown_signatures: bool,
    /// Connections are closed, new ones at once.
    pub down: bool,
}

/// A second block with the number of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fork {
    /// Signed by the validators: nothing but another server's word tells which is right.
    Signed,
    /// Signed by nobody.
    Unsigned,
    /// Signed by the validators, and of a form that nobody knows, as after an upgrade of the network: block and header
    /// have TL-B constructors of their own.
    UnknownForm,
}

impl Faults {
    /// With the bounds kept.
    pub(super) fn bounded(mut self) -> Self {
        self.delay_ms = self.delay_ms.min(MAX_DELAY_MS);
        self
    }
}
