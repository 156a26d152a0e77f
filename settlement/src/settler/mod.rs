//! When to commit and when to claim: a worker's settlement as a state machine without IO.
//!
//! # The way of a receipt
//! ```text
//!   entries ──cut──► batch on disk ──► commit submitted ──► seen in the ledger contract ──► vouchers covered
//!                    (PersistBatch)    (PersistCommitAttempt,  (Committed)                         │
//!                                       SubmitCommit)                                              ▼
//!                                                     Settled ◄── seen in the channel ◄── claim submitted
//!                                                                                   (PersistClaimAttempt, SubmitClaim)
//! ```
//! - Only one batch is under way at a time; the next is cut when it is confirmed.
//! - Every step is on disk before the message that depends on it is handed to the chain. Outputs are in that order,
//!   and whoever performs them keeps it: if one fails, the rest is dropped and the machine is made anew.
//! - **Only what a confirmed commit covers is claimed.** A worker restored from an old copy of its disk, or run twice,
//!   finds the contract's seqno ahead of its own, or another root under the same seqno, and stops
//!   ([`RolledBack`]) before it can promise anything that contradicts what it promised before.
//! - Nothing is sent twice on a suspicion. A commit is repeated only when chain time has passed its `valid_until`, or
//!   the chain has said that it did not take it; a claim likewise after `claim_retry_s`. The contracts would
//!   refuse a duplicate for free anyway: seqno and `claimed` only rise.
//! - What decides is always the contract's state, never that a transaction was seen.
//!
//! A view of a contract comes with a chain time that must **not be newer than the view**: read the chain's head first, then
//! the contract. The other way round, a commit applied between the two reads looks as if it had lapsed.
//!
//! Two clocks: `now` is the node's (ages, polling, back-off); `unix` is the chain's (validity).
//!
//! After a crash, [`crate::ledger::WorkerLedger::settler_start`] says where to go on. The driver's loop is short:
//! perform each output through [`crate::ledger::WorkerLedger::perform`], do the five that are not the ledger's
//! (look ×2, submit ×2, deploy), tell people about the rest, and feed the answers back.
//!
//! Two sub-machines: `commits` (batch and commit) and `claims` (one per channel).

mod claims;
mod commits;
#[cfg(test)]
mod tests;

use cocoon_protocol::{Digest, NanoTon, SignedVoucher, TonAddress, UnixMillis};

use self::claims::Claims;
use self::commits::Commits;
use crate::contract::{ChannelState, Commit, LedgerState, MIN_CLAIM};
use crate::ledger::{Batch, HeldVoucher, MAX_BATCH_ENTRIES, PendingClaim, TransactionRecord};

/// How many channels one tick asks to look at. The rest come with the following ticks.
pub const MAX_LOOKS_PER_TICK: usize = 64;

/// When to act. All of it is the worker's own choice.
#[derive(Clone, Debug)]
pub struct SettlerConfig {
    /// The worker's ledger contract.
    pub ledger: TonAddress,
    /// Entries that make a batch worth its fee, at most [`MAX_BATCH_ENTRIES`].
    pub batch_entries: u32,
    /// Credit that makes one, however few the entries.
    pub batch_credit: NanoTon,
    /// Age of the oldest entry, in milliseconds, that makes one, however small.
    pub batch_age_ms: u64,
    /// Seconds of chain time in which a commit must be applied, or is void.
    pub commit_ttl_s: u32,
    /// Seconds of chain time after which a claim that has not shown is sent again.
    pub claim_retry_s: u32,
    /// Claim a channel once this much is covered and unclaimed. About 1,000 times a claim's fee of 0.00038 TON.
    pub min_claim: NanoTon,
    /// The smallest claim the contract takes: the threshold when flushing, and when the client is closing.
    pub contract_min_claim: NanoTon,
    /// Milliseconds between looks at a contract that something is expected of.
    pub look_ms: u64,
    /// Milliseconds between looks at one that only might have changed (a client that closes, a cloned disk).
    pub idle_look_ms: u64,
    /// Milliseconds before trying again what the chain refused; doubles with each refusal, up to 64 times this.
    pub refused_retry_ms: u64,
}

impl SettlerConfig {
    /// Sensible values for a ledger contract.
    #[must_use]
    pub fn new(ledger: TonAddress) -> Self {
        Self {
            ledger,
            batch_entries: 500,
            batch_credit: NanoTon::from_nano(1_000_000_000),
            batch_age_ms: 600_000,
            commit_ttl_s: 60,
            claim_retry_s: 60,
            min_claim: NanoTon::from_nano(400_000_000),
            contract_min_claim: MIN_CLAIM,
            look_ms: 1_000,
            idle_look_ms: 60_000,
            refused_retry_ms: 2_000,
        }
    }

