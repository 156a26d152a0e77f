//! A devnet with a client, a worker and a channel between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use cocoon_protocol::voucher::{Release, SignedRelease, SignedVoucher, Voucher};
use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError, LocalChain, TransactionSummary};
use cocoon_settlement::contract::{
    self, ChannelState, ChannelTerms, Commit, LedgerState, LedgerTerms, OutMessage,
};
use cocoon_settlement::devnet::{self, Devnet, GLOBAL_ID};
use cocoon_settlement::wallet::Wallet;
use ed25519_dalek::SigningKey;

pub const GENESIS: u32 = 1_795_000_000;
pub const CLOSE_DELAY: u32 = 3600;

pub fn ton(milli: u64) -> NanoTon {
    NanoTon::from_nano(milli * 1_000_000)
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub struct Scene {
    pub chain: LocalChain,
    pub client: Wallet,
    pub worker: Wallet,
    pub stranger: Wallet,
    pub voucher_key: SigningKey,
    pub ledger_key: SigningKey,
    pub terms: ChannelTerms,
    pub channel: TonAddress,
    pub ledger: LedgerTerms,
    pub ledger_address: TonAddress,
}

impl Scene {
    /// Funded wallets; nothing is deployed but the faucet.
    pub async fn new() -> Self {
        let chain = LocalChain::instant(Devnet::in_memory(GENESIS).unwrap());
        let client = Wallet::from_key(key(1), GLOBAL_ID).unwrap();
        let worker = Wallet::from_key(key(2), GLOBAL_ID).unwrap();
        let stranger = Wallet::from_key(key(8), GLOBAL_ID).unwrap();
        let voucher_key = key(3);
        let ledger_key = key(4);
        let terms = ChannelTerms {
            client: client.address(),
            worker: worker.address(),
            client_key: PublicKey32::from_bytes(voucher_key.verifying_key().to_bytes()),
            nonce: 7,
            close_delay_s: CLOSE_DELAY,
        };
        let ledger = LedgerTerms {
            owner: worker.address(),
            key: PublicKey32::from_bytes(ledger_key.verifying_key().to_bytes()),
        };
        let faucet = devnet::faucet().unwrap();
        let gifts = [&client, &worker, &stranger]
            .map(|wallet| OutMessage::transfer(wallet.address(), ton(100_000)));
        faucet.send(&chain, &gifts).await.unwrap();
        Self {
            channel: terms.address().unwrap(),
            ledger_address: ledger.address().unwrap(),
            chain,
            client,
            worker,
            stranger,
            voucher_key,
            ledger_key,
            terms,
            ledger,
        }
    }

    /// With the channel open and `deposit` in it.
    pub async fn with_channel(deposit: NanoTon) -> Self {
        let scene = Self::new().await;
        scene
            .client
            .send(
                &scene.chain,
                &[contract::open_message(&scene.terms, deposit).unwrap()],
            )
            .await
            .unwrap();
        scene
    }

    /// With the worker's ledger deployed.
    pub async fn with_ledger() -> Self {
        let scene = Self::new().await;
        let deploy = contract::deploy_ledger_message(&scene.ledger, ton(100)).unwrap();
        scene.worker.send(&scene.chain, &[deploy]).await.unwrap();
        scene
    }

    pub fn voucher(&self, cumulative: NanoTon) -> SignedVoucher {
        Voucher {
            channel: self.channel,
            cumulative,
        }
        .sign(&self.voucher_key, GLOBAL_ID)
    }

    pub fn release(&self, cumulative: NanoTon) -> SignedRelease {
        Release {
            channel: self.channel,
            cumulative,
        }
        .sign(&self.voucher_key, GLOBAL_ID)
    }

    /// Delivers a claim; the transaction it caused, or why there is none.
    pub async fn claim(&self, voucher: &SignedVoucher) -> Result<TransactionSummary, ChainError> {
        let boc = contract::claim_message(voucher).unwrap();
        self.deliver(voucher.voucher.channel, &boc).await
    }

    pub async fn deliver(
        &self,
        account: TonAddress,
        boc: &[u8],
    ) -> Result<TransactionSummary, ChainError> {
        let hash = self.chain.send_external(boc).await?;
        Ok(self
            .history(account)
            .await
            .into_iter()
            .find(|transaction| transaction.in_message == Some(hash))
            .expect("an instant chain makes a block with every message"))
    }

    pub async fn history(&self, account: TonAddress) -> Vec<TransactionSummary> {
        self.chain.transactions(account, 0, 100).await.unwrap()
    }

    /// Sends through a wallet and returns the receiver's transaction.
    pub async fn call(&self, wallet: &Wallet, message: OutMessage) -> TransactionSummary {
        let destination = message.destination();
        let before = self.history(destination).await.len();
        wallet.send(&self.chain, &[message]).await.unwrap();
        self.history(destination).await[before].clone()
    }

    pub async fn state(&self) -> ChannelState {
        contract::fetch_channel(&self.chain, self.channel)
            .await
            .unwrap()
            .expect("the channel is open")
    }

    pub async fn balance(&self, address: TonAddress) -> NanoTon {
        self.chain
            .account(address)
            .await
            .unwrap()
            .map_or(NanoTon::ZERO, |account| account.balance)
    }

    pub fn commit(&self, seqno: u32, jobs: u64, total: NanoTon) -> Commit {
        Commit {
            ledger: self.ledger_address,
            seqno,
            valid_until: self.now() + 60,
            root: cocoon_protocol::Digest::sha256(&seqno.to_be_bytes()),
            jobs,
            total,
        }
    }

    pub async fn send_commit(&self, commit: &Commit) -> Result<TransactionSummary, ChainError> {
        let boc = contract::commit_message(commit, &self.ledger_key, GLOBAL_ID).unwrap();
        self.deliver(self.ledger_address, &boc).await
    }

    pub async fn ledger_state(&self) -> LedgerState {
        contract::fetch_ledger(&self.chain, self.ledger_address)
            .await
            .unwrap()
            .expect("the ledger is deployed")
    }

    pub fn now(&self) -> u32 {
        self.chain.devnet().head().unix
    }

    /// Lets the chain's clock jump and makes a block.
    pub fn pass(&self, seconds: u32) {
        let mut devnet = self.chain.devnet();
        let unix = devnet.head().unix + seconds;
        devnet.advance(unix).unwrap();
    }

    /// Every coin is somewhere.
    pub fn assert_conserved(&self) {
        let supply = self.chain.devnet().supply().unwrap();
        assert_eq!(
            supply.minted,
            supply.balances + supply.in_flight + supply.collected,
            "{supply:?}"
        );
    }
}

pub fn refused_with(result: &Result<TransactionSummary, ChainError>, code: i32) -> bool {
    matches!(result, Err(ChainError::NotAccepted { exit_code: Some(found), .. }) if *found == code)
}
