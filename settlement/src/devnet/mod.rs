//! A small TON: real contracts in a real TVM, real blocks with real proofs, in one process and one directory.
//!
//! What is real: accounts, cells, messages, transactions, gas, rent and forwarding fees, the wallet contract and ours,
//! executed by `tycho-executor` under the public parameters of TON's mainnet; a masterchain and a base chain whose
//! blocks carry a Merkle update from state to state, a value flow that adds up and, in key blocks, the configuration
//! with the validators; the validators' signatures. [`serve`] offers all of it to any liteserver client. What is not:
//! there is one validator, and everybody knows its key ([`VALIDATOR_SEED`]); `docs/devnet.md` has the whole list.
//! Whoever runs the process decides what a block is. Blocks come on a timer (see [`serve`]) or when told
//! ([`Devnet::advance`]); the same messages at the same times give the same blocks.
//!
//! A block takes the messages left over from the block before, then the external messages that wait, and delivers
//! what they cause until nothing is left or [`MAX_TRANSACTIONS_PER_BLOCK`] is reached. Every masterchain block has one
//! block of the base chain under it, with the same number. The masterchain block's root hash is the beacon that
//! evidence refers to.
//!
//! Coins are created at genesis, all of them in the [`faucet`], whose key is public. They are worth nothing. Block 1 is
//! a key block and is made at once, so that clients have something to start from.

mod assemble;
mod block;
mod execution;
mod explorer;
mod faucet;
mod genesis;
mod liteserver;
mod making;
mod network;
mod pages;
mod reading;
mod record;
pub(crate) mod report;
mod server;
mod state;
mod storage;

use std::collections::VecDeque;
use std::path::Path;

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, Load, Store};
use tycho_types::models::{ShardAccount, ShardAccounts};

use self::execution::broken;
use self::network::{Choices, Network};
use self::record::{BlockRecord, Hashes, Place, Split, hashes};
use self::state::{Facts, OldBlocks, Tip};
use self::storage::{ACCOUNTS, Batch, META, RECORDS, Scan, Storage, VERSION};
use crate::chain::ChainError;

pub use faucet::MAX_GIFT;
pub use genesis::{FAUCET_SEED, faucet};
pub use liteserver::{
    Faults, Fork, LITESERVER_SEED, Liteserver, MAX_CONNECTIONS, MAX_DELAY_MS, MAX_LINKS,
    MAX_QUERIES_IN_FLIGHT, MAX_QUERY_BYTES, MAX_WAIT_MS, global_config,
};
pub use network::{VALIDATOR_SEED, validator_key};
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
/// States that proofs can be made against: those after the newest blocks. Older ones are gone, as on a liteserver that
/// is not an archive; so are all but the newest after a restart. Blocks stay.
pub const RETAINED_STATES: usize = 512;
/// After so many blocks there is a key block of its own accord: about an hour at TON's pace.
pub const KEY_BLOCK_INTERVAL: u32 = 10_000;
/// Layout of the directory. 1 had no blocks, only their hashes.
const STORAGE_VERSION: u32 = 2;
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
    /// Number of the newest block.
    head: u32,
    /// Seconds since 1970.
    genesis_unix: u32,
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

/// Whether the next block will be a key block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyBlock {
    No,
    /// One that repeats the configuration.
    Same,
    /// One after which other validators sign.
    NewValidators,
}

/// The states after one block.
struct Retained {
    seqno: u32,
    states: Split<Cell>,
}

/// The chain itself. Synchronous; [`LocalChain`](crate::chain::LocalChain) and [`serve`] share one between callers.
pub struct Devnet {
    network: Network,
    storage: Storage,
    meta: Meta,
    zero: BlockRecord,
    tip: Tip,
    retained: VecDeque<Retained>,
    waiting: VecDeque<Waiting>,
    limits: Limits,
    key_block: KeyBlock,
    /// Tells the newest block's number to whoever waits for one.
    heads: watch::Sender<u32>,
}

