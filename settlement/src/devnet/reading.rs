//! What the chain tells about itself.

use std::collections::VecDeque;

use cocoon_protocol::TonAddress;
use tokio::sync::watch;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::{Account, Block, ShardAccount};

use super::execution::{self, broken, carried};
use super::record::{BlockRecord, Place, Split};
use super::storage::{self, ACCOUNTS, IN_FLIGHT, Scan};
use super::{Devnet, GLOBAL_ID, MINTED, decode_account, decode_json, report};
use crate::chain::getter;
use crate::chain::wire::MAX_TRANSACTIONS_PER_PAGE;
use crate::chain::{
    AccountState, BlockRef, ChainError, MethodResult, Prices, StackItem, Supply, TransactionSummary,
};

impl Devnet {
    /// See [`Chain::global_id`](crate::chain::Chain::global_id).
    pub fn global_id(&self) -> i32 {
        GLOBAL_ID
    }

    /// See [`Chain::prices`](crate::chain::Chain::prices).
    pub fn prices(&self) -> Prices {
        self.network.prices
    }

    /// The newest block of the masterchain.
    pub fn head(&self) -> BlockRef {
        self.tip.record.reference()
    }

    /// Seconds by which the chain's clock is ahead of the machine's.
    pub fn clock_ahead(&self) -> u32 {
        self.meta.clock_ahead
    }

