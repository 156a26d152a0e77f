//! A small TON: real contracts in a real TVM, in one process and one directory.
//!
//! What is real: accounts, cells, messages, transactions, gas, rent and forwarding fees, the wallet contract and ours,
//! executed by `tycho-executor` under the public parameters of TON's mainnet. What is not: there are no validators, no
//! shards and no proofs. Whoever runs the process decides what a block is. Blocks come on a timer (see [`serve`]) or
//! when told ([`Devnet::advance`]); the same messages at the same times give the same blocks.
//!
//! A block takes the messages left over from the block before, then the external messages that wait, and delivers
//! what they cause until nothing is left or [`MAX_TRANSACTIONS_PER_BLOCK`] is reached. Its hash covers its number, its
//! predecessor, its time and its transactions; the hash is the beacon that evidence refers to.
//!
//! Coins are created at genesis, all of them in the [`faucet`], whose key is public. They are worth nothing.

mod block;
mod execution;
mod genesis;
mod network;
pub(crate) mod report;
mod server;
mod storage;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, Load, Store};
use tycho_types::models::{MsgInfo, OwnedMessage, ShardAccount};

use self::block::{BlockBuilder, block_hash};
use self::execution::{BlockContext, broken, carried};
use self::network::Network;
use self::storage::{ACCOUNTS, Batch, IN_FLIGHT, META, Scan, Storage};
use crate::chain::getter;
use crate::chain::wire::MAX_TRANSACTIONS_PER_PAGE;
use crate::chain::{
    AccountState, BlockRef, ChainError, MethodResult, Prices, StackItem, Supply, TransactionSummary,
};
use crate::contract::encoding::{digest, standard};

pub use genesis::{FAUCET_SEED, faucet};
pub use server::{ServeConfig, serve};

/// This network's ConfigParam 19. No other known network has it.
pub const GLOBAL_ID: i32 = -31337;
/// All coins there will ever be.
pub const MINTED: NanoTon = NanoTon::from_nano(1_000_000_000_000_000);
/// Largest external message in bytes (`max_ext_msg_size`, TON's default).
pub const MAX_EXTERNAL_BYTES: usize = 65_535;
/// External messages that may wait for a block.
pub const MAX_WAITING_EXTERNALS: usize = 1024;
/// What is left over waits for the next block.
pub const MAX_TRANSACTIONS_PER_BLOCK: usize = 4096;
/// Logical time a block starts at is a multiple of this, as on TON.
const LT_PER_BLOCK: u64 = 1_000_000;

/// How much work a chain takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At most [`MAX_TRANSACTIONS_PER_BLOCK`], at least one.
    pub transactions_per_block: usize,
    /// At most [`MAX_WAITING_EXTERNALS`].
    pub waiting_externals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transactions_per_block: MAX_TRANSACTIONS_PER_BLOCK,
            waiting_externals: MAX_WAITING_EXTERNALS,
        }
    }
}

/// The chain's position, written with every block.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meta {
    global_id: i32,
    head: BlockRef,
    next_lt: u64,
    minted: u64,
    collected: u64,
    /// Seconds by which the chain's clock is ahead, after jumps.
    clock_ahead: u32,
    /// Next free index of the messages in flight.
    in_flight_next: u64,
}

struct Waiting {
    hash: Digest,
    account: TonAddress,
    message: Cell,
}

/// The chain itself. Synchronous; [`LocalChain`](crate::chain::LocalChain) and [`serve`] share one between callers.
pub struct Devnet {
    network: Network,
    storage: Storage,
    meta: Meta,
    waiting: VecDeque<Waiting>,
    limits: Limits,
}

impl Devnet {
    /// A chain that is gone with the process. `genesis_unix` is the time of block 0.
    pub fn in_memory(genesis_unix: u32) -> Result<Self, ChainError> {
        Self::with_storage(Storage::memory(), genesis_unix)
    }

    /// The chain in this directory, continued where it stopped, or a new one.
    pub fn open(directory: &Path, genesis_unix: u32) -> Result<Self, ChainError> {
        Self::with_storage(Storage::disk(directory)?, genesis_unix)
    }

