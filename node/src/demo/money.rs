//! Settlement in the demo: batches, claims, and the sums.

use std::collections::BTreeMap;
use std::time::Duration;

use cocoon_actors::gateway_port::NodeStatus;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{Chain, TransactionSummary};
use cocoon_settlement::contract::fetch_channel;
use comfy_table::{CellAlignment, Table};

use super::story::DemoMesh;
use super::{DemoError, waiting};
use crate::gateway_client::AnswerDetails;
use crate::local_mesh::{MeshError, Node, until};
use crate::terminal::{HEADER_LINE, short_peer};

/// Longest wait for a worker to have settled: a few blocks for each of deploy, commit and claim.
const PATIENCE: Duration = Duration::from_secs(60);
/// Transactions read per contract.
const PAGE: u16 = 50;

/// What each wallet held.
pub(super) struct Purses(BTreeMap<String, NanoTon>);

impl Purses {
    pub(super) async fn read(mesh: &DemoMesh) -> Result<Self, DemoError> {
        let mut purses = BTreeMap::new();
        for node in mesh.workers.iter().chain([&mesh.client]) {
            let account = mesh.chain.account(node.wallet()?).await?;
            let balance = account.map_or(NanoTon::ZERO, |account| account.balance);
            purses.insert(node.process.name.clone(), balance);
        }
        Ok(Self(purses))
    }

    fn of(&self, node: &Node) -> NanoTon {
        self.0
            .get(&node.process.name)
            .copied()
            .unwrap_or(NanoTon::ZERO)
    }
}

/// A transaction, as light clients ask for it.
pub(super) struct OnChain {
    what: String,
    transaction: TransactionSummary,
}

impl std::fmt::Display for OnChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            transaction: TransactionSummary {
                account, lt, hash, ..
            },
        } = self;
        write!(
            f,
            "{what}\n      account {account} lt {lt}\n      hash {hash}"
        )
    }
}

/// Has every worker settle, shows what that did on chain, and checks the sums. Returns the commits and claims.
pub(super) async fn settle(
    mesh: &DemoMesh,
    before: &Purses,
    answers: &[AnswerDetails],
) -> Result<Vec<OnChain>, DemoError> {
    let mut settled = Vec::new();
    for worker in &mesh.workers {
        worker.admin("settle").await?;
        settled.push(
            waiting(
                &format!("{} settles", worker.process.name),
                until_settled(worker),
            )
            .await?,
        );
    }
    let client = mesh.client.http.status().await?;
    let on_chain = transactions(mesh, &settled, &client).await?;
    balances(mesh, before, &settled, &client).await?;
    channels(mesh, &settled, &client, answers).await?;
    Ok(on_chain)
}

async fn until_settled(worker: &Node) -> Result<NodeStatus, MeshError> {
    let what = format!("the settlement of {}", worker.process.name);
    until(&what, PATIENCE, async || {
        let status = worker.http.status().await?;
        let settled = status.settlement.as_ref().is_some_and(|settlement| {
            settlement.pending_receipts == 0
                && settlement.settled_nanoton == settlement.earned_nanoton
        });
        Ok(settled.then_some(status))
    })
    .await
}

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        if index >= numbers_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

async fn transactions(
    mesh: &DemoMesh,
    settled: &[NodeStatus],
    client: &NodeStatus,
) -> Result<Vec<OnChain>, DemoError> {
    let mut on_chain = Vec::new();
    let mut table = table(&["what", "transaction", "gas", "fees"], 2);
    let mut row = |what: String, transaction: &TransactionSummary| {
        table.add_row([
            what.clone(),
            transaction.hash.to_string(),
            transaction.gas_used.to_string(),
            transaction.total_fees.to_string(),
        ]);
        // What came from outside, without a wallet: commits and claims.
        if transaction.source.is_none() {
            on_chain.push(OnChain {
                what,
                transaction: transaction.clone(),
            });
        }
    };
    for (worker, status) in mesh.workers.iter().zip(settled) {
        let name = &worker.process.name;
        if let Some(ledger) = status
            .settlement
            .as_ref()
            .and_then(|s| s.ledger.parse().ok())
        {
            for transaction in mesh.chain.transactions(ledger, 0, PAGE).await? {
                // A message from the wallet deploys it; the ones from outside commit.
                let what = match transaction.source {
                    Some(_) => "ledger deployed",
                    None => "batch committed",
                };
                row(format!("{name} {what}"), &transaction);
            }
        }
    }
    for channel in &client.channels {
        let Ok(address) = channel.address.parse::<TonAddress>() else {
            continue;
        };
        let to = name_of(mesh, channel.peer.as_deref());
        for transaction in mesh.chain.transactions(address, 0, PAGE).await? {
            let what = match transaction.source {
                Some(_) => "channel opened",
                None => "voucher claimed",
            };
            row(format!("{to} {what}"), &transaction);
        }
    }
    println!("{table}");
    Ok(on_chain)
}

