//! A whole network on this machine, each node its own process with its own data directory.
//!
//! The demo and the end-to-end tests are made of it. The only things handed from process to
//! process are the bootstrap node's multiaddr and the chain's URL; everything else is found
//! through libp2p.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cocoon_actors::gateway_port::{NodeStatus, WorkerStanding};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{ChainError, DevnetClient};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::faucet;

use crate::gateway_client::{ClientError, GatewayClient};
use crate::wiring::{RUN_FILE, RunFile};

/// Longest wait for a process to say where it can be reached: three models load at once.
pub const START_PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for a process to end after it was asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
pub const LOOK: Duration = Duration::from_millis(100);
/// Most messages in one transfer of the faucet's wallet.
const TRANSFERS_AT_ONCE: usize = 4;

/// What goes wrong with processes.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A process cannot be started, or its files not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process ended by itself.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// Its last lines.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s{detail}")]
    TooSlow {
        /// What.
        what: String,
        /// The limit.
        seconds: u64,
        /// The state it was in.
        detail: String,
    },
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A node's HTTP.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of a node is not what it should be.
    #[error("{path} is not what a node writes: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> MeshError {
    let what = what.into();
    move |source| MeshError::Io { what, source }
}

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// For people.
    pub name: String,
    /// Its own directory.
    pub data_dir: PathBuf,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(
        binary: &Path,
        name: &str,
        data_dir: PathBuf,
        command: &mut Command,
    ) -> Result<(Self, Option<String>), MeshError> {
        std::fs::create_dir_all(&data_dir).map_err(io(format!("making {}", data_dir.display())))?;
        let log = data_dir.join("log");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(io(format!("opening {}", log.display())))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(io(format!("starting {}", binary.display())))?;
        let stdout = child.stdout.take();
        let mut process = Self {
            name: name.to_owned(),
            data_dir,
            child,
            log,
        };
        // A devnet says its URL; a node says nothing. Only the first is read.
        let mut first = String::new();
        if name == "devnet"
            && let Some(stdout) = stdout
        {
            std::io::BufReader::new(stdout)
                .read_line(&mut first)
                .map_err(io("reading the devnet's first line"))?;
            if first.is_empty() {
                process.check()?;
            }
        }
        let said = Some(first.trim().to_owned()).filter(|line| !line.is_empty());
        Ok((process, said))
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its log goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// [`MeshError::Ended`] with the end of its log.
    pub fn check(&mut self) -> Result<(), MeshError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(MeshError::Ended {
                name: self.name.clone(),
                status,
                log: tail(&self.log),
            }),
            _ => Ok(()),
        }
    }

    /// SIGKILL: no goodbye, nothing flushed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> Result<(), MeshError> {
        self.child.kill().map_err(io("killing a process"))?;
        self.child.wait().map_err(io("waiting for a process"))?;
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// [`MeshError::TooSlow`].
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus, MeshError> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(io("waiting for a process"))? {
                return Ok(status);
            }
            if started.elapsed() > patience {
                return Err(MeshError::TooSlow {
                    what: format!("the end of {}", self.name),
                    seconds: patience.as_secs(),
                    detail: String::new(),
                });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// SIGTERM, and a clean end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus, MeshError> {
        if let Some(status) = self.child.try_wait().map_err(io("looking at a process"))? {
            return Ok(status);
        }
        let pid = self.child.id().to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .map_err(io("sending SIGTERM"))?;
        self.wait(STOP_PATIENCE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(path: &Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let skip = lines.len().saturating_sub(LINES);
    lines.into_iter().skip(skip).collect::<Vec<_>>().join("\n")
}

/// A node that can be reached.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where it can be reached.
    pub run: RunFile,
    /// Its HTTP.
    pub http: GatewayClient,
}

impl Node {
    /// The base URL of its HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.run.http)
    }

    /// Its wallet.
    ///
    /// # Errors
    /// If the role has none.
    pub fn wallet(&self) -> Result<TonAddress, MeshError> {
        self.run
            .wallet
            .as_deref()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| MeshError::Malformed {
                path: self.process.data_dir.join(RUN_FILE),
                reason: "no wallet".to_owned(),
            })
    }

    /// `POST /admin/…` with the token from its data directory.
    ///
    /// # Errors
    /// If it refuses or does not answer.
    pub async fn admin(&self, what: &str) -> Result<(), MeshError> {
        let path = self.process.data_dir.join("admin-token");
        let token =
            std::fs::read_to_string(&path).map_err(io(format!("reading {}", path.display())))?;
        self.http.admin(what, token.trim()).await?;
        Ok(())
    }
}

