//! Where a node's money is: `GET /funds.json`, `cocoon funds`. Integers of nanoTON throughout, never floats.

use serde::{Deserialize, Serialize};

/// Every nanoTON that a node has, or is owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funds {
    /// How far the chain's word counts now, for people.
    pub chain: String,
    /// False if the chain's head cannot be verified: then the amounts are those of the last verified one.
    pub chain_is_verified: bool,
    /// The wallet, where the role has one.
    pub wallet: Option<String>,
    /// In it, nanoTON; absent if the chain did not answer.
    pub wallet_nanoton: Option<u64>,
    /// What this node pays with (client).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paying: Option<PayingFunds>,
    /// What this node is paid with (worker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earning: Option<EarningFunds>,
}

/// A client's channels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayingFunds {
    /// Those that lock something, oldest first.
    pub channels: Vec<LockedChannel>,
    /// The sums over them.
    pub totals: LockedTotals,
    /// The newest channels whose rest has come back, newest first; at most [`MAX_RECLAIMED`].
    pub reclaimed: Vec<Reclaimed>,
    /// What all channels may lock, nanoTON.
    pub limit_nanoton: u64,
}

/// Channels whose end is shown.
pub const MAX_RECLAIMED: usize = 20;

/// How far a channel has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockState {
    /// The deposit is on its way, or nobody knows whether it was sent.
    Opening,
    /// Pays.
    #[default]
    Open,
    /// The worker was asked to close it together; the rest comes back without a delay if it does.
    ClosingTogether,
    /// The rest was asked for; the worker may claim until then.
    Closing,
    /// The delay has passed; the rest is being fetched.
    Finishing,
}

impl LockState {
    /// As in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::ClosingTogether => "closing_together",
            Self::Closing => "closing",
            Self::Finishing => "finishing",
        }
    }
}

/// A channel that locks something: `locked = promised + free + kept`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedChannel {
    /// The contract.
    pub address: String,
    /// Whom it pays.
    pub worker: String,
    /// How far it has come.
    pub state: LockState,
    /// A job is on it now.
    pub in_use: bool,
    /// Deposited in all, nanoTON.
    pub deposit_nanoton: u64,
    /// Signed away in all, nanoTON.
    pub signed_nanoton: u64,
    /// Paid out in all, nanoTON.
    pub claimed_nanoton: u64,
    /// In the contract now, nanoTON.
    pub locked_nanoton: u64,
    /// Of that, promised to the worker and not claimed.
    pub promised_nanoton: u64,
    /// Of that, can still be promised, or comes back.
    pub free_nanoton: u64,
    /// Of that, kept for rent and gas while the channel is open; comes back, less fees.
    pub kept_nanoton: u64,
    /// When the channel was opened, milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When the last voucher was signed, milliseconds since 1970.
    pub used_unix_ms: Option<u64>,
    /// When the rest can be had, seconds since 1970; absent while nobody has asked for it.
    pub free_at_unix: Option<u32>,
    /// Seconds that it would take if it was asked for now.
    pub close_delay_s: u32,
    /// Whether the amounts are from the chain, or only from this node's own ledger.
    pub seen_on_chain: bool,
}

/// Sums of [`LockedChannel`]s, nanoTON: `locked = opening + promised + free + kept + returning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedTotals {
    /// In all contracts, and on the way to them.
    pub locked_nanoton: u64,
    /// In channels that are being opened, or in doubt.
    pub opening_nanoton: u64,
    /// Promised to workers and not claimed, in open and closing channels.
    pub promised_nanoton: u64,
    /// Can still be promised, in open channels.
    pub free_nanoton: u64,
    /// Kept for rent and gas, in open channels.
    pub kept_nanoton: u64,
    /// Comes back from closing channels.
    pub returning_nanoton: u64,
}

/// A channel whose rest has come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    /// The contract.
    pub address: String,
    /// Whom it paid.
    pub worker: String,
    /// What it sent back to the wallet, nanoTON.
    pub returned_nanoton: u64,
    /// When, seconds since 1970.
    pub at_unix: u32,
    /// The transaction.
    pub transaction: String,
}

/// What a worker is owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarningFunds {
    /// Channels on which something is owed or was paid; those that owe most first, at most [`MAX_EARNING_CHANNELS`].
    pub channels: Vec<EarningChannel>,
    /// The sums over all channels.
    pub totals: EarningTotals,
    /// The ledger contract.
    pub ledger: String,
    /// In it, for commits, nanoTON; absent if the chain did not answer.
    pub ledger_nanoton: Option<u64>,
}

/// Channels of a worker that are shown.
pub const MAX_EARNING_CHANNELS: usize = 1_000;

/// One channel that pays: `held - claimed = uncovered + claimable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarningChannel {
    /// The contract.
    pub address: String,
    /// Who pays.
    pub client: String,
    /// Signed by the client in all, nanoTON.
    pub held_nanoton: u64,
    /// Paid by the chain in all, nanoTON.
    pub claimed_nanoton: u64,
    /// Signed, and not in a confirmed batch, nanoTON.
    pub uncovered_nanoton: u64,
    /// In a confirmed batch, and not claimed, nanoTON.
    pub claimable_nanoton: u64,
    /// Of that, a claim is on its way, nanoTON.
    pub claiming_nanoton: u64,
    /// The client is closing: from this second since 1970 on it may pay nothing.
    pub closes_at_unix: Option<u32>,
}

/// Sums of what a worker is owed, nanoTON: `earned = claimed + uncovered + claimable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarningTotals {
    /// Signed by clients since this ledger knew them.
    pub earned_nanoton: u64,
    /// Paid by the chain of it.
    pub claimed_nanoton: u64,
    /// Not in a confirmed batch.
    pub uncovered_nanoton: u64,
    /// In a confirmed batch, and not claimed.
    pub claimable_nanoton: u64,
    /// Served and not signed for: credit to clients, running jobs' whole windows included.
    pub credit_nanoton: u64,
    /// Served on channels that are not on chain yet, signed for or not, running jobs' worst cases included. In no other
    /// sum.
    #[serde(default)]
    pub first_contact_nanoton: u64,
    /// Of that, written off since the process began, because the channel never appeared.
    #[serde(default)]
    pub first_contact_lost_nanoton: u64,
}
