//! A worker's settler with its cashier, on real contracts: from entries on disk to money in the
//! wallet, also when the process dies on the way.

use crate::support::books::{channel_terms, earning, open_channel, store, voucher};
use crate::support::chain::{Fate, TestChain, wallet};
use crate::support::{job, key, milliton, peer, system, until};
use cocoon_actors::ask::{Address, AskError, ask};
use cocoon_actors::cashier::earning::{
    Accept, CloseWorkerJob, Earning, OpenWorkerJob, WorkerBooks,
};
use cocoon_actors::cashier::{Cashier, CashierError};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::settler::{Flush, Settler, Settling};
use cocoon_actors::supervision::supervise;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{
    Commit, LedgerTerms, commit_message, deploy_ledger_message, fetch_ledger, start_close_message,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{BatchProgress, WorkerLedger};
use cocoon_settlement::settler::{SettlerConfig, claim_fee, commit_fee};
use cocoon_settlement::store::RocksStore;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

const CLIENT: u8 = 1;
const WORKER: u8 = 2;

fn ledger_terms() -> LedgerTerms {
    LedgerTerms {
        owner: wallet(WORKER).address(),
        key: PublicKey32::from_bytes(key(WORKER).verifying_key().to_bytes()),
    }
}

/// One life of a worker's process, as far as money goes.
struct Process {
    chain: TestChain,
    ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    cashier: Address<Cashier>,
    settler: Address<Settler>,
    metrics: Metrics,
}

impl Process {
    fn start(directory: &Path, chain: &TestChain) -> Self {
        Self::start_with(directory, chain, 500)
    }

    fn start_with(directory: &Path, chain: &TestChain, batch_entries: u32) -> Self {
        let parts: Earning = earning(directory, chain, WORKER);
        let (ledger, metrics) = (Arc::clone(&parts.ledger), parts.metrics.clone());
        ledger.recover(cocoon_actors::clock::now()).unwrap();
        let cashier = supervise(Cashier::earning(parts));
        let terms = ledger_terms();
        let settling = Settling {
            ledger: Arc::clone(&ledger),
            chain: chain.shared(),
            wallet: Arc::new(Mutex::new(wallet(WORKER))),
            terms,
            key: key(WORKER),
            global_id: GLOBAL_ID,
            config: SettlerConfig {
                batch_entries,
                look_ms: 1,
                idle_look_ms: 1,
                watch_ms: 1,
                ..SettlerConfig::new(terms.address().unwrap())
            },
        };
        let settler = Settler::new(settling, cashier.clone(), metrics.clone()).unwrap();
        Self {
            chain: chain.clone(),
            ledger,
            cashier,
            settler: supervise(settler),
            metrics,
        }
    }

    async fn try_open(&self, number: u8, channel: TonAddress) -> Result<(), CashierError> {
        let open = OpenWorkerJob {
            job: job(number),
            client: peer(CLIENT),
            channel,
            needed: milliton(1),
            credit_window: milliton(1),
            terms: None,
        };
        ask(&self.cashier, open).await.unwrap().map(drop)
    }

    /// A job that raises what is held on a channel to `total`.
    async fn serve(&self, number: u8, channel: TonAddress, total: NanoTon) {
        // The settler says so once it has looked at the chain.
        while let Err(error) = self.try_open(number, channel).await {
            assert!(matches!(error, CashierError::Unreconciled), "{error}");
            tokio::task::yield_now().await;
        }
        let accept = Accept {
            channel,
            voucher: voucher(channel, total, CLIENT),
        };
        ask(&self.cashier, accept).await.unwrap().unwrap();
        let close = CloseWorkerJob {
            job: job(number),
            channel,
            outcome: Outcome::ClientLost,
            receipt: None,
            cost: NanoTon::ZERO,
        };
        ask(&self.cashier, close).await.unwrap().unwrap();
    }

    async fn flush(&self) -> Result<(), AskError> {
        ask(&self.settler, Flush).await
    }

    /// Begins to settle, and does not wait for the end.
    fn begin_flush(&self) {
        let settler = self.settler.clone();
        tokio::spawn(async move { ask(&settler, Flush).await });
    }

    fn is_submitted(&self, seqno: u32) -> bool {
        let batch = self.ledger.batch(seqno).unwrap();
        batch.is_some_and(|batch| matches!(batch.progress, BatchProgress::Submitted { .. }))
    }
}

async fn funded_chain() -> TestChain {
    TestChain::new(&[CLIENT, WORKER]).await
}

async fn channel(chain: &TestChain, nonce: u32) -> TonAddress {
    open_channel(chain, &channel_terms(CLIENT, WORKER, nonce), CLIENT).await
}

async fn deploy_ledger(chain: &TestChain) {
    let deploy = deploy_ledger_message(&ledger_terms(), milliton(50)).unwrap();
    wallet(WORKER).send(&chain.local, &[deploy]).await.unwrap();
}

/// Commits that the worker's ledger contract has applied.
async fn commits(chain: &TestChain) -> usize {
    let history = chain.history(ledger_terms().address().unwrap()).await;
    let external = history.iter().filter(|applied| applied.source.is_none());
    external.filter(|applied| applied.success).count()
}

/// What a channel has sent to the worker, transfer by transfer.
async fn payments(chain: &TestChain, channel: TonAddress) -> Vec<NanoTon> {
    let history = chain.history(channel).await;
    let sent = history.iter().flat_map(|transaction| &transaction.sent);
    sent.filter(|transfer| transfer.destination == wallet(WORKER).address())
        .map(|transfer| transfer.value)
        .collect()
}

#[test]
fn a_flush_deploys_commits_and_claims_and_answers_when_the_money_is_there() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        let (one, two) = (channel(&chain, 0).await, channel(&chain, 1).await);
        let process = Process::start(directory.path(), &chain);
        process.serve(1, one, milliton(20)).await;
        process.serve(2, two, milliton(30)).await;
        process.serve(3, one, milliton(50)).await;
        process.flush().await.unwrap();

        let total = milliton(80);
        let address = ledger_terms().address().unwrap();
        let on_chain = fetch_ledger(&chain.local, address).await.unwrap().unwrap();
        assert_eq!((on_chain.seqno, on_chain.jobs), (1, 3));
        assert_eq!(on_chain.total, total);
        assert_eq!(commits(&chain).await, 1);
        for (channel, paid) in [(one, milliton(50)), (two, milliton(30))] {
            assert_eq!(chain.channel(channel).await.unwrap().claimed, paid);
            assert_eq!(payments(&chain, channel).await.len(), 1);
        }

        let books = ask(&process.cashier, WorkerBooks).await.unwrap().unwrap();
        assert_eq!((books.committed, books.claimed), (total, total));
        assert_eq!(
            (books.unclaimed, books.unsettled_entries),
            (NanoTon::ZERO, 0)
        );
        assert!(
            books.batches[0].transaction.is_some(),
            "it names its transaction"
        );
        assert_eq!(process.metrics.settled_nanoton.get(), total.nano());
        assert_eq!(process.metrics.batches_confirmed.get(), 1);

        // Nothing is left to do, so nothing is done.
        process.flush().await.unwrap();
        assert_eq!(commits(&chain).await, 1);
    });
}

