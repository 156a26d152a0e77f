//! The settler actor: a worker's batches and claims, on chain.
//!
//! Owns `settlement`'s [`Settler`](settler::Settler) and does what it says, in its order: writes go
//! to the ledger before the message that depends on them is handed to the chain; chain calls run
//! beside the actor and come back as inputs.

use crate::ask::{Address, Ask, Named, Query, tell};
use crate::cashier::Cashier;
use crate::cashier::earning::{ChannelClosing, Reconciled};
use crate::clock;
use crate::failpoint;
use crate::metrics::Metrics;
use actix::prelude::*;
use cocoon_protocol::voucher::SignedRelease;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{BlockRef, Chain, ChainError, ChainStanding, TransactionSummary};
use cocoon_settlement::contract::{
    Commit, LedgerTerms, claim_message, commit_message, deploy_ledger_message, fetch_channel,
    fetch_ledger, release_message,
};
use cocoon_settlement::ledger::{LedgerError, TransactionRecord, WorkerLedger};
use cocoon_settlement::settler::{
    self, ChannelView, LedgerView, SendFailure, SettlerConfig, SettlerInput, SettlerOutput,
    Standing,
};
use cocoon_settlement::store::RocksStore;
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

/// How often the state machine looks at its clocks.
const TICK: Duration = Duration::from_millis(500);
/// Transactions read per look at a contract.
const TRANSACTIONS_PER_LOOK: u16 = 32;
/// Given to the ledger contract when it is deployed: about a hundred commits' gas.
const LEDGER_DEPOSIT: NanoTon = NanoTon::from_nano(50_000_000);

/// What settling is done with.
#[derive(Clone)]
pub struct Settling {
    /// On disk; shared with the cashier.
    pub ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Deploys the ledger contract.
    pub wallet: Arc<tokio::sync::Mutex<Wallet>>,
    /// The ledger contract's terms.
    pub terms: LedgerTerms,
    /// Signs commits.
    pub key: SigningKey,
    /// The network's number, part of every commit.
    pub global_id: i32,
    /// When to commit and claim.
    pub config: SettlerConfig,
}

/// See the module's doc.
pub struct Settler {
    settling: Settling,
    machine: settler::Settler,
    cashier: Address<Cashier>,
    /// Logical time up to which each contract's transactions were read.
    read: BTreeMap<TonAddress, u64>,
    sound: bool,
    deploying: bool,
    flush_waiting: Vec<crate::ask::Reply<()>>,
    metrics: Metrics,
}

