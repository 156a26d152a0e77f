//! What a worker keeps on disk, byte for byte.

use cocoon_protocol::merkle::{self, Frontier, MAX_PROOF_STEPS};
use cocoon_protocol::{
    Digest, JobId, NanoTon, PeerId, PublicKey32, SignedVoucher, TonAddress, UnixMillis, Voucher,
};

use super::jobs::{read_peer, write_channel};
use super::{
    AgreedRelease, WORKER_BATCHES, WORKER_CHANNELS, WORKER_CLAIMS, WORKER_ENTRIES, WORKER_HEAD,
    channel_key, read_channel, read_digest, whole_key,
};
use crate::store::{Column, Reader, Record, RecordError, Writer};

/// Channels a worker registers. Each needs a deposit on chain, so this is money, not spam; still, a bound.
pub const MAX_CHANNELS: u32 = 65_536;

/// No channel is registered that is not on chain while there are so many: those cost nothing, and may not take the room of
/// those that do.
pub const MAX_CHANNELS_TO_EXPECT: u32 = MAX_CHANNELS / 2;

/// Entries in one batch. A commit costs the same for any number; this bounds the work of cutting one, some tenths of a
/// second. How many a worker waits for is its settler's choice.
pub const MAX_BATCH_ENTRIES: u32 = 100_000;

/// In front of an entry's leaf bytes when there is no receipt. No receipt starts like this: receipts are protobuf, and
/// `c` (0x63) opens a group there, which proto3 does not have.
pub(super) const UNRECEIPTED_TAG: &[u8] = b"cocoon/unreceipted/v1\0";

/// A voucher as it is kept: the channel is in the record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldVoucher {
    /// The total signed for.
    pub cumulative: NanoTon,
    /// The client's Ed25519 signature.
    pub signature: [u8; 64],
}

impl HeldVoucher {
    /// The voucher as it is claimed.
    #[must_use]
    pub fn for_channel(&self, channel: TonAddress) -> SignedVoucher {
        SignedVoucher {
            voucher: Voucher {
                channel,
                cumulative: self.cumulative,
            },
            signature: self.signature,
        }
    }

    fn write(&self, out: &mut Writer) {
        out.amount(self.cumulative);
        out.fixed(&self.signature);
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            cumulative: fields.amount()?,
            signature: fields.fixed()?,
        })
    }
}

/// A claim that was handed to the chain and has neither shown there nor been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingClaim {
    /// The total claimed.
    pub cumulative: NanoTon,
    /// Chain time (unix seconds) from which it may be submitted again.
    pub retry_after: u32,
}

/// A channel that pays this worker. Column `worker.channels`, key: address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerChannel {
    /// The contract.
    pub address: TonAddress,
    /// Who pays.
    pub client: PeerId,
    /// The key the client's vouchers are signed with, as in the contract.
    pub client_key: PublicKey32,
    /// What the contract had paid out before this ledger knew it.
    pub base: NanoTon,
    /// The newest voucher.
    pub held: Option<HeldVoucher>,
    /// The newest voucher when the channel's last entry was made.
    pub entered: Option<HeldVoucher>,
    /// The newest voucher that a confirmed commit covers: what may be claimed.
    pub covered: Option<HeldVoucher>,
    /// What the chain has paid.
    pub claimed: NanoTon,
    /// A claim on its way.
    pub pending: Option<PendingClaim>,
    /// Until the channel was seen on chain with a deposit that covers what is signed: since when it was expected.
    pub expected: Option<UnixMillis>,
    /// Client and worker are closing it together. Since version 2.
    pub release: Option<AgreedRelease>,
}

impl WorkerChannel {
    fn total(&self, voucher: Option<HeldVoucher>) -> NanoTon {
        voucher.map_or(self.base, |voucher| voucher.cumulative)
    }

    /// The newest total signed, or the base.
    #[must_use]
    pub fn held_total(&self) -> NanoTon {
        self.total(self.held)
    }