impl Devnet {
    /// A chain that is gone with the process. `genesis_unix` is the time of block 1.
    pub fn in_memory(genesis_unix: u32) -> Result<Self, ChainError> {
        Self::begin(Storage::memory(), genesis_unix)
    }

    /// The chain in this directory, continued where it stopped, or a new one.
    pub fn open(directory: &Path, genesis_unix: u32) -> Result<Self, ChainError> {
        let storage = Storage::disk(directory)?;
        let refused = |reason: String| ChainError::Directory {
            directory: directory.display().to_string(),
            reason,
        };
        let Some(meta) = storage.get(META)? else {
            return Self::begin(storage, genesis_unix);
        };
        let version = storage
            .get(VERSION)?
            .and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)))
            .unwrap_or(1);
        if version != STORAGE_VERSION {
            return Err(refused(format!(
                "it is laid out as version {version}, and this program writes version {STORAGE_VERSION}; \
                 give another directory, or remove this one to start a new chain"
            )));
        }
        let meta = decode_json(&meta)?;
        Self::resume(storage, meta).map_err(|error| match error {
            ChainError::Internal { reason } => refused(reason),
            other => other,
        })
    }

    fn begin(mut storage: Storage, unix: u32) -> Result<Self, ChainError> {
        let (address, account) = genesis::accounts(unix)?;
        let mut accounts = ShardAccounts::new();
        state::put(&mut accounts, address, Some(&account)).map_err(broken("genesis"))?;
        let (base, bytes) = assemble::zero_base(unix, &accounts).map_err(broken("genesis"))?;
        let network = Network::with(&choices(unix, 0, hashes(base.repr_hash(), &bytes)))?;
        let beginning = assemble::beginning(unix, &network, accounts).map_err(broken("genesis"))?;
        let zero = beginning.tip.record;
        let mut batch = Batch::new();
        batch.insert(
            VERSION.to_vec(),
            Some(STORAGE_VERSION.to_be_bytes().to_vec()),
        );
        batch.insert(
            storage::account_key(address),
            Some(encode_account(&account)?),
        );
        batch.insert(storage::record_key(0), Some(encode_json(&zero)?));
        for place in [Place::Base, Place::Master] {
            batch.insert(
                storage::block_key(place, 0),
                Some(beginning.bytes.get(place).clone()),
            );
        }
        // Without a position: a process killed here begins again.
        storage.write(batch, false)?;
        let meta = Meta {
            head: 0,
            genesis_unix: unix,
            clock_ahead: 0,
            in_flight_next: 0,
        };
        let mut devnet = Self::with(storage, network, meta, zero, beginning.tip);
        devnet.key_block = KeyBlock::Same;
        devnet.advance(unix)?;
        Ok(devnet)
    }

    /// Builds the newest state again from the accounts and the records of all blocks, and checks that it is the one
    /// that the newest block names.
    fn resume(storage: Storage, meta: Meta) -> Result<Self, ChainError> {
        let damaged = |what: String| ChainError::Internal {
            reason: format!("{what}; the directory is damaged"),
        };
        let mut records = Vec::new();
        storage.scan(RECORDS, RECORDS, |_, value| {
            let record: BlockRecord = decode_json(value)?;
            records.push(record);
            Ok(Scan::On)
        })?;
        let record = records
            .pop()
            .filter(|record| record.seqno == meta.head)
            .ok_or_else(|| damaged(format!("block {} is missing", meta.head)))?;
        let zero = *records
            .first()
            .ok_or_else(|| damaged("the zero state is missing".to_owned()))?;
        let entries: Vec<_> = records
            .iter()
            .map(|record| {
                let (extra, value) = state::remembered(record);
                (record.seqno, extra, value)
            })
            .collect();
        let old_blocks =
            OldBlocks::try_from_sorted_slice(&entries).map_err(broken("old blocks"))?;
        let last_key_block = records
            .iter()
            .rev()
            .find(|record| record.key_block && record.seqno > 0)
            .map(|record| record.external_ref(Place::Master));
        let mut accounts = Split {
            base: ShardAccounts::new(),
            master: ShardAccounts::new(),
        };
        storage.scan(ACCOUNTS, ACCOUNTS, |key, value| {
            let address = storage::account_address(key)
                .ok_or_else(|| damaged("an account has no address".to_owned()))?;
            let place = Place::of(address.workchain)
                .ok_or_else(|| damaged(format!("{address} has no place")))?;
            let account = decode_account(value)?;
            state::put(accounts.get_mut(place), address, Some(&account))
                .map_err(broken("account"))?;
            Ok(Scan::On)
        })?;
        let network = Network::with(&choices(
            meta.genesis_unix,
            record.next_validators,
            zero.hashes.base,
        ))?;
        let facts = Facts::of(&record, records.last());
        let build = || {
            let base = state::base(&facts, &accounts.base)?;
            let shards = state::shards(&facts, &record.id(Place::Base))?;
            let master = state::master(
                &facts,
                &accounts.master,
                &network,
                shards,
                &old_blocks,
                last_key_block.clone(),
            )?;
            Ok(Split { base, master })
        };
        let states = build().map_err(broken("newest state"))?;
        for place in [Place::Base, Place::Master] {
            let found = states.get(place).repr_hash();
            if found.as_slice() != record.states.get(place).as_bytes() {
                return Err(damaged(format!(
                    "the state after block {} does not have the hash that the block names",
                    record.seqno
                )));
            }
        }
        let tip = Tip {
            record,
            accounts,
            old_blocks,
            last_key_block,
            states,
        };
        Ok(Self::with(storage, network, meta, zero, tip))
    }

    fn with(storage: Storage, network: Network, meta: Meta, zero: BlockRecord, tip: Tip) -> Self {
        let (heads, _) = watch::channel(tip.record.seqno);
        let mut devnet = Self {
            network,
            storage,
            meta,
            zero,
            retained: VecDeque::new(),
            tip,
            waiting: VecDeque::new(),
            limits: Limits::default(),
            key_block: KeyBlock::No,
            heads,
        };
        devnet.retain();
        devnet
    }

    fn retain(&mut self) {
        self.retained.push_back(Retained {
            seqno: self.tip.record.seqno,
            states: self.tip.states.clone(),
        });
        if self.retained.len() > RETAINED_STATES {
            self.retained.pop_front();
        }
    }
}