/// Starts processes of one binary in directories below one directory.
#[derive(Clone, Debug)]
pub struct Launcher {
    binary: PathBuf,
    directory: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Launcher {
    /// Processes of `binary`, in directories below `directory`.
    #[must_use]
    pub fn new(binary: PathBuf, directory: PathBuf) -> Self {
        Self {
            binary,
            directory,
            environment: Vec::new(),
        }
    }

    /// With one more environment variable for what is started from now on.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The directory of all of it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Settings of the person's own node must not leak into this network.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COCOON_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts a chain at a free port and returns it with its URL.
    ///
    /// # Errors
    /// If it does not start.
    pub fn devnet(&self) -> Result<(Process, String), MeshError> {
        self.devnet_listening("127.0.0.1:0")
    }

    /// Starts the chain of this directory again, where it was.
    ///
    /// # Errors
    /// If it does not start.
    pub fn devnet_at(&self, url: &str) -> Result<(Process, String), MeshError> {
        self.devnet_listening(url.trim_start_matches("http://"))
    }

    fn devnet_listening(&self, listen: &str) -> Result<(Process, String), MeshError> {
        let data_dir = self.directory.join("devnet");
        let mut command = self.command();
        command
            .args(["devnet", "--listen", listen, "--data-dir"])
            .arg(&data_dir);
        // Who knows the chain asks its liteserver where it was.
        if let Some(port) = liteserver_port(&data_dir) {
            command.args(["--liteserver", &format!("127.0.0.1:{port}")]);
        }
        let (process, url) =
            Process::start(&self.binary, "devnet", data_dir.clone(), &mut command)?;
        let url = url.ok_or_else(|| MeshError::Malformed {
            path: data_dir,
            reason: "the devnet did not say its URL".to_owned(),
        })?;
        Ok((process, url))
    }

    /// Starts a node and does not wait for it.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(
        &self,
        name: &str,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Process, MeshError> {
        let data_dir = self.directory.join(name);
        let _ = std::fs::remove_file(data_dir.join(RUN_FILE));
        let mut command = self.command();
        command
            .args(["run", "--role", role, "--http-address", "127.0.0.1:0"])
            .args([
                "--listen",
                "/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0",
            ])
            .args(["--network", "demo", "--evidence", "simulated", "--data-dir"])
            .arg(&data_dir);
        for (setting, value) in settings {
            command.arg(format!("--{setting}")).arg(value);
        }
        Ok(Process::start(&self.binary, name, data_dir, &mut command)?.0)
    }

    /// Waits until a node says where it can be reached.
    ///
    /// # Errors
    /// If it ends, or takes too long.
    pub async fn reach(&self, mut process: Process) -> Result<Node, MeshError> {
        let path = process.data_dir.join(RUN_FILE);
        let started = Instant::now();
        let text = loop {
            process.check()?;
            match std::fs::read(&path) {
                Ok(text) => break text,
                Err(_) if started.elapsed() > START_PATIENCE => {
                    return Err(MeshError::TooSlow {
                        what: format!("the start of {}", process.name),
                        seconds: START_PATIENCE.as_secs(),
                        detail: format!("; the end of its log:\n{}", tail(&process.log)),
                    });
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        };
        let run: RunFile = serde_json::from_slice(&text).map_err(|error| MeshError::Malformed {
            path,
            reason: error.to_string(),
        })?;
        let http = GatewayClient::new(&format!("http://{}", run.http), None)?;
        Ok(Node { process, run, http })
    }

    /// Starts a node and waits until it can be reached.
    ///
    /// # Errors
    /// As [`Self::spawn`] and [`Self::reach`].
    pub async fn node(
        &self,
        name: &str,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Node, MeshError> {
        self.reach(self.spawn(name, role, settings)?).await
    }
}

/// Where the chain of this directory has served liteserver clients before.
fn liteserver_port(data_dir: &Path) -> Option<u64> {
    let config = std::fs::read(data_dir.join("global.config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    config.pointer("/liteservers/0/port")?.as_u64()
}

/// Sends coins from the devnet's faucet, and waits until they have arrived.
///
/// # Errors
/// If the chain refuses.
pub async fn fund(
    chain: &DevnetClient,
    wallets: &[(TonAddress, NanoTon)],
) -> Result<(), MeshError> {
    let faucet = faucet()?;
    for some in wallets.chunks(TRANSFERS_AT_ONCE) {
        let messages: Vec<_> = some
            .iter()
            .map(|(wallet, amount)| OutMessage::transfer(*wallet, *amount))
            .collect();
        faucet.send(chain, &messages).await?;
    }
    for (wallet, _) in wallets {
        until("the faucet's coins to arrive", START_PATIENCE, async || {
            use cocoon_settlement::chain::Chain;
            Ok(chain.account(*wallet).await?.map(drop))
        })
        .await?;
    }
    Ok(())
}

/// Waits until `look` finds something.
///
/// # Errors
/// [`MeshError::TooSlow`], or what `look` fails with.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>, MeshError>,
) -> Result<T, MeshError> {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if started.elapsed() > patience {
            return Err(MeshError::TooSlow {
                what: what.to_owned(),
                seconds: patience.as_secs(),
                detail: String::new(),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a node has verified so many workers and knows the way to each.
///
/// # Errors
/// As [`until`].
pub async fn verified_workers(node: &Node, count: usize) -> Result<NodeStatus, MeshError> {
    let what = format!("the verification of {count} workers");
    until(&what, START_PATIENCE, async || {
        let status = node.http.status().await?;
        let verified = status
            .workers
            .iter()
            .filter(|worker| {
                worker.standing == WorkerStanding::Verified && worker.round_trip_ms.is_some()
            })
            .count();
        Ok((verified >= count).then_some(status))
    })
    .await
}
