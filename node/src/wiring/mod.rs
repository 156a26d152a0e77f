//! The wiring: which actors and tasks a role is made of, and the order in which they stop.
//!
//! Threads: the swarm, HTTP and jobs share one multi-threaded tokio runtime; the actors live in an
//! actix system on a thread of its own, those that wait for the disk on one more. Between them
//! there are only bounded channels and mailboxes.
//!
//! A node stops from the outside in: no new jobs, then the running ones end, then the actors, then
//! the swarm. What a killed process would lose is on disk before it matters, so nothing here is
//! needed for safety, only for manners.

mod actors;
mod canary;
pub(crate) mod chain;
pub(crate) mod engine;
mod guest;
pub(crate) mod keys;
mod unlock;
pub mod vault;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_actors::ask::ask;
use cocoon_actors::clock;
use cocoon_actors::gateway_port::{Gateway, NodeView as _};
use cocoon_actors::mesh::{Disconnect, ViewMesh};
use cocoon_actors::supervision::end_process_on_panic;
use cocoon_actors::view::View;
use cocoon_attestation::EvidenceError;
use cocoon_attestation::launch::LaunchError;
use cocoon_inference::EngineError;
use cocoon_protocol::NanoTon;
use cocoon_protocol::domain::Network;
use cocoon_settlement::chain::ChainError;
use cocoon_settlement::ledger::LedgerError;
use cocoon_settlement::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::actors::{Actors, Ingredients};
use self::chain::ChainSide;
use self::guest::GuestPaths;
use self::keys::Keys;
use self::unlock::SealedWorker;
use crate::config::{Config, NodeRole};
use crate::http::metrics::HttpMetrics;
use crate::http::{HttpError, HttpLimits, HttpParts, HttpServer};
use crate::net::{self, NetConfig, NetError};
use crate::secret_file::{SecretFileError, Token};
use crate::trust::{self, PolicySetupError};
use crate::{build_info, signals, telemetry};

/// Longest wait for running jobs when a node stops.
const JOBS_PATIENCE: Duration = Duration::from_secs(15);
/// Longest wait for anything else.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for a listening address at the start.
const LISTEN_PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two counts of the node's funds for the metrics.
const FUNDS_PAUSE: Duration = Duration::from_secs(60);
/// The file that says where a running node can be reached.
pub const RUN_FILE: &str = "run.json";