    /// The total that is in the log, or the base.
    #[must_use]
    pub fn entered_total(&self) -> NanoTon {
        self.total(self.entered)
    }

    /// The total that may be claimed, or the base.
    #[must_use]
    pub fn covered_total(&self) -> NanoTon {
        self.total(self.covered)
    }
}

impl Record for WorkerChannel {
    const COLUMN: Column = WORKER_CHANNELS;
    /// 2 adds `expected` and `release`: in version 1 every channel was seen before it was written down.
    const VERSION: u8 = 2;

    fn key(&self) -> Vec<u8> {
        channel_key(&self.address)
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.client.to_bytes());
        out.fixed(self.client_key.as_bytes());
        out.amount(self.base);
        for voucher in [&self.held, &self.entered, &self.covered] {
            out.option(voucher.as_ref(), |out, voucher| voucher.write(out));
        }
        out.amount(self.claimed);
        out.option(self.pending.as_ref(), |out, pending| {
            out.amount(pending.cumulative);
            out.u32(pending.retry_after);
        });
        out.option(self.expected.as_ref(), |out, since| out.u64(since.millis()));
        out.option(self.release.as_ref(), |out, release| release.write(out));
    }

    fn read(version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            address: whole_key(key, read_channel)?,
            client: read_peer(fields)?,
            client_key: PublicKey32::from_bytes(fields.fixed()?),
            base: fields.amount()?,
            held: fields.option(HeldVoucher::read)?,
            entered: fields.option(HeldVoucher::read)?,
            covered: fields.option(HeldVoucher::read)?,
            claimed: fields.amount()?,
            pending: fields.option(|fields| {
                Ok(PendingClaim {
                    cumulative: fields.amount()?,
                    retry_after: fields.u32()?,
                })
            })?,
            expected: match version {
                1 => None,
                _ => fields.option(|fields| Ok(UnixMillis::from_millis(fields.u64()?)))?,
            },
            release: match version {
                1 => None,
                _ => fields.option(AgreedRelease::read)?,
            },
        })
    }
}

/// What stands behind an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryContent {
    /// A receipt signed in the enclave, as it went to the client.
    Receipt(Vec<u8>),
    /// The client paid, but there is no receipt: a crash took the enclave's key before it could sign.
    Unreceipted,
}

/// One leaf of the log. Column `worker.entries`, key: index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 0.
    pub index: u64,
    /// The job it ends.
    pub job: JobId,
    /// Where it is paid.
    pub channel: TonAddress,
    /// The newest voucher of the channel at that moment; `None` if there was none at all.
    pub voucher: Option<HeldVoucher>,
    /// How far the channel's total rose since its last entry.
    pub credited: NanoTon,
    /// When.
    pub at: UnixMillis,
    /// Receipt or not.
    pub content: EntryContent,
}

impl Entry {
    /// The bytes whose [`merkle::leaf_hash`] is in the tree: the signed receipt, or what is known without one
    /// (tag ‖ job ‖ channel ‖ total u64 BE ‖ credited u64 BE).
    #[must_use]
    pub fn leaf_bytes(&self) -> Vec<u8> {
        match &self.content {
            EntryContent::Receipt(bytes) => bytes.clone(),
            EntryContent::Unreceipted => {
                let total = self.voucher.map_or(NanoTon::ZERO, |held| held.cumulative);
                let mut bytes = UNRECEIPTED_TAG.to_vec();
                bytes.extend_from_slice(self.job.as_bytes());
                bytes.extend_from_slice(&channel_key(&self.channel));
                bytes.extend_from_slice(&total.nano().to_be_bytes());
                bytes.extend_from_slice(&self.credited.nano().to_be_bytes());
                bytes
            }
        }
    }

    /// The leaf's hash.
    #[must_use]
    pub fn leaf_hash(&self) -> Digest {
        merkle::leaf_hash(&self.leaf_bytes())
    }
}

