//! Starting the actors of a role, and stopping them.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use actix::prelude::*;
use cocoon_actors::ask::{Address, ask, tell, tell_surely};
use cocoon_actors::attestor::Attestor;
use cocoon_actors::cashier::Cashier;
use cocoon_actors::cashier::earning::Earning;
use cocoon_actors::cashier::paying::Paying;
use cocoon_actors::cashier::releasing::SettledBy;
use cocoon_actors::collateral::CollateralKeeper;
use cocoon_actors::directory::Directory;
use cocoon_actors::engine::Engine;
use cocoon_actors::gateway::{Close, Gateway, GatewayPort};
use cocoon_actors::job::client::ClientParts;
use cocoon_actors::job::worker::{WorkerParts, serve};
use cocoon_actors::log_watch::{LogWatch, Registry};
use cocoon_actors::mesh::{Inbox, MAX_WAITING_SESSIONS, Mesh};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::negotiator::{Drain, Negotiator, Shop};
use cocoon_actors::port::{SessionStream, SwarmCommands};
use cocoon_actors::router::Router;
use cocoon_actors::settler::{Settler, Settling};
use cocoon_actors::supervision::{supervise, supervise_on};
use cocoon_actors::worker_life::{WorkerLife, live};
use cocoon_attestation::{Admission, AdmissionConfig, EvidenceSource};
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::domain::Network;
use cocoon_protocol::negotiation::{NegotiationConfig, OfferBook, OfferBookConfig};
use cocoon_protocol::{Digest, ModelTerms, NanoTon, PeerId, Price, PublicKey32, TonAddress};
use cocoon_settlement::contract::LedgerTerms;
use cocoon_settlement::credit::{CreditConfig, FirstContactConfig};
use cocoon_settlement::ledger::{ClientLedger, WorkerLedger};
use cocoon_settlement::purse::PurseConfig;
use cocoon_settlement::settler::SettlerConfig;
use cocoon_settlement::store::Store;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::WiringError;
use super::canary;
use super::chain::ChainSide;
use super::guest::GuestPaths;
use super::keys::Keys;
use super::{engine, guest};
use crate::collateral::OperatorsCollateral;
use crate::command::log::LogDirectory;
use crate::config::{Config, NodeRole};
use crate::trust;

/// After this time an unpaid job is written off: strangers can cost a worker `credit_total_windows` in it, and no more.
const FORGET_DEBTS_MS: u64 = 24 * 3_600_000;
/// After this time a channel that was served on and has not appeared on chain is written off: first contacts can cost a
/// worker `credit_first_contact_total_nanoton` in it, and no more. Channels appear within seconds.
const FORGET_FIRST_CONTACTS_MS: u64 = 3_600_000;
/// Sessions a worker holds at once. Not bound to its slots: until it has redeemed an offer a session
/// costs next to nothing, and a stranger may keep one silent for as long as a handshake may take.
/// One peer's are bounded by the swarm, so this leaves room for others.
const MAX_SESSIONS: usize = 128;

/// How long an offer binds, ms.
const OFFER_LIFETIME_MS: u64 = 6_000;

/// A worker's model, its guest's configuration and where its evidence comes from.
pub(super) struct LoadedWorker {
    pub(super) engine: Arc<dyn cocoon_inference::Engine>,
    pub(super) guest: Digest,
    pub(super) source: Arc<dyn EvidenceSource>,
    pub(super) canary: Digest,
}

/// What the actors are made of.
pub(super) struct Ingredients {
    pub(super) role: NodeRole,
    pub(super) config: Config,
    pub(super) keys: Keys,
    pub(super) network: Network,
    pub(super) chain: Option<ChainSide>,
    pub(super) worker: Option<LoadedWorker>,
    pub(super) commands: SwarmCommands,
    pub(super) metrics: Metrics,
    pub(super) runtime: Handle,
    pub(super) shutdown: CancellationToken,
}