#[test]
fn batches_go_on_chain_one_after_the_other_in_the_order_of_their_entries() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start_with(directory.path(), &chain, 1);
        for number in 1..=3 {
            let total = milliton(10 * u64::from(number));
            process.serve(number, channel, total).await;
        }
        process.flush().await.unwrap();
        let address = ledger_terms().address().unwrap();
        let on_chain = fetch_ledger(&chain.local, address).await.unwrap().unwrap();
        assert_eq!((on_chain.seqno, on_chain.jobs), (3, 3));
        assert_eq!(commits(&chain).await, 3);
        let batches = process.ledger.batches(1, 10).unwrap();
        let totals: Vec<_> = batches.iter().map(|batch| batch.total).collect();
        assert_eq!(totals, [milliton(10), milliton(20), milliton(30)]);
        // The contract remembers the roots, newest first.
        let mut roots: Vec<_> = batches.iter().map(|batch| batch.root()).collect();
        roots.reverse();
        assert_eq!(on_chain.roots[..3], roots);
        assert_eq!(chain.channel(channel).await.unwrap().claimed, milliton(30));
    });
}

/// A process that serves one job and dies when its commit was handed over, whatever became of it.
fn dies_with_its_commit(directory: &Path, fate: Fate) -> (TestChain, TonAddress) {
    system(async {
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start(directory, &chain);
        process.serve(1, channel, milliton(40)).await;
        chain.next(fate);
        process.begin_flush();
        until("the attempt", || {
            process.is_submitted(1) && chain.is_ordinary()
        })
        .await;
        (chain.again(), channel)
    })
}

#[test]
fn a_commit_whose_answer_died_with_the_process_is_found_and_not_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, channel) = dies_with_its_commit(directory.path(), Fate::Last);
    system(async {
        assert_eq!(commits(&chain).await, 1);
        let process = Process::start(directory.path(), &chain);
        process.flush().await.unwrap();
        assert_eq!(commits(&chain).await, 1);
        assert_eq!(payments(&chain, channel).await.len(), 1);
        assert_eq!(chain.channel(channel).await.unwrap().claimed, milliton(40));
    });
}

