//! A network of processes, each with its own directory.

use std::path::{Path, PathBuf};

use cocoon::local_mesh::{self, Launcher, Node, Process};
use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::DevnetClient;
use tempfile::TempDir;

use crate::program::cocoon;

/// The model's name in the network.
pub const MODEL_ID: &str = "smollm2-135m-instruct";
/// Coins that the faucet sends to each node.
pub const PURSE: NanoTon = NanoTon::from_nano(5 * NanoTon::PER_TON);

/// A worker's terms, nanoTON.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Per prompt token.
    pub input: u64,
    /// Per generated token.
    pub output: u64,
    /// How far it runs ahead of the vouchers. An offer's window never is smaller than a prompt and
    /// two frames.
    pub window: u64,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One worker each.
    pub workers: Vec<Terms>,
    /// Put into each channel, nanoTON.
    pub deposit: u64,
    /// For all processes.
    pub environment: Vec<(&'static str, &'static str)>,
}

/// A running network. Its directory is removed at the end, and kept if the test fails.
#[derive(Debug)]
pub struct Network {
    /// The chain.
    pub chain: DevnetClient,
    /// Where it answers.
    pub chain_url: String,
    /// Its process.
    pub devnet: Process,
    /// The node whose address everybody is given.
    pub bootstrap: Node,
    /// In the order of the plan.
    pub workers: Vec<Node>,
    /// The client.
    pub client: Node,
    plan: Plan,
    model: PathBuf,
    launcher: Launcher,
    directory: Kept,
}

/// A directory that stays after a failure.
#[derive(Debug)]
struct Kept(Option<TempDir>);

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.0.take()
        {
            println!(
                "the processes' directories are kept in {}",
                directory.keep().display()
            );
        }
    }
}

impl Network {
    /// Starts everything, gives every node coins, and waits until the client has verified all
    /// workers.
    pub async fn start(model: &Path, plan: Plan) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cocoon-test-")
            .tempdir()
            .expect("a directory");
        let mut launcher = Launcher::new(cocoon().to_owned(), directory.path().to_owned());
        for (name, value) in &plan.environment {
            launcher = launcher.with(name, value);
        }
        let directory = Kept(Some(directory));
        let (devnet, chain_url) = launcher.devnet().expect("a devnet");
        let chain = DevnetClient::new(&chain_url).expect("a client of the devnet");
        let bootstrap = launcher
            .node("bootstrap", "bootstrap", &[])
            .await
            .expect("a bootstrap node");
        let starting: Vec<_> = (0..plan.workers.len())
            .map(|index| spawn_worker(&launcher, &plan, index, model, &bootstrap, &chain_url))
            .collect();
        let deposit = plan.deposit.to_string();
        let client = launcher
            .node(
                "client",
                "client",
                &[
                    ("bootstrap", &address(&bootstrap)),
                    ("chain-url", &chain_url),
                    ("deposit-nanoton", &deposit),
                ],
            )
            .await
            .expect("a client");
        let mut workers = Vec::new();
        for process in starting {
            workers.push(launcher.reach(process).await.expect("a worker"));
        }
        let purses: Vec<_> = workers
            .iter()
            .chain([&client])
            .map(|node| (node.wallet().expect("a wallet"), PURSE))
            .collect();
        local_mesh::fund(&chain, &purses).await.expect("coins");
        let network = Self {
            chain,
            chain_url,
            devnet,
            bootstrap,
            workers,
            client,
            plan,
            model: model.to_owned(),
            launcher,
            directory,
        };
        network.all_verified().await;
        network
    }

    /// Waits until the client has verified every worker and knows the way to each.
    pub async fn all_verified(&self) {
        local_mesh::verified_workers(&self.client, self.plan.workers.len())
            .await
            .expect("verified workers");
    }

    /// The directory of all of it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory
            .0
            .as_ref()
            .expect("kept until the end")
            .path()
    }

    /// Every process.
    #[must_use]
    pub fn processes(&self) -> Vec<&Process> {
        let nodes = self.workers.iter().chain([&self.client, &self.bootstrap]);
        nodes
            .map(|node| &node.process)
            .chain([&self.devnet])
            .collect()
    }

    /// Which worker this peer is.
    #[must_use]
    pub fn worker_of(&self, peer: &str) -> usize {
        self.workers
            .iter()
            .position(|worker| worker.run.peer == peer)
            .unwrap_or_else(|| panic!("{peer} is none of our workers"))
    }

    /// What it asks.
    #[must_use]
    pub fn terms(&self, worker: usize) -> Terms {
        self.plan.workers[worker]
    }

    /// The worker that has a job now.
    pub async fn busy_worker(&self) -> usize {
        for (index, worker) in self.workers.iter().enumerate() {
            if worker.http.status().await.expect("a status").running_jobs > 0 {
                return index;
            }
        }
        panic!("no worker has a running job")
    }

    /// Starts a worker that has ended again, on its own disk, as a service manager would, with some
    /// more environment.
    pub async fn restart(&mut self, worker: usize, environment: &[(&str, &str)]) {
        let mut launcher = self.launcher.clone();
        for (name, value) in environment {
            launcher = launcher.with(name, value);
        }
        let process = spawn_worker(
            &launcher,
            &self.plan,
            worker,
            &self.model,
            &self.bootstrap,
            &self.chain_url,
        );
        let before = self.workers[worker].run.peer.clone();
        let node = launcher.reach(process).await.expect("the worker again");
        assert_eq!(
            node.run.peer, before,
            "a node keeps its name over a restart"
        );
        self.workers[worker] = node;
    }

    /// Asks every process to end, from the outside in, and checks that each does so with exit code 0.
    /// Returns the directory with what they left.
    pub fn stop(self) -> TempDir {
        let Self {
            devnet,
            bootstrap,
            workers,
            client,
            mut directory,
            ..
        } = self;
        let nodes = [client].into_iter().chain(workers).chain([bootstrap]);
        for mut process in nodes.map(|node| node.process).chain([devnet]) {
            let status = process.stop().expect("an end");
            assert_eq!(
                status.code(),
                Some(0),
                "{} ended with {status}",
                process.name
            );
        }
        directory.0.take().expect("kept until the end")
    }
}

fn address(bootstrap: &Node) -> String {
    // A node says where it is as soon as it listens anywhere; the other address may come a moment later.
    let listen = &bootstrap.run.listen;
    let quic = listen.iter().find(|address| address.contains("quic"));
    quic.or(listen.first()).expect("an address").clone()
}

fn spawn_worker(
    launcher: &Launcher,
    plan: &Plan,
    index: usize,
    model: &Path,
    bootstrap: &Node,
    chain_url: &str,
) -> Process {
    let terms = plan.workers[index];
    let model = model.display().to_string();
    let (input, output) = (terms.input.to_string(), terms.output.to_string());
    let (window, bootstrap) = (terms.window.to_string(), address(bootstrap));
    let settings = [
        ("model-path", model.as_str()),
        ("model-id", MODEL_ID),
        ("bootstrap", &bootstrap),
        ("chain-url", chain_url),
        ("price-input-nanoton", &input),
        ("price-output-nanoton", &output),
        ("credit-window-nanoton", &window),
        // A test settles when it wants to, not by age.
        ("settle-every-s", "3600"),
    ];
    launcher
        .spawn(&format!("worker-{}", index + 1), "worker", &settings)
        .expect("a worker's process")
}
