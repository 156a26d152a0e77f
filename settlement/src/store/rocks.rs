//! The one file that knows RocksDB.
//!
//! Chosen for what a ledger needs: a write-ahead log with atomic batches across column families. The ledger of a busy
//! worker is a few hundred megabytes at most, so the options aim at little memory rather than throughput.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    ErrorKind, IteratorMode, Options, WriteOptions,
};

use super::group::{Engine, GroupCommit, GroupCounts};
use super::record::Record as _;
use super::schema::SchemaRecord;
use super::{Column, Pair, Schema, Store, StoreError, Ticket, Write, WriteBatch, load, record};

/// Bytes of recent writes a column holds in memory before they go to a table file.
const WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// The same for all columns together.
const ALL_WRITE_BUFFERS_BYTES: usize = 16 * 1024 * 1024;
/// Table files open at once; each costs a descriptor.
const MAX_OPEN_FILES: i32 = 64;
/// The write-ahead log is cut back when it grows past this, so that opening stays fast.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// RocksDB's own text log, which nobody reads until something is wrong.
const MAX_INFO_LOG_BYTES: usize = 1024 * 1024;
const KEEP_INFO_LOGS: usize = 2;

/// The column RocksDB always has. We keep nothing there.
const DEFAULT_COLUMN: &str = "default";

/// Our lock file. RocksDB has one too, but reports it as words in an I/O error; with this one the error is typed and
/// can name the process.
const LOCK_FILE: &str = "writer.lock";

/// A [`Store`] in a directory of its own, with [group commit](super::group).
#[derive(Debug)]
pub struct RocksStore {
    group: GroupCommit<RocksEngine>,
    schema: Schema,
    path: PathBuf,
}

/// RocksDB's write-ahead log: written at once, synced when asked.
#[derive(Debug)]
pub(crate) struct RocksEngine {
    db: DB,
    /// Dropped after `db` (fields drop in order), so nobody else opens while RocksDB is still closing.
    _lock: File,
}

impl RocksStore {
    /// Opens the directory, making it (mode 700) when it does not exist, and checks that it holds this schema.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another writer has it; [`StoreError::OtherSchema`], [`StoreError::SchemaVersion`]
    /// or [`StoreError::NoSchema`] when it holds something else; [`StoreError::File`], [`StoreError::Corrupt`] or
    /// [`StoreError::Engine`] for the disk's and the engine's own failures.
    pub fn open(path: impl AsRef<Path>, schema: Schema) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| StoreError::File {
                action: "make the directory",
                path: path.clone(),
                source,
            })?;
        let lock = lock(&path)?;
        let fresh = !path.join("CURRENT").exists();
        // Ours first: if a crash interrupts the making of the columns, what is there still says whose it is.
        let columns = [SchemaRecord::COLUMN]
            .iter()
            .chain(schema.columns)
            .map(|column| ColumnFamilyDescriptor::new(column.name(), column_options()));
        // RocksDB would refuse columns that are on disk but not declared, and add those that are declared but not on
        // disk. If they differ, find out first whether the directory is somebody else's, say so, and leave it alone.
        if !fresh {
            check_foreign_columns(&path, schema)?;
        }
        let db = DB::open_cf_descriptors(&database_options(), &path, columns)
            .map_err(|error| engine("open", &error))?;
        let store = Self {
            group: GroupCommit::new(RocksEngine { db, _lock: lock }),
            schema,
            path,
        };
        store.check_schema(fresh)?;
        Ok(store)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_schema(&self, fresh: bool) -> Result<(), StoreError> {
        let found = load::<SchemaRecord>(self, &SchemaRecord::KEY)?;
        match found {
            Some(found) => {
                found.accept(&self.path, self.schema)?;
                self.schema.migrate(&self.path, self)
            }
            // The first write of all may have been lost in a crash; then there is nothing in the columns either.
            None if fresh || self.is_empty()? => {
                let mut batch = WriteBatch::new();
                batch.put(&SchemaRecord {
                    name: self.schema.name.to_owned(),
                    version: self.schema.version,
                });
                self.commit(batch)
            }
            None => Err(StoreError::NoSchema {
                path: self.path.clone(),
            }),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        for column in self.schema.columns {
            if !self.scan(*column, &[], &[], 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many batches were committed since the directory was opened, and with how many `fsync`s.
    #[must_use]
    pub fn counts(&self) -> GroupCounts {
        self.group.counts()
    }
}

impl RocksEngine {
    fn column(&self, column: Column) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(column.name())
            .ok_or(StoreError::UnknownColumn(column.name()))
    }
}

impl Engine for RocksEngine {
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
        let start = from.max(prefix);
        let mode = IteratorMode::From(start, Direction::Forward);
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

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut writes = rocksdb::WriteBatch::default();
        for write in batch.writes {
            match write {
                Write::Put { column, key, value } => {
                    writes.put_cf(self.column(column)?, key, value);
                }
                Write::Delete { column, key } => writes.delete_cf(self.column(column)?, key),
            }
        }
        // Into the log and to the operating system; `sync` takes it from there to the disk.
        self.db
            .write_opt(writes, &WriteOptions::default())
            .map_err(|error| engine("write", &error))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db
            .flush_wal(true)
            .map_err(|error| engine("sync", &error))
    }
}

impl Store for RocksStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.group.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.group.scan(column, prefix, from, limit)
    }

    fn latest_get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.group.latest_get(column, key)
    }

    fn latest_scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.group.latest_scan(column, prefix, from, limit)
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        self.group.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.group.wait(ticket)
    }
}

