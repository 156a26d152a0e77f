//! The contracts' get methods, called. What they say is what the account's data say, so a node that has the account with
//! a proof reads that ([`fetch_channel`](super::fetch_channel) and its like); these are for whoever asks a server that it
//! trusts, and for parts of a large registry.

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};
use num_bigint::BigInt;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;

use super::channel::ChannelTerms;
use super::encoding::{digest, load_address};
use super::ledger_contract::KEPT_ROOTS;
use super::registry::{
    Change, MAX_SIGNERS, Pending, Tables, end, load_maybe_ref, read_logs, read_models,
    read_parameters, read_pending,
};
use crate::chain::{Chain, ChainError, StackItem};

/// What `channel_state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelAnswer {
    pub version: u8,
    pub terms: ChannelTerms,
    pub claimed: NanoTon,
    /// Unix second; `None` while nobody has started to close.
    pub close_at: Option<u32>,
    pub finished: bool,
}

/// What `ledger_state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerAnswer {
    pub version: u8,
    pub owner: TonAddress,
    pub key: PublicKey32,
    pub seqno: u32,
    pub root: Digest,
    pub jobs: u64,
    pub total: NanoTon,
}

/// What `opener_state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenerAnswer {
    pub version: u8,
    pub owner: TonAddress,
    /// Longest list that it takes.
    pub max_items: u16,
}

/// What `registry_state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryAnswer {
    pub version: u8,
    pub seqno: u32,
    pub threshold: u8,
    pub delay_s: u32,
    /// Changes that wait, logs, models, parameters.
    pub counts: [u16; 4],
}

/// A stack, read item by item.
struct Answer {
    address: TonAddress,
    method: &'static str,
    items: std::vec::IntoIter<StackItem>,
}

async fn ask(
    chain: &dyn Chain,
    address: TonAddress,
    method: &'static str,
    args: &[StackItem],
) -> Result<Answer, ChainError> {
    let result = chain.get_method(address, method, args).await?;
    Ok(Answer {
        address,
        method,
        items: result.stack.into_iter(),
    })
}

impl Answer {
    fn bad(&self) -> ChainError {
        ChainError::BadData {
            address: self.address,
            expected: "contract",
            reason: format!("{} answers in another shape", self.method),
        }
    }