fn name_of(mesh: &DemoMesh, peer: Option<&str>) -> String {
    let known = mesh
        .workers
        .iter()
        .find(|worker| Some(worker.run.peer.as_str()) == peer);
    known.map_or_else(
        || short_peer(peer.unwrap_or("?")),
        |worker| worker.process.name.clone(),
    )
}

/// What a wallet got out of contracts and put into them.
#[derive(Clone, Copy, Default)]
struct Flow {
    from_channels: NanoTon,
    into_contracts: NanoTon,
}

/// Reads the flows off the contracts' own transactions.
async fn flows(
    mesh: &DemoMesh,
    settled: &[NodeStatus],
    client: &NodeStatus,
) -> Result<BTreeMap<String, Flow>, DemoError> {
    let mut flows: BTreeMap<String, Flow> = BTreeMap::new();
    for (worker, status) in mesh.workers.iter().zip(settled) {
        let flow = flows.entry(worker.process.name.clone()).or_default();
        let ledger = status.settlement.as_ref().map(|s| s.ledger.parse());
        let Some(Ok(ledger)) = ledger else { continue };
        for transaction in mesh.chain.transactions(ledger, 0, PAGE).await? {
            if transaction.source.is_some() {
                flow.into_contracts = flow.into_contracts.saturating_add(transaction.value);
            }
        }
    }
    for channel in &client.channels {
        let Ok(address) = channel.address.parse::<TonAddress>() else {
            continue;
        };
        let worker = name_of(mesh, channel.peer.as_deref());
        for transaction in mesh.chain.transactions(address, 0, PAGE).await? {
            if transaction.source.is_some() {
                let flow = flows.entry(mesh.client.process.name.clone()).or_default();
                flow.into_contracts = flow.into_contracts.saturating_add(transaction.value);
            }
            let flow = flows.entry(worker.clone()).or_default();
            for sent in &transaction.sent {
                flow.from_channels = flow.from_channels.saturating_add(sent.value);
            }
        }
    }
    Ok(flows)
}

