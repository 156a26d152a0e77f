//! The worker's books: channels that pay it, vouchers, jobs and their receipts.

use super::{Cashier, CashierError, first_contact};
use crate::ask::{Address, Ask, Query};
use crate::clock;
use crate::failpoint;
use crate::metrics::{Metrics, Side};
use crate::settler::Settler;
use actix::prelude::*;
use cocoon_protocol::job::{OpeningTerms, Outcome};
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{JobId, NanoTon, PeerId, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError};
use cocoon_settlement::contract::{ChannelState, fetch_channel};
use cocoon_settlement::credit::{
    CreditBook, CreditConfig, Doubt, FirstContactBook, FirstContactConfig,
};
use cocoon_settlement::ledger::{
    Acknowledger, Undurable, WorkerChannel, WorkerLedger, WorkerSummary, check_voucher,
};
use cocoon_settlement::store::RocksStore;
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{Instrument, error, warn};

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
    /// How much clients may have unpaid.
    pub credit: CreditConfig,
    /// How much clients may have before their channel is on chain.
    pub first_contact: FirstContactConfig,
    /// The most that is served while the chain's head cannot be verified.
    pub unverified_risk: NanoTon,
    /// A channel is closed together if it has earned so many times what that costs this worker; 0: always.
    pub release_fee_multiple: u64,
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

/// Channels remembered for when the chain's head cannot be verified.
const MAX_PROVED: usize = 4_096;

/// A worker's books, and what of them is in use.
pub(super) struct Books {
    pub(super) parts: Earning,
    /// Whether ledger and chain agree; until then nothing is served.
    pub(super) reconciled: bool,
    /// Channels that carry a job.
    pub(super) serving: BTreeMap<TonAddress, Serving>,
    /// Channels as the chain showed them when its head was verified.
    proved: BTreeMap<TonAddress, ChannelState>,
    /// Answers when a voucher is on the disk.
    acknowledger: Acknowledger,
    /// What clients have before they pay for it.
    credit: CreditBook,
    /// What clients have before their channel is on chain.
    pub(super) first_contacts: FirstContactBook,
    /// Whether somebody looks for those channels right now, and which was looked for last.
    pub(super) looking: bool,
    pub(super) looked_for: Option<TonAddress>,
    /// What is served while the chain's head cannot be verified.
    doubt: Doubt,
    /// Channels whose client is closing, with the unix second from which they may pay nothing.
    closing: BTreeMap<TonAddress, u32>,
    /// Looks at the chain for clients that want to close together.
    pub(super) release_looks: usize,
    /// Sends what was agreed to.
    pub(super) settler: Option<Address<Settler>>,
}

/// A job on a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving {
    client: PeerId,
    /// The largest total that the channel can pay.
    capacity: NanoTon,
    /// What was held when the job began.
    held: NanoTon,
    /// How far the job may be ahead of its vouchers.
    window: NanoTon,
    /// Begun before the channel was on chain: what was admitted.
    first_contact: Option<NanoTon>,
}

/// A job that may begin.
pub(super) struct Begun {
    pub(super) held: NanoTon,
    pub(super) capacity: NanoTon,
    pub(super) paid_before: NanoTon,
    pub(super) first_contact: Option<NanoTon>,
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
    /// How far it may be ahead of its vouchers.
    pub credit_window: NanoTon,
    /// What the client says that the channel is being deployed with.
    pub terms: Option<OpeningTerms>,
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
        let look = async move {
            let state = fetch_channel(chain.as_ref(), query.channel).await;
            // After the look: it is what the last call showed.
            (state, chain.standing().is_sound(), query)
        };
        context.spawn(look.in_current_span().into_actor(self).map(
            move |(state, sound, query), cashier: &mut Self, _| {
                let Some(books) = &mut cashier.earning else {
                    return reply.send(Err(CashierError::WrongRole));
                };
                let opened = match state {
                    Ok(None) if sound => books.open_first_contact(&query),
                    state => books
                        .seen(&query, state, sound)
                        .and_then(|state| books.open_job(&query, &state, sound)),
                };
                // If the job is gone, so is its claim to the channel.
                if let Err(Ok(_)) = reply.deliver(opened)
                    && let Err(error) = books.close(&CloseWorkerJob {
                        job: query.job,
                        channel: query.channel,
                        outcome: Outcome::ClientLost,
                        receipt: None,
                        cost: NanoTon::ZERO,
                    })
                {
                    warn!(%error, "job not closed in the ledger");
                }
            },
        ));
    }
}