    fn item<T>(&mut self, read: impl FnOnce(StackItem) -> Option<T>) -> Result<T, ChainError> {
        self.items.next().and_then(read).ok_or_else(|| self.bad())
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, ChainError> {
        self.item(|item| T::try_from(item.as_u64()?).ok())
    }

    fn coins(&mut self) -> Result<NanoTon, ChainError> {
        self.number().map(NanoTon::from_nano)
    }

    fn hash(&mut self) -> Result<Digest, ChainError> {
        self.item(|item| item.as_bytes32().map(Digest::from_bytes))
    }

    fn key(&mut self) -> Result<PublicKey32, ChainError> {
        self.item(|item| item.as_bytes32().map(PublicKey32::from_bytes))
    }

    fn flag(&mut self) -> Result<bool, ChainError> {
        self.item(|item| item.as_bool())
    }

    fn address(&mut self) -> Result<TonAddress, ChainError> {
        self.item(|item| match item {
            StackItem::Slice(boc) | StackItem::Cell(boc) => {
                let cell = Boc::decode(boc).ok()?;
                load_address(&mut cell.as_slice().ok()?).ok()
            }
            _ => None,
        })
    }

    fn maybe_cell(&mut self) -> Result<Option<Cell>, ChainError> {
        self.item(|item| match item {
            StackItem::Null => Some(None),
            StackItem::Cell(boc) => Some(Some(Boc::decode(boc).ok()?)),
            _ => None,
        })
    }

    /// Nothing more may be there.
    fn end<T>(self, answer: T) -> Result<T, ChainError> {
        if self.items.as_slice().is_empty() {
            Ok(answer)
        } else {
            Err(self.bad())
        }
    }
}

/// `channel_state` of a channel.
pub async fn channel_state(
    chain: &dyn Chain,
    channel: TonAddress,
) -> Result<ChannelAnswer, ChainError> {
    let mut stack = ask(chain, channel, "channel_state", &[]).await?;
    let version = stack.number()?;
    let worker = stack.address()?;
    let client = stack.address()?;
    let terms = ChannelTerms {
        client,
        worker,
        client_key: stack.key()?,
        nonce: stack.number()?,
        close_delay_s: stack.number()?,
    };
    let claimed = stack.coins()?;
    let close_at: u32 = stack.number()?;
    let finished = stack.flag()?;
    stack.end(ChannelAnswer {
        version,
        terms,
        claimed,
        close_at: (close_at != 0).then_some(close_at),
        finished,
    })
}

/// `available` of a channel: what the deposit can still pay.
pub async fn available(chain: &dyn Chain, channel: TonAddress) -> Result<NanoTon, ChainError> {
    let mut stack = ask(chain, channel, "available", &[]).await?;
    let coins = stack.coins()?;
    stack.end(coins)
}

/// `ledger_state` of a ledger.
pub async fn ledger_state(
    chain: &dyn Chain,
    ledger: TonAddress,
) -> Result<LedgerAnswer, ChainError> {
    let mut stack = ask(chain, ledger, "ledger_state", &[]).await?;
    let answer = LedgerAnswer {
        version: stack.number()?,
        owner: stack.address()?,
        key: stack.key()?,
        seqno: stack.number()?,
        root: stack.hash()?,
        jobs: stack.number()?,
        total: stack.coins()?,
    };
    stack.end(answer)
}

/// `recent_roots` of a ledger, newest first; zero where there was no such batch.
pub async fn recent_roots(
    chain: &dyn Chain,
    ledger: TonAddress,
) -> Result<[Digest; KEPT_ROOTS], ChainError> {
    let mut stack = ask(chain, ledger, "recent_roots", &[]).await?;
    let roots = [stack.hash()?, stack.hash()?, stack.hash()?, stack.hash()?];
    stack.end(roots)
}

/// `opener_state` of an opener.
pub async fn opener_state(
    chain: &dyn Chain,
    opener: TonAddress,
) -> Result<OpenerAnswer, ChainError> {
    let mut stack = ask(chain, opener, "opener_state", &[]).await?;
    let answer = OpenerAnswer {
        version: stack.number()?,
        owner: stack.address()?,
        max_items: stack.number()?,
    };
    stack.end(answer)
}

/// `registry_state` of a registry.
pub async fn registry_state(
    chain: &dyn Chain,
    registry: TonAddress,
) -> Result<RegistryAnswer, ChainError> {
    let mut stack = ask(chain, registry, "registry_state", &[]).await?;
    let answer = RegistryAnswer {
        version: stack.number()?,
        seqno: stack.number()?,
        threshold: stack.number()?,
        delay_s: stack.number()?,
        counts: [
            stack.number()?,
            stack.number()?,
            stack.number()?,
            stack.number()?,
        ],
    };
    stack.end(answer)
}

/// `signers` of a registry, by rising key.
pub async fn signers(
    chain: &dyn Chain,
    registry: TonAddress,
) -> Result<Vec<PublicKey32>, ChainError> {
    let mut stack = ask(chain, registry, "signers", &[]).await?;
    let mut next = stack.maybe_cell()?;
    let mut keys = Vec::new();
    while let Some(cell) = next.take() {
        let read = || {
            let mut slice = cell.as_slice()?;
            let key = PublicKey32::from_bytes(slice.load_u256()?.0);
            let next = load_maybe_ref(&mut slice)?;
            end(&slice)?;
            Ok::<_, tycho_types::error::Error>((key, next))
        };
        let (key, after) = read().map_err(|_| stack.bad())?;
        if keys.len() >= MAX_SIGNERS {
            return Err(stack.bad());
        }
        keys.push(key);
        next = after;
    }
    stack.end(keys)
}

fn number_of(digest: Digest) -> StackItem {
    StackItem::Num(BigInt::from_bytes_be(
        num_bigint::Sign::Plus,
        digest.as_bytes(),
    ))
}

/// `log_head` of a registry, by [`log_key`](super::registry::log_key).
pub async fn log_head(
    chain: &dyn Chain,
    registry: TonAddress,
    origin: Digest,
) -> Result<Option<TreeHead>, ChainError> {
    let mut stack = ask(chain, registry, "log_head", &[number_of(origin)]).await?;
    let head = TreeHead {
        size: stack.number()?,
        root: stack.hash()?,
    };
    let listed = head.size != 0 || head.root != Digest::ZERO;
    stack.end(listed.then_some(head))
}

/// `model_status` of a registry; 0 where it is not listed.
pub async fn model_status(
    chain: &dyn Chain,
    registry: TonAddress,
    model: Digest,
) -> Result<u8, ChainError> {
    let mut stack = ask(chain, registry, "model_status", &[number_of(model)]).await?;
    let status = stack.number()?;
    stack.end(status)
}

/// `parameter` of a registry.
pub async fn parameter(
    chain: &dyn Chain,
    registry: TonAddress,
    id: u32,
) -> Result<Option<Cell>, ChainError> {
    let mut stack = ask(chain, registry, "parameter", &[StackItem::Num(id.into())]).await?;
    let value = stack.maybe_cell()?;
    stack.end(value)
}

/// `pending_change` of a registry.
pub async fn pending_change(
    chain: &dyn Chain,
    registry: TonAddress,
    id: u32,
) -> Result<Option<Pending>, ChainError> {
    let id = StackItem::Num(id.into());
    let mut stack = ask(chain, registry, "pending_change", &[id]).await?;
    let applies_at = stack.number()?;
    let pending = stack.maybe_cell()?.map(|cell| Pending {
        applies_at,
        change: Change::decode(&cell).ok(),
        hash: digest(cell.repr_hash()),
    });
    stack.end(pending)
}

/// `tables` of a registry: everything that it holds.
pub async fn tables(
    chain: &dyn Chain,
    registry: TonAddress,
) -> Result<(std::collections::BTreeMap<u32, Pending>, Tables), ChainError> {
    let mut stack = ask(chain, registry, "tables", &[]).await?;
    let cells = [
        stack.maybe_cell()?,
        stack.maybe_cell()?,
        stack.maybe_cell()?,
        stack.maybe_cell()?,
    ];
    let read = || {
        let [pending, logs, models, parameters] = cells;
        let tables = Tables {
            logs: read_logs(logs)?,
            models: read_models(models)?,
            parameters: read_parameters(parameters)?,
        };
        Ok::<_, tycho_types::error::Error>((read_pending(pending)?, tables))
    };
    let answer = read().map_err(|_| stack.bad())?;
    stack.end(answer)
}
