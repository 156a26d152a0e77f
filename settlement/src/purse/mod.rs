//! Where a client's deposits are, and where they should be: a state machine without IO.
//!
//! A deposit in a channel is locked: it pays that worker or comes back after the channel's close delay. So few workers
//! should hold it, and no more than they need:
//! - a worker that is used has its best channel topped up **before** it runs dry, so that no job waits for the chain; how
//!   far follows what was spent there lately;
//! - a channel that was not used for long is closed, and sooner when a new one needs the room; the worker is asked to close
//!   it together first, which needs no delay. If it does not within [`together_s`](PurseConfig::together_s), the client
//!   closes alone;
//! - what comes back is fetched by itself as soon as the delay has passed;
//! - all channels together never lock more than the [total](PurseConfig::total).
//!
//! **Intent before message.** A channel is noted as closing before the message that closes it is sent, and before the worker
//! is asked to close it together, so nothing is signed on it meanwhile. If the message is lost, the channel is seen open on chain and the message is sent again; the
//! contract refuses a second one. A top-up has no such guard, so after a start none is sent for
//! [`quiet_ms`](PurseConfig::quiet_ms): what an earlier process has sent has been applied or has lapsed by then.
//!
//! Two clocks: `now` is the node's, `unix` the chain's.

mod spending;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
pub mod way;

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, PeerId, TonAddress, UnixMillis};

use self::spending::Spending;

/// Channels that one plan closes or finishes: as many as fit one transfer of the smallest wallet, whose coins the messages
/// take along until they come back.
pub const MAX_CLOSINGS: usize = 4;
/// Channels that one plan tops up. What does not fit one transfer of the wallet goes out in several, or through the opener.
pub const MAX_TOP_UPS: usize = 32;
/// Workers whose spending is remembered. Beyond, the one that was paid least lately is forgotten.
pub const MAX_WORKERS: usize = 1_024;
/// No smaller top-up: its fees would be more than about a hundredth of it.
const LEAST_TOP_UP: NanoTon = NanoTon::from_nano(50_000_000);
/// Left in the wallet for fees and for the coins that closing a channel takes along.
const WALLET_RESERVE: NanoTon = NanoTon::from_nano(100_000_000);

/// The client's choice.
#[derive(Clone, Debug)]
pub struct PurseConfig {
    /// The most that channels may lock at any time, closing ones included.
    pub total: NanoTon,
    /// Put into a channel to a worker that was not used before, and the least that a top-up fills up to.
    pub deposit: NanoTon,
    /// The most that one channel is filled up to.
    pub most: NanoTon,
    /// Half-life of spending, in milliseconds: a used worker's channel holds about what it was paid in this time.
    pub half_life_ms: u64,
    /// A channel without a voucher for so long is closed, milliseconds.
    pub unused_ms: u64,
    /// The same when another channel needs the room.
    pub room_ms: u64,
    /// So long, in seconds of chain time, a worker may take to close a channel together, from the first time that it is
    /// asked until the channel is finished on chain. 0: it is not asked.
    pub together_s: u32,
    /// After a start nothing is topped up for so long, milliseconds. Longer than a wallet's message is valid.
    pub quiet_ms: u64,
    /// Milliseconds before another move is made on the same channel.
    pub retry_ms: u64,
    /// Milliseconds between two looks at the channels.
    pub round_ms: u64,
}

impl PurseConfig {
    /// Sensible values for channels of this size.
    #[must_use]
    pub fn new(total: NanoTon, deposit: NanoTon) -> Self {
        const HOUR_MS: u64 = 3_600_000;
        Self {
            total,
            deposit,
            most: deposit.saturating_mul(5),
            half_life_ms: 12 * HOUR_MS,
            unused_ms: 7 * 24 * HOUR_MS,
            room_ms: HOUR_MS,
            together_s: 600,
            quiet_ms: 120_000,
            retry_ms: 120_000,
            round_ms: 10_000,
        }
    }
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not seen on chain yet.
    Opening,
    /// Pays.
    Open,
    /// The worker was asked to close together.
    Together {
        /// From this unix second of chain time it is closed alone.
        until: u32,
        /// The worker has said that it will.
        agreed: bool,
    },
    /// To be closed.
    Closing {
        /// From this unix second of chain time it can be finished; `None` while the chain does not show that it closes.
        close_at: Option<u32>,
    },
}

/// A channel that locks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurseChannel {
    /// The contract.
    pub address: TonAddress,
    /// Whom it pays.
    pub worker: PeerId,
    /// What can still be promised on it.
    pub available: NanoTon,
    /// Everything that was deposited and has not been paid out.
    pub locked: NanoTon,
    /// How far it has come.
    pub phase: Phase,
    /// A job uses it.
    pub leased: bool,
    /// When it was opened, or its newest voucher was signed.
    pub last_used: UnixMillis,
}

