//! A client and a worker on the real contracts, for [`crash_tests`](super::crash_tests): both die and come back, the
//! chain and the two disks stay.
//!
//! What a node's actors do with the ledgers is done here in the same order: an opening is written down before it is
//! sent, a voucher is signed onto the disk before it leaves, accepted onto the disk before it is acknowledged, and the
//! settler's outputs are performed one by one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use cocoon_protocol::{JobId, NanoTon, Outcome, PeerId, TonAddress, UnixMillis};
use ed25519_dalek::SigningKey;
use futures::FutureExt as _;

use super::testing::{at, client_key, file, job, peer, public, receipt_on, ton};
use super::{
    ChannelOpening, ClientChannelState, ClientLedger, LedgerError, SCHEMA, WorkerLedger,
    check_voucher,
};
use crate::chain::{Chain, ChainError, LocalChain, TransactionSummary};
use crate::contract::{
    ChannelTerms, LedgerTerms, MIN_CLAIM, OutMessage, channel_exit, claim_message, commit_message,
    deploy_ledger_message, fetch_channel, fetch_ledger, ledger_exit, open_message,
};
use crate::devnet::{self, Devnet, GLOBAL_ID};
use crate::settler::{
    ChannelView, LedgerView, SendFailure, Settler, SettlerConfig, SettlerInput, SettlerOutput,
    Standing,
};
use crate::store::fault::{FaultStore, Faults, fault_store};
use crate::store::{MemoryStore, RocksStore, Store, StoreError};
use crate::wallet::Wallet;

const GENESIS: u32 = 1_795_000_000;
/// Who signs vouchers, as a seed.
const CLIENT: u8 = 1;
/// The worker's, in [`receipt_on`].
const WORKER: u8 = 100;
/// Enough for every raise of the script, several times.
const DEPOSIT: NanoTon = NanoTon::from_nano(3_000_000_000);
/// The smallest raise of the script: as much as the contract takes in one claim.
const RAISE: u64 = 10_000_000;
/// Jobs of the script: which of the two channels, and by how many times [`RAISE`] each voucher raises the total.
const JOBS: [(u32, &[u64]); 4] = [(0, &[4, 3]), (1, &[2]), (0, &[1, 1]), (1, &[5])];
/// After which jobs the worker settles everything.
const SETTLE_AFTER: [usize; 2] = [1, 3];

type Disk = Arc<dyn Store>;
pub(super) type Worker = WorkerLedger<FaultStore<Disk>>;
pub(super) type Client = ClientLedger<FaultStore<Disk>>;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Who {
    Worker,
    Client,
}

/// Somebody died.
#[derive(Debug)]
pub(super) struct Death(pub(super) Who);

/// What outlives a process: memory that plays a disk, or a directory that is opened anew each time.
pub(super) enum Medium {
    Memory(Arc<MemoryStore>),
    Directory(PathBuf),
}

impl Medium {
    fn open(&self) -> Disk {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Directory(path) => Arc::new(RocksStore::open(path, SCHEMA).unwrap()),
        }
    }
}

/// Everything outside the two processes.
pub(super) struct World {
    pub(super) chain: LocalChain,
    pub(super) disks: BTreeMap<Who, Medium>,
    client_wallet: Wallet,
    worker_wallet: Wallet,
    pub(super) ledger: LedgerTerms,
    ledger_key: SigningKey,
    pub(super) now: UnixMillis,
    /// The last total the worker said it has, of each channel.
    pub(super) acknowledged: BTreeMap<TonAddress, NanoTon>,
    /// Messages that the chain refused because they had been applied: a node that sends twice.
    pub(super) duplicates: Vec<String>,
    /// The script's next job, and the number of jobs ever opened.
    next: usize,
    pub(super) opened: u64,
}

/// Both processes.
pub(super) struct Life {
    pub(super) worker: Worker,
    pub(super) client: Client,
    pub(super) worker_faults: Arc<Faults>,
    pub(super) client_faults: Arc<Faults>,
    settler: Option<Settler>,
}

/// The local chain never waits.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("a local chain answers at once")
}

fn key(seed: u8) -> SigningKey {
    client_key(seed)
}

pub(super) fn worker_peer() -> PeerId {
    peer(WORKER)
}

