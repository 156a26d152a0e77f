//! The book-keeping a node does for itself, on its own disk.
//!
//! [`WorkerLedger`]: what clients have promised (newest voucher of each channel), what was done for it (jobs, and a log of
//! entries, one for each receipt), and what has been put on chain (batches, claims).
//! [`ClientLedger`]: which channels were opened and how much was signed away on each (jobs and receipts too).
//!
//! # Rules both keep
//! - A method that returns `Ok` has its effect on the disk. Send the message that depends on it afterwards.
//! - After an error from the store nothing may be assumed: stop, reopen, and go on from what is read.
//! - Every job ends once. Jobs that were open when the process died end as [`INTERRUPTED`] by `recover`.
//!
//! # From voucher to coins (worker)
//! ```text
//! accept_voucher ─► channel.held            what the client has signed so far (cumulative)
//! close_job      ─► entry, channel.entered  the log's next leaf: a receipt, and the voucher held at that moment
//! prepare_batch  ─► batch                   root over all entries so far; written before its commit is submitted
//! confirm_batch  ─► channel.covered         the chain holds the root: vouchers up to here may be claimed
//! record_claim   ─► channel.claimed         the chain has paid
//!         held ≥ entered ≥ covered          and, unless somebody else claims for us, covered ≥ claimed
//! ```
//! An entry credits the channel's rise since its last entry. So the total a batch commits equals the sum of the
//! `entered` vouchers (less what the channels had paid before this ledger knew them), to the last nanoTON, also when a
//! client pays for a job that a crash left without a receipt.
//!
//! The ledgers hold no cache: each method reads what it needs, so there is nothing to go stale after an error. A mutex
//! makes each read-and-write one step; share a ledger in an `Arc`. All methods block on the disk.

mod check;
mod client;
mod client_evidence;
mod client_records;
mod collateral;
mod copy;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod crash_world;
mod dump;
mod durable;
#[cfg(test)]
mod durable_tests;
mod expected;
mod jobs;
mod leaves;
mod log_news;
mod migrations;
#[cfg(test)]
mod model_tests;
mod rebase;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod release_tests;
mod releases;
mod repair;
mod settling;
mod stakes;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tool_tests;
mod voucher_check;
mod worker;
mod worker_records;

use cocoon_protocol::{Digest, JobId, NanoTon, TonAddress};

pub use check::{CheckReport, Finding, MAX_FINDINGS, check, readable};
pub use client::{ChannelOpening, ClientLedger};
pub use client_evidence::{KeptEvidence, MAX_KEPT_EVIDENCE, ReceiptFile};
pub use client_records::{
    ClientChannel, ClientChannelState, KeptReceipt, MAX_CLIENT_CHANNELS, SignedPart,
};
pub use collateral::KeptCollateral;
pub use copy::{Contents, contents, copy, for_each_pair};
pub use dump::describe;
pub use durable::{Acknowledger, Undurable};
pub use jobs::{INTERRUPTED, JobEnd, JobRecord, Side};
pub use leaves::{Leaf, LeafClaim, LeavesError, LeavesReader, MAX_LEAF_BYTES, publish};
pub use log_news::KeptLogNews;
pub use rebase::{RECONCILED, Rebased, rebase, worker_channels};
pub use releases::AgreedRelease;
pub use repair::{Loss, MAX_LISTED_LOSSES, RepairReport, Rewound, salvage};
pub use settling::ProvenEntry;
pub use summary::{BatchLine, ClientChannelLine, ClientSummary, WorkerChannelLine, WorkerSummary};
pub use voucher_check::{CheckedVoucher, VoucherError, check_voucher};
pub use worker::{ClosedJob, WorkerLedger};
pub use worker_records::{
    Batch, BatchProgress, ClaimRecord, Entry, EntryContent, HeldVoucher, MAX_BATCH_ENTRIES,
    MAX_CHANNELS, MAX_CHANNELS_TO_EXPECT, PendingClaim, TransactionRecord, WorkerChannel,
};

use crate::store::{Column, RecordError, Schema, StoreError};

