//! Group commit: many committers share one `fsync`.
//!
//! # The algorithm
//! A commit has two halves. [`Store::submit`] writes a batch to the engine's log without waiting for the disk: it gets
//! the next number, and everything submitted later stands behind it in the log. [`Store::wait`] returns once that
//! number is durable. Of those who wait, one becomes the leader: it notes the highest number written so far, asks the
//! engine for one `fsync`, and with that everybody up to that number is done. Whoever submits while the disk works is
//! in the next group. So the number of `fsync`s follows the speed of the disk, not the number of commits (the scheme is
//! that of DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984, section 5.2).
//!
//! # What it keeps
//! - **One writer**: batches reach the engine one at a time, in the order of their numbers. A crash loses a suffix of
//!   what was submitted and never acknowledged, or nothing.
//! - **Reads are durable**: [`Store::get`] and [`Store::scan`] never show what a crash could still take back; a read of a
//!   record that is on its way waits for it. [`Store::latest_get`] shows it at once, to the one that prepares
//!   the next write, whose effect the log puts behind it anyway.
//! - **Errors reach everybody**: when a write or an `fsync` fails, everyone who waits and everyone who comes later gets
//!   the failure. After a failed `fsync` the kernel may have dropped the pages and calls the next one a success, so
//!   trying again would be a lie; reopen and read instead.
//! - **Bounded**: at most [`MAX_UNDURABLE`] batches may wait for the disk; the next submitter waits first.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Column, Pair, Store, StoreError, Ticket, Write, WriteBatch};

/// Batches that may be written and not yet durable. Each belongs to a thread that waits for it, so this only bounds a
/// program with more threads than that.
pub const MAX_UNDURABLE: u64 = 1_024;

/// What group commit needs of a storage engine: `write` in order, `sync` for all of it.
pub(crate) trait Engine: Send + Sync {
    /// The newest value of a key, durable or not.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// As [`Store::scan`], durable or not.
    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError>;

    /// Appends the whole batch to the log, behind everything before it, and makes it visible. Not durable yet.
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Makes everything durable whose `write` returned before this was called.
    fn sync(&self) -> Result<(), StoreError>;
}

/// How often the disk was asked, and for how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Batches written.
    pub commits: u64,
    /// `fsync`s that made them durable.
    pub syncs: u64,
}

/// A [`Store`] over an engine. See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct GroupCommit<E> {
    engine: E,
    /// Held while a batch is numbered and written: the one writer.
    order: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Batches written, and of those the durable ones: numbers of the last.
    written: u64,
    durable: u64,
    /// Somebody is asking the disk right now.
    syncing: bool,
    syncs: u64,
    /// The first failure. It stays.
    failed: Option<String>,
    /// Which keys were last written by a batch that is not durable yet.
    pending: HashMap<(Column, Vec<u8>), u64>,
}

impl State {
    fn alive(&self) -> Result<(), StoreError> {
        match &self.failed {
            None => Ok(()),
            Some(detail) => Err(StoreError::Stopped {
                detail: detail.clone(),
            }),
        }
    }
}

impl<E: Engine> GroupCommit<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self {
            engine,
            order: Mutex::new(()),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn counts(&self) -> GroupCounts {
        let state = self.state();
        GroupCounts {
            commits: state.written,
            syncs: state.syncs,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, error: &StoreError) {
        let mut state = self.state();
        state.failed.get_or_insert_with(|| error.to_string());
        self.changed.notify_all();
    }

    /// Waits until the batch with this number is durable, leading a group where nobody else does.
    fn wait_for(&self, number: u64) -> Result<(), StoreError> {
        let mut state = self.state();
        loop {
            if state.durable >= number {
                return Ok(());
            }
            state.alive()?;
            if state.syncing {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let target = state.written;
            drop(state);
            let synced = self.engine.sync();
            state = self.state();
            state.syncing = false;
            self.changed.notify_all();
            match synced {
                Ok(()) => {
                    state.syncs = state.syncs.saturating_add(1);
                    state.durable = state.durable.max(target);
                    let durable = state.durable;
                    state.pending.retain(|_, number| *number > durable);
                }
                Err(error) => {
                    state.failed.get_or_insert_with(|| error.to_string());
                    return Err(error);
                }
            }
        }
    }

    /// Waits until everything written so far is durable.
    fn settle(&self) -> Result<(), StoreError> {
        let written = self.state().written;
        self.wait_for(written)
    }
}

impl<E: Engine> Store for GroupCommit<E> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.engine.get(column, key)?;
        // Looked up after the read: a batch marks its keys before it is written.
        let pending = {
            let state = self.state();
            if state.pending.is_empty() {
                None
            } else {
                state.pending.get(&(column, key.to_vec())).copied()
            }
        };
        if let Some(number) = pending {
            // It may be marked and not yet written; whoever has the order is writing it now.
            drop(self.order.lock());
            let written = self.state().written;
            self.wait_for(number.min(written))?;
        }
        Ok(value)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let pairs = self.engine.scan(column, prefix, from, limit)?;
        self.settle()?;
        Ok(pairs)
    }

    fn latest_get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.get(column, key)
    }

    fn latest_scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.engine.scan(column, prefix, from, limit)
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        if batch.is_empty() {
            return Ok(Ticket(self.state().written));
        }
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let number = {
            let state = self.state();
            state.alive()?;
            let waiting = state.written.saturating_sub(state.durable);
            let oldest = state.durable.saturating_add(1);
            let number = state.written.saturating_add(1);
            drop(state);
            if waiting >= MAX_UNDURABLE {
                self.wait_for(oldest)?;
            }
            let mut state = self.state();
            for write in batch.writes() {
                let (Write::Put { column, key, .. } | Write::Delete { column, key }) = write;
                state.pending.insert((*column, key.clone()), number);
            }
            number
        };
        match self.engine.write(batch) {
            Ok(()) => {
                self.state().written = number;
                Ok(Ticket(number))
            }
            // Refused before anything was done: the one error that leaves the engine as it was.
            Err(error @ StoreError::UnknownColumn(_)) => {
                self.state().pending.retain(|_, of| *of != number);
                Err(error)
            }
            Err(error) => {
                self.stop(&error);
                Err(error)
            }
        }
    }

    fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.wait_for(ticket.0)
    }
}
