//! The client's ledger: channels opened, vouchers signed, jobs and receipts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cocoon_protocol::{
    Digest, JobId, NanoTon, Outcome, PeerId, SignedVoucher, TonAddress, UnixMillis, Voucher,
};
use ed25519_dalek::SigningKey;

use super::client_evidence::{self, KeptEvidence, MAX_KEPT_EVIDENCE, ReceiptFile};
use super::client_records::{ByLeaf, ByWorker};
use super::durable::Undurable;
use super::jobs::{self, INTERRUPTED, JobEnd, JobRecord, Side};
use super::{
    ClientChannel, ClientChannelState, KeptReceipt, LedgerError, MAX_CLIENT_CHANNELS, SignedPart,
    channel_key,
};
use crate::contract::ChannelTerms;
use crate::store::{Latest, Store, WriteBatch, for_each, load, load_range};

/// See the [module's documentation](super).
///
/// # Never a smaller total
/// [`ClientLedger::sign_voucher`] is the only way to a signature, and it returns one only after the new total is on the
/// disk. If the process dies between the two, the voucher was never seen by anybody: after the restart the ledger holds
/// a total that is above what the worker has. That is harmless and visible: the worker says what it holds when
/// it accepts a job; a client whose own total is higher sends [`ClientChannel::newest_voucher`] again and counts on
/// from there. It never signs the difference twice.
#[derive(Debug)]
pub struct ClientLedger<S> {
    pub(super) store: S,
    writing: Mutex<()>,
}

/// A channel that is about to be opened.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOpening {
    /// The node it will pay.
    pub worker: PeerId,
    /// Where the contract will be: `terms.address()`.
    pub address: TonAddress,
    /// What it will be deployed with. For a fresh nonce ask [`ClientLedger::next_nonce`].
    pub terms: ChannelTerms,
    /// The first deposit.
    pub deposit: NanoTon,
    /// What the contract will keep of it: `CHANNEL_RESERVE` and the gas of opening.
    pub reserve: NanoTon,
    /// Unix second after which the wallet's message can no longer be applied.
    pub valid_until: u32,
}

impl<S: Store> ClientLedger<S> {
    /// Takes a store opened with [`super::SCHEMA`]. Call [`ClientLedger::recover`] before serving.
    pub fn new(store: S) -> Self {
        Self {
            store,
            writing: Mutex::new(()),
        }
    }

    fn begin(&self) -> MutexGuard<'_, ()> {
        // Nothing is kept under the lock that a panicking thread could have left half done.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of every method that writes: see the worker's.
    fn finish(&self, writing: MutexGuard<'_, ()>, batch: WriteBatch) -> Result<(), LedgerError> {
        let ticket = self.store.submit(batch)?;
        drop(writing);
        Ok(self.store.wait(ticket)?)
    }

