//! Where the chain's state lies: one ordered map from bytes to bytes, on disk (RocksDB) or, for tests, in memory.
//!
//! A block is written as one batch, so a process killed at any instant comes back to the end of some block.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use cocoon_protocol::TonAddress;
use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::record::Place;
use crate::chain::ChainError;

pub(super) enum Storage {
    Memory(BTreeMap<Vec<u8>, Vec<u8>>),
    Disk(DB),
}

/// Changes that happen together or not at all; `None` removes.
pub(super) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn failed(error: rocksdb::Error) -> ChainError {
    ChainError::Internal {
        reason: format!("chain store: {error}"),
    }
}

impl Storage {
    pub(super) fn memory() -> Self {
        Self::Memory(BTreeMap::new())
    }

    /// Opens or makes the directory. Only one process may have it open; RocksDB sees to that.
    pub(super) fn disk(directory: &Path) -> Result<Self, ChainError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        // Small data: keep files few, so that a directory of a demo can be looked at.
        options.set_write_buffer_size(8 << 20);
        options.set_keep_log_file_num(2);
        DB::open(&options, directory)
            .map(Self::Disk)
            .map_err(failed)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ChainError> {
        match self {
            Self::Memory(map) => Ok(map.get(key).cloned()),
            Self::Disk(db) => db.get(key).map_err(failed),
        }
    }

    /// Calls `each` with the entries above `after` (exclusive) that start with `prefix`, in order, until it says stop.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<Scan, ChainError>,
    ) -> Result<(), ChainError> {
        match self {
            Self::Memory(map) => {
                for (key, value) in map.range::<[u8], _>((Bound::Excluded(after), Bound::Unbounded))
                {
                    if !key.starts_with(prefix) || each(key, value)? == Scan::Stop {
                        break;
                    }
                }
            }
            Self::Disk(db) => {
                for entry in db.iterator(IteratorMode::From(after, Direction::Forward)) {
                    let (key, value) = entry.map_err(failed)?;
                    if *key == *after {
                        continue;
                    }
                    if !key.starts_with(prefix) || each(&key, &value)? == Scan::Stop {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies a batch. A `durable` one survives the machine losing power, any other one the process being killed.
    pub(super) fn write(&mut self, batch: Batch, durable: bool) -> Result<(), ChainError> {
        match self {
            Self::Memory(map) => {
                for (key, value) in batch {
                    match value {
                        Some(value) => map.insert(key, value),
                        None => map.remove(&key),
                    };
                }
                Ok(())
            }
            Self::Disk(db) => {
                let mut writes = WriteBatch::default();
                for (key, value) in batch {
                    match value {
                        Some(value) => writes.put(key, value),
                        None => writes.delete(key),
                    }
                }
                let mut options = WriteOptions::default();
                options.set_sync(durable);
                db.write_opt(writes, &options).map_err(failed)
            }
        }
    }
}

/// Whether a scan goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Scan {
    On,
    Stop,
}

/// Number and clock of the chain.
pub(super) const META: &[u8] = b"m";
/// How everything is laid out, a big-endian `u32`. Directories from before it was written lack it.
pub(super) const VERSION: &[u8] = b"v";
/// Records of blocks start with this.
pub(super) const RECORDS: &[u8] = b"b";
pub(super) const ACCOUNTS: &[u8] = b"a";
pub(super) const IN_FLIGHT: &[u8] = b"q";

pub(super) fn record_key(seqno: u32) -> Vec<u8> {
    [RECORDS, &seqno.to_be_bytes()].concat()
}

/// The bytes of a block; with number 0, of a zero state.
pub(super) fn block_key(place: Place, seqno: u32) -> Vec<u8> {
    [
        b"B".as_slice(),
        &place.workchain().to_be_bytes(),
        &seqno.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn account_key(address: TonAddress) -> Vec<u8> {
    [ACCOUNTS, &address.workchain.to_be_bytes(), &address.hash].concat()
}

/// The address in an account's key.
pub(super) fn account_address(key: &[u8]) -> Option<TonAddress> {
    let (workchain, hash) = key.strip_prefix(ACCOUNTS)?.split_first_chunk::<1>()?;
    Some(TonAddress {
        workchain: i8::from_be_bytes(*workchain),
        hash: hash.try_into().ok()?,
    })
}

/// All transactions of an account start with this.
pub(super) fn transactions_prefix(address: TonAddress) -> Vec<u8> {
    [
        b"t".as_slice(),
        &address.workchain.to_be_bytes(),
        &address.hash,
    ]
    .concat()
}

pub(super) fn transaction_key(address: TonAddress, lt: u64) -> Vec<u8> {
    let mut key = transactions_prefix(address);
    key.extend_from_slice(&lt.to_be_bytes());
    key
}

pub(super) fn in_flight_key(index: u64) -> Vec<u8> {
    [IN_FLIGHT, &index.to_be_bytes()].concat()
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

    fn keys_after(storage: &Storage, prefix: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        storage
            .scan(prefix, after, |key, _| {
                seen.push(key.to_vec());
                Ok(if seen.len() == 2 {
                    Scan::Stop
                } else {
                    Scan::On
                })
            })
            .unwrap();
        seen
    }

    #[test]
    fn memory_and_disk_scan_alike() {
        let directory = tempfile::tempdir().unwrap();
        for mut storage in [Storage::memory(), Storage::disk(directory.path()).unwrap()] {
            let batch = [b"aa", b"ab", b"ac", b"ba"].map(|key| (key.to_vec(), Some(vec![1])));
            storage.write(batch.into_iter().collect(), true).unwrap();
            storage
                .write([(b"ab".to_vec(), None)].into_iter().collect(), false)
                .unwrap();
            assert_eq!(storage.get(b"ab").unwrap(), None);
            assert_eq!(keys_after(&storage, b"a", b"a"), [b"aa", b"ac"]);
            assert_eq!(keys_after(&storage, b"a", b"aa"), [b"ac"]);
        }
    }
}
