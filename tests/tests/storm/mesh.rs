//! The processes of the storm, and their books afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon::local_mesh::{self, Launcher, Node, Process, until};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::DevnetClient;
use cocoon_settlement::contract::MIN_CLAIM;
use cocoon_settlement::ledger::{ClientLedger, SCHEMA, WorkerLedger};
use cocoon_settlement::store::RocksStore;
use cocoon_tests::network::MODEL_ID;
use cocoon_tests::program;
use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use crate::sums::{ClientBooks, Sums, WorkerBooks, add_up};

const WORKERS: usize = 3;
const CLIENTS: usize = 2;
const PURSE: NanoTon = NanoTon::from_nano(50 * NanoTon::PER_TON);
const DEPOSIT: &str = "1000000000";
const PATIENCE: Duration = Duration::from_secs(120);

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Worker(usize),
    Client(usize),
    Chain,
}

impl Victim {
    pub(crate) const COUNT: usize = WORKERS + CLIENTS + 1;

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Worker(index) => index,
            Self::Client(index) => WORKERS + index,
            Self::Chain => WORKERS + CLIENTS,
        }
    }

    /// Half of the workers come back with one of the crash points that hurt most.
    pub(crate) fn crash_point(self, chance: &mut StdRng) -> Option<String> {
        let point = ["voucher-stored", "commit-submitted"][chance.random_range(0..2)];
        let times = chance.random_range(1..6);
        let armed = chance.random_bool(0.5);
        (armed && matches!(self, Self::Worker(_))).then(|| format!("{point}:{times}"))
    }
}

/// See the module's documentation.
pub(crate) struct Mesh {
    launcher: Launcher,
    model: PathBuf,
    chain: DevnetClient,
    chain_url: String,
    devnet: Process,
    bootstrap: Node,
    workers: Vec<Node>,
    clients: Vec<Node>,
    directory: TempDir,
}

