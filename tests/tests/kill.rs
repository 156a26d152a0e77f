//! SIGKILL at the two moments where a worker could lose money or ask for it twice: after a voucher is
//! on its disk and before the tokens that it unlocks are sent; after a batch was handed to the chain
//! and before it saw the batch confirmed.
//!
//! The crash points are in the program (`actors/src/failpoint.rs`); they are compiled in with the
//! feature `failpoints` only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use cocoon::local_mesh::until;
use cocoon_protocol::NanoTon;
use cocoon_settlement::ledger::WorkerSummary;
use cocoon_tests::books::{self, ChannelBook};
use cocoon_tests::chat::{self, Answer};
use cocoon_tests::metrics::scrape;
use cocoon_tests::network::{Network, Plan, Terms};
use cocoon_tests::program;

/// The prompt costs next to nothing, so the smallest window, a prompt and two frames, is little more
/// than two frames: the third frame needs the first voucher, and so on.
const TERMS: Terms = Terms {
    input: 1,
    output: 1_000_000,
    window: 1_000_000,
};
/// Tokens in a frame.
const FRAME: u64 = 8;
const LONG: &str = "Write a long story about a dragon who learns to count.";
const LONG_TOKENS: u32 = 120;
const PATIENCE: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;
/// Chain seconds after which a commit is void, and some more.
const COMMIT_LAPSES_S: u32 = 90;

async fn one_worker(environment: &[(&'static str, &'static str)]) -> Option<Network> {
    if !program::has_failpoints() {
        return None;
    }
    let plan = Plan {
        workers: vec![TERMS],
        deposit: 2 * NanoTon::PER_TON,
        // Only the worker reaches a crash point.
        environment: environment.to_vec(),
    };
    Some(Network::start(&program::model()?, plan).await)
}

/// Waits until the worker has killed itself.
fn has_killed_itself(network: &mut Network) {
    let status = network.workers[0].process.wait(PATIENCE).expect("an end");
    assert_eq!(status.signal(), Some(SIGKILL), "ended otherwise: {status}");
}

/// Tries until the worker, which may just have come back, is found again. What was refused on the way
/// brought no text and cost nothing.
async fn until_found<T>(mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let found = until("an answer", PATIENCE, async || {
        Ok(match attempt().await {
            Ok(found) => Some(found),
            Err(code) => {
                *refused.entry(code).or_insert(0) += 1;
                None
            }
        })
    })
    .await;
    found.unwrap_or_else(|error| panic!("{error}; refused so far: {refused:?}"))
}

async fn ask(network: &Network, prompt: &str, tokens: u32) -> Answer {
    until_found(async || chat::ask_whole(&network.client, prompt, tokens).await).await
}

/// The one channel, from all sides.
async fn channel(network: &Network) -> ChannelBook {
    let mut channels = books::channels(network).await;
    assert_eq!(
        channels.len(),
        1,
        "one channel carries all jobs: {channels:#?}"
    );
    channels.pop().unwrap()
}

async fn signed(network: &Network) -> u64 {
    let status = network.client.http.status().await.unwrap();
    status
        .channels
        .iter()
        .map(|channel| channel.signed_nanoton)
        .sum()
}

fn held(ledger: &WorkerSummary) -> u64 {
    ledger.held.nano()
}

#[tokio::test]
async fn a_worker_killed_between_a_stored_voucher_and_its_tokens_loses_nothing_and_claims_it_once()
{
    // Once at the first voucher of a job, and once in the middle of another on the same channel.
    let armed = |vouchers: u64| ("COCOON_FAILPOINT", format!("voucher-stored:{vouchers}"));
    let Some(mut network) = one_worker(&[("COCOON_FAILPOINT", "voucher-stored:1")]).await else {
        return;
    };
    let mut paid_before = 0;
    for vouchers in [1, 3] {
        if vouchers > 1 {
            let status = network.workers[0].process.stop().unwrap();
            assert_eq!(status.code(), Some(0));
            let (name, value) = armed(vouchers);
            network.restart(0, &[(name, &value)]).await;
        }
        paid_before = cut_off_at(&mut network, vouchers, paid_before).await;
    }
    for _ in 0..2 {
        // The second time there is nothing left to do, and nothing is done.
        let settlement = books::settle(&network.workers[0]).await;
        let channel = channel(&network).await;
        assert_eq!(channel.signed.nano(), paid_before);
        assert_eq!(settlement.earned_nanoton, paid_before);
        // Two jobs that were cut off, and two that came after.
        claimed_and_committed(&network, &channel, 1, 4).await;
    }
    books::supply_is_conserved(&network).await;
    drop(network.stop());
}

