//! The channel contract in a real TVM, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::NanoTon;
use cocoon_protocol::voucher::{Release, SignedRelease, Voucher};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{self, CHANNEL_RESERVE, ChannelTerms, MIN_CLAIM, channel_exit};
use cocoon_settlement::devnet::GLOBAL_ID;
use support::{CLOSE_DELAY, Scene, key, refused_with, ton};

/// Gas at most, as measured with tolk 1.3.0; a new compiler that makes it dearer should be noticed.
const GAS_CLAIM: u64 = 4400;
const GAS_OPEN: u64 = 1200;
const GAS_START_CLOSE: u64 = 2300;
const GAS_FINISH: u64 = 4300;
/// `RELEASE_GAS` in the contract: what it keeps back for it.
const GAS_RELEASE: u64 = 7100;
/// Rent that may be gone between two looks, nanoTON.
const A_LITTLE_RENT: NanoTon = NanoTon::from_nano(100_000);

fn is_the_reserve(balance: NanoTon) -> bool {
    balance <= CHANNEL_RESERVE && balance >= CHANNEL_RESERVE.saturating_sub(A_LITTLE_RENT)
}

#[tokio::test]
async fn opening_deploys_the_channel_at_the_address_derived_from_its_terms() {
    let scene = Scene::with_channel(ton(1000)).await;
    let state = scene.state().await;
    assert_eq!(state.terms, scene.terms);
    assert_eq!(state.claimed, NanoTon::ZERO);
    assert!(state.is_open());
    let opening = &scene.history(scene.channel).await[0];
    assert!(opening.success, "{opening:?}");
    println!("open: gas {} fees {}", opening.gas_used, opening.total_fees);
    assert!(opening.gas_used <= GAS_OPEN);
    assert_eq!(
        state.balance,
        ton(1000).checked_sub(opening.total_fees).unwrap()
    );
    assert_eq!(
        state.available(),
        state.balance.checked_sub(CHANNEL_RESERVE).unwrap()
    );
    scene.assert_conserved();
}

#[tokio::test]
async fn the_get_methods_say_what_the_data_says() {
    let scene = Scene::with_channel(ton(1000)).await;
    scene.claim(&scene.voucher(ton(100))).await.unwrap();
    let state = scene.state().await;
    let got = scene
        .chain
        .get_method(scene.channel, "channel_state", &[])
        .await
        .unwrap();
    println!("channel_state: gas {}", got.gas_used);
    let numbers: Vec<_> = [0, 4, 5, 6, 7]
        .map(|index: usize| got.stack[index].as_u64().unwrap())
        .into();
    assert_eq!(numbers, [2, 7, u64::from(CLOSE_DELAY), ton(100).nano(), 0]);
    assert_eq!(
        got.stack[3].as_bytes32().unwrap(),
        *state.terms.client_key.as_bytes()
    );
    assert_eq!(got.stack[8].as_bool(), Some(false));
    let available = scene
        .chain
        .get_method(scene.channel, "available", &[])
        .await
        .unwrap();
    assert_eq!(available.stack[0].as_u64(), Some(state.available().nano()));
}

#[tokio::test]
async fn a_claim_pays_the_worker_and_costs_the_deposit_no_more_than_it_says() {
    let scene = Scene::with_channel(ton(1000)).await;
    let before = scene.state().await;
    let worker_before = scene.balance(scene.worker.address()).await;
    let claim = scene.claim(&scene.voucher(ton(100))).await.unwrap();
    assert!(claim.success, "{claim:?}");
    let after = scene.state().await;
    assert_eq!(after.claimed, ton(100));
    let taken = before.balance.checked_sub(after.balance).unwrap();
    let paid = scene
        .balance(scene.worker.address())
        .await
        .checked_sub(worker_before)
        .unwrap();
    println!(
        "claim: gas {} fees {} taken {taken} of {} paid {paid}",
        claim.gas_used,
        claim.total_fees,
        ton(100)
    );
    assert!(claim.gas_used <= GAS_CLAIM);
    assert!(
        taken <= ton(100),
        "the worker pays for its claim, not the deposit"
    );
    assert!(
        ton(100).checked_sub(taken).unwrap() < NanoTon::from_nano(10_000),
        "and the deposit keeps next to nothing"
    );
    assert!(paid > ton(99));
    scene.assert_conserved();
}

