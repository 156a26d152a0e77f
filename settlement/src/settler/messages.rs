//! What goes into the settler and what comes out of it.

use cocoon_protocol::{Digest, NanoTon, SignedRelease, SignedVoucher, TonAddress, UnixMillis};

use super::problem::{RolledBack, SettlerProblem};
use crate::chain::Prices;
use crate::contract::{ChannelState, Commit, LedgerState};
use crate::ledger::{AgreedRelease, Batch, HeldVoucher, PendingClaim, TransactionRecord};

/// Entries that are in no batch yet. From [`crate::ledger::WorkerLedger::unsettled`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// How many.
    pub entries: u64,
    /// What they credit.
    pub credited: NanoTon,
    /// When the oldest was made.
    pub oldest: Option<UnixMillis>,
}

/// What a commit says, and what the ledger contract shows after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerView {
    /// Number of batches committed; 0 before the first.
    pub seqno: u32,
    /// Root of the last.
    pub root: Digest,
    /// Entries in all of them.
    pub jobs: u64,
    /// Credit of all of them.
    pub total: NanoTon,
}

impl From<&Batch> for LedgerView {
    fn from(batch: &Batch) -> Self {
        Self {
            seqno: batch.seqno,
            root: batch.root(),
            jobs: batch.jobs(),
            total: batch.total,
        }
    }
}

impl From<&LedgerState> for LedgerView {
    fn from(state: &LedgerState) -> Self {
        let [root, ..] = state.roots;
        Self {
            seqno: state.seqno,
            root,
            jobs: state.jobs,
            total: state.total,
        }
    }
}

/// What a channel contract shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelView {
    /// Paid out so far.
    pub claimed: NanoTon,
    /// The highest total it can honour.
    pub capacity: NanoTon,
    /// Set once the client is closing.
    pub close_at: Option<u32>,
    /// Pays nothing any more.
    pub finished: bool,
}

impl From<&ChannelState> for ChannelView {
    fn from(state: &ChannelState) -> Self {
        Self {
            claimed: state.claimed,
            capacity: state.capacity(),
            close_at: state.close_at,
            finished: state.finished,
        }
    }
}

/// A channel with a voucher that a confirmed commit covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoveredChannel {
    /// The channel.
    pub channel: TonAddress,
    /// What may be claimed on it.
    pub voucher: HeldVoucher,
    /// What it has paid.
    pub claimed: NanoTon,
    /// A claim that was on its way when this was read.
    pub pending: Option<PendingClaim>,
}

/// A channel on which the worker has something to lose or to do: its client has signed for more than the chain has paid,
/// or has agreed with the worker to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stake {
    /// The channel.
    pub channel: TonAddress,
    /// Signed by the client, in all.
    pub held: NanoTon,
    /// Of that, in the log.
    pub entered: NanoTon,
    /// Of that, covered by a confirmed commit.
    pub covered: NanoTon,
    /// Paid by the chain.
    pub claimed: NanoTon,
    /// Client and worker are closing it together.
    pub release: Option<AgreedRelease>,
}

/// Where to go on from: read from the ledger at start.
#[derive(Clone, Debug, Default)]
pub struct SettlerStart {
    /// The last batch known to be on chain.
    pub confirmed: Option<Batch>,
    /// The batch that is cut and not confirmed.
    pub open: Option<Batch>,
    /// Entries in no batch.
    pub unsettled: Unsettled,
    /// Channels where more is covered than claimed.
    pub channels: Vec<CoveredChannel>,
}

/// Why the chain did not get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// It looked at the message and refused it: it will not be applied.
    Refused {
        /// The contract's exit code, where it ran.
        exit_code: Option<i32>,
    },
    /// Nobody answered: it may or may not be on its way.
    Unknown,
}

