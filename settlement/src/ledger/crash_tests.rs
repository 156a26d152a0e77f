//! Kill the worker or the client at every point there is, start it again, go on to the end: no voucher lost, none claimed
//! twice, the sequence of roots unbroken, the sums exact. On the real contracts, in a devnet in this process.
//!
//! A point is a place where a process may die: before a write, between a write and its `fsync` (with the unsynced data
//! lost, or kept), after the `fsync`; before and after a message is handed over. A message may also arrive without its
//! answer, or get lost without a word. `docs/ledger.md` says how many there are; the tests print it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::check::check;
use super::crash_world::{Death, Life, Medium, Who, World, now, worker_peer};
use super::leaves::publish;
use super::testing::{GLOBAL_ID, address, at, client_key, job, peer, public, ton, voucher};
use super::{SCHEMA, WorkerLedger, check_voucher};
use crate::audit::audit;
use crate::store::fault::{Fate, Faults, Sending};
use crate::store::{MemoryStore, RocksStore};

/// What happens to one of the two in one of its lives.
#[derive(Clone, Copy, Debug)]
struct Mishap {
    who: Who,
    kill_at: Option<u32>,
    fate: Fate,
    bad_send: Option<(u32, Sending)>,
}

impl Mishap {
    fn kill(who: Who, point: u32, fate: Fate) -> Self {
        Self {
            who,
            kill_at: Some(point),
            fate,
            bad_send: None,
        }
    }

    fn faults(&self) -> Arc<Faults> {
        Faults::with(self.kill_at, self.fate, self.bad_send)
    }
}

/// What a story passed through.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    deaths: u32,
    /// Whether a first life ended with something written and not synced.
    in_doubt: bool,
    /// Points and sends of the first life of each.
    worker: (u32, u32),
    client: (u32, u32),
}

fn memory() -> BTreeMap<Who, Medium> {
    let disk = || Medium::Memory(Arc::new(MemoryStore::new(SCHEMA)));
    BTreeMap::from([(Who::Worker, disk()), (Who::Client, disk())])
}

/// Lives through the mishaps, each one's in turn, then to the end; checks everything.
fn live_through(mishaps: &[Mishap], disks: BTreeMap<Who, Medium>) -> Passed {
    let mut world = World::new(disks);
    let mut waiting: BTreeMap<Who, VecDeque<Mishap>> = BTreeMap::new();
    for mishap in mishaps {
        waiting.entry(mishap.who).or_default().push_back(*mishap);
    }
    let mut next = |who: Who| {
        let mishap = waiting.get_mut(&who).and_then(VecDeque::pop_front);
        mishap.map_or_else(|| Faults::new(None, Fate::Lost), |mishap| mishap.faults())
    };
    let mut life = Life::new(&world, next(Who::Worker), next(Who::Client));
    let (worker, client) = (life.worker_faults.clone(), life.client_faults.clone());
    let mut deaths = 0;
    while let Err(Death(who)) = world.live(&mut life) {
        deaths += 1;
        assert!(deaths <= 9, "{mishaps:?}: it never ends");
        // By the time a new process is up, what the old one sent may have been applied, or still be on its way.
        if deaths % 2 == worker.passed() % 2 {
            world.block(5);
        }
        life = life.reboot(&world, who, next(who));
    }
    check_everything(&world, &life, mishaps);
    Passed {
        deaths,
        in_doubt: worker.was_in_doubt() || client.was_in_doubt(),
        worker: (worker.passed(), worker.sends()),
        client: (client.passed(), client.sends()),
    }
}

