//! The chain as TON's own light client tells it: `libtonlibjson`, by the crate `tonlib-client`.
//!
//! A second opinion on what [`LiteChain`](super::LiteChain) says, with code that shares nothing with it. Only with the
//! cargo feature `tonlib`; what is linked then needs the library (`docs/chain.md` says where it comes from).
//!
//! The library proves most of what it says. Read in its source (`tonlib/tonlib/{LastBlock,TonlibClient}.cpp` of
//! `ton-blockchain/ton`, revision ca7d6e45):
//!
//! - **proved:** the head, link by link from `init_block` with the validators' signatures; an account and the
//!   configuration, by Merkle proofs against that head; a block found by number or time, by links to it from that head; a
//!   list of transactions, by the hash that each names of the one before (checked here again). Get methods run in its own TVM on the proved account and configuration; libraries count by their hash;
//! - **not proved:** how old the head is (nothing is held against the clock, and a head is compared only with what the same
//!   server claims: one that is up to 100 blocks behind that is taken); that no other server has signed blocks that
//!   contradict it (one server is asked at a time); that a message was passed on.
//!
//! A block's header would tell its time, but `tonlib-client` 0.26.11 reads no header of the library inside pytonlib
//! 0.0.72: that one leaves out the field `flags`. So times are had otherwise: the head's with an
//! account's state, an old block's by lookups.
//!
//! Its standing is [`ChainStanding::Trusted`](super::ChainStanding), never "verified": the library does not say what it
//! proved or how, one server can hold it at an old head, and its code is not this project's to vouch for.

mod calls;
mod search;
mod stack;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cocoon_protocol::{Digest, NanoTon, TonAddress};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tonlib_client::client::{
    ConnectionCheck, NOOP_CONNECTION_CALLBACK, TonClient, TonConnection, TonConnectionParams,
};
use tonlib_client::tl::{
    AccountAddress, BlockId, BlockIdExt, InternalTransactionId, RawFullAccountState, TonFunction,
    TonResult,
};
use tonlib_client::types::TonMethodId;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::BlockchainConfigParams;

use self::calls::{Fault, bag, hash};
use self::search::{Search, Seen};
use super::external::{Taken, check, exit_code};
use super::getter;
use super::lite::GlobalConfig;
use super::lite::global_config::text_at;
use super::lite::history::{MAX_WALKED, PER_ANSWER, Place, before};
use super::wire::MAX_TRANSACTIONS_PER_PAGE;
use super::{
    AccountState, AccountStatus, BlockRef, Chain, ChainError, MethodResult, Prices, StackItem,
    TransactionSummary,
};
use crate::contract::encoding::{digest, encoding};
use crate::devnet::report;

/// Questions that wait for the library at once; others wait for those.
const MAX_WAITING: usize = 64;
/// Blocks looked up at once for a list of transactions.
const LOOKUPS_AT_ONCE: usize = 8;
/// Notifications that the library may keep for nobody; there are none that are used.
const NOTIFICATIONS: usize = 1;
/// What the library writes to standard error: only what ends the process.
const LOG_LEVEL: u32 = 0;
const MASTERCHAIN: i8 = -1;

/// Settings of a [`TonlibChain`].
#[derive(Clone, Debug)]
pub struct TonlibSettings {
    /// For one answer. The library's own limit for one server is ten seconds. The walk from mainnet's `init_block` takes
    /// minutes: calls fail as unreachable meanwhile, and it goes on.
    pub answer_timeout: Duration,
    /// Tries of a question, in all; the library changes the server after a failure. A message is sent once.
    pub rounds: u32,
    /// Before the second try; doubles after each.
    pub first_backoff: Duration,
    /// Where the library keeps the newest key block that it proved; nowhere if `None`. Like `chain-anchor.json` it is
    /// believed at the next start.
    pub directory: Option<PathBuf>,
}

impl Default for TonlibSettings {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(40),
            rounds: 3,
            first_backoff: Duration::from_millis(100),
            directory: None,
        }
    }
}

/// TON's light client behind [`Chain`]. Cheap to clone.
#[derive(Clone)]
pub struct TonlibChain {
    inner: Arc<Inner>,
}

struct Inner {
    /// What the configuration was read from, for errors.
    name: String,
    settings: TonlibSettings,
    connection: TonConnection,
    slots: Semaphore,
    taken: Taken,
}

