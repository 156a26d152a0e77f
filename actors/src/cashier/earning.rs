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
    /// Whether ledger and chain agree; until then nothing is served.
    pub reconciled: bool,
    /// Channels that carry a job, with the largest total each can pay.
    pub serving: BTreeMap<TonAddress, NanoTon>,
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
    fn handle(&mut self, Ask { query, reply }: Ask<OpenWorkerJob>, context: &mut Self::Context) {
        let Some(earning) = &self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        if !earning.reconciled {
            return reply.send(Err(CashierError::Unreconciled));
        }
        if earning.serving.contains_key(&query.channel) {
            return reply.send(Err(CashierError::InUse(query.channel)));
        }
        let chain = Arc::clone(&earning.chain);
        let look = async move { (fetch_channel(chain.as_ref(), query.channel).await, query) };
        context.spawn(look.into_actor(self).map(
            move |(state, query), cashier: &mut Self, _| {
                let opened = match (&mut cashier.earning, state) {
                    (Some(earning), Ok(Some(state))) => earning.open_job(&query, &state),
                    (Some(_), Ok(None)) => Err(CashierError::NotOpen(query.channel)),
                    (Some(_), Err(error)) => Err(error.into()),
                    (None, _) => Err(CashierError::WrongRole),
                };
                reply.send(opened);
            },
        ));
    }
}

impl Earning {
    fn open_job(
        &mut self,
        query: &OpenWorkerJob,
        state: &ChannelState,
    ) -> Result<PayingChannel, CashierError> {
        if state.terms.worker != self.payout {
            return Err(CashierError::NotOurs(state.address));
        }
        if !state.is_open() {
            return Err(CashierError::NotOpen(state.address));
        }
        if self.serving.contains_key(&state.address) {
            return Err(CashierError::InUse(state.address));
        }
        let channel = self.ledger.register_channel(
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
        self.ledger
            .open_job(query.job, query.client, state.address, clock::now())?;
        self.serving.insert(state.address, capacity);
        Ok(PayingChannel { held, capacity })
    }

    fn accept(&self, signed: &SignedVoucher) -> Result<NanoTon, CashierError> {
        let address = signed.voucher.channel;
        let capacity = self.serving.get(&address).copied();
        let channel = self.ledger.channel(&address)?;
        let (Some(capacity), Some(channel)) = (capacity, channel) else {
            return Err(CashierError::NotOpen(address));
        };
        let checked = check_voucher(signed, &channel, capacity, self.global_id)?;
        let channel = self.ledger.accept_voucher(&checked)?;
        failpoint::reached(failpoint::VOUCHER_STORED);
        Ok(channel.held_total())
    }
}

/// Takes a voucher. The answer, the total now held, is the proof that it is on disk.
#[derive(Debug)]
pub struct Accept(pub SignedVoucher);
impl Query for Accept {
    type Answer = Result<NanoTon, CashierError>;
}
impl Handler<Ask<Accept>> for Cashier {
    type Result = ();
    fn handle(&mut self, Ask { query, reply }: Ask<Accept>, _: &mut Self::Context) {
        let Some(earning) = &self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let accepted = earning.accept(&query.0);
        match &accepted {
            Ok(_) => earning.metrics.voucher(Side::Worker),
            Err(_) => earning.metrics.voucher_refused(),
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
    fn handle(&mut self, Ask { query, reply }: Ask<CloseWorkerJob>, _: &mut Self::Context) {
        let Some(earning) = &mut self.earning else {
            return reply.send(Err(CashierError::WrongRole));
        };
        earning.serving.remove(&query.channel);
        let closed = earning.ledger.close_job(
            &query.job,
            &query.outcome,
            query.receipt.as_ref(),
            clock::now(),
        );
        reply.send(closed.map(drop).map_err(CashierError::from));
    }
}

/// Ledger and chain agree, or they contradict one another: serve, or stop serving.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reconciled(pub bool);

impl Handler<Reconciled> for Cashier {
    type Result = ();
    fn handle(&mut self, Reconciled(reconciled): Reconciled, _: &mut Self::Context) {
        if let Some(earning) = &mut self.earning {
            earning.reconciled = reconciled;
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
    fn handle(&mut self, Ask { reply, .. }: Ask<WorkerBooks>, _: &mut Self::Context) {
        reply.send(match &self.earning {
            Some(earning) => earning.ledger.summary().map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}