fn check_everything(world: &World, life: &Life, mishaps: &[Mishap]) {
    let (worker, client) = (&life.worker, &life.client);
    // None claimed twice, nothing committed twice: not even an attempt reached the chain.
    assert_eq!(world.duplicates, Vec::<String>::new(), "{mishaps:?}");
    // No voucher lost: everything ever signed was paid, once, and not a nanoTON more.
    let mut signed = BTreeMap::new();
    client
        .for_each_channel(|channel| {
            signed.insert(channel.address, channel.signed_total());
            Ok(())
        })
        .unwrap();
    let mut paid = 0;
    for (channel, total) in &signed {
        let claimed = world.claimed(*channel);
        assert_eq!(claimed, *total, "channel {channel}, {mishaps:?}");
        let acknowledged = world.acknowledged.get(channel).copied();
        assert!(acknowledged.unwrap_or_default() <= claimed, "{mishaps:?}");
        paid += claimed.nano();
        let claims = world.history(*channel);
        let claims = claims
            .iter()
            .filter(|seen| seen.source.is_none() && seen.success)
            .count();
        let recorded = worker.claims(channel, 99).unwrap();
        assert_eq!(recorded.len(), claims, "{mishaps:?}");
        let sum: u64 = recorded.iter().map(|claim| claim.amount.nano()).sum();
        assert_eq!(sum, claimed.nano(), "{mishaps:?}");
    }
    // The sequence of roots is unbroken: one transaction for each batch, and what the contract holds is the last.
    let batches = worker.batches(0, 99).unwrap();
    let commits = world.history(world.ledger_address());
    let commits = commits
        .iter()
        .filter(|seen| seen.source.is_none() && seen.success)
        .count();
    assert_eq!(commits, batches.len(), "{mishaps:?}");
    let view = world.ledger_view().unwrap();
    assert_eq!(view, batches.last().unwrap().into(), "{mishaps:?}");
    assert_eq!(view.total.nano(), paid, "{mishaps:?}");
    // The ledger agrees with the chain, and every entry has its proof.
    let summary = worker.summary().unwrap();
    assert_eq!(summary.claimed.nano(), paid, "{mishaps:?}");
    assert_eq!(summary.unclaimed, ton(0), "{mishaps:?}");
    assert_eq!((summary.open_jobs, summary.unsettled_entries), (0, 0));
    assert_eq!(summary.entries, view.jobs);
    for index in 0..summary.entries {
        let proven = worker.prove_entry(index).unwrap();
        let leaf = proven.entry.leaf_hash();
        assert!(proven.proof.leads(leaf, proven.batch.root()));
    }
    // Every job ended exactly once, on both sides.
    for n in 1..=world.opened {
        for record in [worker.job(&job(n)).unwrap(), client.job(&job(n)).unwrap()] {
            assert!(record.is_none_or(|record| record.end.is_some()), "job {n}");
        }
    }
    // And each disk agrees with itself, record by record.
    for store in [&worker.store, &client.store] {
        let report = check(store, Some(crate::devnet::GLOBAL_ID)).unwrap();
        assert!(report.is_clean(), "{mishaps:?}: {:?}", report.findings);
    }
    // And a stranger, who has only the chain and the published leaves, finds nothing either.
    let mut leaves = Vec::new();
    publish(worker, world.ledger_address(), &mut leaves).unwrap();
    let audited = audit(&world.chain, world.ledger_address(), &leaves[..], |_| {});
    let audited = now(audited).unwrap();
    assert!(audited.is_clean(), "{mishaps:?}: {:?}", audited.findings);
    assert_eq!((audited.jobs, audited.credited.nano()), (view.jobs, paid));
    assert_eq!(
        client.channels_with(&worker_peer()).unwrap().len(),
        signed.len()
    );
}

#[test]
fn whoever_is_killed_at_any_point_no_voucher_is_lost_and_none_is_claimed_twice() {
    let whole = live_through(&[], memory());
    let (mut stories, mut in_doubt) = (0, 0);
    for (who, points) in [(Who::Worker, whole.worker.0), (Who::Client, whole.client.0)] {
        for point in 1..=points {
            for fate in [Fate::Lost, Fate::Kept(usize::MAX)] {
                let passed = live_through(&[Mishap::kill(who, point, fate)], memory());
                assert_eq!(passed.deaths, 1, "{who:?} outlived point {point}");
                stories += 1;
                // Only between a write and its sync does the disk's fate make another story.
                if !passed.in_doubt {
                    break;
                }
                in_doubt += u32::from(fate == Fate::Lost);
            }
        }
    }
    println!(
        "killed at each of {} points of the worker and {} of the client, at {in_doubt} of them with unsynced data, lost \
         and kept: {stories} stories",
        whole.worker.0, whole.client.0
    );
    assert!(
        in_doubt >= 100,
        "only {in_doubt} points between a write and its sync"
    );
    assert!(whole.worker.0 >= 100, "only {} points", whole.worker.0);
    assert!(whole.client.0 >= 60, "only {} points", whole.client.0);
}

