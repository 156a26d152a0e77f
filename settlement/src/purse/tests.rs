#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;
use crate::ledger::testing::{address, at, peer};

const HOUR_MS: u64 = 3_600_000;
const DELAY_S: u32 = 86_400;

fn milli(amount: u64) -> NanoTon {
    NanoTon::from_nano(amount * 1_000_000)
}

/// Closes alone.
fn config() -> PurseConfig {
    PurseConfig {
        together_s: 0,
        ..together()
    }
}

/// Asks the worker first.
fn together() -> PurseConfig {
    PurseConfig::new(milli(6_000), milli(1_000))
}

fn channel(seed: u8, available: u64, last_used: u64) -> PurseChannel {
    PurseChannel {
        address: address(seed),
        worker: peer(seed),
        available: milli(available),
        locked: milli(available + 10),
        phase: Phase::Open,
        leased: false,
        last_used: at(last_used),
    }
}

const START: u64 = 1_000 * HOUR_MS;

fn purse() -> Purse {
    Purse::new(config(), at(START))
}

const RICH: NanoTon = NanoTon::from_nano(1_000_000_000_000);

#[test]
fn spending_halves_with_time_and_a_steady_rate_levels_off() {
    let mut spending = Spending::none(at(0));
    spending.add(at(0), 1_000, milli(800));
    for (now, left) in [
        (0, 800),
        (500, 562),
        (1_000, 400),
        (2_000, 200),
        (3_000, 100),
    ] {
        let found = spending.recent(at(now), 1_000);
        assert_eq!(found.nano() / 1_000_000, left, "{now}");
    }
    assert_eq!(spending.recent(at(u64::MAX), 1_000), NanoTon::ZERO);
    let mut steady = Spending::none(at(0));
    for step in 0..2_000 {
        steady.add(at(step * 10), 1_000, milli(1));
    }
    let level = steady.recent(at(20_000), 1_000);
    assert!((milli(135)..milli(152)).contains(&level), "{level}");
}

#[test]
fn a_used_worker_is_topped_up_before_it_runs_dry_by_what_it_was_paid_lately() {
    let mut purse = purse();
    let now = START + HOUR_MS;
    purse.on_job(at(now), peer(1), milli(40));
    purse.on_spent(at(now), peer(1), milli(1_600));
    assert_eq!(
        purse.plan(at(now), 0, RICH, NanoTon::ZERO, &[channel(1, 500, now)]),
        []
    );
    let amount = milli(1_600 - 300);
    assert_eq!(
        purse.plan(at(now), 0, RICH, NanoTon::ZERO, &[channel(1, 300, now)]),
        [Move::TopUp {
            channel: address(1),
            amount
        }]
    );
    // Not again before the chain can show it.
    assert_eq!(
        purse.plan(
            at(now + 1_000),
            0,
            RICH,
            NanoTon::ZERO,
            &[channel(1, 300, now)]
        ),
        []
    );
}

#[test]
fn nothing_is_topped_up_right_after_a_start_nor_beyond_the_wallet_or_the_total() {
    let now = START + 1_000;
    let mut purse = purse();
    purse.on_spent(at(now), peer(1), milli(5_000));
    assert_eq!(
        purse.plan(at(now), 0, RICH, NanoTon::ZERO, &[channel(1, 100, now)]),
        []
    );
    let later = START + HOUR_MS;
    assert_eq!(
        purse.plan(
            at(later),
            0,
            milli(300),
            NanoTon::ZERO,
            &[channel(1, 100, later)]
        ),
        [Move::TopUp {
            channel: address(1),
            amount: milli(200)
        }]
    );
    let full = PurseChannel {
        locked: milli(5_980),
        ..channel(2, 5_970, later)
    };
    let later = later + HOUR_MS;
    assert_eq!(
        purse.plan(
            at(later),
            0,
            RICH,
            NanoTon::ZERO,
            &[channel(1, 9, later), full]
        ),
        []
    );
}

