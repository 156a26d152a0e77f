//! Whole nodes in one process: every actor as a node wires it, with a [`Hub`] for a swarm.

use super::books::{earning, payer, paying};
use super::chain::{TestChain, wallet};
use super::model::{CONTEXT_TOKENS, MODEL, Scripted, digest};
use super::port::Hub;
use super::{nano, peer, peer_key, until};
use cocoon_actors::ask::{Address, tell};
use cocoon_actors::attestor::Attestor;
use cocoon_actors::cashier::Cashier;
use cocoon_actors::cashier::earning::Reconciled;
use cocoon_actors::collateral::{CollateralKeeper, NoProvisioning};
use cocoon_actors::directory::Directory;
use cocoon_actors::engine::Engine;
use cocoon_actors::gateway::{Gateway, GatewayPort};
use cocoon_actors::gateway_port::{
    ChatMessage, Gateway as _, GatewayError, JobEvent, JobHandle, JobSubmission, Role,
};
use cocoon_actors::job::client::ClientParts;
use cocoon_actors::job::worker::{WorkerParts, serve};
use cocoon_actors::mesh::{Inbox, MAX_WAITING_SESSIONS, Mesh, pump};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::negotiator::{Negotiator, Shop};
use cocoon_actors::port::SessionStream;
use cocoon_actors::router::Router;
use cocoon_actors::supervision::supervise;
use cocoon_actors::worker_life::{WorkerLife, live};
use cocoon_attestation::{
    Admission, AdmissionConfig, EvidenceSource, SimulatedSource, Trust, Verifier, policy,
};
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::negotiation::{NegotiationConfig, OfferBook, OfferBookConfig};
use cocoon_protocol::{Digest, ModelTerms, NanoTon, PeerId, Price};
use cocoon_settlement::ledger::{ClientLedger, SCHEMA, WorkerLedger};
use cocoon_settlement::store::{MemoryStore, RocksStore};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Seed of the client's keys; workers have others.
pub const CLIENT: u8 = 1;
/// Sessions a worker holds.
const SESSIONS: usize = 16;

pub fn price() -> Price {
    Price {
        input: nano(1_000),
        output: nano(5_000),
    }
}

pub fn model_terms() -> ModelTerms {
    ModelTerms {
        id: MODEL.to_owned(),
        digest: digest(),
        context_tokens: CONTEXT_TOKENS,
        price: price(),
    }
}

fn verifier() -> Verifier {
    Verifier::new(Trust::Simulated, policy::simulated::policy()).unwrap()
}

pub fn keeper(mesh: &Address<Mesh>) -> Arc<CollateralKeeper> {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    Arc::new(CollateralKeeper::open(store, mesh.clone(), Arc::new(NoProvisioning)).unwrap())
}

fn attestor(
    mesh: &Address<Mesh>,
    chain: &TestChain,
    collateral: &Arc<CollateralKeeper>,
    metrics: &Metrics,
) -> Address<Attestor> {
    supervise(Attestor::new(
        mesh.clone(),
        chain.shared(),
        Admission::new(verifier(), AdmissionConfig::default()),
        Arc::clone(collateral),
        None,
        metrics.clone(),
        Trust::Simulated.trust_domain(),
    ))
}

/// What a worker of a test differs in from others.
pub struct WorkerSetup {
    pub seed: u8,
    pub model: Scripted,
    pub slots: u16,
    pub source: SimulatedSource,
    pub terms: ModelTerms,
    pub offer_lifetime_ms: u64,
    /// What it serves to one client, and to all, before their channels are on chain.
    pub first_contact: NanoTon,
    /// Whether sessions are served, or left to the test.
    pub served: bool,
}

impl WorkerSetup {
    /// An honest worker with one slot.
    pub fn honest(seed: u8, model: Scripted) -> Self {
        Self {
            seed,
            model,
            slots: 1,
            source: SimulatedSource::new(&[seed; 8]).unwrap(),
            terms: model_terms(),
            offer_lifetime_ms: 10_000,
            first_contact: NanoTon::ZERO,
            served: true,
        }
    }
}

