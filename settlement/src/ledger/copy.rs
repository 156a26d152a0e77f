//! Copies of a whole ledger, record by record: backups, what restores them, and what repairs.
//!
//! A copy is made through a [`crate::store::RocksReader`], so it is one moment of the node's log, whether the node runs or
//! not. Its digest covers every column, key and value in order; it does not depend on how RocksDB lays out its files.

use std::collections::BTreeMap;

use cocoon_protocol::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::worker_records::Head;
use super::{LedgerError, SCHEMA};
use crate::store::{Column, Pair, Store, WriteBatch, load};

/// Records read and written at a time.
const PAGE: usize = 256;

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The schema's name and version.
    pub schema: String,
    /// See there.
    pub version: u32,
    /// Records by column.
    pub records: BTreeMap<String, u64>,
    /// SHA-256 over all records: for each column in the schema's order, and each of its keys in order, the lengths (u32
    /// BE) and bytes of the column's name, the key and the value.
    pub digest: Digest,
    /// Entries in the worker's log, batches cut, batches confirmed: how far this copy had come.
    pub entries: u64,
    /// See there.
    pub batches: u32,
    /// See there.
    pub confirmed: u32,
}

/// Visits every record of every column, in order, in pages.
///
/// # Errors
/// The store's failure, or `visit`'s.
pub fn for_each_pair(
    store: &impl Store,
    columns: &[Column],
    mut visit: impl FnMut(Column, Vec<Pair>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    for column in columns {
        let mut from = Vec::new();
        loop {
            let page = store.scan(*column, &[], &from, PAGE)?;
            let is_last = page.len() < PAGE;
            if let Some((last, _)) = page.last() {
                from.clone_from(last);
                from.push(0);
            }
            visit(*column, page)?;
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

/// What a ledger holds, and the digest of it.
///
/// # Errors
/// The store's failure.
pub fn contents(store: &impl Store) -> Result<Contents, LedgerError> {
    let mut hash = Sha256::new();
    let mut records: BTreeMap<String, u64> = BTreeMap::new();
    for_each_pair(store, SCHEMA.columns, |column, page| {
        let count = records.entry(column.name().to_owned()).or_default();
        *count = count.saturating_add(u64::try_from(page.len()).unwrap_or(u64::MAX));
        for (key, value) in &page {
            for part in [column.name().as_bytes(), key, value] {
                // Keys are tens of bytes, values at most some hundred thousand.
                hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        Ok(())
    })?;
    let head: Head = load(store, &Head::KEY).ok().flatten().unwrap_or_default();
    Ok(Contents {
        schema: SCHEMA.name.to_owned(),
        version: SCHEMA.version,
        records,
        digest: Digest::from_bytes(hash.finalize().into()),
        entries: head.entries,
        batches: head.batches,
        confirmed: head.confirmed,
    })
}

/// Writes every record of `from` into `to`, durably.
///
/// # Errors
/// The stores' failures.
pub fn copy(from: &impl Store, to: &impl Store) -> Result<(), LedgerError> {
    for_each_pair(from, SCHEMA.columns, |column, page| {
        let mut batch = WriteBatch::new();
        for (key, value) in page {
            batch.put_sealed(column, key, value);
        }
        Ok(to.commit(batch)?)
    })
}