#[tokio::test]
async fn only_the_newest_voucher_is_worth_something_and_only_once() {
    let scene = Scene::with_channel(ton(1000)).await;
    let (small, middle, large) = (
        scene.voucher(ton(50)),
        scene.voucher(ton(100)),
        scene.voucher(ton(150)),
    );
    scene.claim(&middle).await.unwrap();
    let state = scene.state().await;
    for (name, voucher) in [("a replay", middle), ("a smaller total", small)] {
        let result = scene.claim(&voucher).await;
        assert!(
            refused_with(&result, channel_exit::NOT_NEWER),
            "{name}: {result:?}"
        );
    }
    assert_eq!(
        scene.state().await,
        state,
        "a refused claim costs nothing and changes nothing"
    );
    scene.claim(&large).await.unwrap();
    assert_eq!(scene.state().await.claimed, ton(150));
}

#[tokio::test]
async fn a_claim_that_is_not_due_is_refused_before_it_costs_anything() {
    let scene = Scene::with_channel(ton(1000)).await;
    let other = ChannelTerms {
        nonce: 8,
        ..scene.terms
    };
    let other_channel = other.address().unwrap();
    scene
        .client
        .send(
            &scene.chain,
            &[contract::open_message(&other, ton(500)).unwrap()],
        )
        .await
        .unwrap();

    let good = scene.voucher(ton(100));
    let mut flipped = good;
    flipped.signature[10] ^= 1;
    let mut raised = good;
    raised.voucher.cumulative = ton(101);
    let mut elsewhere = Voucher {
        channel: other_channel,
        cumulative: ton(100),
    }
    .sign(&scene.voucher_key, GLOBAL_ID);
    elsewhere.voucher.channel = scene.channel;
    let here = Voucher {
        channel: scene.channel,
        cumulative: ton(100),
    };
    let dust = MIN_CLAIM.checked_sub(NanoTon::from_nano(1)).unwrap();
    let available = scene.state().await.available();
    // The contract keeps 0.001 TON less than what clients and workers count on, for rent and import fees.
    let too_much = available.checked_add(ton(1)).unwrap();
    let cases = [
        ("a wrong signature", flipped, channel_exit::SIGNATURE),
        (
            "a total raised after signing",
            raised,
            channel_exit::SIGNATURE,
        ),
        (
            "another channel's voucher",
            elsewhere,
            channel_exit::SIGNATURE,
        ),
        (
            "another key",
            here.sign(&key(9), GLOBAL_ID),
            channel_exit::SIGNATURE,
        ),
        (
            "mainnet's global id",
            here.sign(&scene.voucher_key, -239),
            channel_exit::SIGNATURE,
        ),
        (
            "one nanoTON, the drain attack",
            scene.voucher(NanoTon::from_nano(1)),
            channel_exit::DUST,
        ),
        (
            "just below the smallest claim",
            scene.voucher(dust),
            channel_exit::DUST,
        ),
        (
            "more than the deposit",
            scene.voucher(too_much),
            channel_exit::BALANCE,
        ),
        (
            "all coins there are",
            scene.voucher(NanoTon::from_nano(u64::MAX)),
            channel_exit::BALANCE,
        ),
        (
            "a total of zero",
            scene.voucher(NanoTon::ZERO),
            channel_exit::NOT_NEWER,
        ),
    ];
    let before = (
        scene.state().await,
        scene.history(scene.channel).await.len(),
    );
    for (name, voucher, code) in cases {
        // Three times: what is refused at a price would be a way to drain the deposit.
        for _ in 0..3 {
            let result = scene.claim(&voucher).await;
            assert!(refused_with(&result, code), "{name}: {result:?}");
        }
    }
    assert_eq!(
        (
            scene.state().await,
            scene.history(scene.channel).await.len()
        ),
        before
    );
    // And the very last nanoTON that is available can be claimed.
    scene.claim(&scene.voucher(available)).await.unwrap();
    scene.assert_conserved();
}

