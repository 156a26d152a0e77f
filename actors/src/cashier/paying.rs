//! The client's books: one open channel per job, vouchers signed as tokens arrive.

mod early;
mod views;

pub use early::AwaitOpen;
use early::Early;
pub use views::{ChannelFunds, ClientBooks, ClientFunds, FindEvidence, FindReceipt};

use super::opening::{Finding, Opened};
use super::{Cashier, CashierError};
use crate::ask::{Address, Ask, Query, Reply};
use crate::clock;
use crate::mesh::Mesh;
use crate::metrics::{Metrics, Side};
use actix::prelude::*;
use cocoon_protocol::job::{OpeningTerms, Outcome};
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{JobId, NanoTon, PeerId, TonAddress, UnixMillis};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{CHANNEL_RESERVE, ChannelState, MIN_CLAIM};
use cocoon_settlement::credit::Doubt;
use cocoon_settlement::ledger::{
    Acknowledger, ClientChannel, ClientChannelState, ClientLedger, LedgerError, ReceiptFile,
};
use cocoon_settlement::purse::{Purse, PurseConfig};
use cocoon_settlement::store::RocksStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tracing::{Instrument, error, info, warn};

/// Channels to one worker that carry a job or are being opened; each carries one job at a time.
pub const MAX_CHANNELS_PER_WORKER: usize = 4;
/// Gas of deploying a channel, generously; what is not used stays in the channel.
const OPENING_GAS: NanoTon = NanoTon::from_nano(2_000_000);
/// Pause between two looks at openings in doubt.
const DOUBT_PAUSE: Duration = Duration::from_secs(2);

/// What the books are kept with.
#[derive(Clone)]
pub struct Paying {
    /// On disk.
    pub ledger: Arc<ClientLedger<Arc<RocksStore>>>,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Pays deposits. Locked while a transfer is under way, because its messages are numbered.
    pub wallet: Arc<Mutex<Wallet>>,
    /// Address of the wallet.
    pub address: TonAddress,
    /// Signs vouchers.
    pub key: SigningKey,
    /// The network's number, part of every voucher.
    pub global_id: i32,
    /// How much goes into channels, and when it is taken out again.
    pub purse: PurseConfig,
    /// The most that jobs may cost while the chain's head cannot be verified.
    pub unverified_risk: NanoTon,
    /// Where workers are asked to close together; without it channels are closed alone.
    pub mesh: Option<Address<Mesh>>,
    /// Counters.
    pub metrics: Metrics,
}

impl Paying {
    fn purse(&self) -> Purse {
        let mut config = self.purse.clone();
        if self.mesh.is_none() {
            config.together_s = 0;
        }
        Purse::new(config, clock::now())
    }

    /// What a channel keeps of its deposit and never pays out.
    pub(super) fn kept(&self) -> NanoTon {
        CHANNEL_RESERVE.saturating_add(OPENING_GAS)
    }
}

/// A job on a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    worker: PeerId,
    /// Signed over the channel so far.
    signed: NanoTon,
}

/// A client's books, and what of them is in use.
pub(super) struct Books {
    pub(super) parts: Paying,
    /// Channels that carry a job now.
    pub(super) leased: BTreeMap<TonAddress, Lease>,
    /// Openings that run now, by worker.
    opening: BTreeMap<PeerId, usize>,
    /// What they deposit together.
    opening_deposits: NanoTon,
    /// Answers when a signature is on the disk.
    acknowledger: Acknowledger,
    /// Of those that run, what was sent, and who waits for it.
    early: Early,
    /// Openings that have ended without a result, here or before the last crash.
    pub(super) in_doubt: BTreeMap<TonAddress, PeerId>,
    /// Whether somebody looks at those right now.
    looking: bool,
    /// Where deposits should be.
    pub(super) purse: Purse,
    /// Whether deposits are being moved right now.
    pub(super) moving: bool,
    /// Channels as the chain showed them last.
    pub(super) seen: BTreeMap<TonAddress, ChannelState>,
    /// When that was.
    pub(super) looked: BTreeMap<TonAddress, UnixMillis>,
    /// What jobs may cost while the chain's head cannot be verified.
    doubt: Doubt,
}