/// A job whose worker dies once it has stored so many of its vouchers; then the worker comes back and
/// does another job. Returns what was signed in all.
async fn cut_off_at(network: &mut Network, vouchers: u64, paid_before: u64) -> u64 {
    let url = network.client.url();
    let request = chat::request(LONG, LONG_TOKENS);
    let transcript =
        until_found(async || chat::try_stream(&url, &request, async |_, _| {}).await).await;
    has_killed_itself(network);
    let (code, message) = transcript.failure();
    assert_eq!(code, "worker_lost", "{message}");
    let tokens = message
        .split_once("after ")
        .unwrap()
        .1
        .split_once(" tokens")
        .unwrap()
        .0;
    let tokens: u64 = tokens.parse().unwrap();

    // What is on the dead worker's disk is the newest voucher: the one that it died after storing.
    let ledger = books::on_disk(&network.workers[0]);
    let stored = held(&ledger) - paid_before;
    let prompt_cost = stored % TERMS.output;
    assert_eq!(
        stored,
        prompt_cost + vouchers * FRAME * TERMS.output,
        "{vouchers} vouchers"
    );
    assert_eq!(ledger.open_jobs, 1, "the job has no end yet");
    // The tokens that this voucher unlocks were not sent: the window lets one frame out ahead of it,
    // and no more.
    println!("killed at voucher {vouchers}: {tokens} tokens had arrived");
    assert!(
        (vouchers * FRAME..=(vouchers + 1) * FRAME).contains(&tokens),
        "{tokens} tokens arrived for {vouchers} vouchers"
    );
    // The client signed for what arrived, whether that reached the disk or not.
    let signed_now = signed(network).await;
    assert_eq!(
        signed_now - paid_before,
        prompt_cost + tokens * TERMS.output
    );

    network.restart(0, &[("COCOON_FAILPOINT", "")]).await;
    let status = network.workers[0].http.status().await.unwrap();
    assert_eq!(
        status.channels[0].signed_nanoton,
        held(&ledger),
        "nothing was lost"
    );
    let settlement = status.settlement.unwrap();
    assert_eq!(
        settlement.earned_nanoton,
        held(&ledger),
        "what was cut off is earned"
    );
    assert_eq!(settlement.settled_nanoton, 0);
    assert_eq!(
        status.ended_jobs,
        BTreeMap::from([("interrupted".to_owned(), 1)])
    );

    // The next job finds a signed total that the worker may not hold all of, and brings it.
    let answer = ask(network, "Say hello.", 8).await;
    let signed_now = signed_now + answer.cost();
    assert_eq!(signed(network).await, signed_now);
    let channel = channel(network).await;
    assert_eq!(
        channel.held, channel.signed,
        "what was on its way has come with the next job"
    );
    let receipt = books::receipt(&network.client, &answer.details.receipt).await;
    assert_eq!(
        receipt.cumulative.nano(),
        signed_now,
        "the receipt counts what came before"
    );
    signed_now
}

/// The chain saw exactly this many batches, each of them once, and no claim that it refused; and they
/// say what the worker earned.
async fn claimed_and_committed(
    network: &Network,
    channel: &ChannelBook,
    batches: u32,
    entries: u64,
) {
    let count = usize::try_from(batches).unwrap();
    let address = books::ledger_address(&network.workers[0]).await;
    let (ledger, transactions) = books::ledger(network, address).await;
    assert_eq!(ledger.seqno, batches);
    assert_eq!(ledger.jobs, entries, "one entry for each job");
    assert_eq!(ledger.total, channel.held);
    assert!(
        transactions.iter().all(|one| one.success),
        "{transactions:#?}"
    );
    let commits = transactions
        .iter()
        .filter(|one| one.source.is_none())
        .count();
    assert_eq!(commits, count, "each batch was committed once");
    assert_eq!(
        transactions.len(),
        count + 1,
        "and the contract was deployed once"
    );
    assert!(
        channel.transactions.iter().all(|one| one.success),
        "{:#?}",
        channel.transactions
    );
    // Two batches that were confirmed in one go are claimed in one.
    let claims = channel.claims().count();
    assert!(
        (1..=count).contains(&claims),
        "{claims} claims for {count} batches"
    );
    assert_eq!(
        channel.transactions.len(),
        claims + 1,
        "and the channel was opened once"
    );
    assert_eq!(channel.chain.claimed, channel.held, "claimed and held");
}

