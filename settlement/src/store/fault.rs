//! An engine that dies at a chosen point, for tests of crashes.
//!
//! A point lies before a write, between a write and its sync, after the sync, and wherever the test calls
//! [`Faults::point`] (before and after a message is handed over, and where its answer is lost). From the chosen point on
//! everything fails, reads too: the process is dead. The test then drops it and opens the same disk again.
//!
//! Written and not synced is what an operating system has and a disk may not: at a death as many of those batches reach
//! the disk as [`Fate`] says, oldest first, because a log is written in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::{Engine, GroupCommit};
use super::{Column, Pair, Store, StoreError, Write, WriteBatch};

/// What a disk holds of the batches that were written and not synced when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Lost,
    /// The oldest, this many at most.
    Kept(usize),
}

/// What becomes of a message that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// It arrives, and so does the answer.
    Fine,
    /// It arrives, and nobody hears of it.
    AnswerLost,
    /// It never arrives, and nobody hears of it.
    Lost,
}

/// When to die, what to lose, and what has been passed. Shared by everything that is part of one "process".
#[derive(Debug)]
pub(crate) struct Faults {
    kill_at: Option<u32>,
    fate: Fate,
    bad_send: Option<(u32, Sending)>,
    passed: AtomicU32,
    sends: AtomicU32,
    dead: AtomicBool,
    /// Something was written and not synced at the end.
    in_doubt: AtomicBool,
}

impl Faults {
    /// Dies at the point with this number, from 1; `None` lives on.
    pub(crate) fn new(kill_at: Option<u32>, fate: Fate) -> Arc<Self> {
        Self::with(kill_at, fate, None)
    }

    /// As above, and what becomes of the message with a certain number, from 1.
    pub(crate) fn with(
        kill_at: Option<u32>,
        fate: Fate,
        bad_send: Option<(u32, Sending)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kill_at,
            fate,
            bad_send,
            passed: AtomicU32::new(0),
            sends: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            in_doubt: AtomicBool::new(false),
        })
    }

    /// Hands a message over: a place to die before it and one after it. `None`: no answer came.
    pub(crate) fn send<T>(&self, deliver: impl FnOnce() -> T) -> Result<Option<T>, StoreError> {
        self.point()?;
        let number = self.sends.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let sending = match self.bad_send {
            Some((at, sending)) if at == number => sending,
            _ => Sending::Fine,
        };
        let answer = match sending {
            Sending::Fine => Some(deliver()),
            Sending::AnswerLost => {
                deliver();
                None
            }
            Sending::Lost => None,
        };
        self.point()?;
        Ok(answer)
    }

    /// Whether the [`Fate`] of anything mattered.
    pub(crate) fn was_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::SeqCst)
    }

    /// Messages handed over so far.
    pub(crate) fn sends(&self) -> u32 {
        self.sends.load(Ordering::SeqCst)
    }

    /// A place where the process may die.
    pub(crate) fn point(&self) -> Result<(), StoreError> {
        self.alive()?;
        let point = self.passed.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        if self.kill_at == Some(point) {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.alive()
    }

    /// Points passed so far.
    pub(crate) fn passed(&self) -> u32 {
        self.passed.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.dead.load(Ordering::SeqCst) {
            Err(StoreError::Killed {
                point: self.kill_at.unwrap_or_default(),
            })
        } else {
            Ok(())
        }
    }
}

/// A store over a disk that outlives it.
pub(crate) type FaultStore<D> = GroupCommit<FaultEngine<D>>;

/// Opens the disk for one life.
pub(crate) fn fault_store<D: Store>(disk: D, faults: Arc<Faults>) -> FaultStore<D> {
    GroupCommit::new(FaultEngine {
        disk,
        faults,
        unsynced: Mutex::new(VecDeque::new()),
    })
}

/// Holds back what was not synced.
#[derive(Debug)]
pub(crate) struct FaultEngine<D: Store> {
    disk: D,
    faults: Arc<Faults>,
    unsynced: Mutex<VecDeque<WriteBatch>>,
}

impl<D: Store> FaultEngine<D> {
    fn unsynced(&self) -> MutexGuard<'_, VecDeque<WriteBatch>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies over the disk, newest last.
    fn overlay(&self, column: Column) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut overlay = BTreeMap::new();
        for write in self.unsynced().iter().flat_map(WriteBatch::writes) {
            match write {
                Write::Put {
                    column: of,
                    key,
                    value,
                } if *of == column => {
                    overlay.insert(key.clone(), Some(value.clone()));
                }
                Write::Delete { column: of, key } if *of == column => {
                    overlay.insert(key.clone(), None);
                }
                Write::Put { .. } | Write::Delete { .. } => {}
            }
        }
        overlay
    }
}

impl<D: Store> Engine for FaultEngine<D> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.alive()?;
        match self.overlay(column).remove(key) {
            Some(value) => Ok(value),
            None => self.disk.get(column, key),
        }
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.faults.alive()?;
        let overlay = self.overlay(column);
        // Each removed key can hide one pair of the disk.
        let wanted = limit.saturating_add(overlay.len());
        let on_disk = self.disk.scan(column, prefix, from, wanted)?;
        let mut pairs: BTreeMap<_, _> = on_disk
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        pairs.extend(
            overlay
                .into_iter()
                .filter(|(key, _)| key.starts_with(prefix) && key.as_slice() >= from),
        );
        Ok(pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .take(limit)
            .collect())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.faults.point()?;
        self.unsynced().push_back(batch);
        self.faults.point()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.faults.point()?;
        // The lock is held until the disk has them, so that no read falls between the two.
        let mut unsynced = self.unsynced();
        while let Some(batch) = unsynced.pop_front() {
            self.disk.commit(batch)?;
        }
        drop(unsynced);
        self.faults.point()
    }
}

/// The power goes.
impl<D: Store> Drop for FaultEngine<D> {
    fn drop(&mut self) {
        let kept = match self.faults.fate {
            Fate::Lost => 0,
            Fate::Kept(batches) => batches,
        };
        let unsynced: Vec<_> = self.unsynced().drain(..).collect();
        if !unsynced.is_empty() {
            self.faults.in_doubt.store(true, Ordering::SeqCst);
        }
        let batches = unsynced.into_iter().take(kept);
        for batch in batches {
            // A disk that fails as well is another test's business.
            let _ = self.disk.commit(batch);
        }
    }
}
