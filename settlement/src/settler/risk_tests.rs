//! The settler's policy under random work: what is claimed is worth it, and what is at risk stays within its limits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, VecDeque};

use cocoon_protocol::Outcome;
use proptest::prelude::*;

use super::*;
use crate::chain::Prices;
use crate::ledger::testing::{
    GLOBAL_ID, MODEL_MIN_CLAIM, ModelChain, address, at, client_key, job, peer, public, ton,
    voucher,
};
use crate::ledger::{SCHEMA, WorkerLedger, check_voucher};
use crate::store::MemoryStore;

const CHANNELS: u8 = 4;
const DEPOSIT: u64 = 100_000;
const CLAIM_FEE: u64 = 20;
const COMMIT_FEE: u64 = 10;
const CHANNEL_RISK: u64 = 900;
const TOTAL_RISK: u64 = 1_500;
const WATCH_S: u32 = 20;

fn config() -> SettlerConfig {
    SettlerConfig {
        batch_entries: 50,
        batch_credit: ton(700),
        batch_age_ms: 30_000,
        anchor_age_ms: 200_000,
        commit_ttl_s: 20,
        claim_retry_s: 20,
        claim_fee: ton(CLAIM_FEE),
        commit_fee: ton(COMMIT_FEE),
        claim_fee_multiple: 40,
        contract_min_claim: ton(MODEL_MIN_CLAIM),
        channel_risk: ton(CHANNEL_RISK),
        total_risk: ton(TOTAL_RISK),
        claim_age_ms: 300_000,
        look_ms: 1_000,
        idle_look_ms: 5_000,
        watch_ms: u64::from(WATCH_S) * 1_000,
        ..SettlerConfig::new(address(200))
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A job on a channel that pays so much.
    Serve(u8, u64),
    /// Seconds pass.
    Pass(u32),
    /// The client starts to close: so many seconds are left.
    StartClose(u8, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (1..=CHANNELS, 1_u64..400).prop_map(|(seed, amount)| Event::Serve(seed, amount)),
        4 => (1_u32..40).prop_map(Event::Pass),
        1 => (1..=CHANNELS, 100_u32..200).prop_map(|(seed, left)| Event::StartClose(seed, left)),
    ]
}

struct World {
    now: UnixMillis,
    chain: ModelChain,
    ledger: WorkerLedger<MemoryStore>,
    settler: Settler,
    jobs: u64,
    signed: BTreeMap<u8, u64>,
    stopped: Vec<(u8, UnixMillis)>,
    claims: Vec<u64>,
    commits: usize,
    /// Commits since an entry was made.
    idle_commits: usize,
}

impl World {
    fn new() -> Self {
        let ledger = WorkerLedger::new(MemoryStore::new(SCHEMA));
        let mut chain = ModelChain::at(1_000);
        chain.deploy_ledger();
        for seed in 1..=CHANNELS {
            chain.open(seed, DEPOSIT);
            let key = public(&client_key(seed));
            ledger
                .register_channel(address(seed), peer(seed), key, ton(0))
                .unwrap();
        }
        let settler = Settler::new(config(), ledger.settler_start().unwrap());
        let mut world = Self {
            now: at(1_000_000),
            chain,
            ledger,
            settler,
            jobs: 0,
            signed: BTreeMap::new(),
            stopped: Vec::new(),
            claims: Vec::new(),
            commits: 0,
            idle_commits: 0,
        };
        world.drive(SettlerInput::Tick);
        world
    }

    fn drive(&mut self, input: SettlerInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.settler.handle(self.now, input) {
                inputs.extend(self.ledger.perform(self.now, &output, 50).unwrap());
                let unix = self.chain.unix;
                match output {
                    SettlerOutput::SubmitCommit(commit) => {
                        self.commits += 1;
                        self.idle_commits += 1;
                        assert!(self.idle_commits <= 1, "a commit without a new entry");
                        let result = self.chain.send_commit(&commit);
                        let seqno = commit.seqno;
                        inputs.push_back(SettlerInput::CommitSent { seqno, result });
                    }
                    SettlerOutput::SubmitClaim { channel, voucher } => {
                        let cumulative = voucher.voucher.cumulative;
                        let before = self.chain.channels[&channel].claimed;
                        self.claims.push(cumulative.nano() - before);
                        let result = self.chain.send_claim(&voucher);
                        inputs.push_back(SettlerInput::ClaimSent {
                            channel,
                            cumulative,
                            result,
                        });
                    }
                    SettlerOutput::LookAtLedger => inputs.push_back(SettlerInput::Ledger {
                        unix,
                        view: self.chain.ledger_view(),
                    }),
                    SettlerOutput::LookAtChannel(channel) => {
                        inputs.push_back(SettlerInput::Channel {
                            unix,
                            channel,
                            view: self.chain.channel_view(&channel),
                        });
                    }
                    SettlerOutput::StopServing { channel, .. } => {
                        self.stopped.push((channel.hash[0], self.now));
                    }
                    _ => {}
                }
            }
        }
    }

    fn is_open(&self, seed: u8) -> bool {
        // One that has not come is not closing either.
        let channel = self.chain.channels.get(&address(seed));
        channel.is_none_or(|channel| channel.close_at.is_none() && !channel.finished)
    }

    fn serve(&mut self, seed: u8, amount: u64) {
        // As the cashier does: no job on a channel that is closing.
        if !self.is_open(seed) {
            return;
        }
        self.idle_commits = 0;
        self.jobs += 1;
        let id = job(self.jobs);
        let channel = address(seed);
        self.ledger
            .open_job(id, peer(seed), channel, self.now)
            .unwrap();
        let total = self.signed.entry(seed).or_default();
        *total += amount;
        let signed = voucher(seed, *total);
        let known = self.ledger.channel(&channel).unwrap().unwrap();
        let checked = check_voucher(&signed, &known, ton(DEPOSIT), GLOBAL_ID).unwrap();
        self.ledger.accept_voucher(&checked).unwrap();
        self.ledger
            .close_job(&id, &Outcome::ClientLost, None, self.now)
            .unwrap();
        let unsettled = self.ledger.unsettled().unwrap();
        self.drive(SettlerInput::Unsettled(unsettled));
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now = self.now.saturating_add(1_000);
            self.chain.block(1);
            let unix = self.chain.unix;
            for channel in self.chain.channels.values_mut() {
                channel.finished |= channel.close_at.is_some_and(|at| unix >= at);
            }
            self.drive(SettlerInput::Tick);
        }
    }

    fn owed(&self, seed: u8) -> u64 {
        let signed = self.signed.get(&seed).copied().unwrap_or_default();
        signed - self.chain.channels[&address(seed)].claimed
    }
}