#[tokio::test]
async fn the_whole_deposit_can_be_claimed_in_smallest_claims_and_no_more() {
    let scene = Scene::with_channel(ton(33)).await;
    let capacity = scene.state().await.capacity();
    let mut total = MIN_CLAIM;
    while total <= capacity {
        scene.claim(&scene.voucher(total)).await.unwrap();
        total = total.checked_add(MIN_CLAIM).unwrap();
    }
    // Fees kept back by the contract may leave a little more than was promised, never less.
    let state = scene.state().await;
    assert!(
        state.balance >= CHANNEL_RESERVE.saturating_sub(A_LITTLE_RENT),
        "{state:?}"
    );
    assert!(
        state.capacity() >= capacity.saturating_sub(A_LITTLE_RENT),
        "{state:?}"
    );
    scene.assert_conserved();
}

#[tokio::test]
async fn topping_up_raises_what_can_be_claimed() {
    let scene = Scene::with_channel(ton(20)).await;
    let claim = scene.voucher(ton(100));
    assert!(refused_with(
        &scene.claim(&claim).await,
        channel_exit::BALANCE
    ));
    let top_up = scene
        .call(
            &scene.client,
            contract::top_up_message(scene.channel, ton(200)).unwrap(),
        )
        .await;
    println!("top up: gas {} fees {}", top_up.gas_used, top_up.total_fees);
    assert!(top_up.success);
    scene.claim(&claim).await.unwrap();
    // Plain coins do the same, from anybody.
    let before = scene.state().await.available();
    let gift = contract::OutMessage::transfer(scene.channel, ton(30));
    assert!(scene.call(&scene.worker, gift).await.success);
    assert!(scene.state().await.available() > before);
    scene.assert_conserved();
}

#[tokio::test]
async fn closing_takes_the_client_the_delay_and_then_returns_the_rest() {
    let scene = Scene::with_channel(ton(1000)).await;
    let start = || contract::start_close_message(scene.channel).unwrap();
    let finish = || contract::finish_message(scene.channel).unwrap();

    let early = scene.call(&scene.client, finish()).await;
    assert_eq!(
        early.exit_code,
        Some(channel_exit::TOO_EARLY),
        "nothing was started"
    );
    let stranger = scene.call(&scene.worker, start()).await;
    assert_eq!(stranger.exit_code, Some(channel_exit::NOT_CLIENT));
    assert!(scene.state().await.is_open());

    let started = scene.call(&scene.client, start()).await;
    println!(
        "start close: gas {} fees {}",
        started.gas_used, started.total_fees
    );
    assert!(started.success && started.gas_used <= GAS_START_CLOSE);
    let state = scene.state().await;
    assert_eq!(state.close_at, Some(started.unix + CLOSE_DELAY));
    assert!(!state.is_open());
    let again = scene.call(&scene.client, start()).await;
    assert_eq!(
        again.exit_code,
        Some(channel_exit::ALREADY_CLOSING),
        "the delay cannot be drawn out"
    );

    // The worker still gets what it has earned.
    scene.claim(&scene.voucher(ton(300))).await.unwrap();
    let early = scene.call(&scene.client, finish()).await;
    assert_eq!(early.exit_code, Some(channel_exit::TOO_EARLY));

    scene.pass(CLOSE_DELAY);
    let last = scene.state().await;
    let client_before = scene.balance(scene.client.address()).await;
    // Anybody may finish; the coins go to the client all the same.
    let finished = scene.call(&scene.worker, finish()).await;
    println!(
        "finish: gas {} fees {}",
        finished.gas_used, finished.total_fees
    );
    assert!(finished.success && finished.gas_used <= GAS_FINISH);
    let returned = scene
        .balance(scene.client.address())
        .await
        .checked_sub(client_before)
        .unwrap();
    assert!(
        returned > last.available(),
        "all but the reserve, and the finisher's coins on top"
    );
    let state = scene.state().await;
    assert!(state.finished);
    assert!(is_the_reserve(state.balance), "{state:?}");
    assert_eq!(state.available(), NanoTon::ZERO);
    scene.assert_conserved();
}