impl World {
    pub(super) fn new(disks: BTreeMap<Who, Medium>) -> Self {
        let chain = LocalChain::new(Devnet::in_memory(GENESIS).unwrap());
        let client_wallet = Wallet::from_key(key(201), GLOBAL_ID).unwrap();
        let worker_wallet = Wallet::from_key(key(202), GLOBAL_ID).unwrap();
        let ledger_key = key(203);
        let gifts = [&client_wallet, &worker_wallet]
            .map(|wallet| OutMessage::transfer(wallet.address(), ton(100_000_000_000)));
        now(devnet::faucet().unwrap().submit(&chain, &gifts)).unwrap();
        let mut world = Self {
            ledger: LedgerTerms {
                owner: worker_wallet.address(),
                key: public(&ledger_key),
            },
            chain,
            disks,
            client_wallet,
            worker_wallet,
            ledger_key,
            now: at(1_000_000),
            acknowledged: BTreeMap::new(),
            duplicates: Vec::new(),
            next: 0,
            opened: 0,
        };
        world.block(5);
        world.block(5);
        world
    }

    pub(super) fn boot_worker(&self, faults: Arc<Faults>) -> Worker {
        WorkerLedger::new(fault_store(self.disks[&Who::Worker].open(), faults))
    }

    pub(super) fn boot_client(&self, faults: Arc<Faults>) -> Client {
        ClientLedger::new(fault_store(self.disks[&Who::Client].open(), faults))
    }

    pub(super) fn unix(&self) -> u32 {
        self.chain.devnet().head().unix
    }

    /// Time passes and everything that waits is applied.
    pub(super) fn block(&mut self, seconds: u32) {
        self.now = self.now.saturating_add(u64::from(seconds) * 1_000);
        let mut devnet = self.chain.devnet();
        let unix = devnet.head().unix + seconds;
        devnet.advance(unix).unwrap();
    }

    pub(super) fn history(&self, account: TonAddress) -> Vec<TransactionSummary> {
        self.chain.devnet().transactions(account, 0, 256).unwrap()
    }

    pub(super) fn claimed(&self, channel: TonAddress) -> NanoTon {
        now(fetch_channel(&self.chain, channel))
            .unwrap()
            .map_or(NanoTon::ZERO, |state| state.claimed)
    }

    pub(super) fn ledger_address(&self) -> TonAddress {
        self.ledger.address().unwrap()
    }

    pub(super) fn ledger_view(&self) -> Option<LedgerView> {
        let state = now(fetch_ledger(&self.chain, self.ledger_address())).unwrap();
        state.as_ref().map(LedgerView::from)
    }

    /// The worker begins anew under another key, with an empty past: the clients' story is told once more.
    pub(super) fn move_to_new_contract(&mut self, disk: Medium, seed: u8) {
        self.ledger_key = key(seed);
        self.ledger.key = public(&self.ledger_key);
        self.disks.insert(Who::Worker, disk);
        self.acknowledged.clear();
        self.next = 0;
    }

    fn terms(&self, nonce: u32) -> ChannelTerms {
        ChannelTerms {
            client: self.client_wallet.address(),
            worker: self.worker_wallet.address(),
            client_key: public(&key(CLIENT)),
            nonce,
            close_delay_s: 86_400,
        }
    }

    pub(super) fn settler_config(&self) -> SettlerConfig {
        SettlerConfig {
            // Claims are due as soon as they are covered, so that a new life is tempted to send them again at once.
            channel_risk: MIN_CLAIM,
            contract_min_claim: MIN_CLAIM,
            commit_ttl_s: 20,
            claim_retry_s: 20,
            look_ms: 1,
            idle_look_ms: 1,
            ..SettlerConfig::new(self.ledger_address())
        }
    }

    /// The whole story, from wherever the disks, the chain and the script are, to its end or to a death.
    pub(super) fn live(&mut self, life: &mut Life) -> Result<(), Death> {
        self.live_inner(life).map_err(|(who, error)| match error {
            LedgerError::Store(StoreError::Killed { .. } | StoreError::Stopped { .. }) => {
                Death(who)
            }
            error => panic!("{who:?}: {error}"),
        })
    }

