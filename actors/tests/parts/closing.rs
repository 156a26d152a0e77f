//! A client's cashier and a worker's close a channel together: over the mesh, through both ledgers, on real contracts.

use crate::support::books::{earning, paying, voucher};
use crate::support::chain::{TestChain, wallet};
use crate::support::port::Hub;
use crate::support::{job, key, milliton, peer, system, until, until_async};
use cocoon_actors::ask::{Address, ask, tell};
use cocoon_actors::cashier::earning::{Accept, CloseWorkerJob, OpenWorkerJob};
use cocoon_actors::cashier::paying::{CloseClientJob, LeaseChannel, Paying, Sign};
use cocoon_actors::cashier::releasing::SettledBy;
use cocoon_actors::cashier::{CLOSE_DELAY_S, Cashier, CashierError};
use cocoon_actors::directory::Directory;
use cocoon_actors::mesh::{Inbox, Mesh, pump};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::settler::{Settler, Settling};
use cocoon_actors::supervision::supervise;
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::contract::LedgerTerms;
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{ClientChannel, ClientChannelState, LedgerError, WorkerLedger};
use cocoon_settlement::settler::SettlerConfig;
use cocoon_settlement::store::RocksStore;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::Mutex;

const CLIENT: u8 = 1;
const WORKER: u8 = 2;
/// What the one job costs.
const PAID: u64 = 30;

/// A node of the mesh that has nothing but a cashier.
fn join(
    hub: &Hub,
    seed: u8,
    metrics: &Metrics,
) -> (Address<Mesh>, impl FnOnce(Option<Address<Cashier>>)) {
    let (commands, notices) = hub.join(peer(seed));
    let mesh = supervise(Mesh::new(commands, metrics.clone()));
    let directory = supervise(Directory::new(
        DirectoryConfig::default(),
        None,
        metrics.clone(),
    ));
    let inbox = Inbox {
        mesh: mesh.clone(),
        directory,
        attestor: None,
        negotiator: None,
        log: None,
        collateral: None,
        sessions: None,
        cashier: None,
        vault: None,
    };
    let listen = move |cashier| {
        tokio::spawn(pump(notices, Inbox { cashier, ..inbox }));
    };
    (mesh, listen)
}

struct Payer {
    chain: TestChain,
    parts: Paying,
    cashier: Address<Cashier>,
    before: NanoTon,
    _directory: TempDir,
}

impl Payer {
    async fn start(hub: &Hub, chain: &TestChain) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = paying(directory.path(), chain, CLIENT);
        let (mesh, listen) = join(hub, CLIENT, &parts.metrics);
        listen(None);
        parts.mesh = Some(mesh);
        parts.purse.unused_ms = 0;
        parts.purse.retry_ms = 20;
        Self {
            cashier: supervise(Cashier::paying(parts.clone()).unwrap()),
            before: chain.balance(parts.address).await,
            chain: chain.clone(),
            parts,
            _directory: directory,
        }
    }

    async fn lease(&self) -> TonAddress {
        let lease = LeaseChannel {
            job: job(1),
            worker: peer(WORKER),
            payout: wallet(WORKER).address(),
            needed: milliton(50),
        };
        ask(&self.cashier, lease).await.unwrap().unwrap().address
    }

    async fn sign(&self, channel: TonAddress, total: u64) -> Result<(), CashierError> {
        let sign = Sign {
            channel,
            cumulative: milliton(total),
        };
        ask(&self.cashier, sign).await.unwrap().map(drop)
    }

    async fn end(&self, channel: TonAddress) {
        let close = CloseClientJob {
            job: job(1),
            channel,
            outcome: Outcome::Completed,
            receipt: None,
        };
        ask(&self.cashier, close).await.unwrap().unwrap();
    }

    fn channel(&self, address: TonAddress) -> ClientChannel {
        self.parts.ledger.channel(&address).unwrap().unwrap()
    }

    async fn spent(&self) -> NanoTon {
        let after = self.chain.balance(self.parts.address).await;
        self.before.checked_sub(after).unwrap()
    }
}

struct Earner {
    cashier: Address<Cashier>,
    ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    _settler: Address<Settler>,
    _directory: TempDir,
}

impl Earner {
    fn start(hub: &Hub, chain: &TestChain, release_fee_multiple: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = earning(directory.path(), chain, WORKER);
        parts.release_fee_multiple = release_fee_multiple;
        let (ledger, metrics) = (Arc::clone(&parts.ledger), parts.metrics.clone());
        let (_, listen) = join(hub, WORKER, &metrics);
        let cashier = supervise(Cashier::earning(parts));
        listen(Some(cashier.clone()));
        let terms = LedgerTerms {
            owner: wallet(WORKER).address(),
            key: PublicKey32::from_bytes(key(WORKER).verifying_key().to_bytes()),
        };
        let settling = Settling {
            ledger: Arc::clone(&ledger),
            chain: chain.shared(),
            wallet: Arc::new(Mutex::new(wallet(WORKER))),
            terms,
            key: key(WORKER),
            global_id: GLOBAL_ID,
            config: SettlerConfig {
                look_ms: 1,
                ..SettlerConfig::new(terms.address().unwrap())
            },
        };
        let settler = supervise(Settler::new(settling, cashier.clone(), metrics).unwrap());
        tell(&cashier, SettledBy(settler.clone())).unwrap();
        Self {
            cashier,
            ledger,
            _settler: settler,
            _directory: directory,
        }
    }

