//! Batches, commits and claims: what the [settler](crate::settler) asks to be written, each in one durable step.

use cocoon_protocol::merkle::{Frontier, InclusionProof};
use cocoon_protocol::{NanoTon, TonAddress, UnixMillis};
use std::collections::BTreeMap;

use super::worker_records::Head;
use super::{
    Batch, BatchProgress, ClaimRecord, Entry, LedgerError, PendingClaim, TransactionRecord,
    WorkerChannel, WorkerLedger, channel_key,
};
use crate::settler::{CoveredChannel, SettlerInput, SettlerOutput, SettlerStart, Unsettled};
use crate::store::{Store, WriteBatch, load, load_range};

/// Entries read at a time.
const PAGE: usize = 256;

/// An entry with the way to a committed root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    /// The entry.
    pub entry: Entry,
    /// The first batch that holds it.
    pub batch: Batch,
    /// From the entry's leaf to the batch's root.
    pub proof: InclusionProof,
}

impl<S: Store> WorkerLedger<S> {
    /// Where the settler goes on from.
    ///
    /// # Errors
    /// The store's failure, or [`LedgerError::Inconsistent`].
    pub fn settler_start(&self) -> Result<SettlerStart, LedgerError> {
        let _writing = self.begin();
        let head = self.head()?;
        let confirmed = match head.confirmed {
            0 => None,
            seqno => Some(self.known_batch(seqno)?),
        };
        let open = if head.batches > head.confirmed {
            Some(self.known_batch(head.batches)?)
        } else {
            None
        };
        let mut channels = Vec::new();
        self.for_each_channel(|channel| {
            channels.extend(covered(&channel));
            Ok(())
        })?;
        Ok(SettlerStart {
            confirmed,
            open,
            unsettled: self.unsettled_after(&head)?,
            channels,
        })
    }

    /// What is in the log and in no batch.
    ///
    /// # Errors
    /// The store's failure.
    pub fn unsettled(&self) -> Result<Unsettled, LedgerError> {
        self.unsettled_after(&self.head()?)
    }

    fn unsettled_after(&self, head: &Head) -> Result<Unsettled, LedgerError> {
        let oldest = self.entries(head.batched_entries, 1)?;
        Ok(Unsettled {
            entries: head.entries.saturating_sub(head.batched_entries),
            credited: head.credited.saturating_sub(head.batched_credit),
            oldest: oldest.first().map(|entry| entry.at),
        })
    }

    /// Performs those outputs that are the ledger's, and returns the answer to feed back. `Ok(None)` for the others.
    ///
    /// # Errors
    /// As the method it calls. After an error, drop the rest of the outputs and the settler with them.
    pub fn perform(
        &self,
        now: UnixMillis,
        output: &SettlerOutput,
        max_batch_entries: u32,
    ) -> Result<Option<SettlerInput>, LedgerError> {
        match output {
            SettlerOutput::PersistBatch { seqno } => {
                let batch = self.prepare_batch(*seqno, max_batch_entries, now)?;
                let unsettled = self.unsettled()?;
                Ok(Some(SettlerInput::BatchPersisted(batch, unsettled)))
            }
            SettlerOutput::PersistCommitAttempt { seqno, valid_until } => {
                self.record_commit_attempt(*seqno, *valid_until)?;
                Ok(None)
            }
            SettlerOutput::Committed { seqno, transaction } => {
                let channels = self.confirm_batch(*seqno, *transaction, now)?;
                Ok(Some(SettlerInput::Covered(channels)))
            }
            SettlerOutput::PersistClaimAttempt { channel, pending } => {
                self.record_claim_attempt(channel, *pending)?;
                Ok(None)
            }
            SettlerOutput::Settled {
                channel,
                cumulative,
                transaction,
                ..
            } => {
                self.record_claim(channel, *cumulative, *transaction, now)?;
                Ok(None)
            }
            SettlerOutput::PersistReleaseAttempt {
                channel,
                retry_after,
            } => {
                self.record_release_attempt(channel, *retry_after)?;
                Ok(None)
            }
            SettlerOutput::Released { channel } => {
                self.record_released(channel)?;
                Ok(None)
            }
            SettlerOutput::ReadStakes => Ok(Some(SettlerInput::Stakes(self.stakes()?))),
            SettlerOutput::SubmitCommit(_)
            | SettlerOutput::SubmitClaim { .. }
            | SettlerOutput::SubmitRelease(_)
            | SettlerOutput::LookAtLedger
            | SettlerOutput::LookAtChannel(_)
            | SettlerOutput::LookAtPrices
            | SettlerOutput::StopServing { .. }
            | SettlerOutput::DeployLedger
            | SettlerOutput::Problem(_)
            | SettlerOutput::RolledBack(_) => Ok(None),
        }
    }

