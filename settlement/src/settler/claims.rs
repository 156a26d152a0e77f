//! Claiming what is covered, channel by channel. See the [module above](super).

use std::collections::BTreeMap;
use std::ops::Bound;

use cocoon_protocol::{Digest, NanoTon, TonAddress, UnixMillis};

use super::config::Thresholds;
use super::{
    ChannelView, CoveredChannel, MAX_LOOKS_PER_TICK, SendFailure, SettlerConfig, SettlerOutput,
    SettlerProblem,
};
use crate::ledger::{HeldVoucher, PendingClaim, TransactionRecord};

/// The channels where something is covered and not yet claimed. Bounded by the ledger's
/// [`MAX_CHANNELS`](crate::ledger::MAX_CHANNELS); a channel leaves when it has paid everything.
#[derive(Debug)]
pub(super) struct Claims {
    channels: BTreeMap<TonAddress, Claim>,
    /// The channel looked at last.
    last_look: TonAddress,
}

#[derive(Debug)]
struct Claim {
    voucher: HeldVoucher,
    claimed: NanoTon,
    attempts: u32,
    flight: Option<Flight>,
    /// The client is closing: claim whatever is worth its fee.
    closing: bool,
    /// All channels together owe too much, and this one is among the largest.
    pressed: bool,
    /// Since when something is covered and not paid.
    since: Option<UnixMillis>,
    newest_view: u32,
    /// The chain shows no such channel: served on before it was there, and it has not come.
    absent: bool,
    next_look: UnixMillis,
    told: Option<SettlerProblem>,
}

/// A claim that was handed to the chain, or was about to be when the process died.
#[derive(Debug)]
struct Flight {
    pending: PendingClaim,
    message: Option<Digest>,
    transaction: Option<TransactionRecord>,
    /// Set when the chain said it did not take it: when to try again.
    retry_at: Option<UnixMillis>,
}

impl Flight {
    fn new(pending: PendingClaim) -> Self {
        Self {
            pending,
            message: None,
            transaction: None,
            retry_at: None,
        }
    }
}

impl Claim {
    fn unclaimed(&self) -> NanoTon {
        self.voucher.cumulative.saturating_sub(self.claimed)
    }

    /// Whether there is a reason to claim, or a claim is under way.
    fn is_due(&self, config: &SettlerConfig, thresholds: Thresholds, now: UnixMillis) -> bool {
        let old = self
            .since
            .is_some_and(|since| now.saturating_since(since) >= config.claim_age_ms);
        let wanted = thresholds.flushing || self.closing || self.pressed || old;
        let unclaimed = self.unclaimed();
        let enough = unclaimed >= thresholds.usual || (wanted && unclaimed >= thresholds.worth);
        self.flight.is_some() || enough
    }

    /// Nothing can be done about it now.
    fn is_hopeless(&self) -> bool {
        self.absent || matches!(self.told, Some(SettlerProblem::Underfunded { .. }))
    }

    fn tell(&mut self, problem: SettlerProblem, out: &mut Vec<SettlerOutput>) {
        if self.told != Some(problem) {
            self.told = Some(problem);
            out.push(SettlerOutput::Problem(problem));
        }
    }
}

impl Claims {
    pub(super) fn new(channels: &[CoveredChannel]) -> Self {
        let mut claims = Self {
            channels: BTreeMap::new(),
            last_look: TonAddress {
                workchain: 0,
                hash: [0; 32],
            },
        };
        claims.cover(channels);
        claims
    }

    /// These vouchers may be claimed from now on.
    pub(super) fn cover(&mut self, channels: &[CoveredChannel]) {
        for covered in channels {
            if covered.voucher.cumulative <= covered.claimed {
                continue;
            }
            let claim = self
                .channels
                .entry(covered.channel)
                .or_insert_with(|| Claim {
                    voucher: covered.voucher,
                    claimed: covered.claimed,
                    attempts: 0,
                    flight: covered.pending.map(Flight::new),
                    closing: false,
                    pressed: false,
                    since: None,
                    newest_view: 0,
                    absent: false,
                    next_look: UnixMillis::from_millis(0),
                    told: None,
                });
            if covered.voucher.cumulative > claim.voucher.cumulative {
                claim.voucher = covered.voucher;
                claim.next_look = UnixMillis::from_millis(0); // at once, if it is due
            }
        }
    }