    async fn open(&self, number: u8, channel: TonAddress) -> Result<(), CashierError> {
        let open = OpenWorkerJob {
            terms: None,
            job: job(number),
            client: peer(CLIENT),
            channel,
            needed: milliton(50),
            credit_window: milliton(1),
        };
        ask(&self.cashier, open).await.unwrap().map(drop)
    }

    async fn end(&self, number: u8, channel: TonAddress) {
        let close = CloseWorkerJob {
            job: job(number),
            channel,
            outcome: Outcome::Completed,
            receipt: None,
            cost: milliton(PAID),
        };
        ask(&self.cashier, close).await.unwrap().unwrap();
    }

    /// A job that is paid, and ended at the client; at the worker it goes on.
    async fn serve(&self, payer: &Payer) -> TonAddress {
        let channel = payer.lease().await;
        // The settler says so once it has looked at the chain.
        while let Err(error) = self.open(1, channel).await {
            assert!(matches!(error, CashierError::Unreconciled), "{error}");
            tokio::task::yield_now().await;
        }
        payer.sign(channel, PAID).await.unwrap();
        let accept = Accept {
            channel,
            voucher: voucher(channel, milliton(PAID), CLIENT),
        };
        ask(&self.cashier, accept).await.unwrap().unwrap();
        payer.end(channel).await;
        channel
    }
}

#[test]
fn a_channel_is_closed_together_once_no_job_is_on_it_and_the_rest_is_back_without_the_delay() {
    system(async {
        let (hub, chain) = (Hub::default(), TestChain::new(&[CLIENT, WORKER]).await);
        let earner = Earner::start(&hub, &chain, 10);
        let payer = Payer::start(&hub, &chain).await;
        let channel = earner.serve(&payer).await;
        until("the question", || {
            let state = payer.channel(channel).state;
            matches!(state, ClientChannelState::Releasing { agreed: false, .. })
        })
        .await;
        // Nothing is signed any more, also while the worker is still busy with its end of the job.
        assert!(matches!(
            payer.sign(channel, PAID + 1).await,
            Err(CashierError::Ledger(LedgerError::ChannelNotOpen(_)))
        ));
        let known = earner.ledger.channel(&channel).unwrap().unwrap();
        assert_eq!(known.release, None, "a job is on it");
        earner.end(1, channel).await;
        until("the end", || {
            payer.channel(channel).state == ClientChannelState::Closed
        })
        .await;
        let state = chain.channel(channel).await.unwrap();
        assert!(state.finished && state.claimed == milliton(PAID));
        assert_eq!(state.close_at, None, "nobody closed alone");
        assert!(matches!(
            earner.open(2, channel).await,
            Err(CashierError::Ledger(LedgerError::ChannelReleased(_)) | CashierError::NotOpen(_))
        ));
        until("the worker's books", || {
            let known = earner.ledger.channel(&channel).unwrap().unwrap();
            known.claimed == milliton(PAID) && known.release.is_some_and(|release| release.done)
        })
        .await;
        let fees = payer.spent().await.checked_sub(milliton(PAID)).unwrap();
        assert!(fees < milliton(6), "{fees}: the reserve, and opening");
    });
}

#[test]
fn a_worker_that_it_would_cost_too_much_refuses_and_the_client_closes_alone_at_once() {
    system(async {
        let (hub, chain) = (Hub::default(), TestChain::new(&[CLIENT, WORKER]).await);
        let earner = Earner::start(&hub, &chain, 1_000_000);
        let payer = Payer::start(&hub, &chain).await;
        let channel = earner.serve(&payer).await;
        earner.end(1, channel).await;
        until_async("the wish to close on chain", async || {
            chain.channel(channel).await.unwrap().close_at.is_some()
        })
        .await;
        let known = earner.ledger.channel(&channel).unwrap().unwrap();
        assert_eq!(known.release, None);
        chain.pass(CLOSE_DELAY_S + 1);
        until("the end", || {
            payer.channel(channel).state == ClientChannelState::Closed
        })
        .await;
    });
}

#[test]
fn a_worker_that_is_gone_is_waited_for_no_longer_than_ten_minutes_of_chain_time() {
    system(async {
        let (hub, chain) = (Hub::default(), TestChain::new(&[CLIENT]).await);
        let payer = Payer::start(&hub, &chain).await;
        let channel = payer.lease().await;
        payer.end(channel).await;
        until("the question", || {
            let state = payer.channel(channel).state;
            matches!(state, ClientChannelState::Releasing { .. })
        })
        .await;
        assert!(chain.channel(channel).await.unwrap().is_open());
        chain.pass(601);
        until_async("the wish to close on chain", async || {
            chain.channel(channel).await.unwrap().close_at.is_some()
        })
        .await;
    });
}
