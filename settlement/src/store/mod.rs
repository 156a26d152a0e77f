//! Durable key–value storage behind a small trait, so that only one file (`rocks.rs`) knows RocksDB.
//!
//! A store is a set of named columns (RocksDB: column families). There is **one writer per directory**: [`RocksStore`]
//! holds a lock file for as long as it is open. All changes go through [`Store::commit`], which applies a whole
//! [`WriteBatch`] or nothing and returns only when the operating system has been told to put it on the disk
//! (`fsync`). So the rule "write before any message that depends on it leaves the node" is: `commit`, then send.
//! Commits that come at the same time share one `fsync` ([`group`]).
//!
//! What is stored as values is decided in [`record`]: every value carries a version byte and a checksum that binds it
//! to its column and key.
//!
//! This module does *not* cache, does not retry and knows nothing of money.

mod baseline;
#[cfg(test)]
pub(crate) mod fault;
pub(crate) mod group;
#[cfg(test)]
mod group_tests;
mod memory;
mod reader;
pub mod record;
mod rocks;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

pub use baseline::bare_wal;
pub use group::{GroupCounts, MAX_UNDURABLE};
pub use memory::MemoryStore;
pub use reader::{RocksReader, repair_files};
pub use record::{Reader, Record, RecordError, Writer};
pub use rocks::RocksStore;
pub use schema::{Migration, MigrationError, Schema};

/// The name of a column (in RocksDB: of a column family). Declared once as a constant by the module that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column(&'static str);

impl Column {
    /// Names a column. Renaming one is a change of schema.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// One change inside a [`WriteBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a key.
    Put {
        /// Where.
        column: Column,
        /// The key.
        key: Vec<u8>,
        /// The sealed value.
        value: Vec<u8>,
    },
    /// Removes a key; removing one that is absent is no error.
    Delete {
        /// Where.
        column: Column,
        /// The key.
        key: Vec<u8>,
    },
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    writes: Vec<Write>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a typed record, sealed with its version and checksum.
    pub fn put<R: Record>(&mut self, record: &R) {
        let key = record.key();
        let value = record::seal(record, &key);
        self.writes.push(Write::Put {
            column: R::COLUMN,
            key,
            value,
        });
    }

    /// Removes a record.
    pub fn delete(&mut self, column: Column, key: Vec<u8>) {
        self.writes.push(Write::Delete { column, key });
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The changes in the order they were added.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Adds a record that was read from another store, sealed as it was.
    pub(crate) fn put_sealed(&mut self, column: Column, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put { column, key, value });
    }

    #[cfg(test)]
    pub(crate) fn put_raw(&mut self, column: Column, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put { column, key, value });
    }
}

/// A key and its value as they are on disk.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A batch that was submitted. Good for nothing but [`Store::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a batch is not durable before `wait` has returned"]
pub struct Ticket(u64);

/// Durable columns of ordered keys. All methods block on the disk: call them where blocking is allowed.
pub trait Store: Send + Sync {
    /// The value of a key. What it shows is on the disk.
    ///
    /// # Errors
    /// [`StoreError::UnknownColumn`], or the engine's failure.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` pairs in key order whose key starts with `prefix` and is not below `from`. What it shows is on
    /// the disk.
    ///
    /// # Errors
    /// [`StoreError::UnknownColumn`], or the engine's failure.
    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError>;

    /// As [`Store::get`], with what was submitted and may not be on the disk yet. Only for preparing a write that is
    /// submitted behind it; nobody else may hear of it.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn latest_get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(column, key)
    }

    /// As [`Store::scan`], with what [`Store::latest_get`] would show.
    ///
    /// # Errors
    /// As [`Store::scan`].
    fn latest_scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.scan(column, prefix, from, limit)
    }

    /// Puts the whole batch behind everything submitted before. Not durable until [`Store::wait`] has returned; an
    /// empty batch stands for everything submitted so far.
    ///
    /// # Errors
    /// [`StoreError::UnknownColumn`], [`StoreError::Stopped`], or the engine's failure. After an engine failure the
    /// batch may or may not be on the disk: the caller must stop and recover by reading, not by assuming.
    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError>;

    /// Returns when the batch is durable.
    ///
    /// # Errors
    /// As [`Store::submit`].
    fn wait(&self, ticket: Ticket) -> Result<(), StoreError>;

    /// Applies the whole batch and makes it durable before returning.
    ///
    /// # Errors
    /// As [`Store::submit`].
    fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let ticket = self.submit(batch)?;
        self.wait(ticket)
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        (**self).scan(column, prefix, from, limit)
    }

    fn latest_get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).latest_get(column, key)
    }

    fn latest_scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        (**self).latest_scan(column, prefix, from, limit)
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        (**self).submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        (**self).wait(ticket)
    }
}

/// A store as the one sees it who prepares the next write: see [`Store::latest_get`]. It only reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latest<'a, S>(pub(crate) &'a S);