/// The addresses of a running node's actors.
pub(super) struct Actors {
    pub(super) mesh: Address<Mesh>,
    pub(super) directory: Address<Directory>,
    pub(super) attestor: Option<Address<Attestor>>,
    collateral: Option<Arc<CollateralKeeper>>,
    pub(super) log: Option<Address<LogWatch>>,
    pub(super) cashier: Option<Address<Cashier>>,
    pub(super) settler: Option<Address<Settler>>,
    pub(super) ledger: Option<TonAddress>,
    negotiator: Option<Address<Negotiator>>,
    gateway: Option<Address<Gateway>>,
    sessions: Option<mpsc::Sender<(PeerId, SessionStream)>>,
    system: System,
    thread: Option<JoinHandle<()>>,
    /// The threads of those that wait for the disk.
    arbiters: Vec<Arbiter>,
}

/// Reads the model, puts the known questions to it, measures the launch and finds the source of evidence. Before anything is started or
/// asked: it takes seconds, may fail, and a guest measures before it opens the network.
pub(super) async fn load_worker(
    config: &Config,
    keys: &Keys,
    paths: &GuestPaths,
) -> Result<LoadedWorker, WiringError> {
    let path = config.model_path.clone().ok_or(WiringError::Lacks {
        role: "worker",
        setting: "model_path",
    })?;
    let source = guest::evidence_source(config, keys, paths)?;
    info!(model = %path.display(), "loading the model");
    let engine = engine::load(config, &path).await?;
    let about = engine.describe();
    info!(
        model = %about.id,
        digest = %about.digest,
        context_tokens = about.context_tokens,
        runs_on = %about.runs_on,
        "model loaded"
    );
    let canary = canary::check(config, Arc::clone(&engine)).await?;
    let guest = guest::guest_config(&about.id, Path::new(&config.network));
    guest::measure_launch(config, about.digest, guest, paths)?;
    Ok(LoadedWorker {
        engine,
        guest,
        canary,
        source,
    })
}

impl Actors {
    /// Starts the actix system on a thread of its own and the role's actors in it. The future
    /// resolves when they run.
    pub(super) fn start(
        ingredients: Ingredients,
    ) -> Result<impl Future<Output = Result<Self, WiringError>>, WiringError> {
        let (ready, started) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("cocoon-actors".to_owned())
            .spawn(move || {
                let system = System::new();
                system.block_on(async move {
                    let assembled = assemble(ingredients).await;
                    // Whoever started us is gone if this fails, and the process with it.
                    let _ = ready.send(assembled);
                });
                if let Err(error) = system.run() {
                    tracing::error!(%error, "the actors' system failed");
                }
            })?;
        Ok(async move {
            let mut actors = started.await.map_err(|_| WiringError::Ended("actors"))??;
            actors.thread = Some(thread);
            Ok(actors)
        })
    }

    /// For the pump.
    pub(super) fn inbox(&self) -> Inbox {
        let selling = self.sessions.is_some();
        Inbox {
            mesh: self.mesh.clone(),
            directory: self.directory.clone(),
            attestor: self.attestor.clone().filter(|_| selling),
            negotiator: self.negotiator.clone().filter(|_| selling),
            log: self.log.clone(),
            collateral: self.collateral.clone(),
            sessions: self.sessions.clone(),
            cashier: self.cashier.clone().filter(|_| selling),
            vault: None,
        }
    }

    /// For HTTP, on a client.
    pub(super) fn gateway_port(&self) -> Option<GatewayPort> {
        self.gateway
            .clone()
            .map(|gateway| GatewayPort::new(gateway, self.directory.clone()))
    }