#[tokio::test]
async fn a_release_pays_both_at_once_and_leaves_a_tombstone() {
    for (claimed, closing) in [(0, false), (100, false), (100, true), (300, false)] {
        let scene = Scene::with_channel(ton(1000)).await;
        if claimed > 0 {
            scene.claim(&scene.voucher(ton(claimed))).await.unwrap();
        }
        if closing {
            let start = contract::start_close_message(scene.channel).unwrap();
            scene.call(&scene.client, start).await;
        }
        let before = scene.state().await;
        let worker_before = scene.balance(scene.worker.address()).await;
        let client_before = scene.balance(scene.client.address()).await;
        let message = contract::release_message(&scene.release(ton(300))).unwrap();
        let done = scene.call(&scene.worker, message).await;
        assert!(done.success, "{done:?}");
        println!("release: gas {} fees {}", done.gas_used, done.total_fees);
        assert!(done.gas_used <= GAS_RELEASE);
        assert_eq!(done.sent.len(), 2);
        let due = ton(300 - claimed);
        // What the worker sent along comes back with it, less fees.
        let worker = scene.balance(scene.worker.address()).await;
        let fees = worker_before
            .checked_add(due)
            .unwrap()
            .checked_sub(worker)
            .unwrap();
        assert!(fees < ton(2), "{fees}");
        let client = scene.balance(scene.client.address()).await;
        let returned = client.checked_sub(client_before).unwrap();
        let owed = before.available().checked_sub(due).unwrap();
        assert!(
            returned >= owed.saturating_sub(A_LITTLE_RENT)
                && returned <= owed.checked_add(A_LITTLE_RENT).unwrap(),
            "{returned} of {owed}"
        );
        let state = scene.state().await;
        assert!(state.finished && is_the_reserve(state.balance), "{state:?}");
        assert_eq!(state.claimed, ton(300));
        assert!(refused_with(
            &scene.claim(&scene.voucher(ton(400))).await,
            channel_exit::FINISHED
        ));
        scene.assert_conserved();
    }
}

#[tokio::test]
async fn a_release_needs_both_sides_and_never_stands_for_a_voucher() {
    let scene = Scene::with_channel(ton(1000)).await;
    scene.claim(&scene.voucher(ton(100))).await.unwrap();
    let good = scene.release(ton(300));
    let voucher = scene.voucher(ton(300));
    let of_voucher = SignedRelease {
        signature: voucher.signature,
        ..good
    };
    let mut as_voucher = voucher;
    as_voucher.signature = good.signature;
    let here = Release {
        channel: scene.channel,
        cumulative: ton(300),
    };
    let raised = SignedRelease {
        release: Release {
            cumulative: ton(301),
            ..here
        },
        ..good
    };
    let cases = [
        ("a voucher's signature", of_voucher, channel_exit::SIGNATURE),
        ("another total", raised, channel_exit::SIGNATURE),
        (
            "another key",
            here.sign(&key(9), GLOBAL_ID),
            channel_exit::SIGNATURE,
        ),
        (
            "another network",
            here.sign(&scene.voucher_key, -239),
            channel_exit::SIGNATURE,
        ),
        (
            "less than was paid",
            scene.release(ton(99)),
            channel_exit::NOT_NEWER,
        ),
        (
            "more than there is",
            scene.release(ton(2000)),
            channel_exit::BALANCE,
        ),
    ];
    let before = scene.state().await;
    for (name, release, code) in cases {
        let message = contract::release_message(&release).unwrap();
        let result = scene.call(&scene.worker, message).await;
        assert_eq!(result.exit_code, Some(code), "{name}");
    }
    let message = contract::release_message(&good).unwrap();
    let result = scene.call(&scene.client, message).await;
    assert_eq!(result.exit_code, Some(channel_exit::NOT_WORKER));
    let result = scene.claim(&as_voucher).await;
    assert!(refused_with(&result, channel_exit::SIGNATURE), "{result:?}");
    let after = scene.state().await;
    assert_eq!(
        (after.claimed, after.finished),
        (before.claimed, before.finished)
    );
    // Held for later: it still works, up to the moment when more was claimed.
    scene.claim(&scene.voucher(ton(400))).await.unwrap();
    let message = contract::release_message(&good).unwrap();
    let late = scene.call(&scene.worker, message).await;
    assert_eq!(late.exit_code, Some(channel_exit::NOT_NEWER));
    scene.assert_conserved();
}

