//! The worker's ledger: vouchers, jobs and the log of entries. Batches and claims are in `settling.rs`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{JobId, NanoTon, Outcome, PeerId, PublicKey32, TonAddress, UnixMillis};

use super::durable::Undurable;
use super::jobs::{self, INTERRUPTED, JobEnd, JobRecord, Side};
use super::voucher_check::CheckedVoucher;
use super::worker_records::Head;
use super::{
    Entry, EntryContent, HeldVoucher, LedgerError, MAX_CHANNELS, WorkerChannel, channel_key,
};
use crate::store::{Latest, Store, WriteBatch, for_each, load, load_range};

/// See the [module's documentation](super). Shared behind an `Arc` by whoever takes vouchers and whoever settles.
#[derive(Debug)]
pub struct WorkerLedger<S> {
    pub(super) store: S,
    /// Guards every read-then-write. There is no state under it: the disk is the state.
    writing: Mutex<()>,
}

/// What closing a job wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedJob {
    /// The job as it is now on disk.
    pub record: JobRecord,
    /// The entry it added to the log, if it was paid or receipted.
    pub entry: Option<Entry>,
}

impl<S: Store> WorkerLedger<S> {
    /// Takes a store opened with [`super::SCHEMA`]. Call [`WorkerLedger::recover`] before serving.
    pub fn new(store: S) -> Self {
        Self {
            store,
            writing: Mutex::new(()),
        }
    }

    pub(super) fn begin(&self) -> MutexGuard<'_, ()> {
        // Nothing is kept under the lock that a panicking thread could have left half done.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of every method that writes: puts the batch behind all others, lets the next one begin, and returns when
    /// the batch is on the disk, together with those of others. An empty batch waits for whatever was read.
    pub(super) fn finish(
        &self,
        writing: MutexGuard<'_, ()>,
        batch: WriteBatch,
    ) -> Result<(), LedgerError> {
        let ticket = self.store.submit(batch)?;
        drop(writing);
        Ok(self.store.wait(ticket)?)
    }

