//! Channels that client and worker close together: the worker sends the client's release. See the [module above](super).
//!
//! A release pays the newest voucher's total, so it is a claim too: it is sent only when a confirmed commit covers that
//! voucher. While one is under way nothing else is claimed on its channel, since it would pay the fee twice.
//!
//! Each sending may cost the worker a fee, so there are at most [`MAX_RELEASE_ATTEMPTS`] to a channel, counted on disk.
//! After that the worker claims as usual, and the client closes alone.

use std::collections::BTreeMap;

use cocoon_protocol::{TonAddress, UnixMillis};

use super::{
    ChannelView, CoveredChannel, SendFailure, SettlerConfig, SettlerOutput, SettlerProblem, Stake,
};
use crate::ledger::AgreedRelease;

/// How often the release of one channel is sent.
pub const MAX_RELEASE_ATTEMPTS: u32 = 3;

/// Bounded by the ledger's [`MAX_CHANNELS`](crate::ledger::MAX_CHANNELS); a channel leaves when it is finished.
#[derive(Debug)]
pub(super) struct Releases {
    channels: BTreeMap<TonAddress, Releasing>,
}

#[derive(Debug)]
struct Releasing {
    release: AgreedRelease,
    /// A confirmed commit covers the newest voucher.
    covered: bool,
    /// Set when the chain said that it did not take it: when to try again.
    retry_at: Option<UnixMillis>,
    newest_view: u32,
    next_look: UnixMillis,
    given_up: bool,
}

impl Releasing {
    fn give_up(&mut self, channel: TonAddress, out: &mut Vec<SettlerOutput>) {
        if !self.given_up {
            self.given_up = true;
            let problem = SettlerProblem::ReleaseFailed { channel };
            out.push(SettlerOutput::Problem(problem));
        }
    }
}

impl Releases {
    pub(super) fn new() -> Self {
        Self {
            channels: BTreeMap::new(),
        }
    }

    /// What the ledger knows now. What is known here already may be newer.
    pub(super) fn on_stakes(&mut self, stakes: &[Stake]) {
        for stake in stakes {
            let Some(release) = stake.release.filter(|release| !release.done) else {
                continue;
            };
            let covered = stake.covered >= release.cumulative;
            let known = self.channels.entry(stake.channel).or_insert(Releasing {
                release,
                covered,
                retry_at: None,
                newest_view: 0,
                next_look: UnixMillis::from_millis(0), // at once
                given_up: false,
            });
            known.covered |= covered;
        }
    }

    /// A commit was confirmed that covers these vouchers.
    pub(super) fn on_covered(&mut self, covered: &[CoveredChannel]) {
        for covered in covered {
            if let Some(known) = self.channels.get_mut(&covered.channel)
                && covered.voucher.cumulative >= known.release.cumulative
            {
                known.covered = true;
                known.next_look = UnixMillis::from_millis(0); // at once
            }
        }
    }

    /// Whether a channel is not to be claimed, because its release pays it.
    pub(super) fn holds(&self, channel: &TonAddress) -> bool {
        self.channels
            .get(channel)
            .is_some_and(|known| !known.given_up)
    }

    /// Whether a batch is to be cut now, so that a release can be sent.
    pub(super) fn presses(&self) -> bool {
        self.channels
            .values()
            .any(|known| !known.covered && !known.given_up)
    }

    /// Asks for a look at up to `most` channels whose release may be sent, or was.
    pub(super) fn look(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        most: usize,
        out: &mut Vec<SettlerOutput>,
    ) -> usize {
        let due = self
            .channels
            .iter_mut()
            .filter(|(_, known)| known.covered && now >= known.next_look);
        let mut looks = 0_usize;
        for (channel, known) in due.take(most) {
            let pause_ms = if known.given_up {
                config.watch_ms
            } else {
                config.look_ms
            };
            known.next_look = now.saturating_add(pause_ms);
            looks = looks.saturating_add(1);
            out.push(SettlerOutput::LookAtChannel(*channel));
        }
        looks
    }

    pub(super) fn on_view(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        unix: u32,
        channel: TonAddress,
        view: &ChannelView,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Some(known) = self.channels.get_mut(&channel) else {
            return;
        };
        if unix < known.newest_view {
            return;
        }
        known.newest_view = unix;
        if view.finished {
            self.channels.remove(&channel);
            out.push(SettlerOutput::Released { channel });
            return;
        }
        if !known.covered || known.given_up {
            return;
        }
        let in_flight = unix < known.release.retry_after;
        if in_flight && known.retry_at.is_none_or(|at| now < at) {
            return;
        }
        let payable =
            view.claimed <= known.release.cumulative && view.capacity >= known.release.cumulative;
        if !payable || known.release.attempts >= MAX_RELEASE_ATTEMPTS {
            known.give_up(channel, out);
            return;
        }
        known.retry_at = None;
        known.release.attempts = known.release.attempts.saturating_add(1);
        known.release.retry_after = unix.saturating_add(config.release_retry_s);
        out.push(SettlerOutput::PersistReleaseAttempt {
            channel,
            retry_after: known.release.retry_after,
        });
        out.push(SettlerOutput::SubmitRelease(
            known.release.for_channel(channel),
        ));
    }

    pub(super) fn on_sent(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        channel: TonAddress,
        result: Result<(), SendFailure>,
    ) {
        let Some(known) = self.channels.get_mut(&channel) else {
            return;
        };
        match result {
            // What it did shows on the channel.
            Ok(()) => known.next_look = UnixMillis::from_millis(0),
            Err(SendFailure::Unknown) => {}
            Err(SendFailure::Refused { .. }) => {
                let pause_ms = config.refused_delay(known.release.attempts);
                known.retry_at = Some(now.saturating_add(pause_ms));
            }
        }
    }
}
