//! Both ledgers at a glance, for `cocoon status`. Sums here are recomputed from the records, not read from counters,
//! so a summary is also a check.

use cocoon_protocol::{Digest, NanoTon, TonAddress, UnixMillis};
use serde::Serialize;

use super::{
    BatchProgress, ClientChannelState, ClientLedger, LedgerError, TransactionRecord, WorkerLedger,
};
use crate::store::Store;

/// Batches a summary lists: the newest ones.
const SUMMARY_BATCHES: u32 = 20;

/// One channel of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerChannelLine {
    /// The contract.
    pub channel: TonAddress,
    /// Who pays.
    pub client: String,
    /// Signed by the client so far.
    pub held: NanoTon,
    /// Of that, in the log.
    pub entered: NanoTon,
    /// Of that, covered by a confirmed commit.
    pub covered: NanoTon,
    /// Paid by the chain.
    pub claimed: NanoTon,
    /// A claim that is on its way, up to this total.
    pub pending: Option<NanoTon>,
    /// Until it was seen on chain with a deposit that covers what is signed: since when it is expected, milliseconds
    /// since 1970.
    pub expected: Option<UnixMillis>,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchLine {
    /// Its number.
    pub seqno: u32,
    /// Entries it adds.
    pub entries: u64,
    /// Entries in all batches up to it.
    pub jobs: u64,
    /// Credit of all batches up to it.
    pub total: NanoTon,
    /// The root it commits.
    pub root: Digest,
    /// `prepared`, `submitted` or `confirmed`.
    pub state: &'static str,
    /// When it was cut, milliseconds since 1970.
    pub created: UnixMillis,
    /// The transaction that committed it, if it was seen.
    pub transaction: Option<Digest>,
    /// What that cost.
    pub fees: Option<NanoTon>,
}

/// A worker's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerSummary {
    /// Every channel.
    pub channels: Vec<WorkerChannelLine>,
    /// Sum of what clients have signed, less what the channels had paid before this ledger knew them.
    pub held: NanoTon,
    /// Sum credited by the log.
    pub credited: NanoTon,
    /// Sum the chain has committed.
    pub committed: NanoTon,
    /// Sum the chain has paid since this ledger knew the channels.
    pub claimed: NanoTon,
    /// What clients have signed and the chain has not paid.
    pub unclaimed: NanoTon,
    /// Jobs without an outcome.
    pub open_jobs: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Of those, in no batch.
    pub unsettled_entries: u64,
    /// The newest batches, oldest of them first.
    pub batches: Vec<BatchLine>,
}

/// One channel of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientChannelLine {
    /// The contract.
    pub channel: TonAddress,
    /// Whom it pays.
    pub worker: String,
    /// `opening`, `open`, `closing` or `closed`.
    pub state: &'static str,
    /// Deposited.
    pub deposit: NanoTon,
    /// Promised.
    pub signed: NanoTon,
    /// Can still be promised.
    pub available: NanoTon,
}

/// A client's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientSummary {
    /// Every channel, closed ones included.
    pub channels: Vec<ClientChannelLine>,
    /// Sum of the deposits in channels that are not closed.
    pub deposited: NanoTon,
    /// Sum promised on all channels.
    pub signed: NanoTon,
    /// Jobs without an outcome.
    pub open_jobs: u64,
}

fn add(sum: &mut NanoTon, amount: NanoTon, what: &'static str) -> Result<(), LedgerError> {
    *sum = sum.checked_add(amount).ok_or(LedgerError::Overflow(what))?;
    Ok(())
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl<S: Store> WorkerLedger<S> {
    /// The ledger at a glance.
    ///
    /// # Errors
    /// [`LedgerError::Inconsistent`] when the channels do not add up to the log, or the store's failure.
    pub fn summary(&self) -> Result<WorkerSummary, LedgerError> {
        let _writing = self.begin();
        let head = self.head()?;
        let mut channels = Vec::new();
        let (mut held, mut entered, mut claimed) = (NanoTon::ZERO, NanoTon::ZERO, NanoTon::ZERO);
        self.for_each_channel(|channel| {
            let since = |total: NanoTon| total.saturating_sub(channel.base);
            add(&mut held, since(channel.held_total()), "held")?;
            add(&mut entered, since(channel.entered_total()), "entered")?;
            add(&mut claimed, since(channel.claimed), "claimed")?;
            channels.push(WorkerChannelLine {
                channel: channel.address,
                client: channel.client.to_string(),
                held: channel.held_total(),
                entered: channel.entered_total(),
                covered: channel.covered_total(),
                claimed: channel.claimed,
                pending: channel.pending.map(|pending| pending.cumulative),
                expected: channel.expected,
            });
            Ok(())
        })?;
        if entered != head.credited {
            return Err(LedgerError::Inconsistent(
                "the log's credit is not the sum of its channels",
            ));
        }
        let first = head
            .batches
            .saturating_sub(SUMMARY_BATCHES.saturating_sub(1));
        let limit = usize::try_from(SUMMARY_BATCHES).unwrap_or(usize::MAX);
        let batches = self.batches(first, limit)?;
        let committed = self
            .batch(head.confirmed)?
            .map_or(NanoTon::ZERO, |batch| batch.total);
        let batches = batches.iter().map(|batch| {
            let (state, transaction) = match batch.progress {
                BatchProgress::Prepared => ("prepared", None),
                BatchProgress::Submitted { .. } => ("submitted", None),
                BatchProgress::Confirmed { transaction, .. } => ("confirmed", transaction),
            };
            BatchLine {
                seqno: batch.seqno,
                entries: batch.entries(),
                jobs: batch.jobs(),
                total: batch.total,
                root: batch.root(),
                state,
                created: batch.created,
                transaction: transaction.map(|seen: TransactionRecord| seen.hash),
                fees: transaction.map(|seen| seen.fees),
            }
        });
        Ok(WorkerSummary {
            batches: batches.collect(),
            channels,
            held,
            credited: head.credited,
            committed,
            claimed,
            unclaimed: held.saturating_sub(claimed),
            open_jobs: count(self.open_jobs()?.len()),
            entries: head.entries,
            unsettled_entries: head.entries.saturating_sub(head.batched_entries),
        })
    }
}

impl<S: Store> ClientLedger<S> {
    /// The ledger at a glance.
    ///
    /// # Errors
    /// The store's failure.
    pub fn summary(&self) -> Result<ClientSummary, LedgerError> {
        let mut summary = ClientSummary {
            channels: Vec::new(),
            deposited: NanoTon::ZERO,
            signed: NanoTon::ZERO,
            open_jobs: count(super::jobs::open_jobs(&self.store, super::Side::Client)?.len()),
        };
        self.for_each_channel(|channel| {
            let state = match channel.state {
                ClientChannelState::Opening { .. } => "opening",
                ClientChannelState::Open => "open",
                ClientChannelState::Releasing { .. } => "closing together",
                ClientChannelState::Closing { .. } => "closing",
                ClientChannelState::Closed => "closed",
            };
            if channel.state != ClientChannelState::Closed {
                add(&mut summary.deposited, channel.deposit, "deposited")?;
            }
            add(&mut summary.signed, channel.signed_total(), "signed")?;
            summary.channels.push(ClientChannelLine {
                channel: channel.address,
                worker: channel.worker.to_string(),
                state,
                deposit: channel.deposit,
                signed: channel.signed_total(),
                available: channel.available(),
            });
            Ok(())
        })?;
        Ok(summary)
    }
}
