#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};

use ed25519_dalek::SigningKey;

use super::testing::{GLOBAL_ID, address, at, client_key, peer, public, ton, voucher};
use super::*;
use crate::contract::ChannelTerms;
use crate::store::group::{Engine, GroupCommit};
use crate::store::{Column, MemoryStore, Pair, Store, StoreError, WriteBatch};

/// A disk whose syncs wait for somebody to let them through.
struct GatedDisk {
    memory: MemoryStore,
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Batches whose `write` has returned.
    written: AtomicUsize,
    /// Of those, how many a sync that has returned was asked for.
    synced: AtomicUsize,
}

#[derive(Default)]
struct Gate {
    shut: bool,
    broken: bool,
    waiting: usize,
}

impl GatedDisk {
    fn new() -> Self {
        Self {
            memory: MemoryStore::new(SCHEMA),
            gate: Mutex::default(),
            changed: Condvar::new(),
            written: AtomicUsize::new(0),
            synced: AtomicUsize::new(0),
        }
    }

    fn shut(&self, shut: bool) {
        self.gate.lock().unwrap().shut = shut;
        self.changed.notify_all();
    }

    fn break_down(&self) {
        self.gate.lock().unwrap().broken = true;
    }

    /// Returns once a sync waits at the gate.
    fn until_asked(&self) {
        let mut gate = self.gate.lock().unwrap();
        while gate.waiting == 0 {
            gate = self.changed.wait(gate).unwrap();
        }
    }
}

impl Engine for GatedDisk {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.memory.scan(column, prefix, from, limit)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.memory.commit(batch)?;
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let written = self.written.load(Ordering::SeqCst);
        let mut gate = self.gate.lock().unwrap();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.shut {
            gate = self.changed.wait(gate).unwrap();
        }
        gate.waiting -= 1;
        if gate.broken {
            return Err(StoreError::Engine {
                action: "sync",
                detail: "no space left".to_owned(),
            });
        }
        self.synced.fetch_max(written, Ordering::SeqCst);
        Ok(())
    }
}

type Disk = GroupCommit<GatedDisk>;

const CHANNELS: u8 = 32;

fn worker() -> Arc<WorkerLedger<Disk>> {
    let ledger = WorkerLedger::new(GroupCommit::new(GatedDisk::new()));
    for seed in 0..CHANNELS {
        let key = public(&client_key(seed));
        ledger
            .register_channel(address(seed), peer(seed), key, ton(0))
            .unwrap();
    }
    Arc::new(ledger)
}

/// One voucher on each channel, as the cashier takes them: decided by one thread, one after the other.
fn take(
    ledger: &Arc<WorkerLedger<Disk>>,
    acknowledger: &Acknowledger,
    total: u64,
) -> Receiver<(u8, Result<NanoTon, LedgerError>, bool)> {
    let (answer, answers) = channel();
    for seed in 0..CHANNELS {
        let channel = ledger.latest_channel(&address(seed)).unwrap().unwrap();
        let checked =
            check_voucher(&voucher(seed, total), &channel, ton(u64::MAX), GLOBAL_ID).unwrap();
        let submitted = ledger.submit_voucher(&checked).unwrap();
        let mine = ledger.store.engine().written.load(Ordering::SeqCst);
        let (ledger, answer) = (Arc::clone(ledger), answer.clone());
        acknowledger.run(move || {
            let taken = ledger
                .durable(submitted)
                .map(|channel| channel.held_total());
            let is_durable = ledger.store.engine().synced.load(Ordering::SeqCst) >= mine;
            answer.send((seed, taken, is_durable)).unwrap();
        });
    }
    answers
}

