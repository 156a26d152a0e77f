//! Closing together, with everything that can happen on the way: a question that is lost, a worker that refuses, agrees and
//! does nothing, or sends the release late; a client that starts anew in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;
use crate::ledger::testing::{address, at, peer};

const DELAY_S: u32 = 86_400;
const START_MS: u64 = 1_800_000_000_000;

/// What the worker does with a question.
#[derive(Clone, Copy, Debug)]
enum Manners {
    /// It never arrives, or nobody answers.
    Silent,
    /// It refuses for good.
    Refuses,
    /// It asks to be asked later.
    Busy,
    /// It agrees, and its answer is lost.
    AgreesUnheard,
    /// It agrees.
    Agrees,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Seconds pass, then the client looks around; its message to the chain may be lost.
    Round(u64, Manners, bool),
    /// The worker sends the release, if it has one.
    Release,
    /// The client's process ends and starts.
    Restart,
}

/// The contract.
#[derive(Clone, Copy, Debug)]
struct Contract {
    balance: u64,
    close_at: Option<u32>,
    finished: bool,
}

struct World {
    purse: Purse,
    now: u64,
    /// What the client has on disk.
    noted: Phase,
    /// The release that the worker holds pays so much.
    release: Option<u64>,
    contract: Contract,
    signed: u64,
    wallet: u64,
    worker: u64,
    /// Chain time of the first question.
    asked: Option<u32>,
}

const DEPOSIT: u64 = 1_000_000_000;

fn config() -> PurseConfig {
    PurseConfig {
        unused_ms: 0,
        retry_ms: 60_000,
        ..PurseConfig::new(NanoTon::from_nano(DEPOSIT), NanoTon::from_nano(DEPOSIT))
    }
}

impl World {
    fn new(signed: u64) -> Self {
        Self {
            purse: Purse::new(config(), at(START_MS)),
            now: START_MS,
            noted: Phase::Open,
            release: None,
            contract: Contract {
                balance: DEPOSIT,
                close_at: None,
                finished: false,
            },
            signed,
            wallet: 0,
            worker: 0,
            asked: None,
        }
    }

    fn unix(&self) -> u32 {
        u32::try_from(self.now / 1_000).unwrap()
    }

    /// The whole deposit leaves: what was signed to the worker, the rest to the client.
    fn finish(&mut self, to_worker: u64) {
        assert!(!self.contract.finished, "it pays once");
        self.contract.finished = true;
        self.worker += to_worker;
        self.wallet += self.contract.balance - to_worker;
        self.contract.balance = 0;
    }

    fn restart(&mut self) {
        self.purse = Purse::new(config(), at(self.now));
    }

    fn round(&mut self, manners: Manners, lost: bool) {
        if self.contract.finished {
            return;
        }
        let unix = self.unix();
        // What the chain shows is noted.
        let phase = match (self.noted, self.contract.close_at) {
            (Phase::Open, _) => Phase::Open,
            (_, Some(close_at)) => Phase::Closing {
                close_at: Some(close_at),
            },
            (Phase::Closing { .. }, None) => Phase::Closing { close_at: None },
            (together, None) => together,
        };
        let channel = PurseChannel {
            address: address(1),
            worker: peer(1),
            available: NanoTon::from_nano(DEPOSIT - self.signed),
            locked: NanoTon::from_nano(DEPOSIT),
            phase,
            leased: false,
            last_used: at(START_MS),
        };
        let plan = self
            .purse
            .plan(at(self.now), unix, NanoTon::ZERO, NanoTon::ZERO, &[channel]);
        for planned in plan {
            match planned {
                Move::Together(_) => {
                    if self.noted == Phase::Open {
                        self.asked = Some(unix);
                        let until = unix + config().together_s;
                        self.noted = Phase::Together {
                            until,
                            agreed: false,
                        };
                    }
                    self.ask(manners);
                }
                Move::StartClose(_) => {
                    self.noted = Phase::Closing { close_at: None };
                    if !lost && self.contract.close_at.is_none() {
                        self.contract.close_at = Some(unix + DELAY_S);
                    }
                }
                Move::Finish(_) => {
                    assert!(self.contract.close_at.is_some_and(|at| unix >= at));
                    if !lost {
                        // The worker has claimed what was promised in the delay.
                        self.finish(self.signed);
                    }
                }
                Move::TopUp { .. } => panic!("a channel that is to be closed is filled up"),
            }
        }
    }

    fn ask(&mut self, manners: Manners) {
        let (heard, agrees) = match manners {
            Manners::Silent => return,
            Manners::Busy => return,
            Manners::Refuses => {
                // A worker that has agreed says so again.
                (true, self.release.is_some())
            }
            Manners::AgreesUnheard => (false, true),
            Manners::Agrees => (true, true),
        };
        if agrees {
            self.release = Some(self.signed);
        }
        match (heard, agrees, &mut self.noted) {
            (true, true, Phase::Together { agreed, .. }) => *agreed = true,
            (true, false, noted) => {
                *noted = Phase::Closing { close_at: None };
                self.purse.on_refused(&address(1));
            }
            _ => {}
        }
    }
}

fn manners() -> impl Strategy<Value = Manners> {
    prop_oneof![
        Just(Manners::Silent),
        Just(Manners::Refuses),
        Just(Manners::Busy),
        Just(Manners::AgreesUnheard),
        Just(Manners::Agrees),
    ]
}

proptest! {
    #[test]
    fn the_rest_comes_back_once_and_whole_whatever_the_worker_does(
        signed in 0_u64..DEPOSIT,
        events in proptest::collection::vec(prop_oneof![
            4 => (1_u64..400, manners(), any::<bool>())
                .prop_map(|(seconds, manners, lost)| Event::Round(seconds, manners, lost)),
            1 => Just(Event::Release),
            1 => Just(Event::Restart),
        ], 1..40)
    ) {
        let mut world = World::new(signed);
        for event in events {
            match event {
                Event::Round(seconds, manners, lost) => {
                    world.now += seconds * 1_000;
                    world.round(manners, lost);
                }
                Event::Release => {
                    if let (Some(total), false) = (world.release, world.contract.finished) {
                        world.finish(total);
                    }
                }
                Event::Restart => world.restart(),
            }
            // Nothing is signed once the worker was asked; whoever waits, waits no longer than it may.
            prop_assert!(world.release.is_none() || world.noted != Phase::Open);
        }
        // From here on the worker is gone, and the chain takes every message.
        for _ in 0..2 * (u64::from(DELAY_S) + 1_200) / 100 {
            world.now += 100_000;
            world.round(Manners::Silent, false);
        }
        prop_assert!(world.contract.finished);
        prop_assert_eq!((world.worker, world.wallet), (signed, DEPOSIT - signed));
    }

    #[test]
    fn a_silent_worker_delays_the_end_by_no_more_than_the_time_to_answer(
        step in 1_u64..200, manners in prop_oneof![Just(Manners::Silent), Just(Manners::Agrees), Just(Manners::Busy)]
    ) {
        let mut world = World::new(5);
        for _ in 0..(2_000 / step + 2) {
            world.now += step * 1_000;
            world.round(manners, false);
        }
        let (asked, close_at) = (world.asked.unwrap(), world.contract.close_at.unwrap());
        let waited = close_at - DELAY_S - asked;
        // A round late, and a pause between two moves on one channel.
        let most = u64::from(config().together_s) + step + config().retry_ms / 1_000;
        prop_assert!(u64::from(waited) <= most, "{waited} s, at most {most}");
    }
}
