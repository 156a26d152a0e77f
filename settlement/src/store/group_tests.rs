//! Group commit, counted at the engine: no clock decides anything here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::{Condvar, Mutex};

use super::fault::{Fate, Faults, fault_store};
use super::group::{Engine, GroupCommit};
use super::{
    Column, MAX_UNDURABLE, MemoryStore, Pair, RocksStore, Schema, Store, StoreError, WriteBatch,
};

const RED: Column = Column::new("red");
const SCHEMA: Schema = Schema {
    name: "colours",
    version: 1,
    columns: &[RED],
    migrations: &[],
};

fn batch(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put_raw(RED, key.into(), key.into());
    batch
}

/// A disk whose syncs wait until so many batches have been written.
struct SlowDisk {
    memory: MemoryStore,
    patient_until: usize,
    broken: bool,
    seen: Mutex<Seen>,
    written: Condvar,
}

#[derive(Default)]
struct Seen {
    writes: usize,
    syncs: usize,
}

impl SlowDisk {
    fn new(patient_until: usize, broken: bool) -> Self {
        Self {
            memory: MemoryStore::new(SCHEMA),
            patient_until,
            broken,
            seen: Mutex::new(Seen::default()),
            written: Condvar::new(),
        }
    }
}

impl Engine for SlowDisk {
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
        self.seen.lock().unwrap().writes += 1;
        self.written.notify_all();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().unwrap();
        seen.syncs += 1;
        while seen.writes < self.patient_until {
            seen = self.written.wait(seen).unwrap();
        }
        if self.broken {
            return Err(StoreError::Engine {
                action: "sync",
                detail: "no space left".to_owned(),
            });
        }
        Ok(())
    }
}

const COMMITTERS: usize = 64;

#[test]
fn commits_at_the_same_time_share_a_sync() {
    let store = GroupCommit::new(SlowDisk::new(COMMITTERS, false));
    std::thread::scope(|scope| {
        for n in 0..COMMITTERS {
            let store = &store;
            scope.spawn(move || store.commit(batch(&format!("{n:03}"))).unwrap());
        }
    });
    // The first sync began before all had written; what came while it ran went with the second. The last may have been
    // written and not yet numbered when the second began.
    let counts = store.counts();
    assert_eq!(counts.commits, COMMITTERS as u64);
    assert!(counts.syncs <= 3, "{counts:?}");
    assert_eq!(store.scan(RED, b"", b"", 99).unwrap().len(), COMMITTERS);
    println!(
        "{COMMITTERS} commits at the same time: {} syncs",
        counts.syncs
    );
}

#[test]
fn a_failed_sync_reaches_every_member_of_the_group_and_all_who_come_later() {
    let store = GroupCommit::new(SlowDisk::new(COMMITTERS, true));
    std::thread::scope(|scope| {
        for n in 0..COMMITTERS {
            let store = &store;
            scope.spawn(move || store.commit(batch(&format!("{n:03}"))).unwrap_err());
        }
    });
    match store.commit(batch("later")) {
        Err(StoreError::Stopped { detail }) => assert!(detail.contains("no space left")),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        store.engine().seen.lock().unwrap().syncs,
        1,
        "no second try"
    );
}

#[test]
fn one_thread_alone_gets_one_sync_for_each_commit_and_for_several_submits() {
    let store = GroupCommit::new(SlowDisk::new(0, false));
    for n in 0..5 {
        store.commit(batch(&format!("{n}"))).unwrap();
    }
    assert_eq!(store.counts().syncs, 5);
    let tickets: Vec<_> = (0..9)
        .map(|n| store.submit(batch(&format!("s{n}"))).unwrap())
        .collect();
    for ticket in tickets {
        store.wait(ticket).unwrap();
    }
    assert_eq!(store.counts().syncs, 6);
}

