//! Random walks over both contracts: no coin appears or vanishes, and what was paid stays paid.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::NanoTon;
use cocoon_settlement::contract;
use proptest::prelude::*;
use support::{CLOSE_DELAY, Scene, ton};

/// One step of a walk.
#[derive(Clone, Debug)]
enum Step {
    Claim(u64),
    TopUp(u64),
    StartClose(bool),
    Finish,
    Reopen(u64),
    Commit(u64),
    Withdraw(bool),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..200_000_000u64).prop_map(Step::Claim),
        2 => (1..100_000_000u64).prop_map(Step::TopUp),
        1 => any::<bool>().prop_map(Step::StartClose),
        1 => Just(Step::Finish),
        1 => (1..100_000_000u64).prop_map(Step::Reopen),
        2 => (0..1000u64).prop_map(Step::Commit),
        1 => any::<bool>().prop_map(Step::Withdraw),
        1 => (0..CLOSE_DELAY * 2).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_coin_appears_or_vanishes(steps in proptest::collection::vec(step(), 1..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(walk(steps));
    }
}

async fn walk(steps: Vec<Step>) {
    let scene = Scene::with_channel(ton(150)).await;
    let deploy = contract::deploy_ledger_message(&scene.ledger, ton(20)).unwrap();
    scene.worker.send(&scene.chain, &[deploy]).await.unwrap();
    let mut promised = NanoTon::ZERO;
    for step in steps {
        let before = scene.state().await;
        let mut claimed = None;
        match step {
            Step::Claim(amount) => {
                promised = promised.checked_add(NanoTon::from_nano(amount)).unwrap();
                claimed = scene.claim(&scene.voucher(promised)).await.ok();
            }
            Step::TopUp(amount) => {
                let message =
                    contract::top_up_message(scene.channel, NanoTon::from_nano(amount)).unwrap();
                scene.call(&scene.client, message).await;
            }
            Step::StartClose(by_client) => {
                let who = if by_client {
                    &scene.client
                } else {
                    &scene.worker
                };
                scene
                    .call(who, contract::start_close_message(scene.channel).unwrap())
                    .await;
            }
            Step::Finish => {
                scene
                    .call(
                        &scene.client,
                        contract::finish_message(scene.channel).unwrap(),
                    )
                    .await;
            }
            Step::Reopen(amount) => {
                let message =
                    contract::open_message(&scene.terms, NanoTon::from_nano(amount)).unwrap();
                scene.call(&scene.client, message).await;
            }
            Step::Commit(jobs) => {
                let ledger = scene.ledger_state().await;
                let _ = scene
                    .send_commit(&scene.commit(ledger.seqno + 1, jobs, ledger.total))
                    .await;
                assert!(scene.ledger_state().await.jobs >= ledger.jobs);
            }
            Step::Withdraw(by_owner) => {
                let who = if by_owner {
                    &scene.worker
                } else {
                    &scene.client
                };
                scene
                    .call(
                        who,
                        contract::withdraw_message(scene.ledger_address).unwrap(),
                    )
                    .await;
            }
            Step::Pass(seconds) => scene.pass(seconds),
        }
        scene.assert_conserved();
        let after = scene.state().await;
        assert!(after.claimed >= before.claimed, "what was paid stays paid");
        assert!(
            !before.finished
                || after
                    == (contract::ChannelState {
                        balance: after.balance,
                        last_lt: after.last_lt,
                        ..before
                    })
        );
        match claimed {
            Some(transaction) => {
                assert_eq!(after.claimed, promised);
                assert!(
                    transaction.success && transaction.sent.len() == 1,
                    "an accepted claim is a paid claim"
                );
                let due = promised.checked_sub(before.claimed).unwrap();
                let rent = NanoTon::from_nano(1_000_000);
                assert!(
                    before.balance.checked_sub(after.balance).unwrap()
                        <= due.checked_add(rent).unwrap()
                );
            }
            None => assert_eq!(after.claimed, before.claimed),
        }
    }
}
