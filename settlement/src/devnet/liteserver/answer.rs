//! From a query to its answer.

use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_protocol::TonAddress;
use ton_liteapi::tl::common::{AccountId, BlockIdExt, Int256};
use ton_liteapi::tl::request::Request;
use ton_liteapi::tl::response::{
    BlockData, BlockState, CurrentTime, LibraryResult, MasterchainInfo, MasterchainInfoExt,
    Response, SendMsgStatus, Version,
};
use tycho_types::cell::{Cell, HashBytes};

use super::super::Devnet;
use super::super::record::{BlockRecord, Place, Split};
use super::faults::Faults;
use super::fork::Forks;
use super::ids;
use crate::chain::ChainError;

/// What the real liteserver of 2026 calls itself.
const VERSION: u32 = 0x101;
/// Bits of what it can do: proofs of masterchain blocks, of accounts, and `runSmcMethod`.
const CAPABILITIES: u64 = 7;

/// Codes of `liteServer.error`, as the C++ liteserver has them.
pub(super) mod code {
    /// The query cannot be read, or is none that this server knows.
    pub(in super::super) const PROTOCOL: i32 = 621;
    /// Not there, or not there any more.
    pub(in super::super) const NOT_READY: i32 = 651;
    /// It did not come in time.
    pub(in super::super) const TIMEOUT: i32 = 652;
    /// A message was refused.
    pub(in super::super) const REFUSED: i32 = 0;
    /// The chain failed inside.
    pub(in super::super) const INTERNAL: i32 = 602;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<ChainError> for Refusal {
    fn from(error: ChainError) -> Self {
        let code = match &error {
            ChainError::NoSuchBlock { .. } => code::NOT_READY,
            ChainError::NotAccepted { .. }
            | ChainError::BadMessage { .. }
            | ChainError::Busy { .. } => code::REFUSED,
            _ => code::INTERNAL,
        };
        // As the C++ validator words it, which clients look into.
        let message = match &error {
            ChainError::NotAccepted { exit_code, reason } => format!(
                "cannot apply external message to current state : External message was not accepted: {reason}{}",
                exit_code.map_or_else(String::new, |code| format!(", exitcode={code}"))
            ),
            other => other.to_string(),
        };
        Self { code, message }
    }
}

impl From<tycho_types::error::Error> for Refusal {
    fn from(error: tycho_types::error::Error) -> Self {
        Self::new(code::INTERNAL, format!("cannot make the proof: {error}"))
    }
}

/// A block that a query names.
pub(super) struct Named {
    pub(super) place: Place,
    pub(super) record: BlockRecord,
    /// The root cell where it is a fork's.
    pub(super) fork: Option<Cell>,
}

/// One query's view: the chain, and what is wrong with this server.
pub(super) struct Desk<'a> {
    pub(super) devnet: &'a mut Devnet,
    pub(super) faults: Faults,
    pub(super) forks: &'a mut Forks,
}

