//! The ledger contract in a real TVM, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::{Digest, NanoTon};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::{self, Commit, LEDGER_RESERVE, OutMessage, ledger_exit};
use cocoon_settlement::devnet::GLOBAL_ID;
use support::{Scene, key, refused_with, ton};

/// Gas at most, as measured with tolk 1.3.0.
const GAS_COMMIT: u64 = 4500;

#[tokio::test]
async fn commits_follow_one_another_and_the_last_roots_are_kept() {
    let scene = Scene::with_ledger().await;
    assert_eq!(scene.ledger_state().await.seqno, 0);
    for seqno in 1..=6 {
        let commit = scene.commit(seqno, u64::from(seqno) * 10, ton(u64::from(seqno)));
        let transaction = scene.send_commit(&commit).await.unwrap();
        if seqno > 4 {
            println!(
                "commit {seqno}: gas {} fees {}",
                transaction.gas_used, transaction.total_fees
            );
        }
        assert!(
            transaction.success && transaction.gas_used <= GAS_COMMIT,
            "{transaction:?}"
        );
    }
    let state = scene.ledger_state().await;
    assert_eq!((state.seqno, state.jobs, state.total), (6, 60, ton(6)));
    let root = |seqno: u32| Digest::sha256(&seqno.to_be_bytes());
    assert_eq!(state.roots, [6, 5, 4, 3].map(root));
    assert_eq!(state.root_of(4), Some(root(4)));
    assert_eq!(
        [state.root_of(2), state.root_of(0), state.root_of(7)],
        [None; 3]
    );

    let got = scene
        .chain
        .get_method(scene.ledger_address, "ledger_state", &[])
        .await
        .unwrap();
    assert_eq!(got.stack[3].as_u64(), Some(6));
    assert_eq!(got.stack[4].as_bytes32(), Some(*root(6).as_bytes()));
    assert_eq!(
        [got.stack[5].as_u64(), got.stack[6].as_u64()],
        [Some(60), Some(ton(6).nano())]
    );
    let roots = scene
        .chain
        .get_method(scene.ledger_address, "recent_roots", &[])
        .await
        .unwrap();
    assert_eq!(roots.stack[3].as_bytes32(), Some(*root(3).as_bytes()));
    scene.assert_conserved();
}

#[tokio::test]
async fn a_commit_that_is_not_the_next_is_refused_at_no_cost() {
    let scene = Scene::with_ledger().await;
    scene
        .send_commit(&scene.commit(1, 10, ton(5)))
        .await
        .unwrap();
    let next = scene.commit(2, 20, ton(9));
    let cases: [(&str, Commit, i32); 9] = [
        ("a replay", scene.commit(1, 10, ton(5)), ledger_exit::SEQNO),
        ("a gap", Commit { seqno: 3, ..next }, ledger_exit::SEQNO),
        (
            "seqno zero",
            Commit { seqno: 0, ..next },
            ledger_exit::SEQNO,
        ),
        (
            "the largest seqno",
            Commit {
                seqno: u32::MAX,
                ..next
            },
            ledger_exit::SEQNO,
        ),
        (
            "fewer jobs",
            Commit { jobs: 9, ..next },
            ledger_exit::REGRESS,
        ),
        (
            "a smaller total",
            Commit {
                total: ton(4),
                ..next
            },
            ledger_exit::REGRESS,
        ),
        (
            "just expired",
            Commit {
                valid_until: scene.now(),
                ..next
            },
            ledger_exit::EXPIRED,
        ),
        (
            "long expired",
            Commit {
                valid_until: 1,
                ..next
            },
            ledger_exit::EXPIRED,
        ),
        ("meant for another ledger", next, ledger_exit::ADDRESS),
    ];
    let before = (
        scene.ledger_state().await,
        scene.history(scene.ledger_address).await.len(),
    );
    for (name, mut commit, code) in cases {
        let address = commit.ledger;
        if name == "meant for another ledger" {
            commit.ledger.hash[0] ^= 1;
        }
        let mut boc = contract::commit_message(&commit, &scene.ledger_key, GLOBAL_ID).unwrap();
        if commit.ledger != address {
            boc = readdress(&boc, address);
        }
        for _ in 0..3 {
            let result = scene.deliver(address, &boc).await;
            assert!(refused_with(&result, code), "{name}: {result:?}");
        }
    }
    let foreign = [
        (
            "another key",
            contract::commit_message(&next, &key(9), GLOBAL_ID).unwrap(),
            ledger_exit::SIGNATURE,
        ),
        (
            "another network",
            contract::commit_message(&next, &scene.ledger_key, -239).unwrap(),
            ledger_exit::ADDRESS,
        ),
    ];
    for (name, boc, code) in foreign {
        let result = scene.deliver(scene.ledger_address, &boc).await;
        assert!(refused_with(&result, code), "{name}: {result:?}");
    }
    assert_eq!(
        (
            scene.ledger_state().await,
            scene.history(scene.ledger_address).await.len()
        ),
        before
    );
    scene.send_commit(&next).await.unwrap();
}