    /// A batch by its number.
    ///
    /// # Errors
    /// The store's failure.
    pub fn batch(&self, seqno: u32) -> Result<Option<Batch>, LedgerError> {
        Ok(load(&self.store, &seqno.to_be_bytes())?)
    }

    fn known_batch(&self, seqno: u32) -> Result<Batch, LedgerError> {
        self.batch(seqno)?.ok_or(LedgerError::UnknownBatch(seqno))
    }

    /// Up to `limit` batches from number `from` on.
    ///
    /// # Errors
    /// The store's failure.
    pub fn batches(&self, from: u32, limit: usize) -> Result<Vec<Batch>, LedgerError> {
        Ok(load_range(&self.store, &[], &from.to_be_bytes(), limit)?)
    }

    /// Up to `limit` claims on one channel, oldest first.
    ///
    /// # Errors
    /// The store's failure.
    pub fn claims(
        &self,
        channel: &TonAddress,
        limit: usize,
    ) -> Result<Vec<ClaimRecord>, LedgerError> {
        Ok(load_range(&self.store, &channel_key(channel), &[], limit)?)
    }

    /// Cuts batch `seqno` from the oldest entries that are in none, at most `max_entries` (and at most
    /// [`super::MAX_BATCH_ENTRIES`]). A batch that exists already is returned as it is.
    ///
    /// # Errors
    /// [`LedgerError::BatchOutOfOrder`], [`LedgerError::BatchUnconfirmed`] while the one before is under way,
    /// [`LedgerError::NothingToSettle`], or the store's failure.
    pub fn prepare_batch(
        &self,
        seqno: u32,
        max_entries: u32,
        now: UnixMillis,
    ) -> Result<Batch, LedgerError> {
        let writing = self.begin();
        let mut head = self.latest_head()?;
        if let Some(existing) = load(&self.latest(), &seqno.to_be_bytes())? {
            self.finish(writing, WriteBatch::new())?;
            return Ok(existing);
        }
        let next = head
            .batches
            .checked_add(1)
            .ok_or(LedgerError::Overflow("batches"))?;
        if seqno != next {
            return Err(LedgerError::BatchOutOfOrder { asked: seqno, next });
        }
        if head.confirmed != head.batches {
            return Err(LedgerError::BatchUnconfirmed(head.batches));
        }
        let limit = max_entries.min(super::MAX_BATCH_ENTRIES);
        let end = head
            .batched_entries
            .saturating_add(u64::from(limit))
            .min(head.entries);
        if end <= head.batched_entries {
            return Err(LedgerError::NothingToSettle);
        }
        let mut tree = match head.batches {
            0 => Frontier::new(),
            last => self.known_batch(last)?.tree,
        };
        let first_entry = head.batched_entries;
        for_entries(&self.latest(), first_entry, end, |entry| {
            tree.push(entry.leaf_hash());
            head.batched_credit = head
                .batched_credit
                .checked_add(entry.credited)
                .ok_or(LedgerError::Overflow("batched credit"))?;
            Ok(())
        })?;
        head.batches = seqno;
        head.batched_entries = tree.size();
        let batch = Batch {
            seqno,
            first_entry,
            tree,
            total: head.batched_credit,
            created: now,
            progress: BatchProgress::Prepared,
        };
        let mut writes = WriteBatch::new();
        writes.put(&batch);
        writes.put(&head);
        self.finish(writing, writes)?;
        Ok(batch)
    }