/// Each test looks at what it needs.
#[allow(dead_code)]
pub struct Worker {
    pub seed: u8,
    pub peer: PeerId,
    pub mesh: Address<Mesh>,
    pub directory: Address<Directory>,
    pub attestor: Address<Attestor>,
    pub collateral: Arc<CollateralKeeper>,
    pub negotiator: Address<Negotiator>,
    pub cashier: Address<Cashier>,
    pub ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    pub metrics: Metrics,
    /// To put a session in by hand.
    pub sessions: mpsc::Sender<(PeerId, SessionStream)>,
    /// To take them out by hand, where they are not served.
    pub inbound: Option<mpsc::Receiver<(PeerId, SessionStream)>>,
    _directory: TempDir,
}

impl Worker {
    pub fn start(hub: &Hub, chain: &TestChain, setup: WorkerSetup) -> Self {
        let WorkerSetup {
            seed,
            model,
            slots,
            source,
            terms,
            offer_lifetime_ms,
            first_contact,
            served,
        } = setup;
        let disk = tempfile::tempdir().unwrap();
        let peer = peer(seed);
        let (commands, notices) = hub.join(peer);
        let mut books = earning(disk.path(), chain, seed);
        books.first_contact.per_client = first_contact;
        books.first_contact.total = first_contact;
        let (ledger, metrics) = (Arc::clone(&books.ledger), books.metrics.clone());
        let mesh = supervise(Mesh::new(commands, metrics.clone()));
        let collateral = keeper(&mesh);
        let attestor = attestor(&mesh, chain, &collateral, &metrics);
        let config = DirectoryConfig::default();
        let directory = supervise(Directory::new(config, None, metrics.clone()));
        let cashier = supervise(Cashier::earning(books));
        // There is no settler here to find out.
        tell(&cashier, Reconciled(true)).unwrap();
        let negotiator = supervise(Negotiator::new(
            mesh.clone(),
            NegotiationConfig::default(),
            Some(Shop {
                book: OfferBook::new(OfferBookConfig {
                    slots,
                    offer_lifetime_ms,
                    ..OfferBookConfig::default()
                }),
                key: peer_key(seed),
                models: vec![terms.clone()],
                payout: wallet(seed).address(),
                credit_window: nano(0),
                evidence: None,
            }),
            StdRng::seed_from_u64(u64::from(seed)),
        ));
        let (sessions, inbound) = mpsc::channel(MAX_WAITING_SESSIONS);
        let parts = WorkerParts {
            peer,
            attestor: attestor.clone(),
            negotiator: negotiator.clone(),
            cashier: cashier.clone(),
            engine: supervise(Engine::new(Arc::new(model), slots)),
            metrics: metrics.clone(),
        };
        let inbound = if served {
            tokio::spawn(serve(parts, inbound, SESSIONS));
            None
        } else {
            Some(inbound)
        };
        tokio::spawn(pump(
            notices,
            Inbox {
                mesh: mesh.clone(),
                directory: directory.clone(),
                attestor: Some(attestor.clone()),
                negotiator: Some(negotiator.clone()),
                log: None,
                collateral: Some(Arc::clone(&collateral)),
                sessions: Some(sessions.clone()),
                cashier: Some(cashier.clone()),
                vault: None,
            },
        ));
        tokio::spawn(live(
            WorkerLife {
                key: peer_key(seed),
                source: Arc::new(source) as Arc<dyn EvidenceSource>,
                verifier: Arc::new(verifier()),
                collateral: Arc::clone(&collateral),
                image_proof: None,
                chain: chain.shared(),
                models: vec![terms],
                slots,
                config: Digest::sha256(b"configuration"),
                canary: canary(),
                payout: wallet(seed).address(),
                ledger: wallet(seed).address(),
                attestor: attestor.clone(),
                negotiator: negotiator.clone(),
                mesh: mesh.clone(),
            },
            CancellationToken::new(),
        ));
        Self {
            seed,
            peer,
            mesh,
            directory,
            attestor,
            collateral,
            negotiator,
            cashier,
            ledger,
            metrics,
            sessions,
            inbound,
            _directory: disk,
        }
    }
}

/// What the workers' models answered to the known questions.
pub fn canary() -> Digest {
    Digest::sha256(b"canary")
}