/// Why a node could not start, or went down.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The data directory or a file in it.
    #[error("cannot use {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A key or token file.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A key file that holds no key.
    #[error("{path} holds no key; if it is not needed any more, move it away and start again")]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// A multiaddr.
    #[error("`{text}` is no multiaddr: {reason}")]
    Multiaddr {
        /// As configured.
        text: String,
        /// Why not.
        reason: String,
    },
    /// The swarm.
    #[error(transparent)]
    Net(#[from] NetError),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The policy, or the root.
    #[error(transparent)]
    Policy(#[from] PolicySetupError),
    /// The copy of the log of images.
    #[error(transparent)]
    Log(#[from] crate::command::log::DirectoryError),
    /// The chain.
    #[error("the chain at {url}: {source}")]
    Chain {
        /// Where.
        url: String,
        /// Why not.
        source: ChainError,
    },
    /// The ledger's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Channels whose opening was interrupted.
    #[error(transparent)]
    Cashier(#[from] cocoon_actors::cashier::CashierError),
    /// The model.
    #[error("the model {path}: {source}")]
    Model {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<EngineError>,
    },
    /// The model does not answer as it must.
    #[error(transparent)]
    Canary(Box<cocoon_inference::canary::CanaryError>),
    /// A pinned digest that is none.
    #[error("canary = {0:?} is not a digest; copy the line that `cocoon model canary` prints")]
    NotADigest(String),
    /// The configuration lacks something that the role needs.
    #[error("a {role} needs `{setting}`")]
    Lacks {
        /// Which role.
        role: &'static str,
        /// What it lacks.
        setting: &'static str,
    },
    /// A CUDA device is asked for and this build has none.
    #[error(
        "device = \"cuda\" needs a binary that was built with `--features cuda`; see docs/operators.md"
    )]
    NoCuda,
    /// A server beside this program would have to read the weights from the disk.
    #[error(
        "a sealed model cannot be computed by an upstream server, which reads plain weights from the disk; remove `upstream`"
    )]
    SealedUpstream,
    /// The vault's address.
    #[error("vault `{text}`: {reason}")]
    Vault {
        /// As configured.
        text: String,
        /// Why not.
        reason: crate::config::NoVault,
    },
    /// No evidence can be made here.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The launch could not be measured, so nothing was started.
    #[error("the launch was not measured: {0}")]
    Launch(#[from] Box<LaunchError>),
    /// The system would not give a thread, a runtime or a signal handler.
    #[error("the operating system: {0}")]
    System(#[from] std::io::Error),
    /// A part ended before it was asked to.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Where a running node can be reached; `run.json` in its data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// Process id.
    pub pid: u32,
    /// Peer id.
    pub peer: String,
    /// Role.
    pub role: String,
    /// Address of HTTP.
    pub http: SocketAddr,
    /// Multiaddrs with `/p2p/`.
    pub listen: Vec<String>,
    /// Wallet, where the role has one.
    pub wallet: Option<String>,
}

/// Runs a node until it is asked to stop.
///
/// # Errors
/// [`WiringError`].
pub fn run(role: NodeRole, config: &Config) -> Result<(), WiringError> {
    end_process_on_panic();
    make_private(&config.data_dir)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cocoon-io")
        .enable_all()
        .build()?
        .block_on(node(role, config, &GuestPaths::default()))
}

async fn node(role: NodeRole, config: &Config, paths: &GuestPaths) -> Result<(), WiringError> {
    let trust = trust::trust(config)?;
    let keys = Keys::load_or_create(&config.data_dir)?;
    let network = Network {
        id: config.network.clone(),
        trust_domain: trust.trust_domain(),
    };
    let shutdown = CancellationToken::new();
    // A guest measures what it was launched with before it talks to anybody, the chain included.
    let sealed = match role {
        NodeRole::Worker => SealedWorker::find(config, &keys, paths)?,
        _ => None,
    };
    let worker = match role {
        NodeRole::Worker if sealed.is_none() => {
            Some(actors::load_worker(config, &keys, paths).await?)
        }
        _ => None,
    };
    let chain = match role {
        NodeRole::Bootstrap => None,
        _ => Some(ChainSide::connect(config, &keys).await?),
    };

    let (metrics, mut registry) = telemetry::metrics();
    let http_metrics = HttpMetrics::default();
    http_metrics.register(&mut registry);
    let mut bootstrap = multiaddrs(&config.bootstrap)?;
    bootstrap.extend(sealed.as_ref().and_then(SealedWorker::vault_address));
    let (commands, mut notices, swarm) = net::spawn(
        NetConfig {
            bootstrap,
            ..NetConfig::new(
                keys.peer_key.clone(),
                network.clone(),
                multiaddrs(&config.listen)?,
            )
        },
        &mut registry,
    )?;
    let server = HttpServer::bind(config.http_address).await?;
    let http = server.address();

    // Listened to from here on, so that a request to stop is not lost between two waits.
    let stop_requested = signals::stop_requested();
    tokio::pin!(stop_requested);
    let (worker, earlier) = match (sealed, &chain) {
        (Some(sealed), Some(chain)) => {
            let (commands, notices) = (&commands, &mut notices);
            let stop = async {
                let _ = stop_requested.as_mut().await;
            };
            let unlocked = sealed
                .unlock(config, &keys, &network, chain, commands, notices, stop)
                .await?;
            match unlocked {
                Some((worker, earlier)) => (Some(worker), earlier),
                None => return Ok(()),
            }
        }
        _ => (worker, Vec::new()),
    };
    let started = Actors::start(Ingredients {
        role,
        config: config.clone(),
        keys: keys.clone(),
        network,
        chain: chain.clone(),
        worker,
        commands,
        metrics: metrics.clone(),
        runtime: Handle::current(),
        shutdown: shutdown.clone(),
    })?;
    let actors = started.await?;
    let inbox = actors.inbox();
    inbox.catch_up(earlier).await;
    let pump = tokio::spawn(cocoon_actors::mesh::pump(notices, inbox));

    let view = Arc::new(View {
        peer: keys.peer(),
        role: role.as_str(),
        network: config.network.clone(),
        version: build_info::VERSION,
        trust: trust.name(),
        started: clock::now(),
        mesh: actors.mesh.clone(),
        directory: actors.directory.clone(),
        attestor: actors.attestor.clone(),
        log: actors.log.clone(),
        cashier: actors.cashier.clone(),
        settler: actors.settler.clone(),
        ledger: actors.ledger,
        wallet: chain
            .as_ref()
            .map(|chain| (chain.address, Arc::clone(&chain.chain))),
        locked_limit: NanoTon::from_nano(config.locked_nanoton),
        metrics,
        shutdown: shutdown.clone(),
    });
    tokio::spawn(count_funds(Arc::clone(&view), shutdown.clone()));
    let gateway = actors
        .gateway_port()
        .map(|port| Arc::new(port) as Arc<dyn Gateway>);
    let serving = tokio::spawn(server.serve(
        HttpParts {
            gateway,
            node: view,
            registry: Arc::new(registry),
            metrics: http_metrics,
            admin_token: Token::load_or_create(&config.data_dir.join("admin-token"))?,
            api_token: Token::load_or_create(&config.data_dir.join("api-token"))?,
            limits: HttpLimits {
                max_jobs: config.max_jobs,
                ..HttpLimits::default()
            },
        },
        {
            let shutdown = shutdown.clone();
            async move { shutdown.cancelled().await }
        },
    ));

    let listen = first_addresses(&actors).await;
    write_run_file(
        &config.data_dir,
        &RunFile {
            pid: std::process::id(),
            peer: keys.peer().to_string(),
            role: role.as_str().to_owned(),
            http,
            listen,
            wallet: chain.as_ref().map(|chain| chain.address.to_string()),
        },
    )?;
    info!(peer = %keys.peer(), role = role.as_str(), http = %http, "running");

    let ended = tokio::select! {
        stopped = &mut stop_requested => { stopped?; None }
        () = shutdown.cancelled() => None,
        _ = pump => Some("swarm"),
    };
    shutdown.cancel();
    stop(actors, swarm, serving).await;
    let _ = std::fs::remove_file(config.data_dir.join(RUN_FILE));
    match ended {
        Some(part) => Err(WiringError::Ended(part)),
        None => Ok(()),
    }
}

/// From the outside in.
async fn stop(
    actors: Actors,
    swarm: tokio::task::JoinHandle<()>,
    serving: tokio::task::JoinHandle<Result<(), HttpError>>,
) {
    info!("stopping: no new jobs");
    if tokio::time::timeout(JOBS_PATIENCE, actors.close())
        .await
        .is_err()
    {
        warn!(
            patience_s = JOBS_PATIENCE.as_secs(),
            "jobs still run; they are cut off"
        );
    }
    let mesh = actors.mesh.clone();
    let _ = tokio::time::timeout(STOP_PATIENCE, ask(&mesh, Disconnect)).await;
    let _ = tokio::time::timeout(STOP_PATIENCE, swarm).await;
    if tokio::time::timeout(STOP_PATIENCE, serving).await.is_err() {
        warn!("HTTP answers still run; they are cut off");
    }
    actors.stop().await;
    info!("stopped");
}

/// Keeps the gauges of funds up to date, whoever asks for them.
async fn count_funds(view: Arc<View>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(FUNDS_PAUSE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = every.tick() => {
                if let Err(error) = view.funds().await {
                    warn!(%error, "the funds were not counted");
                }
            }
        }
    }
}