/// A channel that carries this job alone until it is closed: open on chain, or on its way there.
#[derive(Clone, Copy, Debug)]
pub struct LeasedChannel {
    /// The contract.
    pub address: TonAddress,
    /// Total signed over it so far.
    pub signed: NanoTon,
    /// The voucher for that total, for a worker that has not got it.
    pub newest: Option<SignedVoucher>,
    /// What it is being opened with, while it may not be on chain yet; the message that opens it was sent. A worker may
    /// serve on it or not: see [`AwaitOpen`].
    pub opening: Option<OpeningTerms>,
}

impl From<&ClientChannel> for LeasedChannel {
    fn from(channel: &ClientChannel) -> Self {
        Self {
            address: channel.address,
            signed: channel.signed_total(),
            newest: channel.newest_voucher(),
            opening: early::terms(channel),
        }
    }
}

/// Where a job's channel comes from.
enum Ready {
    /// It is there.
    Channel(Box<ClientChannel>),
    /// It is to be opened with so much.
    Deposit(NanoTon),
}

/// Finds or opens a channel to a worker for one job, and notes that the job goes there. A channel that has to be opened
/// is there for the job as soon as the message that opens it was sent; [`LeasedChannel::opening`] says so.
#[derive(Clone, Copy, Debug)]
pub struct LeaseChannel {
    /// The job.
    pub job: JobId,
    /// Whom to pay.
    pub worker: PeerId,
    /// Where to pay.
    pub payout: TonAddress,
    /// The most that the job can cost.
    pub needed: NanoTon,
}
impl Query for LeaseChannel {
    type Answer = Result<LeasedChannel, CashierError>;
}
impl Handler<Ask<LeaseChannel>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<LeaseChannel>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        match books.ready_or_deposit(&query) {
            Err(error) => reply.send(Err(error)),
            Ok(Ready::Channel(channel)) => books.hand_over(&query, &channel, reply),
            Ok(Ready::Deposit(deposit)) => {
                let count = books.opening.entry(query.worker).or_insert(0);
                *count = count.saturating_add(1);
                books.opening_deposits = books.opening_deposits.saturating_add(deposit);
                self.open_for(query, deposit, reply, context);
            }
        }
    }
}

impl Books {
    /// Books that go on from what the ledger holds.
    pub(super) fn new(parts: Paying) -> Result<Self, LedgerError> {
        let in_doubt = unfinished_openings(&parts)?;
        Ok(Self {
            purse: parts.purse(),
            doubt: Doubt::new(parts.unverified_risk),
            parts,
            leased: BTreeMap::new(),
            opening: BTreeMap::new(),
            opening_deposits: NanoTon::ZERO,
            acknowledger: Acknowledger::start(),
            early: Early::default(),
            in_doubt,
            looking: false,
            moving: false,
            seen: BTreeMap::new(),
            looked: BTreeMap::new(),
        })
    }

    /// The futures that opened and looked are gone; the jobs and their channels are not.
    pub(super) fn restarting(&mut self) {
        self.opening.clear();
        self.opening_deposits = NanoTon::ZERO;
        self.early = Early::default();
        self.looking = false;
        self.moving = false;
        // A top-up may be under way: as after a start.
        self.purse = self.parts.purse();
        match unfinished_openings(&self.parts) {
            Ok(in_doubt) => self.in_doubt = in_doubt,
            Err(failure) => {
                // A ledger that cannot be read is no state to pay from.
                error!(error = %failure, "the ledger cannot be read; ending the process");
                std::process::abort();
            }
        }
    }

    /// A channel for a job, or what to put into a new one.
    fn ready_or_deposit(&mut self, query: &LeaseChannel) -> Result<Ready, CashierError> {
        let standing = self.parts.chain.standing();
        let now = clock::now();
        self.purse.on_job(now, query.worker, query.needed);
        if let Some(channel) = self.ready_channel(query)? {
            self.doubt.admit(standing.is_sound(), query.needed)?;
            return Ok(Ready::Channel(Box::new(channel)));
        }
        if !standing.is_sound() {
            return Err(CashierError::Unverifiable(standing));
        }
        let locked = self.locked()?;
        let (needed, kept) = (query.needed, self.parts.kept());
        let deposit = self
            .purse
            .deposit(now, &query.worker, needed, kept, locked)?;
        Ok(Ready::Deposit(deposit))
    }

