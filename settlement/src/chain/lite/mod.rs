//! The chain as liteservers tell it, with every answer proved.
//!
//! A liteserver is a stranger with a copy of the chain. What it says is taken only with a proof: a head with signatures of
//! more than two thirds of the validators, walked to from a key block that is trusted ([`walk`]); an account, the
//! configuration or an old block with Merkle proofs against that head ([`proof`]); transactions by the hashes that each
//! one names of the one before ([`history`]). Get methods run here, in a TVM of this process, on the proved account. One
//! thing stays a server's word: that an external message was passed on. Whether it was shows in the account.
//!
//! What is trusted: the `init_block` of the configuration file ([`global_config`]) or the newer key block kept beside the
//! node's data ([`anchor`]), and this machine's clock, which alone can tell an old head from a new one.
//!
//! When no head can be verified any more, because a network upgrade brought forms that this program does not know or
//! because nobody answers, reads fail with [`ChainError::Unverifiable`] and [`Chain::standing`] says since when;
//! [`Chain::account_within`] still tells what was proved last, as long as the caller says it may be so old.

mod anchor;
mod error;
pub(super) mod global_config;
mod head;
pub(super) mod history;
mod progress;
mod proof;
mod send;
mod server;
mod settings;
#[cfg(test)]
mod tampered;
mod walk;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cocoon_protocol::{Digest, TonAddress};
use tycho_types::models::{BlockchainConfigParams, ShardAccount};

pub use error::LiteError;
pub use global_config::{DEVNET_PATH, GlobalConfig, MAX_SERVERS, ServerAddress};
pub use progress::Progress;
pub use server::ServerState;
pub use settings::LiteSettings;
pub use wire::BlockId;

use self::anchor::Anchor;
use self::head::Known;
use self::history::Place;
use self::proof::Proved;
use self::server::Server;
use self::wire::Request;
use super::external::Taken;
use super::getter;
use super::wire::MAX_TRANSACTIONS_PER_PAGE;
use super::{
    AccountState, BlockRef, Chain, ChainError, ChainStanding, MethodResult, Prices, StackItem,
    TransactionSummary,
};
use crate::contract::encoding::encoding;
use crate::devnet::report;

/// Accounts whose last proved state is kept for [`Chain::account_within`].
const MAX_KEPT_ACCOUNTS: usize = 4096;

/// Client of liteservers. Cheap to clone.
#[derive(Clone)]
pub struct LiteChain {
    inner: Arc<Inner>,
}

struct Inner {
    /// What the configuration was read from, for errors.
    name: String,
    /// Root hash of the zero state.
    network: [u8; 32],
    settings: LiteSettings,
    servers: Vec<Arc<Server>>,
    progress: Progress,
    known: Mutex<Known>,
    /// When the last look at the head began. Held while one is going on.
    looked: tokio::sync::Mutex<Option<Instant>>,
    /// The configuration, under the number of the key block that it is in.
    config: tokio::sync::Mutex<Option<(u32, Arc<Parameters>)>>,
    kept: Mutex<BTreeMap<TonAddress, Kept>>,
    taken: Taken,
}

struct Parameters {
    global_id: i32,
    prices: Prices,
    /// For get methods.
    getters: BlockchainConfigParams,
}

struct Kept {
    at: Instant,
    account: Option<AccountState>,
}

impl LiteChain {
    /// Reads the configuration at `place` (URL or path, see [`GlobalConfig::load`]). Asks no liteserver yet.
    pub async fn connect(place: &str, settings: LiteSettings) -> Result<Self, ChainError> {
        Ok(Self::new(
            place,
            GlobalConfig::load(place).await?,
            settings,
            Progress::default(),
        ))
    }

