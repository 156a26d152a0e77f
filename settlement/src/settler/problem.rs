//! What the settler cannot mend by itself.

use cocoon_protocol::{Digest, NanoTon, TonAddress};

/// The chain contradicts the ledger: this disk is an old copy, or two nodes run on copies of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolledBack {
    /// More was committed than this ledger ever cut.
    #[error(
        "the ledger contract is at batch {chain}, this ledger only at {ledger}: its disk was restored from an old copy \
         or another node runs with the same key; stop the other node, or restore the newest copy; where neither helps, \
         move to a new ledger contract with `cocoon ledger reconcile` (docs/ledger.md says what that means)"
    )]
    ChainAhead {
        /// On chain.
        chain: u32,
        /// The newest batch here.
        ledger: u32,
    },
    /// The same batch number holds something else.
    #[error(
        "batch {seqno} on chain (root {chain_root}) is not this ledger's (root {ledger_root}): another node runs with \
         the same key; stop one of them, and if this disk is the wrong one, `cocoon ledger reconcile` moves it to a new \
         ledger contract"
    )]
    Diverged {
        /// Which.
        seqno: u32,
        /// On chain.
        chain_root: Digest,
        /// Here.
        ledger_root: Digest,
    },
}

/// What people should know about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettlerProblem {
    /// The chain forgot a batch: a server that lags, or a devnet that was reset.
    #[error(
        "the ledger contract is at batch {chain}, but {ledger} were confirmed: a lagging server, or a reset chain"
    )]
    ChainBehind {
        /// On chain.
        chain: u32,
        /// Confirmed here.
        ledger: u32,
    },
    /// The chain refused a commit.
    #[error(
        "the chain refused the commit of batch {seqno} (exit code {exit_code:?}); trying again"
    )]
    CommitRefused {
        /// Which.
        seqno: u32,
        /// The contract's reason.
        exit_code: Option<i32>,
    },
    /// The chain refused a claim.
    #[error(
        "channel {channel} refused a claim up to {cumulative} (exit code {exit_code:?}); trying again"
    )]
    ClaimRefused {
        /// Which.
        channel: TonAddress,
        /// Up to where.
        cumulative: NanoTon,
        /// The contract's reason.
        exit_code: Option<i32>,
    },
    /// A channel holds less than its voucher is for.
    #[error("channel {channel} can pay up to {capacity}, the voucher is for {cumulative}")]
    Underfunded {
        /// Which.
        channel: TonAddress,
        /// The voucher.
        cumulative: NanoTon,
        /// What is there.
        capacity: NanoTon,
    },
    /// A channel was closed, or is gone, before it paid.
    #[error("channel {channel} is finished; {lost} covered by vouchers were not claimed in time")]
    ChannelFinished {
        /// Which.
        channel: TonAddress,
        /// What was not claimed.
        lost: NanoTon,
    },
    /// A channel that was to be closed together was not.
    #[error(
        "channel {channel} did not take its release; its client will close it alone, and what it owes is claimed"
    )]
    ReleaseFailed {
        /// Which.
        channel: TonAddress,
    },
    /// The client is closing a channel; stop serving on it. What is covered is being claimed.
    #[error(
        "channel {channel} is being closed by its client, it pays until unix second {close_at}"
    )]
    ChannelClosing {
        /// Which.
        channel: TonAddress,
        /// Until when.
        close_at: u32,
    },
}
