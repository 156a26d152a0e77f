//! Both wallet contracts on a chain in this process: what transfers cost, taking turns, sending again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError, LocalChain};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::{Devnet, GLOBAL_ID, faucet};
use cocoon_settlement::wallet::{Wallet, WalletVersion};
use ed25519_dalek::SigningKey;

const VERSIONS: [WalletVersion; 2] = [WalletVersion::V4R2, WalletVersion::V5R1];

fn chain() -> LocalChain {
    LocalChain::instant(Devnet::in_memory(1_800_000_000).unwrap())
}

async fn funded(chain: &LocalChain, version: WalletVersion, nano: u64) -> Wallet {
    let wallet = Wallet::of_version(version, SigningKey::from_bytes(&[7; 32]), GLOBAL_ID).unwrap();
    let message = OutMessage::transfer(wallet.address(), NanoTon::from_nano(nano));
    faucet().unwrap().send(chain, &[message]).await.unwrap();
    wallet
}

fn somebody(byte: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [byte; 32],
    }
}

#[tokio::test]
async fn the_estimated_fee_covers_every_number_of_messages_and_is_not_far_off() {
    for version in VERSIONS {
        let chain = chain();
        let wallet = funded(&chain, version, 10_000_000_000).await;
        for count in [1, 2, version.max_messages()] {
            let messages: Vec<_> = (0..count)
                .map(|i| OutMessage::transfer(somebody(i as u8), NanoTon::from_nano(1_000)))
                .collect();
            let before = wallet.balance(&chain).await.unwrap();
            let fee = wallet.prepare(&chain, &messages).await.unwrap().fee;
            let transaction = wallet.send(&chain, &messages).await.unwrap();
            let after = wallet.balance(&chain).await.unwrap();
            let cost = before.nano() - after.nano() - 1_000 * count as u64;
            println!(
                "{version} {count}: gas {} cost {cost} fee {}",
                transaction.gas_used,
                fee.nano()
            );
            assert!(cost <= fee.nano(), "{version} {count}: {cost} > {fee}");
            // A year of rent is in it, 0.002 TON at most.
            assert!(
                fee.nano() <= cost * 3 / 2 + 2_500_000,
                "{version} {count}: {cost} {fee}"
            );
        }
    }
}

#[tokio::test]
async fn two_transfers_at_once_both_happen() {
    for version in VERSIONS {
        let chain = chain();
        let wallet = funded(&chain, version, 1_000_000_000).await;
        let other = wallet.clone();
        let one = [OutMessage::transfer(somebody(1), NanoTon::from_nano(10))];
        let two = [OutMessage::transfer(somebody(2), NanoTon::from_nano(20))];
        let (first, second) = tokio::join!(wallet.send(&chain, &one), other.send(&chain, &two));
        assert_ne!(first.unwrap().hash, second.unwrap().hash);
        assert_eq!(wallet.seqno(&chain).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_transfer_that_is_sent_again_happens_once() {
    for version in VERSIONS {
        let chain = chain();
        let wallet = funded(&chain, version, 1_000_000_000).await;
        let message = [OutMessage::transfer(somebody(3), NanoTon::from_nano(50))];
        let prepared = wallet.prepare(&chain, &message).await.unwrap();
        let first = wallet.settle(&chain, &prepared).await.unwrap();
        let again = wallet.settle(&chain, &prepared).await.unwrap();
        assert_eq!(first.hash, again.hash);
        let there = chain.account(somebody(3)).await.unwrap().unwrap();
        assert_eq!(there.balance, NanoTon::from_nano(50));
    }
}

#[tokio::test]
async fn a_transfer_is_worthless_after_its_time() {
    for version in VERSIONS {
        let chain = chain();
        let wallet = funded(&chain, version, 1_000_000_000).await;
        let message = [OutMessage::transfer(somebody(4), NanoTon::from_nano(50))];
        let prepared = wallet.prepare(&chain, &message).await.unwrap();
        chain.devnet().advance(prepared.valid_until + 1).unwrap();
        let error = wallet.settle(&chain, &prepared).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAccepted { .. }), "{error}");
        assert!(chain.account(somebody(4)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn what_cannot_be_paid_with_its_fee_is_not_sent() {
    for version in VERSIONS {
        let chain = chain();
        let wallet = funded(&chain, version, 1_000_000).await;
        let message = [OutMessage::transfer(
            somebody(5),
            NanoTon::from_nano(999_999),
        )];
        let error = wallet.send(&chain, &message).await.unwrap_err();
        assert!(
            matches!(error, ChainError::InsufficientBalance { needed, .. } if needed.nano() > 1_000_000),
            "{error}"
        );
    }
}