pub(super) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(ALL_WRITE_BUFFERS_BYTES);
    options.set_max_open_files(MAX_OPEN_FILES);
    // The default of 16 threads, started anew at each opening, suits thousands of files.
    options.set_max_file_opening_threads(1);
    options.set_max_total_wal_size(MAX_LOG_BYTES);
    options.set_max_log_file_size(MAX_INFO_LOG_BYTES);
    options.set_keep_log_file_num(KEEP_INFO_LOGS);
    options.set_stats_dump_period_sec(0);
    // The default would end quietly at the first record that cannot be read, and drop what was acknowledged behind it.
    // This one forgives only a tail that a crash cut off, which nobody was told of; anything else is said.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

fn column_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::None);
    options
}

pub(super) fn engine(action: &'static str, error: &rocksdb::Error) -> StoreError {
    let detail = error.as_ref().to_owned();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corrupt { detail },
        _ => StoreError::Engine { action, detail },
    }
}

/// Takes the directory for this process. The lock goes with the file handle, so a killed process leaves none behind.
fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = path.join(LOCK_FILE);
    let failed = |action| {
        let path = lock_path.clone();
        move |source| StoreError::File {
            action,
            path,
            source,
        }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut words = String::new();
            let _ = (&file).take(16).read_to_string(&mut words);
            return Err(StoreError::Locked {
                path: path.to_path_buf(),
                holder: words.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    file.set_len(0).map_err(failed("write the lock file"))?;
    writeln!(file, "{}", std::process::id()).map_err(failed("write the lock file"))?;
    Ok(file)
}

/// If the columns are not the schema's, reads the schema record through a read-only handle that opens only its column.
pub(super) fn check_foreign_columns(path: &Path, schema: Schema) -> Result<(), StoreError> {
    let columns = DB::list_cf(&database_options(), path).map_err(|error| engine("open", &error))?;
    let meta = SchemaRecord::COLUMN.name();
    let expected: BTreeSet<&str> = [DEFAULT_COLUMN, meta]
        .into_iter()
        .chain(schema.columns.iter().map(|column| column.name()))
        .collect();
    if columns.iter().map(String::as_str).collect::<BTreeSet<_>>() == expected {
        return Ok(());
    }
    if !columns.iter().any(|column| column == meta) {
        // RocksDB makes the default column and then ours, one by one: a crash may have left only the first.
        let only_default = columns.iter().all(|column| column == DEFAULT_COLUMN);
        return if only_default {
            Ok(())
        } else {
            Err(StoreError::NoSchema {
                path: path.to_path_buf(),
            })
        };
    }
    let db = DB::open_cf_for_read_only(&database_options(), path, [meta], false)
        .map_err(|error| engine("open", &error))?;
    let handle = db.cf_handle(meta).ok_or(StoreError::UnknownColumn(meta))?;
    let value = db
        .get_cf(handle, SchemaRecord::KEY)
        .map_err(|error| engine("read", &error))?;
    match value {
        Some(value) => {
            record::open::<SchemaRecord>(&SchemaRecord::KEY, &value)?.accept(path, schema)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    const RED: Column = Column::new("red");
    const BLUE: Column = Column::new("blue");
    const SCHEMA: Schema = Schema {
        name: "colours",
        version: 3,
        columns: &[RED, BLUE],
        migrations: &[],
    };

    fn put(store: &impl Store, column: Column, key: &[u8], value: &[u8]) {
        let mut batch = WriteBatch::new();
        batch.put_raw(column, key.to_vec(), value.to_vec());
        store.commit(batch).unwrap();
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
        put(&store, RED, b"a", b"1");
        put(&store, BLUE, b"a", b"2");
        drop(store);
        let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
        assert_eq!(store.get(RED, b"a").unwrap().unwrap(), b"1");
        assert_eq!(store.get(BLUE, b"a").unwrap().unwrap(), b"2");
        let mut batch = WriteBatch::new();
        batch.delete(RED, b"a".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(store.get(RED, b"a").unwrap(), None);
    }

    #[test]
    fn a_second_writer_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = RocksStore::open(dir.path(), SCHEMA).unwrap();
        match RocksStore::open(dir.path(), SCHEMA) {
            Err(StoreError::Locked { holder, path }) => {
                assert_eq!(holder, Some(std::process::id()));
                assert_eq!(path, dir.path());
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        RocksStore::open(dir.path(), SCHEMA).unwrap();
    }

    #[test]
    fn another_schema_or_version_is_refused_by_name_and_number() {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksStore::open(dir.path(), SCHEMA).unwrap());
        let newer = Schema {
            version: 4,
            ..SCHEMA
        };
        assert!(matches!(
            RocksStore::open(dir.path(), newer),
            Err(StoreError::SchemaVersion {
                found: 3,
                supported: 4,
                ..
            })
        ));
        let other = Schema {
            name: "shapes",
            version: 3,
            columns: &[BLUE],
            migrations: &[],
        };
        match RocksStore::open(dir.path(), other) {
            Err(StoreError::OtherSchema { found, wanted, .. }) => {
                assert_eq!((found.as_str(), wanted), ("colours", "shapes"));
            }
            result => panic!("{result:?}"),
        }
        RocksStore::open(dir.path(), SCHEMA).unwrap();
    }

    #[test]
    fn columns_without_a_schema_record_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        drop(DB::open_cf(&options, dir.path(), ["theirs"]).unwrap());
        assert!(matches!(
            RocksStore::open(dir.path(), SCHEMA),
            Err(StoreError::NoSchema { .. })
        ));
        let left = DB::list_cf(&options, dir.path()).unwrap();
        assert_eq!(left, ["default", "theirs"]);
    }

    /// The write-ahead log that holds what was just committed: the longest.
    fn log_of(dir: &Path) -> PathBuf {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .max_by_key(|path| path.metadata().unwrap().len())
            .unwrap()
    }

    #[test]
    fn a_log_that_is_damaged_in_the_middle_is_refused_and_one_cut_at_its_end_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
        for n in 0..40_u8 {
            put(&store, RED, &[n], &[n; 4_000]);
        }
        drop(store);
        let log = log_of(dir.path());
        let whole = std::fs::read(&log).unwrap();
        std::fs::write(&log, &whole[..whole.len() - 30]).unwrap();
        let cut = RocksStore::open(dir.path(), SCHEMA).unwrap();
        assert_eq!(cut.scan(RED, b"", b"", 99).unwrap().len(), 39);
        drop(cut);

        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
        for n in 0..40_u8 {
            put(&store, RED, &[n], &[n; 4_000]);
        }
        drop(store);
        let log = log_of(dir.path());
        let mut damaged = std::fs::read(&log).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&log, damaged).unwrap();
        let refused = RocksStore::open(dir.path(), SCHEMA).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
        // What can be read, can be had, but never unasked: all but the log's block of 32 KiB around the damage.
        let reader = super::super::RocksReader::open_skipping_damage(dir.path(), SCHEMA).unwrap();
        let left = reader.scan(RED, b"", b"", 99).unwrap();
        assert!(
            (25..40).contains(&left.len()),
            "{} records left",
            left.len()
        );
        assert!(
            left.iter().any(|(key, _)| key == &[39]),
            "the last is there"
        );
        assert!(
            RocksStore::open(dir.path(), SCHEMA).is_err(),
            "still as it was"
        );
    }

    #[test]
    fn an_undeclared_column_is_a_typed_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
        assert!(matches!(
            store.get(Column::new("green"), b"a"),
            Err(StoreError::UnknownColumn("green"))
        ));
    }

    #[test]
    fn scans_stay_inside_their_prefix_start_and_limit() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = RocksStore::open(dir.path(), SCHEMA).unwrap();
        let memory = super::super::MemoryStore::new(SCHEMA);
        for store in [&rocks as &dyn Store, &memory as &dyn Store] {
            let mut batch = WriteBatch::new();
            for key in ["a", "b1", "b2", "b3", "c"] {
                batch.put_raw(RED, key.into(), key.into());
            }
            store.commit(batch).unwrap();
            let keys = |prefix: &str, from: &str, limit| -> Vec<String> {
                let pairs = store.scan(RED, prefix.as_bytes(), from.as_bytes(), limit);
                pairs
                    .unwrap()
                    .into_iter()
                    .map(|(key, _)| String::from_utf8(key).unwrap())
                    .collect()
            };
            assert_eq!(keys("b", "", 9), ["b1", "b2", "b3"]);
            assert_eq!(keys("b", "b2", 9), ["b2", "b3"]);
            assert_eq!(keys("b", "b11", 1), ["b2"]);
            assert_eq!(keys("", "", 2), ["a", "b1"]);
            assert_eq!(keys("x", "", 2), Vec::<String>::new());
            assert!(store.scan(BLUE, b"", b"", 9).unwrap().is_empty());
        }
    }
}