    fn live_inner(&mut self, life: &mut Life) -> Result<(), (Who, LedgerError)> {
        self.start(life)?;
        while self.next < JOBS.len() {
            let (slot, raises) = JOBS[self.next];
            self.serve(life, slot, raises)?;
            self.next += 1;
            if SETTLE_AFTER.contains(&self.next) {
                self.settle(life).map_err(worker)?;
            }
        }
        // What was signed and never acknowledged reaches the worker with the next job, whatever that is.
        for slot in [0, 1] {
            self.serve(life, slot, &[])?;
        }
        self.settle(life).map_err(worker)
    }

    /// What each does first: end the jobs that were open, then compare disk and chain. Never serve before that.
    fn start(&mut self, life: &mut Life) -> Result<(), (Who, LedgerError)> {
        life.client.recover(self.now).map_err(client)?;
        life.worker.recover(self.now).map_err(worker)?;
        for (channel, total) in &self.acknowledged {
            let known = life.worker.channel(channel).map_err(worker)?.unwrap();
            assert!(
                known.held_total() >= *total,
                "a voucher that was acknowledged is gone"
            );
        }
        if life.settler.is_none() {
            let start = life.worker.settler_start().map_err(worker)?;
            life.settler = Some(Settler::new(self.settler_config(), start));
        }
        self.drive(life, SettlerInput::Tick).map_err(worker)?;
        let standing = life.settler.as_ref().unwrap().standing();
        assert_eq!(standing, Standing::Sound);
        Ok(())
    }

    /// One job, and tries again until it ends well: an answer that was lost makes it fail.
    fn serve(
        &mut self,
        life: &mut Life,
        slot: u32,
        raises: &[u64],
    ) -> Result<(), (Who, LedgerError)> {
        for _ in 0..8 {
            let channel = self.channel_of(life, slot).map_err(client)?;
            if self.try_job(life, channel, raises)? {
                return Ok(());
            }
        }
        panic!("a job failed eight times");
    }

    fn try_job(
        &mut self,
        life: &mut Life,
        channel: TonAddress,
        raises: &[u64],
    ) -> Result<bool, (Who, LedgerError)> {
        let signer = key(CLIENT);
        let client_peer = peer(CLIENT);
        life.worker
            .register_channel(channel, client_peer, public(&signer), NanoTon::ZERO)
            .map_err(worker)?;
        self.opened += 1;
        let id = job(self.opened);
        life.client
            .open_job(id, worker_peer(), channel, self.now)
            .map_err(client)?;
        life.worker
            .open_job(id, client_peer, channel, self.now)
            .map_err(worker)?;
        // The worker says what it holds; what it lacks is sent again, the very same voucher.
        let held = life.worker.channel(&channel).map_err(worker)?.unwrap();
        let known = life.client.channel(&channel).map_err(client)?.unwrap();
        assert!(
            held.held_total() <= known.signed_total(),
            "never a smaller total"
        );
        let mut vouchers = VecDeque::new();
        if known.signed_total() > held.held_total() {
            vouchers.push_back(None);
        }
        vouchers.extend(raises.iter().map(|raise| Some(ton(raise * RAISE))));
        for raise in vouchers {
            let known = life.client.channel(&channel).map_err(client)?.unwrap();
            let signed = match raise {
                None => known.newest_voucher().unwrap(),
                Some(raise) => {
                    let total = known.signed_total().checked_add(raise).unwrap();
                    life.client
                        .sign_voucher(&channel, total, &signer, GLOBAL_ID, self.now)
                        .map_err(client)?
                }
            };
            let answer = life.client_faults.send(|| {
                let known = life.worker.channel(&channel)?.unwrap();
                let checked = check_voucher(&signed, &known, DEPOSIT, GLOBAL_ID)
                    .unwrap_or_else(|refused| panic!("{refused}"));
                life.worker.accept_voucher(&checked)
            });
            // The worker had its part whether or not the client lives to hear of it.
            match answer.map_err(|error| client(error.into()))? {
                Some(accepted) => {
                    let total = accepted.map_err(worker)?.held_total();
                    self.acknowledged.insert(channel, total);
                }
                None => {
                    life.client
                        .close_job(&id, &Outcome::Cancelled, None, self.now)
                        .map_err(client)?;
                    life.worker
                        .close_job(&id, &Outcome::Cancelled, None, self.now)
                        .map_err(worker)?;
                    return Ok(false);
                }
            }
        }
        self.close(life, channel, id, raises)?;
        Ok(true)
    }