impl Desk<'_> {
    /// Answers a query, as TL.
    pub(super) fn answer(&mut self, request: &Request) -> Result<Vec<u8>, Refusal> {
        match request {
            Request::ListBlockTransactionsExt(query) => self.list_transactions_ext(query),
            other => Ok(tl_proto::serialize(self.response(other)?)),
        }
    }

    /// Everything a stranger can ask for is bounded by the protocol or by a constant beside the work.
    fn response(&mut self, request: &Request) -> Result<Response, Refusal> {
        Ok(match request {
            Request::GetMasterchainInfo => {
                let head = self.head()?;
                Response::MasterchainInfo(MasterchainInfo {
                    last: ids::block_id(&head, Place::Master),
                    state_root_hash: Int256(*head.states.master.as_bytes()),
                    init: ids::zero_state_id(&self.devnet.zero),
                })
            }
            Request::GetMasterchainInfoExt(_) => {
                let head = self.head()?;
                Response::MasterchainInfoExt(MasterchainInfoExt {
                    mode: (),
                    version: VERSION,
                    capabilities: CAPABILITIES,
                    last: ids::block_id(&head, Place::Master),
                    last_utime: head.unix,
                    now: self.now(),
                    state_root_hash: Int256(*head.states.master.as_bytes()),
                    init: ids::zero_state_id(&self.devnet.zero),
                })
            }
            Request::GetTime => Response::CurrentTime(CurrentTime { now: self.now() }),
            Request::GetVersion => Response::Version(Version {
                mode: 0,
                version: VERSION,
                capabilities: CAPABILITIES,
                now: self.now(),
            }),
            Request::GetBlock(query) => {
                let named = self.find(&query.id)?;
                let data = match &named.fork {
                    Some(root) => tycho_types::boc::Boc::encode(root),
                    None => self
                        .devnet
                        .block_bytes(named.place, block_number(&named)?)?,
                };
                Response::BlockData(BlockData {
                    id: query.id.clone(),
                    data,
                })
            }
            Request::GetState(query) => {
                let named = self.find(&query.id)?;
                if named.record.seqno != 0 {
                    return Err(Refusal::new(
                        code::NOT_READY,
                        "only zero states are given out whole",
                    ));
                }
                Response::BlockState(BlockState {
                    id: query.id.clone(),
                    root_hash: query.id.root_hash.clone(),
                    file_hash: query.id.file_hash.clone(),
                    data: self.devnet.block_bytes(named.place, 0)?,
                })
            }
            Request::GetBlockHeader(query) => self.block_header(query)?,
            Request::LookupBlock(query) => self.lookup_block(query)?,
            Request::LookupBlockWithProof(query) => self.lookup_with_proof(query)?,
            Request::GetBlockProof(query) => self.block_proof(query)?,
            Request::GetShardBlockProof(query) => self.shard_block_proof(&query.id)?,
            Request::GetAllShardsInfo(query) => self.all_shards(&query.id)?,
            Request::GetShardInfo(query) => self.shard_info(query)?,
            Request::GetConfigAll(query) => {
                self.config(&query.id, query.extract_from_key_block.is_some())?
            }
            Request::GetConfigParams(query) => {
                self.config(&query.id, query.extract_from_key_block.is_some())?
            }
            Request::GetAccountState(query) => {
                self.account_state(&query.id, &query.account, false)?
            }
            Request::GetAccountStatePrunned(query) => {
                self.account_state(&query.id, &query.account, true)?
            }
            Request::RunSmcMethod(query) => self.run_method(query)?,
            Request::GetOneTransaction(query) => self.one_transaction(query)?,
            Request::GetTransactions(query) => self.transactions(query)?,
            Request::ListBlockTransactions(query) => self.list_transactions(query)?,
            // Nobody publishes libraries here.
            Request::GetLibraries(_) => {
                Response::LibraryResult(LibraryResult { result: Vec::new() })
            }
            Request::SendMessage(query) => {
                if !self.faults.drop_sends {
                    self.devnet.submit(&query.body)?;
                }
                Response::SendMsgStatus(SendMsgStatus { status: 1 })
            }
            _ => {
                return Err(Refusal::new(
                    code::PROTOCOL,
                    "this liteserver does not answer such queries; see docs/devnet.md",
                ));
            }
        })
    }

    /// The newest block, or this server's own.
    fn head(&mut self) -> Result<BlockRecord, Refusal> {
        if let Some(kind) = self.faults.forked_head {
            return Ok(self.forks.at_head(self.devnet, kind)?);
        }
        Ok(self.devnet.tip.record)
    }

    /// Seconds since 1970 by the chain's clock.
    fn now(&self) -> u32 {
        let machine = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
            });
        machine
            .saturating_add(self.devnet.clock_ahead())
            .max(self.devnet.tip.record.unix)
    }

    /// The block with this name, all of it.
    pub(super) fn find(&self, id: &BlockIdExt) -> Result<Named, Refusal> {
        let missing = || {
            Refusal::new(
                code::NOT_READY,
                format!(
                    "cannot find block ({},{:x},{}) root hash {} file hash {}: not in db",
                    id.workchain, id.shard, id.seqno, id.root_hash, id.file_hash
                ),
            )
        };
        let place = ids::place(id.workchain, id.shard).ok_or_else(missing)?;
        if let Some((record, root)) = self.forks.find(id) {
            return Ok(Named {
                place,
                record,
                fork: Some(root),
            });
        }
        let record = self.devnet.record(id.seqno).map_err(|_| missing())?;
        if ids::block_id(&record, place) != *id {
            return Err(missing());
        }
        Ok(Named {
            place,
            record,
            fork: None,
        })
    }

    /// Its root cell.
    pub(super) fn root(&self, named: &Named) -> Result<Cell, Refusal> {
        if let Some(root) = &named.fork {
            return Ok(root.clone());
        }
        let mut seqno = block_number(named)?;
        if self.faults.wrong_proofs {
            // Another block's header.
            seqno = seqno.saturating_sub(1).max(1);
        }
        Ok(self.devnet.block_root(named.place, seqno)?)
    }

    /// The states after it.
    pub(super) fn states(&self, record: &BlockRecord) -> Result<Split<Cell>, Refusal> {
        self.devnet.states(record.seqno).cloned().ok_or_else(|| {
            Refusal::new(
                code::NOT_READY,
                format!(
                    "the state after block {} is gone: only those after the newest {} blocks are kept, \
                     and after a restart only the newest",
                    record.seqno,
                    super::super::RETAINED_STATES
                ),
            )
        })
    }
}

/// The zero state is no block.
fn block_number(named: &Named) -> Result<u32, Refusal> {
    if named.record.seqno == 0 {
        return Err(Refusal::new(
            code::NOT_READY,
            "the zero state is no block; ask for it with getState",
        ));
    }
    Ok(named.record.seqno)
}

pub(super) fn address(account: &AccountId) -> Result<TonAddress, Refusal> {
    let workchain = i8::try_from(account.workchain)
        .ok()
        .filter(|workchain| Place::of(*workchain).is_some())
        .ok_or_else(|| {
            Refusal::new(
                code::NOT_READY,
                format!("there is no workchain {}", account.workchain),
            )
        })?;
    Ok(TonAddress {
        workchain,
        hash: account.id.0,
    })
}

pub(super) fn key(account: &AccountId) -> HashBytes {
    HashBytes(account.id.0)
}