    /// The store as the holder of the lock sees it: with what others have submitted and not yet seen on the disk.
    pub(super) fn latest(&self) -> Latest<'_, S> {
        Latest(&self.store)
    }

    pub(super) fn head(&self) -> Result<Head, LedgerError> {
        Ok(load(&self.store, &Head::KEY)?.unwrap_or_default())
    }

    pub(super) fn latest_head(&self) -> Result<Head, LedgerError> {
        Ok(load(&self.latest(), &Head::KEY)?.unwrap_or_default())
    }

    /// Registers a channel that was seen on chain with a deposit and our address as payee. `claimed` is what the
    /// contract has paid out so far. Registering the same channel again changes nothing and returns what is known.
    ///
    /// The chain does not say which peer a channel's client is, and anybody can name any channel. So it is the peer's
    /// who names it only once it has paid, which takes the client's key; until then it is whoever's named it last.
    ///
    /// # Errors
    /// [`LedgerError::ChannelConflict`] when it is known with another key, or has been paid on by another client;
    /// [`LedgerError::TooManyChannels`], or the store's failure.
    pub fn register_channel(
        &self,
        address: TonAddress,
        client: PeerId,
        client_key: PublicKey32,
        claimed: NanoTon,
    ) -> Result<WorkerChannel, LedgerError> {
        let writing = self.begin();
        if let Some(mut known) = load::<WorkerChannel>(&self.latest(), &channel_key(&address))? {
            let another = known.client != client;
            if known.client_key != client_key || (another && known.held.is_some()) {
                return Err(LedgerError::ChannelConflict(address));
            }
            let mut batch = WriteBatch::new();
            if another || known.expected.is_some() {
                known.client = client;
                known.expected = None;
                batch.put(&known);
            }
            self.finish(writing, batch)?;
            return Ok(known);
        }
        let mut head = self.latest_head()?;
        if head.channels >= MAX_CHANNELS {
            return Err(LedgerError::TooManyChannels {
                limit: MAX_CHANNELS,
            });
        }
        head.channels = head.channels.saturating_add(1);
        let channel = WorkerChannel {
            address,
            client,
            client_key,
            base: claimed,
            held: None,
            entered: None,
            covered: None,
            claimed,
            pending: None,
            expected: None,
            release: None,
        };
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        batch.put(&head);
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// A registered channel.
    ///
    /// # Errors
    /// The store's failure.
    pub fn channel(&self, address: &TonAddress) -> Result<Option<WorkerChannel>, LedgerError> {
        Ok(load(&self.store, &channel_key(address))?)
    }

    /// For the holder of the lock.
    pub(super) fn known_channel(&self, address: &TonAddress) -> Result<WorkerChannel, LedgerError> {
        load(&self.latest(), &channel_key(address))?.ok_or(LedgerError::UnknownChannel(*address))
    }

    /// Visits every registered channel, in order of address.
    ///
    /// # Errors
    /// The store's failure, or `visit`'s.
    pub fn for_each_channel(
        &self,
        visit: impl FnMut(WorkerChannel) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        for_each(&self.store, &[], visit)
    }

    /// A registered channel as it is going to be on the disk: what the next voucher is checked against. Nothing that
    /// depends on it may leave before that voucher is [durable](Self::durable), which this is then, too.
    ///
    /// # Errors
    /// The store's failure.
    pub fn latest_channel(
        &self,
        address: &TonAddress,
    ) -> Result<Option<WorkerChannel>, LedgerError> {
        Ok(load(&self.latest(), &channel_key(address))?)
    }

    /// Makes a voucher durable. Only after this returned may the tokens it pays for be sent.
    ///
    /// # Errors
    /// [`LedgerError::NotIncreasing`] for a total that is not above the newest one, or
    /// [`LedgerError::ChannelReleased`] on a channel that is being closed together (nothing is written),
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn accept_voucher(&self, checked: &CheckedVoucher) -> Result<WorkerChannel, LedgerError> {
        self.durable(self.submit_voucher(checked)?)
    }

    /// Waits until a submitted write is on the disk, and says what it has come to.
    ///
    /// # Errors
    /// What the submission was refused for, or the store's failure.
    pub fn durable<T>(&self, submitted: Undurable<T>) -> Result<T, LedgerError> {
        submitted.open(&self.store)
    }

    /// The first half of [`Self::accept_voucher`]: decides about a voucher and puts it behind all other writes. The second
    /// half is [`Self::durable`].
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure. A total that is not above the newest one is an error of the
    /// second half, which waits: whoever hears of it may take it for "I have it already".
    pub fn submit_voucher(
        &self,
        checked: &CheckedVoucher,
    ) -> Result<Undurable<WorkerChannel>, LedgerError> {
        let _writing = self.begin();
        let signed = checked.get();
        let mut channel = self.known_channel(&signed.voucher.channel)?;
        let mut batch = WriteBatch::new();
        // Checked once before; but another voucher may have been accepted since.
        if signed.voucher.cumulative <= channel.held_total() {
            let refusal = LedgerError::NotIncreasing {
                channel: channel.address,
                held: channel.held_total(),
                offered: signed.voucher.cumulative,
            };
            return Ok(Undurable::new(self.store.submit(batch)?, Err(refusal)));
        }
        if channel.release.is_some() {
            return Err(LedgerError::ChannelReleased(channel.address));
        }
        channel.held = Some(HeldVoucher {
            cumulative: signed.voucher.cumulative,
            signature: signed.signature,
        });
        batch.put(&channel);
        Ok(Undurable::new(self.store.submit(batch)?, Ok(channel)))
    }

    /// Records that a job has begun, paid on a registered channel.
    ///
    /// # Errors
    /// [`LedgerError::JobExists`], [`LedgerError::UnknownChannel`], [`LedgerError::ChannelReleased`], or the store's
    /// failure.
    pub fn open_job(
        &self,
        job: JobId,
        client: PeerId,
        channel: TonAddress,
        now: UnixMillis,
    ) -> Result<(), LedgerError> {
        let writing = self.begin();
        if self.known_channel(&channel)?.release.is_some() {
            return Err(LedgerError::ChannelReleased(channel));
        }
        let record = JobRecord {
            side: Side::Worker,
            job,
            peer: client,
            channel,
            opened: now,
            end: None,
        };
        let mut batch = WriteBatch::new();
        jobs::open(&self.latest(), &mut batch, &record)?;
        self.finish(writing, batch)
    }

    /// Ends a job: its outcome, its receipt as the log's next entry, and the voucher that goes with it, in one step.
    /// Without a receipt there is an entry only if the channel's total rose since its last one, so that nothing paid
    /// stays out of the log.
    ///
    /// # Errors
    /// [`LedgerError::JobEnded`] for a second outcome, [`LedgerError::UnknownJob`], [`LedgerError::BadReceipt`] or
    /// [`LedgerError::ReceiptMismatch`] for a receipt that is not this job's, or the store's failure. Nothing is
    /// written in any of these cases.
    pub fn close_job(
        &self,
        job: &JobId,
        outcome: &Outcome,
        receipt: Option<&SignedReceipt>,
        now: UnixMillis,
    ) -> Result<ClosedJob, LedgerError> {
        self.close(job, outcome.label(), receipt, now)
    }

    fn close(
        &self,
        job: &JobId,
        outcome: &str,
        receipt: Option<&SignedReceipt>,
        now: UnixMillis,
    ) -> Result<ClosedJob, LedgerError> {
        let writing = self.begin();
        let record = jobs::find_open(&self.latest(), Side::Worker, job)?;
        let mut channel = self.known_channel(&record.channel)?;
        if let Some(receipt) = receipt {
            check_receipt(&record, &channel, receipt)?;
        }
        let mut batch = WriteBatch::new();
        let credited = channel
            .held_total()
            .checked_sub(channel.entered_total())
            .ok_or(LedgerError::Inconsistent("a channel's total has shrunk"))?;
        let content = match receipt {
            Some(receipt) => Some(EntryContent::Receipt(receipt.encode())),
            None if credited > NanoTon::ZERO => Some(EntryContent::Unreceipted),
            None => None,
        };
        let entry = match content {
            None => None,
            Some(content) => {
                let mut head = self.latest_head()?;
                let entry = Entry {
                    index: head.entries,
                    job: *job,
                    channel: channel.address,
                    voucher: channel.held,
                    credited,
                    at: now,
                    content,
                };
                head.entries = head
                    .entries
                    .checked_add(1)
                    .ok_or(LedgerError::Overflow("entries"))?;
                head.credited = head
                    .credited
                    .checked_add(credited)
                    .ok_or(LedgerError::Overflow("credited"))?;
                channel.entered = channel.held;
                batch.put(&entry);
                batch.put(&head);
                batch.put(&channel);
                Some(entry)
            }
        };
        let end = JobEnd {
            at: now,
            outcome: outcome.to_owned(),
            entry: entry.as_ref().map(|entry| entry.index),
        };
        let record = jobs::close(&mut batch, record, end);
        self.finish(writing, batch)?;
        Ok(ClosedJob { record, entry })
    }

    /// Ends every job that was open when the process died, as [`INTERRUPTED`]. Once, at start, before serving. Safe to
    /// repeat: each job is ended in a step of its own.
    ///
    /// # Errors
    /// The store's failure.
    pub fn recover(&self, now: UnixMillis) -> Result<Vec<ClosedJob>, LedgerError> {
        let open = jobs::open_jobs(&self.store, Side::Worker)?;
        open.iter()
            .map(|job| self.close(job, INTERRUPTED, None, now))
            .collect()
    }

    /// A job, open or ended.
    ///
    /// # Errors
    /// The store's failure.
    pub fn job(&self, job: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        jobs::find(&self.store, Side::Worker, job)
    }

    /// The jobs that have no outcome yet.
    ///
    /// # Errors
    /// The store's failure.
    pub fn open_jobs(&self) -> Result<Vec<JobId>, LedgerError> {
        jobs::open_jobs(&self.store, Side::Worker)
    }

    /// Up to `limit` entries of the log from index `from` on.
    ///
    /// # Errors
    /// The store's failure.
    pub fn entries(&self, from: u64, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        Ok(load_range(&self.store, &[], &from.to_be_bytes(), limit)?)
    }

    /// Up to `limit` entries that are in no batch yet, oldest first.
    ///
    /// # Errors
    /// The store's failure.
    pub fn unsettled_entries(&self, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        self.entries(self.head()?.batched_entries, limit)
    }
}

/// A receipt is filed only under its own job, and never states more than the vouchers that are really here.
fn check_receipt(
    record: &JobRecord,
    channel: &WorkerChannel,
    signed: &SignedReceipt,
) -> Result<(), LedgerError> {
    let job = record.job;
    let receipt = signed.verify().map_err(|error| LedgerError::BadReceipt {
        job,
        reason: error.to_string(),
    })?;
    let mismatch = |field| LedgerError::ReceiptMismatch { job, field };
    if receipt.job != job {
        return Err(mismatch("job"));
    }
    if receipt.channel != record.channel {
        return Err(mismatch("channel"));
    }
    if receipt.client != record.peer {
        return Err(mismatch("client"));
    }
    if receipt.cumulative > channel.held_total() {
        return Err(mismatch("cumulative"));
    }
    Ok(())
}