    /// With a configuration at hand. `name` stands for it in errors.
    #[must_use]
    pub fn new(
        name: &str,
        config: GlobalConfig,
        settings: LiteSettings,
        progress: Progress,
    ) -> Self {
        let anchor = settings
            .anchor_file
            .as_deref()
            .and_then(|path| anchor::load(path, &config.zero_state))
            .filter(|kept| kept.block.seqno >= config.init_block.seqno)
            .unwrap_or(Anchor {
                block: config.init_block,
                global_id: None,
            });
        Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                network: config.zero_state,
                settings,
                servers: config
                    .servers
                    .into_iter()
                    .map(|at| Arc::new(Server::new(at)))
                    .collect(),
                progress,
                known: Mutex::new(Known::starting_at(anchor)),
                looked: tokio::sync::Mutex::new(None),
                config: tokio::sync::Mutex::new(None),
                kept: Mutex::new(BTreeMap::new()),
                taken: Taken::default(),
            }),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All servers: those that nothing is held against first, each group in the configuration's order.
    fn order(&self) -> Vec<Arc<Server>> {
        let (good, bad) = self.sorted();
        [good, bad].concat()
    }

    /// Servers that nothing is held against, and the others.
    fn sorted(&self) -> (Vec<Arc<Server>>, Vec<Arc<Server>>) {
        self.inner
            .servers
            .iter()
            .cloned()
            .partition(|server| !server.is_demoted())
    }

    /// Puts a question to one server after the other until one answers with what `ask` accepts.
    async fn one_of_all<T, F>(&self, ask: impl Fn(Arc<Server>) -> F) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, LiteError>>,
    {
        let settings = &self.inner.settings;
        let mut backoff = settings.first_backoff;
        let mut round = 0u32;
        loop {
            round = round.saturating_add(1);
            let mut all_wrong = true;
            let mut last = None;
            for server in self.order().into_iter().take(settings.servers_tried.max(1)) {
                match ask(server.clone()).await {
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        all_wrong &= error.is_wrong();
                        // Refusing is a server's right: it may not have the block yet.
                        if !matches!(error, LiteError::Refused { .. }) {
                            server.demote(error.clone(), settings);
                        }
                        last = Some(error);
                    }
                }
            }
            let Some(last) = last else {
                return Err(self.unreachable("no server"));
            };
            if all_wrong {
                return Err(self.nobody_proved(&last));
            }
            if round >= settings.rounds {
                return Err(self.unreachable(&last.to_string()));
            }
            tokio::time::sleep(backoff).await;
            backoff = backoff.saturating_mul(2);
        }
    }

    /// One request whose answer `read` checks.
    async fn ask<T>(
        &self,
        request: Request<'_>,
        read: impl Fn(&[u8]) -> Result<T, LiteError>,
    ) -> Result<T, ChainError> {
        let settings = &self.inner.settings;
        let (request, read) = (&request, &read);
        self.one_of_all(|server| async move {
            let bytes = server
                .ask(request, settings.query_timeout, settings)
                .await?;
            read(&bytes)
        })
        .await
    }

    async fn shard_account(
        &self,
        address: TonAddress,
    ) -> Result<(Proved, Option<ShardAccount>), ChainError> {
        let head = self.refresh().await?;
        let request = Request::Account {
            block: &head.id,
            address,
        };
        let account = self
            .ask(request, |bytes| {
                proof::account(&head.id, address, wire::account(bytes)?)
            })
            .await?;
        Ok((head, account))
    }

    async fn parameters(&self, head: &Proved) -> Result<Arc<Parameters>, ChainError> {
        let mut cached = self.inner.config.lock().await;
        if let Some((of, parameters)) = cached.as_ref()
            && *of == head.config_of()
        {
            return Ok(parameters.clone());
        }
        let params = self
            .ask(Request::ConfigAll(&head.id), |bytes| {
                let (state, config) = wire::config_info(bytes)?;
                proof::config(&head.id, state, config)
            })
            .await?;
        let read = || {
            Ok(Parameters {
                global_id: params.get_global_id()?,
                prices: getter::prices(&params)?,
                getters: getter::parameters(&params)?,
            })
        };
        let parameters = Arc::new(read().map_err(encoding("network parameters"))?);
        *cached = Some((head.config_of(), parameters.clone()));
        Ok(parameters)
    }

    fn keep(&self, address: TonAddress, account: &Option<AccountState>) {
        let mut kept = self
            .inner
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT_ACCOUNTS && !kept.contains_key(&address) {
            let oldest = kept
                .iter()
                .min_by_key(|(_, kept)| kept.at)
                .map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        kept.insert(
            address,
            Kept {
                at: Instant::now(),
                account: account.clone(),
            },
        );
    }
}

fn block_ref(block: &Proved) -> BlockRef {
    BlockRef {
        seqno: block.id.seqno,
        hash: Digest::from_bytes(block.id.root_hash),
        unix: block.unix,
    }
}

#[async_trait]
impl Chain for LiteChain {
    async fn global_id(&self) -> Result<i32, ChainError> {
        let known = self.known().global_id;
        if let Some(known) = known {
            return Ok(known);
        }
        let head = self.refresh().await?;
        let global_id = self.parameters(&head).await?.global_id;
        self.known().global_id = Some(global_id);
        self.keep_anchor();
        Ok(global_id)
    }

    async fn head(&self) -> Result<BlockRef, ChainError> {
        Ok(block_ref(&self.refresh().await?))
    }