#[test]
fn a_commit_that_was_lost_is_sent_again_when_it_is_void_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, channel) = dies_with_its_commit(directory.path(), Fate::Lost);
    system(async {
        let process = Process::start(directory.path(), &chain);
        // It looks, and serves; but the commit might still arrive.
        process.serve(2, channel, milliton(60)).await;
        process.begin_flush();
        let attempts = |process: &Process| match process.ledger.batch(1).unwrap().unwrap().progress
        {
            BatchProgress::Submitted { attempts, .. } => attempts,
            other => panic!("not submitted: {other:?}"),
        };
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
        assert_eq!((attempts(&process), commits(&chain).await), (1, 0));
        process.chain.pass(61);
        process.flush().await.unwrap();
        // The first batch as it was cut, and one for what came later.
        assert_eq!(commits(&chain).await, 2);
        assert_eq!(chain.channel(channel).await.unwrap().claimed, milliton(60));
        let books = ask(&process.cashier, WorkerBooks).await.unwrap().unwrap();
        assert_eq!(books.unclaimed, NanoTon::ZERO);
    });
}

#[test]
fn a_claim_whose_answer_died_with_the_process_pays_once() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, channel) = system(async {
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start(directory.path(), &chain);
        process.serve(1, channel, milliton(40)).await;
        process.begin_flush();
        until("the confirmation", || {
            process.metrics.batches_confirmed.get() == 1
        })
        .await;
        // Whether the claim has been sent by now does not matter.
        (chain, channel)
    });
    system(async {
        let process = Process::start(directory.path(), &chain);
        process.flush().await.unwrap();
        assert_eq!(payments(&chain, channel).await.len(), 1);
        let books = ask(&process.cashier, WorkerBooks).await.unwrap().unwrap();
        assert_eq!(books.claimed, milliton(40));
    });
}

#[test]
fn a_worker_whose_chain_knows_more_than_its_disk_does_not_serve() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        // As by another node with the same key, or by this one before its disk was set back.
        let commit = Commit {
            ledger: ledger_terms().address().unwrap(),
            seqno: 1,
            valid_until: chain.head().await.unwrap().unix + 60,
            root: Digest::sha256(b"another log"),
            jobs: 1,
            total: milliton(1),
        };
        let message = commit_message(&commit, &key(WORKER), GLOBAL_ID).unwrap();
        chain.local.send_external(&message).await.unwrap();

        let process = Process::start(directory.path(), &chain);
        for _ in 0..200 {
            let refused = process.try_open(1, channel).await;
            assert!(matches!(refused, Err(CashierError::Unreconciled)));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_process_that_dies_leaves_its_disk_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let chain = system(async {
        let chain = funded_chain().await;
        Process::start(directory.path(), &chain);
        chain
    });
    drop(chain);
    // No actor, and no lock, has outlived its system.
    store(directory.path());
}

#[test]
fn a_client_that_closes_is_claimed_from_at_once_and_served_no_more() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start(directory.path(), &chain);
        process.serve(1, channel, milliton(40)).await;
        let close = start_close_message(channel).unwrap();
        wallet(CLIENT).send(&chain.local, &[close]).await.unwrap();
        // Nobody asks for it: the watch sees it.
        until("the claim", || process.metrics.settled_nanoton.get() > 0).await;
        assert_eq!(chain.channel(channel).await.unwrap().claimed, milliton(40));
        let refused = process.try_open(2, channel).await;
        assert!(matches!(refused, Err(CashierError::Closing { .. })));
    });
}

#[test]
fn what_a_claim_and_a_commit_cost_is_known_before_and_not_far_off() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start(directory.path(), &chain);
        process.serve(1, channel, milliton(40)).await;
        process.flush().await.unwrap();
        let prices = chain.prices().await.unwrap();
        let paid = payments(&chain, channel).await;
        let claim = milliton(40).checked_sub(paid[0]).unwrap();
        let history = chain.history(ledger_terms().address().unwrap()).await;
        let commit = history.last().unwrap().total_fees;
        for (what, real, told) in [
            ("claim", claim, claim_fee(&prices)),
            ("commit", commit, commit_fee(&prices)),
        ] {
            let range = real..=real.saturating_mul(2);
            assert!(range.contains(&told), "a {what} costs {real}, not {told}");
        }
    });
}

#[test]
fn a_worker_waits_with_settling_while_the_chains_head_cannot_be_verified() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = funded_chain().await;
        deploy_ledger(&chain).await;
        let channel = channel(&chain, 0).await;
        let process = Process::start(directory.path(), &chain);
        process.serve(1, channel, milliton(40)).await;
        chain.verifiable(false);
        process.begin_flush();
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(process.metrics.settled_nanoton.get(), 0);
        chain.verifiable(true);
        until("the claim", || process.metrics.settled_nanoton.get() > 0).await;
    });
}