impl Mesh {
    pub(crate) async fn start(model: &Path) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cocoon-storm-")
            .tempdir()
            .unwrap();
        let launcher = Launcher::new(program::cocoon().to_owned(), directory.path().to_owned());
        let (devnet, chain_url) = launcher.devnet().unwrap();
        let chain = DevnetClient::new(&chain_url).unwrap();
        let bootstrap = launcher.node("bootstrap", "bootstrap", &[]).await.unwrap();
        let mut mesh = Self {
            launcher,
            model: model.to_owned(),
            chain,
            chain_url,
            devnet,
            bootstrap,
            workers: Vec::new(),
            clients: Vec::new(),
            directory,
        };
        for index in 0..WORKERS {
            let node = mesh.node(Victim::Worker(index), None).await;
            mesh.workers.push(node);
        }
        for index in 0..CLIENTS {
            let node = mesh.node(Victim::Client(index), None).await;
            mesh.clients.push(node);
        }
        let nodes = mesh.workers.iter().chain(&mesh.clients);
        let purses: Vec<_> = nodes.map(|node| (node.wallet().unwrap(), PURSE)).collect();
        local_mesh::fund(&mesh.chain, &purses).await.unwrap();
        for client in &mesh.clients {
            local_mesh::verified_workers(client, WORKERS).await.unwrap();
        }
        mesh
    }

    async fn node(&self, who: Victim, armed: Option<&str>) -> Node {
        let bootstrap = self
            .bootstrap
            .run
            .listen
            .iter()
            .find(|address| address.contains("quic"))
            .unwrap();
        let model = self.model.display().to_string();
        let mut settings = vec![
            ("bootstrap", bootstrap.as_str()),
            ("chain-url", self.chain_url.as_str()),
        ];
        let (name, role) = match who {
            Victim::Worker(index) => {
                settings.extend([
                    ("model-path", model.as_str()),
                    ("model-id", MODEL_ID),
                    ("price-input-nanoton", "50000"),
                    ("price-output-nanoton", "250000"),
                    ("credit-window-nanoton", "8000000"),
                    // Batches all the time.
                    ("settle-every-s", "3"),
                ]);
                (format!("worker-{}", index + 1), "worker")
            }
            Victim::Client(index) => {
                settings.push(("deposit-nanoton", DEPOSIT));
                (format!("client-{}", index + 1), "client")
            }
            Victim::Chain => unreachable!("the chain is no node"),
        };
        let launcher = match armed {
            Some(point) => self.launcher.clone().with("COCOON_FAILPOINT", point),
            None => self.launcher.clone(),
        };
        launcher.node(&name, role, &settings).await.unwrap()
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.clients.iter().map(Node::url).collect()
    }

    pub(crate) fn choose(&self, chance: &mut StdRng) -> Victim {
        match chance.random_range(0..12) {
            index @ 0..6 => Victim::Worker(index % WORKERS),
            index @ 6..10 => Victim::Client(index % CLIENTS),
            _ => Victim::Chain,
        }
    }

    fn process(&mut self, who: Victim) -> &mut Process {
        match who {
            Victim::Worker(index) => &mut self.workers[index].process,
            Victim::Client(index) => &mut self.clients[index].process,
            Victim::Chain => &mut self.devnet,
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, who: Victim) {
        self.process(who).kill().unwrap();
    }

    /// On its own disk, as a service manager would.
    pub(crate) async fn start_again(&mut self, who: Victim, armed: Option<&str>) {
        match who {
            Victim::Worker(index) => self.workers[index] = self.node(who, armed).await,
            Victim::Client(index) => self.clients[index] = self.node(who, None).await,
            Victim::Chain => {
                let (devnet, url) = self.launcher.devnet_at(&self.chain_url).unwrap();
                assert_eq!(url, self.chain_url, "the chain is where it was");
                self.devnet = devnet;
            }
        }
    }

    /// Processes that have ended by themselves. Anything but a crash point is a failure.
    pub(crate) fn fallen(&mut self) -> Vec<Victim> {
        let everybody = (0..WORKERS)
            .map(Victim::Worker)
            .chain((0..CLIENTS).map(Victim::Client))
            .chain([Victim::Chain]);
        everybody
            .filter(|who| match self.process(*who).check() {
                Ok(()) => false,
                Err(local_mesh::MeshError::Ended { status, log, name }) => {
                    use std::os::unix::process::ExitStatusExt;
                    assert_eq!(
                        status.signal(),
                        Some(9),
                        "{name} ended with {status}:\n{log}"
                    );
                    true
                }
                Err(error) => panic!("{error}"),
            })
            .collect()
    }

    /// After the storm: everybody lives, everything is settled; then the processes end, and their disks are compared with
    /// the chain.
    pub(crate) async fn settle_and_add_up(mut self) -> Sums {
        for who in self.fallen() {
            self.start_again(who, None).await;
        }
        let mut contracts = Vec::new();
        for worker in &self.workers {
            contracts.push(self.settle(worker).await);
        }
        let wallet = |node: &Node| node.wallet().unwrap();
        let clients: Vec<_> = self.clients.iter().map(wallet).collect();
        let workers: Vec<_> = self.workers.iter().map(wallet).collect();
        let peers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| worker.run.peer.parse().unwrap())
            .collect();
        for node in self.clients.iter_mut().chain(&mut self.workers) {
            let status = node.process.stop().unwrap();
            assert_eq!(
                status.code(),
                Some(0),
                "{} ended with {status}",
                node.process.name
            );
        }
        let disk = |node: &Node| {
            let path = node.process.data_dir.join("ledger");
            std::sync::Arc::new(RocksStore::open(path, SCHEMA).unwrap())
        };
        let clients: Vec<_> = std::iter::zip(&self.clients, clients)
            .map(|(node, wallet)| ClientBooks {
                wallet,
                ledger: ClientLedger::new(disk(node)),
            })
            .collect();
        let workers: Vec<_> = std::iter::zip(&self.workers, workers)
            .zip(peers)
            .zip(contracts)
            .map(|(((node, wallet), peer), contract)| WorkerBooks {
                peer,
                wallet,
                contract,
                ledger: WorkerLedger::new(disk(node)),
            })
            .collect();
        let sums = add_up(&self.chain, &clients, &workers, PURSE).await;
        let supply = self.chain.supply().await.unwrap();
        assert_eq!(
            supply.minted,
            supply.balances + supply.in_flight + supply.collected,
            "{supply:?}"
        );
        self.bootstrap.process.stop().unwrap();
        self.devnet.stop().unwrap();
        drop(self.directory);
        sums
    }

    /// Has a worker settle; its ledger contract.
    async fn settle(&self, worker: &Node) -> TonAddress {
        worker.admin("settle").await.unwrap();
        let what = format!("the settlement of {}", worker.process.name);
        until(&what, PATIENCE, async || {
            let status = worker.http.status().await?;
            let settlement = status.settlement.expect("a worker's settlement");
            // Below the contract's least claim a channel keeps what it has; anything more is claimed, or on its way.
            let claimed = status
                .channels
                .iter()
                .all(|channel| channel.signed_nanoton - channel.claimed_nanoton < MIN_CLAIM.nano());
            let done = settlement.pending_receipts == 0 && claimed;
            Ok(done.then(|| settlement.ledger.parse().unwrap()))
        })
        .await
        .unwrap()
    }
}
