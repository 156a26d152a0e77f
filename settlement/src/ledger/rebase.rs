//! A ledger that the chain contradicts, begun anew on another ledger contract.
//!
//! After an old copy of the disk was restored, the contract has batches that this log lacks. The leaves are gone and
//! cannot be made up, so this contract can never be continued; it stays as it is, a true record of what was. What is
//! not gone is the money: the clients keep what they signed, and send a worker that holds less their newest voucher
//! with the next job. So the worker goes on with the channels it knows and an empty log, under a key that makes another
//! contract.
//!
//! For each channel, what the chain says was paid becomes the new base; a voucher above it becomes the first entry of
//! the new log, at once, so that it is committed and claimed even if the client never comes back. Money that the old
//! contract had committed and no channel had paid is thus stated again by the new one; it is *paid* once, because claims
//! are cumulative and the channel knows what it has paid.

use std::collections::BTreeMap;

use cocoon_protocol::{Digest, JobId, NanoTon, TonAddress, UnixMillis};
use serde::Serialize;

use super::copy::for_each_pair;
use super::jobs::{JobEnd, JobRecord, Side};
use super::worker_records::Head;
use super::{
    Entry, EntryContent, LedgerError, SCHEMA, WORKER_BATCHES, WORKER_CHANNELS, WORKER_CLAIMS,
    WORKER_ENTRIES, WORKER_HEAD, WorkerChannel, channel_key,
};
use crate::store::{Column, Store, WriteBatch, for_each};

/// The outcome of the jobs that stand for what was held before.
pub const RECONCILED: &str = "reconciled";

/// The worker's columns, which begin anew.
const ANEW: [Column; 5] = [
    WORKER_HEAD,
    WORKER_CHANNELS,
    WORKER_ENTRIES,
    WORKER_BATCHES,
    WORKER_CLAIMS,
];

/// What was carried over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rebased {
    /// Channels.
    pub channels: u32,
    /// Of those, with a voucher above what the chain has paid.
    pub owed_channels: u32,
    /// What those are worth: the first entries of the new log.
    pub owed: NanoTon,
    /// Channels where the chain has paid more than the newest voucher here: what the restored copy had lost.
    pub ahead_channels: u32,
}

/// Writes the new beginning of `from` into the empty ledger `to`. `claimed` is what the chain says each channel has paid;
/// a channel that is not in it keeps what is known here.
///
/// # Errors
/// The stores' failures, [`LedgerError::Overflow`].
pub fn rebase(
    from: &impl Store,
    to: &impl Store,
    claimed: &BTreeMap<TonAddress, NanoTon>,
    now: UnixMillis,
) -> Result<Rebased, LedgerError> {
    let kept: Vec<Column> = SCHEMA
        .columns
        .iter()
        .filter(|column| !ANEW.contains(column))
        .copied()
        .collect();
    for_each_pair(from, &kept, |column, page| {
        let mut batch = WriteBatch::new();
        for (key, value) in page {
            batch.put_sealed(column, key, value);
        }
        Ok(to.commit(batch)?)
    })?;
    forget_entries(to)?;
    let mut head = Head::default();
    let mut report = Rebased::default();
    for_each(from, &[], |known: WorkerChannel| {
        let mut batch = WriteBatch::new();
        let base = claimed
            .get(&known.address)
            .copied()
            .unwrap_or(known.claimed)
            .max(known.claimed);
        if base > known.held_total() {
            report.ahead_channels = report.ahead_channels.saturating_add(1);
        }
        let held = known.held.filter(|held| held.cumulative > base);
        let channel = WorkerChannel {
            base,
            claimed: base,
            held,
            entered: held,
            covered: None,
            pending: None,
            ..known
        };
        if let Some(held) = held {
            let credited = held.cumulative.saturating_sub(base);
            let entry = Entry {
                index: head.entries,
                job: job_for(&channel, held.cumulative),
                channel: channel.address,
                voucher: Some(held),
                credited,
                at: now,
                content: EntryContent::Unreceipted,
            };
            batch.put(&JobRecord {
                side: Side::Worker,
                job: entry.job,
                peer: channel.client,
                channel: channel.address,
                opened: now,
                end: Some(JobEnd {
                    at: now,
                    outcome: RECONCILED.to_owned(),
                    entry: Some(entry.index),
                }),
            });
            batch.put(&entry);
            head.entries = head.entries.saturating_add(1);
            head.credited = head
                .credited
                .checked_add(credited)
                .ok_or(LedgerError::Overflow("credited"))?;
            report.owed_channels = report.owed_channels.saturating_add(1);
        }
        head.channels = head.channels.saturating_add(1);
        batch.put(&channel);
        batch.put(&head);
        to.commit(batch)?;
        Ok::<_, LedgerError>(())
    })?;
    report.channels = head.channels;
    report.owed = head.credited;
    Ok(report)
}

/// Jobs stay as a record of what was done; the entries they name belong to the old log.
fn forget_entries(to: &impl Store) -> Result<(), LedgerError> {
    for_each(to, &[], |mut job: JobRecord| {
        let mut batch = WriteBatch::new();
        if let Some(end) = &mut job.end
            && end.entry.take().is_some()
        {
            batch.put(&job);
        }
        Ok(to.commit(batch)?)
    })
}

/// A job of its own for what was held, the same whenever it is done again.
fn job_for(channel: &WorkerChannel, total: NanoTon) -> JobId {
    let mut bytes = b"cocoon/reconciled/v1\0".to_vec();
    bytes.extend_from_slice(&channel_key(&channel.address));
    bytes.extend_from_slice(&total.nano().to_be_bytes());
    let digest = Digest::sha256(&bytes);
    let mut id = [0; 16];
    for (slot, byte) in id.iter_mut().zip(digest.as_bytes()) {
        *slot = *byte;
    }
    JobId::from_bytes(id)
}

/// Channels a worker knows, for whoever asks the chain about them.
///
/// # Errors
/// The store's failure.
pub fn worker_channels(store: &impl Store) -> Result<Vec<TonAddress>, LedgerError> {
    let mut channels = Vec::new();
    for_each(store, &[], |channel: WorkerChannel| {
        channels.push(channel.address);
        Ok::<_, LedgerError>(())
    })?;
    Ok(channels)
}