    /// Notes that the commit of the open batch is about to be sent. Before sending it.
    ///
    /// # Errors
    /// [`LedgerError::UnknownBatch`], [`LedgerError::Inconsistent`] for one that is confirmed, or the store's failure.
    pub fn record_commit_attempt(&self, seqno: u32, valid_until: u32) -> Result<(), LedgerError> {
        let writing = self.begin();
        let mut batch = self.known_batch(seqno)?;
        let attempts = match batch.progress {
            BatchProgress::Prepared => 0,
            BatchProgress::Submitted { attempts, .. } => attempts,
            BatchProgress::Confirmed { .. } => {
                return Err(LedgerError::Inconsistent(
                    "a confirmed batch was submitted again",
                ));
            }
        };
        batch.progress = BatchProgress::Submitted {
            valid_until,
            attempts: attempts.saturating_add(1),
        };
        let mut writes = WriteBatch::new();
        writes.put(&batch);
        self.finish(writing, writes)
    }

    /// Notes that the chain holds a batch, and which vouchers may be claimed because of it: for each channel in the
    /// batch, the one of its last entry there. Confirming again changes nothing and gives the same answer.
    ///
    /// # Errors
    /// [`LedgerError::UnknownBatch`], [`LedgerError::BatchOutOfOrder`], or the store's failure.
    pub fn confirm_batch(
        &self,
        seqno: u32,
        transaction: Option<TransactionRecord>,
        now: UnixMillis,
    ) -> Result<Vec<CoveredChannel>, LedgerError> {
        let writing = self.begin();
        let mut head = self.latest_head()?;
        let mut batch = self.known_batch(seqno)?;
        let next = head.confirmed.saturating_add(1);
        if seqno > next {
            return Err(LedgerError::BatchOutOfOrder { asked: seqno, next });
        }
        let mut newest = BTreeMap::new();
        for_entries(&self.latest(), batch.first_entry, batch.jobs(), |entry| {
            if let Some(voucher) = entry.voucher {
                newest.insert(entry.channel, voucher);
            }
            Ok(())
        })?;
        let mut writes = WriteBatch::new();
        let mut answer = Vec::new();
        for (address, voucher) in newest {
            let mut channel = self.known_channel(&address)?;
            if voucher.cumulative > channel.covered_total() {
                channel.covered = Some(voucher);
                writes.put(&channel);
            }
            answer.extend(covered(&channel));
        }
        if seqno == next {
            head.confirmed = seqno;
            batch.progress = BatchProgress::Confirmed {
                at: now,
                transaction,
            };
            writes.put(&head);
            writes.put(&batch);
        } else {
            writes = WriteBatch::new();
        }
        self.finish(writing, writes)?;
        Ok(answer)
    }

    /// Notes that a claim is about to be sent. Before sending it.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], [`LedgerError::Inconsistent`] for more than is covered, or the store's failure.
    pub fn record_claim_attempt(
        &self,
        channel: &TonAddress,
        pending: PendingClaim,
    ) -> Result<(), LedgerError> {
        let writing = self.begin();
        let mut channel = self.known_channel(channel)?;
        if pending.cumulative > channel.covered_total() {
            return Err(LedgerError::Inconsistent(
                "a claim goes beyond what a confirmed commit covers",
            ));
        }
        channel.pending = Some(pending);
        let mut writes = WriteBatch::new();
        writes.put(&channel);
        self.finish(writing, writes)
    }

