//! When a process dies.
//!
//! Everything that leaves a trace outside the process (a write to its disk, a message handed to the chain) is an effect. A
//! lit fuse burns down by one at each, before and after; when it is out, the process is dead: every effect fails, reads too,
//! and whoever runs the process drops it. Its disk stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cocoon_settlement::store::{Column, MemoryStore, Pair, Store, StoreError, Ticket, WriteBatch};

/// Not lit.
const NEVER: u32 = u32::MAX;

/// Shared by everything that is one process.
#[derive(Debug)]
pub(crate) struct Fuse {
    left: AtomicU32,
    out: AtomicBool,
}

impl Fuse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU32::new(NEVER),
            out: AtomicBool::new(false),
        })
    }

    /// The process will die within so many steps.
    pub(crate) fn light(&self, steps: u32) {
        self.left.store(steps, Ordering::SeqCst);
    }

    pub(crate) fn is_lit(&self) -> bool {
        self.left.load(Ordering::SeqCst) != NEVER
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::SeqCst)
    }

    /// Before or after an effect.
    pub(crate) fn step(&self) -> Result<(), StoreError> {
        if !self.is_out() && self.is_lit() {
            match self.left.load(Ordering::SeqCst) {
                0 => self.out.store(true, Ordering::SeqCst),
                left => self.left.store(left - 1, Ordering::SeqCst),
            }
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), StoreError> {
        match self.is_out() {
            true => Err(StoreError::Corrupt {
                detail: "the process is dead".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// A process's view of its disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) platters: Arc<MemoryStore>,
    pub(crate) fuse: Arc<Fuse>,
}

impl Store for Disk {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.fuse.alive()?;
        self.platters.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.fuse.alive()?;
        self.platters.scan(column, prefix, from, limit)
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        self.fuse.step()?;
        self.platters.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.fuse.step()?;
        self.platters.wait(ticket)
    }
}