impl Books {
    pub(super) fn new(parts: Earning) -> Self {
        let first_contacts = first_contact::resume(parts.first_contact, &parts.ledger)
            .unwrap_or_else(|failure| {
                // A ledger that cannot be read is no state to serve from.
                error!(error = %failure, "the ledger cannot be read; ending the process");
                std::process::abort();
            });
        Self {
            acknowledger: Acknowledger::start(),
            first_contacts,
            looking: false,
            looked_for: None,
            credit: CreditBook::new(parts.credit),
            doubt: Doubt::new(parts.unverified_risk),
            proved: BTreeMap::new(),
            parts,
            reconciled: false,
            serving: BTreeMap::new(),
            closing: BTreeMap::new(),
            release_looks: 0,
            settler: None,
        }
    }

    /// The channel as the chain shows it, or showed it when its head was verified last.
    fn seen(
        &mut self,
        query: &OpenWorkerJob,
        state: Result<Option<ChannelState>, ChainError>,
        sound: bool,
    ) -> Result<ChannelState, CashierError> {
        if !sound {
            let known = self.proved.get(&query.channel).copied();
            return known.ok_or(CashierError::Unproved(query.channel));
        }
        let state = state?.ok_or(CashierError::NotOpen(query.channel))?;
        self.proved.insert(query.channel, state);
        if self.proved.len() > MAX_PROVED {
            self.proved.pop_first();
        }
        Ok(state)
    }