/// Long enough for a batch that is open, another one, and the claims after it.
const SETTLING_S: u32 = 12;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_claim_costs_more_than_it_brings_and_no_risk_outlasts_a_few_blocks(
        events in proptest::collection::vec(event(), 1..60)
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Serve(seed, amount) => world.serve(seed, amount),
                Event::Pass(seconds) => world.pass(seconds),
                Event::StartClose(seed, left) => {
                    let unix = world.chain.unix;
                    let channel = world.chain.channels.get_mut(&address(seed)).unwrap();
                    channel.close_at.get_or_insert(unix + left);
                }
            }
        }
        world.pass(SETTLING_S);
        let worth = CLAIM_FEE + 1;
        prop_assert!(world.claims.iter().all(|amount| *amount >= worth), "{:?}", world.claims);
        let owed: Vec<_> = (1..=CHANNELS).map(|seed| world.owed(seed)).collect();
        prop_assert!(owed.iter().all(|owed| *owed < CHANNEL_RISK), "{owed:?}");
        prop_assert!(owed.iter().sum::<u64>() < TOTAL_RISK, "{owed:?}");
        prop_assert!(world.chain.duplicates.is_empty());

        // However long it takes: in the end only what is not worth its fee is left, also on channels that were closed.
        world.pass(1_000);
        for seed in 1..=CHANNELS {
            prop_assert!(world.owed(seed) < worth, "channel {seed}: {}", world.owed(seed));
        }
        let commits = world.commits;
        world.pass(1_000);
        prop_assert_eq!(world.commits, commits, "a commit although nothing changed");
    }
}

#[test]
fn a_client_that_closes_is_noticed_before_anything_is_covered_and_then_claimed_from_at_once() {
    let mut world = World::new();
    world.serve(1, 60);
    world.pass(25);
    assert_eq!(world.commits, 0, "nothing is due");
    let left = 150;
    let close_at = world.chain.unix + left;
    let channel = world.chain.channels.get_mut(&address(1)).unwrap();
    channel.close_at = Some(close_at);
    let before = world.now;
    world.pass(WATCH_S + 1);
    let [(1, noticed)] = world.stopped[..] else {
        panic!("not told once: {:?}", world.stopped);
    };
    assert!(noticed.saturating_since(before) <= u64::from(WATCH_S) * 1_000);
    world.pass(4);
    assert_eq!(world.owed(1), 0);
    // What a job that was running still brings is claimed too.
    world.chain.channels.get_mut(&address(1)).unwrap().close_at = None;
    world.serve(1, 70);
    world.chain.channels.get_mut(&address(1)).unwrap().close_at = Some(close_at);
    world.pass(WATCH_S + 5);
    assert_eq!(world.owed(1), 0);
}

