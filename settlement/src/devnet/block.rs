//! A block in the making.

use std::collections::{BTreeMap, VecDeque};

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::ShardAccount;

use super::Devnet;
use super::execution::{self, BlockContext, broken, carried, destination};
use super::storage::{self, Batch};
use crate::chain::ChainError;
use crate::contract::encoding::digest;

/// A block while it is made. Nothing of it is visible until all of it is written.
pub(super) struct BlockBuilder {
    pub(super) context: BlockContext,
    pub(super) seqno: u32,
    /// Most transactions it may hold.
    pub(super) limit: usize,
    pub(super) next_lt: u64,
    /// Fees of all blocks, this one's among them.
    pub(super) collected: u64,
    /// Accounts this block changed; `None` where one ceased to exist.
    pub(super) accounts: BTreeMap<TonAddress, Option<ShardAccount>>,
    /// Internal messages not yet delivered, in order.
    pub(super) queue: VecDeque<Cell>,
    /// Its transactions, in order.
    pub(super) hashes: Vec<Digest>,
    /// What will be written.
    pub(super) batch: Batch,
}

impl BlockBuilder {
    pub(super) fn has_room(&self) -> bool {
        self.hashes.len() < self.limit
    }

    /// Delivers what waits and what that causes, while there is room.
    pub(super) fn deliver_all(&mut self, chain: &Devnet) -> Result<(), ChainError> {
        while self.has_room()
            && let Some(message) = self.queue.pop_front()
        {
            let (value, fee) = carried(&message).map_err(broken("message"))?;
            self.collect(fee)?;
            let Some(account) = destination(&message).map_err(broken("message"))? else {
                continue;
            };
            if let Err(error) = self.run(chain, account, &message, false) {
                // The engine cannot deliver it; the chain must go on, and the sum must stay right.
                tracing::error!(%account, %error, "internal message lost, its value counted as a fee");
                self.collect(value)?;
            }
        }
        Ok(())
    }

    fn collect(&mut self, fee: NanoTon) -> Result<(), ChainError> {
        self.collected = self
            .collected
            .checked_add(fee.nano())
            .ok_or(ChainError::Internal {
                reason: "fees past 2^64".to_owned(),
            })?;
        Ok(())
    }

    /// Runs one message. An external one that is not accepted leaves no trace.
    pub(super) fn run(
        &mut self,
        chain: &Devnet,
        address: TonAddress,
        message: &Cell,
        external: bool,
    ) -> Result<(), ChainError> {
        let account = match self.accounts.get(&address) {
            Some(Some(account)) => account.clone(),
            Some(None) => execution::no_account()?,
            None => chain.shard_account(address)?,
        };
        let executed = execution::execute(
            &chain.network,
            self.context,
            self.next_lt,
            address,
            &account,
            message,
            external,
        )?;
        let Some(executed) = executed else {
            tracing::debug!(%address, "external message no longer accepted, dropped");
            return Ok(());
        };
        self.collect(executed.fees)?;
        self.next_lt = self.next_lt.max(executed.next_lt);
        self.hashes.push(digest(executed.transaction.repr_hash()));
        let mut value = self.seqno.to_be_bytes().to_vec();
        value.extend_from_slice(&Boc::encode(&executed.transaction));
        self.batch
            .insert(storage::transaction_key(address, executed.lt), Some(value));
        self.queue.extend(executed.sent);
        self.accounts
            .insert(address, executed.exists.then_some(executed.account));
        Ok(())
    }
}

/// What evidence refers to as the beacon.
pub(super) fn block_hash(
    seqno: u32,
    previous: Digest,
    unix: u32,
    transactions: &[Digest],
) -> Digest {
    let mut bytes = b"cocoon-devnet-block".to_vec();
    bytes.extend_from_slice(&seqno.to_be_bytes());
    bytes.extend_from_slice(previous.as_bytes());
    bytes.extend_from_slice(&unix.to_be_bytes());
    for transaction in transactions {
        bytes.extend_from_slice(transaction.as_bytes());
    }
    Digest::sha256(&bytes)
}