impl TonlibChain {
    /// Reads the configuration at `place` (URL or path, see [`GlobalConfig::load`]) and starts the library. Asks no
    /// liteserver yet.
    pub async fn connect(place: &str, settings: TonlibSettings) -> Result<Self, ChainError> {
        let bad = |reason: String| ChainError::BadAnswer {
            endpoint: place.to_owned(),
            reason,
        };
        let text = text_at(place).await?;
        // The library is given nothing that this crate would refuse.
        GlobalConfig::parse(&text).map_err(bad)?;
        let config = String::from_utf8(text).map_err(|error| bad(error.to_string()))?;
        let keystore_dir = match &settings.directory {
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .map_err(|error| bad(format!("{}: {error}", directory.display())))?;
                let text = directory.to_str();
                Some(
                    text.ok_or_else(|| bad("the directory's name is not UTF-8".to_owned()))?
                        .to_owned(),
                )
            }
            None => None,
        };
        TonClient::set_log_verbosity_level(LOG_LEVEL);
        let params = TonConnectionParams {
            config,
            blockchain_name: None,
            use_callbacks_for_network: false,
            ignore_cache: settings.directory.is_none(),
            keystore_dir,
            notification_queue_length: NOTIFICATIONS,
            // Theirs lets go before the answer is there; `slots` does it.
            concurrency_limit: 0,
            update_init_block: false,
        };
        let callback = NOOP_CONNECTION_CALLBACK.clone();
        let connecting = TonConnection::new(ConnectionCheck::None, &params, callback);
        let connection = tokio::time::timeout(settings.answer_timeout, connecting)
            .await
            .map_err(|_| bad("the library does not answer".to_owned()))?
            .map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: place.to_owned(),
                settings,
                connection,
                slots: Semaphore::new(MAX_WAITING),
                taken: Taken::default(),
            }),
        })
    }

    /// The newest block. The library tells a proved block's time nowhere but with an account's state, so it is asked for
    /// the masterchain's account of zeros, which is in no shard but that one.
    async fn newest(&self) -> Result<BlockRef, ChainError> {
        let zeros = TonAddress {
            workchain: MASTERCHAIN,
            hash: [0; 32],
        };
        let state = self.raw_state(zeros).await?;
        self.named_block(&state.block_id, state.sync_utime)
    }

    fn named_block(&self, id: &BlockIdExt, unix: i64) -> Result<BlockRef, ChainError> {
        if id.workchain != i32::from(MASTERCHAIN) || id.shard != i64::MIN {
            return Err(self.bad("a block of another shard than was asked for"));
        }
        Ok(BlockRef {
            seqno: self.seqno(id)?,
            hash: Digest::from_bytes(hash(&id.root_hash).map_err(|reason| self.bad(&reason))?),
            unix: u32::try_from(unix).map_err(|_| self.bad("a time that is no 32-bit number"))?,
        })
    }

    fn seqno(&self, id: &BlockIdExt) -> Result<u32, ChainError> {
        u32::try_from(id.seqno).map_err(|_| self.bad("a negative number of a block"))
    }

    async fn lookup(&self, by: By) -> Result<BlockIdExt, ChainError> {
        match self.ask(&by.question()).await? {
            TonResult::BlockIdExt(id) => Ok(id),
            other => Err(self.unexpected("blocks.lookupBlock", &other)),
        }
    }

    /// When a masterchain block older than `newest` was made, by looking blocks up by time.
    async fn time_of(&self, seqno: u32, newest: BlockRef) -> Result<u32, ChainError> {
        let mut search = Search::below(newest.unix);
        while let Some(unix) = search.next() {
            let by = By::Unix(unix);
            let found = match self.once(&by.question()).await {
                Ok(TonResult::BlockIdExt(id)) => Some(id),
                // Before the first block there is none whose neighbours could be shown.
                Err(Fault::Wrong(_)) => None,
                _ => Some(self.lookup(by).await?),
            };
            search.saw(match found {
                Some(id) if self.seqno(&id)? <= seqno => Seen::AtOrBefore,
                Some(_) => Seen::After,
                None => Seen::Nothing,
            });
        }
        search
            .found()
            .ok_or_else(|| self.bad("no time leads to that block"))
    }

    async fn raw_state(&self, address: TonAddress) -> Result<RawFullAccountState, ChainError> {
        let question = TonFunction::RawGetAccountState {
            account_address: named(address),
        };
        match self.ask(&question).await? {
            TonResult::RawFullAccountState(state) => Ok(state),
            other => Err(self.unexpected("raw.getAccountState", &other)),
        }
    }

    /// The account, or `None` where nothing ever arrived: its balance is -1 then.
    async fn state(&self, address: TonAddress) -> Result<Option<RawFullAccountState>, ChainError> {
        let state = self.raw_state(address).await?;
        Ok(Some(state).filter(|state| state.balance >= 0))
    }

    async fn config(&self) -> Result<BlockchainConfigParams, ChainError> {
        let config = match self.ask(&TonFunction::GetConfigAll { mode: 0 }).await? {
            TonResult::ConfigInfo(info) => info.config.bytes,
            other => return Err(self.unexpected("getConfigAll", &other)),
        };
        let root = bag(&config).map_err(|reason| self.bad(&reason))?;
        Ok(BlockchainConfigParams::from_raw(root))
    }

    /// Transactions from `place` on, newest first.
    async fn page(&self, address: TonAddress, place: Place) -> Result<Vec<Cell>, ChainError> {
        let question = TonFunction::RawGetTransactionsV2 {
            account_address: named(address),
            from_transaction_id: InternalTransactionId {
                lt: place.lt.cast_signed(),
                hash: place.hash.to_vec(),
            },
            count: PER_ANSWER,
            try_decode_messages: false,
        };
        let list = match self.ask(&question).await? {
            TonResult::RawTransactions(list) => list.transactions,
            other => return Err(self.unexpected("raw.getTransactionsV2", &other)),
        };
        if list.is_empty() || list.len() > usize::try_from(PER_ANSWER).unwrap_or(usize::MAX) {
            return Err(self.bad("not as many transactions as were asked for"));
        }
        let cells: Result<Vec<_>, _> = list.iter().map(|one| bag(&one.data)).collect();
        cells.map_err(|reason| self.bad(&reason))
    }

    /// With the number of the shard's block that it is in, which the library finds by the logical time.
    async fn summary(
        &self,
        address: TonAddress,
        cell: Cell,
    ) -> Result<TransactionSummary, ChainError> {
        let mut summary =
            report::transaction(address, 0, &cell).map_err(encoding("transaction"))?;
        let found = self.lookup(By::Lt(address, summary.lt)).await?;
        if found.workchain != i32::from(address.workchain) {
            return Err(self.bad("a block of another chain"));
        }
        summary.block = self.seqno(&found)?;
        Ok(summary)
    }
}

