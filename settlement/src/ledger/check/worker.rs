//! The worker's half: channels, log, batches, claims, jobs.

use std::collections::BTreeMap;

use cocoon_protocol::merkle::Frontier;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{NanoTon, TonAddress};
use ed25519_dalek::VerifyingKey;

use super::super::jobs::{JobRecord, OpenJob, Side};
use super::super::worker_records::Head;
use super::super::{
    Batch, BatchProgress, ClaimRecord, Entry, EntryContent, HeldVoucher, LedgerError, WorkerChannel,
};
use super::{CheckReport, find, for_readable};
use crate::store::{Record, Store};

/// What the log says of one channel, beside what the channel's record says.
struct Line {
    channel: WorkerChannel,
    /// Newest voucher in the log so far, and in a confirmed batch.
    entered: Option<HeldVoucher>,
    covered: Option<HeldVoucher>,
    /// Sum and last total of its claims.
    claimed: NanoTon,
}

pub(super) fn check(
    store: &impl Store,
    global_id: Option<i32>,
    report: &mut CheckReport,
) -> Result<(), LedgerError> {
    let mut head = None;
    for_readable::<Head>(store, report, |_, found| {
        head = Some(found);
        Ok(())
    })?;
    let head = head.unwrap_or_default();
    let mut lines = channels(store, global_id, report)?;
    let batches = batches(store, report, &head)?;
    log(store, report, &head, &batches, &mut lines)?;
    claims(store, report, &mut lines)?;
    for line in lines.values() {
        compare(report, line);
    }
    counters(report, &head, &lines);
    jobs(store, report)
}

fn channels(
    store: &impl Store,
    global_id: Option<i32>,
    report: &mut CheckReport,
) -> Result<BTreeMap<TonAddress, Line>, LedgerError> {
    let mut lines = BTreeMap::new();
    for_readable::<WorkerChannel>(store, report, |report, channel| {
        let totals = [
            ("held", channel.held_total()),
            ("entered", channel.entered_total()),
            ("covered", channel.covered_total()),
            ("the base", channel.base),
        ];
        for pair in totals.windows(2) {
            if let [(above, more), (below, less)] = pair
                && more < less
            {
                let what = format!("{above} ({more}) is less than {below} ({less})");
                report.about("channel_order", &channel, what);
            }
        }
        if let Some(pending) = channel.pending
            && pending.cumulative > channel.covered_total()
        {
            let what = format!(
                "a claim of {} is on its way, covered is {}",
                pending.cumulative,
                channel.covered_total()
            );
            report.about("claim_beyond_commit", &channel, what);
        }
        if channel.claimed > channel.held_total() {
            let what = format!(
                "the chain has paid {}, the newest voucher here is for {}: an old copy of the disk?",
                channel.claimed,
                channel.held_total()
            );
            report.about("claimed_beyond_held", &channel, what);
        }
        if let (Some(global_id), Some(held)) = (global_id, channel.held) {
            let signed = held.for_channel(channel.address);
            let is_signed = VerifyingKey::from_bytes(channel.client_key.as_bytes())
                .is_ok_and(|key| signed.verify(&key, global_id).is_ok());
            if !is_signed {
                let what = format!("the voucher for {} is not the client's", held.cumulative);
                report.about("voucher_signature", &channel, what);
            }
        }
        let line = Line {
            claimed: channel.base,
            entered: None,
            covered: None,
            channel,
        };
        lines.insert(line.channel.address, line);
        Ok(())
    })?;
    Ok(lines)
}

/// The batches in order. Their number is bounded by the fees that were paid for them.
fn batches(
    store: &impl Store,
    report: &mut CheckReport,
    head: &Head,
) -> Result<Vec<Batch>, LedgerError> {
    let mut batches: Vec<Batch> = Vec::new();
    for_readable::<Batch>(store, report, |report, batch| {
        let (seqno, first, total) = batches.last().map_or((1, 0, NanoTon::ZERO), |last| {
            (last.seqno.saturating_add(1), last.jobs(), last.total)
        });
        if batch.seqno != seqno {
            let what = format!("batch {seqno} is missing");
            report.about("batch_gap", &batch, what);
        } else if batch.first_entry != first {
            let what = format!(
                "begins at entry {}, the one before ends at {first}",
                batch.first_entry
            );
            report.about("batch_gap", &batch, what);
        }
        if batch.total < total {
            let what = format!("its total {} is less than {total} before it", batch.total);
            report.about("batch_total", &batch, what);
        }
        let is_confirmed = matches!(batch.progress, BatchProgress::Confirmed { .. });
        if is_confirmed != (batch.seqno <= head.confirmed) {
            let what = format!("its progress contradicts {} confirmed", head.confirmed);
            report.about("batch_progress", &batch, what);
        }
        batches.push(batch);
        Ok(())
    })?;
    Ok(batches)
}