    fn close(
        &mut self,
        life: &mut Life,
        channel: TonAddress,
        id: JobId,
        raises: &[u64],
    ) -> Result<(), (Who, LedgerError)> {
        let total = life.worker.channel(&channel).map_err(worker)?.unwrap();
        let amount = raises.iter().sum::<u64>() * RAISE;
        let receipt = receipt_on(channel, CLIENT, id, amount, total.held_total().nano());
        life.worker
            .close_job(&id, &Outcome::Completed, Some(&receipt), self.now)
            .map_err(worker)?;
        let answer = life
            .worker_faults
            .send(|| file(receipt))
            .map_err(|error| worker(error.into()))?;
        life.client
            .close_job(&id, &Outcome::Completed, answer.as_ref(), self.now)
            .map_err(client)?;
        Ok(())
    }

    /// The client's channel for this slot, opened where there is none, and looked at where that is in doubt.
    fn channel_of(&mut self, life: &mut Life, slot: u32) -> Result<TonAddress, LedgerError> {
        for _ in 0..200 {
            let mut live = None;
            for channel in life.client.channels_with(&worker_peer())? {
                let is_over = channel.state == ClientChannelState::Closed;
                if channel.terms.nonce % 2 == slot && !is_over {
                    live = Some(channel);
                }
            }
            match live {
                None => self.open_channel(life, slot)?,
                Some(channel) if channel.state == ClientChannelState::Open => {
                    return Ok(channel.address);
                }
                Some(channel) => {
                    let ClientChannelState::Opening {
                        valid_until,
                        message,
                    } = channel.state
                    else {
                        panic!("nobody closes channels here");
                    };
                    // The head before the contract, as with every look.
                    let unix = self.unix();
                    let state = now(fetch_channel(&self.chain, channel.address)).unwrap();
                    if let Some(state) = state {
                        let deposit = state.claimed.checked_add(state.balance).unwrap();
                        life.client.record_open(&channel.address, deposit)?;
                        continue;
                    }
                    let paid = self
                        .history(self.client_wallet.address())
                        .iter()
                        .any(|seen| seen.in_message.is_some() && seen.in_message == message);
                    if unix > valid_until && !paid {
                        life.client.record_closed(&channel.address)?;
                    } else {
                        self.block(5);
                    }
                }
            }
        }
        panic!("a channel did not open in 200 blocks");
    }

    fn open_channel(&mut self, life: &mut Life, slot: u32) -> Result<(), LedgerError> {
        let next = life.client.next_nonce(&self.worker_wallet.address())?;
        let nonce = next + u32::from(next % 2 != slot);
        let terms = self.terms(nonce);
        let address = terms.address().unwrap();
        let message = open_message(&terms, DEPOSIT).unwrap();
        let transfer = now(self.client_wallet.prepare(&self.chain, &[message])).unwrap();
        let opening = ChannelOpening {
            worker: worker_peer(),
            address,
            terms,
            deposit: DEPOSIT,
            reserve: ton(10_000_000),
            valid_until: transfer.valid_until,
        };
        life.client.open_channel(opening, self.now)?;
        life.client
            .record_opening_sent(&address, transfer.message)?;
        life.client_faults
            .send(|| now(self.chain.send_external(&transfer.boc)).unwrap())?;
        self.block(5);
        Ok(())
    }

    fn settle(&mut self, life: &mut Life) -> Result<(), LedgerError> {
        self.drive(life, SettlerInput::Flush)?;
        for _ in 0..200 {
            if life.settler.as_ref().unwrap().is_settled() {
                return Ok(());
            }
            self.block(5);
            self.drive(life, SettlerInput::Tick)?;
        }
        panic!("not settled after 200 blocks: {:?}", life.settler);
    }

    /// What the settler's actor does.
    fn drive(&mut self, life: &mut Life, input: SettlerInput) -> Result<(), LedgerError> {
        let mut settler = life.settler.take().unwrap();
        let unsettled = life.worker.unsettled()?;
        let mut inputs = VecDeque::from([SettlerInput::Unsettled(unsettled), input]);
        while let Some(input) = inputs.pop_front() {
            for output in settler.handle(self.now, input) {
                match life.worker.perform(self.now, &output, 100)? {
                    Some(answer) => inputs.push_back(answer),
                    None => inputs.extend(self.perform(life, output)?),
                }
            }
        }
        life.settler = Some(settler);
        Ok(())
    }

