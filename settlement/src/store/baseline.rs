//! RocksDB alone, for a measurement beside it: what its write-ahead log makes durable when nothing else is done.

use std::path::Path;
use std::time::{Duration, Instant};

use rocksdb::{DB, Options, WriteOptions};

use super::StoreError;

/// Writes `each` values of `value_bytes` from each of `threads` threads at once, every one with `sync` set, into a fresh
/// database in `directory` with RocksDB's own settings, and says how long that took. RocksDB groups concurrent writers
/// by itself, so this is its best, not a straw man. Every thread overwrites one key of 33 bytes, as vouchers do.
///
/// # Errors
/// The engine's failure.
pub fn bare_wal(
    directory: &Path,
    threads: usize,
    each: usize,
    value_bytes: usize,
) -> Result<Duration, StoreError> {
    let failed = |action| {
        move |error: rocksdb::Error| StoreError::Engine {
            action,
            detail: error.as_ref().to_owned(),
        }
    };
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, directory).map_err(failed("open"))?;
    let started = Instant::now();
    let outcomes: Vec<Result<(), rocksdb::Error>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|thread| {
                let db = &db;
                scope.spawn(move || {
                    let mut durable = WriteOptions::default();
                    durable.set_sync(true);
                    let [low, ..] = thread.to_le_bytes();
                    let (key, value) = ([low; 33], vec![low; value_bytes]);
                    for _ in 0..each {
                        db.put_opt(key, &value, &durable)?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers
            .into_iter()
            .filter_map(|writer| writer.join().ok())
            .collect()
    });
    let took = started.elapsed();
    for outcome in outcomes {
        outcome.map_err(failed("write"))?;
    }
    Ok(took)
}
