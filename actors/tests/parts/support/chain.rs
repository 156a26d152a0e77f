//! A devnet in this process, with ways to be out of order.

use super::{key, milliton};
use async_trait::async_trait;
use cocoon_actors::clock;
use cocoon_protocol::{Digest, NanoTon, TonAddress};
use cocoon_settlement::chain::{
    AccountState, BlockRef, Chain, ChainError, ChainStanding, LocalChain, MethodResult, Prices,
    StackItem, TransactionSummary,
};
use cocoon_settlement::contract::{ChannelState, OutMessage, fetch_channel};
use cocoon_settlement::devnet::{Devnet, GLOBAL_ID, faucet};
use cocoon_settlement::wallet::Wallet;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of the next external message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and so does the answer.
    #[default]
    Ordinary,
    /// It is lost, and the sender does not know.
    Lost,
    /// It arrives, and the answer is lost.
    AnswerLost,
    /// It arrives, and nobody who is connected now ever hears of the chain again.
    Last,
    /// It is refused.
    Refused,
}

/// The real devnet; every accepted message has its block at once.
#[derive(Clone)]
pub struct TestChain {
    pub local: LocalChain,
    fate: Arc<Mutex<Fate>>,
    /// Accounts that this view of the chain does not show yet.
    hidden: Arc<Mutex<BTreeSet<TonAddress>>>,
    /// Whether it shows nothing that is new: as if no block was made.
    stopped: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    /// Whether its head cannot be verified.
    doubtful: Arc<AtomicBool>,
}

fn nobody() -> ChainError {
    ChainError::Unreachable {
        endpoint: "test".to_owned(),
        attempts: 1,
        reason: "as the test wants it".to_owned(),
    }
}

impl TestChain {
    /// A chain of now, with money in the wallets of these keys.
    pub async fn new(funded: &[u8]) -> Self {
        let now = u32::try_from(clock::now().seconds()).unwrap();
        let local = LocalChain::instant(Devnet::in_memory(now).unwrap());
        let gifts: Vec<_> = funded
            .iter()
            .map(|seed| OutMessage::transfer(wallet(*seed).address(), milliton(100_000)))
            .collect();
        if !gifts.is_empty() {
            faucet().unwrap().send(&local, &gifts).await.unwrap();
        }
        Self {
            local,
            fate: Arc::default(),
            hidden: Arc::default(),
            stopped: Arc::default(),
            silent: Arc::default(),
            doubtful: Arc::default(),
        }
    }

    /// The same chain, in order again: for the next process.
    pub fn again(&self) -> Self {
        Self {
            local: self.local.clone(),
            fate: Arc::default(),
            hidden: Arc::default(),
            stopped: Arc::default(),
            silent: Arc::default(),
            doubtful: Arc::default(),
        }
    }

    fn hears(&self) -> Result<&LocalChain, ChainError> {
        if self.silent.load(Ordering::SeqCst) {
            Err(nobody())
        } else {
            Ok(&self.local)
        }
    }

    pub fn shared(&self) -> Arc<dyn Chain> {
        Arc::new(self.clone())
    }

    /// The next message meets this fate.
    pub fn next(&self, fate: Fate) {
        *self.fate.lock().unwrap() = fate;
    }

    /// Whether this client of the chain can verify its head.
    pub fn verifiable(&self, verifiable: bool) {
        self.doubtful.store(!verifiable, Ordering::SeqCst);
    }

    /// Whether the last message that was meant to has met its fate.
    pub fn is_ordinary(&self) -> bool {
        *self.fate.lock().unwrap() == Fate::Ordinary
    }

    pub fn hide(&self, address: TonAddress) {
        self.hidden.lock().unwrap().insert(address);
    }

    /// Shows no account but the wallets of the first keys, until told otherwise.
    pub fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::SeqCst);
    }

    fn is_hidden(&self, address: &TonAddress) -> bool {
        let is_new = || (0..8).all(|seed| wallet(seed).address() != *address);
        self.hidden.lock().unwrap().contains(address)
            || (self.stopped.load(Ordering::SeqCst) && is_new())
    }

    pub fn show(&self, address: TonAddress) {
        self.hidden.lock().unwrap().remove(&address);
    }

    /// Lets chain time pass and makes a block.
    pub fn pass(&self, seconds: u32) {
        let mut devnet = self.local.devnet();
        let unix = devnet.head().unix + seconds;
        devnet.advance(unix).unwrap();
    }

    pub async fn balance(&self, address: TonAddress) -> NanoTon {
        self.local
            .account(address)
            .await
            .unwrap()
            .map_or(NanoTon::ZERO, |account| account.balance)
    }

    pub async fn channel(&self, address: TonAddress) -> Option<ChannelState> {
        fetch_channel(&self.local, address).await.unwrap()
    }

    pub async fn history(&self, address: TonAddress) -> Vec<TransactionSummary> {
        self.local.transactions(address, 0, 100).await.unwrap()
    }
}

/// The wallet of this key.
pub fn wallet(seed: u8) -> Wallet {
    Wallet::from_key(key(seed), GLOBAL_ID).unwrap()
}

#[async_trait]
impl Chain for TestChain {
    async fn global_id(&self) -> Result<i32, ChainError> {
        self.hears()?.global_id().await
    }
    async fn head(&self) -> Result<BlockRef, ChainError> {
        self.hears()?.head().await
    }
    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        self.hears()?.block(seqno).await
    }
    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        if self.is_hidden(&address) {
            return Ok(None);
        }
        self.hears()?.account(address).await
    }
    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        let fate = std::mem::take(&mut *self.fate.lock().unwrap());
        match fate {
            Fate::Ordinary => self.local.send_external(boc).await,
            Fate::Lost => Err(nobody()),
            Fate::AnswerLost => {
                self.local.send_external(boc).await?;
                Err(nobody())
            }
            Fate::Last => {
                self.local.send_external(boc).await?;
                self.silent.store(true, Ordering::SeqCst);
                Err(nobody())
            }
            Fate::Refused => Err(ChainError::NotAccepted {
                exit_code: Some(33),
                reason: "as the test wants it".to_owned(),
            }),
        }
    }
    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        self.hears()?.get_method(address, method, args).await
    }
    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        self.hears()?.transactions(address, after_lt, limit).await
    }
    async fn prices(&self) -> Result<Prices, ChainError> {
        self.hears()?.prices().await
    }
    fn standing(&self) -> ChainStanding {
        if self.doubtful.load(Ordering::SeqCst) {
            return ChainStanding::Unverifiable {
                since: clock::now(),
                last_seqno: 1,
                reason: "as the test wants it".to_owned(),
            };
        }
        ChainStanding::Trusted
    }
}