fn named(address: TonAddress) -> AccountAddress {
    AccountAddress {
        account_address: address.to_string(),
    }
}

/// What a block is looked up by.
#[derive(Clone, Copy)]
enum By {
    /// Number, in the masterchain.
    Seqno(u32),
    /// Seconds since 1970, in the masterchain: the first block that is not before.
    Unix(u32),
    /// The logical time of a transaction of this account.
    Lt(TonAddress, u64),
}

impl By {
    fn question(self) -> TonFunction {
        let mut id = BlockId {
            workchain: i32::from(MASTERCHAIN),
            shard: i64::MIN,
            seqno: 0,
        };
        let (mut lt, mut utime) = (0, 0);
        let mode = match self {
            Self::Seqno(seqno) => {
                id.seqno = seqno.cast_signed();
                1
            }
            Self::Lt(account, at) => {
                id.workchain = i32::from(account.workchain);
                id.shard = shard_of(account);
                lt = at.cast_signed();
                2
            }
            Self::Unix(unix) => {
                utime = unix.cast_signed();
                4
            }
        };
        TonFunction::BlocksLookupBlock {
            mode,
            id,
            lt,
            utime,
        }
    }
}

/// The smallest shard that holds the account: the first 60 bits of its address, TON's longest prefix, and the bit that
/// ends it. The masterchain is one shard.
fn shard_of(address: TonAddress) -> i64 {
    if address.workchain == MASTERCHAIN {
        return i64::MIN;
    }
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(address.hash) {
        *to = from;
    }
    (u64::from_be_bytes(first) & !0xf | 0x8).cast_signed()
}

#[async_trait]
impl Chain for TonlibChain {
    async fn global_id(&self) -> Result<i32, ChainError> {
        let config = self.config().await?;
        config.get_global_id().map_err(encoding("network number"))
    }

    async fn head(&self) -> Result<BlockRef, ChainError> {
        self.newest().await
    }