    fn refused_delay(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(6);
        self.refused_retry_ms.saturating_mul(1_u64 << doublings)
    }
}

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

/// Whether the worker may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The chain has not been looked at since the start: not yet.
    Unreconciled,
    /// Ledger and chain agree.
    Sound,
    /// They contradict one another: never again with this disk.
    Refused(RolledBack),
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Settler {
    config: SettlerConfig,
    standing: Standing,
    flushing: bool,
    commits: Commits,
    claims: Claims,
}

impl Settler {
    /// Goes on from what the ledger holds.
    #[must_use]
    pub fn new(mut config: SettlerConfig, start: SettlerStart) -> Self {
        config.batch_entries = config.batch_entries.clamp(1, MAX_BATCH_ENTRIES);
        Self {
            config,
            standing: Standing::Unreconciled,
            flushing: false,
            commits: Commits::new(start.confirmed.as_ref(), start.open, start.unsettled),
            claims: Claims::new(&start.channels),
        }
    }

    /// Whether the worker may serve.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether nothing is left that the contracts would take: no entries outside a batch, no batch under way, and on
    /// no channel a claim that is big enough.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.commits.is_idle() && self.claims.nothing_above(self.config.contract_min_claim)
    }

    /// Takes one input and says what to do, in order.
    pub fn handle(&mut self, now: UnixMillis, input: SettlerInput) -> Vec<SettlerOutput> {
        let mut out = Vec::new();
        if let Standing::Refused(_) = self.standing {
            return out;
        }
        match input {
            SettlerInput::Tick => {}
            SettlerInput::Flush => self.flushing = true,
            SettlerInput::Unsettled(unsettled) => self.commits.set_unsettled(unsettled),
            SettlerInput::BatchPersisted(batch, unsettled) => {
                self.commits.on_persisted(batch, unsettled);
            }
            SettlerInput::Covered(channels) => {
                self.commits.on_covered();
                self.claims.cover(&channels);
            }
            SettlerInput::Ledger { unix, view } => self.on_ledger(now, unix, view, &mut out),
            SettlerInput::Channel {
                unix,
                channel,
                view,
            } => {
                if self.standing == Standing::Sound {
                    let threshold = self.claim_threshold();
                    self.claims.on_view(
                        &self.config,
                        threshold,
                        now,
                        unix,
                        channel,
                        view,
                        &mut out,
                    );
                }
            }
            SettlerInput::CommitSent { seqno, result } => {
                self.commits
                    .on_sent(&self.config, now, seqno, result, &mut out);
            }
            SettlerInput::ClaimSent {
                channel,
                cumulative,
                result,
            } => {
                self.claims
                    .on_sent(&self.config, now, channel, cumulative, result, &mut out);
            }
            SettlerInput::Transaction {
                message,
                success,
                transaction,
            } => {
                self.commits
                    .on_transaction(&self.config, now, message, success, transaction);
                self.claims
                    .on_transaction(&self.config, now, message, success, transaction);
            }
        }
        self.advance(now, &mut out);
        out
    }

    fn on_ledger(
        &mut self,
        now: UnixMillis,
        unix: u32,
        view: Option<LedgerView>,
        out: &mut Vec<SettlerOutput>,
    ) {
        match self.commits.on_view(&self.config, now, unix, view, out) {
            Ok(true) => self.standing = Standing::Sound,
            Ok(false) => {}
            Err(rolled_back) => {
                self.standing = Standing::Refused(rolled_back);
                out.push(SettlerOutput::RolledBack(rolled_back));
            }
        }
    }

    /// What may happen at any input: cutting a batch, looking at contracts, the end of a flush.
    fn advance(&mut self, now: UnixMillis, out: &mut Vec<SettlerOutput>) {
        match self.standing {
            Standing::Refused(_) => return,
            Standing::Unreconciled => {
                self.commits.look(now, self.config.look_ms, out);
                return;
            }
            Standing::Sound => {}
        }
        self.commits.cut(&self.config, now, self.flushing, out);
        let look_ms = if self.commits.is_waiting() {
            self.config.look_ms
        } else {
            self.config.idle_look_ms
        };
        self.commits.look(now, look_ms, out);
        let threshold = self.claim_threshold();
        self.claims.look(&self.config, threshold, now, out);
        if self.flushing && self.is_settled() {
            self.flushing = false;
        }
    }

    fn claim_threshold(&self) -> NanoTon {
        if self.flushing {
            self.config.contract_min_claim
        } else {
            self.config.min_claim.max(self.config.contract_min_claim)
        }
    }
}