    /// The masterchain block with this number. Number 0 is the zero state, which is no block but has a hash too.
    pub fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        Ok(self.record(seqno)?.reference())
    }

    /// Follows the newest block's number.
    pub fn watch_head(&self) -> watch::Receiver<u32> {
        self.heads.subscribe()
    }

    pub(super) fn record(&self, seqno: u32) -> Result<BlockRecord, ChainError> {
        if seqno == self.tip.record.seqno {
            return Ok(self.tip.record);
        }
        // What is above the head was never written; after a crash in the very first block it may have been.
        let bytes = (seqno < self.tip.record.seqno)
            .then(|| self.storage.get(&storage::record_key(seqno)))
            .transpose()?
            .flatten()
            .ok_or(ChainError::NoSuchBlock { seqno })?;
        decode_json(&bytes)
    }

    /// The bytes of a block; with number 0, of a zero state.
    pub(super) fn block_bytes(&self, place: Place, seqno: u32) -> Result<Vec<u8>, ChainError> {
        self.storage
            .get(&storage::block_key(place, seqno))?
            .ok_or(ChainError::NoSuchBlock { seqno })
    }

    /// The root cell of a block.
    pub(super) fn block_root(&self, place: Place, seqno: u32) -> Result<Cell, ChainError> {
        Boc::decode(self.block_bytes(place, seqno)?).map_err(|error| ChainError::Internal {
            reason: format!("block {seqno}: {error}"),
        })
    }

    /// The states after a block, while they are kept.
    pub(super) fn states(&self, seqno: u32) -> Option<&Split<Cell>> {
        let oldest = self.retained.front()?.seqno;
        let index = usize::try_from(seqno.checked_sub(oldest)?).ok()?;
        VecDeque::get(&self.retained, index).map(|retained| &retained.states)
    }

    /// An account; `None` where nothing ever arrived.
    pub fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        report::account(&self.shard_account(address)?).map_err(broken("account"))
    }

    pub(super) fn shard_account(&self, address: TonAddress) -> Result<ShardAccount, ChainError> {
        let Some(place) = Place::of(address.workchain) else {
            return execution::no_account();
        };
        let found = self
            .tip
            .accounts
            .get(place)
            .get(HashBytes(address.hash))
            .map_err(broken("account"))?;
        match found {
            Some((_, account)) => Ok(account),
            None => execution::no_account(),
        }
    }

    /// The newest transactions of an account up to logical time `lt`, newest first, with the blocks they are in.
    pub(super) fn transactions_back(
        &self,
        address: TonAddress,
        mut lt: u64,
        limit: usize,
    ) -> Result<Vec<(u32, Cell)>, ChainError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(value) = self.storage.get(&storage::transaction_key(address, lt))? else {
                break;
            };
            let (block, cell) = stored_transaction(&value)?;
            lt = cell
                .parse::<tycho_types::models::Transaction>()
                .map_err(broken("transaction"))?
                .prev_trans_lt;
            found.push((block, cell));
        }
        Ok(found)
    }

    /// Transactions of an account after `after_lt`, oldest first.
    pub fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        let limit = usize::from(limit.min(MAX_TRANSACTIONS_PER_PAGE));
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        let prefix = storage::transactions_prefix(address);
        self.storage.scan(
            &prefix,
            &storage::transaction_key(address, after_lt),
            |_, value| {
                let (block, cell) = stored_transaction(value)?;
                page.push(
                    report::transaction(address, block, &cell).map_err(broken("transaction"))?,
                );
                Ok(if page.len() < limit {
                    Scan::On
                } else {
                    Scan::Stop
                })
            },
        )?;
        Ok(page)
    }

    /// The newest transactions of an account up to logical time `lt`, newest first.
    pub(super) fn newest_transactions(
        &self,
        address: TonAddress,
        lt: u64,
        limit: usize,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        self.transactions_back(address, lt, limit)?
            .iter()
            .map(|(block, cell)| {
                report::transaction(address, *block, cell).map_err(broken("transaction"))
            })
            .collect()
    }

    /// The first transactions of a block, in the order of accounts.
    pub(super) fn transactions_in(
        &self,
        place: Place,
        seqno: u32,
        limit: usize,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        let root = self.block_root(place, seqno)?;
        let read = || {
            let block: Block = root.parse()?;
            let mut found = Vec::new();
            for entry in block.load_extra()?.account_blocks.load()?.iter() {
                let (account, _, block) = entry?;
                let address = TonAddress {
                    workchain: place.of_address(),
                    hash: account.0,
                };
                for transaction in block.transactions.iter() {
                    if found.len() >= limit {
                        return Ok(found);
                    }
                    let (_, _, cell) = transaction?;
                    found.push(report::transaction(address, seqno, cell.inner())?);
                }
            }
            Ok(found)
        };
        read().map_err(broken("block"))
    }

    /// Runs a get method on the newest state.
    pub fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        let account = self
            .shard_account(address)?
            .load_account()
            .map_err(broken("account"))?;
        let account = account.ok_or(ChainError::NoContract { address })?;
        let call = getter::Call {
            address,
            method,
            args,
            unix: self.tip.record.unix,
        };
        getter::run(&account, &self.network.getters, &call)
    }

    /// Runs a get method of an account at a time.
    pub(super) fn call(
        &self,
        address: TonAddress,
        account: &Account,
        method: impl tycho_vm::VmGetterMethodId,
        arguments: Vec<tycho_vm::RcStackValue>,
        unix: u32,
    ) -> Result<tycho_vm::VmGetterOutput, ChainError> {
        getter::call(
            account,
            &self.network.getters,
            address,
            method,
            arguments,
            unix,
        )
    }

    /// Where all coins are.
    pub fn supply(&self) -> Result<Supply, ChainError> {
        let overflow = || ChainError::Internal {
            reason: "more coins than 2^64".to_owned(),
        };
        let mut balances = 0u64;
        self.storage.scan(ACCOUNTS, ACCOUNTS, |_, value| {
            let shard = decode_account(value)?;
            let held = report::account(&shard)
                .map_err(broken("account"))?
                .map_or(0, |state| state.balance.nano());
            balances = balances.checked_add(held).ok_or_else(overflow)?;
            Ok(Scan::On)
        })?;
        let mut in_flight = 0u64;
        self.storage.scan(IN_FLIGHT, IN_FLIGHT, |_, value| {
            let cell = Boc::decode(value).map_err(|error| ChainError::Internal {
                reason: error.to_string(),
            })?;
            let (value, fee) = carried(&cell).map_err(broken("message"))?;
            in_flight = [value, fee]
                .into_iter()
                .try_fold(in_flight, |sum, part| sum.checked_add(part.nano()))
                .ok_or_else(overflow)?;
            Ok(Scan::On)
        })?;
        Ok(Supply {
            minted: MINTED.nano(),
            balances,
            in_flight,
            collected: self.tip.record.collected,
        })
    }
}

/// Number of the block and the transaction itself.
fn stored_transaction(value: &[u8]) -> Result<(u32, Cell), ChainError> {
    let broken = || ChainError::Internal {
        reason: "chain store: transaction".to_owned(),
    };
    let (block, boc) = value.split_first_chunk::<4>().ok_or_else(broken)?;
    let cell = Boc::decode(boc).map_err(|_| broken())?;
    Ok((u32::from_be_bytes(*block), cell))
}
