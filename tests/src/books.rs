//! Money, looked at from every side: the client's ledger, the worker's, its copy on disk, the chain.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon::local_mesh::{Node, until};
use cocoon_actors::gateway_port::SettlementStatus;
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{NanoTon, Salt, TonAddress};
use cocoon_settlement::chain::{Chain, TransactionSummary};
use cocoon_settlement::contract::{ChannelState, LedgerState, fetch_channel, fetch_ledger};
use cocoon_settlement::ledger::{SCHEMA, WorkerLedger, WorkerSummary};
use cocoon_settlement::store::RocksStore;

use crate::network::Network;

/// Longest wait for a worker to have settled: a few blocks for each of deploy, commit and claim.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
/// Transactions read per account; more than any test makes.
const PAGE: u16 = 100;

/// One channel from all sides.
#[derive(Clone, Debug)]
pub struct ChannelBook {
    /// The contract.
    pub address: TonAddress,
    /// Which worker it pays.
    pub worker: usize,
    /// The client's ledger: deposited when it was opened.
    pub deposit: NanoTon,
    /// The client's ledger: signed in vouchers.
    pub signed: NanoTon,
    /// The worker's ledger: the newest voucher it holds.
    pub held: NanoTon,
    /// The worker's ledger: what the chain has paid.
    pub recorded: NanoTon,
    /// The chain: the contract.
    pub chain: ChannelState,
    /// The chain: what the worker's wallet got from it.
    pub paid_out: NanoTon,
    /// The chain: its transactions, oldest first.
    pub transactions: Vec<TransactionSummary>,
}

impl ChannelBook {
    /// Transactions caused by messages from outside: claims. The others come from the client's wallet.
    pub fn claims(&self) -> impl Iterator<Item = &TransactionSummary> {
        self.transactions.iter().filter(|one| one.source.is_none())
    }
}

/// Every channel that the client knows.
pub async fn channels(network: &Network) -> Vec<ChannelBook> {
    let client = network
        .client
        .http
        .status()
        .await
        .expect("the client's status");
    let mut books = Vec::new();
    for line in client.channels {
        let address: TonAddress = line.address.parse().expect("an address");
        let worker = network.worker_of(&line.peer.expect("whom the channel pays"));
        let status = network.workers[worker]
            .http
            .status()
            .await
            .expect("a status");
        let theirs = status
            .channels
            .iter()
            .find(|theirs| theirs.address == line.address);
        let chain = fetch_channel(&network.chain, address)
            .await
            .expect("the chain");
        let chain = chain.expect("a channel that the client calls open is on chain");
        assert_eq!(
            line.claimed_nanoton,
            chain.claimed.nano(),
            "the client shows what the chain says"
        );
        let transactions = transactions(network, address).await;
        let wallet = network.workers[worker].wallet().expect("a wallet");
        let paid_out = transactions
            .iter()
            .flat_map(|one| &one.sent)
            .filter(|sent| sent.destination == wallet && !sent.bounced)
            .fold(NanoTon::ZERO, |sum, sent| {
                sum.checked_add(sent.value).unwrap()
            });
        books.push(ChannelBook {
            address,
            worker,
            deposit: NanoTon::from_nano(line.deposit_nanoton),
            signed: NanoTon::from_nano(line.signed_nanoton),
            held: NanoTon::from_nano(theirs.map_or(0, |theirs| theirs.signed_nanoton)),
            recorded: NanoTon::from_nano(theirs.map_or(0, |theirs| theirs.claimed_nanoton)),
            chain,
            paid_out,
            transactions,
        });
    }
    books
}

/// By how much transactions changed the balance of their account, nanoTON: what came in, less what was
/// sent on, its forwarding, and the fees.
#[must_use]
pub fn change<'a>(transactions: impl IntoIterator<Item = &'a TransactionSummary>) -> i128 {
    transactions
        .into_iter()
        .map(|one| {
            let sent = one.sent.iter();
            let out: u64 = sent
                .map(|sent| sent.value.nano() + sent.forward_fee.nano())
                .sum();
            i128::from(one.value.nano()) - i128::from(one.total_fees.nano()) - i128::from(out)
        })
        .sum()
}

/// All transactions of an account, oldest first.
pub async fn transactions(network: &Network, account: TonAddress) -> Vec<TransactionSummary> {
    let page = network
        .chain
        .transactions(account, 0, PAGE)
        .await
        .expect("the chain");
    assert!(
        page.len() < usize::from(PAGE),
        "more transactions than a page holds"
    );
    page
}