#[test]
fn what_a_read_shows_is_durable_and_other_keys_do_not_wait() {
    let store = GroupCommit::new(SlowDisk::new(0, false));
    store.commit(batch("old")).unwrap();
    let ticket = store.submit(batch("new")).unwrap();
    assert!(store.get(RED, b"old").unwrap().is_some());
    assert!(store.latest_get(RED, b"new").unwrap().is_some());
    assert_eq!(store.counts().syncs, 1, "neither asked the disk");
    assert!(store.get(RED, b"new").unwrap().is_some());
    assert_eq!(store.counts().syncs, 2, "now it is durable");
    store.wait(ticket).unwrap();
    assert_eq!(store.counts().syncs, 2);
    let _ticket = store.submit(batch("newer")).unwrap();
    assert_eq!(store.scan(RED, b"", b"", 9).unwrap().len(), 3);
    assert_eq!(store.counts().syncs, 3);
}

#[test]
fn an_undeclared_column_stops_nobody() {
    let store = GroupCommit::new(SlowDisk::new(0, false));
    let mut wrong = WriteBatch::new();
    wrong.put_raw(Column::new("green"), b"k".to_vec(), b"v".to_vec());
    assert!(matches!(
        store.submit(wrong),
        Err(StoreError::UnknownColumn("green"))
    ));
    store.commit(batch("a")).unwrap();
    assert!(store.get(RED, b"a").unwrap().is_some());
}

#[test]
fn submits_without_a_wait_are_bounded() {
    let store = GroupCommit::new(SlowDisk::new(0, false));
    let wanted = 3 * MAX_UNDURABLE;
    for n in 0..wanted {
        let _ticket = store.submit(batch(&format!("{n}"))).unwrap();
    }
    // Nobody waited, and the disk was asked all the same.
    assert!(store.counts().syncs >= 2);
}

/// Six batches, waited for two by two. Wherever it dies and whatever the disk kept: what was acknowledged is there,
/// and what is there is a beginning of what was submitted.
#[test]
fn after_any_death_the_disk_holds_a_prefix_with_everything_acknowledged() {
    let mut deaths = 0;
    for kill in 1.. {
        let mut died = false;
        for fate in [Fate::Lost, Fate::Kept(1), Fate::Kept(9)] {
            let disk = std::sync::Arc::new(MemoryStore::new(SCHEMA));
            let faults = Faults::new(Some(kill), fate);
            let store = fault_store(disk.clone(), faults);
            let mut acknowledged = 0;
            let lived = (|| {
                for pair in 0..3 {
                    let _first = store.submit(batch(&format!("{}", 2 * pair)))?;
                    let second = store.submit(batch(&format!("{}", 2 * pair + 1)))?;
                    store.wait(second)?;
                    acknowledged = 2 * pair + 2;
                }
                Ok::<_, StoreError>(())
            })();
            died |= lived.is_err();
            drop(store);
            let keys: Vec<_> = disk
                .scan(RED, b"", b"", 99)
                .unwrap()
                .into_iter()
                .map(|(key, _)| String::from_utf8(key).unwrap())
                .collect();
            let wanted: Vec<_> = (0..keys.len()).map(|n| n.to_string()).collect();
            assert_eq!(keys, wanted, "killed at {kill}, {fate:?}: a hole");
            assert!(
                keys.len() >= acknowledged,
                "killed at {kill}, {fate:?}: acknowledged and gone"
            );
        }
        if !died {
            break;
        }
        deaths += 1;
    }
    // Per pair: before and after each write, before and after the sync.
    assert_eq!(deaths, 18);
}

#[test]
fn many_threads_on_a_real_directory_find_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
    let before = store.counts();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..25 {
                    store.commit(batch(&format!("{thread}/{n:02}"))).unwrap();
                }
            });
        }
    });
    let counts = store.counts();
    assert_eq!(counts.commits - before.commits, 200);
    assert!(counts.syncs - before.syncs <= 200);
    println!(
        "8 threads, 200 commits: {} syncs",
        counts.syncs - before.syncs
    );
    drop(store);
    let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
    assert_eq!(store.scan(RED, b"", b"", 999).unwrap().len(), 200);
}
