//! Jobs: opened once, ended once. Used by both ledgers, each on its own side.

use cocoon_protocol::{JobId, PeerId, TonAddress, UnixMillis};

use super::{JOBS, LedgerError, OPEN_JOBS, channel_key, read_channel, whole_key};
use crate::store::{
    Column, Reader, Record, RecordError, Store, WriteBatch, Writer, for_each, load,
};

/// The outcome of a job that was open when the process died.
pub const INTERRUPTED: &str = "interrupted";

/// Outcome labels are short words made for metrics.
const MAX_LABEL_BYTES: usize = 64;

/// Which end of a job this node was. A node may be both, even for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// We did the job.
    Worker,
    /// We asked for it.
    Client,
}

impl Side {
    fn byte(self) -> u8 {
        match self {
            Self::Worker => b'w',
            Self::Client => b'c',
        }
    }
}

/// One job as one side remembers it. Never holds content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Our side.
    pub side: Side,
    /// The job.
    pub job: JobId,
    /// The other side.
    pub peer: PeerId,
    /// Where it is paid.
    pub channel: TonAddress,
    /// When it was opened.
    pub opened: UnixMillis,
    /// How it ended; `None` while it is open.
    pub end: Option<JobEnd>,
}

/// The end of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// When.
    pub at: UnixMillis,
    /// The terminal outcome's label, [`cocoon_protocol::job::Outcome::label`], or [`INTERRUPTED`].
    pub outcome: String,
    /// Worker: the entry of the log this job ended with, if it was paid or receipted.
    pub entry: Option<u64>,
}

impl JobRecord {
    fn id_key(side: Side, job: &JobId) -> Vec<u8> {
        let mut key = vec![side.byte()];
        key.extend_from_slice(job.as_bytes());
        key
    }
}

fn read_key(key: &[u8]) -> Result<(Side, JobId), RecordError> {
    whole_key(key, |key| {
        let side = match key.u8()? {
            b'w' => Side::Worker,
            b'c' => Side::Client,
            _ => return Err(RecordError::BadValue("the side of a job")),
        };
        Ok((side, JobId::from_bytes(key.fixed()?)))
    })
}

impl Record for JobRecord {
    const COLUMN: Column = JOBS;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        Self::id_key(self.side, &self.job)
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.peer.to_bytes());
        write_channel(out, &self.channel);
        out.u64(self.opened.millis());
        out.option(self.end.as_ref(), |out, end| {
            out.u64(end.at.millis());
            out.bytes(end.outcome.as_bytes());
            out.option(end.entry.as_ref(), |out, entry| out.u64(*entry));
        });
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let (side, job) = read_key(key)?;
        Ok(Self {
            side,
            job,
            peer: read_peer(fields)?,
            channel: read_channel(fields)?,
            opened: UnixMillis::from_millis(fields.u64()?),
            end: fields.option(|fields| {
                Ok(JobEnd {
                    at: UnixMillis::from_millis(fields.u64()?),
                    outcome: read_label(fields)?,
                    entry: fields.option(Reader::u64)?,
                })
            })?,
        })
    }
}

pub(super) fn write_channel(out: &mut Writer, channel: &TonAddress) {
    for byte in channel_key(channel) {
        out.u8(byte);
    }
}

pub(super) fn read_peer(fields: &mut Reader<'_>) -> Result<PeerId, RecordError> {
    PeerId::from_bytes(fields.bytes()?).map_err(|_| RecordError::BadValue("a peer id"))
}

fn read_label(fields: &mut Reader<'_>) -> Result<String, RecordError> {
    let bytes = fields.bytes()?;
    if bytes.len() > MAX_LABEL_BYTES {
        return Err(RecordError::FieldTooLong(bytes.len()));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| RecordError::BadValue("an outcome"))
}

/// Marks a job as open: what `recover` finds without reading every job there ever was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpenJob {
    side: Side,
    job: JobId,
}

impl OpenJob {
    pub(super) fn of(job: &JobRecord) -> Self {
        Self {
            side: job.side,
            job: job.job,
        }
    }
}

impl Record for OpenJob {
    const COLUMN: Column = OPEN_JOBS;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        JobRecord::id_key(self.side, &self.job)
    }

    fn write(&self, _out: &mut Writer) {}

    fn read(_version: u8, key: &[u8], _fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let (side, job) = read_key(key)?;
        Ok(Self { side, job })
    }
}

/// Adds the opening of a job to `batch`.
pub(super) fn open(
    store: &impl Store,
    batch: &mut WriteBatch,
    record: &JobRecord,
) -> Result<(), LedgerError> {
    if store.get(JOBS, &record.key())?.is_some() {
        return Err(LedgerError::JobExists(record.job));
    }
    batch.put(record);
    batch.put(&OpenJob {
        side: record.side,
        job: record.job,
    });
    Ok(())
}

/// Adds the end of a job to `batch`; refuses a second end.
pub(super) fn close(batch: &mut WriteBatch, mut record: JobRecord, end: JobEnd) -> JobRecord {
    debug_assert!(record.end.is_none(), "closed only after `find_open`");
    record.end = Some(end);
    batch.put(&record);
    batch.delete(OPEN_JOBS, record.key());
    record
}

/// The job, if it exists.
pub(super) fn find(
    store: &impl Store,
    side: Side,
    job: &JobId,
) -> Result<Option<JobRecord>, LedgerError> {
    Ok(load(store, &JobRecord::id_key(side, job))?)
}

/// The job, which must be open.
pub(super) fn find_open(
    store: &impl Store,
    side: Side,
    job: &JobId,
) -> Result<JobRecord, LedgerError> {
    let record = find(store, side, job)?.ok_or(LedgerError::UnknownJob(*job))?;
    match &record.end {
        None => Ok(record),
        Some(end) => Err(LedgerError::JobEnded {
            job: *job,
            outcome: end.outcome.clone(),
        }),
    }
}

/// All open jobs of one side. Their number is bounded by the slots of the process that opened them.
pub(super) fn open_jobs(store: &impl Store, side: Side) -> Result<Vec<JobId>, LedgerError> {
    let mut jobs = Vec::new();
    for_each(store, &[side.byte()], |open: OpenJob| {
        jobs.push(open.job);
        Ok::<_, LedgerError>(())
    })?;
    Ok(jobs)
}
