//! A ledger's records as JSON, for people and scripts: everything that is written, except what opens or pays something.
//! Voucher signatures (whoever has one can make the channel pay early) and the salts of receipts are left out; evidence
//! and collateral are told by size.

use cocoon_protocol::UnixMillis;
use serde_json::{Value, json};

use super::client_evidence::{ByAge, KeptEvidence};
use super::client_records::{ByLeaf, ByWorker};
use super::jobs::{JobRecord, OpenJob};
use super::worker_records::Head;
use super::{
    Batch, BatchProgress, ClaimRecord, ClientChannel, Entry, EntryContent, HeldVoucher,
    KeptReceipt, TransactionRecord, WorkerChannel,
};
use crate::store::{Column, Record, StoreError, record};

/// One record as JSON: `{"column", "key", "record"}`, or `"error"` in place of the record where it cannot be read.
#[must_use]
pub fn describe(column: Column, key: &[u8], value: &[u8]) -> Value {
    let name = column.name();
    let told = if name == Head::COLUMN.name() {
        read(key, value, head)
    } else if name == WorkerChannel::COLUMN.name() {
        read(key, value, worker_channel)
    } else if name == Entry::COLUMN.name() {
        read(key, value, entry)
    } else if name == Batch::COLUMN.name() {
        read(key, value, batch)
    } else if name == ClaimRecord::COLUMN.name() {
        read(key, value, claim)
    } else if name == JobRecord::COLUMN.name() {
        read(key, value, job)
    } else if name == OpenJob::COLUMN.name() {
        read(key, value, |_: &OpenJob| json!({}))
    } else if name == ClientChannel::COLUMN.name() {
        read(key, value, client_channel)
    } else if name == ByWorker::COLUMN.name() {
        read(
            key,
            value,
            |index: &ByWorker| json!({ "worker": index.worker.to_string(), "channel": index.channel }),
        )
    } else if name == KeptReceipt::COLUMN.name() {
        read(key, value, |kept: &KeptReceipt| {
            json!({
                "job": kept.job.to_string(),
                "worker": kept.worker.to_string(),
                "at": kept.at.millis(),
                "receipt": hex::encode(&kept.receipt),
            })
        })
    } else if name == ByLeaf::COLUMN.name() {
        read(
            key,
            value,
            |index: &ByLeaf| json!({ "leaf": index.leaf, "job": index.job.to_string() }),
        )
    } else if name == KeptEvidence::COLUMN.name() {
        read(
            key,
            value,
            |kept: &KeptEvidence| json!({ "digest": kept.digest, "at": kept.at.millis(), "bytes": kept.bundle.len() }),
        )
    } else if name == ByAge::COLUMN.name() {
        read(
            key,
            value,
            |index: &ByAge| json!({ "at": index.at.millis(), "digest": index.digest }),
        )
    } else {
        Ok(json!({ "bytes": value.len() }))
    };
    let mut line = json!({ "column": name, "key": hex::encode(key) });
    if let Some(fields) = line.as_object_mut() {
        match told {
            Ok(record) => fields.insert("record".to_owned(), record),
            Err(error) => fields.insert("error".to_owned(), Value::String(error.to_string())),
        };
    }
    line
}

fn read<R: Record>(
    key: &[u8],
    value: &[u8],
    tell: impl FnOnce(&R) -> Value,
) -> Result<Value, StoreError> {
    record::open::<R>(key, value).map(|record| tell(&record))
}

fn head(head: &Head) -> Value {
    json!({
        "entries": head.entries,
        "credited_nanoton": head.credited.nano(),
        "batches": head.batches,
        "batched_entries": head.batched_entries,
        "batched_credit_nanoton": head.batched_credit.nano(),
        "confirmed": head.confirmed,
        "channels": head.channels,
    })
}

fn total(voucher: Option<HeldVoucher>) -> Value {
    json!(voucher.map(|voucher| voucher.cumulative.nano()))
}

fn worker_channel(channel: &WorkerChannel) -> Value {
    json!({
        "address": channel.address,
        "client": channel.client.to_string(),
        "client_key": hex::encode(channel.client_key.as_bytes()),
        "base_nanoton": channel.base.nano(),
        "held_nanoton": total(channel.held),
        "entered_nanoton": total(channel.entered),
        "covered_nanoton": total(channel.covered),
        "claimed_nanoton": channel.claimed.nano(),
        "pending_nanoton": channel.pending.map(|pending| pending.cumulative.nano()),
        "expected_since_unix_ms": channel.expected.map(UnixMillis::millis),
        "release": channel.release.map(|release| json!({
            "total_nanoton": release.cumulative.nano(),
            "attempts": release.attempts,
            "done": release.done,
        })),
    })
}

fn entry(entry: &Entry) -> Value {
    json!({
        "index": entry.index,
        "job": entry.job.to_string(),
        "channel": entry.channel,
        "voucher_nanoton": total(entry.voucher),
        "credited_nanoton": entry.credited.nano(),
        "at": entry.at.millis(),
        "leaf": entry.leaf_hash(),
        "receipt": match &entry.content {
            EntryContent::Receipt(bytes) => Value::String(hex::encode(bytes)),
            EntryContent::Unreceipted => Value::Null,
        },
    })
}

fn transaction(seen: Option<&TransactionRecord>) -> Value {
    seen.map_or(Value::Null, |seen| {
        json!({
            "hash": seen.hash,
            "lt": seen.lt,
            "gas_used": seen.gas_used,
            "fees_nanoton": seen.fees.nano(),
        })
    })
}

fn batch(batch: &Batch) -> Value {
    let progress = match &batch.progress {
        BatchProgress::Prepared => json!({ "state": "prepared" }),
        BatchProgress::Submitted {
            valid_until,
            attempts,
        } => json!({ "state": "submitted", "valid_until": valid_until, "attempts": attempts }),
        BatchProgress::Confirmed {
            at,
            transaction: seen,
        } => json!({
            "state": "confirmed",
            "at": at.millis(),
            "transaction": transaction(seen.as_ref()),
        }),
    };
    json!({
        "seqno": batch.seqno,
        "first_entry": batch.first_entry,
        "jobs": batch.jobs(),
        "root": batch.root(),
        "total_nanoton": batch.total.nano(),
        "created": batch.created.millis(),
        "progress": progress,
    })
}

fn claim(claim: &ClaimRecord) -> Value {
    json!({
        "channel": claim.channel,
        "cumulative_nanoton": claim.cumulative.nano(),
        "amount_nanoton": claim.amount.nano(),
        "at": claim.at.millis(),
        "transaction": transaction(claim.transaction.as_ref()),
    })
}

fn job(job: &JobRecord) -> Value {
    json!({
        "side": format!("{:?}", job.side).to_lowercase(),
        "job": job.job.to_string(),
        "peer": job.peer.to_string(),
        "channel": job.channel,
        "opened": job.opened.millis(),
        "end": job.end.as_ref().map(|end| json!({
            "at": end.at.millis(),
            "outcome": end.outcome,
            "entry": end.entry,
        })),
    })
}

fn client_channel(channel: &ClientChannel) -> Value {
    json!({
        "address": channel.address,
        "worker": channel.worker.to_string(),
        "payee": channel.terms.worker,
        "nonce": channel.terms.nonce,
        "deposit_nanoton": channel.deposit.nano(),
        "reserve_nanoton": channel.reserve.nano(),
        "signed_nanoton": channel.signed_total().nano(),
        "opened": channel.opened.millis(),
        "state": format!("{:?}", channel.state),
    })
}
