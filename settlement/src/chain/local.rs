//! A devnet inside this process, behind the same trait as a remote one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use cocoon_protocol::{Digest, TonAddress};

use super::{
    AccountState, BlockRef, Chain, ChainError, MethodResult, Prices, StackItem, TransactionSummary,
};
use crate::devnet::Devnet;

/// Shares a [`Devnet`] between whoever talks to it.
///
/// With [`LocalChain::instant`] every accepted message gets its block at once, five chain seconds after the one before,
/// so that a test needs neither a timer nor a wait.
#[derive(Clone)]
pub struct LocalChain {
    devnet: Arc<Mutex<Devnet>>,
    instant: bool,
}

/// Chain seconds between two blocks of an instant chain.
const INSTANT_BLOCK_SECONDS: u32 = 5;

impl LocalChain {
    /// Blocks are made by the owner: `chain.devnet().advance(…)`.
    pub fn new(devnet: Devnet) -> Self {
        Self {
            devnet: Arc::new(Mutex::new(devnet)),
            instant: false,
        }
    }

    /// Every accepted message makes a block.
    pub fn instant(devnet: Devnet) -> Self {
        Self {
            devnet: Arc::new(Mutex::new(devnet)),
            instant: true,
        }
    }

    /// The devnet itself. Do not hold the guard across an await.
    pub fn devnet(&self) -> MutexGuard<'_, Devnet> {
        // A panic in another thread leaves the devnet between two blocks, which is a valid state: blocks are
        // written as a whole.
        self.devnet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Chain for LocalChain {
    async fn global_id(&self) -> Result<i32, ChainError> {
        Ok(self.devnet().global_id())
    }

    async fn head(&self) -> Result<BlockRef, ChainError> {
        Ok(self.devnet().head())
    }

    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        self.devnet().block(seqno)
    }

    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        self.devnet().account(address)
    }

    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        let mut devnet = self.devnet();
        let hash = devnet.submit(boc)?;
        if self.instant {
            let unix = devnet.head().unix.saturating_add(INSTANT_BLOCK_SECONDS);
            devnet.advance(unix)?;
        }
        Ok(hash)
    }

    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        self.devnet().get_method(address, method, args)
    }

    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        self.devnet().transactions(address, after_lt, limit)
    }

    async fn prices(&self) -> Result<Prices, ChainError> {
        Ok(self.devnet().prices())
    }
}