fn choices(genesis_unix: u32, validators: u32, zero_state: Hashes) -> Choices {
    Choices {
        global_id: GLOBAL_ID,
        genesis_unix,
        validators,
        zero_state,
    }
}

fn encode_json<T: Serialize>(value: &T) -> Result<Vec<u8>, ChainError> {
    serde_json::to_vec(value).map_err(|error| ChainError::Internal {
        reason: error.to_string(),
    })
}

fn decode_json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, ChainError> {
    serde_json::from_slice(bytes).map_err(|error| ChainError::Internal {
        reason: format!("chain store: {error}"),
    })
}

fn encode_account(account: &ShardAccount) -> Result<Vec<u8>, ChainError> {
    let mut builder = CellBuilder::new();
    account
        .store_into(&mut builder, Cell::empty_context())
        .map_err(broken("account"))?;
    Ok(Boc::encode(builder.build().map_err(broken("account"))?))
}

fn decode_account(bytes: &[u8]) -> Result<ShardAccount, ChainError> {
    let cell = Boc::decode(bytes).map_err(|error| ChainError::Internal {
        reason: format!("chain store: account: {error}"),
    })?;
    let mut slice = cell.as_slice().map_err(broken("account"))?;
    ShardAccount::load_from(&mut slice).map_err(broken("account"))
}