    fn open_job(
        &mut self,
        query: &OpenWorkerJob,
        state: &ChannelState,
        sound: bool,
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
        self.may_begin(&state.address, state.terms.close_delay_s)?;
        let channel = self.parts.ledger.channel(&state.address)?;
        if let Some(expected) = channel.filter(|channel| channel.expected.is_some()) {
            self.on_appeared(state)?;
            if state.capacity() < expected.held_total() {
                return Err(CashierError::Underfunded {
                    channel: state.address,
                    needed: expected.held_total().saturating_add(query.needed),
                    capacity: state.capacity(),
                });
            }
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
        let begun = Begun {
            held,
            capacity,
            paid_before: held.saturating_sub(channel.base),
            first_contact: None,
        };
        self.begin(query, begun, sound)
    }

    /// What does not depend on whether the channel is on chain.
    pub(super) fn may_begin(
        &self,
        channel: &TonAddress,
        close_delay_s: u32,
    ) -> Result<(), CashierError> {
        if close_delay_s < LEAST_CLOSE_DELAY_S {
            return Err(CashierError::ClosesTooSoon {
                channel: *channel,
                delay_s: close_delay_s,
                least_s: LEAST_CLOSE_DELAY_S,
            });
        }
        // The chain was looked at without the lock that an actor is: look again.
        if !self.reconciled {
            return Err(CashierError::Unreconciled);
        }
        if self.serving.contains_key(channel) {
            return Err(CashierError::InUse(*channel));
        }
        Ok(())
    }

    /// Reserves credit, notes the job, and gives the channel to it.
    pub(super) fn begin(
        &mut self,
        query: &OpenWorkerJob,
        begun: Begun,
        sound: bool,
    ) -> Result<PayingChannel, CashierError> {
        let now = clock::now();
        let Begun {
            held,
            capacity,
            paid_before,
            first_contact,
        } = begun;
        self.credit
            .reserve(now, query.client, query.credit_window, paid_before)?;
        let noted = self
            .doubt
            .admit(sound, query.needed)
            .map_err(CashierError::from);
        let noted = noted.and_then(|()| {
            let ledger = &self.parts.ledger;
            Ok(ledger.open_job(query.job, query.client, query.channel, now)?)
        });
        if let Err(error) = noted {
            let (client, window) = (query.client, query.credit_window);
            self.credit
                .settle(now, client, window, NanoTon::ZERO, NanoTon::ZERO);
            return Err(error);
        }
        self.serving.insert(
            query.channel,
            Serving {
                client: query.client,
                capacity,
                held,
                window: query.credit_window,
                first_contact,
            },
        );
        Ok(PayingChannel { held, capacity })
    }

    /// That a channel is not known to be closing, or has more than `margin_s` left.
    fn not_closing(&self, channel: &TonAddress, margin_s: u64) -> Result<(), CashierError> {
        match self.closing.get(channel) {
            Some(&close_at)
                if clock::now().seconds().saturating_add(margin_s) >= close_at.into() =>
            {
                Err(CashierError::Closing {
                    channel: *channel,
                    close_at,
                })
            }
            _ => Ok(()),
        }
    }

    /// Decides about a voucher. Nothing that depends on it may leave before it is durable.
    fn submit(&self, query: &Accept) -> Result<Undurable<WorkerChannel>, CashierError> {
        let Earning {
            ledger, global_id, ..
        } = &self.parts;
        let capacity = self
            .serving
            .get(&query.channel)
            .map(|serving| serving.capacity);
        let channel = ledger.latest_channel(&query.channel)?;
        let (Some(capacity), Some(channel)) = (capacity, channel) else {
            return Err(CashierError::NotOpen(query.channel));
        };
        let checked = check_voucher(&query.voucher, &channel, capacity, *global_id)?;
        Ok(ledger.submit_voucher(&checked)?)
    }

    fn close(&mut self, closed: &CloseWorkerJob) -> Result<(), CashierError> {
        let now = clock::now();
        if let Some(serving) = self.serving.remove(&closed.channel) {
            let held = self.parts.ledger.channel(&closed.channel)?;
            let held = held.map_or(serving.held, |channel| channel.held_total());
            let paid = held.saturating_sub(serving.held);
            let Serving { client, window, .. } = serving;
            let unconfirmed = serving.first_contact.is_some_and(|needed| {
                self.first_contacts
                    .settle(now, &closed.channel, needed, closed.cost)
            });
            if unconfirmed {
                // What is signed pays for nothing yet, and not for earlier jobs either.
                let unsigned = closed.cost.saturating_sub(paid);
                self.credit
                    .settle(now, client, window, unsigned, NanoTon::ZERO);
            } else {
                self.credit.settle(now, client, window, closed.cost, paid);
            }
            self.show_first_contacts();
        }
        let (outcome, receipt) = (&closed.outcome, closed.receipt.as_ref());
        self.parts
            .ledger
            .close_job(&closed.job, outcome, receipt, now)?;
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
        let metrics = books.parts.metrics.clone();
        let submitted = match books.submit(&query) {
            Ok(submitted) => submitted,
            Err(error) => {
                metrics.voucher_refused();
                return reply.send(Err(error));
            }
        };
        // It is kept, since it is money; but nothing more is served for it.
        let may_go_on = books.not_closing(&query.channel, u64::from(CLOSING_MARGIN_S));
        let ledger = Arc::clone(&books.parts.ledger);
        // The next voucher is decided while the disk works for this one.
        books.acknowledger.run(move || {
            let accepted = ledger.durable(submitted).map_err(CashierError::from);
            let accepted = accepted.and_then(|channel| {
                failpoint::reached(failpoint::VOUCHER_STORED);
                may_go_on?;
                Ok(channel.held_total())
            });
            match &accepted {
                Ok(_) => metrics.voucher(Side::Worker),
                Err(_) => metrics.voucher_refused(),
            }
            reply.send(accepted);
        });
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
    /// What was sent costs, paid or not.
    pub cost: NanoTon,
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
        reply.send(books.close(&query));
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

/// What clients have on credit, and who is closing, for people.
#[derive(Debug)]
pub struct CreditGiven;

/// Answer to [`CreditGiven`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Served and not signed for, the windows of running jobs included.
    pub unpaid: NanoTon,
    /// Channels whose client is closing, with the unix second from which they may pay nothing.
    pub closing: Vec<(TonAddress, u32)>,
    /// Served since the chain's head was verified last, if it is not now.
    pub in_doubt: NanoTon,
    /// Served on channels that are not on chain yet, running jobs with their worst cases.
    pub first_contact: NanoTon,
    /// Of that, written off since the process began.
    pub first_contact_lost: NanoTon,
}
impl Query for CreditGiven {
    type Answer = Result<Credit, CashierError>;
}
impl Handler<Ask<CreditGiven>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<CreditGiven>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(match &self.earning {
            Some(books) => Ok(Credit {
                unpaid: books.credit.unpaid(),
                closing: books
                    .closing
                    .iter()
                    .map(|(channel, at)| (*channel, *at))
                    .collect(),
                in_doubt: books.doubt.taken(),
                first_contact: books.first_contacts.outstanding(),
                first_contact_lost: books.first_contacts.lost(),
            }),
            None => Err(CashierError::WrongRole),
        });
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
