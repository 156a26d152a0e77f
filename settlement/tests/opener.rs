//! The opener contract in a real TVM: one message, many channels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{
    self, ChannelTerms, MAX_OPENER_ITEMS, MIN_OPENER_ITEM, OPENER_RESERVE, OpenerItem, OpenerTerms,
    OutMessage, opener_exit,
};
use support::{CLOSE_DELAY, Scene, ton};

fn terms(scene: &Scene, nonce: u32) -> ChannelTerms {
    ChannelTerms {
        nonce,
        ..scene.terms
    }
}

fn opens(scene: &Scene, nonces: std::ops::Range<u32>, deposit: NanoTon) -> Vec<OpenerItem> {
    nonces
        .map(|nonce| OpenerItem::Open {
            terms: terms(scene, nonce),
            deposit,
        })
        .collect()
}

fn opener(scene: &Scene) -> OpenerTerms {
    OpenerTerms {
        owner: scene.client.address(),
    }
}

async fn send(scene: &Scene, items: &[OpenerItem]) -> cocoon_settlement::chain::TransactionSummary {
    let message = contract::open_many_message(&opener(scene), 77, items).unwrap();
    scene.call(&scene.client, message).await
}

#[tokio::test]
async fn one_message_opens_as_many_channels_as_fit() {
    let scene = Scene::new().await;
    let count = u32::try_from(MAX_OPENER_ITEMS).unwrap();
    let deposit = ton(10);
    let before = scene.balance(scene.client.address()).await;
    let items = opens(&scene, 0..count, deposit);
    let done = send(&scene, &items).await;
    assert!(done.success, "{done:?}");
    println!(
        "{count} opens: gas {} fees {}",
        done.gas_used, done.total_fees
    );
    assert!(done.gas_used < 1_000_000, "TON's limit for a transaction");
    assert_eq!(done.sent.len(), MAX_OPENER_ITEMS + 1);
    for nonce in [0, 1, count / 2, count - 1] {
        let terms = terms(&scene, nonce);
        let state = contract::fetch_channel(&scene.chain, terms.address().unwrap())
            .await
            .unwrap()
            .expect("opened");
        assert_eq!(state.terms, terms);
        assert!(state.is_open());
        assert_eq!(state.terms.client, scene.client.address());
        assert!(state.balance > deposit.saturating_sub(ton(1)));
    }
    let after = scene.balance(scene.client.address()).await;
    let spent = before.checked_sub(after).unwrap();
    let locked = ton(10 * u64::from(count));
    let fees = spent.checked_sub(locked).unwrap();
    println!("{count} opens cost the client {fees} beside the deposits");
    assert!(fees < ton(u64::from(count)), "{fees}");
    let state = contract::fetch_opener(&scene.chain, opener(&scene).address().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(state.balance, OPENER_RESERVE);
    scene.assert_conserved();
}

#[tokio::test]
async fn opens_and_top_ups_mix_and_what_a_channel_refuses_goes_back_to_the_client() {
    let scene = Scene::with_channel(ton(100)).await;
    let finished = terms(&scene, 50);
    let finished_channel = finished.address().unwrap();
    let messages = [contract::open_message(&finished, ton(50)).unwrap()];
    scene.client.send(&scene.chain, &messages).await.unwrap();
    let start = contract::start_close_message(finished_channel).unwrap();
    scene.call(&scene.client, start).await;
    scene.pass(CLOSE_DELAY);
    let finish = contract::finish_message(finished_channel).unwrap();
    scene.call(&scene.client, finish).await;

    let before = scene.state().await.balance;
    let purse = scene.balance(scene.client.address()).await;
    let mut items = opens(&scene, 60..63, ton(20));
    items.push(OpenerItem::TopUp {
        channel: scene.channel,
        amount: ton(30),
    });
    items.push(OpenerItem::TopUp {
        channel: finished_channel,
        amount: ton(40),
    });
    items.push(OpenerItem::Open {
        terms: finished,
        deposit: MIN_OPENER_ITEM,
    });
    let done = send(&scene, &items).await;
    assert!(done.success, "{done:?}");
    assert!(scene.state().await.balance > before.checked_add(ton(29)).unwrap());
    let transactions = scene.history(opener(&scene).address().unwrap()).await;
    let refusals = contract::refusals(&transactions);
    assert_eq!(refusals.len(), 2);
    assert!(
        refusals
            .iter()
            .all(|refusal| refusal.channel == finished_channel)
    );
    assert!(refusals[0].value > ton(39) && refusals[1].value > ton(4));
    // Three deposits and a top-up are gone, all the rest is back.
    let spent = purse
        .checked_sub(scene.balance(scene.client.address()).await)
        .unwrap();
    assert!(spent > ton(90) && spent < ton(90 + 3 + 8), "{spent}");
    let state = contract::fetch_opener(&scene.chain, opener(&scene).address().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(state.balance <= OPENER_RESERVE);
    scene.assert_conserved();
}

#[tokio::test]
async fn a_list_that_cannot_be_paid_is_not_begun() {
    let scene = Scene::with_channel(ton(100)).await;
    send(&scene, &[]).await;
    let state = scene.state().await;
    let items = [
        OpenerItem::TopUp {
            channel: scene.channel,
            amount: ton(30),
        },
        OpenerItem::TopUp {
            channel: scene.channel,
            amount: ton(5000),
        },
    ];
    let whole = contract::open_many_message(&opener(&scene), 1, &items).unwrap();
    let purse = scene.balance(scene.client.address()).await;
    let short = whole.with_value(ton(4000));
    let done = scene.call(&scene.client, short).await;
    assert!(!done.success && done.action_result == Some(37), "{done:?}");
    assert_eq!(done.exit_code, Some(0), "it fails when it is paid");
    assert_eq!(scene.state().await.balance, state.balance);
    let lost = purse
        .checked_sub(scene.balance(scene.client.address()).await)
        .unwrap();
    assert!(lost < ton(2), "{lost}");
    scene.assert_conserved();
}

#[tokio::test]
async fn only_the_owner_sends_lists_and_anybodys_gift_goes_to_it() {
    let scene = Scene::with_channel(ton(100)).await;
    send(&scene, &[]).await;
    let items = [OpenerItem::TopUp {
        channel: scene.channel,
        amount: ton(5),
    }];
    let message = contract::open_many_message(&opener(&scene), 1, &items).unwrap();
    let stranger = scene.call(&scene.worker, message).await;
    assert_eq!(stranger.exit_code, Some(opener_exit::NOT_OWNER));
    let address = opener(&scene).address().unwrap();
    let gift = OutMessage::transfer(address, ton(500));
    assert!(scene.call(&scene.worker, gift).await.success);
    let purse = scene.balance(scene.client.address()).await;
    assert!(send(&scene, &[]).await.success);
    let gained = scene
        .balance(scene.client.address())
        .await
        .checked_sub(purse)
        .unwrap();
    assert!(gained > ton(498), "{gained}");
    assert_eq!(scene.balance(address).await, OPENER_RESERVE);
    let got = scene
        .chain
        .get_method(address, "opener_state", &[])
        .await
        .unwrap();
    assert_eq!(got.stack[0].as_u64(), Some(1));
    assert_eq!(got.stack[2].as_u64(), Some(250));
    scene.assert_conserved();
}

#[tokio::test]
async fn what_the_contract_would_refuse_is_not_built() {
    let scene = Scene::new().await;
    let build = |items: &[OpenerItem]| contract::open_many_message(&opener(&scene), 1, items);
    let foreign = OpenerItem::Open {
        terms: ChannelTerms {
            client: scene.worker.address(),
            ..scene.terms
        },
        deposit: ton(10),
    };
    let dust = OpenerItem::TopUp {
        channel: scene.channel,
        amount: NanoTon::from_nano(4_999_999),
    };
    let many = opens(&scene, 0..251, ton(10));
    for (items, reason) in [
        (vec![foreign], "client"),
        (vec![dust], "at least"),
        (many, "at most"),
    ] {
        let error = build(&items).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
