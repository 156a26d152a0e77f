//! The real processes that a test is about, and how it knows that they are alive.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;
use std::time::Duration;

use cocoon::local_mesh::{Launcher, MeshError, Node, Process, fund, until};
use cocoon_actors::gateway_port::NodeStatus;
use cocoon_attestation::Trust;
use cocoon_protocol::{NanoTon, Network};
use cocoon_settlement::chain::DevnetClient;
use cocoon_tests::program::{cocoon, model};
use libp2p::Multiaddr;

/// How long anything may take before a test fails. Only ever reached by a failing test.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The model's name in these networks.
pub(crate) const MODEL: &str = "smollm2-135m-instruct";
/// What the faucet sends to a node.
const PURSE: NanoTon = NanoTon::from_nano(5 * NanoTon::PER_TON);
/// Our own log, one level deeper: refusals of strangers' bytes are told at `debug`.
const LOG: &str = "warn,cocoon=info,cocoon_actors=debug";

/// A chain and a bootstrap node, and the means to start more.
pub(crate) struct Mesh {
    pub(crate) chain: DevnetClient,
    pub(crate) devnet: Process,
    pub(crate) bootstrap: Node,
    launcher: Launcher,
    chain_url: String,
    model: Option<PathBuf>,
    // Last: removed when the processes are gone.
    _directory: Kept,
}

/// A directory that stays after a failure.
struct Kept(Option<tempfile::TempDir>);

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.0.take()
        {
            println!("the logs are kept in {}", directory.keep().display());
        }
    }
}

/// The network that [`Launcher`] starts nodes of.
pub(crate) fn network() -> Network {
    Network {
        id: "demo".to_owned(),
        trust_domain: Trust::Simulated.trust_domain(),
    }
}

impl Mesh {
    /// A chain and a bootstrap node, and workers can be started. `None` where the model is not
    /// there, which is said loudly.
    pub(crate) async fn with_model() -> Option<Self> {
        let model = model()?;
        Some(Self {
            model: Some(model),
            ..Self::bare().await
        })
    }

    /// A chain and a bootstrap node.
    pub(crate) async fn bare() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cocoon-hostile-")
            .tempdir()
            .unwrap();
        let launcher =
            Launcher::new(cocoon().to_owned(), directory.path().to_owned()).with("RUST_LOG", LOG);
        let (devnet, chain_url) = launcher.devnet().unwrap();
        let chain = DevnetClient::new(&chain_url).unwrap();
        let bootstrap = launcher.node("bootstrap", "bootstrap", &[]).await.unwrap();
        Self {
            chain,
            devnet,
            bootstrap,
            launcher,
            chain_url,
            model: None,
            _directory: Kept(Some(directory)),
        }
    }

    /// A worker with coins, under watch.
    pub(crate) async fn worker(&self, settings: &[(&str, &str)]) -> Watched {
        let model = self.model.as_ref().expect("a model").display().to_string();
        let bootstrap = self.bootstrap_address();
        let mut all = vec![
            ("model-path", model.as_str()),
            ("model-id", MODEL),
            ("bootstrap", &bootstrap),
            ("chain-url", &self.chain_url),
            ("settle-every-s", "3600"),
        ];
        all.extend_from_slice(settings);
        let node = self.launcher.node("worker", "worker", &all).await.unwrap();
        self.give(&node, PURSE).await;
        Watched::new(node)
    }

    /// A client without a coin, under watch.
    pub(crate) async fn client(&self, name: &str, settings: &[(&str, &str)]) -> Watched {
        let bootstrap = self.bootstrap_address();
        let mut all = vec![
            ("bootstrap", bootstrap.as_str()),
            ("chain-url", &self.chain_url),
        ];
        all.extend_from_slice(settings);
        Watched::new(self.launcher.node(name, "client", &all).await.unwrap())
    }

    /// Sends coins to a node.
    pub(crate) async fn give(&self, node: &Node, coins: NanoTon) {
        fund(&self.chain, &[(node.wallet().unwrap(), coins)])
            .await
            .unwrap();
    }

    /// The only thing that nodes are told of one another.
    pub(crate) fn bootstrap_address(&self) -> String {
        let listen = &self.bootstrap.run.listen;
        let quic = listen.iter().find(|address| address.contains("quic"));
        quic.or(listen.first()).unwrap().clone()
    }
}

/// A node that must outlive whatever is done to it.
pub(crate) struct Watched {
    pub(crate) node: Node,
    uptime_s: u64,
}

impl Watched {
    fn new(node: Node) -> Self {
        Self { node, uptime_s: 0 }
    }

    /// Where it listens, by TCP.
    pub(crate) fn tcp(&self) -> Multiaddr {
        let listen = &self.node.run.listen;
        let tcp = listen.iter().find(|address| address.contains("/tcp/"));
        tcp.unwrap().parse().unwrap()
    }

    /// Its process still runs, is the one that was started, and its actors answer.
    pub(crate) async fn assert_alive(&mut self, after: &str) {
        if let Err(error) = self.node.process.check() {
            panic!("after {after}: {error}");
        }
        let health = get(&self.node, "/health").await;
        assert_eq!(health.0, 200, "after {after}: {}", health.1);
        let status = self.status().await;
        assert_eq!(status.peer, self.node.run.peer, "after {after}");
        assert!(status.uptime_s >= self.uptime_s, "restarted after {after}");
        self.uptime_s = status.uptime_s;
    }

    /// `/status.json`.
    pub(crate) async fn status(&self) -> NodeStatus {
        self.node.http.status().await.unwrap()
    }

    /// The sum of the metrics whose lines begin so.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let (status, text) = get(&self.node, "/metrics").await;
        assert_eq!(status, 200);
        text.lines()
            .filter(|candidate| candidate.starts_with(line))
            .filter_map(|candidate| candidate.rsplit(' ').next())
            .map(|value| value.parse::<u64>().unwrap())
            .sum()
    }

    /// Waits until its log says so.
    pub(crate) async fn logs(&self, what: &str) {
        let log = self.node.process.log();
        wait(&format!("the log says `{what}`"), async || {
            std::fs::read_to_string(log).unwrap().contains(what)
        })
        .await;
    }
}

/// `GET` and what came.
async fn get(node: &Node, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{path}", node.url());
    let response = client.get(url).timeout(LIMIT).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap())
}

/// Waits for a condition that nothing announces.
pub(crate) async fn wait(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looked = until(what, LIMIT, async || {
        Ok::<_, MeshError>(holds().await.then_some(()))
    });
    looked.await.unwrap();
}
