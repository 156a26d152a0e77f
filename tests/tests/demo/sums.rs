//! The money of a whole run, to the last nanoTON.

use cocoon_protocol::NanoTon;
use cocoon_tests::books::{self, ChannelBook};
use cocoon_tests::chat::Answer;
use cocoon_tests::network::{Network, PURSE};

use crate::{Interrupted, cost};

/// What a claim costs at most: the contract keeps 0.00042 TON at the devnet's prices.
const MOST_FEES_OF_A_CLAIM: u64 = 500_000;

/// For each channel: what the client signed, what the worker holds, what the chain paid and what
/// the receipts say; for each worker: what it committed and what its wallet got.
pub(crate) async fn the_sums_agree_to_the_last_nanoton(
    network: &Network,
    answers: &[Answer],
    interrupted: &Interrupted,
) {
    let mut settlements = Vec::new();
    for worker in &network.workers {
        settlements.push(books::settle(worker).await);
    }
    let mut receipts = Vec::new();
    for answer in answers {
        receipts.push(books::receipt(&network.client, &answer.details.receipt).await);
    }
    let receipted = books::by_channel(&receipts);
    let channels = books::channels(network).await;
    let mut claimed_by = [0; 3];
    for channel in &channels {
        let receipts = receipted
            .get(&channel.address)
            .copied()
            .unwrap_or(NanoTon::ZERO);
        one_channel(network, channel, receipts.nano(), interrupted);
        claimed_by[channel.worker] += channel.chain.claimed.nano();
    }
    assert_eq!(
        channels
            .iter()
            .map(|channel| channel.chain.claimed.nano())
            .sum::<u64>(),
        claimed_by.iter().sum::<u64>()
    );
    for (index, settlement) in settlements.iter().enumerate() {
        assert_eq!(
            settlement.earned_nanoton, claimed_by[index],
            "committed and claimed"
        );
        assert_eq!(settlement.settled_nanoton, claimed_by[index]);
        if claimed_by[index] == 0 {
            assert_eq!(
                settlement.confirmed_batch, 0,
                "nothing earned, nothing committed"
            );
            continue;
        }
        let address = books::ledger_address(&network.workers[index]).await;
        let (ledger, transactions) = books::ledger(network, address).await;
        assert_eq!(
            ledger.total.nano(),
            claimed_by[index],
            "what the worker committed to"
        );
        assert_eq!(ledger.seqno, 1);
        assert_eq!(settlement.confirmed_batch, 1);
        let jobs = answers
            .iter()
            .filter(|answer| network.worker_of(&answer.details.worker) == index)
            .count();
        let jobs = u64::try_from(jobs).unwrap() + u64::from(interrupted.worker == index);
        assert_eq!(
            ledger.jobs, jobs,
            "an entry for each receipt, and for what was cut off"
        );
        // Deployed once, committed once.
        assert_eq!(transactions.len(), 2, "{transactions:#?}");
        assert!(transactions.iter().all(|one| one.success));
        let paid: u64 = channels
            .iter()
            .filter(|channel| channel.worker == index)
            .map(|channel| channel.paid_out.nano())
            .sum();
        // Everything that ever moved in its wallet: the faucet's coins, the ledger's deployment, the
        // payout. Its balance is the sum of that.
        let wallet = network.workers[index].wallet().unwrap();
        let moved = books::transactions(network, wallet).await;
        let income: u64 = moved.iter().map(|one| one.value.nano()).sum();
        assert_eq!(income, PURSE.nano() + paid, "{moved:#?}");
        let balance = books::balance(network, &network.workers[index]).await;
        assert_eq!(
            books::change(&moved),
            i128::from(balance.nano()),
            "{moved:#?}"
        );
    }
    books::supply_is_conserved(network).await;
}

fn one_channel(network: &Network, channel: &ChannelBook, receipts: u64, interrupted: &Interrupted) {
    let terms = network.terms(channel.worker);
    println!(
        "worker {}: signed {}, held {}, claimed {}, receipts {receipts} nanoTON",
        channel.worker + 1,
        channel.signed.nano(),
        channel.held.nano(),
        channel.chain.claimed.nano(),
    );
    assert_eq!(
        channel.chain.claimed, channel.held,
        "claimed on chain and vouchers held"
    );
    assert_eq!(
        channel.recorded, channel.held,
        "the worker knows that it was paid"
    );
    // On the killed worker's channel the client signed for what arrived before the kill as well, and for
    // nothing else. What of that was on its way when the worker died came with the next job.
    let cut_off = match channel.worker == interrupted.worker {
        true => cost(terms, interrupted.prompt_tokens, interrupted.tokens),
        false => 0,
    };
    assert_eq!(
        channel.signed.nano(),
        receipts + cut_off,
        "signed, and in receipts or cut off"
    );
    assert_eq!(channel.held, channel.signed, "held and signed");
    // Opened once, claimed once; what the claim's fees left over stays in the channel.
    assert_eq!(channel.transactions.len(), 2, "{:#?}", channel.transactions);
    assert!(channel.transactions.iter().all(|one| one.success));
    let balance = i128::from(channel.chain.balance.nano());
    assert_eq!(
        books::change(&channel.transactions),
        balance,
        "every coin of the channel"
    );
    assert_eq!(
        i128::from(channel.deposit.nano()) + books::change(channel.claims()),
        balance,
        "what the client's ledger holds for the deposit, less what the claim took"
    );
    let kept = channel.chain.claimed.nano() - channel.paid_out.nano();
    assert!(
        kept < MOST_FEES_OF_A_CLAIM,
        "{kept} nanoTON of the claim were not paid out"
    );
}
