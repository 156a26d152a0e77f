//! Channels on which there is something to lose, and whose clients may want to close. See the [module above](super).
//!
//! A client may start to close at any moment, and gets back what was not claimed when the delay has passed. Channels with
//! a claim to make are looked at for that anyway; here are the others, where vouchers are held that no batch covers yet.
//! A channel without a voucher that is not paid is not watched: the next job looks at it before it begins.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, TonAddress, UnixMillis};

use super::config::Thresholds;
use super::{ChannelView, CoveredChannel, SettlerConfig, SettlerOutput, SettlerProblem, Stake};

/// Bounded by the ledger's [`MAX_CHANNELS`](crate::ledger::MAX_CHANNELS).
#[derive(Debug)]
pub(super) struct Watch {
    channels: BTreeMap<TonAddress, Watched>,
    /// Channels whose client is closing, told already. A channel leaves when nothing is at stake on it.
    closing: BTreeMap<TonAddress, u32>,
    next_read: UnixMillis,
}

#[derive(Debug)]
struct Watched {
    stake: Stake,
    newest_view: u32,
    next_look: UnixMillis,
    finished: bool,
}

impl Watched {
    /// In the log, and covered by no confirmed commit.
    fn uncovered(&self) -> NanoTon {
        self.stake.entered.saturating_sub(self.stake.covered)
    }
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            channels: BTreeMap::new(),
            closing: BTreeMap::new(),
            next_read: UnixMillis::from_millis(0),
        }
    }

    /// Asks the ledger, now and then, what is at stake.
    pub(super) fn read(&mut self, now: UnixMillis, every_ms: u64, out: &mut Vec<SettlerOutput>) {
        if now >= self.next_read {
            self.next_read = now.saturating_add(every_ms);
            out.push(SettlerOutput::ReadStakes);
        }
    }

    pub(super) fn on_stakes(&mut self, stakes: Vec<Stake>) {
        let mut known = std::mem::take(&mut self.channels);
        for stake in stakes {
            let before = known.remove(&stake.channel);
            let watched = before.map_or(
                Watched {
                    stake,
                    newest_view: 0,
                    next_look: UnixMillis::from_millis(0), // at once
                    finished: false,
                },
                |before| Watched { stake, ..before },
            );
            self.channels.insert(stake.channel, watched);
        }
        let at_stake = &self.channels;
        self.closing
            .retain(|channel, _| at_stake.contains_key(channel));
    }

    /// A commit was confirmed that covers these vouchers.
    pub(super) fn on_covered(&mut self, covered: &[CoveredChannel]) {
        for covered in covered {
            if let Some(watched) = self.channels.get_mut(&covered.channel) {
                let total = covered.voucher.cumulative;
                watched.stake.covered = watched.stake.covered.max(total);
                watched.stake.entered = watched.stake.entered.max(total);
            }
        }
    }

    /// Asks for a look at up to `most` channels that nobody else looks at.
    pub(super) fn look(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        most: usize,
        looked_at: impl Fn(&TonAddress) -> bool,
        out: &mut Vec<SettlerOutput>,
    ) {
        let due = self.channels.iter_mut().filter(|(channel, watched)| {
            !watched.finished && now >= watched.next_look && !looked_at(channel)
        });
        for (channel, watched) in due.take(most) {
            watched.next_look = now.saturating_add(config.watch_ms);
            out.push(SettlerOutput::LookAtChannel(*channel));
        }
    }

    /// Whether the client is closing, or has closed.
    pub(super) fn on_view(
        &mut self,
        channel: TonAddress,
        unix: u32,
        view: &ChannelView,
        out: &mut Vec<SettlerOutput>,
    ) {
        if let Some(watched) = self.channels.get_mut(&channel) {
            if unix < watched.newest_view {
                return;
            }
            watched.newest_view = unix;
            watched.stake.claimed = watched.stake.claimed.max(view.claimed);
            if view.finished && !watched.finished {
                watched.finished = true;
                let lost = watched.stake.held.saturating_sub(watched.stake.claimed);
                if lost > NanoTon::ZERO {
                    let problem = SettlerProblem::ChannelFinished { channel, lost };
                    out.push(SettlerOutput::Problem(problem));
                }
            }
        }
        if let Some(close_at) = view.close_at
            && !view.finished
            && self.closing.insert(channel, close_at).is_none()
        {
            out.push(SettlerOutput::StopServing { channel, close_at });
            let problem = SettlerProblem::ChannelClosing { channel, close_at };
            out.push(SettlerOutput::Problem(problem));
        }
    }

    /// Whether a batch is to be cut now, for the sake of one channel: its client is closing, or owes as much as it may.
    pub(super) fn presses(&self, config: &SettlerConfig, thresholds: Thresholds) -> bool {
        self.channels.iter().any(|(channel, watched)| {
            let due = watched.stake.entered.saturating_sub(watched.stake.claimed);
            let urgent = self.closing.contains_key(channel) || due >= config.channel_risk;
            let of_use = watched.uncovered() > NanoTon::ZERO && due >= thresholds.worth;
            urgent && of_use && !watched.finished
        })
    }
}