    /// The time of an old block takes some twenty lookups. Where several blocks are of one second, which lookup answers
    /// is the server's choice, and a server that wants to can make the block a second older than it is. A block of the same
    /// second as the chain's first has no time that a lookup shows.
    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        let newest = self.newest().await?;
        if seqno > newest.seqno || seqno == 0 {
            return Err(ChainError::NoSuchBlock { seqno });
        }
        if seqno == newest.seqno {
            return Ok(newest);
        }
        let found = self.lookup(By::Seqno(seqno)).await?;
        if self.seqno(&found)? != seqno {
            return Err(self.bad("another block than was asked for"));
        }
        let unix = self.time_of(seqno, newest).await?;
        self.named_block(&found, i64::from(unix))
    }

    /// An account without code is uninitialised here, though one that is active with data alone is thinkable: the library
    /// does not tell them apart.
    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        let Some(state) = self.state(address).await? else {
            return Ok(None);
        };
        let bad = |reason: String| self.bad(&reason);
        let (status, code_hash, data) = if !state.frozen_hash.is_empty() {
            (AccountStatus::Frozen, None, None)
        } else if state.code.is_empty() {
            (AccountStatus::Uninit, None, None)
        } else {
            let code = bag(&state.code).map_err(bad)?;
            let data = if state.data.is_empty() {
                Cell::default()
            } else {
                bag(&state.data).map_err(bad)?
            };
            (
                AccountStatus::Active,
                Some(digest(code.repr_hash())),
                Some(Boc::encode(data)),
            )
        };
        let last = &state.last_transaction_id;
        Ok(Some(AccountState {
            balance: NanoTon::from_nano(state.balance.cast_unsigned()),
            status,
            code_hash,
            data,
            last_lt: last.lt.cast_unsigned(),
            last_hash: digest(&HashBytes(hash(&last.hash).map_err(bad)?)),
        }))
    }

    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        let hash = check(boc)?;
        let message = TonFunction::RawSendMessage { body: boc.to_vec() };
        match self.once(&message).await {
            Ok(TonResult::Ok {}) => {
                self.inner.taken.note(hash);
                Ok(hash)
            }
            Ok(other) => Err(self.unexpected("raw.sendMessage", &other)),
            Err(_) if self.inner.taken.contains(&hash) => Ok(hash),
            Err(Fault::Refused(reason)) => Err(ChainError::NotAccepted {
                exit_code: exit_code(&reason),
                reason,
            }),
            Err(fault) => Err(fault.into_error(&self.inner.name, 1)),
        }
    }

    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        getter::within_limits(method, args)?;
        let arguments = args
            .iter()
            .map(|item| stack::to_tonlib(item, 0))
            .collect::<Result<Vec<_>, _>>()?;
        if self.state(address).await?.is_none_or(|s| s.code.is_empty()) {
            return Err(ChainError::NoContract { address });
        }
        // Forgotten by the library when it is dropped.
        let loaded = self.load(address).await?;
        let run = TonFunction::SmcRunGetMethod {
            id: loaded.id,
            method: (&TonMethodId::from(method.to_owned())).into(),
            stack: arguments,
        };
        let result = match self.ask(&run).await? {
            TonResult::SmcRunResult(result) => result,
            other => return Err(self.unexpected("smc.runGetMethod", &other)),
        };
        // TVM ends well with 0, and with 1 by its alternative continuation.
        if !matches!(result.exit_code, 0 | 1) {
            return Err(ChainError::GetMethod {
                address,
                method: method.to_owned(),
                exit_code: result.exit_code,
            });
        }
        Ok(MethodResult {
            stack: stack::from_tonlib(&result.stack.elements)
                .map_err(|reason| self.bad(&reason))?,
            gas_used: u64::try_from(result.gas_used).map_err(|_| self.bad("negative gas"))?,
        })
    }

    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        let limit = usize::from(limit.min(MAX_TRANSACTIONS_PER_PAGE));
        let Some(state) = self.state(address).await?.filter(|_| limit > 0) else {
            return Ok(Vec::new());
        };
        let last = &state.last_transaction_id;
        let mut place = Place {
            lt: last.lt.cast_unsigned(),
            hash: hash(&last.hash).map_err(|reason| self.bad(&reason))?,
        };
        // Newest first; only the oldest `limit` of what is after `after_lt` are kept.
        let mut kept = VecDeque::new();
        let mut walked = 0usize;
        while place.lt > after_lt {
            if walked >= MAX_WALKED {
                return Err(ChainError::HistoryTooLong {
                    account: address,
                    walked,
                });
            }
            for cell in self.page(address, place).await? {
                walked = walked.saturating_add(1);
                let wanted = place.lt > after_lt;
                place = before(address, place, &cell).map_err(|reason| self.bad(&reason))?;
                if wanted {
                    kept.push_back(cell);
                }
            }
            while kept.len() > limit {
                kept.pop_front();
            }
        }
        futures::stream::iter(kept.into_iter().rev())
            .map(|cell| self.summary(address, cell))
            .buffered(LOOKUPS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn prices(&self) -> Result<Prices, ChainError> {
        let config = self.config().await?;
        getter::prices(&config).map_err(encoding("network parameters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_looked_for_in_its_own_shard() {
        let mut address = TonAddress {
            workchain: 0,
            hash: [0xff; 32],
        };
        assert_eq!(shard_of(address).cast_unsigned(), 0xffff_ffff_ffff_fff8);
        address.hash = [0; 32];
        assert_eq!(shard_of(address), 8);
        address.workchain = -1;
        assert_eq!(shard_of(address), i64::MIN);
    }
}