    /// What channels lock now, those that are being opened included.
    pub(super) fn locked(&self) -> Result<NanoTon, LedgerError> {
        let mut sum = self.opening_deposits;
        self.parts.ledger.for_each_channel(|channel| {
            let counted = match channel.state {
                ClientChannelState::Closed => false,
                // Those that are being opened are in the sum already.
                ClientChannelState::Opening { .. } => self.in_doubt.contains_key(&channel.address),
                ClientChannelState::Open
                | ClientChannelState::Releasing { .. }
                | ClientChannelState::Closing { .. } => true,
            };
            if counted {
                sum = sum.saturating_add(self.locked_in(&channel));
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// What a channel locks: all of its deposit that the chain has not shown to be paid out.
    pub(super) fn locked_in(&self, channel: &ClientChannel) -> NanoTon {
        let seen = self.seen.get(&channel.address);
        let claimed = seen.map_or(NanoTon::ZERO, |seen| seen.claimed);
        channel.deposit.saturating_sub(claimed)
    }

    /// An open channel that carries no job and can pay for this one; `None` to open another.
    fn ready_channel(&self, query: &LeaseChannel) -> Result<Option<ClientChannel>, CashierError> {
        let deposit = self.parts.purse.deposit;
        if query.needed > deposit.saturating_sub(self.parts.kept()) {
            return Err(CashierError::DepositTooSmall {
                needed: query.needed,
                deposit,
            });
        }
        let mut busy = self.opening.get(&query.worker).copied().unwrap_or(0);
        let in_doubt = self.in_doubt.values().filter(|peer| **peer == query.worker);
        busy = busy.saturating_add(in_doubt.count());
        for channel in self.parts.ledger.channels_with(&query.worker)? {
            let is_open = channel.state == ClientChannelState::Open;
            if self.leased.contains_key(&channel.address) {
                // One that is on its way is among the openings.
                busy = busy.saturating_add(usize::from(is_open));
            } else if (is_open || self.early.is_sent(&channel.address))
                && channel.terms.worker == query.payout
                && channel.available() >= query.needed
            {
                return Ok(Some(channel));
            }
        }
        if busy >= MAX_CHANNELS_PER_WORKER {
            return Err(CashierError::ChannelsBusy {
                worker: query.worker,
                limit: MAX_CHANNELS_PER_WORKER,
            });
        }
        Ok(None)
    }

    /// Leases a channel to a job; if nobody waits for it any more, it is free again.
    fn hand_over(
        &mut self,
        query: &LeaseChannel,
        channel: &ClientChannel,
        reply: Reply<Result<LeasedChannel, CashierError>>,
    ) {
        if let Err(Ok(leased)) = reply.deliver(self.lease(query, channel))
            && let Err(error) = self.close(&query.job, leased.address, Outcome::Cancelled, None)
        {
            warn!(%error, "job not closed in the ledger");
        }
    }

    fn lease(
        &mut self,
        query: &LeaseChannel,
        channel: &ClientChannel,
    ) -> Result<LeasedChannel, CashierError> {
        if self.leased.contains_key(&channel.address) {
            return Err(CashierError::InUse(channel.address));
        }
        self.parts
            .ledger
            .open_job(query.job, query.worker, channel.address, clock::now())?;
        self.leased.insert(
            channel.address,
            Lease {
                worker: query.worker,
                signed: channel.signed_total(),
            },
        );
        Ok(LeasedChannel::from(channel))
    }

    fn close(
        &mut self,
        job: &JobId,
        channel: TonAddress,
        outcome: Outcome,
        receipt: Option<&ReceiptFile>,
    ) -> Result<(), CashierError> {
        self.leased.remove(&channel);
        self.parts
            .ledger
            .close_job(job, &outcome, receipt, clock::now())?;
        Ok(())
    }

    fn apply(&mut self, finding: Finding) -> Result<(), LedgerError> {
        match finding {
            Finding::StillInDoubt => {}
            Finding::Open(Opened { address, deposit }) => {
                self.parts.ledger.record_open(&address, deposit)?;
                self.in_doubt.remove(&address);
                info!(channel = %address, "a channel in doubt has opened");
            }
            Finding::Never(address) => {
                self.parts.ledger.record_closed(&address)?;
                self.in_doubt.remove(&address);
                info!(channel = %address, "the opening of a channel has lapsed; nothing was paid");
            }
        }
        Ok(())
    }
}

fn unfinished_openings(parts: &Paying) -> Result<BTreeMap<TonAddress, PeerId>, LedgerError> {
    let mut unfinished = BTreeMap::new();
    parts.ledger.for_each_channel(|channel| {
        if let ClientChannelState::Opening { .. } = channel.state {
            unfinished.insert(channel.address, channel.worker);
        }
        Ok(())
    })?;
    Ok(unfinished)
}

impl Cashier {
    /// Looks at openings in doubt, now and from time to time.
    pub(super) fn watch_openings(&mut self, context: &mut Context<Self>) {
        if self.paying.is_some() {
            self.look_at_openings(context);
            context.run_interval(DOUBT_PAUSE, Self::look_at_openings);
        }
    }

    fn look_at_openings(&mut self, context: &mut Context<Self>) {
        let Some(books) = &mut self.paying else {
            return;
        };
        if books.looking || books.in_doubt.is_empty() {
            return;
        }
        books.looking = true;
        let parts = books.parts.clone();
        let doubtful: Vec<_> = books.in_doubt.keys().copied().collect();
        let looking = async move {
            let mut findings = Vec::new();
            for address in doubtful {
                if let Some(channel) = parts.ledger.channel(&address)? {
                    findings.push(parts.look_at(&channel).await?);
                }
            }
            Ok::<_, CashierError>(findings)
        };
        context.spawn(looking.in_current_span().into_actor(self).map(
            |found, cashier: &mut Self, _| {
                let Some(books) = &mut cashier.paying else {
                    return;
                };
                books.looking = false;
                let applied = found.and_then(|findings| {
                    findings
                        .into_iter()
                        .try_for_each(|finding| books.apply(finding))
                        .map_err(CashierError::from)
                });
                if let Err(error) = applied {
                    warn!(%error, "openings in doubt could not be looked at");
                }
            },
        ));
    }
}

/// Signs a larger total. The answer is the proof that it is on disk.
#[derive(Debug)]
pub struct Sign {
    /// Over which channel.
    pub channel: TonAddress,
    /// Everything promised so far.
    pub cumulative: NanoTon,
}
impl Query for Sign {
    type Answer = Result<SignedVoucher, CashierError>;
}
impl Handler<Ask<Sign>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<Sign>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let paying = &books.parts;
        let submitted = paying.ledger.submit_signature(
            &query.channel,
            query.cumulative,
            &paying.key,
            paying.global_id,
            clock::now(),
        );
        let submitted = match submitted {
            Ok(submitted) => submitted,
            Err(error) => return reply.send(Err(error.into())),
        };
        let (ledger, metrics) = (Arc::clone(&paying.ledger), paying.metrics.clone());
        if let Some(lease) = books.leased.get_mut(&query.channel) {
            let amount = query.cumulative.saturating_sub(lease.signed);
            lease.signed = query.cumulative;
            books.purse.on_spent(clock::now(), lease.worker, amount);
        }
        // The next one is signed while the disk works for this one; neither leaves before it has them.
        books.acknowledger.run(move || {
            let signed = ledger.durable(submitted);
            if signed.is_ok() {
                metrics.voucher(Side::Client);
            }
            reply.send(signed.map_err(CashierError::from));
        });
    }
}

/// Ends a job at the client: exactly once.
#[derive(Debug)]
pub struct CloseClientJob {
    /// The job.
    pub job: JobId,
    /// Its channel, free again.
    pub channel: TonAddress,
    /// How it ended.
    pub outcome: Outcome,
    /// The receipt, if one came and checked out, with its salt and evidence.
    pub receipt: Option<Box<ReceiptFile>>,
}
impl Query for CloseClientJob {
    type Answer = Result<(), CashierError>;
}
impl Handler<Ask<CloseClientJob>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<CloseClientJob>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Some(books) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let CloseClientJob {
            job,
            channel,
            outcome,
            receipt,
        } = query;
        reply.send(books.close(&job, channel, outcome, receipt.as_deref()));
    }
}

/// The smallest claim worth making is also the smallest deposit worth opening.
#[must_use]
pub fn smallest_deposit() -> NanoTon {
    CHANNEL_RESERVE
        .saturating_add(OPENING_GAS)
        .saturating_add(MIN_CLAIM)
}