/// Tells a worker to settle and waits until the chain has paid what it earned.
pub async fn settle(worker: &Node) -> SettlementStatus {
    worker.admin("settle").await.expect("the admin command");
    settled(worker).await
}

/// Waits until the chain has paid what a worker earned.
pub async fn settled(worker: &Node) -> SettlementStatus {
    let what = format!("the settlement of {}", worker.process.name);
    until(&what, SETTLE_PATIENCE, async || {
        let status = worker.http.status().await?;
        let settlement = status.settlement.expect("a worker's settlement");
        let done = settlement.pending_receipts == 0
            && settlement.settled_nanoton == settlement.earned_nanoton;
        Ok(done.then_some(settlement))
    })
    .await
    .expect("settled")
}

/// Where a worker's ledger contract is, or will be.
pub async fn ledger_address(worker: &Node) -> TonAddress {
    let status = worker.http.status().await.expect("a status");
    status
        .settlement
        .expect("a settlement")
        .ledger
        .parse()
        .expect("an address")
}

/// A worker's ledger contract, and its transactions.
pub async fn ledger(
    network: &Network,
    address: TonAddress,
) -> (LedgerState, Vec<TransactionSummary>) {
    let state = fetch_ledger(&network.chain, address)
        .await
        .expect("the chain");
    (
        state.expect("a ledger contract"),
        transactions(network, address).await,
    )
}

/// Waits until the chain has taken a worker's batch, whether the worker lives or not.
pub async fn committed(network: &Network, address: TonAddress, seqno: u32) {
    let what = format!("batch {seqno} on chain");
    until(&what, SETTLE_PATIENCE, async || {
        let state = fetch_ledger(&network.chain, address).await?;
        Ok(state.filter(|state| state.seqno >= seqno).map(drop))
    })
    .await
    .expect("a batch on chain");
}

/// Coins in a node's wallet, by the chain.
pub async fn balance(network: &Network, node: &Node) -> NanoTon {
    let wallet = node.wallet().expect("a wallet");
    let account = network.chain.account(wallet).await.expect("the chain");
    account.map_or(NanoTon::ZERO, |account| account.balance)
}

/// No coin was made or lost: what was minted is in accounts, on its way, or was taken as a fee.
pub async fn supply_is_conserved(network: &Network) {
    let supply = network.chain.supply().await.expect("the supply");
    assert!(supply.minted > 0);
    assert_eq!(
        supply.minted,
        supply.balances + supply.in_flight + supply.collected,
        "{supply:?}"
    );
}

/// A receipt as the client keeps it, its signature checked.
pub async fn receipt(client: &Node, id: &str) -> Receipt {
    let document = client.http.receipt(id).await.expect("a receipt");
    let bytes = BASE64.decode(&document.signed_receipt).expect("base64");
    let signed = SignedReceipt::decode(&bytes).expect("a receipt's bytes");
    assert_eq!(signed.leaf().to_string(), document.id);
    signed.verify().expect("a receipt's signature").into_inner()
}

/// What opens a receipt, as the client's gateway tells its owner.
pub async fn salt(client: &Node, id: &str) -> Salt {
    let document = client.http.open_receipt(id).await.expect("a receipt");
    let salt = document.salt.expect("a salt");
    salt.parse().expect("a salt's digits")
}

/// Sums of receipts by channel.
#[must_use]
pub fn by_channel(receipts: &[Receipt]) -> BTreeMap<TonAddress, NanoTon> {
    let mut sums = BTreeMap::new();
    for receipt in receipts {
        let sum = sums.entry(receipt.channel).or_insert(NanoTon::ZERO);
        *sum = sum.checked_add(receipt.amount).unwrap();
    }
    sums
}

/// What a worker's ledger says on disk, whether its process runs or not. Reads a copy: opening a
/// store repairs it, and that is the node's own work.
#[must_use]
pub fn on_disk(worker: &Node) -> WorkerSummary {
    let copy = tempfile::tempdir().expect("a directory");
    copy_directory(&worker.process.data_dir.join("ledger"), copy.path());
    let store = RocksStore::open(copy.path(), SCHEMA).expect("a ledger that opens");
    WorkerLedger::new(store)
        .summary()
        .expect("a ledger that adds up")
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        // RocksDB keeps its files side by side.
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