impl Record for Entry {
    const COLUMN: Column = WORKER_ENTRIES;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.index.to_be_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.fixed(self.job.as_bytes());
        write_channel(out, &self.channel);
        out.option(self.voucher.as_ref(), |out, voucher| voucher.write(out));
        out.amount(self.credited);
        out.u64(self.at.millis());
        match &self.content {
            EntryContent::Receipt(bytes) => {
                out.u8(0);
                out.bytes(bytes);
            }
            EntryContent::Unreceipted => out.u8(1),
        }
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            index: whole_key(key, Reader::u64)?,
            job: JobId::from_bytes(fields.fixed()?),
            channel: read_channel(fields)?,
            voucher: fields.option(HeldVoucher::read)?,
            credited: fields.amount()?,
            at: UnixMillis::from_millis(fields.u64()?),
            content: match fields.u8()? {
                0 => EntryContent::Receipt(fields.bytes()?.to_vec()),
                1 => EntryContent::Unreceipted,
                _ => return Err(RecordError::BadValue("the kind of an entry")),
            },
        })
    }
}

/// A transaction that was seen on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionRecord {
    /// Its hash.
    pub hash: Digest,
    /// Its logical time.
    pub lt: u64,
    /// Gas it used.
    pub gas_used: u64,
    /// All fees it cost the account.
    pub fees: NanoTon,
}

impl TransactionRecord {
    fn write(&self, out: &mut Writer) {
        out.fixed(self.hash.as_bytes());
        out.u64(self.lt);
        out.u64(self.gas_used);
        out.amount(self.fees);
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            hash: read_digest(fields)?,
            lt: fields.u64()?,
            gas_used: fields.u64()?,
            fees: fields.amount()?,
        })
    }
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchProgress {
    /// Written here, never handed to the chain.
    Prepared,
    /// A commit was, or was about to be, handed to the chain.
    Submitted {
        /// Chain time (unix seconds) from which that message can no longer be applied.
        valid_until: u32,
        /// How many times it was handed over.
        attempts: u32,
    },
    /// The ledger contract holds it.
    Confirmed {
        /// When we saw it.
        at: UnixMillis,
        /// The transaction, where it was seen and not only its effect.
        transaction: Option<TransactionRecord>,
    },
}

/// One commit: the log up to and including this batch's entries. Column `worker.batches`, key: seqno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number, from 0: the ledger contract's seqno before it is applied.
    pub seqno: u32,
    /// The log's first entry in it.
    pub first_entry: u64,
    /// The tree after it; its size is the `jobs` of the commit, its root the `root`.
    pub tree: Frontier,
    /// The sum credited by all entries so far: the `total` of the commit.
    pub total: NanoTon,
    /// When it was cut.
    pub created: UnixMillis,
    /// How far it has come.
    pub progress: BatchProgress,
}

impl Batch {
    /// The index after its last entry; the number of leaves.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        self.tree.size()
    }

    /// How many entries it adds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.jobs().saturating_sub(self.first_entry)
    }

    /// The root it commits.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.tree.root()
    }
}