#[test]
fn an_unused_channel_is_closed_unless_a_job_is_on_it_and_the_rest_is_fetched() {
    let mut purse = purse();
    let now = START + config().unused_ms;
    let idle = channel(1, 900, START);
    let busy = PurseChannel {
        leased: true,
        ..channel(2, 900, START)
    };
    assert_eq!(
        purse.plan(at(now), 5, RICH, NanoTon::ZERO, &[idle, busy]),
        [Move::StartClose(address(1))]
    );
    // Sent and not shown: again, after a while.
    let noted = PurseChannel {
        phase: Phase::Closing { close_at: None },
        ..idle
    };
    assert_eq!(
        purse.plan(at(now + 1), 5, RICH, NanoTon::ZERO, &[noted]),
        []
    );
    let later = now + config().retry_ms;
    assert_eq!(
        purse.plan(at(later), 5, RICH, NanoTon::ZERO, &[noted]),
        [Move::StartClose(address(1))]
    );
    let closing = PurseChannel {
        phase: Phase::Closing {
            close_at: Some(500),
        },
        ..idle
    };
    let later = later + config().retry_ms;
    assert_eq!(
        purse.plan(at(later), 499, RICH, NanoTon::ZERO, &[closing]),
        []
    );
    assert_eq!(
        purse.plan(at(later), 500, RICH, NanoTon::ZERO, &[closing]),
        [Move::Finish(address(1))]
    );
}

#[test]
fn the_longest_unused_channel_makes_room_for_a_new_one() {
    let mut purse = purse();
    let now = START + 5 * HOUR_MS;
    let channels = [channel(1, 2_900, START + HOUR_MS), channel(2, 2_900, START)];
    let locked = locked(&channels);
    let refused = purse.deposit(at(now), &peer(3), milli(500), milli(5), locked);
    assert_eq!(
        refused,
        Err(TooMuchLocked {
            locked,
            total: milli(6_000),
            needed: milli(505)
        })
    );
    assert_eq!(
        purse.plan(at(now), 0, RICH, NanoTon::ZERO, &channels),
        [Move::StartClose(address(2))]
    );
    // What fits is smaller than usual.
    let deposit = purse.deposit(at(now), &peer(3), milli(100), milli(5), locked);
    assert_eq!(deposit, Ok(milli(180)));
}

#[test]
fn a_worker_is_asked_first_asked_again_and_not_waited_for_too_long() {
    let mut purse = Purse::new(together(), at(START));
    let now = START + together().unused_ms;
    let idle = channel(1, 900, START);
    let plan = |purse: &mut Purse, now, unix, channel| {
        purse.plan(at(now), unix, RICH, NanoTon::ZERO, &[channel])
    };
    let ask = [Move::Together(address(1))];
    assert_eq!(plan(&mut purse, now, 1_000, idle), ask);
    let waiting = |agreed| PurseChannel {
        phase: Phase::Together {
            until: 1_600,
            agreed,
        },
        ..idle
    };
    let retry_ms = together().retry_ms;
    assert_eq!(plan(&mut purse, now + 1, 1_000, waiting(false)), []);
    assert_eq!(plan(&mut purse, now + retry_ms, 1_120, waiting(false)), ask);
    // It has agreed: now it is its turn, until the time is up.
    assert_eq!(
        plan(&mut purse, now + 2 * retry_ms, 1_599, waiting(true)),
        []
    );
    assert_eq!(
        plan(&mut purse, now + 3 * retry_ms, 1_600, waiting(true)),
        [Move::StartClose(address(1))]
    );
    // A refusal is acted upon at once.
    let mut purse = Purse::new(together(), at(START));
    assert_eq!(plan(&mut purse, now, 1_000, idle), ask);
    let noted = PurseChannel {
        phase: Phase::Closing { close_at: None },
        ..idle
    };
    assert_eq!(plan(&mut purse, now + 1, 1_000, noted), []);
    purse.on_refused(&address(1));
    assert_eq!(
        plan(&mut purse, now + 2, 1_000, noted),
        [Move::StartClose(address(1))]
    );
}

/// A chain of channels, as far as the purse is concerned.
struct World {
    purse: Purse,
    now: u64,
    wallet: u64,
    paid: u64,
    open: Vec<(PurseChannel, u64)>,
}

impl World {
    fn unix(&self) -> u32 {
        u32::try_from(self.now / 1_000).unwrap()
    }

    fn views(&self) -> Vec<PurseChannel> {
        self.open.iter().map(|(channel, _)| *channel).collect()
    }