/// A message to the chain that moves money, or will; or to a worker, who then sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Get the rest out of a channel whose delay has passed.
    Finish(TonAddress),
    /// Ask the worker to close the channel together. To be noted on disk before it is asked.
    Together(TonAddress),
    /// Ask for the rest of a channel. To be noted on disk before it is sent.
    StartClose(TonAddress),
    /// Add to a channel's deposit.
    TopUp {
        /// Which.
        channel: TonAddress,
        /// How much.
        amount: NanoTon,
    },
}

impl Move {
    /// The channel it is about.
    #[must_use]
    pub fn channel(&self) -> TonAddress {
        match self {
            Self::Finish(channel)
            | Self::Together(channel)
            | Self::StartClose(channel)
            | Self::TopUp { channel, .. } => *channel,
        }
    }
}

/// A deposit would lock more than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "channels lock {locked} and may lock {total} in all, a deposit of {needed} does not fit; raise `locked_nanoton`, or \
     wait: the longest unused channel is being closed to make room"
)]
pub struct TooMuchLocked {
    /// Locked now.
    pub locked: NanoTon,
    /// The limit.
    pub total: NanoTon,
    /// The smallest deposit that would do.
    pub needed: NanoTon,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Purse {
    config: PurseConfig,
    started: UnixMillis,
    workers: BTreeMap<PeerId, Account>,
    /// When a move was last made on a channel.
    tried: BTreeMap<TonAddress, UnixMillis>,
    /// How much room was missing when a channel could not be opened.
    wanted: NanoTon,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    spending: Spending,
    /// The worst case of the newest job.
    needed: NanoTon,
}

impl Purse {
    /// A purse of a process that starts now.
    #[must_use]
    pub fn new(config: PurseConfig, now: UnixMillis) -> Self {
        Self {
            config,
            started: now,
            workers: BTreeMap::new(),
            tried: BTreeMap::new(),
            wanted: NanoTon::ZERO,
        }
    }

    fn account(&mut self, now: UnixMillis, worker: PeerId) -> &mut Account {
        let half_life_ms = self.config.half_life_ms;
        if !self.workers.contains_key(&worker) && self.workers.len() >= MAX_WORKERS {
            let least = self
                .workers
                .iter()
                .min_by_key(|(_, account)| account.spending.recent(now, half_life_ms))
                .map(|(worker, _)| *worker);
            if let Some(least) = least {
                self.workers.remove(&least);
            }
        }
        self.workers.entry(worker).or_insert(Account {
            spending: Spending::none(now),
            needed: NanoTon::ZERO,
        })
    }

    /// A voucher raised what a worker was promised by so much.
    pub fn on_spent(&mut self, now: UnixMillis, worker: PeerId, amount: NanoTon) {
        let half_life_ms = self.config.half_life_ms;
        let account = self.account(now, worker);
        account.spending.add(now, half_life_ms, amount);
    }

    /// A job that may cost so much goes to a worker.
    pub fn on_job(&mut self, now: UnixMillis, worker: PeerId, needed: NanoTon) {
        self.account(now, worker).needed = needed;
    }

    /// The worker will not close this channel together. The next plan closes it alone, once it is noted as closing.
    pub fn on_refused(&mut self, channel: &TonAddress) {
        self.tried.remove(channel);
    }

    /// How much a channel to this worker should be able to pay when it was just filled up.
    fn target(&self, now: UnixMillis, worker: &PeerId) -> NanoTon {
        let recent = self.workers.get(worker).map_or(NanoTon::ZERO, |account| {
            account.spending.recent(now, self.config.half_life_ms)
        });
        let most = self.config.most.max(self.config.deposit);
        recent.clamp(self.config.deposit, most)
    }

    /// The deposit for a new channel that must be able to pay `needed`; the contract keeps `kept` of it.
    ///
    /// # Errors
    /// [`TooMuchLocked`]; the next plan makes room if it can.
    pub fn deposit(
        &mut self,
        now: UnixMillis,
        worker: &PeerId,
        needed: NanoTon,
        kept: NanoTon,
        locked: NanoTon,
    ) -> Result<NanoTon, TooMuchLocked> {
        let least = needed.saturating_add(kept);
        let free = self.config.total.saturating_sub(locked);
        if least > free {
            self.wanted = self.wanted.max(least.saturating_sub(free));
            return Err(TooMuchLocked {
                locked,
                total: self.config.total,
                needed: least,
            });
        }
        Ok(self.target(now, worker).max(least).min(free))
    }