#[tokio::test]
async fn nothing_can_be_claimed_or_deposited_once_finished_even_if_it_is_opened_again() {
    let scene = Scene::with_channel(ton(1000)).await;
    scene
        .call(
            &scene.client,
            contract::start_close_message(scene.channel).unwrap(),
        )
        .await;
    scene.pass(CLOSE_DELAY);
    scene
        .call(
            &scene.client,
            contract::finish_message(scene.channel).unwrap(),
        )
        .await;
    let voucher = scene.voucher(ton(100));
    assert!(refused_with(
        &scene.claim(&voucher).await,
        channel_exit::FINISHED
    ));

    let before = scene.balance(scene.client.address()).await;
    let reopened = scene
        .call(
            &scene.client,
            contract::open_message(&scene.terms, ton(1000)).unwrap(),
        )
        .await;
    assert_eq!(reopened.exit_code, Some(channel_exit::FINISHED));
    let topped_up = scene
        .call(
            &scene.client,
            contract::top_up_message(scene.channel, ton(1000)).unwrap(),
        )
        .await;
    assert_eq!(topped_up.exit_code, Some(channel_exit::FINISHED));
    let lost = before
        .checked_sub(scene.balance(scene.client.address()).await)
        .unwrap();
    assert!(
        lost < ton(5),
        "the coins bounced: only fees are gone, {lost}"
    );
    assert!(refused_with(
        &scene.claim(&voucher).await,
        channel_exit::FINISHED
    ));
    let again = scene
        .call(
            &scene.client,
            contract::finish_message(scene.channel).unwrap(),
        )
        .await;
    assert_eq!(again.exit_code, Some(channel_exit::FINISHED));
    assert!(is_the_reserve(scene.state().await.balance));
    scene.assert_conserved();
}

#[tokio::test]
async fn a_body_the_contract_does_not_know_bounces() {
    let scene = Scene::with_channel(ton(1000)).await;
    // A ledger's withdrawal, sent to a channel.
    let result = scene
        .call(
            &scene.client,
            contract::withdraw_message(scene.channel).unwrap(),
        )
        .await;
    assert_eq!(result.exit_code, Some(channel_exit::UNKNOWN_OP));
    let returned = scene.history(scene.client.address()).await;
    assert!(returned.last().unwrap().bounced);
    // And a ledger's commit, as an external message.
    let mut commit = scene.commit(1, 1, ton(1));
    commit.ledger = scene.channel;
    let boc = contract::commit_message(&commit, &scene.ledger_key, GLOBAL_ID).unwrap();
    let result = scene.deliver(scene.channel, &boc).await;
    assert!(
        refused_with(&result, channel_exit::UNKNOWN_EXTERNAL),
        "{result:?}"
    );
}

#[tokio::test]
async fn an_account_with_other_code_is_not_taken_for_a_channel() {
    let scene = Scene::with_ledger().await;
    let error = contract::fetch_channel(&scene.chain, scene.ledger_address)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        cocoon_settlement::chain::ChainError::ForeignCode {
            expected: "channel",
            ..
        }
    ));
    assert_eq!(
        contract::fetch_channel(&scene.chain, scene.channel)
            .await
            .unwrap(),
        None,
        "never opened"
    );
    let wallet = scene.client.address();
    assert_eq!(
        contract::fetch_channel(&scene.chain, wallet).await.unwrap(),
        None,
        "funded, but not deployed"
    );
}
