//! The worker's books: channels that pay it, vouchers, jobs and their receipts.

use super::{Cashier, CashierError};
use crate::ask::{Ask, Query};
use crate::clock;
use crate::failpoint;
use crate::metrics::{Metrics, Side};
use actix::prelude::*;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{JobId, NanoTon, PeerId, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{ChannelState, fetch_channel};
use cocoon_settlement::ledger::{WorkerLedger, WorkerSummary, check_voucher};
use cocoon_settlement::store::RocksStore;
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{Instrument, warn};

/// What the books are kept with.
pub struct Earning {
    /// On disk; shared with the settler.
    pub ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Where this worker is paid.
    pub payout: TonAddress,
    /// The network's number, part of every voucher.
    pub global_id: i32,
    /// Counters.
    pub metrics: Metrics,
}

/// The least time between a client's wish to close and the end of its channel. In it a worker that
/// has just lost its machine must come back, have its newest batch confirmed, and claim.
pub const LEAST_CLOSE_DELAY_S: u32 = 6 * 3600;

/// Before the end of a channel that its client is closing, no job runs on it any more, seconds: time for a batch, its
/// confirmation, and a claim, with the chain slow and this worker restarted in between.
pub const CLOSING_MARGIN_S: u32 = 3_600;
/// Channels known to be closing. More than that at once, and one is forgotten: a job on it is still refused by the look at
/// the chain before it begins.
const MAX_CLOSING: usize = 4_096;

/// A worker's books, and what of them is in use.
pub(super) struct Books {
    parts: Earning,
    /// Whether ledger and chain agree; until then nothing is served.
    reconciled: bool,
    /// Channels that carry a job, with the largest total each can pay.
    serving: BTreeMap<TonAddress, NanoTon>,
    /// Channels whose client is closing, with the unix second from which they may pay nothing.
    closing: BTreeMap<TonAddress, u32>,
}

/// What a job needs to know of the channel that pays it.
#[derive(Clone, Copy, Debug)]
pub struct PayingChannel {
    /// Voucher total already held.
    pub held: NanoTon,
    /// Largest total that the channel can pay.
    pub capacity: NanoTon,
}

/// Begins a job: the channel is looked up on chain, checked, and carries this job alone.
#[derive(Debug)]
pub struct OpenWorkerJob {
    /// The job.
    pub job: JobId,
    /// Who asks.
    pub client: PeerId,
    /// Who pays: the channel.
    pub channel: TonAddress,
    /// The most that the job can cost.
    pub needed: NanoTon,
}
impl Query for OpenWorkerJob {
    type Answer = Result<PayingChannel, CashierError>;
}
impl Handler<Ask<OpenWorkerJob>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<OpenWorkerJob>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        if !books.reconciled {
            return reply.send(Err(CashierError::Unreconciled));
        }
        if books.serving.contains_key(&query.channel) {
            return reply.send(Err(CashierError::InUse(query.channel)));
        }
        let chain = Arc::clone(&books.parts.chain);
        let look = async move { (fetch_channel(chain.as_ref(), query.channel).await, query) };
        context.spawn(look.in_current_span().into_actor(self).map(
            move |(state, query), cashier: &mut Self, _| {
                let Some(books) = &mut cashier.earning else {
                    return reply.send(Err(CashierError::WrongRole));
                };
                let opened = match state {
                    Ok(Some(state)) => books.open_job(&query, &state),
                    Ok(None) => Err(CashierError::NotOpen(query.channel)),
                    Err(error) => Err(error.into()),
                };
                // If the job is gone, so is its claim to the channel.
                if let Err(Ok(_)) = reply.deliver(opened)
                    && let Err(error) =
                        books.close(&query.job, query.channel, Outcome::ClientLost, None)
                {
                    warn!(%error, "job not closed in the ledger");
                }
            },
        ));
    }
}

impl Books {
    pub(super) fn new(parts: Earning) -> Self {
        Self {
            parts,
            reconciled: false,
            serving: BTreeMap::new(),
            closing: BTreeMap::new(),
        }
    }

    fn open_job(
        &mut self,
        query: &OpenWorkerJob,
        state: &ChannelState,
    ) -> Result<PayingChannel, CashierError> {
        if state.terms.worker != self.parts.payout {
            return Err(CashierError::NotOurs(state.address));
        }
        if let Some(close_at) = state.close_at.filter(|_| !state.finished) {
            return Err(CashierError::Closing {
                channel: state.address,
                close_at,
            });
        }
        if !state.is_open() {
            return Err(CashierError::NotOpen(state.address));
        }
        // It was closing and is open: what was said came from a view of the chain that did not last.
        self.closing.remove(&state.address);
        if state.terms.close_delay_s < LEAST_CLOSE_DELAY_S {
            return Err(CashierError::ClosesTooSoon {
                channel: state.address,
                delay_s: state.terms.close_delay_s,
                least_s: LEAST_CLOSE_DELAY_S,
            });
        }
        // The chain was looked at without the lock that an actor is: look again.
        if !self.reconciled {
            return Err(CashierError::Unreconciled);
        }
        if self.serving.contains_key(&state.address) {
            return Err(CashierError::InUse(state.address));
        }
        let channel = self.parts.ledger.register_channel(
            state.address,
            query.client,
            state.terms.client_key,
            state.claimed,
        )?;
        let held = channel.held_total();
        let needed = held.saturating_add(query.needed);
        let capacity = state.capacity();
        if needed > capacity {
            return Err(CashierError::Underfunded {
                channel: state.address,
                needed,
                capacity,
            });
        }
        self.parts
            .ledger
            .open_job(query.job, query.client, state.address, clock::now())?;
        self.serving.insert(state.address, capacity);
        Ok(PayingChannel { held, capacity })
    }

