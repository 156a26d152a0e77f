//! The client's books: one open channel per job, vouchers signed as tokens arrive.

use super::{Cashier, CashierError};
use crate::ask::{Ask, Query};
use crate::clock;
use crate::metrics::{Metrics, Side};
use actix::prelude::*;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{JobId, NanoTon, PeerId, PublicKey32, TonAddress};
use cocoon_settlement::chain::{Chain, wait_for_transaction};
use cocoon_settlement::contract::{
    CHANNEL_RESERVE, ChannelTerms, MIN_CLAIM, fetch_channel, open_message,
};
use cocoon_settlement::ledger::{
    ChannelOpening, ClientChannel, ClientChannelState, ClientLedger, ClientSummary, KeptReceipt,
    LedgerError,
};
use cocoon_settlement::store::RocksStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tracing::{info, warn};

/// Channels to one worker; each carries one job at a time.
pub const MAX_CHANNELS_PER_WORKER: usize = 4;
/// Time that a worker has to claim once the client wants its deposit back, seconds.
pub const CLOSE_DELAY_S: u32 = 86_400;
/// Longest wait for a channel's opening to be seen on chain.
const OPENING_LIMIT: Duration = Duration::from_secs(30);
/// Validity of a wallet's message, seconds.
const OPENING_TTL_S: u32 = 60;
/// Gas of deploying a channel, generously; what is not used stays in the channel.
const OPENING_GAS: NanoTon = NanoTon::from_nano(2_000_000);

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
    /// Put into each new channel.
    pub deposit: NanoTon,
    /// Counters.
    pub metrics: Metrics,
    /// Channels that carry a job now.
    pub leased: BTreeSet<TonAddress>,
}

/// A channel that is open on chain and carries this job alone until it is closed.
#[derive(Clone, Copy, Debug)]
pub struct LeasedChannel {
    /// The contract.
    pub address: TonAddress,
    /// Total signed over it so far.
    pub signed: NanoTon,
    /// The voucher for that total, for a worker that has not got it.
    pub newest: Option<SignedVoucher>,
}

impl From<&ClientChannel> for LeasedChannel {
    fn from(channel: &ClientChannel) -> Self {
        Self {
            address: channel.address,
            signed: channel.signed_total(),
            newest: channel.newest_voucher(),
        }
    }
}

/// Finds or opens a channel to a worker for one job, and notes that the job goes there.
#[derive(Debug)]
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
    fn handle(&mut self, Ask { query, reply }: Ask<LeaseChannel>, context: &mut Self::Context) {
        let Some(paying) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        match paying.ready_channel(&query) {
            Err(error) => reply.send(Err(error)),
            Ok(Some(channel)) => reply.send(paying.lease(&query, &channel)),
            Ok(None) => {
                let books = paying.clone();
                let opening = async move { (books.open(&query).await, query) };
                context.spawn(opening.into_actor(self).map(
                    move |(opened, query), cashier: &mut Self, _| {
                        let leased = match (&mut cashier.paying, opened) {
                            (Some(paying), Ok(channel)) => paying.lease(&query, &channel),
                            (_, Err(error)) => Err(error),
                            (None, _) => Err(CashierError::WrongRole),
                        };
                        reply.send(leased);
                    },
                ));
            }
        }
    }
}

impl Paying {
    /// An open channel that carries no job and can pay for this one.
    fn ready_channel(&self, query: &LeaseChannel) -> Result<Option<ClientChannel>, CashierError> {
        let usable = self.deposit.saturating_sub(self.kept());
        if query.needed > usable {
            return Err(CashierError::DepositTooSmall {
                needed: query.needed,
                deposit: self.deposit,
            });
        }
        let channels = self.ledger.channels_with(&query.worker)?;
        let open: Vec<_> = channels
            .into_iter()
            .filter(|channel| channel.state == ClientChannelState::Open)
            .collect();
        if let Some(channel) = open.iter().find(|channel| {
            channel.terms.worker == query.payout
                && channel.available() >= query.needed
                && !self.leased.contains(&channel.address)
        }) {
            return Ok(Some(channel.clone()));
        }
        let busy = open
            .iter()
            .filter(|channel| self.leased.contains(&channel.address))
            .count();
        if busy >= MAX_CHANNELS_PER_WORKER {
            return Err(CashierError::ChannelsBusy {
                worker: query.worker,
                limit: MAX_CHANNELS_PER_WORKER,
            });
        }
        Ok(None)
    }

    /// What a channel keeps of its deposit and never pays out.
    fn kept(&self) -> NanoTon {
        CHANNEL_RESERVE.saturating_add(OPENING_GAS)
    }

    fn lease(
        &mut self,
        query: &LeaseChannel,
        channel: &ClientChannel,
    ) -> Result<LeasedChannel, CashierError> {
        if self.leased.contains(&channel.address) {
            return Err(CashierError::InUse(channel.address));
        }
        self.ledger
            .open_job(query.job, query.worker, channel.address, clock::now())?;
        self.leased.insert(channel.address);
        Ok(LeasedChannel::from(channel))
    }