pub struct Client {
    pub peer: PeerId,
    pub mesh: Address<Mesh>,
    pub directory: Address<Directory>,
    pub attestor: Address<Attestor>,
    pub collateral: Arc<CollateralKeeper>,
    pub negotiator: Address<Negotiator>,
    pub cashier: Address<Cashier>,
    pub gateway: Address<Gateway>,
    pub port: GatewayPort,
    pub ledger: Arc<ClientLedger<Arc<RocksStore>>>,
    pub metrics: Metrics,
    _directory: TempDir,
}

impl Client {
    pub fn start(hub: &Hub, chain: &TestChain) -> Self {
        let disk = tempfile::tempdir().unwrap();
        Self::on(disk, hub, chain)
    }

    fn on(disk: TempDir, hub: &Hub, chain: &TestChain) -> Self {
        let path: &Path = disk.path();
        let peer = peer(CLIENT);
        let (commands, notices) = hub.join(peer);
        let books = paying(path, chain, CLIENT);
        let (ledger, metrics) = (Arc::clone(&books.ledger), books.metrics.clone());
        let mesh = supervise(Mesh::new(commands, metrics.clone()));
        let collateral = keeper(&mesh);
        let attestor = attestor(&mesh, chain, &collateral, &metrics);
        let directory = supervise(Directory::new(
            DirectoryConfig::default(),
            Some(attestor.clone()),
            metrics.clone(),
        ));
        let negotiator = supervise(Negotiator::new(
            mesh.clone(),
            NegotiationConfig::default(),
            None,
            StdRng::seed_from_u64(1),
        ));
        let cashier = payer(&books);
        let parts = ClientParts {
            peer,
            trust_domain: Trust::Simulated.trust_domain(),
            mesh: mesh.clone(),
            directory: directory.clone(),
            attestor: attestor.clone(),
            router: supervise(Router::new(StdRng::seed_from_u64(2))),
            negotiator: negotiator.clone(),
            cashier: cashier.clone(),
            metrics: metrics.clone(),
        };
        let rng = StdRng::seed_from_u64(3);
        let gateway = supervise(Gateway::new(parts, Handle::current(), 8, rng));
        tokio::spawn(pump(
            notices,
            Inbox {
                mesh: mesh.clone(),
                directory: directory.clone(),
                attestor: None,
                negotiator: None,
                log: None,
                collateral: Some(Arc::clone(&collateral)),
                sessions: None,
                cashier: None,
                vault: None,
            },
        ));
        Self {
            peer,
            mesh,
            port: GatewayPort::new(gateway.clone(), directory.clone()),
            directory,
            attestor,
            collateral,
            negotiator,
            cashier,
            gateway,
            ledger,
            metrics,
            _directory: disk,
        }
    }

    /// Waits until so many workers are verified.
    pub async fn verified(&self, workers: i64) {
        let metrics = &self.metrics;
        until("verified workers", || {
            metrics.verified_workers.get() == workers
        })
        .await;
    }

    pub async fn submit(&self, prompt: &str) -> JobHandle {
        self.try_submit(prompt).await.unwrap()
    }

    pub async fn try_submit(&self, prompt: &str) -> Result<JobHandle, GatewayError> {
        self.port.submit(chat(prompt, 100)).await
    }
}

pub fn chat(prompt: &str, max_tokens: u32) -> JobSubmission {
    JobSubmission {
        model: MODEL.to_owned(),
        messages: vec![ChatMessage {
            role: Role::User,
            content: prompt.to_owned(),
        }],
        max_tokens: Some(max_tokens),
        ..JobSubmission::default()
    }
}

/// All the text of a job, and how it ended.
pub async fn read(handle: &mut JobHandle) -> (String, JobEvent) {
    let mut text = String::new();
    loop {
        match handle.next().await.unwrap() {
            JobEvent::Accepted { .. } => {}
            JobEvent::Delta(more) => text.push_str(&more.text),
            last => return (text, last),
        }
    }
}

/// Waits until `node` has ended so many jobs, and each of them once: in the metrics and on disk.
pub async fn ended(metrics: &Metrics, wanted: &[(&str, u64)]) {
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(outcome, count)| ((*outcome).to_owned(), *count))
        .collect();
    let all: u64 = wanted.values().sum();
    until("the ends of the jobs", || {
        metrics.ended_jobs().values().sum::<u64>() >= all
    })
    .await;
    assert_eq!(metrics.ended_jobs(), wanted);
}
