//! The sums, to the last nanoTON.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{Chain, TransactionSummary};
use cocoon_settlement::contract::{MIN_CLAIM, fetch_channel, fetch_ledger};

use crate::client::Client;
use crate::jobs::{Tally, window};
use crate::worker::Worker;
use crate::world::World;

/// Totals, for people.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) channels: usize,
    pub(crate) signed: u64,
    pub(crate) claimed: u64,
    pub(crate) batches: u32,
    /// Signed for what arrived, by clients whose worker died before it got the voucher and whose channel closed before it came
    /// back.
    pub(crate) astray: u64,
    /// Signed, and too little for the contract to pay.
    pub(crate) dust: u64,
}

/// What must be true at every block of the storm.
pub(crate) async fn at_every_block(world: &World, clients: &[Client]) {
    let supply = world.chain.devnet().supply().unwrap();
    assert_eq!(
        supply.minted,
        supply.balances + supply.in_flight + supply.collected,
        "{supply:?}"
    );
    for channel in clients.iter().flat_map(Client::channels) {
        if let Some(state) = fetch_channel(&world.chain, channel.address).await.unwrap() {
            assert!(
                state.claimed <= channel.signed_total(),
                "channel {} paid {}, its client signed {}",
                channel.address,
                state.claimed,
                channel.signed_total()
            );
        }
    }
}

/// What must be true after it, when every channel is finished.
pub(crate) async fn at_the_end(
    world: &World,
    clients: &[Client],
    workers: &[Worker],
    tally: &Tally,
) -> Sums {
    let mut sums = Sums::default();
    let mut claimed_by: BTreeMap<TonAddress, u64> = BTreeMap::new();
    let mut paid_to: BTreeMap<TonAddress, u64> = BTreeMap::new();
    for client in clients {
        let mut returned = 0;
        for channel in client.channels() {
            let Some(state) = fetch_channel(&world.chain, channel.address).await.unwrap() else {
                assert_eq!(
                    channel.signed, None,
                    "nothing was promised on what never was"
                );
                continue;
            };
            let worker = workers
                .iter()
                .find(|worker| worker.peer == channel.worker)
                .unwrap();
            let held = worker
                .on_disk()
                .channel(&channel.address)
                .unwrap()
                .map_or(NanoTon::ZERO, |known| known.held_total());
            let signed = channel.signed_total();
            assert!(state.finished, "{} is finished", channel.address);
            // A client that closed before its last voucher arrived had lost its worker in the middle of a job.
            let astray = signed.checked_sub(held).unwrap();
            let dust = held.checked_sub(state.claimed).unwrap();
            assert!(dust < MIN_CLAIM, "{dust} of {held} were never claimed");
            sums.astray += astray.nano();
            sums.channels += 1;
            sums.signed += signed.nano();
            sums.claimed += state.claimed.nano();
            sums.dust += dust.nano();
            *claimed_by.entry(state.terms.worker).or_default() += state.claimed.nano();

            let moved = world.transactions(channel.address).await;
            assert_eq!(
                change(&moved),
                i128::from(state.balance.nano()),
                "every coin of it"
            );
            for sent in moved.iter().flat_map(|one| &one.sent) {
                if sent.destination == client.wallet.address() {
                    returned += sent.value.nano();
                } else {
                    assert_eq!(
                        sent.destination, state.terms.worker,
                        "payouts go to the worker"
                    );
                    *paid_to.entry(sent.destination).or_default() += sent.value.nano();
                }
            }
        }
        assert!(returned > 0, "the client got something back");
        let wallet = client.wallet.address();
        let balance = world.chain.account(wallet).await.unwrap().unwrap().balance;
        let moved = world.transactions(wallet).await;
        assert_eq!(
            change(&moved),
            i128::from(balance.nano()),
            "every coin of the client"
        );
    }
    assert!(
        sums.signed <= tally.delivered,
        "clients signed {} for tokens worth {}",
        sums.signed,
        tally.delivered
    );
    let interrupted = tally.begun - tally.completed;
    assert!(
        tally.delivered - sums.signed + sums.astray <= window().nano() * interrupted,
        "workers gave more on credit than a window for each job that died"
    );
    for worker in workers {
        sums.batches += the_worker(world, worker, &claimed_by, &paid_to).await;
    }
    sums
}

async fn the_worker(
    world: &World,
    worker: &Worker,
    claimed_by: &BTreeMap<TonAddress, u64>,
    paid_to: &BTreeMap<TonAddress, u64>,
) -> u32 {
    let wallet = worker.wallet.address();
    let claimed = claimed_by.get(&wallet).copied().unwrap_or(0);
    let summary = worker.on_disk().summary().unwrap();
    assert_eq!(
        summary.claimed.nano(),
        claimed,
        "the worker knows what it was paid"
    );
    assert_eq!((summary.open_jobs, summary.unsettled_entries), (0, 0));
    let address = worker.terms.address().unwrap();
    let contract = fetch_ledger(&world.chain, address).await.unwrap().unwrap();
    assert_eq!(contract.total, summary.credited, "committed and credited");
    assert_eq!(contract.jobs, summary.entries);
    // The sequence is unbroken: as many commits as its number says, none of them failed.
    let moved = world.transactions(address).await;
    let commits: Vec<_> = moved.iter().filter(|one| one.source.is_none()).collect();
    assert!(commits.iter().all(|one| one.success), "{commits:#?}");
    assert_eq!(commits.len(), usize::try_from(contract.seqno).unwrap());
    let newest = worker.on_disk().batch(contract.seqno).unwrap().unwrap();
    assert_eq!(newest.root(), contract.roots[0]);
    assert_eq!(change(&moved), i128::from(contract.balance.nano()));
    // The wallet: what came in is the gift and the payouts (and what its own deployments left over).
    let moved = world.transactions(wallet).await;
    let balance = world.chain.account(wallet).await.unwrap().unwrap().balance;
    assert_eq!(
        change(&moved),
        i128::from(balance.nano()),
        "every coin of the worker"
    );
    let paid = paid_to.get(&wallet).copied().unwrap_or(0);
    assert!(paid <= claimed, "{paid} were paid out, {claimed} claimed");
    let income: u64 = moved
        .iter()
        .filter(|one| one.source.is_some_and(|from| from != address))
        .map(|one| one.value.nano())
        .sum();
    assert_eq!(
        income,
        crate::PURSE.nano() + paid,
        "the gift and the payouts"
    );
    contract.seqno
}

/// By how much transactions changed the balance of their account.
fn change(transactions: &[TransactionSummary]) -> i128 {
    transactions
        .iter()
        .map(|one| {
            let out: u64 = one
                .sent
                .iter()
                .map(|sent| sent.value.nano() + sent.forward_fee.nano())
                .sum();
            i128::from(one.value.nano()) - i128::from(one.total_fees.nano()) - i128::from(out)
        })
        .sum()
}