    /// No new jobs; returns when the running ones have ended.
    pub(super) async fn close(&self) {
        if let Some(gateway) = &self.gateway {
            let _ = ask(gateway, Close).await;
        }
        if let Some(negotiator) = &self.negotiator {
            let _ = tell_surely(negotiator, Drain).await;
        }
        if let (Some(cashier), Some(_)) = (&self.cashier, &self.sessions) {
            loop {
                match ask(cashier, cocoon_actors::cashier::earning::WorkerBooks).await {
                    Ok(Ok(books)) if books.open_jobs > 0 => {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                    _ => return,
                }
            }
        }
    }

    /// Ends the actors' system, and waits until its threads have ended: one of them may hold the last
    /// handle of the database, and must not close it while the process unloads the database's code.
    pub(super) async fn stop(self) {
        self.system.stop();
        let Self {
            thread, arbiters, ..
        } = self;
        let ended = tokio::task::spawn_blocking(move || {
            let _ = thread.map(JoinHandle::join);
            for arbiter in arbiters {
                let _ = arbiter.join();
            }
        });
        let _ = ended.await;
    }
}

async fn assemble(ingredients: Ingredients) -> Result<Actors, WiringError> {
    let Ingredients {
        role,
        config,
        keys,
        network,
        chain,
        worker,
        commands,
        metrics,
        runtime,
        shutdown,
    } = ingredients;
    let mesh = supervise(Mesh::new(commands, metrics.clone()));
    let collateral = match &chain {
        None => None,
        Some(chain) => Some(Arc::new(CollateralKeeper::open(
            Arc::clone(&chain.store) as Arc<dyn Store>,
            mesh.clone(),
            Arc::new(OperatorsCollateral::of(&config)),
        )?)),
    };
    let log = match &chain {
        None => None,
        Some(chain) => log_watch(&config, chain, &mesh, &metrics)?,
    };
    let attestor = match (&chain, &collateral) {
        (Some(chain), Some(collateral)) => {
            let admission = Admission::new(trust::verifier(&config)?, AdmissionConfig::default());
            Some(supervise(Attestor::new(
                mesh.clone(),
                Arc::clone(&chain.chain),
                admission,
                Arc::clone(collateral),
                log.clone(),
                metrics.clone(),
                network.trust_domain,
            )))
        }
        _ => None,
    };
    // Only a client needs to know whom to trust; the others pass adverts on.
    let examiner = attestor.clone().filter(|_| role == NodeRole::Client);
    let directory = supervise(Directory::new(
        DirectoryConfig::default(),
        examiner,
        metrics.clone(),
    ));
    let mut actors = Actors {
        mesh,
        directory,
        attestor,
        collateral,
        log,
        cashier: None,
        settler: None,
        ledger: None,
        negotiator: None,
        gateway: None,
        sessions: None,
        system: System::current(),
        thread: None,
        arbiters: Vec::new(),
    };
    match (role, chain, worker) {
        (NodeRole::Worker, Some(chain), Some(worker)) => {
            add_worker(
                &mut actors,
                &config,
                &keys,
                chain,
                worker,
                metrics,
                &runtime,
                shutdown,
            )?;
        }
        (NodeRole::Client, Some(chain), _) => {
            add_client(
                &mut actors,
                &config,
                &keys,
                chain,
                metrics,
                runtime,
                network.trust_domain,
            )
            .await?;
        }
        _ => {}
    }
    Ok(actors)
}

/// Where the policy names a log of images.
fn log_watch(
    config: &Config,
    chain: &ChainSide,
    mesh: &Address<Mesh>,
    metrics: &Metrics,
) -> Result<Option<Address<LogWatch>>, WiringError> {
    let Some(rebuilders) = trust::policy(config)?.log else {
        return Ok(None);
    };
    let leaves = match &config.log_dir {
        Some(path) => LogDirectory::open(path)?.leaves().to_vec(),
        None => Vec::new(),
    };
    Ok(Some(supervise(LogWatch::new(
        rebuilders,
        leaves,
        Arc::clone(&chain.store) as Arc<dyn Store>,
        mesh.clone(),
        metrics.clone(),
        config.registry.map(|address| Registry {
            chain: Arc::clone(&chain.chain),
            address,
        }),
    )?)))
}

#[allow(clippy::too_many_arguments)]
fn add_worker(
    actors: &mut Actors,
    config: &Config,
    keys: &Keys,
    chain: ChainSide,
    worker: LoadedWorker,
    metrics: Metrics,
    runtime: &Handle,
    shutdown: CancellationToken,
) -> Result<(), WiringError> {
    let (Some(attestor), Some(collateral)) = (actors.attestor.clone(), actors.collateral.clone())
    else {
        return Err(WiringError::Ended("attestor"));
    };
    let at_chain = |source| WiringError::Chain {
        url: config.chain_url.clone(),
        source,
    };
    let about = worker.engine.describe().clone();
    let models = vec![ModelTerms {
        id: about.id.clone(),
        digest: about.digest,
        context_tokens: about.context_tokens,
        price: Price {
            input: NanoTon::from_nano(config.price_input_nanoton),
            output: NanoTon::from_nano(config.price_output_nanoton),
        },
    }];
    let terms = LedgerTerms {
        owner: chain.address,
        key: PublicKey32::from_bytes(keys.ledger_key.verifying_key().to_bytes()),
    };
    let ledger_address = terms.address().map_err(at_chain)?;
    let ledger = Arc::new(WorkerLedger::new(Arc::clone(&chain.store)));
    for interrupted in ledger.recover(cocoon_actors::clock::now())? {
        metrics.job_ended(cocoon_actors::metrics::Side::Worker, "interrupted");
        info!(job = %interrupted.record.job, "a job was interrupted by the last end of this process");
    }

    let window = NanoTon::from_nano(config.credit_window_nanoton);
    let (disk, settling) = (Arbiter::new(), Arbiter::new());
    let cashier = supervise_on(
        &disk.handle(),
        Cashier::earning(Earning {
            ledger: Arc::clone(&ledger),
            chain: Arc::clone(&chain.chain),
            payout: chain.address,
            global_id: chain.global_id,
            credit: CreditConfig {
                per_client: window.saturating_mul(config.credit_client_windows),
                strangers: window.saturating_mul(config.credit_total_windows),
                forget_ms: FORGET_DEBTS_MS,
            },
            first_contact: FirstContactConfig {
                per_client: NanoTon::from_nano(config.credit_first_contact_nanoton),
                total: NanoTon::from_nano(config.credit_first_contact_total_nanoton),
                forget_ms: FORGET_FIRST_CONTACTS_MS,
            },
            unverified_risk: NanoTon::from_nano(config.unverified_risk_nanoton),
            release_fee_multiple: config.release_fee_multiple,
            metrics: metrics.clone(),
        }),
    );
    let batch_age_ms = config.settle_every_s.saturating_mul(1000);
    let settler = supervise_on(
        &settling.handle(),
        Settler::new(
            Settling {
                ledger,
                chain: Arc::clone(&chain.chain),
                wallet: Arc::clone(&chain.wallet),
                terms,
                key: keys.ledger_key.clone(),
                global_id: chain.global_id,
                config: SettlerConfig {
                    batch_age_ms,
                    claim_fee_multiple: config.claim_fee_multiple,
                    channel_risk: NanoTon::from_nano(config.channel_risk_nanoton),
                    total_risk: NanoTon::from_nano(config.total_risk_nanoton),
                    claim_age_ms: config.claim_age_s.saturating_mul(1_000),
                    look_ms: 500,
                    ..SettlerConfig::new(ledger_address)
                },
            },
            cashier.clone(),
            metrics.clone(),
        )?,
    );
    if let Err(error) = tell(&cashier, SettledBy(settler.clone())) {
        warn!(%error, "channels are closed together with a minute's delay");
    }
    let engine = supervise(Engine::new(worker.engine, config.slots));
    let negotiator = supervise(Negotiator::new(
        actors.mesh.clone(),
        NegotiationConfig::default(),
        Some(Shop {
            book: OfferBook::new(OfferBookConfig {
                slots: config.slots,
                // A client that has no channel yet opens one first, which takes a few blocks; those
                // that choose another worker decline.
                offer_lifetime_ms: OFFER_LIFETIME_MS,
                ..OfferBookConfig::default()
            }),
            key: keys.peer_key.clone(),
            models: models.clone(),
            payout: chain.address,
            credit_window: window,
            evidence: None,
        }),
        StdRng::from_os_rng(),
    ));
    let (sessions, inbound) = mpsc::channel(MAX_WAITING_SESSIONS);
    runtime.spawn(serve(
        WorkerParts {
            peer: keys.peer(),
            attestor: attestor.clone(),
            negotiator: negotiator.clone(),
            cashier: cashier.clone(),
            engine,
            metrics,
        },
        inbound,
        MAX_SESSIONS,
    ));
    runtime.spawn(live(
        WorkerLife {
            key: keys.peer_key.clone(),
            source: worker.source,
            verifier: Arc::new(trust::verifier(config)?),
            collateral,
            image_proof: config.image_proof.clone(),
            chain: chain.chain,
            slots: config.slots,
            config: worker.guest,
            canary: worker.canary,
            models,
            payout: chain.address,
            ledger: ledger_address,
            attestor,
            negotiator: negotiator.clone(),
            mesh: actors.mesh.clone(),
        },
        shutdown,
    ));
    actors.arbiters.extend([disk, settling]);
    actors.cashier = Some(cashier);
    actors.settler = Some(settler);
    actors.ledger = Some(ledger_address);
    actors.negotiator = Some(negotiator);
    actors.sessions = Some(sessions);
    Ok(())
}

async fn add_client(
    actors: &mut Actors,
    config: &Config,
    keys: &Keys,
    chain: ChainSide,
    metrics: Metrics,
    runtime: Handle,
    trust_domain: Digest,
) -> Result<(), WiringError> {
    let Some(attestor) = actors.attestor.clone() else {
        return Err(WiringError::Ended("attestor"));
    };
    let ledger = Arc::new(ClientLedger::new(Arc::clone(&chain.store)));
    for interrupted in ledger.recover(cocoon_actors::clock::now())? {
        metrics.job_ended(cocoon_actors::metrics::Side::Client, "interrupted");
        info!(job = %interrupted.job, "a job was interrupted by the last end of this process");
    }
    let paying = Paying {
        ledger,
        chain: Arc::clone(&chain.chain),
        wallet: Arc::clone(&chain.wallet),
        address: chain.address,
        key: keys.wallet_key.key.clone(),
        global_id: chain.global_id,
        purse: PurseConfig {
            unused_ms: config.unused_channel_s.saturating_mul(1_000),
            ..PurseConfig::new(
                NanoTon::from_nano(config.locked_nanoton),
                NanoTon::from_nano(config.deposit_nanoton),
            )
        },
        unverified_risk: NanoTon::from_nano(config.unverified_risk_nanoton),
        mesh: Some(actors.mesh.clone()),
        metrics: metrics.clone(),
    };
    let disk = Arbiter::new();
    let cashier = supervise_on(&disk.handle(), Cashier::paying(paying)?);
    actors.arbiters.push(disk);
    let router = supervise(Router::new(StdRng::from_os_rng()));
    let negotiator = supervise(Negotiator::new(
        actors.mesh.clone(),
        NegotiationConfig {
            wait_ms_per_milliton: config.wait_ms_per_milliton,
            ..NegotiationConfig::default()
        },
        None,
        StdRng::from_os_rng(),
    ));
    let parts = ClientParts {
        peer: keys.peer(),
        trust_domain,
        mesh: actors.mesh.clone(),
        directory: actors.directory.clone(),
        attestor,
        router,
        negotiator: negotiator.clone(),
        cashier: cashier.clone(),
        metrics,
    };
    actors.gateway = Some(supervise(Gateway::new(
        parts,
        runtime,
        config.max_jobs,
        StdRng::from_os_rng(),
    )));
    actors.cashier = Some(cashier);
    actors.negotiator = Some(negotiator);
    Ok(())
}
