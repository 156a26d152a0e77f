//! A store that dies at a chosen point, for tests of crashes.
//!
//! A point lies before and after every commit, and wherever the test calls [`Faults::point`] (before and after a message
//! is handed to the chain). From the chosen point on everything fails, reads too: the process is dead. The test then
//! drops it and opens the same directory again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{Column, Pair, Store, StoreError, WriteBatch};

/// When to die, and how many points have been passed. Shared by everything that is part of one "process".
#[derive(Debug)]
pub(crate) struct Faults {
    kill_at: Option<u32>,
    passed: AtomicU32,
    dead: AtomicBool,
}

impl Faults {
    /// Dies at the point with this number, from 1; `None` lives on.
    pub(crate) fn new(kill_at: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            kill_at,
            passed: AtomicU32::new(0),
            dead: AtomicBool::new(false),
        })
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

/// Wraps a store.
#[derive(Debug)]
pub(crate) struct FaultStore<S> {
    inner: S,
    faults: Arc<Faults>,
}

impl<S: Store> FaultStore<S> {
    pub(crate) fn new(inner: S, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl<S: Store> Store for FaultStore<S> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.faults.alive()?;
        self.inner.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.faults.alive()?;
        self.inner.scan(column, prefix, from, limit)
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.faults.point()?;
        self.inner.commit(batch)?;
        self.faults.point()
    }
}