/// The same body, to another account.
fn readdress(boc: &[u8], to: cocoon_protocol::TonAddress) -> Vec<u8> {
    use tycho_types::boc::Boc;
    use tycho_types::cell::{CellBuilder, HashBytes};
    use tycho_types::models::{MsgInfo, OwnedMessage, StdAddr};
    let mut message = Boc::decode(boc).unwrap().parse::<OwnedMessage>().unwrap();
    let MsgInfo::ExtIn(info) = &mut message.info else {
        panic!("external")
    };
    info.dst = StdAddr::new(to.workchain, HashBytes(to.hash)).into();
    Boc::encode(CellBuilder::build_from(message).unwrap())
}

#[tokio::test]
async fn jobs_without_pay_still_count() {
    let scene = Scene::with_ledger().await;
    scene
        .send_commit(&scene.commit(1, 10, ton(5)))
        .await
        .unwrap();
    scene
        .send_commit(&scene.commit(2, 12, ton(5)))
        .await
        .unwrap();
    assert_eq!(scene.ledger_state().await.jobs, 12);
}

#[tokio::test]
async fn a_ledger_too_poor_to_pay_refuses_and_a_gift_helps() {
    let scene = Scene::new().await;
    let deploy = contract::deploy_ledger_message(&scene.ledger, ton(2)).unwrap();
    scene.worker.send(&scene.chain, &[deploy]).await.unwrap();
    let commit = scene.commit(1, 1, ton(1));
    assert!(refused_with(
        &scene.send_commit(&commit).await,
        ledger_exit::BALANCE
    ));
    scene
        .client
        .send(
            &scene.chain,
            &[OutMessage::transfer(scene.ledger_address, ton(50))],
        )
        .await
        .unwrap();
    scene.send_commit(&commit).await.unwrap();
}

#[tokio::test]
async fn only_the_owner_withdraws_and_the_reserve_stays() {
    let scene = Scene::with_ledger().await;
    let withdraw = || contract::withdraw_message(scene.ledger_address).unwrap();
    let stranger = scene.call(&scene.client, withdraw()).await;
    assert_eq!(stranger.exit_code, Some(ledger_exit::NOT_OWNER));
    let before = scene.balance(scene.worker.address()).await;
    let owner = scene.call(&scene.worker, withdraw()).await;
    println!("withdraw: gas {} fees {}", owner.gas_used, owner.total_fees);
    assert!(owner.success);
    assert_eq!(scene.ledger_state().await.balance, LEDGER_RESERVE);
    let gained = scene
        .balance(scene.worker.address())
        .await
        .checked_sub(before)
        .unwrap();
    assert!(gained > ton(90) && gained < ton(97), "{gained}");
    let unknown = scene
        .call(
            &scene.client,
            contract::start_close_message(scene.ledger_address).unwrap(),
        )
        .await;
    assert_eq!(unknown.exit_code, Some(ledger_exit::UNKNOWN_OP));
    assert!(scene.balance(scene.client.address()).await > NanoTon::ZERO);
    scene.assert_conserved();
}