#[test]
fn vouchers_of_many_channels_share_a_sync_and_none_is_answered_before_it() {
    let (ledger, acknowledger) = (worker(), Acknowledger::start());
    let disk = ledger.store.engine();
    disk.shut(true);
    let before = ledger.store.counts();
    let answers = take(&ledger, &acknowledger, 7);
    disk.until_asked();
    assert!(answers.try_recv().is_err(), "an answer before the disk's");
    // A second one on each channel is decided upon the first, which the disk does not have yet.
    let second = take(&ledger, &acknowledger, 9);
    assert!(answers.try_recv().is_err() && second.try_recv().is_err());
    disk.shut(false);
    for (answers, total) in [(answers, 7), (second, 9)] {
        for (expected, (seed, taken, is_durable)) in (0..CHANNELS).zip(answers.iter()) {
            assert_eq!((seed, taken.unwrap()), (expected, ton(total)));
            assert!(is_durable, "voucher {seed} was answered before its sync");
        }
    }
    let after = ledger.store.counts();
    assert_eq!(after.commits - before.commits, 2 * u64::from(CHANNELS));
    // One that had begun when most were not written yet, and one for the rest.
    let syncs = after.syncs - before.syncs;
    assert!(syncs <= 2, "{syncs} syncs for {} vouchers", 2 * CHANNELS);
}

#[test]
fn when_the_disk_fails_nobody_hears_that_a_voucher_is_kept() {
    let (ledger, acknowledger) = (worker(), Acknowledger::start());
    let disk = ledger.store.engine();
    disk.shut(true);
    let answers = take(&ledger, &acknowledger, 7);
    disk.until_asked();
    disk.break_down();
    disk.shut(false);
    for (_, taken, _) in answers.iter().take(usize::from(CHANNELS)) {
        assert!(taken.is_err());
    }
}

#[test]
fn a_refusal_that_says_i_have_it_is_true_on_the_disk() {
    let ledger = worker();
    let disk = ledger.store.engine();
    let channel = ledger.latest_channel(&address(1)).unwrap().unwrap();
    let checked = check_voucher(&voucher(1, 7), &channel, ton(50), GLOBAL_ID).unwrap();
    let first = ledger.submit_voucher(&checked).unwrap();
    let again = ledger.submit_voucher(&checked).unwrap();
    let written = disk.written.load(Ordering::SeqCst);
    let refused = ledger.durable(again);
    assert!(matches!(refused, Err(LedgerError::NotIncreasing { .. })));
    assert_eq!(disk.synced.load(Ordering::SeqCst), written);
    assert_eq!(ledger.durable(first).unwrap().held_total(), ton(7));
}

#[test]
fn signatures_over_many_channels_share_a_sync_and_none_leaves_before_it() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let ledger = Arc::new(ClientLedger::new(GroupCommit::new(GatedDisk::new())));
    for seed in 0..CHANNELS {
        let terms = ChannelTerms {
            client: address(200),
            worker: address(201),
            client_key: public(&key),
            nonce: seed.into(),
            close_delay_s: 1,
        };
        let opening = ChannelOpening {
            worker: peer(1),
            address: address(seed),
            terms,
            deposit: ton(100),
            reserve: ton(1),
            valid_until: 1,
        };
        ledger.open_channel(opening, at(1)).unwrap();
        ledger.record_open(&address(seed), ton(100)).unwrap();
    }
    let disk = ledger.store.engine();
    disk.shut(true);
    let before = ledger.store.counts();
    let acknowledger = Acknowledger::start();
    let (answer, answers) = channel();
    for seed in 0..CHANNELS {
        let submitted = ledger
            .submit_signature(&address(seed), ton(7), &key, GLOBAL_ID, at(2))
            .unwrap();
        let (ledger, answer) = (Arc::clone(&ledger), answer.clone());
        acknowledger.run(move || answer.send(ledger.durable(submitted)).unwrap());
    }
    disk.until_asked();
    assert!(answers.try_recv().is_err(), "a signature before the disk's");
    disk.shut(false);
    for (seed, signed) in (0..CHANNELS).zip(answers.iter()) {
        let signed = signed.unwrap();
        assert_eq!(signed.voucher.channel, address(seed));
        signed.verify(&key.verifying_key(), GLOBAL_ID).unwrap();
    }
    let syncs = ledger.store.counts().syncs - before.syncs;
    assert!(syncs <= 2, "{syncs} syncs for {CHANNELS} signatures");
}