impl Settler {
    /// A settler that goes on from what the ledger holds.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn new(
        settling: Settling,
        cashier: Address<Cashier>,
        metrics: Metrics,
    ) -> Result<Self, LedgerError> {
        let start = settling.ledger.settler_start()?;
        let machine = settler::Settler::new(settling.config.clone(), start);
        Ok(Self {
            settling,
            machine,
            cashier,
            read: BTreeMap::new(),
            sound: false,
            deploying: false,
            flush_waiting: Vec::new(),
            metrics,
        })
    }

    fn drive(&mut self, input: SettlerInput, context: &mut Context<Self>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.machine.handle(clock::now(), input) {
                match self.perform(output, context) {
                    Ok(answer) => inputs.extend(answer),
                    Err(failure) => {
                        // Nothing may be assumed after a failed write: begin anew from the disk.
                        error!(error = %failure, "the ledger failed; settling begins anew from the disk");
                        self.begin_anew();
                        return;
                    }
                }
            }
        }
        let sound = self.machine.standing() == Standing::Sound;
        if sound != self.sound {
            self.sound = sound;
            if let Err(error) = tell(&self.cashier, Reconciled(sound)) {
                warn!(%error, "the cashier was not told whether to serve");
                self.sound = !sound;
            }
        }
        if self.machine.is_settled()
            && self
                .settling
                .ledger
                .unsettled()
                .is_ok_and(|left| left.entries == 0)
        {
            for waiting in self.flush_waiting.drain(..) {
                waiting.send(());
            }
        }
    }

    fn begin_anew(&mut self) {
        self.deploying = false;
        self.read.clear();
        match self.settling.ledger.settler_start() {
            Ok(start) => {
                self.machine = settler::Settler::new(self.settling.config.clone(), start);
            }
            Err(failure) => {
                // A ledger that cannot be read is no state to serve from.
                error!(error = %failure, "the ledger cannot be read; ending the process");
                std::process::abort();
            }
        }
    }

    fn perform(
        &mut self,
        output: SettlerOutput,
        context: &mut Context<Self>,
    ) -> Result<Option<SettlerInput>, LedgerError> {
        let answer = self.settling.ledger.perform(
            clock::now(),
            &output,
            self.settling.config.batch_entries,
        )?;
        match output {
            SettlerOutput::SubmitCommit(commit) => self.submit_commit(commit, context),
            SettlerOutput::SubmitClaim { channel, voucher } => {
                let cumulative = voucher.voucher.cumulative;
                let message = claim_message(&voucher);
                info!(%channel, %cumulative, "claiming");
                self.send(message, context, move |result| SettlerInput::ClaimSent {
                    channel,
                    cumulative,
                    result,
                });
            }
            SettlerOutput::LookAtLedger => self.look_at_ledger(context),
            SettlerOutput::LookAtChannel(channel) => self.look_at_channel(channel, context),
            SettlerOutput::DeployLedger => self.deploy(context),
            SettlerOutput::Settled {
                channel, amount, ..
            } => {
                info!(%channel, %amount, "paid on chain");
                self.metrics.settled(amount);
            }
            SettlerOutput::Committed { seqno, .. } => {
                info!(seqno, "batch confirmed on chain");
                self.metrics.batch_confirmed();
            }
            SettlerOutput::Problem(problem) => warn!(%problem, "settlement"),
            SettlerOutput::RolledBack(rolled_back) => {
                error!(%rolled_back, "this worker stops serving");
            }
            SettlerOutput::StopServing { channel, close_at } => {
                let closing = ChannelClosing { channel, close_at };
                if let Err(error) = tell(&self.cashier, closing) {
                    warn!(%error, %channel, "the cashier was not told that a channel is closing");
                }
            }
            SettlerOutput::LookAtPrices => self.look_at_prices(context),
            SettlerOutput::SubmitRelease(release) => self.submit_release(release, context),
            SettlerOutput::Released { channel } => {
                info!(%channel, "a channel was closed together");
            }
            SettlerOutput::ReadStakes
            | SettlerOutput::PersistBatch { .. }
            | SettlerOutput::PersistCommitAttempt { .. }
            | SettlerOutput::PersistClaimAttempt { .. }
            | SettlerOutput::PersistReleaseAttempt { .. } => {}
        }
        Ok(answer)
    }

    fn submit_commit(&self, commit: Commit, context: &mut Context<Self>) {
        let seqno = commit.seqno;
        info!(seqno, root = %commit.root, jobs = commit.jobs, total = %commit.total, "committing a batch");
        let message = commit_message(&commit, &self.settling.key, self.settling.global_id);
        self.send(message, context, move |result| {
            if result.is_ok() {
                failpoint::reached(failpoint::COMMIT_SUBMITTED);
            }
            SettlerInput::CommitSent { seqno, result }
        });
    }

    /// Sends a release through the wallet. What it does shows on the channel.
    fn submit_release(&self, release: SignedRelease, context: &mut Context<Self>) {
        let channel = release.release.channel;
        info!(%channel, total = %release.release.cumulative, "closing a channel together");
        let settling = self.settling.clone();
        let sending = async move {
            let message = release_message(&release)?;
            let wallet = settling.wallet.lock().await;
            wallet.send(settling.chain.as_ref(), &[message]).await
        };
        context.spawn(sending.into_actor(self).map(move |sent, actor, context| {
            let result = sent.map(drop).map_err(|error| {
                warn!(%error, %channel, "a release was not sent, or nobody knows");
                match error {
                    ChainError::NotAccepted { exit_code, .. } => SendFailure::Refused { exit_code },
                    ChainError::InsufficientBalance { .. }
                    | ChainError::BadMessage { .. }
                    | ChainError::Encoding { .. } => SendFailure::Refused { exit_code: None },
                    _ => SendFailure::Unknown,
                }
            });
            actor.drive(SettlerInput::ReleaseSent { channel, result }, context);
        }));
    }

    /// Hands an external message to the chain; the result comes back as an input.
    fn send(
        &self,
        message: Result<Vec<u8>, ChainError>,
        context: &mut Context<Self>,
        into_input: impl FnOnce(Result<cocoon_protocol::Digest, SendFailure>) -> SettlerInput + 'static,
    ) {
        let chain = Arc::clone(&self.settling.chain);
        let sending = async move {
            let sent = match message {
                Ok(boc) => chain.send_external(&boc).await,
                Err(error) => Err(error),
            };
            sent.map_err(|error| {
                warn!(%error, "message not taken by the chain");
                match error {
                    ChainError::NotAccepted { exit_code, .. } => SendFailure::Refused { exit_code },
                    ChainError::BadMessage { .. } | ChainError::Encoding { .. } => {
                        SendFailure::Refused { exit_code: None }
                    }
                    _ => SendFailure::Unknown,
                }
            })
        };
        context.spawn(
            sending
                .into_actor(self)
                .map(move |result, actor, context| actor.drive(into_input(result), context)),
        );
    }

    fn look_at_ledger(&self, context: &mut Context<Self>) {
        let Ok(address) = self.settling.terms.address() else {
            return;
        };
        let chain = Arc::clone(&self.settling.chain);
        let after = self.read.get(&address).copied();
        let look = async move {
            // The head first: the time that goes with a view must not be newer than the view, or a
            // commit that is applied in between looks as if it had lapsed.
            let head = verifiable_head(chain.as_ref()).await?;
            let seen = news(chain.as_ref(), address, after).await?;
            let state = fetch_ledger(chain.as_ref(), address).await?;
            Ok::<_, NotLooked>((seen, state, head))
        };
        context.spawn(
            look.into_actor(self)
                .map(move |looked, actor, context| match looked {
                    Ok((seen, state, head)) => {
                        actor.deploying &= state.is_none();
                        actor.transactions(address, &seen, context);
                        let view = state.as_ref().map(LedgerView::from);
                        let unix = head.unix;
                        actor.drive(SettlerInput::Ledger { unix, view }, context);
                    }
                    Err(error) => warn!(%error, "the ledger contract could not be read"),
                }),
        );
    }

    fn look_at_prices(&self, context: &mut Context<Self>) {
        let chain = Arc::clone(&self.settling.chain);
        let look = async move { chain.prices().await };
        context.spawn(
            look.into_actor(self)
                .map(|looked, actor, context| match looked {
                    Ok(prices) => actor.drive(SettlerInput::Prices(prices), context),
                    Err(error) => warn!(%error, "the chain did not say its prices"),
                }),
        );
    }

    fn look_at_channel(&self, channel: TonAddress, context: &mut Context<Self>) {
        let chain = Arc::clone(&self.settling.chain);
        let after = self.read.get(&channel).copied();
        let look = async move {
            let head = verifiable_head(chain.as_ref()).await?;
            let seen = news(chain.as_ref(), channel, after).await?;
            let state = fetch_channel(chain.as_ref(), channel).await?;
            Ok::<_, NotLooked>((seen, state, head))
        };
        context.spawn(
            look.into_actor(self)
                .map(move |looked, actor, context| match looked {
                    Ok((seen, state, head)) => {
                        actor.transactions(channel, &seen, context);
                        let view = state.as_ref().map(ChannelView::from);
                        let unix = head.unix;
                        actor.drive(
                            SettlerInput::Channel {
                                unix,
                                channel,
                                view,
                            },
                            context,
                        );
                    }
                    Err(error) => warn!(%error, %channel, "a channel could not be read"),
                }),
        );
    }

    fn transactions(&mut self, account: TonAddress, news: &News, context: &mut Context<Self>) {
        let read = self.read.entry(account).or_insert(news.read);
        *read = news.read.max(*read);
        for summary in &news.seen {
            if let Some(message) = summary.in_message {
                self.drive(
                    SettlerInput::Transaction {
                        message,
                        success: summary.success,
                        transaction: TransactionRecord {
                            hash: summary.hash,
                            lt: summary.lt,
                            gas_used: summary.gas_used,
                            fees: summary.total_fees,
                        },
                    },
                    context,
                );
            }
        }
    }

    fn deploy(&mut self, context: &mut Context<Self>) {
        if self.deploying {
            return;
        }
        self.deploying = true;
        let settling = self.settling.clone();
        let deploying = async move {
            let message = deploy_ledger_message(&settling.terms, LEDGER_DEPOSIT)?;
            let wallet = settling.wallet.lock().await;
            wallet.send(settling.chain.as_ref(), &[message]).await
        };
        context.spawn(deploying.into_actor(self).map(|sent, actor, _| match sent {
            Ok(_) => info!("ledger contract deployed"),
            Err(error) => {
                actor.deploying = false;
                warn!(%error, "the ledger contract was not deployed; trying again");
            }
        }));
    }
}