    /// Whether no channel has a claim of at least `minimum` that could still succeed.
    pub(super) fn nothing_above(&self, minimum: NanoTon) -> bool {
        self.channels.values().all(|claim| {
            claim.flight.is_none() && (claim.is_hopeless() || claim.unclaimed() < minimum)
        })
    }

    pub(super) fn contains(&self, channel: &TonAddress) -> bool {
        self.channels.contains_key(channel)
    }

    /// If all channels owe too much together, with what is `uncovered`, marks the largest ones: so many that the rest is
    /// below the limit. Returns what could be claimed and is not on its way.
    pub(super) fn press(
        &mut self,
        config: &SettlerConfig,
        thresholds: Thresholds,
        now: UnixMillis,
        uncovered: NanoTon,
    ) -> NanoTon {
        let worth = thresholds.worth;
        let mut claimable = NanoTon::ZERO;
        let mut waiting: Vec<_> = Vec::new();
        for claim in self.channels.values_mut() {
            claim.since.get_or_insert(now);
            if claim.flight.is_none() && !claim.is_hopeless() && claim.unclaimed() >= worth {
                claimable = claimable.saturating_add(claim.unclaimed());
                waiting.push(claim);
            }
        }
        let mut left = uncovered.saturating_add(claimable);
        if left >= config.total_risk {
            waiting.sort_by_key(|claim| std::cmp::Reverse(claim.unclaimed()));
            for claim in waiting {
                if left < config.total_risk {
                    break;
                }
                left = left.saturating_sub(claim.unclaimed());
                if !claim.pressed {
                    claim.pressed = true;
                    claim.next_look = UnixMillis::from_millis(0); // at once
                }
            }
        }
        claimable
    }

    /// Asks for a look at channels whose time has come: often when a claim is due, seldom otherwise. Goes on where the
    /// last look ended, so that none waits for ever behind the first ones. Returns how many.
    pub(super) fn look(
        &mut self,
        config: &SettlerConfig,
        thresholds: Thresholds,
        now: UnixMillis,
        out: &mut Vec<SettlerOutput>,
    ) -> usize {
        // A flush lowers the threshold: then a channel in its idle pause is due before the pause ends.
        let pause_ms = config.watch_ms.saturating_sub(config.look_ms);
        let due = |claim: &Claim| {
            let wait = if claim.is_due(config, thresholds, now) && !claim.is_hopeless() {
                claim.next_look
            } else {
                claim.next_look.saturating_add(pause_ms)
            };
            claim.next_look == UnixMillis::from_millis(0) || now >= wait
        };
        let behind = self
            .channels
            .range((Bound::Excluded(self.last_look), Bound::Unbounded));
        let before = self.channels.range(..=self.last_look);
        let chosen: Vec<_> = behind
            .chain(before)
            .filter(|(_, claim)| due(claim))
            .map(|(channel, _)| *channel)
            .take(MAX_LOOKS_PER_TICK)
            .collect();
        for channel in &chosen {
            if let Some(claim) = self.channels.get_mut(channel) {
                claim.next_look = now.saturating_add(config.look_ms);
            }
            self.last_look = *channel;
            out.push(SettlerOutput::LookAtChannel(*channel));
        }
        chosen.len()
    }