    fn with_storage(mut storage: Storage, genesis_unix: u32) -> Result<Self, ChainError> {
        let network = Network::with_global_id(GLOBAL_ID)?;
        let meta = match storage.get(META)? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| ChainError::Internal {
                    reason: format!("chain store: {error}"),
                })?
            }
            None => {
                let (meta, batch) = genesis::create(genesis_unix)?;
                storage.write(batch, true)?;
                meta
            }
        };
        Ok(Self {
            network,
            storage,
            meta,
            waiting: VecDeque::new(),
            limits: Limits::default(),
        })
    }

    /// See [`Chain::global_id`](crate::chain::Chain::global_id).
    pub fn global_id(&self) -> i32 {
        self.meta.global_id
    }

    /// See [`Chain::prices`](crate::chain::Chain::prices).
    pub fn prices(&self) -> Prices {
        self.network.prices
    }

    /// The newest block.
    pub fn head(&self) -> BlockRef {
        self.meta.head
    }

    /// Seconds by which the chain's clock is ahead of the machine's.
    pub fn clock_ahead(&self) -> u32 {
        self.meta.clock_ahead
    }

    /// The block with this number.
    pub fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        let bytes = self
            .storage
            .get(&storage::block_key(seqno))?
            .ok_or(ChainError::NoSuchBlock { seqno })?;
        serde_json::from_slice(&bytes).map_err(|error| ChainError::Internal {
            reason: format!("chain store: {error}"),
        })
    }

    /// An account; `None` where nothing ever arrived.
    pub fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        report::account(&self.shard_account(address)?).map_err(broken("account"))
    }

    fn shard_account(&self, address: TonAddress) -> Result<ShardAccount, ChainError> {
        match self.storage.get(&storage::account_key(address))? {
            Some(bytes) => {
                let cell = Boc::decode(bytes).map_err(|error| ChainError::Internal {
                    reason: error.to_string(),
                })?;
                let mut slice = cell.as_slice().map_err(broken("account"))?;
                ShardAccount::load_from(&mut slice).map_err(broken("account"))
            }
            None => execution::no_account(),
        }
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
                let broken = || ChainError::Internal {
                    reason: "chain store: transaction".to_owned(),
                };
                let (block, boc) = value.split_first_chunk::<4>().ok_or_else(broken)?;
                let cell = Boc::decode(boc).map_err(|_| broken())?;
                page.push(
                    report::transaction(address, u32::from_be_bytes(*block), &cell)
                        .map_err(|_| broken())?,
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
            unix: self.meta.head.unix,
        };
        getter::run(&account, &self.network.getters, &call)
    }

    /// Takes an external message (bag of cells) for the next block if its account accepts it now. It may still be
    /// dropped there, when another message came first and changed the account's mind.
    pub fn submit(&mut self, boc: &[u8]) -> Result<Digest, ChainError> {
        let bad = |reason: String| ChainError::BadMessage { reason };
        if boc.len() > MAX_EXTERNAL_BYTES {
            return Err(bad(format!(
                "{} bytes, at most {MAX_EXTERNAL_BYTES}",
                boc.len()
            )));
        }
        let message = Boc::decode(boc).map_err(|error| bad(error.to_string()))?;
        let parsed = message
            .parse::<OwnedMessage>()
            .map_err(|error| bad(error.to_string()))?;
        let MsgInfo::ExtIn(info) = &parsed.info else {
            return Err(bad("not an external message".to_owned()));
        };
        let account =
            standard(&info.dst).ok_or_else(|| bad("not an ordinary address".to_owned()))?;
        let hash = digest(message.repr_hash());
        if self.waiting.iter().any(|waiting| waiting.hash == hash) {
            return Ok(hash);
        }
        if self.waiting.len() >= self.limits.waiting_externals {
            return Err(ChainError::Busy {
                waiting: self.waiting.len(),
            });
        }
        let context = self.context(self.meta.head.unix);
        execution::check(
            &self.network,
            context,
            account,
            &self.shard_account(account)?,
            message.clone(),
        )?;
        self.waiting.push_back(Waiting {
            hash,
            account,
            message,
        });
        Ok(hash)
    }

    fn context(&self, unix: u32) -> BlockContext {
        let lt = self.meta.next_lt.next_multiple_of(LT_PER_BLOCK);
        let seed = Digest::sha256(&[b"seed".as_slice(), self.meta.head.hash.as_bytes()].concat());
        BlockContext { unix, lt, seed }
    }

    /// Lowers the limits, to see what congestion does. They cannot be raised above the defaults.
    pub fn set_limits(&mut self, limits: Limits) {
        let most = Limits::default();
        self.limits = Limits {
            transactions_per_block: limits
                .transactions_per_block
                .clamp(1, most.transactions_per_block),
            waiting_externals: limits.waiting_externals.min(most.waiting_externals),
        };
    }

    /// Lets the clock that [`serve`] makes blocks by run ahead of the machine's, from the next block on and for good.
    pub fn jump(&mut self, seconds: u32) {
        // Written with the next block.
        self.meta.clock_ahead = self.meta.clock_ahead.saturating_add(seconds);
    }

    /// Makes the next block at this time (seconds since 1970), or at the time of the block before if that is later.
    pub fn advance(&mut self, unix: u32) -> Result<BlockRef, ChainError> {
        let head = self.meta.head;
        let unix = unix.max(head.unix);
        let seqno = head.seqno.checked_add(1).ok_or(ChainError::Internal {
            reason: "the last block".to_owned(),
        })?;
        let mut block = BlockBuilder {
            context: self.context(unix),
            seqno,
            limit: self.limits.transactions_per_block,
            next_lt: 0,
            collected: self.meta.collected,
            accounts: BTreeMap::new(),
            queue: VecDeque::new(),
            hashes: Vec::new(),
            batch: Batch::new(),
        };
        block.next_lt = block.context.lt;

        let mut left_over = Vec::new();
        self.storage.scan(IN_FLIGHT, IN_FLIGHT, |key, value| {
            left_over.push((
                key.to_vec(),
                Boc::decode(value).map_err(|e| ChainError::Internal {
                    reason: e.to_string(),
                })?,
            ));
            Ok(Scan::On)
        })?;
        for (key, message) in left_over {
            block.batch.insert(key, None);
            block.queue.push_back(message);
        }
        block.deliver_all(self)?;
        while block.has_room()
            && let Some(waiting) = self.waiting.pop_front()
        {
            if let Err(error) = block.run(self, waiting.account, &waiting.message, true) {
                // A message the engine chokes on must not stop the chain.
                tracing::error!(account = %waiting.account, %error, "external message dropped");
            }
            block.deliver_all(self)?;
        }

        let mut meta = self.meta.clone();
        for message in std::mem::take(&mut block.queue) {
            block.batch.insert(
                storage::in_flight_key(meta.in_flight_next),
                Some(Boc::encode(&message)),
            );
            meta.in_flight_next = meta.in_flight_next.saturating_add(1);
        }
        meta.head = BlockRef {
            seqno,
            hash: block_hash(seqno, head.hash, unix, &block.hashes),
            unix,
        };
        meta.next_lt = block.next_lt;
        meta.collected = block.collected;
        for (address, account) in &block.accounts {
            block.batch.insert(
                storage::account_key(*address),
                account.as_ref().map(encode_account).transpose()?,
            );
        }
        block
            .batch
            .insert(storage::block_key(seqno), Some(encode_json(&meta.head)?));
        block.batch.insert(META.to_vec(), Some(encode_json(&meta)?));
        // An empty block may be lost with the machine: another one will do.
        let durable = !block.hashes.is_empty();
        self.storage.write(block.batch, durable)?;
        self.meta = meta;
        Ok(self.meta.head)
    }

    /// Where all coins are.
    pub fn supply(&self) -> Result<Supply, ChainError> {
        let overflow = || ChainError::Internal {
            reason: "more coins than 2^64".to_owned(),
        };
        let mut balances = 0u64;
        self.storage.scan(ACCOUNTS, ACCOUNTS, |_, value| {
            let cell = Boc::decode(value).map_err(|error| ChainError::Internal {
                reason: error.to_string(),
            })?;
            let mut slice = cell.as_slice().map_err(broken("account"))?;
            let shard = ShardAccount::load_from(&mut slice).map_err(broken("account"))?;
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
            minted: self.meta.minted,
            balances,
            in_flight,
            collected: self.meta.collected,
        })
    }
}

fn encode_json<T: Serialize>(value: &T) -> Result<Vec<u8>, ChainError> {
    serde_json::to_vec(value).map_err(|error| ChainError::Internal {
        reason: error.to_string(),
    })
}

fn encode_account(account: &ShardAccount) -> Result<Vec<u8>, ChainError> {
    let mut builder = CellBuilder::new();
    account
        .store_into(&mut builder, Cell::empty_context())
        .map_err(broken("account"))?;
    Ok(Boc::encode(builder.build().map_err(broken("account"))?))
}