/// Why a contract was not looked at.
#[derive(Debug, thiserror::Error)]
enum NotLooked {
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// What cannot be verified is no reason to send anything, nor to call the ledger rolled back.
    #[error("settling waits: {0}")]
    Unverifiable(ChainStanding),
}

/// The newest block, if what the chain says can be acted upon.
async fn verifiable_head(chain: &dyn Chain) -> Result<BlockRef, NotLooked> {
    let head = chain.head().await;
    // Whatever came of the call: the standing is what the last call showed.
    match chain.standing() {
        standing if standing.is_sound() => Ok(head?),
        standing => Err(NotLooked::Unverifiable(standing)),
    }
}

/// What is new at a contract.
struct News {
    seen: Vec<TransactionSummary>,
    /// Logical time up to which it was read now.
    read: u64,
}

/// Transactions of an account after a logical time; without one, that of its newest transaction,
/// and none: what was there before the first look was not caused by a message of this process, and
/// a long history would hide what is new behind its pages.
async fn news(
    chain: &dyn Chain,
    account: TonAddress,
    after: Option<u64>,
) -> Result<News, ChainError> {
    let Some(after) = after else {
        let read = chain
            .account(account)
            .await?
            .map_or(0, |state| state.last_lt);
        return Ok(News {
            seen: Vec::new(),
            read,
        });
    };
    let seen = chain
        .transactions(account, after, TRANSACTIONS_PER_LOOK)
        .await?;
    let read = seen.last().map_or(after, |newest| newest.lt);
    Ok(News { seen, read })
}