#[test]
fn a_channel_that_closes_with_less_than_a_claims_fee_on_it_is_let_go() {
    let mut world = World::new();
    world.serve(1, CLAIM_FEE);
    let close_at = world.chain.unix + 60;
    let channel = world.chain.channels.get_mut(&address(1)).unwrap();
    channel.close_at = Some(close_at);
    world.pass(100);
    assert_eq!((world.claims.len(), world.owed(1)), (0, CLAIM_FEE));
}

#[test]
fn an_old_entry_waits_until_it_pays_for_its_commit_but_not_for_ever() {
    let mut world = World::new();
    world.serve(1, COMMIT_FEE - 1);
    world.pass(190);
    assert_eq!(world.commits, 0);
    world.pass(15);
    assert_eq!(world.commits, 1);
    world.serve(1, COMMIT_FEE);
    world.pass(29);
    assert_eq!(world.commits, 1);
    world.pass(5);
    assert_eq!(world.commits, 2);
}

#[test]
fn a_covered_voucher_does_not_wait_longer_than_the_operator_said() {
    let mut world = World::new();
    world.serve(1, 100);
    world.pass(60);
    assert_eq!((world.commits, world.claims.len()), (1, 0));
    world.pass(300);
    assert_eq!(world.claims, [100]);
}

#[test]
fn when_all_channels_together_owe_too_much_the_largest_is_claimed_and_the_small_ones_wait() {
    let mut world = World::new();
    for (seed, amount) in [(1, 300), (2, 390), (3, 410), (4, 390)] {
        world.serve(seed, amount);
    }
    world.pass(60);
    assert!(world.claims.is_empty(), "{:?}", world.claims);
    world.serve(1, 10);
    world.pass(10);
    assert_eq!(world.claims, [410]);
}

#[test]
fn on_a_channel_that_is_not_there_nothing_is_claimed_until_it_is() {
    let mut world = World::new();
    let key = public(&client_key(9));
    world
        .ledger
        .expect_channel(address(9), peer(9), key, world.now)
        .unwrap();
    world.serve(9, TOTAL_RISK);
    world.pass(60);
    assert_eq!((world.commits, world.claims.len()), (1, 0));
    // What may never come holds nobody up who wants everything settled.
    world.drive(SettlerInput::Flush);
    world.pass(SETTLING_S);
    assert!(world.settler.is_settled() && world.claims.is_empty());

    world.chain.open(9, DEPOSIT);
    world.pass(2 * WATCH_S);
    assert_eq!(world.claims, [TOTAL_RISK]);
}

#[test]
fn the_threshold_follows_the_prices() {
    let mut world = World::new();
    world.serve(1, 850);
    world.pass(10);
    assert_eq!(world.claims, [850], "40 fees are 800");
    // Gas became dearer: a claim costs 30 now.
    let prices = Prices {
        gas: (30 << 16) / 5_000,
        flat_gas_limit: 0,
        flat_gas_price: 0,
        message: 0,
        message_bit: 0,
        message_cell: 0,
        storage_bit: 0,
        storage_cell: 0,
    };
    assert_eq!(claim_fee(&prices), ton(30));
    world.drive(SettlerInput::Prices(prices));
    world.serve(1, 850);
    world.pass(10);
    assert_eq!(world.claims.len(), 1, "40 fees are 1,200 now");
    world.serve(1, 60);
    world.pass(10);
    assert_eq!(world.claims, [850, 910], "more than one client may owe");
}

#[test]
fn the_chain_is_asked_for_its_prices_until_it_answers_and_then_seldom() {
    let mut settler = Settler::new(config(), SettlerStart::default());
    settler.handle(
        at(1),
        SettlerInput::Ledger {
            unix: 1,
            view: None,
        },
    );
    let asked = |settler: &mut Settler, now| {
        let outputs = settler.handle(at(now), SettlerInput::Tick);
        outputs.contains(&SettlerOutput::LookAtPrices)
    };
    // The first came with the ledger's view.
    let answers: Vec<_> = [1_000, 5_001, 6_000, 10_001]
        .map(|now| asked(&mut settler, now))
        .into();
    assert_eq!(answers, [false, true, false, true]);
    let prices = crate::devnet::Devnet::in_memory(1_800_000_000)
        .unwrap()
        .prices();
    settler.handle(at(10_002), SettlerInput::Prices(prices));
    assert!(asked(&mut settler, 20_000));
    assert!(!asked(&mut settler, 3_619_000));
    assert!(asked(&mut settler, 3_620_000));
}
