//! The sums, to the last nanoTON: of books and a chain, whoever kept them. The storm of real processes
//! (`tests/tests/storm.rs`) adds up with this file too.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, PeerId, TonAddress};
use cocoon_settlement::chain::{Chain, TransactionSummary};
use cocoon_settlement::contract::{ChannelState, MIN_CLAIM, fetch_channel, fetch_ledger};
use cocoon_settlement::ledger::{ClientChannel, ClientLedger, WorkerLedger};
use cocoon_settlement::store::Store;

/// A client's purse and what lies on its disk.
pub(crate) struct ClientBooks<S> {
    pub(crate) wallet: TonAddress,
    pub(crate) ledger: ClientLedger<S>,
}

/// A worker's.
pub(crate) struct WorkerBooks<S> {
    pub(crate) peer: PeerId,
    pub(crate) wallet: TonAddress,
    /// Its ledger contract.
    pub(crate) contract: TonAddress,
    pub(crate) ledger: WorkerLedger<S>,
}

/// Totals, nanoTON.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) channels: usize,
    pub(crate) finished: usize,
    pub(crate) signed: u64,
    pub(crate) claimed: u64,
    pub(crate) batches: u32,
    /// Signed for what arrived, by clients whose worker died before it got the voucher and has not asked since.
    pub(crate) astray: u64,
    /// Held by a worker, and too little for the contract to pay.
    pub(crate) dust: u64,
    claimed_by: BTreeMap<TonAddress, u64>,
    paid_to: BTreeMap<TonAddress, u64>,
}

/// Adds everything up. `purse` is what each wallet was given.
pub(crate) async fn add_up<S: Store>(
    chain: &dyn Chain,
    clients: &[ClientBooks<S>],
    workers: &[WorkerBooks<S>],
    purse: NanoTon,
) -> Sums {
    let mut sums = Sums::default();
    for client in clients {
        for channel in channels(&client.ledger) {
            match fetch_channel(chain, channel.address).await.unwrap() {
                Some(state) => sums.channel(chain, client, workers, &channel, &state).await,
                None => assert_eq!(channel.signed, None, "promised on what never was"),
            }
        }
        every_coin_of(chain, client.wallet).await;
    }
    for worker in workers {
        sums.worker(chain, worker, purse).await;
    }
    sums
}

/// Every channel that a client's ledger holds.
pub(crate) fn channels<S: Store>(ledger: &ClientLedger<S>) -> Vec<ClientChannel> {
    let mut channels = Vec::new();
    ledger
        .for_each_channel(|channel| {
            channels.push(channel);
            Ok(())
        })
        .unwrap();
    channels
}

impl Sums {
    async fn channel<S: Store>(
        &mut self,
        chain: &dyn Chain,
        client: &ClientBooks<S>,
        workers: &[WorkerBooks<S>],
        channel: &ClientChannel,
        state: &ChannelState,
    ) {
        let worker = workers
            .iter()
            .find(|worker| worker.peer == channel.worker)
            .unwrap();
        assert_eq!(state.terms.worker, worker.wallet);
        let known = worker.ledger.channel(&channel.address).unwrap();
        let held = known.map_or(NanoTon::ZERO, |known| known.held_total());
        let signed = channel.signed_total();
        let astray = signed.checked_sub(held).expect("held, and never signed");
        let dust = held
            .checked_sub(state.claimed)
            .expect("claimed, and never held");
        assert!(dust < MIN_CLAIM, "{dust} of {held} were never claimed");
        self.channels += 1;
        self.finished += usize::from(state.finished);
        self.signed += signed.nano();
        self.claimed += state.claimed.nano();
        self.astray += astray.nano();
        self.dust += dust.nano();
        *self.claimed_by.entry(worker.wallet).or_default() += state.claimed.nano();
        for sent in every_coin_of(chain, channel.address)
            .await
            .iter()
            .flat_map(|one| &one.sent)
        {
            if sent.destination != client.wallet {
                assert_eq!(sent.destination, worker.wallet, "nobody else is ever paid");
                *self.paid_to.entry(sent.destination).or_default() += sent.value.nano();
            }
        }
    }

    async fn worker<S: Store>(
        &mut self,
        chain: &dyn Chain,
        worker: &WorkerBooks<S>,
        purse: NanoTon,
    ) {
        let claimed = self.claimed_by.get(&worker.wallet).copied().unwrap_or(0);
        let paid = self.paid_to.get(&worker.wallet).copied().unwrap_or(0);
        let summary = worker.ledger.summary().unwrap();
        assert_eq!(
            summary.claimed.nano(),
            claimed,
            "the worker knows what it was paid"
        );
        assert_eq!((summary.open_jobs, summary.unsettled_entries), (0, 0));
        assert!(paid <= claimed, "{paid} were paid out, {claimed} claimed");
        let Some(contract) = fetch_ledger(chain, worker.contract).await.unwrap() else {
            assert_eq!(claimed, 0, "only what was committed is claimed");
            return;
        };
        assert_eq!(contract.total, summary.credited, "committed and credited");
        assert_eq!(contract.jobs, summary.entries);
        // The sequence is unbroken: as many commits as its number says, none of them failed.
        let moved = every_coin_of(chain, worker.contract).await;
        let commits: Vec<_> = moved.iter().filter(|one| one.source.is_none()).collect();
        assert!(commits.iter().all(|one| one.success), "{commits:#?}");
        assert_eq!(commits.len(), usize::try_from(contract.seqno).unwrap());
        let newest = worker.ledger.batch(contract.seqno).unwrap();
        assert_eq!(newest.map(|batch| batch.root()), Some(contract.roots[0]));
        self.batches += contract.seqno;
        let income: u64 = every_coin_of(chain, worker.wallet)
            .await
            .iter()
            .filter(|one| one.source.is_some_and(|from| from != worker.contract))
            .map(|one| one.value.nano())
            .sum();
        assert_eq!(income, purse.nano() + paid, "the gift and the payouts");
    }
}

/// An account's transactions, whose sum is its balance.
async fn every_coin_of(chain: &dyn Chain, account: TonAddress) -> Vec<TransactionSummary> {
    let moved = transactions(chain, account).await;
    let balance = chain
        .account(account)
        .await
        .unwrap()
        .map_or(NanoTon::ZERO, |state| state.balance);
    assert_eq!(
        change(&moved),
        i128::from(balance.nano()),
        "every coin of {account}"
    );
    moved
}

/// All transactions of an account, oldest first.
pub(crate) async fn transactions(
    chain: &dyn Chain,
    account: TonAddress,
) -> Vec<TransactionSummary> {
    let mut all: Vec<TransactionSummary> = Vec::new();
    loop {
        let after = all.last().map_or(0, |one| one.lt);
        let page = chain.transactions(account, after, 100).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// By how much transactions changed the balance of their account.
fn change(transactions: &[TransactionSummary]) -> i128 {
    transactions
        .iter()
        .map(|one| {
            let sent = one.sent.iter();
            let out: u64 = sent
                .map(|sent| sent.value.nano() + sent.forward_fee.nano())
                .sum();
            i128::from(one.value.nano()) - i128::from(one.total_fees.nano()) - i128::from(out)
        })
        .sum()
}