/// The log beside the batches: indexes, credits, roots.
fn log(
    store: &impl Store,
    report: &mut CheckReport,
    head: &Head,
    batches: &[Batch],
    lines: &mut BTreeMap<TonAddress, Line>,
) -> Result<(), LedgerError> {
    let mut tree = Frontier::new();
    let mut credited = NanoTon::ZERO;
    let mut next = 0_u64;
    // After a hole no root can be recomputed; the hole itself is reported once.
    let mut is_whole = true;
    let mut open = batches.iter().peekable();
    for_readable::<Entry>(store, report, |report, entry| {
        if entry.index != next {
            let what = format!(
                "entries {next} to {} are missing",
                entry.index.saturating_sub(1)
            );
            report.about("log_gap", &entry, what);
            is_whole = false;
        }
        next = entry.index.saturating_add(1);
        one_entry(store, report, &entry, lines)?;
        tree.push(entry.leaf_hash());
        credited = credited.saturating_add(entry.credited);
        while let Some(batch) = open.next_if(|batch| batch.jobs() <= next) {
            if batch.jobs() < next || !is_whole {
                continue;
            }
            if batch.tree != tree {
                let what = format!("its root is {}, the log's is {}", batch.root(), tree.root());
                report.about("batch_root", batch, what);
            }
            if batch.total != credited {
                let what = format!("its total is {}, the log's is {credited}", batch.total);
                report.about("batch_total", batch, what);
            }
        }
        let is_confirmed = batches
            .iter()
            .rfind(|batch| matches!(batch.progress, BatchProgress::Confirmed { .. }))
            .is_some_and(|batch| entry.index < batch.jobs());
        if let Some(line) = lines.get_mut(&entry.channel) {
            line.entered = entry.voucher.or(line.entered);
            if is_confirmed {
                line.covered = entry.voucher.or(line.covered);
            }
        }
        Ok(())
    })?;
    if next != head.entries {
        let what = format!(
            "the log ends at entry {next}, the head says {}",
            head.entries
        );
        report.about("head_entries", head, what);
    }
    if is_whole && credited != head.credited {
        let what = format!(
            "the log credits {credited}, the head says {}",
            head.credited
        );
        report.about("head_credited", head, what);
    }
    let (count, jobs, total) = batches.last().map_or((0, 0, NanoTon::ZERO), |last| {
        (last.seqno, last.jobs(), last.total)
    });
    if (count, jobs, total) != (head.batches, head.batched_entries, head.batched_credit) {
        let what = format!(
            "the last batch is {count} with {jobs} entries and {total}, the head says {} with {} and {}",
            head.batches, head.batched_entries, head.batched_credit
        );
        report.about("head_batches", head, what);
    }
    if head.confirmed > head.batches || head.batches > head.confirmed.saturating_add(1) {
        let what = format!("{} batches, {} confirmed", head.batches, head.confirmed);
        report.about("head_batches", head, what);
    }
    Ok(())
}