    /// That a channel is not known to be closing, or has more than `margin_s` left.
    fn not_closing(&self, channel: &TonAddress, margin_s: u64) -> Result<(), CashierError> {
        match self.closing.get(channel) {
            Some(&close_at) if clock::now().seconds().saturating_add(margin_s) >= close_at.into() => {
                Err(CashierError::Closing {
                    channel: *channel,
                    close_at,
                })
            }
            _ => Ok(()),
        }
    }

    fn accept(&self, query: &Accept) -> Result<NanoTon, CashierError> {
        let Earning {
            ledger, global_id, ..
        } = &self.parts;
        let capacity = self.serving.get(&query.channel).copied();
        let channel = ledger.channel(&query.channel)?;
        let (Some(capacity), Some(channel)) = (capacity, channel) else {
            return Err(CashierError::NotOpen(query.channel));
        };
        let checked = check_voucher(&query.voucher, &channel, capacity, *global_id)?;
        let channel = ledger.accept_voucher(&checked)?;
        failpoint::reached(failpoint::VOUCHER_STORED);
        // Kept, since it is money; but nothing more is served for it.
        self.not_closing(&query.channel, u64::from(CLOSING_MARGIN_S))?;
        Ok(channel.held_total())
    }

    fn close(
        &mut self,
        job: &JobId,
        channel: TonAddress,
        outcome: Outcome,
        receipt: Option<&SignedReceipt>,
    ) -> Result<(), CashierError> {
        self.serving.remove(&channel);
        self.parts
            .ledger
            .close_job(job, &outcome, receipt, clock::now())?;
        Ok(())
    }
}

/// The client of a channel wants its deposit back: no new job on it.
///
/// A job that runs goes on. Its vouchers pay until `close_at`, hours later, and the settler commits and claims them as they
/// come. Only when less than [`CLOSING_MARGIN_S`] is left does the next voucher end the job: it is kept, since it is money,
/// and nothing more is served for it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ChannelClosing {
    /// Which.
    pub channel: TonAddress,
    /// From this unix second on it may pay nothing any more.
    pub close_at: u32,
}

impl Handler<ChannelClosing> for Cashier {
    type Result = ();
    fn handle(&mut self, said: ChannelClosing, _: &mut Self::Context) {
        if let Some(books) = &mut self.earning {
            books.closing.insert(said.channel, said.close_at);
            if books.closing.len() > MAX_CLOSING {
                books.closing.pop_first();
            }
        }
    }
}

/// Takes a voucher. The answer, the total now held, is the proof that it is on disk.
#[derive(Debug)]
pub struct Accept {
    /// The job's channel. A voucher for another one, good as it may be, does not pay this job.
    pub channel: TonAddress,
    /// The voucher.
    pub voucher: SignedVoucher,
}
impl Query for Accept {
    type Answer = Result<NanoTon, CashierError>;
}
impl Handler<Ask<Accept>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<Accept>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let accepted = books.accept(&query);
        match &accepted {
            Ok(_) => books.parts.metrics.voucher(Side::Worker),
            Err(_) => books.parts.metrics.voucher_refused(),
        }
        reply.send(accepted);
    }
}

/// Ends a job at the worker: exactly once, with its receipt if anything was served.
#[derive(Debug)]
pub struct CloseWorkerJob {
    /// The job.
    pub job: JobId,
    /// Its channel, free again.
    pub channel: TonAddress,
    /// How it ended.
    pub outcome: Outcome,
    /// The receipt.
    pub receipt: Option<SignedReceipt>,
}
impl Query for CloseWorkerJob {
    type Answer = Result<(), CashierError>;
}
impl Handler<Ask<CloseWorkerJob>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<CloseWorkerJob>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &mut self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let CloseWorkerJob {
            job,
            channel,
            outcome,
            receipt,
        } = query;
        reply.send(books.close(&job, channel, outcome, receipt.as_ref()));
    }
}

/// Ledger and chain agree, or they contradict one another: serve, or stop serving.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reconciled(pub bool);

impl Handler<Reconciled> for Cashier {
    type Result = ();
    fn handle(&mut self, Reconciled(reconciled): Reconciled, _: &mut Self::Context) {
        if let Some(books) = &mut self.earning {
            books.reconciled = reconciled;
        }
    }
}

/// The books, for people.
#[derive(Debug)]
pub struct WorkerBooks;
impl Query for WorkerBooks {
    type Answer = Result<WorkerSummary, CashierError>;
}
impl Handler<Ask<WorkerBooks>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<WorkerBooks>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(match &self.earning {
            Some(books) => books.parts.ledger.summary().map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}