    async fn block(&self, seqno: u32) -> Result<BlockRef, ChainError> {
        let head = self.refresh().await?;
        if seqno > head.id.seqno {
            return Err(ChainError::NoSuchBlock { seqno });
        }
        let recent = self.known().recent(seqno);
        if let Some(known) = recent {
            return Ok(block_ref(&known));
        }
        let settings = &self.inner.settings;
        let from = &head.id;
        let found = self
            .one_of_all(|server| async move {
                let bytes = server
                    .ask(
                        &Request::LookupBlock(seqno),
                        settings.query_timeout,
                        settings,
                    )
                    .await?;
                let (id, _) = wire::block_header(&bytes)?;
                if id.seqno != seqno || !id.is_masterchain() {
                    return Err(LiteError::NotProved {
                        what: "old block",
                        reason: "another block than was asked for".to_owned(),
                    });
                }
                let request = Request::BlockProof {
                    known: from,
                    target: &id,
                };
                let bytes = server
                    .ask(&request, settings.proof_timeout, settings)
                    .await?;
                proof::backwards(from, &id, &wire::block_proof(&bytes)?)
            })
            .await?;
        Ok(block_ref(&found))
    }

    async fn account(&self, address: TonAddress) -> Result<Option<AccountState>, ChainError> {
        let (_, shard) = self.shard_account(address).await?;
        let account = match shard {
            Some(shard) => report::account(&shard).map_err(encoding("account"))?,
            None => None,
        };
        self.keep(address, &account);
        Ok(account)
    }

    async fn account_within(
        &self,
        address: TonAddress,
        max_age: Duration,
    ) -> Result<Option<AccountState>, ChainError> {
        let error = match self.account(address).await {
            Err(error @ (ChainError::Unverifiable { .. } | ChainError::Unreachable { .. })) => {
                error
            }
            other => return other,
        };
        let kept = self
            .inner
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match kept.get(&address) {
            Some(kept) if kept.at.elapsed() <= max_age => Ok(kept.account.clone()),
            _ => Err(error),
        }
    }

    async fn send_external(&self, boc: &[u8]) -> Result<Digest, ChainError> {
        self.send(boc).await
    }

    async fn get_method(
        &self,
        address: TonAddress,
        method: &str,
        args: &[StackItem],
    ) -> Result<MethodResult, ChainError> {
        let (head, shard) = self.shard_account(address).await?;
        let parameters = self.parameters(&head).await?;
        let account = shard
            .ok_or(ChainError::NoContract { address })?
            .load_account()
            .map_err(encoding("account"))?
            .ok_or(ChainError::NoContract { address })?;
        let call = getter::Call {
            address,
            method,
            args,
            unix: head.unix,
        };
        getter::run(&account, &parameters.getters, &call)
    }

    async fn transactions(
        &self,
        address: TonAddress,
        after_lt: u64,
        limit: u16,
    ) -> Result<Vec<TransactionSummary>, ChainError> {
        let limit = usize::from(limit.min(MAX_TRANSACTIONS_PER_PAGE));
        let (_, shard) = self.shard_account(address).await?;
        let Some(shard) = shard.filter(|_| limit > 0) else {
            return Ok(Vec::new());
        };
        let mut place = Place {
            lt: shard.last_trans_lt,
            hash: shard.last_trans_hash.0,
        };
        // Newest first; only the oldest `limit` of what is after `after_lt` are kept.
        let mut cells = VecDeque::new();
        let mut walked = 0usize;
        while place.lt > after_lt {
            if walked >= history::MAX_WALKED {
                return Err(ChainError::HistoryTooLong {
                    account: address,
                    walked,
                });
            }
            let request = Request::Transactions {
                count: history::PER_ANSWER,
                address,
                lt: place.lt,
                hash: &place.hash,
            };
            let (page, next) = self
                .ask(request, |bytes| history::read(address, place, bytes))
                .await?;
            walked = walked.saturating_add(page.len());
            place = next;
            cells.extend(page);
            // The oldest of this page may be before `after_lt`; those are dropped below.
            while cells.len() > limit.saturating_add(page_overlap()) {
                cells.pop_front();
            }
        }
        let mut found = Vec::new();
        for (cell, block) in cells.iter().rev() {
            let summary =
                report::transaction(address, *block, cell).map_err(encoding("transaction"))?;
            if summary.lt > after_lt {
                found.push(summary);
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn prices(&self) -> Result<Prices, ChainError> {
        let head = self.refresh().await?;
        Ok(self.parameters(&head).await?.prices)
    }

    fn standing(&self) -> ChainStanding {
        self.known()
            .standing(self.inner.settings.unverifiable_after)
    }

    fn servers(&self) -> Vec<ServerState> {
        self.inner
            .servers
            .iter()
            .map(|server| server.state())
            .collect()
    }
}

/// The last page may hold so many transactions that were not asked for.
fn page_overlap() -> usize {
    usize::try_from(history::PER_ANSWER).unwrap_or(usize::MAX)
}
