//! A served devnet to show to light clients that are not ours.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::{Chain, DevnetClient};
use cocoon_settlement::contract::{self, ChannelTerms, OutMessage};
use cocoon_settlement::devnet::{self, GLOBAL_ID, ServeConfig, serve};
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Transactions of the wallet, more than one answer of a liteserver holds.
pub const TRANSFERS: u32 = 20;

pub struct Scene {
    pub chain: DevnetClient,
    pub base: String,
    pub wallet: Wallet,
    pub channel: TonAddress,
    _directory: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Scene {
    /// A served devnet with a wallet of some history, a channel, and validators that changed twice.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let config = ServeConfig {
            start_paused: true,
            block_interval: Duration::from_millis(200),
            ..ServeConfig::new(directory.path().to_owned())
        };
        tokio::spawn(serve(config, listener, async {
            let _ = stopped.await;
        }));
        let chain = DevnetClient::new(&base).unwrap();
        let wallet = Wallet::from_key(SigningKey::from_bytes(&[1; 32]), GLOBAL_ID).unwrap();
        let ton = |milli: u64| NanoTon::from_nano(milli * 1_000_000);
        chain.give(wallet.address(), ton(100_000)).await.unwrap();
        chain.key_block(true).await.unwrap();
        let terms = ChannelTerms {
            client: wallet.address(),
            worker: devnet::faucet().unwrap().address(),
            client_key: PublicKey32::from_bytes([3; 32]),
            nonce: 7,
            close_delay_s: 3600,
        };
        let scene = Self {
            chain,
            base,
            wallet,
            channel: terms.address().unwrap(),
            _directory: directory,
            _stop: stop,
        };
        scene
            .send(0, &contract::open_message(&terms, ton(5_000)).unwrap())
            .await;
        for seqno in 1..TRANSFERS {
            let message = OutMessage::transfer(scene.channel_worker(), ton(1));
            scene.send(seqno, &message).await;
        }
        scene.chain.key_block(true).await.unwrap();
        scene.chain.key_block(false).await.unwrap();
        scene.chain.advance(3, 0).await.unwrap();
        scene
    }

    pub fn channel_worker(&self) -> TonAddress {
        devnet::faucet().unwrap().address()
    }

    pub fn signed(&self, seqno: u32, message: &OutMessage) -> Vec<u8> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let until = u32::try_from(now).unwrap() + 600;
        self.wallet
            .transfer(seqno, until, std::slice::from_ref(message))
            .unwrap()
    }

    pub async fn send(&self, seqno: u32, message: &OutMessage) {
        self.chain
            .send_external(&self.signed(seqno, message))
            .await
            .unwrap();
        // A second later each, so that blocks can be found by time.
        self.chain.advance(1, 1).await.unwrap();
    }

    /// What our own interface says, to hold the others' answers against.
    pub async fn balance(&self, address: TonAddress) -> String {
        let account = self.chain.account(address).await.unwrap().unwrap();
        account.balance.nano().to_string()
    }

    /// Hashes of the wallet's transactions, newest first.
    pub async fn history(&self) -> Vec<cocoon_protocol::Digest> {
        let all = self.chain.transactions(self.wallet.address(), 0, 100).await;
        all.unwrap().iter().rev().map(|one| one.hash).collect()
    }
}