    /// Compares a channel with what is known of it, and claims, unless a release does that.
    #[expect(
        clippy::too_many_arguments,
        reason = "the machine's context and one view, taken apart"
    )]
    pub(super) fn on_view(
        &mut self,
        config: &SettlerConfig,
        thresholds: Thresholds,
        now: UnixMillis,
        unix: u32,
        channel: TonAddress,
        view: Option<ChannelView>,
        held_back: bool,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Some(claim) = self.channels.get_mut(&channel) else {
            return;
        };
        if unix < claim.newest_view {
            return;
        }
        claim.newest_view = unix;
        // A channel is never deleted (its contract keeps a tombstone), so none at all is one that has not come yet, a
        // server that lags, or a chain that was reset. Nothing can be claimed now; keep looking.
        claim.absent = view.is_none();
        let Some(view) = view else { return };
        if view.claimed < claim.claimed {
            return;
        }
        if let Some(amount) = view
            .claimed
            .checked_sub(claim.claimed)
            .filter(|amount| *amount > NanoTon::ZERO)
        {
            // Ours, or somebody else's who holds the voucher: whoever delivers it, we are paid.
            claim.claimed = view.claimed;
            let landed = claim
                .flight
                .take_if(|flight| flight.pending.cumulative <= view.claimed);
            claim.attempts = 0;
            claim.told = None;
            claim.pressed = false;
            claim.since = None;
            out.push(SettlerOutput::Settled {
                channel,
                cumulative: view.claimed,
                amount,
                transaction: landed.and_then(|flight| flight.transaction),
            });
        }
        if claim.unclaimed() == NanoTon::ZERO {
            self.channels.remove(&channel);
            return;
        }
        if view.finished {
            // The watch says what was lost.
            self.channels.remove(&channel);
            return;
        }
        claim.closing = view.close_at.is_some();
        if held_back {
            return;
        }
        claim.submit(config, thresholds, now, unix, channel, &view, out);
    }

    pub(super) fn on_sent(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        channel: TonAddress,
        cumulative: NanoTon,
        result: Result<Digest, SendFailure>,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Some(claim) = self.channels.get_mut(&channel) else {
            return;
        };
        let Some(flight) = &mut claim.flight else {
            return;
        };
        if flight.pending.cumulative != cumulative {
            return;
        }
        match result {
            Ok(message) => flight.message = Some(message),
            Err(SendFailure::Unknown) => {}
            Err(SendFailure::Refused { exit_code }) => {
                flight.retry_at = Some(now.saturating_add(config.refused_delay(claim.attempts)));
                let problem = SettlerProblem::ClaimRefused {
                    channel,
                    cumulative,
                    exit_code,
                };
                claim.tell(problem, out);
            }
        }
    }

    pub(super) fn on_transaction(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        message: Digest,
        success: bool,
        transaction: TransactionRecord,
    ) {
        let found = self.channels.values_mut().find_map(|claim| {
            let attempts = claim.attempts;
            claim
                .flight
                .as_mut()
                .filter(|flight| flight.message == Some(message))
                .map(|flight| (attempts, flight))
        });
        match found {
            Some((_, flight)) if success => flight.transaction = Some(transaction),
            Some((attempts, flight)) => {
                flight.retry_at = Some(now.saturating_add(config.refused_delay(attempts)));
            }
            None => {}
        }
    }
}

impl Claim {
    /// The channel shows that our voucher is not applied: send it, if it is worth it and not on its way.
    #[expect(
        clippy::too_many_arguments,
        reason = "the machine's context and one view, taken apart"
    )]
    fn submit(
        &mut self,
        config: &SettlerConfig,
        thresholds: Thresholds,
        now: UnixMillis,
        unix: u32,
        channel: TonAddress,
        view: &ChannelView,
        out: &mut Vec<SettlerOutput>,
    ) {
        if let Some(flight) = &self.flight {
            let void =
                unix >= flight.pending.retry_after || flight.retry_at.is_some_and(|at| now >= at);
            if !void {
                return;
            }
            self.flight = None;
        }
        if !self.is_due(config, thresholds, now) {
            return;
        }
        let cumulative = self.voucher.cumulative;
        if view.capacity < cumulative {
            let capacity = view.capacity;
            self.tell(
                SettlerProblem::Underfunded {
                    channel,
                    cumulative,
                    capacity,
                },
                out,
            );
            return;
        }
        if matches!(self.told, Some(SettlerProblem::Underfunded { .. })) {
            self.told = None; // topped up
        }
        let pending = PendingClaim {
            cumulative,
            retry_after: unix.saturating_add(config.claim_retry_s),
        };
        self.attempts = self.attempts.saturating_add(1);
        self.flight = Some(Flight::new(pending));
        out.push(SettlerOutput::PersistClaimAttempt { channel, pending });
        out.push(SettlerOutput::SubmitClaim {
            channel,
            voucher: self.voucher.for_channel(channel),
        });
    }
}