    /// Notes that the chain shows `cumulative` as paid. A total that is not above the known one changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_claim(
        &self,
        channel: &TonAddress,
        cumulative: NanoTon,
        transaction: Option<TransactionRecord>,
        now: UnixMillis,
    ) -> Result<(), LedgerError> {
        let writing = self.begin();
        let mut channel = self.known_channel(channel)?;
        let Some(amount) = cumulative
            .checked_sub(channel.claimed)
            .filter(|amount| *amount > NanoTon::ZERO)
        else {
            return self.finish(writing, WriteBatch::new());
        };
        channel.claimed = cumulative;
        channel
            .pending
            .take_if(|pending| pending.cumulative <= cumulative);
        let mut writes = WriteBatch::new();
        writes.put(&channel);
        writes.put(&ClaimRecord {
            channel: channel.address,
            cumulative,
            amount,
            at: now,
            transaction,
        });
        self.finish(writing, writes)
    }

    /// An entry with its proof against the first batch that holds it. Reads every leaf up to that batch: for people and
    /// audits, not for the way of a prompt.
    ///
    /// # Errors
    /// [`LedgerError::UnknownEntry`] for one that is in no batch, or the store's failure.
    pub fn prove_entry(&self, index: u64) -> Result<ProvenEntry, LedgerError> {
        let unknown = LedgerError::UnknownEntry(index);
        let entry = self
            .entries(index, 1)?
            .pop()
            .filter(|entry| entry.index == index);
        let entry = entry.ok_or(LedgerError::UnknownEntry(index))?;
        let batch = self.batch_holding(index)?.ok_or(unknown)?;
        let mut leaves = Vec::new();
        for_entries(&self.store, 0, batch.jobs(), |entry| {
            leaves.push(entry.leaf_hash());
            Ok(())
        })?;
        let proof = InclusionProof::make(index, &leaves).ok_or(LedgerError::UnknownEntry(index))?;
        if !proof.leads(entry.leaf_hash(), batch.root()) {
            return Err(LedgerError::Inconsistent("the log does not fit its batch"));
        }
        Ok(ProvenEntry {
            entry,
            batch,
            proof,
        })
    }

    /// The batch that an entry is in, by halving: batches are in the order of their entries.
    fn batch_holding(&self, index: u64) -> Result<Option<Batch>, LedgerError> {
        let (mut low, mut high) = (1_u32, self.head()?.batches);
        while low <= high {
            let middle = low.midpoint(high);
            let batch = self.known_batch(middle)?;
            if index < batch.first_entry {
                high = middle.saturating_sub(1);
            } else if index >= batch.jobs() {
                low = middle.saturating_add(1);
            } else {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

/// Visits the entries from `from` up to and without `end`, page by page, and makes sure that none is missing.
pub(super) fn for_entries(
    store: &impl Store,
    from: u64,
    end: u64,
    mut visit: impl FnMut(Entry) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut next = from;
    while next < end {
        let left = usize::try_from(end.saturating_sub(next)).unwrap_or(PAGE);
        let page: Vec<Entry> = load_range(store, &[], &next.to_be_bytes(), left.min(PAGE))?;
        if page.is_empty() {
            return Err(LedgerError::Inconsistent(
                "the log is shorter than its batches",
            ));
        }
        for entry in page {
            if entry.index != next {
                return Err(LedgerError::Inconsistent("the log has a gap"));
            }
            visit(entry)?;
            next = next.saturating_add(1);
        }
    }
    Ok(())
}

/// What the settler should know of a channel; nothing when nothing is claimable.
fn covered(channel: &WorkerChannel) -> Option<CoveredChannel> {
    let voucher = channel.covered?;
    (voucher.cumulative > channel.claimed).then_some(CoveredChannel {
        channel: channel.address,
        voucher,
        claimed: channel.claimed,
        pending: channel.pending,
    })
}
