//! What can be saved of a damaged ledger, into another directory.
//!
//! Every readable record is taken over as it is; indexes are made anew from what they index; counters from what they
//! count. Nothing is made up: no voucher, no entry, no claim, no coin. Where a hole in the log lies beyond the
//! last batch, the log ends before it, and the channels go back to the last voucher that is still in the log: what they
//! hold above it enters the log again with the next job, so no payment is lost, only receipts. A hole *inside* a batch, or
//! a lost channel or batch, cannot be mended; then the result is good for looking and for claiming by hand, and
//! [`check`](super::check()) goes on to say so.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, SignedReceipt, TonAddress};
use serde::Serialize;

use super::check::readable;
use super::client_evidence::{ByAge, KeptEvidence};
use super::client_records::{ByLeaf, ByWorker};
use super::copy::for_each_pair;
use super::jobs::{JobRecord, OpenJob};
use super::worker_records::Head;
use super::{
    Batch, BatchProgress, CLIENT_BY_WORKER, CLIENT_EVIDENCE_BY_AGE, CLIENT_RECEIPTS_BY_LEAF,
    ClientChannel, Entry, HeldVoucher, KeptReceipt, LedgerError, OPEN_JOBS, SCHEMA, WORKER_HEAD,
    WorkerChannel,
};
use crate::store::{Column, Record, Store, WriteBatch, for_each, load};

/// Lost records that are listed; more are only counted.
pub const MAX_LISTED_LOSSES: usize = 1_000;

/// Columns that are made from others.
const DERIVED: [Column; 5] = [
    WORKER_HEAD,
    OPEN_JOBS,
    CLIENT_BY_WORKER,
    CLIENT_RECEIPTS_BY_LEAF,
    CLIENT_EVIDENCE_BY_AGE,
];

/// One record that was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Its column.
    pub column: &'static str,
    /// Its key in hex.
    pub key: String,
    /// Why.
    pub why: String,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Records taken over or made anew.
    pub kept: u64,
    /// The first [`MAX_LISTED_LOSSES`].
    pub losses: Vec<Loss>,
    /// All of them.
    pub lost: u64,
    /// Channels whose log position went back, and from which total to which.
    pub rewound: Vec<Rewound>,
}

/// A channel whose newest entries are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewound {
    /// Which.
    pub channel: TonAddress,
    /// In the log before.
    pub from: NanoTon,
    /// In the log now; the rest is credited again with the channel's next job.
    pub to: NanoTon,
}

impl RepairReport {
    fn lose(&mut self, column: Column, key: &[u8], why: String) {
        self.lost = self.lost.saturating_add(1);
        if self.losses.len() < MAX_LISTED_LOSSES {
            self.losses.push(Loss {
                column: column.name(),
                key: hex::encode(key),
                why,
            });
        }
    }
}

/// Takes over what can be read of `from` into the empty ledger `to`.
///
/// # Errors
/// The stores' failures. Damaged records are losses, not errors.
pub fn salvage(from: &impl Store, to: &impl Store) -> Result<RepairReport, LedgerError> {
    let mut report = RepairReport::default();
    let old_head: Option<Head> = load(from, &Head::KEY).ok().flatten();
    let plain: Vec<Column> = SCHEMA
        .columns
        .iter()
        .filter(|column| !DERIVED.contains(column))
        .copied()
        .collect();
    for_each_pair(from, &plain, |column, page| {
        let mut batch = WriteBatch::new();
        for (key, value) in page {
            match readable(column, &key, &value) {
                Some(Err(error)) => report.lose(column, &key, error.to_string()),
                Some(Ok(())) | None => {
                    report.kept = report.kept.saturating_add(1);
                    batch.put_sealed(column, key, value);
                }
            }
        }
        Ok(to.commit(batch)?)
    })?;
    indexes(to)?;
    log(to, old_head.is_some(), &mut report)?;
    Ok(report)
}