impl Named for Settler {
    const NAME: &'static str = "settler";
}
impl Actor for Settler {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |actor, context| {
            match actor.settling.ledger.unsettled() {
                Ok(unsettled) => actor.drive(SettlerInput::Unsettled(unsettled), context),
                Err(error) => warn!(%error, "the ledger could not be read"),
            }
            actor.drive(SettlerInput::Tick, context);
        });
    }
}
impl Supervised for Settler {
    fn restarting(&mut self, _: &mut Self::Context) {
        // The answers that the state machine waits for were lost with their futures.
        self.begin_anew();
    }
}

impl Handler<crate::supervision::Stop> for Settler {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// The cashier has agreed to close a channel together: what there is to send is in the ledger.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleasesAgreed;

impl Handler<ReleasesAgreed> for Settler {
    type Result = ();
    fn handle(&mut self, _: ReleasesAgreed, context: &mut Self::Context) {
        match self.settling.ledger.stakes() {
            Ok(stakes) => self.drive(SettlerInput::Stakes(stakes), context),
            Err(error) => warn!(%error, "the ledger could not be read"),
        }
    }
}

/// Settle everything that the contracts take, whatever the thresholds say. Answered when it is
/// done.
#[derive(Debug)]
pub struct Flush;
impl Query for Flush {
    type Answer = ();
}
impl Handler<Ask<Flush>> for Settler {
    type Result = ();
    fn handle(&mut self, asked: Ask<Flush>, context: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        /// Askers that wait for the same flush.
        const MAX_WAITING: usize = 64;
        if self.flush_waiting.len() < MAX_WAITING {
            self.flush_waiting.push(reply);
        }
        match self.settling.ledger.unsettled() {
            Ok(unsettled) => self.drive(SettlerInput::Unsettled(unsettled), context),
            Err(error) => warn!(%error, "the ledger could not be read"),
        }
        self.drive(SettlerInput::Flush, context);
    }
}