async fn first_addresses(actors: &Actors) -> Vec<String> {
    let listening = async {
        loop {
            match ask(&actors.mesh, ViewMesh).await {
                Ok(view) if !view.listening.is_empty() => return view.listening,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(_) => return Vec::new(),
            }
        }
    };
    tokio::time::timeout(LISTEN_PATIENCE, listening)
        .await
        .unwrap_or_default()
}

fn multiaddrs(texts: &[String]) -> Result<Vec<libp2p::Multiaddr>, WiringError> {
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error: libp2p::multiaddr::Error| WiringError::Multiaddr {
                    text: text.clone(),
                    reason: error.to_string(),
                })
        })
        .collect()
}

/// A directory that only its owner can look into.
pub(crate) fn make_private(directory: &Path) -> Result<(), WiringError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |source| WiringError::Directory {
        path: directory.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Whole or not at all: whoever waits for the file must not read half of it.
fn write_run_file(directory: &Path, run: &RunFile) -> Result<(), WiringError> {
    let path = directory.join(RUN_FILE);
    let failed = |source| WiringError::Directory {
        path: path.clone(),
        source,
    };
    let text = serde_json::to_vec_pretty(run).map_err(|error| failed(error.into()))?;
    let half = directory.join("run.json.new");
    std::fs::write(&half, text).map_err(failed)?;
    std::fs::rename(&half, &path).map_err(failed)
}
