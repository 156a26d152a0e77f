//! `TonlibChain`, which is TON's own light client, against the devnet's liteservers: what it says must be what the devnet
//! itself says, to the last field. `scripts/tonlib-tests.sh` runs it; it needs the library inside pytonlib.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "clients/scene.rs"]
mod scene;

use std::time::Duration;

use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::{
    Chain, ChainError, ChainStanding, StackItem, TonlibChain, TonlibSettings, wait_for_transaction,
};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::contract::registry::{Governance, deploy_registry_message};
use cocoon_settlement::devnet::{Faults, GLOBAL_ID};
use ed25519_dalek::SigningKey;
use num_bigint::BigInt;
use scene::{Scene, TRANSFERS};

const PATIENCE: Duration = Duration::from_secs(30);

fn nobody() -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [0x77; 32],
    }
}

async fn tonlib(scene: &Scene) -> TonlibChain {
    let settings = TonlibSettings::default();
    TonlibChain::connect(&scene.base, settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_what_the_devnet_says() {
    let scene = Scene::new().await;
    let (truth, seen) = (&scene.chain, tonlib(&scene).await);
    assert_eq!(seen.global_id().await.unwrap(), GLOBAL_ID);
    assert_eq!(seen.prices().await.unwrap(), truth.prices().await.unwrap());
    let head = truth.head().await.unwrap();
    assert_eq!(seen.head().await.unwrap(), head);
    for seqno in [head.seqno - 15, head.seqno - 4, head.seqno - 1, head.seqno] {
        let expected = truth.block(seqno).await.unwrap();
        assert_eq!(seen.block(seqno).await.unwrap(), expected);
    }
    let later = seen.block(head.seqno + 1).await.unwrap_err();
    assert!(matches!(later, ChainError::NoSuchBlock { .. }), "{later}");

    let wallet = scene.wallet.address();
    for address in [wallet, scene.channel, nobody()] {
        let expected = truth.account(address).await.unwrap();
        assert_eq!(seen.account(address).await.unwrap(), expected);
    }
    let history = truth.transactions(wallet, 0, 100).await.unwrap();
    assert!(history.len() > TRANSFERS as usize);
    assert_eq!(seen.transactions(wallet, 0, 100).await.unwrap(), history);
    let some = seen.transactions(wallet, history[1].lt, 3).await.unwrap();
    assert_eq!(some, history[2..5]);
    assert_eq!(seen.transactions(nobody(), 0, 9).await.unwrap(), []);
    assert_eq!(seen.standing(), ChainStanding::Trusted);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_machine_gives_the_results_and_the_gas_that_ours_gives() {
    let scene = Scene::new().await;
    let key = |n| {
        let key = SigningKey::from_bytes(&[n; 32]);
        PublicKey32::from_bytes(key.verifying_key().to_bytes())
    };
    let governance = Governance::new(2, 3600, &[key(5), key(6)]).unwrap();
    let deploy = deploy_registry_message(&governance, NanoTon::from_nano(500_000_000)).unwrap();
    scene.send(TRANSFERS, &deploy).await;
    let registry = governance.address().unwrap();
    let seen = tonlib(&scene).await;
    let number = |value: i64| StackItem::Num(BigInt::from(value));
    let digest = StackItem::Num(BigInt::from(1) << 255);
    for (address, method, args) in [
        (scene.wallet.address(), "seqno", vec![]),
        (scene.channel, "available", vec![]),
        (scene.channel, "channel_state", vec![]),
        (registry, "registry_state", vec![]),
        (registry, "signers", vec![]),
        (registry, "parameter", vec![number(1)]),
        (registry, "pending_change", vec![number(7)]),
        (registry, "log_head", vec![digest.clone()]),
        (registry, "model_status", vec![digest]),
        (registry, "tables", vec![]),
    ] {
        let expected = scene.chain.get_method(address, method, &args).await;
        let result = seen.get_method(address, method, &args).await;
        assert_eq!(result.unwrap(), expected.unwrap(), "{method}");
    }
    for (address, method, args) in [
        (scene.channel, "no_such_method", vec![]),
        (registry, "parameter", vec![]),
        (registry, "parameter", vec![StackItem::Null]),
        (nobody(), "available", vec![]),
    ] {
        let expected = scene.chain.get_method(address, method, &args).await;
        let error = seen.get_method(address, method, &args).await.unwrap_err();
        assert_eq!(error.to_string(), expected.unwrap_err().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_and_sees_the_transaction() {
    let scene = Scene::new().await;
    let (seen, wallet) = (tonlib(&scene).await, scene.wallet.address());
    let before = seen.account(wallet).await.unwrap().unwrap();
    let transfer = OutMessage::transfer(scene.channel_worker(), NanoTon::from_nano(1));
    let message = scene.signed(TRANSFERS, &transfer);
    let hash = seen.send_external(&message).await.unwrap();
    assert_eq!(seen.send_external(&message).await.unwrap(), hash);
    scene.chain.advance(1, 1).await.unwrap();
    let done = wait_for_transaction(&seen, wallet, hash, before.last_lt, PATIENCE)
        .await
        .unwrap();
    assert!(done.success, "{done:?}");
    let newest = scene.chain.transactions(wallet, before.last_lt, 9).await;
    assert_eq!(newest.unwrap(), std::slice::from_ref(&done));
    let after = seen.account(wallet).await.unwrap().unwrap();
    assert_eq!((after.last_lt, after.last_hash), (done.lt, done.hash));
    // It was applied, so the contract refuses it; whoever sent it need not care.
    assert_eq!(seen.send_external(&message).await.unwrap(), hash);

    let refused = seen.send_external(&scene.signed(0, &transfer)).await;
    let error = refused.unwrap_err();
    let code = matches!(
        error,
        ChainError::NotAccepted {
            exit_code: Some(33),
            ..
        }
    );
    assert!(code, "{error}");
    let error = seen.send_external(&[1, 2, 3]).await.unwrap_err();
    assert!(matches!(error, ChainError::BadMessage { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_believes_no_wrong_proof_and_waits_no_longer_than_told() {
    let scene = Scene::new().await;
    let settings = TonlibSettings {
        answer_timeout: Duration::from_secs(2),
        rounds: 1,
        ..TonlibSettings::default()
    };
    let faults = |faults| scene.chain.set_faults(None, faults);
    let seen = TonlibChain::connect(&scene.base, settings).await.unwrap();
    let head = seen.head().await.unwrap();
    let lies = Faults {
        wrong_proofs: true,
        ..Faults::default()
    };
    faults(lies).await.unwrap();
    let error = seen.account(scene.channel).await.unwrap_err();
    assert!(error.to_string().contains("VALIDATE_"), "{error}");
    assert!(!error.is_transient(), "{error}");
    let down = Faults {
        down: true,
        ..Faults::default()
    };
    faults(down).await.unwrap();
    let error = seen.head().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    faults(Faults::default()).await.unwrap();
    let again = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(head) = seen.head().await {
                return head;
            }
        }
    });
    assert_eq!(again.await.unwrap(), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_what_was_proved_and_a_wrong_file_is_refused() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let settings = TonlibSettings {
        directory: Some(directory.path().join("tonlib")),
        ..TonlibSettings::default()
    };
    let connect = || TonlibChain::connect(&scene.base, settings.clone());
    let head = connect().await.unwrap().head().await.unwrap();
    let kept = std::fs::read_dir(directory.path().join("tonlib")).unwrap();
    assert!(kept.count() > 0);
    assert_eq!(connect().await.unwrap().head().await.unwrap(), head);

    let file = directory.path().join("global.config.json");
    std::fs::write(&file, "{}").unwrap();
    let error = TonlibChain::connect(file.to_str().unwrap(), TonlibSettings::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ChainError::BadAnswer { .. }), "{error}");
}
