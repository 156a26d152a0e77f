//! How a node talks to a chain, whichever it is.
//!
//! [`Chain`] is the whole of it: read the head, a block, an account, its transactions; run a get method; send an
//! external message. [`LiteChain`] asks liteservers and believes proofs: it is how nodes talk to any TON network.
//! [`DevnetClient`] is the HTTP interface of `cocoon devnet`, [`LocalChain`] the same devnet inside this process; both are
//! for tests, tools and simulations. With the cargo feature `tonlib` there is `TonlibChain` too, by TON's own light client.

mod client;
mod error;
mod external;
pub(crate) mod getter;
pub mod lite;
mod local;
mod prices;
mod standing;
#[cfg(feature = "tonlib")]
mod tonlib;
mod types;
pub mod wire;

use std::time::Duration;

use async_trait::async_trait;
use cocoon_protocol::{Digest, TonAddress};

pub use client::DevnetClient;
pub use error::ChainError;
pub use lite::{LiteChain, LiteError, LiteSettings, ServerState};
pub use local::LocalChain;
pub use prices::Prices;
pub use standing::ChainStanding;
#[cfg(feature = "tonlib")]
pub use tonlib::{TonlibChain, TonlibSettings};
pub use types::{
    AccountState, AccountStatus, BlockRef, MethodResult, StackItem, Supply, TransactionSummary,
    Transfer,
};

/// Pause between two looks at an account while waiting for its transaction. A fraction of a block.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A TON chain, or one that behaves like it.
#[async_trait]
pub trait Chain: Send + Sync {
    /// The network's own number (ConfigParam 19). It is part of every voucher's and every commit's signed bytes.
    async fn global_id(&self) -> Result<i32, ChainError>;

    /// The newest block.
    async fn head(&self) -> Result<BlockRef, ChainError>;

    /// The block with this number, or [`ChainError::NoSuchBlock`].
    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError>;

    /// An account after the newest block; `None` where nothing ever arrived.
    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError>;

    /// An account as it was proved last, if the newest state cannot be had now and that was not longer ago than `max_age`.
    /// For whoever may go on within a limit of risk while the chain's head cannot be verified.
    async fn account_within(
        &self,
        address: TonAddress,
        _max_age: Duration,
    ) -> Result<Option<AccountState>, ChainError> {
        self.account(address).await
    }

    /// Hands an external message to the network and returns its hash, which the transaction will name as its
    /// `in_message`. Success means "accepted for a block", not "done". The same message sent again while it waits
    /// is one message.
    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError>;

    /// Runs a get method on the newest state.
    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError>;

    /// Transactions of an account with a logical time above `after_lt`, oldest first, at most `limit` of them.
    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError>;

    /// What the network charges now.
    async fn prices(&self) -> Result<Prices, ChainError>;

    /// How far the answers can be trusted at this moment. No network call: what the last calls showed.
    fn standing(&self) -> ChainStanding {
        ChainStanding::Trusted
    }

    /// The servers behind it and what each is worth, where there are several. No network call.
    fn servers(&self) -> Vec<ServerState> {
        Vec::new()
    }
}

/// Waits for the transaction that `message` causes at `account`. `after_lt` is the account's `last_lt` before the
/// message was sent (0 is right too, only slower). Errors on the way are carried through, except that the chain may be
/// out of reach for a while.
pub async fn wait_for_transaction(
    chain: &dyn Chain,
    account: TonAddress,
    message: Digest,
    after_lt: u64,
    patience: Duration,
) -> Result<TransactionSummary, ChainError> {
    let started = tokio::time::Instant::now();
    let mut cursor = after_lt;
    loop {
        match chain
            .transactions(account, cursor, wire::MAX_TRANSACTIONS_PER_PAGE)
            .await
        {
            Ok(page) => {
                cursor = page.last().map_or(cursor, |transaction| transaction.lt);
                if let Some(found) = page
                    .into_iter()
                    .find(|transaction| transaction.in_message == Some(message))
                {
                    return Ok(found);
                }
            }
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
        let waited = started.elapsed();
        if waited >= patience {
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            return Err(ChainError::NotSeenInTime {
                account,
                message,
                waited_ms,
            });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