#[tokio::test]
async fn a_worker_killed_between_a_submitted_batch_and_its_confirmation_commits_and_claims_it_once()
{
    // A life armed with :1 dies of the first batch that it submits, one armed with :2 of the second: so
    // one that submits what an earlier life submitted already dies of it, and the test with it.
    const FIRST: (&str, &str) = ("COCOON_FAILPOINT", "commit-submitted:1");
    const SECOND: (&str, &str) = ("COCOON_FAILPOINT", "commit-submitted:2");
    let Some(mut network) = one_worker(&[FIRST]).await else {
        return;
    };
    let ledger = books::ledger_address(&network.workers[0]).await;

    // The chain takes the batch while the worker is dead. The second life has nothing to submit.
    let first = chat::ask(&network.client, "Say hello.", 16).await.cost();
    settle_and_die(&mut network, 1, first).await;
    books::committed(&network, ledger, 1).await;
    network.restart(0, &[FIRST]).await;
    books::settle(&network.workers[0]).await;
    let channel = channel(&network).await;
    assert_eq!(channel.signed.nano(), first);
    claimed_and_committed(&network, &channel, 1, 1).await;

    // The chain makes no block until the worker is back and has looked.
    let answer = ask(&network, "Say goodbye.", 16).await;
    let second = first + answer.cost();
    network.chain.pause().await.unwrap();
    settle_and_die(&mut network, 2, second).await;
    network.restart(0, &[SECOND]).await;
    network.all_verified().await;
    // It serves only once it has compared its ledger with the contract.
    let answer = ask(&network, "Say hello again.", 16).await;
    let third = second + answer.cost();
    assert_eq!(
        books::ledger(&network, ledger).await.0.seqno,
        1,
        "no block was made"
    );
    let settlement = network.workers[0]
        .http
        .status()
        .await
        .unwrap()
        .settlement
        .unwrap();
    assert_eq!(settlement.confirmed_batch, 1);
    assert_eq!(settlement.settled_nanoton, first);
    network.chain.resume().await.unwrap();
    books::committed(&network, ledger, 2).await;
    let settlement = books::settle(&network.workers[0]).await;
    assert_eq!(
        settlement.confirmed_batch, 3,
        "what was under way, then the new job's"
    );
    let channel = self::channel(&network).await;
    assert_eq!(channel.signed.nano(), third);
    claimed_and_committed(&network, &channel, 3, 3).await;
    // Counters begin with the process.
    let counted = scrape(&network.workers[0]).await;
    assert_eq!(counted.sum("cocoon_batches_confirmed_total", &[]), 2);
    assert_eq!(
        counted.sum("cocoon_settled_nanoton_total", &[]),
        third - first
    );

    // The batch is submitted and never taken: its time runs out before there is a block. The next life
    // submits it again, and that is the only one that counts.
    let answer = ask(&network, "Say goodbye again.", 16).await;
    let fourth = third + answer.cost();
    network.workers[0].process.stop().unwrap();
    network.restart(0, &[FIRST]).await;
    network.chain.pause().await.unwrap();
    settle_and_die(&mut network, 4, fourth).await;
    network.chain.advance(1, COMMIT_LAPSES_S).await.unwrap();
    assert_eq!(
        books::ledger(&network, ledger).await.0.seqno,
        3,
        "it came too late"
    );
    network.chain.resume().await.unwrap();
    network.restart(0, &[SECOND]).await;
    books::settle(&network.workers[0]).await;
    let channel = self::channel(&network).await;
    assert_eq!(channel.signed.nano(), fourth);
    claimed_and_committed(&network, &channel, 4, 4).await;
    books::supply_is_conserved(&network).await;
    drop(network.stop());
}

/// Has the worker settle; it dies with its batch handed over and not confirmed, holding so much.
async fn settle_and_die(network: &mut Network, seqno: u32, total: u64) {
    network.workers[0].admin("settle").await.unwrap();
    has_killed_itself(network);
    let ledger = books::on_disk(&network.workers[0]);
    assert_eq!(held(&ledger), total, "every voucher is on the disk");
    let batch = ledger.batches.last().expect("a batch");
    assert_eq!((batch.seqno, batch.state), (seqno, "submitted"));
    assert_eq!(batch.total.nano(), total);
    assert!(ledger.committed.nano() < total && ledger.claimed == ledger.committed);
}