async fn balances(
    mesh: &DemoMesh,
    before: &Purses,
    settled: &[NodeStatus],
    client: &NodeStatus,
) -> Result<(), DemoError> {
    let after = Purses::read(mesh).await?;
    let flows = flows(mesh, settled, client).await?;
    let mut table = table(
        &[
            "wallet",
            "before",
            "from channels",
            "into contracts",
            "fees",
            "after",
        ],
        1,
    );
    for node in mesh.workers.iter().chain([&mesh.client]) {
        let name = &node.process.name;
        let flow = flows.get(name).copied().unwrap_or_default();
        let (old, new) = (before.of(node), after.of(node));
        let without_fees = old
            .saturating_add(flow.from_channels)
            .saturating_sub(flow.into_contracts);
        // What is missing went to the chain: gas and forwarding of the wallet's own messages.
        let Some(fees) = without_fees.checked_sub(new) else {
            return Err(DemoError::Wrong {
                what: format!("the balance of {name}"),
                expected: format!("at most {without_fees}"),
                found: new.to_string(),
            });
        };
        table.add_row([
            name.clone(),
            old.to_string(),
            flow.from_channels.to_string(),
            flow.into_contracts.to_string(),
            fees.to_string(),
            new.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// For every channel: what the client signed, what the worker held and earned, what the chain
/// paid, and what the receipts say.
async fn channels(
    mesh: &DemoMesh,
    settled: &[NodeStatus],
    client: &NodeStatus,
    answers: &[AnswerDetails],
) -> Result<(), DemoError> {
    let receipted = receipts_by_channel(mesh, answers).await?;
    let mut table = table(
        &[
            "channel to",
            "deposited",
            "signed",
            "claimed",
            "in receipts",
            "left in it",
        ],
        1,
    );
    for channel in &client.channels {
        let name = name_of(mesh, channel.peer.as_deref());
        let Ok(address) = channel.address.parse::<TonAddress>() else {
            continue;
        };
        let Some(state) = fetch_channel(&mesh.chain, address).await? else {
            continue;
        };
        let signed = NanoTon::from_nano(channel.signed_nanoton);
        let receipts = receipted
            .get(&channel.address)
            .copied()
            .unwrap_or(NanoTon::ZERO);
        table.add_row([
            name.clone(),
            NanoTon::from_nano(channel.deposit_nanoton).to_string(),
            signed.to_string(),
            state.claimed.to_string(),
            receipts.to_string(),
            state.balance.to_string(),
        ]);
        let held = settled
            .iter()
            .flat_map(|worker| &worker.channels)
            .find(|held| held.address == channel.address)
            .map_or(NanoTon::ZERO, |held| {
                NanoTon::from_nano(held.signed_nanoton)
            });
        equal(
            &format!("{name}: claimed on chain and vouchers held"),
            held,
            state.claimed,
        )?;
        if signed == receipts {
            equal(
                &format!("{name}: claimed on chain and receipts"),
                receipts,
                state.claimed,
            )?;
        } else {
            interrupted(&name, signed, held, receipts)?;
        }
    }
    println!("{table}");
    for (worker, status) in mesh.workers.iter().zip(settled) {
        if let Some(settlement) = &status.settlement {
            equal(
                &format!("{}: committed and claimed", worker.process.name),
                NanoTon::from_nano(settlement.earned_nanoton),
                NanoTon::from_nano(settlement.settled_nanoton),
            )?;
        }
    }
    println!("   every sum agrees to the last nanoTON");
    Ok(())
}

/// The killed worker's channel: its last job has vouchers and no receipt, and the very last
/// voucher may have been signed for a process that was gone.
fn interrupted(
    name: &str,
    signed: NanoTon,
    held: NanoTon,
    receipts: NanoTon,
) -> Result<(), DemoError> {
    let wrong = |what: &str, expected: NanoTon, found: NanoTon| DemoError::Wrong {
        what: format!("{name}: {what}"),
        expected: format!("at most {expected}"),
        found: found.to_string(),
    };
    if receipts > held {
        return Err(wrong("receipts against vouchers held", held, receipts));
    }
    if held > signed {
        return Err(wrong("vouchers held against vouchers signed", signed, held));
    }
    println!(
        "   {name} was killed in the middle of a job: {} of its claim is for tokens that arrived before, and {} was signed for it and never reached it",
        held.saturating_sub(receipts),
        signed.saturating_sub(held),
    );
    Ok(())
}

async fn receipts_by_channel(
    mesh: &DemoMesh,
    answers: &[AnswerDetails],
) -> Result<BTreeMap<String, NanoTon>, DemoError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut sums: BTreeMap<String, NanoTon> = BTreeMap::new();
    for answer in answers {
        let document = mesh.client.http.receipt(&answer.receipt).await?;
        let broken = |reason: String| DemoError::Wrong {
            what: "a stored receipt".to_owned(),
            expected: "one that decodes".to_owned(),
            found: reason,
        };
        let bytes = STANDARD
            .decode(&document.signed_receipt)
            .map_err(|error| broken(error.to_string()))?;
        let receipt = SignedReceipt::decode(&bytes)
            .and_then(|signed| signed.verify())
            .map_err(|error| broken(error.to_string()))?;
        let sum = sums
            .entry(receipt.channel.to_string())
            .or_insert(NanoTon::ZERO);
        *sum = sum.saturating_add(receipt.amount);
    }
    Ok(sums)
}

fn equal(what: &str, expected: NanoTon, found: NanoTon) -> Result<(), DemoError> {
    if expected == found {
        return Ok(());
    }
    Err(DemoError::Wrong {
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    })
}