/// What happens to the settler.
#[derive(Clone, Debug)]
pub enum SettlerInput {
    /// Time passes. About once a second.
    Tick,
    /// The log grew.
    Unsettled(Unsettled),
    /// Settle everything that the contracts take, whatever the thresholds say (an operator's wish, a shutdown).
    Flush,
    /// The answer to [`SettlerOutput::PersistBatch`].
    BatchPersisted(Batch, Unsettled),
    /// The answer to [`SettlerOutput::Committed`]: these vouchers may be claimed now.
    Covered(Vec<CoveredChannel>),
    /// The answer to [`SettlerOutput::ReadStakes`]: every channel with something at stake. Unasked too, right after a
    /// release was agreed to.
    Stakes(Vec<Stake>),
    /// The answer to [`SettlerOutput::LookAtPrices`].
    Prices(Prices),
    /// The answer to [`SettlerOutput::LookAtLedger`].
    Ledger {
        /// Chain time, unix seconds, read before the contract was.
        unix: u32,
        /// The contract; `None` if it is not deployed.
        view: Option<LedgerView>,
    },
    /// The answer to [`SettlerOutput::LookAtChannel`].
    Channel {
        /// Chain time, unix seconds, read before the contract was.
        unix: u32,
        /// Which.
        channel: TonAddress,
        /// The contract; `None` if there is none.
        view: Option<ChannelView>,
    },
    /// The answer to [`SettlerOutput::SubmitCommit`]: the message's hash, or why not.
    CommitSent {
        /// Which.
        seqno: u32,
        /// What came of it.
        result: Result<Digest, SendFailure>,
    },
    /// The answer to [`SettlerOutput::SubmitClaim`].
    ClaimSent {
        /// Which channel.
        channel: TonAddress,
        /// The total claimed.
        cumulative: NanoTon,
        /// What came of it.
        result: Result<Digest, SendFailure>,
    },
    /// The answer to [`SettlerOutput::SubmitRelease`]: the wallet has sent it, or why not.
    ReleaseSent {
        /// Which channel.
        channel: TonAddress,
        /// What came of it.
        result: Result<(), SendFailure>,
    },
    /// A transaction caused by an external message was seen on the ledger or a channel. Feed these before views of
    /// the same account, so that what is settled can name its transaction.
    Transaction {
        /// The message that caused it.
        message: Digest,
        /// Whether it did what it was for.
        success: bool,
        /// The transaction.
        transaction: TransactionRecord,
    },
}

/// What the settler wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettlerOutput {
    /// Ledger: cut this batch. Answer with [`SettlerInput::BatchPersisted`].
    PersistBatch {
        /// Its number.
        seqno: u32,
    },
    /// Ledger: note that this batch's commit is about to be sent.
    PersistCommitAttempt {
        /// Which.
        seqno: u32,
        /// Until when it may be applied, unix seconds of chain time.
        valid_until: u32,
    },
    /// Chain: sign and send. Answer with [`SettlerInput::CommitSent`].
    SubmitCommit(Commit),
    /// Ledger: the chain holds this batch. Answer with [`SettlerInput::Covered`].
    Committed {
        /// Which.
        seqno: u32,
        /// Its transaction, if it was seen.
        transaction: Option<TransactionRecord>,
    },
    /// Ledger: note that this claim is about to be sent.
    PersistClaimAttempt {
        /// Which channel.
        channel: TonAddress,
        /// The total and when it may be sent again.
        pending: PendingClaim,
    },
    /// Chain: send. Answer with [`SettlerInput::ClaimSent`].
    SubmitClaim {
        /// Which.
        channel: TonAddress,
        /// What to claim.
        voucher: SignedVoucher,
    },
    /// Ledger: note that this channel's release is about to be sent.
    PersistReleaseAttempt {
        /// Which channel.
        channel: TonAddress,
        /// Chain time, unix seconds, from which it may be sent again.
        retry_after: u32,
    },
    /// Wallet: send the release to its channel. Answer with [`SettlerInput::ReleaseSent`].
    SubmitRelease(SignedRelease),
    /// Ledger: the chain shows a channel with a release as finished.
    Released {
        /// Which.
        channel: TonAddress,
    },
    /// Ledger: the channel has paid.
    Settled {
        /// Which.
        channel: TonAddress,
        /// Its total now.
        cumulative: NanoTon,
        /// What came in since the last time.
        amount: NanoTon,
        /// The transaction, if it was seen and was ours.
        transaction: Option<TransactionRecord>,
    },
    /// Ledger: which channels have something at stake? Answer with [`SettlerInput::Stakes`].
    ReadStakes,
    /// Chain: what does it charge? Answer with [`SettlerInput::Prices`], or not at all.
    LookAtPrices,
    /// Cashier: this channel's client is closing it; no new job on it. Said once per channel.
    StopServing {
        /// Which.
        channel: TonAddress,
        /// From this unix second of chain time on it may pay nothing any more.
        close_at: u32,
    },
    /// Chain: read the head, the ledger contract's transactions, then the contract, in this order; answer with
    /// [`SettlerInput::Ledger`].
    LookAtLedger,
    /// Chain: the same for this channel; answer with [`SettlerInput::Channel`].
    LookAtChannel(TonAddress),
    /// Chain: a commit waits and the ledger contract is not there. Deploy it; no answer needed.
    DeployLedger,
    /// People: something is wrong that the settler cannot mend. Said once per occurrence.
    Problem(SettlerProblem),
    /// Everybody: stop serving and stop signing. The settler does nothing any more.
    RolledBack(RolledBack),
}