/// One record: how far the worker's log and batches have come. Key `head`.
const WORKER_HEAD: Column = Column::new("worker.head");
/// Key: channel address (33 bytes). Vouchers held, entered, covered, claimed.
const WORKER_CHANNELS: Column = Column::new("worker.channels");
/// Key: entry index (u64 BE). The leaves, in order.
const WORKER_ENTRIES: Column = Column::new("worker.entries");
/// Key: batch seqno (u32 BE).
const WORKER_BATCHES: Column = Column::new("worker.batches");
/// Key: channel address ‖ cumulative claimed (u64 BE).
const WORKER_CLAIMS: Column = Column::new("worker.claims");
/// Key: side (`w` or `c`) ‖ job id. Both ledgers.
const JOBS: Column = Column::new("jobs");
/// The jobs without an outcome; same key. What `recover` reads.
const OPEN_JOBS: Column = Column::new("jobs.open");
/// Key: channel address.
const CLIENT_CHANNELS: Column = Column::new("client.channels");
/// Key: length of PeerId (u8) ‖ PeerId ‖ channel address. An index: no fields.
const CLIENT_BY_WORKER: Column = Column::new("client.channels.by_worker");
/// Key: job id.
const CLIENT_RECEIPTS: Column = Column::new("client.receipts");
/// Key: digest of a log's name and rebuilders. Both sides.
const LOG_NEWS: Column = Column::new("log.news");
/// Key: family of platforms. Both sides.
const COLLATERAL: Column = Column::new("collateral");
/// Key: leaf of the receipt.
const CLIENT_RECEIPTS_BY_LEAF: Column = Column::new("client.receipts.by_leaf");
/// Key: digest of the evidence.
const CLIENT_EVIDENCE: Column = Column::new("client.evidence");
/// Key: when it was filed (u64 BE, ms) ‖ digest. An index: no fields.
const CLIENT_EVIDENCE_BY_AGE: Column = Column::new("client.evidence.by_age");

/// What a node's ledger directory holds. Open a [`crate::store::RocksStore`] with it and give it to both ledgers.
pub const SCHEMA: Schema = Schema {
    name: "cocoon-ledger",
    // 2: receipts are of version 2 and stand beside their salts; evidence is kept.
    // 3: a worker's channel may be expected, and not be on chain yet.
    version: 3,
    columns: &[
        WORKER_HEAD,
        WORKER_CHANNELS,
        WORKER_ENTRIES,
        WORKER_BATCHES,
        WORKER_CLAIMS,
        JOBS,
        OPEN_JOBS,
        CLIENT_CHANNELS,
        CLIENT_BY_WORKER,
        CLIENT_RECEIPTS,
        COLLATERAL,
        LOG_NEWS,
        CLIENT_RECEIPTS_BY_LEAF,
        CLIENT_EVIDENCE,
        CLIENT_EVIDENCE_BY_AGE,
    ],
    migrations: migrations::MIGRATIONS,
};

