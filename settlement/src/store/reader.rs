//! A directory seen by somebody else than its node: for checks, dumps, proofs and backups, while the node runs or not.
//!
//! RocksDB opens a database for reading without its lock: it takes the table files of this moment and replays the
//! write-ahead log into memory. What it shows is one moment of the node's log, and it does not move on. While it opens,
//! the node may tidy a file away; then it is opened again.

use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamily, DB, DBRecoveryMode, Direction, IteratorMode};

use super::record::Record as _;
use super::rocks::{check_foreign_columns, database_options, engine};
use super::schema::SchemaRecord;
use super::{Column, Pair, Schema, Store, StoreError, Ticket, WriteBatch, load};

/// Times a directory is opened before a failure counts: a running node moves its files now and then.
const MAX_OPENINGS: u32 = 5;

/// A [`Store`] that only reads.
#[derive(Debug)]
pub struct RocksReader {
    db: DB,
    path: PathBuf,
    version: u32,
}

impl RocksReader {
    /// Opens the directory of a node, running or not. Nothing in it is changed.
    ///
    /// # Errors
    /// [`StoreError::NoDatabase`], [`StoreError::OtherSchema`], [`StoreError::SchemaVersion`] (also for an older one:
    /// its node migrates it), [`StoreError::Corrupt`] or the engine's failure.
    pub fn open(path: &Path, schema: Schema) -> Result<Self, StoreError> {
        Self::open_as(path, schema, DBRecoveryMode::TolerateCorruptedTailRecords)
    }

    /// The same of a directory whose write-ahead log is damaged: what cannot be read is left out, what stands behind it is
    /// read. Nobody can say which records those were, so this is only for saving what there is.
    ///
    /// # Errors
    /// As [`RocksReader::open`].
    pub fn open_skipping_damage(path: &Path, schema: Schema) -> Result<Self, StoreError> {
        Self::open_as(path, schema, DBRecoveryMode::SkipAnyCorruptedRecord)
    }

    fn open_as(path: &Path, schema: Schema, mode: DBRecoveryMode) -> Result<Self, StoreError> {
        if !path.join("CURRENT").exists() {
            return Err(StoreError::NoDatabase {
                path: path.to_path_buf(),
            });
        }
        // Nobody's way of migrating: who only reads can only read its own version.
        let schema = Schema {
            migrations: &[],
            ..schema
        };
        let mut opening = 1;
        loop {
            match Self::open_once(path, schema, mode) {
                Err(StoreError::Engine { .. } | StoreError::Corrupt { .. })
                    if opening < MAX_OPENINGS =>
                {
                    opening = opening.saturating_add(1);
                }
                outcome => return outcome,
            }
        }
    }

    fn open_once(path: &Path, schema: Schema, mode: DBRecoveryMode) -> Result<Self, StoreError> {
        check_foreign_columns(path, schema)?;
        let columns = [SchemaRecord::COLUMN]
            .into_iter()
            .chain(schema.columns.iter().copied())
            .map(Column::name);
        // All files are opened at once, so that none can be tidied away later.
        let mut options = database_options();
        options.set_max_open_files(-1);
        options.set_wal_recovery_mode(mode);
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let db = DB::open_cf_for_read_only(&options, path, columns, false)
            .map_err(|error| engine("open", &error))?;
        let mut reader = Self {
            db,
            path: path.to_path_buf(),
            version: 0,
        };
        match load::<SchemaRecord>(&reader, &SchemaRecord::KEY)? {
            Some(found) => {
                found.accept(path, schema)?;
                reader.version = found.version;
            }
            None => {
                return Err(StoreError::NoSchema {
                    path: path.to_path_buf(),
                });
            }
        }
        Ok(reader)
    }

    /// The schema's version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn column(&self, column: Column) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(column.name())
            .ok_or(StoreError::UnknownColumn(column.name()))
    }
}

impl Store for RocksReader {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get_cf(self.column(column)?, key)
            .map_err(|error| engine("read", &error))
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let mode = IteratorMode::From(from.max(prefix), Direction::Forward);
        let mut pairs = Vec::new();
        for pair in self.db.iterator_cf(self.column(column)?, mode).take(limit) {
            let (key, value) = pair.map_err(|error| engine("iterate", &error))?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.into_vec(), value.into_vec()));
        }
        Ok(pairs)
    }

    fn submit(&self, _batch: WriteBatch) -> Result<Ticket, StoreError> {
        Err(StoreError::ReadOnly)
    }

    fn wait(&self, _ticket: Ticket) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }
}

/// Lets RocksDB put together what it can of a database whose table files or manifest are damaged. **Changes the directory**,
/// and drops what cannot be read, the write-ahead log with it: only for a copy, and only where nothing else opens it.
///
/// # Errors
/// The engine's failure.
pub fn repair_files(copy: &Path) -> Result<(), StoreError> {
    DB::repair(&database_options(), copy).map_err(|error| engine("repair", &error))
}