    /// Opens a channel on chain. The ledger knows of it before the chain does, so that a crash in
    /// between leaves no forgotten deposit.
    async fn open(&self, query: &LeaseChannel) -> Result<ClientChannel, CashierError> {
        let wallet = self.wallet.lock().await;
        let terms = ChannelTerms {
            client: self.address,
            worker: query.payout,
            client_key: PublicKey32::from_bytes(self.key.verifying_key().to_bytes()),
            nonce: self.ledger.next_nonce(&query.payout)?,
            close_delay_s: CLOSE_DELAY_S,
        };
        let address = terms.address()?;
        let head = self.chain.head().await?;
        self.ledger.open_channel(
            ChannelOpening {
                worker: query.worker,
                address,
                terms,
                deposit: self.deposit,
                reserve: self.kept(),
                valid_until: head.unix.saturating_add(OPENING_TTL_S),
            },
            clock::now(),
        )?;
        info!(worker = %query.worker, channel = %address, deposit = %self.deposit, "opening a channel");
        let message = open_message(&terms, self.deposit)?;
        let (hash, before) = wallet.submit(self.chain.as_ref(), &[message]).await?;
        self.ledger.record_opening_sent(&address, hash)?;
        wait_for_transaction(
            self.chain.as_ref(),
            self.address,
            hash,
            before,
            OPENING_LIMIT,
        )
        .await?;
        drop(wallet);
        self.confirm(address).await
    }

    /// Waits until the channel is seen on chain.
    async fn confirm(&self, address: TonAddress) -> Result<ClientChannel, CashierError> {
        let patience = tokio::time::Instant::now()
            .checked_add(OPENING_LIMIT)
            .unwrap_or_else(tokio::time::Instant::now);
        loop {
            if let Some(state) = fetch_channel(self.chain.as_ref(), address).await? {
                let deposit = state.claimed.saturating_add(state.balance);
                return Ok(self.ledger.record_open(&address, deposit)?);
            }
            if tokio::time::Instant::now() >= patience {
                return Err(CashierError::NotOpen(address));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Goes over channels whose opening was under way when the process died.
///
/// # Errors
/// If the ledger or the chain fails.
pub async fn reconcile(paying: &Paying) -> Result<(), CashierError> {
    let mut opening = Vec::new();
    paying.ledger.for_each_channel(|channel| {
        if let ClientChannelState::Opening { valid_until, .. } = channel.state {
            opening.push((channel.address, valid_until));
        }
        Ok::<_, LedgerError>(())
    })?;
    for (address, valid_until) in opening {
        let head = paying.chain.head().await?;
        match fetch_channel(paying.chain.as_ref(), address).await? {
            Some(state) => {
                let deposit = state.claimed.saturating_add(state.balance);
                paying.ledger.record_open(&address, deposit)?;
                info!(channel = %address, "a channel opened while this node was down");
            }
            None if head.unix > valid_until => {
                paying.ledger.record_closed(&address)?;
                warn!(channel = %address, "the opening of a channel has lapsed; nothing was paid");
            }
            None => warn!(channel = %address, "a channel is still being opened"),
        }
    }
    Ok(())
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
    fn handle(&mut self, Ask { query, reply }: Ask<Sign>, _: &mut Self::Context) {
        let Some(paying) = &self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let signed = paying.ledger.sign_voucher(
            &query.channel,
            query.cumulative,
            &paying.key,
            paying.global_id,
            clock::now(),
        );
        if signed.is_ok() {
            paying.metrics.voucher(Side::Client);
        }
        reply.send(signed.map_err(CashierError::from));
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
    /// The receipt, if one came and checked out.
    pub receipt: Option<SignedReceipt>,
}
impl Query for CloseClientJob {
    type Answer = Result<(), CashierError>;
}
impl Handler<Ask<CloseClientJob>> for Cashier {
    type Result = ();
    fn handle(&mut self, Ask { query, reply }: Ask<CloseClientJob>, _: &mut Self::Context) {
        let Some(paying) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        paying.leased.remove(&query.channel);
        let closed = paying.ledger.close_job(
            &query.job,
            &query.outcome,
            query.receipt.as_ref(),
            clock::now(),
        );
        reply.send(closed.map(drop).map_err(CashierError::from));
    }
}

/// A stored receipt.
#[derive(Debug)]
pub struct FindReceipt(pub JobId);
impl Query for FindReceipt {
    type Answer = Result<Option<KeptReceipt>, CashierError>;
}
impl Handler<Ask<FindReceipt>> for Cashier {
    type Result = ();
    fn handle(&mut self, Ask { query, reply }: Ask<FindReceipt>, _: &mut Self::Context) {
        reply.send(match &self.paying {
            Some(paying) => paying.ledger.receipt(&query.0).map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}

/// Receipts looked through for one that is named by its leaf.
const MAX_RECEIPTS_LISTED: usize = 10_000;

/// The stored receipts.
#[derive(Debug)]
pub struct ListReceipts;
impl Query for ListReceipts {
    type Answer = Result<Vec<KeptReceipt>, CashierError>;
}
impl Handler<Ask<ListReceipts>> for Cashier {
    type Result = ();
    fn handle(&mut self, Ask { reply, .. }: Ask<ListReceipts>, _: &mut Self::Context) {
        let first = JobId::from_bytes([0; 16]);
        reply.send(match &self.paying {
            Some(paying) => paying
                .ledger
                .receipts(&first, MAX_RECEIPTS_LISTED)
                .map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}

/// The channels, for people.
#[derive(Debug)]
pub struct ClientBooks;
impl Query for ClientBooks {
    type Answer = Result<ClientSummary, CashierError>;
}
impl Handler<Ask<ClientBooks>> for Cashier {
    type Result = ();
    fn handle(&mut self, Ask { reply, .. }: Ask<ClientBooks>, _: &mut Self::Context) {
        reply.send(match &self.paying {
            Some(paying) => paying.ledger.summary().map_err(CashierError::from),
            None => Err(CashierError::WrongRole),
        });
    }
}

/// The smallest claim worth making is also the smallest deposit worth opening.
#[must_use]
pub fn smallest_deposit() -> NanoTon {
    CHANNEL_RESERVE
        .saturating_add(OPENING_GAS)
        .saturating_add(MIN_CLAIM)
}
