//! Three workers and two clients through an hour of kills, lost messages and lost answers; afterwards every nanoTON is where
//! it belongs.
//!
//! What is real: the contracts in their TVM, the ledgers, the settler, the meters, the wallets. What is not: the network
//! (a call is a message) and the disk (memory that outlives the process; `src/ledger/crash_tests` has RocksDB's, and
//! `tests/storm.rs` at the workspace's root real processes). Time is virtual and chance is seeded: a seed that fails fails
//! again. `COCOON_STORM_SEED` and `COCOON_STORM_SECONDS` choose another storm.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "storm/client.rs"]
mod client;
#[path = "storm/fuse.rs"]
mod fuse;
#[path = "storm/jobs.rs"]
mod jobs;
#[path = "storm/sums.rs"]
mod sums;
#[path = "storm/worker.rs"]
mod worker;
#[path = "storm/world.rs"]
mod world;

use cocoon_protocol::{Keypair, NanoTon, PeerId, PublicKey32, TonAddress};
use cocoon_settlement::contract::fetch_channel;
use cocoon_settlement::ledger::ClientChannelState;
use ed25519_dalek::SigningKey;
use rand::Rng;

use self::client::Client;
use self::jobs::{Job, Tally};
use self::sums::{ClientBooks, Sums, WorkerBooks, add_up};
use self::worker::Worker;
use self::world::World;

/// Each wallet's coins before the storm.
pub(crate) const PURSE: NanoTon = NanoTon::from_nano(50 * NanoTon::PER_TON);
const HOUR_S: u32 = 3600;
/// Chances in a thousand, each second, that a process's fuse is lit.
const DEATH_PER_MILLE: u32 = 12;
/// Writes and sends that a lit fuse lasts, at most; counted before and after each.
const LONGEST_FUSE: u32 = 24;
/// Seconds until a process that has died is started again, at most.
const LONGEST_ABSENCE_S: u32 = 40;
/// Chances in a thousand, each second, that a client begins a job.
const JOB_PER_MILLE: u32 = 200;
/// After the storm, everything is over within this.
const CALM_S: u32 = 3000;

/// A process died in the middle of something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Died;