fn one_entry(
    store: &impl Store,
    report: &mut CheckReport,
    entry: &Entry,
    lines: &BTreeMap<TonAddress, Line>,
) -> Result<(), LedgerError> {
    match lines.get(&entry.channel) {
        None => {
            let what = format!("channel {} is not registered", entry.channel);
            report.about("entry_channel", entry, what);
        }
        Some(line) => {
            let before = line
                .entered
                .map_or(line.channel.base, |last| last.cumulative);
            let after = entry
                .voucher
                .map_or(line.channel.base, |voucher| voucher.cumulative);
            if before.checked_add(entry.credited) != Some(after) {
                let what = format!(
                    "credits {}, the channel went from {before} to {after}",
                    entry.credited
                );
                report.about("entry_credit", entry, what);
            }
        }
    }
    if let EntryContent::Receipt(bytes) = &entry.content {
        let receipt = SignedReceipt::decode(bytes)
            .ok()
            .and_then(|signed| signed.verify().ok().map(|receipt| (*receipt).clone()));
        match receipt {
            None => report.about(
                "entry_receipt",
                entry,
                "the receipt is not signed by its key".to_owned(),
            ),
            Some(receipt) if receipt.job != entry.job || receipt.channel != entry.channel => {
                report.about(
                    "entry_receipt",
                    entry,
                    "the receipt is another job's".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
    let mut key = vec![b'w'];
    key.extend_from_slice(entry.job.as_bytes());
    let job = find::<JobRecord>(store, &key)?;
    let named = job.and_then(|job| job.end).and_then(|end| end.entry);
    if named != Some(entry.index) {
        let what = format!("job {} does not name it", entry.job);
        report.about("entry_job", entry, what);
    }
    Ok(())
}

fn claims(
    store: &impl Store,
    report: &mut CheckReport,
    lines: &mut BTreeMap<TonAddress, Line>,
) -> Result<(), LedgerError> {
    for_readable::<ClaimRecord>(store, report, |report, claim| {
        let Some(line) = lines.get_mut(&claim.channel) else {
            let what = format!("channel {} is not registered", claim.channel);
            report.about("claim_channel", &claim, what);
            return Ok(());
        };
        if line.claimed.checked_add(claim.amount) != Some(claim.cumulative) {
            let what = format!(
                "paid {} up to {}, but {} were paid before",
                claim.amount, claim.cumulative, line.claimed
            );
            report.about("claim_sum", &claim, what);
        }
        line.claimed = claim.cumulative;
        Ok(())
    })
}

fn compare(report: &mut CheckReport, line: &Line) {
    let channel = &line.channel;
    for (name, what, log, record) in [
        (
            "channel_entered",
            "in the log",
            line.entered,
            channel.entered,
        ),
        (
            "channel_covered",
            "in a confirmed batch",
            line.covered,
            channel.covered,
        ),
    ] {
        if log != record {
            let total = |voucher: Option<HeldVoucher>| {
                voucher.map_or_else(|| "none".to_owned(), |held| held.cumulative.to_string())
            };
            let what = format!(
                "the newest voucher {what} is {}, the channel says {}",
                total(log),
                total(record)
            );
            report.about(name, channel, what);
        }
    }
    if line.claimed != channel.claimed {
        let what = format!(
            "its claims reach {}, it says {}",
            line.claimed, channel.claimed
        );
        report.about("channel_claimed", channel, what);
    }
}

fn counters(report: &mut CheckReport, head: &Head, lines: &BTreeMap<TonAddress, Line>) {
    let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    if count != head.channels {
        let what = format!("{count} channels, the head says {}", head.channels);
        report.about("head_channels", head, what);
    }
    let entered = lines.values().fold(NanoTon::ZERO, |sum, line| {
        let since = line
            .channel
            .entered_total()
            .saturating_sub(line.channel.base);
        sum.saturating_add(since)
    });
    if entered != head.credited {
        let what = format!(
            "the channels have entered {entered}, the log credits {}",
            head.credited
        );
        report.about("credit_sum", head, what);
    }
}

/// Both sides' jobs and the index of the open ones.
fn jobs(store: &impl Store, report: &mut CheckReport) -> Result<(), LedgerError> {
    for_readable::<JobRecord>(store, report, |report, job| {
        let is_indexed = find::<OpenJob>(store, &job.key())?.is_some();
        if is_indexed != job.end.is_none() {
            let what = if is_indexed {
                "it has ended and stands among the open jobs"
            } else {
                "it is open and does not stand among the open jobs"
            };
            report.about("open_job_index", &job, what.to_owned());
        }
        let entry = job.end.as_ref().and_then(|end| end.entry);
        if let Some(index) = entry {
            let entry = find::<Entry>(store, &index.to_be_bytes())?;
            if job.side != Side::Worker || entry.is_none_or(|entry| entry.job != job.job) {
                let what = format!("names entry {index}, which is not its own");
                report.about("job_entry", &job, what);
            }
        }
        Ok(())
    })?;
    for_readable::<OpenJob>(store, report, |report, open| {
        if find::<JobRecord>(store, &open.key())?.is_none() {
            let what = "an open job that nobody knows".to_owned();
            report.about("open_job_index", &open, what);
        }
        Ok(())
    })
}