/// What can go wrong with a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed; see there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A channel that was never registered with this ledger.
    #[error("channel {0} is not known here")]
    UnknownChannel(TonAddress),
    /// A channel is registered already, with other particulars.
    #[error("channel {0} is registered already with another client, key or worker")]
    ChannelConflict(TonAddress),
    /// No more channels fit.
    #[error("{limit} channels are registered, which is the limit")]
    TooManyChannels {
        /// The limit.
        limit: u32,
    },
    /// A total that is not above what is held or signed already. Nothing was written.
    #[error("a total of {offered} on channel {channel} is not above the {held} already there")]
    NotIncreasing {
        /// The channel.
        channel: TonAddress,
        /// The newest total on disk.
        held: NanoTon,
        /// The one refused.
        offered: NanoTon,
    },
    /// Signing this would promise more than the deposit can pay. Nothing was signed.
    #[error(
        "a total of {needed} exceeds the {spendable} that channel {channel} can pay (deposit {deposit}); top it up"
    )]
    InsufficientDeposit {
        /// The channel.
        channel: TonAddress,
        /// The total asked for.
        needed: NanoTon,
        /// The highest total that will be honoured.
        spendable: NanoTon,
        /// What was deposited.
        deposit: NanoTon,
    },
    /// The channel is not open, so nothing may be signed on it.
    #[error("channel {0} is not open")]
    ChannelNotOpen(TonAddress),
    /// Client and worker are closing the channel together.
    #[error(
        "channel {0} is being closed by client and worker together; nothing more is served on it"
    )]
    ChannelReleased(TonAddress),
    /// A job is on the channel, so it cannot be closed together.
    #[error("a job is on channel {0}")]
    ChannelBusy(TonAddress),
    /// A release pays another total than the newest voucher.
    #[error("the release of channel {channel} pays {offered}, the newest voucher is for {held}")]
    ReleaseTotal {
        /// The channel.
        channel: TonAddress,
        /// The newest voucher's total.
        held: NanoTon,
        /// The release's.
        offered: NanoTon,
    },
    /// A release that the channel's client has not signed.
    #[error("the release of channel {0} is not signed by its client")]
    BadRelease(TonAddress),
    /// A job id is in use already.
    #[error("job {0} exists already")]
    JobExists(JobId),
    /// A job that was never opened.
    #[error("job {0} is not known here")]
    UnknownJob(JobId),
    /// A job has its outcome already: there is exactly one.
    #[error("job {job} has ended already: {outcome}")]
    JobEnded {
        /// The job.
        job: JobId,
        /// How it ended.
        outcome: String,
    },
    /// A receipt that does not belong to the job it is filed under.
    #[error("the receipt for job {job} does not match: {field}")]
    ReceiptMismatch {
        /// The job.
        job: JobId,
        /// Which field differs.
        field: &'static str,
    },
    /// A receipt whose signature or form is wrong.
    #[error("the receipt for job {job} is not valid: {reason}")]
    BadReceipt {
        /// The job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// A batch that does not follow the last one.
    #[error("batch {asked} was asked for, the next one is {next}")]
    BatchOutOfOrder {
        /// The one asked for.
        asked: u32,
        /// The next in order.
        next: u32,
    },
    /// The batch before has not been confirmed, so the next may not be cut.
    #[error("batch {0} is not confirmed yet")]
    BatchUnconfirmed(u32),
    /// There is nothing to put in a batch.
    #[error("there are no entries to settle")]
    NothingToSettle,
    /// No such batch.
    #[error("batch {0} does not exist")]
    UnknownBatch(u32),
    /// An entry that does not exist, or is not yet in a batch.
    #[error("entry {0} is not in a batch")]
    UnknownEntry(u64),
    /// A sum does not fit. Amounts of that size do not exist (TON's supply fits 2⁶³ nanoTON), so the data is wrong.
    #[error("a sum of amounts overflows: {0}")]
    Overflow(&'static str),
    /// Records that contradict one another. The directory was damaged or edited.
    #[error("the ledger contradicts itself: {0}; restore the directory from a backup")]
    Inconsistent(&'static str),
}

/// The key of a channel: workchain (1 byte) and account hash.
fn channel_key(channel: &TonAddress) -> Vec<u8> {
    let [workchain] = channel.workchain.to_be_bytes();
    let mut key = vec![workchain];
    key.extend_from_slice(&channel.hash);
    key
}

fn read_channel(fields: &mut crate::store::Reader<'_>) -> Result<TonAddress, RecordError> {
    Ok(TonAddress {
        workchain: i8::from_be_bytes(fields.fixed()?),
        hash: fields.fixed()?,
    })
}

fn read_digest(fields: &mut crate::store::Reader<'_>) -> Result<Digest, RecordError> {
    fields.fixed().map(Digest::from_bytes)
}

/// Reads a key with `read` and makes sure nothing is left of it.
fn whole_key<'a, T>(
    key: &'a [u8],
    read: impl FnOnce(&mut crate::store::Reader<'a>) -> Result<T, RecordError>,
) -> Result<T, RecordError> {
    let mut fields = crate::store::Reader::new(key);
    let value = read(&mut fields)?;
    match fields.remaining() {
        0 => Ok(value),
        left => Err(RecordError::TrailingBytes(left)),
    }
}