    fn perform(
        &mut self,
        life: &Life,
        output: SettlerOutput,
    ) -> Result<Option<SettlerInput>, LedgerError> {
        let faults = &life.worker_faults;
        let unix = self.unix();
        Ok(match output {
            SettlerOutput::SubmitCommit(commit) => {
                let boc = commit_message(&commit, &self.ledger_key, GLOBAL_ID).unwrap();
                let sent = faults.send(|| now(self.chain.send_external(&boc)))?;
                Some(SettlerInput::CommitSent {
                    seqno: commit.seqno,
                    result: self.result_of(sent, &format!("commit {}", commit.seqno)),
                })
            }
            SettlerOutput::SubmitClaim { channel, voucher } => {
                let boc = claim_message(&voucher).unwrap();
                let sent = faults.send(|| now(self.chain.send_external(&boc)))?;
                Some(SettlerInput::ClaimSent {
                    channel,
                    cumulative: voucher.voucher.cumulative,
                    result: self.result_of(sent, &format!("claim {:?}", voucher.voucher)),
                })
            }
            SettlerOutput::LookAtLedger => Some(SettlerInput::Ledger {
                unix,
                view: self.ledger_view(),
            }),
            SettlerOutput::LookAtChannel(channel) => {
                let state = now(fetch_channel(&self.chain, channel)).unwrap();
                Some(SettlerInput::Channel {
                    unix,
                    channel,
                    view: state.as_ref().map(ChannelView::from),
                })
            }
            SettlerOutput::DeployLedger => {
                let deploy = deploy_ledger_message(&self.ledger, ton(100_000_000)).unwrap();
                faults.send(|| now(self.worker_wallet.submit(&self.chain, &[deploy])).unwrap())?;
                None
            }
            SettlerOutput::LookAtPrices => {
                Some(SettlerInput::Prices(now(self.chain.prices()).unwrap()))
            }
            SettlerOutput::RolledBack(reason) => panic!("{reason}"),
            SettlerOutput::Problem(problem) => panic!("{problem}"),
            _ => None,
        })
    }

    fn result_of(
        &mut self,
        sent: Option<Result<cocoon_protocol::Digest, ChainError>>,
        what: &str,
    ) -> Result<cocoon_protocol::Digest, SendFailure> {
        match sent {
            None => Err(SendFailure::Unknown),
            Some(Ok(hash)) => Ok(hash),
            Some(Err(ChainError::NotAccepted { exit_code, .. })) => {
                let twice = [Some(ledger_exit::SEQNO), Some(channel_exit::NOT_NEWER)];
                if twice.contains(&exit_code) {
                    self.duplicates.push(what.to_owned());
                }
                Err(SendFailure::Refused { exit_code })
            }
            Some(Err(error)) => panic!("{what}: {error}"),
        }
    }
}

impl Life {
    pub(super) fn new(
        world: &World,
        worker_faults: Arc<Faults>,
        client_faults: Arc<Faults>,
    ) -> Self {
        Self {
            worker: world.boot_worker(worker_faults.clone()),
            client: world.boot_client(client_faults.clone()),
            worker_faults,
            client_faults,
            settler: None,
        }
    }

    /// This one comes back; the other goes on with what it has in memory.
    pub(super) fn reboot(self, world: &World, who: Who, faults: Arc<Faults>) -> Self {
        match who {
            Who::Worker => {
                drop(self.worker);
                Self {
                    worker: world.boot_worker(faults.clone()),
                    worker_faults: faults,
                    settler: None,
                    ..self
                }
            }
            Who::Client => {
                drop(self.client);
                Self {
                    client: world.boot_client(faults.clone()),
                    client_faults: faults,
                    ..self
                }
            }
        }
    }
}

fn worker(error: LedgerError) -> (Who, LedgerError) {
    (Who::Worker, error)
}

fn client(error: LedgerError) -> (Who, LedgerError) {
    (Who::Client, error)
}