fn indexes(to: &impl Store) -> Result<(), LedgerError> {
    let put = |batch: WriteBatch| Ok::<_, LedgerError>(to.commit(batch)?);
    for_each(to, &[], |job: JobRecord| {
        let mut batch = WriteBatch::new();
        if job.end.is_none() {
            batch.put(&OpenJob::of(&job));
        }
        put(batch)
    })?;
    for_each(to, &[], |channel: ClientChannel| {
        let mut batch = WriteBatch::new();
        batch.put(&ByWorker {
            worker: channel.worker,
            channel: channel.address,
        });
        put(batch)
    })?;
    for_each(to, &[], |kept: KeptReceipt| {
        let mut batch = WriteBatch::new();
        if let Ok(signed) = SignedReceipt::decode(&kept.receipt) {
            batch.put(&ByLeaf {
                leaf: signed.leaf(),
                job: kept.job,
            });
        }
        put(batch)
    })?;
    for_each(to, &[], |kept: KeptEvidence| {
        let mut batch = WriteBatch::new();
        batch.put(&ByAge {
            at: kept.at,
            digest: kept.digest,
        });
        put(batch)
    })
}

/// Ends the log before its first hole beyond the last batch, and makes head and channels agree with it.
fn log(to: &impl Store, had_head: bool, report: &mut RepairReport) -> Result<(), LedgerError> {
    let mut head = Head::default();
    for_each(to, &[], |batch: Batch| {
        head.batches = batch.seqno;
        head.batched_entries = batch.jobs();
        head.batched_credit = batch.total;
        if matches!(batch.progress, BatchProgress::Confirmed { .. }) {
            head.confirmed = batch.seqno;
        }
        Ok::<_, LedgerError>(())
    })?;
    let mut newest: BTreeMap<TonAddress, HeldVoucher> = BTreeMap::new();
    let mut next = 0_u64;
    let mut credited_beyond = NanoTon::ZERO;
    let mut cut = Vec::new();
    for_each(to, &[], |entry: Entry| {
        let is_batched = entry.index < head.batched_entries;
        if !is_batched && entry.index != next.max(head.batched_entries) {
            cut.push(entry.index);
            return Ok::<_, LedgerError>(());
        }
        next = entry.index.saturating_add(1);
        if !is_batched {
            credited_beyond = credited_beyond.saturating_add(entry.credited);
        }
        if let Some(voucher) = entry.voucher {
            newest.insert(entry.channel, voucher);
        }
        Ok(())
    })?;
    head.entries = next.max(head.batched_entries);
    head.credited = head.batched_credit.saturating_add(credited_beyond);
    let mut batch = WriteBatch::new();
    for index in cut {
        let key = index.to_be_bytes().to_vec();
        let why = "it stands behind a hole in the log and in no batch".to_owned();
        report.lose(Entry::COLUMN, &key, why);
        if let Some(entry) = load::<Entry>(to, &key)? {
            forget_entry(to, &mut batch, &entry)?;
        }
        batch.delete(Entry::COLUMN, key);
    }
    for_each(to, &[], |mut channel: WorkerChannel| {
        head.channels = head.channels.saturating_add(1);
        let entered = newest.get(&channel.address).copied();
        if entered != channel.entered {
            report.rewound.push(Rewound {
                channel: channel.address,
                from: channel.entered_total(),
                to: entered.map_or(channel.base, |voucher| voucher.cumulative),
            });
            // Never above what is held: an entry's voucher was held once, so it is a voucher still.
            if channel.held_total() < entered.map_or(channel.base, |held| held.cumulative) {
                channel.held = entered;
            }
            channel.entered = entered;
            batch.put(&channel);
        }
        Ok::<_, LedgerError>(())
    })?;
    let is_new = head == Head::default() && !had_head;
    if !is_new {
        batch.put(&head);
        report.kept = report.kept.saturating_add(1);
    }
    Ok(to.commit(batch)?)
}

/// The job of an entry that is gone no longer names it.
fn forget_entry(to: &impl Store, batch: &mut WriteBatch, entry: &Entry) -> Result<(), LedgerError> {
    let job = super::jobs::find(to, super::Side::Worker, &entry.job)?;
    if let Some(mut job) = job
        && let Some(end) = &mut job.end
    {
        end.entry = None;
        batch.put(&job);
    }
    Ok(())
}