#[test]
fn whatever_message_or_answer_is_lost_the_sums_are_exact() {
    let whole = live_through(&[], memory());
    let mut stories = 0;
    for (who, sends) in [(Who::Worker, whole.worker.1), (Who::Client, whole.client.1)] {
        for number in 1..=sends {
            for sending in [Sending::AnswerLost, Sending::Lost] {
                let mishap = Mishap {
                    who,
                    kill_at: None,
                    fate: Fate::Lost,
                    bad_send: Some((number, sending)),
                };
                live_through(&[mishap], memory());
                stories += 1;
            }
        }
    }
    println!(
        "lost each of {} messages of the worker and {} of the client, or only its answer: {stories} stories",
        whole.worker.1, whole.client.1
    );
    assert!(whole.worker.1 >= 10 && whole.client.1 >= 8, "{whole:?}");
}

/// A generator of reproducible choices: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(limit)).unwrap()
    }
}

#[test]
fn several_deaths_of_both_one_of_them_while_it_recovers_leave_the_sums_exact() {
    let whole = live_through(&[], memory());
    let mut seen = BTreeSet::new();
    let mut deaths = 0;
    for seed in 0..60 {
        let mut choice = Seeded(seed);
        let mut mishaps = Vec::new();
        for (who, points) in [(Who::Worker, whole.worker.0), (Who::Client, whole.client.0)] {
            // The second and third death come soon: in the midst of recovering.
            for limit in [points, 24, points] {
                let point = 1 + choice.below(limit);
                let fate = Fate::Kept(usize::try_from(choice.below(3)).unwrap());
                mishaps.push(Mishap::kill(who, point, fate));
                seen.insert((who, point));
            }
        }
        let passed = live_through(&mishaps, memory());
        assert!(passed.deaths >= 2, "seed {seed}: {passed:?}");
        deaths += passed.deaths;
    }
    println!(
        "{deaths} deaths in 60 stories, at {} different points",
        seen.len()
    );
}

/// The same stories on directories of RocksDB, closed and opened at each death; every fifteenth point.
#[test]
fn on_rocksdb_a_killed_worker_finds_everything_again() {
    let whole = live_through(&[], memory());
    let mut stories = 0;
    for point in (1..=whole.worker.0).step_by(15) {
        let dir = tempfile::tempdir().unwrap();
        let mut disks = memory();
        disks.insert(Who::Worker, Medium::Directory(dir.path().to_path_buf()));
        let kill = Mishap::kill(Who::Worker, point, Fate::Kept(1));
        let passed = live_through(&[kill], disks);
        assert_eq!(passed.deaths, 1);
        stories += 1;
    }
    println!("killed at {stories} points, on RocksDB");
}

/// The same with a real death: the child process aborts at the point, nothing is closed or flushed.
#[test]
fn a_voucher_accepted_before_an_abort_is_there_afterwards() {
    const DIR: &str = "COCOON_TEST_ABORT_DIR";
    if let Ok(dir) = std::env::var(DIR) {
        let ledger = WorkerLedger::new(RocksStore::open(dir, SCHEMA).unwrap());
        let key = public(&client_key(1));
        let mut channel = ledger
            .register_channel(address(1), peer(1), key, ton(0))
            .unwrap();
        ledger.open_job(job(1), peer(1), address(1), at(1)).unwrap();
        for total in 1..=50 {
            let checked =
                check_voucher(&voucher(1, total), &channel, ton(10_000), GLOBAL_ID).unwrap();
            channel = ledger.accept_voucher(&checked).unwrap();
        }
        std::process::abort();
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ledger::crash_tests::a_voucher_accepted_before_an_abort_is_there_afterwards",
        ])
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        status.code(),
        None,
        "the child should have been killed by its abort"
    );
    let ledger = WorkerLedger::new(RocksStore::open(dir.path(), SCHEMA).unwrap());
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    assert_eq!(channel.held_total(), ton(50));
    let recovered = ledger.recover(at(2)).unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].entry.as_ref().unwrap().credited, ton(50));
    assert!(ledger.recover(at(3)).unwrap().is_empty());
}