    fn step(&mut self, lost: bool) {
        let (unix, wallet) = (self.unix(), NanoTon::from_nano(self.wallet));
        for planned in self
            .purse
            .plan(at(self.now), unix, wallet, NanoTon::ZERO, &self.views())
        {
            let index = self
                .open
                .iter()
                .position(|(channel, _)| channel.address == planned.channel())
                .unwrap();
            let channel = &mut self.open[index].0;
            match planned {
                Move::TopUp { amount, .. } => {
                    assert_eq!(channel.phase, Phase::Open);
                    if !lost {
                        self.wallet -= amount.nano();
                        channel.available = channel.available.saturating_add(amount);
                        channel.locked = channel.locked.saturating_add(amount);
                    }
                }
                Move::Together(_) => panic!("it closes alone"),
                Move::StartClose(_) => {
                    assert!(!channel.leased, "a channel with a job on it is closed");
                    let close_at = (!lost).then_some(unix + DELAY_S);
                    channel.phase = Phase::Closing { close_at };
                }
                Move::Finish(_) => {
                    assert!(
                        matches!(channel.phase, Phase::Closing { close_at: Some(at) } if unix >= at)
                    );
                    if !lost {
                        // The worker has claimed what was promised.
                        let (closed, promised) = self.open.remove(index);
                        self.paid += promised;
                        self.wallet += closed.locked.nano() - promised;
                    }
                }
            }
        }
        assert!(locked(&self.views()) <= config().total);
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Open(u8),
    Spend(u8, u64),
    Lease(u8, bool),
    Pass(u64, bool),
}

proptest! {
    #[test]
    fn never_too_much_is_locked_no_job_loses_its_channel_and_every_nanoton_comes_back(
        events in proptest::collection::vec(prop_oneof![
            (0_u8..6).prop_map(Event::Open),
            (0_u8..6, 1_u64..400).prop_map(|(seed, amount)| Event::Spend(seed, amount)),
            (0_u8..6, any::<bool>()).prop_map(|(seed, leased)| Event::Lease(seed, leased)),
            (1_u64..100, any::<bool>()).prop_map(|(hours, lost)| Event::Pass(hours, lost)),
        ], 1..80)
    ) {
        const ALL: u64 = 20_000_000_000;
        let mut world = World { purse: purse(), now: START, wallet: ALL, paid: 0, open: Vec::new() };
        let mut next = 0_u8;
        for event in events {
            match event {
                Event::Open(seed) => {
                    let sum = locked(&world.views());
                    let (needed, kept) = (milli(100), milli(5));
                    let found = world.purse.deposit(at(world.now), &peer(seed), needed, kept, sum);
                    let Ok(deposit) = found else { continue };
                    prop_assert!(deposit.nano() <= world.wallet);
                    next += 1;
                    world.wallet -= deposit.nano();
                    let opened = PurseChannel {
                        address: address(next),
                        worker: peer(seed),
                        available: deposit.saturating_sub(kept),
                        locked: deposit,
                        ..channel(0, 0, world.now)
                    };
                    world.open.push((opened, 0));
                }
                Event::Spend(seed, amount) => {
                    let now = at(world.now);
                    let found = world.open.iter_mut().find(|(channel, _)| {
                        channel.worker == peer(seed) && channel.phase == Phase::Open
                    });
                    if let Some((channel, promised)) = found {
                        let amount = milli(amount).min(channel.available);
                        channel.available = channel.available.saturating_sub(amount);
                        channel.last_used = now;
                        *promised += amount.nano();
                        world.purse.on_job(now, peer(seed), amount);
                        world.purse.on_spent(now, peer(seed), amount);
                    }
                }
                Event::Lease(seed, leased) => {
                    for (channel, _) in &mut world.open {
                        if channel.worker == peer(seed) && channel.phase == Phase::Open {
                            channel.leased = leased;
                        }
                    }
                }
                Event::Pass(hours, lost) => {
                    world.now += hours * HOUR_MS;
                    world.step(lost);
                }
            }
            prop_assert!(locked(&world.views()) <= config().total);
        }
        for (channel, _) in &mut world.open {
            channel.leased = false;
        }
        for _ in 0..80 {
            world.now += 12 * HOUR_MS;
            world.step(false);
        }
        prop_assert!(world.open.is_empty(), "{:?}", world.open);
        prop_assert_eq!(world.wallet + world.paid, ALL);
    }
}
