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
//! # When
//! - A batch is cut when it has enough entries or credit, when its oldest entry is old and its credit pays for the commit,
//!   and at once for a channel that its client is closing. Without new entries there is none.
//! - A channel is claimed when what it owes is worth a thousand fees (at the prices that the chain says), when it has
//!   waited long, when it or all channels together owe more than the worker wants to risk, when its client is closing,
//!   and on a flush; never for less than the fee or the contract's minimum.
//! - A channel that client and worker close together gets a batch at once if its newest voucher is not covered, and then
//!   the client's release, which pays and finishes it.
//! - Every channel with something at stake is looked at often enough to see that its client is closing; then the cashier
//!   is told to [stop serving](SettlerOutput::StopServing) on it.
//!
//! Two clocks: `now` is the node's (ages, polling, back-off); `unix` is the chain's (validity).
//!
//! After a crash, [`crate::ledger::WorkerLedger::settler_start`] says where to go on. The driver's loop is short:
//! perform each output through [`crate::ledger::WorkerLedger::perform`], do those that are not the ledger's
//! (look ×3, submit ×2, deploy, stop serving), tell people about the rest, and feed the answers back.
//!
//! Four sub-machines: `commits` (batch and commit), `claims` (one per channel that owes something covered), `releases` (one
//! per channel that is closed together) and `watch` (one per channel with something at stake).

mod claims;
mod commits;
mod config;
mod messages;
mod problem;
mod releases;
#[cfg(test)]
mod risk_tests;
#[cfg(test)]
mod tests;
mod watch;

use cocoon_protocol::{NanoTon, UnixMillis};

use self::claims::Claims;
use self::commits::Commits;
use self::config::Thresholds;
pub use self::config::{SettlerConfig, claim_fee, commit_fee, release_fee};
pub use self::messages::{
    ChannelView, CoveredChannel, LedgerView, SendFailure, SettlerInput, SettlerOutput,
    SettlerStart, Stake, Unsettled,
};
pub use self::problem::{RolledBack, SettlerProblem};
pub use self::releases::MAX_RELEASE_ATTEMPTS;
use self::releases::Releases;
use self::watch::Watch;
use crate::ledger::MAX_BATCH_ENTRIES;

/// How many channels one tick asks to look at, of those to claim and of those to watch. The rest come with the following
/// ticks.
pub const MAX_LOOKS_PER_TICK: usize = 64;

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
    /// What a claim costs, by the prices that the chain said last.
    claim_fee: NanoTon,
    /// What a commit costs, likewise.
    commit_fee: NanoTon,
    priced: bool,
    next_prices: UnixMillis,
    commits: Commits,
    claims: Claims,
    releases: Releases,
    watch: Watch,
}

impl Settler {
    /// Goes on from what the ledger holds.
    #[must_use]
    pub fn new(mut config: SettlerConfig, start: SettlerStart) -> Self {
        config.batch_entries = config.batch_entries.clamp(1, MAX_BATCH_ENTRIES);
        Self {
            claim_fee: config.claim_fee,
            commit_fee: config.commit_fee,
            priced: false,
            next_prices: UnixMillis::from_millis(0),
            watch: Watch::new(),
            releases: Releases::new(),
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
    /// no channel a claim that is worth making.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.commits.is_idle() && self.claims.nothing_above(self.thresholds().worth)
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
                self.watch.on_covered(&channels);
                self.releases.on_covered(&channels);
                self.claims.cover(&channels);
            }
            SettlerInput::Stakes(stakes) => {
                self.releases.on_stakes(&stakes);
                self.watch.on_stakes(stakes);
            }
            SettlerInput::Prices(prices) => {
                self.priced = true;
                self.claim_fee = claim_fee(&prices);
                self.commit_fee = commit_fee(&prices);
            }
            SettlerInput::Ledger { unix, view } => self.on_ledger(now, unix, view, &mut out),
            SettlerInput::Channel {
                unix,
                channel,
                view,
            } => {
                if self.standing == Standing::Sound {
                    if let Some(view) = &view {
                        self.watch.on_view(channel, unix, view, &mut out);
                    }
                    let held_back = self.releases.holds(&channel);
                    self.claims.on_view(
                        &self.config,
                        self.thresholds(),
                        now,
                        unix,
                        channel,
                        view,
                        held_back,
                        &mut out,
                    );
                    if let Some(view) = &view {
                        self.releases
                            .on_view(&self.config, now, unix, channel, view, &mut out);
                    }
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
            SettlerInput::ReleaseSent { channel, result } => {
                self.releases.on_sent(&self.config, now, channel, result);
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
        let thresholds = self.thresholds();
        // What no claim can be made for yet is at risk too: it takes a commit first.
        let uncovered = self.commits.uncovered();
        let claimable = self.claims.press(&self.config, thresholds, now, uncovered);
        let owed_too_much = uncovered.saturating_add(claimable) >= self.config.total_risk
            && uncovered >= thresholds.worth;
        let urgent = self.flushing
            || owed_too_much
            || self.watch.presses(&self.config, thresholds)
            || self.releases.presses();
        self.commits
            .cut(&self.config, now, self.commit_fee, urgent, out);
        let look_ms = if self.commits.is_waiting() {
            self.config.look_ms
        } else {
            self.config.idle_look_ms
        };
        self.commits.look(now, look_ms, out);
        self.watch.read(now, self.config.idle_look_ms, out);
        if now >= self.next_prices {
            let pause_ms = if self.priced {
                self.config.prices_ms
            } else {
                self.config.idle_look_ms
            };
            self.next_prices = now.saturating_add(pause_ms);
            out.push(SettlerOutput::LookAtPrices);
        }
        let looks = self.claims.look(&self.config, thresholds, now, out);
        let left = MAX_LOOKS_PER_TICK.saturating_sub(looks);
        let looks = looks.saturating_add(self.releases.look(&self.config, now, left, out));
        self.watch.look(
            &self.config,
            now,
            MAX_LOOKS_PER_TICK.saturating_sub(looks),
            |channel| self.claims.contains(channel),
            out,
        );
        if self.flushing && self.is_settled() {
            self.flushing = false;
        }
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds::new(&self.config, self.claim_fee, self.flushing)
    }
}