impl Record for Batch {
    const COLUMN: Column = WORKER_BATCHES;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.seqno.to_be_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.first_entry);
        out.u64(self.tree.size());
        out.u8(u8::try_from(self.tree.peaks().len()).unwrap_or(u8::MAX));
        for peak in self.tree.peaks() {
            out.fixed(peak.as_bytes());
        }
        out.amount(self.total);
        out.u64(self.created.millis());
        match &self.progress {
            BatchProgress::Prepared => out.u8(0),
            BatchProgress::Submitted {
                valid_until,
                attempts,
            } => {
                out.u8(1);
                out.u32(*valid_until);
                out.u32(*attempts);
            }
            BatchProgress::Confirmed { at, transaction } => {
                out.u8(2);
                out.u64(at.millis());
                out.option(transaction.as_ref(), |out, seen| seen.write(out));
            }
        }
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let seqno = whole_key(key, Reader::u32)?;
        let first_entry = fields.u64()?;
        let size = fields.u64()?;
        let count = usize::from(fields.u8()?);
        if count > MAX_PROOF_STEPS {
            return Err(RecordError::BadValue("the number of peaks"));
        }
        let peaks = (0..count)
            .map(|_| read_digest(fields))
            .collect::<Result<_, _>>()?;
        let tree = Frontier::from_parts(size, peaks)
            .ok_or(RecordError::BadValue("the number of peaks"))?;
        if first_entry >= size {
            return Err(RecordError::BadValue("the entries of a batch"));
        }
        Ok(Self {
            seqno,
            first_entry,
            tree,
            total: fields.amount()?,
            created: UnixMillis::from_millis(fields.u64()?),
            progress: match fields.u8()? {
                0 => BatchProgress::Prepared,
                1 => BatchProgress::Submitted {
                    valid_until: fields.u32()?,
                    attempts: fields.u32()?,
                },
                2 => BatchProgress::Confirmed {
                    at: UnixMillis::from_millis(fields.u64()?),
                    transaction: fields.option(TransactionRecord::read)?,
                },
                _ => return Err(RecordError::BadValue("the progress of a batch")),
            },
        })
    }
}

/// Money that arrived. Column `worker.claims`, key: channel ‖ cumulative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRecord {
    /// The channel that paid.
    pub channel: TonAddress,
    /// Its total after this claim.
    pub cumulative: NanoTon,
    /// How much this claim paid.
    pub amount: NanoTon,
    /// When we saw it.
    pub at: UnixMillis,
    /// The transaction, where it was seen and not only its effect.
    pub transaction: Option<TransactionRecord>,
}

impl Record for ClaimRecord {
    const COLUMN: Column = WORKER_CLAIMS;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        let mut key = channel_key(&self.channel);
        key.extend_from_slice(&self.cumulative.nano().to_be_bytes());
        key
    }

    fn write(&self, out: &mut Writer) {
        out.amount(self.amount);
        out.u64(self.at.millis());
        out.option(self.transaction.as_ref(), |out, seen| seen.write(out));
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let (channel, cumulative) = whole_key(key, |key| Ok((read_channel(key)?, key.amount()?)))?;
        Ok(Self {
            channel,
            cumulative,
            amount: fields.amount()?,
            at: UnixMillis::from_millis(fields.u64()?),
            transaction: fields.option(TransactionRecord::read)?,
        })
    }
}

/// How far log and batches have come. Column `worker.head`, key `head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Entries in the log.
    pub entries: u64,
    /// Sum credited by all entries.
    pub credited: NanoTon,
    /// Batches cut.
    pub batches: u32,
    /// Entries that are in a batch, and the sum they credited.
    pub batched_entries: u64,
    pub batched_credit: NanoTon,
    /// Batches the chain has confirmed.
    pub confirmed: u32,
    /// Channels registered.
    pub channels: u32,
}

impl Head {
    pub(super) const KEY: [u8; 4] = *b"head";
}

impl Record for Head {
    const COLUMN: Column = WORKER_HEAD;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        Self::KEY.to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.entries);
        out.amount(self.credited);
        out.u32(self.batches);
        out.u64(self.batched_entries);
        out.amount(self.batched_credit);
        out.u32(self.confirmed);
        out.u32(self.channels);
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        if key != Self::KEY {
            return Err(RecordError::BadValue("the key of the head"));
        }
        Ok(Self {
            entries: fields.u64()?,
            credited: fields.amount()?,
            batches: fields.u32()?,
            batched_entries: fields.u64()?,
            batched_credit: fields.amount()?,
            confirmed: fields.u32()?,
            channels: fields.u32()?,
        })
    }
}
