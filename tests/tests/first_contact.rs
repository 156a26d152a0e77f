//! A newcomer's first job over a chain that makes no blocks: its channel cannot be there. A worker that gives first
//! contact credit serves it at once, and is paid in the end; one that gives none serves it when it sees the channel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use cocoon::local_mesh::until;
use cocoon_actors::gateway_port::EarningTotals;
use cocoon_protocol::NanoTon;
use cocoon_tests::books;
use cocoon_tests::chat;
use cocoon_tests::metrics::scrape;
use cocoon_tests::network::{Network, Plan, Terms};
use cocoon_tests::program;

/// So that a job is worth a claim.
const TERMS: Terms = Terms {
    input: 1,
    output: 1_000_000,
    window: 1_000_000,
};
const PROMPT: &str = "Write a long story about a dragon who learns to count.";
const TOKENS: u32 = 20;
/// More than the worst case of the job, nanoTON.
const ENOUGH: &str = "100000000";
const PATIENCE: Duration = Duration::from_secs(60);

async fn one_worker(limit: &'static str) -> Option<Network> {
    let plan = Plan {
        workers: vec![TERMS],
        deposit: 2 * NanoTon::PER_TON,
        environment: vec![
            ("COCOON_CREDIT_FIRST_CONTACT_NANOTON", limit),
            ("COCOON_CREDIT_FIRST_CONTACT_TOTAL_NANOTON", limit),
        ],
    };
    Some(Network::start(&program::model()?, plan).await)
}

async fn totals(network: &Network) -> EarningTotals {
    let funds = network.workers[0].http.funds().await.unwrap();
    funds.earning.unwrap().totals
}

#[tokio::test]
async fn a_first_job_is_answered_before_any_block_and_paid_when_blocks_come() {
    let Some(network) = one_worker(ENOUGH).await else {
        return;
    };
    network.chain.pause().await.unwrap();
    let answer = chat::ask(&network.client, PROMPT, TOKENS).await;
    let cost = answer.cost();
    assert!(cost > 0);
    let before = totals(&network).await;
    assert_eq!(before.first_contact_nanoton, cost);
    assert_eq!(
        (before.earned_nanoton, before.first_contact_lost_nanoton),
        (0, 0),
        "signed for, and nobody's money yet"
    );
    network.chain.resume().await.unwrap();
    until("the channel", PATIENCE, async || {
        let now = totals(&network).await;
        Ok((now.first_contact_nanoton == 0).then_some(()))
    })
    .await
    .unwrap();
    let settlement = books::settle(&network.workers[0]).await;
    assert_eq!(settlement.earned_nanoton, cost);
    let channels = books::channels(&network).await;
    assert_eq!(channels.len(), 1, "one deposit: {channels:#?}");
    let channel = &channels[0];
    assert_eq!(
        (channel.signed.nano(), channel.chain.claimed.nano()),
        (cost, cost)
    );
    assert_eq!(channel.claims().count(), 1);
    books::supply_is_conserved(&network).await;
    drop(network.stop());
}

#[tokio::test]
async fn without_that_credit_the_job_waits_for_its_channel() {
    let Some(network) = one_worker("0").await else {
        return;
    };
    network.chain.pause().await.unwrap();
    let asked = chat::ask(&network.client, PROMPT, TOKENS);
    let blocks_come = async {
        until("the refusal", PATIENCE, async || {
            let counted = scrape(&network.workers[0]).await;
            Ok((counted.sum("cocoon_first_contact_refusals_total", &[]) == 1).then_some(()))
        })
        .await
        .unwrap();
        let client = network.client.http.status().await.unwrap();
        assert_eq!(client.running_jobs, 1, "it waits");
        network.chain.resume().await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, blocks_come);
    let ended = network.workers[0].http.status().await.unwrap().ended_jobs;
    assert_eq!(ended, [("completed".to_owned(), 1)].into());
    let channels = books::channels(&network).await;
    assert_eq!(channels.len(), 1, "one deposit: {channels:#?}");
    assert_eq!(channels[0].held.nano(), answer.cost());
    drop(network.stop());
}