impl<S: Store> Store for Latest<'_, S> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.latest_get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.0.latest_scan(column, prefix, from, limit)
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        self.0.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.0.wait(ticket)
    }
}

/// Reads one typed record.
///
/// # Errors
/// The store's failure, or [`StoreError::Record`] when the bytes are not a valid record of this type.
pub fn load<R: Record>(store: &impl Store, key: &[u8]) -> Result<Option<R>, StoreError> {
    store
        .get(R::COLUMN, key)?
        .map(|value| record::open::<R>(key, &value))
        .transpose()
}

/// Reads up to `limit` typed records in key order; see [`Store::scan`].
///
/// # Errors
/// As [`load`].
pub fn load_range<R: Record>(
    store: &impl Store,
    prefix: &[u8],
    from: &[u8],
    limit: usize,
) -> Result<Vec<R>, StoreError> {
    store
        .scan(R::COLUMN, prefix, from, limit)?
        .iter()
        .map(|(key, value)| record::open::<R>(key, value))
        .collect()
}

/// Reads every record under a prefix, in pages, so that no single scan grows with the table.
///
/// # Errors
/// As [`load`], and whatever `visit` returns.
pub fn for_each<R: Record, E: From<StoreError>>(
    store: &impl Store,
    prefix: &[u8],
    mut visit: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    /// Records per page: small enough to hold, large enough that seeks do not matter.
    const PAGE: usize = 256;
    let mut from = prefix.to_vec();
    loop {
        let page = store.scan(R::COLUMN, prefix, &from, PAGE)?;
        let full = page.len() == PAGE;
        if let Some((last, _)) = page.last() {
            from.clone_from(last);
            from.push(0); // the next key in order
        }
        for (key, value) in page {
            visit(record::open::<R>(&key, &value)?)?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process (or another store in this one) has the directory open.
    #[error(
        "{path} is in use by {}; stop that process or choose another data directory",
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
        path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that wrote the lock file last, when it says so.
        holder: Option<u32>,
    },
    /// The directory belongs to something else.
    #[error(
        "{path} holds \"{found}\" data, not \"{wanted}\"; choose another data directory",
        path = path.display()
    )]
    OtherSchema {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// What this program wanted.
        wanted: &'static str,
    },
    /// The directory was written by a program with another schema version.
    #[error(
        "{path} has {name} schema version {found}, this program reads version {supported}; use the {} \
         program that wrote it, or move the directory away after settling",
        if found > supported { "newer" } else { "older" },
        path = path.display()
    )]
    SchemaVersion {
        /// The directory.
        path: PathBuf,
        /// The schema's name.
        name: &'static str,
        /// The version on disk.
        found: u32,
        /// The version this program reads and writes.
        supported: u32,
    },
    /// An older directory cannot be taken over. Nothing was changed.
    #[error("{path} cannot go from schema version {from} to {to}: {why}", path = path.display())]
    Migration {
        /// The directory.
        path: PathBuf,
        /// Its version.
        from: u32,
        /// The next.
        to: u32,
        /// The reason, and what to do.
        why: String,
    },
    /// A write through a [`RocksReader`] (a programming error).
    #[error("this directory was opened for reading only")]
    ReadOnly,
    /// There is no such directory, or no database in it.
    #[error("{path} holds no ledger; name a node's <data_dir>/ledger", path = path.display())]
    NoDatabase {
        /// The directory.
        path: PathBuf,
    },
    /// Data without a schema record: not ours, or its first write never finished and something else wrote since.
    #[error("{path} holds columns but no schema record; choose another data directory", path = path.display())]
    NoSchema {
        /// The directory.
        path: PathBuf,
    },
    /// A column that was not declared when the store was opened (a programming error).
    #[error("column {0:?} was not declared in this store's schema")]
    UnknownColumn(&'static str),
    /// A value that is not a valid record: damage on disk, or files of two databases mixed.
    #[error(
        "the {column} record at key {key} is damaged: {source}; restore the directory from a backup"
    )]
    Record {
        /// The column.
        column: &'static str,
        /// The key in hex.
        key: String,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The engine found its own files damaged.
    #[error(
        "the database is damaged: {detail}; restore the directory from a backup, or see `cocoon ledger repair`"
    )]
    Corrupt {
        /// The engine's words.
        detail: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Any other failure of the engine: a full disk, an unreadable file.
    #[error("the database failed to {action}: {detail}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// The engine's words.
        detail: String,
    },
    /// An earlier write failed. What came after it was refused, so that nothing is built on sand.
    #[error(
        "the database stopped after a failure ({detail}); reopen it and go on from what is there"
    )]
    Stopped {
        /// The first failure.
        detail: String,
    },
    /// A fault asked for by a test.
    #[cfg(test)]
    #[error("killed at point {point}")]
    Killed {
        /// Which.
        point: u32,
    },
}