pub(crate) const fn milliton(milli: u64) -> NanoTon {
    NanoTon::from_nano(milli * 1_000_000)
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey32 {
    PublicKey32::from_bytes(key.verifying_key().to_bytes())
}

fn peer(seed: u8) -> PeerId {
    let mut secret = [seed; 32];
    Keypair::ed25519_from_bytes(&mut secret)
        .unwrap()
        .public()
        .to_peer_id()
}

struct Storm {
    world: World,
    clients: Vec<Client>,
    workers: Vec<Worker>,
    jobs: Vec<Job>,
    tally: Tally,
}

impl Storm {
    async fn new(seed: u64) -> Self {
        let clients: Vec<_> = [1, 2].map(|seed| Client::new(peer(seed), key(seed))).into();
        let workers: Vec<_> = [11, 12, 13]
            .map(|seed| Worker::new(peer(seed), key(seed)))
            .into();
        let mut world = World::new(seed);
        let wallets: Vec<TonAddress> = clients
            .iter()
            .map(|client| client.wallet.address())
            .chain(workers.iter().map(|worker| worker.wallet.address()))
            .collect();
        world.fund(&wallets, PURSE).await;
        Self {
            world,
            clients,
            workers,
            jobs: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn busy(&self) -> Vec<TonAddress> {
        self.jobs.iter().map(|job| job.channel).collect()
    }

    /// Buries the dead and starts those whose time has come.
    fn bury_and_start(&mut self) {
        let Self {
            world,
            clients,
            workers,
            jobs,
            ..
        } = self;
        for (index, client) in clients.iter_mut().enumerate() {
            match &client.life {
                Some(life) if life.fuse.is_out() => {
                    client.life = None;
                    client.deaths += 1;
                    client.back_at = world.unix + world.chance.random_range(1..=LONGEST_ABSENCE_S);
                    jobs.iter_mut().for_each(|job| job.forget_client(index));
                }
                None if world.unix >= client.back_at => client.start(world),
                _ => {}
            }
        }
        for (index, worker) in workers.iter_mut().enumerate() {
            match &worker.life {
                Some(life) if life.fuse.is_out() => {
                    worker.life = None;
                    worker.deaths += 1;
                    worker.back_at = world.unix + world.chance.random_range(1..=LONGEST_ABSENCE_S);
                    jobs.iter_mut().for_each(|job| job.forget_worker(index));
                }
                None if world.unix >= worker.back_at => worker.start(world),
                _ => {}
            }
        }
    }

    fn light_fuses(&mut self) {
        let clients = self
            .clients
            .iter()
            .filter_map(|client| client.life.as_ref());
        let workers = self
            .workers
            .iter()
            .filter_map(|worker| worker.life.as_ref());
        let fuses = clients
            .map(|life| &life.fuse)
            .chain(workers.map(|life| &life.fuse));
        for fuse in fuses {
            if !fuse.is_lit() && self.world.happens(DEATH_PER_MILLE) {
                fuse.light(self.world.chance.random_range(0..LONGEST_FUSE));
            }
        }
    }

    /// One second. `working`: new jobs are begun. `leaving`: clients close their channels.
    async fn second(&mut self, working: bool, leaving: bool) {
        self.world.tick();
        self.bury_and_start();
        if self.world.stormy {
            self.light_fuses();
        }
        let mut running = std::mem::take(&mut self.jobs);
        for mut job in running.drain(..) {
            let client = &mut self.clients[job.client];
            let worker = &mut self.workers[job.worker];
            let over = job
                .go_on(&self.world, client, worker, &mut self.tally)
                .await;
            if !over {
                self.jobs.push(job);
            }
        }
        // A death in a job is everybody's before anything else happens.
        self.bury_and_start();
        for at in 0..self.clients.len() {
            if working && self.world.happens(JOB_PER_MILLE) {
                let to = self.world.chance.random_range(0..self.workers.len());
                let busy = self.busy();
                let Self {
                    world,
                    clients,
                    workers,
                    tally,
                    ..
                } = self;
                let job = jobs::begin(world, clients, workers, &busy, tally, (at, to)).await;
                self.jobs.extend(job);
            }
            let busy = self.busy();
            let Self {
                world,
                clients,
                workers,
                ..
            } = self;
            // A death shows in the fuse.
            let _ = clients[at].manage(world, workers, &busy, leaving).await;
        }
        for worker in &mut self.workers {
            let _ = worker.settle(&mut self.world, !working).await;
        }
        if self.world.unix.is_multiple_of(5) {
            self.at_every_block().await;
        }
    }

    /// After the storm: nobody dies any more, and what is under way comes to its end.
    async fn calm(&mut self) {
        self.world.stormy = false;
        let everybody = |storm: &Self| {
            storm
                .clients
                .iter()
                .all(|client| client.life.as_ref().is_some_and(|life| !life.fuse.is_lit()))
                && storm
                    .workers
                    .iter()
                    .all(|worker| worker.life.as_ref().is_some_and(|life| !life.fuse.is_lit()))
        };
        // Fuses that are lit burn down, or the process is started anew with none.
        for client in &mut self.clients {
            if client.life.as_ref().is_some_and(|life| life.fuse.is_lit()) {
                client.life = None;
            }
        }
        for worker in &mut self.workers {
            if worker.life.as_ref().is_some_and(|life| life.fuse.is_lit()) {
                worker.life = None;
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            if client.life.is_none() {
                self.jobs
                    .iter_mut()
                    .for_each(|job| job.forget_client(index));
            }
        }
        for (index, worker) in self.workers.iter().enumerate() {
            if worker.life.is_none() {
                self.jobs
                    .iter_mut()
                    .for_each(|job| job.forget_worker(index));
            }
        }
        let end = self.world.unix + CALM_S;
        let mut brought = false;
        loop {
            assert!(
                self.world.unix < end,
                "not over after {CALM_S} s of calm: {} jobs, settled {:?}, channels {:#?}",
                self.jobs.len(),
                self.workers
                    .iter()
                    .map(Worker::is_settled)
                    .collect::<Vec<_>>(),
                self.clients
                    .iter()
                    .flat_map(Client::channels)
                    .collect::<Vec<_>>(),
            );
            self.second(false, brought).await;
            if !everybody(self) || !self.jobs.is_empty() {
                continue;
            }
            if !brought {
                self.bring_newest_vouchers().await;
                brought = true;
                continue;
            }
            let closed = self
                .clients
                .iter()
                .flat_map(Client::channels)
                .all(|channel| channel.state == ClientChannelState::Closed);
            if closed && self.workers.iter().all(Worker::is_settled) {
                return;
            }
        }
    }

    /// No coin is made or lost, and nobody is paid what was not signed.
    async fn at_every_block(&self) {
        let supply = self.world.chain.devnet().supply().unwrap();
        assert_eq!(
            supply.minted,
            supply.balances + supply.in_flight + supply.collected,
            "{supply:?}"
        );
        for channel in self.clients.iter().flat_map(Client::channels) {
            let state = fetch_channel(&self.world.chain, channel.address).await;
            let claimed = state.unwrap().map_or(NanoTon::ZERO, |state| state.claimed);
            assert!(
                claimed <= channel.signed_total(),
                "{claimed} paid by {channel:?}"
            );
        }
    }

    /// When every channel is finished.
    async fn add_up(&self) -> Sums {
        let clients: Vec<_> = self
            .clients
            .iter()
            .map(|client| ClientBooks {
                wallet: client.wallet.address(),
                ledger: client.on_disk(),
            })
            .collect();
        let workers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| WorkerBooks {
                peer: worker.peer,
                wallet: worker.wallet.address(),
                contract: worker.terms.address().unwrap(),
                ledger: worker.on_disk(),
            })
            .collect();
        let sums = add_up(&self.world.chain, &clients, &workers, PURSE).await;
        assert_eq!(sums.finished, sums.channels);
        let Tally {
            begun,
            completed,
            delivered,
            ..
        } = self.tally;
        assert!(
            sums.signed <= delivered,
            "clients signed {} for tokens worth {delivered}",
            sums.signed
        );
        let lost = delivered - sums.signed + sums.astray;
        assert!(
            lost <= jobs::window().nano() * (begun - completed),
            "{lost} were worked for nothing: more than a window for each job that died"
        );
        sums
    }

    /// What the next job on each channel would begin with.
    async fn bring_newest_vouchers(&mut self) {
        let channels: Vec<_> = self
            .clients
            .iter()
            .flat_map(|client| client.channels().into_iter().map(|one| (client.peer, one)))
            .collect();
        for (client, channel) in channels {
            let worker = self
                .workers
                .iter_mut()
                .find(|worker| worker.peer == channel.worker)
                .unwrap();
            let known = worker.on_disk().channel(&channel.address).unwrap();
            let finished = channel.state == ClientChannelState::Closed;
            if let (Some(voucher), Some(_), false) = (channel.newest_voucher(), known, finished) {
                worker.take(&self.world, &voucher).await.unwrap();
                worker.enter(&mut self.world, client, channel.address);
            }
        }
    }
}

async fn weather(seed: u64, seconds: u32) -> (Storm, Sums) {
    let mut storm = Storm::new(seed).await;
    for _ in 0..seconds {
        storm.second(true, false).await;
    }
    storm.calm().await;
    let sums = storm.add_up().await;
    (storm, sums)
}

fn chosen(name: &str, or: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(or)
}

#[tokio::test]
async fn sums_are_exact_after_an_hour_of_kills() {
    let seed = chosen("COCOON_STORM_SEED", 7);
    let seconds = u32::try_from(chosen("COCOON_STORM_SECONDS", HOUR_S.into())).unwrap();
    let (storm, sums) = weather(seed, seconds).await;
    let deaths: (u32, u32) = (
        storm.clients.iter().map(|client| client.deaths).sum(),
        storm.workers.iter().map(|worker| worker.deaths).sum(),
    );
    println!(
        "seed {seed}, {seconds} s: {deaths:?} deaths of clients and workers, {} messages lost, {} answers lost\n{:?}\n{sums:?}",
        storm.world.lost, storm.world.unheard, storm.tally
    );
    if seconds >= HOUR_S {
        assert!(deaths.0 > 20 && deaths.1 > 30, "a storm: {deaths:?}");
        assert!(storm.tally.completed > 200 && sums.batches > 20 && sums.channels > 6);
    }
}

#[tokio::test]
async fn a_storm_is_the_same_each_time() {
    let mut heads = Vec::new();
    for _ in 0..2 {
        let (storm, _) = weather(3, 240).await;
        heads.push((storm.world.unix, storm.world.chain.devnet().head().hash));
    }
    assert_eq!(heads[0], heads[1]);
}