    /// What is to be done now, most urgent first. `wallet` is what the wallet holds, `opening` what channels will lock that
    /// are being opened and are not among `channels`.
    pub fn plan(
        &mut self,
        now: UnixMillis,
        unix: u32,
        wallet: NanoTon,
        opening: NanoTon,
        channels: &[PurseChannel],
    ) -> Vec<Move> {
        self.tried
            .retain(|tried, _| channels.iter().any(|channel| channel.address == *tried));
        let mut moves: Vec<Move> = channels
            .iter()
            .filter_map(|channel| match channel.phase {
                Phase::Closing { close_at: None } => Some(Move::StartClose(channel.address)),
                Phase::Together { until, .. } if unix >= until => {
                    Some(Move::StartClose(channel.address))
                }
                Phase::Together { agreed: false, .. } => Some(Move::Together(channel.address)),
                Phase::Closing {
                    close_at: Some(close_at),
                } if unix >= close_at => Some(Move::Finish(channel.address)),
                _ => None,
            })
            .collect();
        let close = match self.config.together_s {
            0 => Move::StartClose,
            _ => Move::Together,
        };
        moves.extend(self.closings(now, channels).map(close));
        moves.retain(|planned| self.may_try(now, planned));
        moves.truncate(MAX_CLOSINGS);
        if now.saturating_since(self.started) >= self.config.quiet_ms {
            let locked = locked(channels).saturating_add(opening);
            let mut top_ups = self.top_ups(now, wallet, locked, channels);
            top_ups.retain(|planned| self.may_try(now, planned));
            top_ups.truncate(MAX_TOP_UPS);
            moves.extend(top_ups);
        }
        for planned in &moves {
            self.tried.insert(planned.channel(), now);
        }
        moves
    }

    /// Whether it is long enough since a move on the same channel.
    fn may_try(&self, now: UnixMillis, planned: &Move) -> bool {
        self.tried
            .get(&planned.channel())
            .is_none_or(|tried| now.saturating_since(*tried) >= self.config.retry_ms)
    }

    /// Open channels that nobody needs.
    fn closings(
        &mut self,
        now: UnixMillis,
        channels: &[PurseChannel],
    ) -> impl Iterator<Item = TonAddress> + use<> {
        let mut idle: Vec<_> = channels
            .iter()
            .filter(|channel| channel.phase == Phase::Open && !channel.leased)
            .collect();
        idle.sort_by_key(|channel| channel.last_used);
        let coming = channels
            .iter()
            .filter(|channel| {
                matches!(
                    channel.phase,
                    Phase::Closing { .. } | Phase::Together { .. }
                )
            })
            .fold(NanoTon::ZERO, |sum, channel| {
                sum.saturating_add(channel.available)
            });
        // What is closing already will make room by itself.
        let mut missing = std::mem::take(&mut self.wanted).saturating_sub(coming);
        let mut chosen = Vec::new();
        for channel in idle {
            let unused_ms = now.saturating_since(channel.last_used);
            let makes_room = missing > NanoTon::ZERO && unused_ms >= self.config.room_ms;
            if unused_ms >= self.config.unused_ms || makes_room {
                missing = missing.saturating_sub(channel.available);
                chosen.push(channel.address);
            }
        }
        chosen.into_iter()
    }

    /// Of each worker that is used, the channel that can pay most, if that is little.
    fn top_ups(
        &self,
        now: UnixMillis,
        wallet: NanoTon,
        locked: NanoTon,
        channels: &[PurseChannel],
    ) -> Vec<Move> {
        let mut free = self
            .config
            .total
            .saturating_sub(locked)
            .min(wallet.saturating_sub(WALLET_RESERVE));
        let mut best: BTreeMap<PeerId, &PurseChannel> = BTreeMap::new();
        for channel in channels
            .iter()
            .filter(|channel| channel.phase == Phase::Open)
        {
            let known = best.entry(channel.worker).or_insert(channel);
            if channel.available > known.available {
                *known = channel;
            }
        }
        let mut moves = Vec::new();
        for (worker, channel) in best {
            let Some(account) = self.workers.get(&worker) else {
                continue;
            };
            let recent = account.spending.recent(now, self.config.half_life_ms);
            let used = now.saturating_since(channel.last_used) < self.config.half_life_ms;
            let quarter = NanoTon::from_nano(recent.nano() / 4);
            let low = quarter.max(account.needed.saturating_mul(2));
            if !used || recent == NanoTon::ZERO || channel.available >= low {
                continue;
            }
            let target = self.target(now, &worker).max(low);
            let amount = target.saturating_sub(channel.available).min(free);
            if amount >= LEAST_TOP_UP {
                free = free.saturating_sub(amount);
                moves.push(Move::TopUp {
                    channel: channel.address,
                    amount,
                });
            }
        }
        moves
    }
}

/// What channels lock together.
#[must_use]
pub fn locked(channels: &[PurseChannel]) -> NanoTon {
    channels.iter().fold(NanoTon::ZERO, |sum, channel| {
        sum.saturating_add(channel.locked)
    })
}