    /// The store as the holder of the lock sees it.
    fn latest(&self) -> Latest<'_, S> {
        Latest(&self.store)
    }

    /// Records a channel **before** the transfer that deploys it is sent, so that after a crash nobody deposits twice.
    ///
    /// # Errors
    /// [`LedgerError::ChannelConflict`] when the address is known already, [`LedgerError::TooManyChannels`], or the
    /// store's failure.
    pub fn open_channel(
        &self,
        opening: ChannelOpening,
        now: UnixMillis,
    ) -> Result<ClientChannel, LedgerError> {
        let writing = self.begin();
        if self
            .latest()
            .get(super::CLIENT_CHANNELS, &channel_key(&opening.address))?
            .is_some()
        {
            return Err(LedgerError::ChannelConflict(opening.address));
        }
        let mut count = 0_usize;
        self.for_each_channel(|_| {
            count = count.saturating_add(1);
            Ok(())
        })?;
        if count >= MAX_CLIENT_CHANNELS {
            return Err(LedgerError::TooManyChannels {
                limit: u32::try_from(MAX_CLIENT_CHANNELS).unwrap_or(u32::MAX),
            });
        }
        let channel = ClientChannel {
            address: opening.address,
            worker: opening.worker,
            terms: opening.terms,
            deposit: opening.deposit,
            reserve: opening.reserve,
            signed: None,
            opened: now,
            state: ClientChannelState::Opening {
                valid_until: opening.valid_until,
                message: None,
            },
        };
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        batch.put(&ByWorker {
            worker: opening.worker,
            channel: opening.address,
        });
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// The lowest nonce that no channel to this payee has used: a finished channel's may never be used again.
    ///
    /// # Errors
    /// [`LedgerError::Overflow`] after 2³² channels, or the store's failure.
    pub fn next_nonce(&self, payee: &TonAddress) -> Result<u32, LedgerError> {
        let mut next = 0_u32;
        self.for_each_channel(|channel| {
            if channel.terms.worker == *payee && channel.terms.nonce >= next {
                next = channel
                    .terms
                    .nonce
                    .checked_add(1)
                    .ok_or(LedgerError::Overflow("nonces"))?;
            }
            Ok(())
        })?;
        Ok(next)
    }

    /// Notes the hash of the message that opens a channel, for whoever looks for its transaction.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_opening_sent(
        &self,
        address: &TonAddress,
        hash: Digest,
    ) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| {
            if let ClientChannelState::Opening { message, .. } = &mut channel.state {
                *message = Some(hash);
            }
            Ok(())
        })
    }

    /// The channel was seen on chain: it is open, and this is all that was ever deposited (claimed + balance).
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_open(
        &self,
        address: &TonAddress,
        deposit: NanoTon,
    ) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| {
            channel.state = ClientChannelState::Open;
            channel.deposit = deposit;
            Ok(())
        })
    }

    /// We asked for the rest back; nothing is signed on it any more.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_closing(
        &self,
        address: &TonAddress,
        close_at: u32,
    ) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| {
            channel.state = ClientChannelState::Closing { close_at };
            Ok(())
        })
    }

    /// The channel is finished, or its opening has lapsed.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_closed(&self, address: &TonAddress) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| {
            channel.state = ClientChannelState::Closed;
            Ok(())
        })
    }

    pub(super) fn change(
        &self,
        address: &TonAddress,
        change: impl FnOnce(&mut ClientChannel) -> Result<(), LedgerError>,
    ) -> Result<ClientChannel, LedgerError> {
        let writing = self.begin();
        let mut channel: ClientChannel = load(&self.latest(), &channel_key(address))?
            .ok_or(LedgerError::UnknownChannel(*address))?;
        change(&mut channel)?;
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// Signs a voucher for a new total. It is on the disk before it is returned, and a total is never signed that is
    /// not above the last.
    ///
    /// # Errors
    /// [`LedgerError::NotIncreasing`], [`LedgerError::InsufficientDeposit`], [`LedgerError::ChannelNotOpen`],
    /// [`LedgerError::UnknownChannel`] (nothing is signed in these cases), or the store's failure.
    pub fn sign_voucher(
        &self,
        address: &TonAddress,
        cumulative: NanoTon,
        key: &SigningKey,
        global_id: i32,
        now: UnixMillis,
    ) -> Result<SignedVoucher, LedgerError> {
        self.durable(self.submit_signature(address, cumulative, key, global_id, now)?)
    }

    /// Waits until a submitted write is on the disk, and hands out what it has come to.
    ///
    /// # Errors
    /// The store's failure.
    pub fn durable<T>(&self, submitted: Undurable<T>) -> Result<T, LedgerError> {
        submitted.open(&self.store)
    }

    /// The first half of [`Self::sign_voucher`]: decides, signs, and puts the new total behind all other writes. The
    /// signature is handed out by the second half, [`Self::durable`].
    ///
    /// # Errors
    /// As `sign_voucher`.
    pub fn submit_signature(
        &self,
        address: &TonAddress,
        cumulative: NanoTon,
        key: &SigningKey,
        global_id: i32,
        now: UnixMillis,
    ) -> Result<Undurable<SignedVoucher>, LedgerError> {
        let voucher = Voucher {
            channel: *address,
            cumulative,
        };
        let _writing = self.begin();
        let mut channel: ClientChannel = load(&self.latest(), &channel_key(address))?
            .ok_or(LedgerError::UnknownChannel(*address))?;
        if !channel.takes_vouchers() {
            return Err(LedgerError::ChannelNotOpen(*address));
        }
        if cumulative <= channel.signed_total() {
            return Err(LedgerError::NotIncreasing {
                channel: *address,
                held: channel.signed_total(),
                offered: cumulative,
            });
        }
        if cumulative > channel.spendable() {
            return Err(LedgerError::InsufficientDeposit {
                channel: *address,
                needed: cumulative,
                spendable: channel.spendable(),
                deposit: channel.deposit,
            });
        }
        let signed = voucher.sign(key, global_id);
        channel.signed = Some(SignedPart {
            cumulative,
            signature: signed.signature,
            at: now,
        });
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        Ok(Undurable::new(self.store.submit(batch)?, Ok(signed)))
    }

    /// A channel.
    ///
    /// # Errors
    /// The store's failure.
    pub fn channel(&self, address: &TonAddress) -> Result<Option<ClientChannel>, LedgerError> {
        Ok(load(&self.store, &channel_key(address))?)
    }

    /// All channels to a worker, closed ones included.
    ///
    /// # Errors
    /// The store's failure.
    pub fn channels_with(&self, worker: &PeerId) -> Result<Vec<ClientChannel>, LedgerError> {
        let mut channels = Vec::new();
        let prefix = ByWorker::prefix(worker);
        for_each(&self.store, &prefix, |found: ByWorker| {
            channels.extend(self.channel(&found.channel)?);
            Ok::<_, LedgerError>(())
        })?;
        Ok(channels)
    }

    /// Visits every channel, in order of address.
    ///
    /// # Errors
    /// The store's failure, or `visit`'s.
    pub fn for_each_channel(
        &self,
        visit: impl FnMut(ClientChannel) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        for_each(&self.store, &[], visit)
    }

    /// Records that a job was given to a worker.
    ///
    /// # Errors
    /// [`LedgerError::JobExists`], or the store's failure.
    pub fn open_job(
        &self,
        job: JobId,
        worker: PeerId,
        channel: TonAddress,
        now: UnixMillis,
    ) -> Result<(), LedgerError> {
        let writing = self.begin();
        let record = JobRecord {
            side: Side::Client,
            job,
            peer: worker,
            channel,
            opened: now,
            end: None,
        };
        let mut batch = WriteBatch::new();
        jobs::open(&self.latest(), &mut batch, &record)?;
        self.finish(writing, batch)
    }

    /// Ends a job: its outcome and, where there is one, its receipt with salt and evidence, in one step.
    ///
    /// # Errors
    /// [`LedgerError::JobEnded`] for a second outcome, [`LedgerError::UnknownJob`], [`LedgerError::BadReceipt`] or
    /// [`LedgerError::ReceiptMismatch`], or the store's failure. Nothing is written in any of these cases.
    pub fn close_job(
        &self,
        job: &JobId,
        outcome: &Outcome,
        receipt: Option<&ReceiptFile>,
        now: UnixMillis,
    ) -> Result<JobRecord, LedgerError> {
        self.close(job, outcome.label(), receipt, now)
    }

    fn close(
        &self,
        job: &JobId,
        outcome: &str,
        receipt: Option<&ReceiptFile>,
        now: UnixMillis,
    ) -> Result<JobRecord, LedgerError> {
        let writing = self.begin();
        let record = jobs::find_open(&self.latest(), Side::Client, job)?;
        let mut batch = WriteBatch::new();
        if let Some(file) = receipt {
            check_receipt(&record, file)?;
            batch.put(&KeptReceipt {
                job: *job,
                worker: record.peer,
                at: now,
                receipt: file.receipt.encode(),
                salt: file.salt,
            });
            batch.put(&ByLeaf {
                leaf: file.receipt.leaf(),
                job: *job,
            });
            let limit = MAX_KEPT_EVIDENCE;
            client_evidence::keep(&self.latest(), &mut batch, &file.evidence, now, limit)?;
        }
        let end = JobEnd {
            at: now,
            outcome: outcome.to_owned(),
            entry: None,
        };
        let record = jobs::close(&mut batch, record, end);
        self.finish(writing, batch)?;
        Ok(record)
    }

    /// Ends every job that was open when the process died, as [`INTERRUPTED`]. Once, at start. Safe to repeat.
    ///
    /// # Errors
    /// The store's failure.
    pub fn recover(&self, now: UnixMillis) -> Result<Vec<JobRecord>, LedgerError> {
        let open = jobs::open_jobs(&self.store, Side::Client)?;
        open.iter()
            .map(|job| self.close(job, INTERRUPTED, None, now))
            .collect()
    }

    /// A job, open or ended.
    ///
    /// # Errors
    /// The store's failure.
    pub fn job(&self, job: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        jobs::find(&self.store, Side::Client, job)
    }

    /// The receipt of a job.
    ///
    /// # Errors
    /// The store's failure.
    pub fn receipt(&self, job: &JobId) -> Result<Option<KeptReceipt>, LedgerError> {
        Ok(load(&self.store, job.as_bytes())?)
    }

    /// The receipt of that name: `SignedReceipt::leaf`.
    ///
    /// # Errors
    /// The store's failure.
    pub fn receipt_by_leaf(&self, leaf: &Digest) -> Result<Option<KeptReceipt>, LedgerError> {
        match load::<ByLeaf>(&self.store, leaf.as_bytes())? {
            Some(found) => self.receipt(&found.job),
            None => Ok(None),
        }
    }

    /// The evidence of that digest, unless it had to make room.
    ///
    /// # Errors
    /// The store's failure.
    pub fn evidence(&self, digest: &Digest) -> Result<Option<KeptEvidence>, LedgerError> {
        Ok(load(&self.store, digest.as_bytes())?)
    }

    /// Up to `limit` receipts, in order of job id, from `from` on.
    ///
    /// # Errors
    /// The store's failure.
    pub fn receipts(&self, from: &JobId, limit: usize) -> Result<Vec<KeptReceipt>, LedgerError> {
        Ok(load_range(&self.store, &[], from.as_bytes(), limit)?)
    }
}

/// A receipt is filed only under its own job, and beside the evidence that it names.
fn check_receipt(record: &JobRecord, file: &ReceiptFile) -> Result<(), LedgerError> {
    let job = record.job;
    let receipt = file
        .receipt
        .verify()
        .map_err(|error| LedgerError::BadReceipt {
            job,
            reason: error.to_string(),
        })?;
    let mismatch = |field| Err(LedgerError::ReceiptMismatch { job, field });
    if receipt.job != job {
        return mismatch("job");
    }
    if receipt.worker != record.peer {
        return mismatch("worker");
    }
    if receipt.channel != record.channel {
        return mismatch("channel");
    }
    if receipt.evidence != file.evidence.claims.digest() {
        return mismatch("evidence");
    }
    Ok(())
}
