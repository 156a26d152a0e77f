//! A client's opener: one message opens and tops up many channels. Protocol and exit codes: `contracts/opener.tolk`.

use cocoon_protocol::{NanoTon, TonAddress};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, Store};
use tycho_types::error::Error;
use tycho_types::models::StateInit;

use super::channel::ChannelTerms;
use super::encoding::{address_of, encoding, load_address, state_init, store_address, store_coins};
use super::message::OutMessage;
use super::{account, opener_code};
use crate::chain::{Chain, ChainError, Prices, TransactionSummary};

/// Items of one list at most (`MAX_ITEMS` in the contract's source).
pub const MAX_OPENER_ITEMS: usize = 250;
/// Smallest amount of an item (`MIN_ITEM` in the contract's source).
pub const MIN_OPENER_ITEM: NanoTon = NanoTon::from_nano(5_000_000);
/// What stays in the opener for rent (`RESERVE` in the contract's source).
pub const OPENER_RESERVE: NanoTon = NanoTon::from_nano(3_000_000);
/// Sent along for each item's gas and forwarding: 0.0007 TON at 2026 prices, so that six times these still suffice.
/// What is not needed comes back at once.
const ITEM_FEE: NanoTon = NanoTon::from_nano(5_000_000);
/// Sent along for everything else.
const LIST_FEE: NanoTon = NanoTon::from_nano(10_000_000);

const OP_OPEN_MANY: u32 = 0x6f70_6e31;
const OP_EXCESSES: u32 = 0xd532_76db;
const OP_RETURNED: u32 = 0x626e_6331;

/// Whose opener it is. It decides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenerTerms {
    /// The client's wallet: the only one that may send a list; gets everything back.
    pub owner: TonAddress,
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenerItem {
    /// Deploys a channel with its first deposit, or adds to it where it is deployed already.
    Open {
        /// `client` must be the opener's owner.
        terms: ChannelTerms,
        /// Arrives in full; at least [`MIN_OPENER_ITEM`].
        deposit: NanoTon,
    },
    /// Adds to a channel's deposit.
    TopUp {
        /// On the base chain.
        channel: TonAddress,
        /// Arrives in full; at least [`MIN_OPENER_ITEM`].
        amount: NanoTon,
    },
}

/// An opener as it is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenerState {
    pub address: TonAddress,
    pub terms: OpenerTerms,
    /// [`OPENER_RESERVE`] or a little less, unless somebody gave it coins.
    pub balance: NanoTon,
    /// Logical time of the account's last transaction.
    pub last_lt: u64,
}

/// What an opener writes to its owner, beside the coins of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenerNotice {
    /// A list was done; these coins were not needed.
    Excesses {
        /// The list's.
        query_id: u64,
    },
    /// A channel refused its item; these coins came back.
    Returned {
        /// The list's.
        query_id: u64,
        /// Which one.
        channel: TonAddress,
    },
}

/// Coins that a channel refused, and the opener passed on to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which channel.
    pub channel: TonAddress,
    /// What came back to the opener, before the fee of passing it on.
    pub value: NanoTon,
    /// Logical time of the opener's transaction.
    pub lt: u64,
}

impl OpenerItem {
    /// The channel it is for.
    pub fn channel(&self) -> Result<TonAddress, ChainError> {
        match self {
            Self::Open { terms, .. } => terms.address(),
            Self::TopUp { channel, .. } => Ok(*channel),
        }
    }

    /// What arrives there.
    pub fn amount(&self) -> NanoTon {
        match self {
            Self::Open { deposit, .. } => *deposit,
            Self::TopUp { amount, .. } => *amount,
        }
    }

    fn store(&self, cell: &mut CellBuilder) -> Result<(), ChainError> {
        let what = "opener item";
        store_coins(cell, self.amount()).map_err(encoding(what))?;
        match self {
            Self::Open { terms, .. } => {
                let init = CellBuilder::build_from(terms.state_init()?).map_err(encoding(what))?;
                cell.store_bit_zero()
                    .and_then(|()| cell.store_reference(init))
            }
            Self::TopUp { channel, .. } => cell
                .store_bit_one()
                .and_then(|()| cell.store_raw(&channel.hash, 256)),
        }
        .map_err(encoding(what))
    }
}

impl OpenerTerms {
    /// Where this owner's opener lives.
    pub fn address(&self) -> Result<TonAddress, ChainError> {
        address_of(&self.state_init()?)
    }

    pub(crate) fn state_init(&self) -> Result<StateInit, ChainError> {
        let mut data = CellBuilder::new();
        let data = store_address(&mut data, self.owner)
            .and_then(|()| data.build())
            .map_err(encoding("opener data"))?;
        Ok(state_init(opener_code()?, data))
    }
}

fn refuse(reason: String) -> ChainError {
    ChainError::Encoding {
        what: "opener list",
        reason,
    }
}

/// Opens and tops up all of these with one message of the owner's wallet, and deploys the opener where it is not there
/// yet. `query_id` comes back in every notice. An empty list only fetches the coins above the reserve.
///
/// The message carries the sum of the items, 0.005 TON for each and 0.01 TON; what is not needed comes back in the
/// same block or the next. All or nothing: a list that cannot be paid is not begun.
pub fn open_many_message(
    opener: &OpenerTerms,
    query_id: u64,
    items: &[OpenerItem],
) -> Result<OutMessage, ChainError> {
    if items.len() > MAX_OPENER_ITEMS {
        return Err(refuse(format!(
            "{} items, at most {MAX_OPENER_ITEMS} fit; send the rest in another list",
            items.len()
        )));
    }
    let mut value = LIST_FEE.saturating_add(OPENER_RESERVE);
    let mut next: Option<Cell> = None;
    for item in items.iter().rev() {
        if item.amount() < MIN_OPENER_ITEM {
            return Err(refuse(format!(
                "{} for one channel, at least {MIN_OPENER_ITEM} is taken",
                item.amount()
            )));
        }
        if matches!(item, OpenerItem::Open { terms, .. } if terms.client != opener.owner) {
            return Err(refuse(
                "a channel's client is not the opener's owner".to_owned(),
            ));
        }
        if item.channel()?.workchain != 0 {
            return Err(refuse("a channel is not on the base chain".to_owned()));
        }
        value = value.saturating_add(item.amount()).saturating_add(ITEM_FEE);
        let mut cell = CellBuilder::new();
        item.store(&mut cell)?;
        next.take()
            .store_into(&mut cell, Cell::empty_context())
            .map_err(encoding("opener list"))?;
        next = Some(cell.build().map_err(encoding("opener list"))?);
    }
    let build = || {
        let mut body = CellBuilder::new();
        body.store_u32(OP_OPEN_MANY)?;
        body.store_u64(query_id)?;
        next.store_into(&mut body, Cell::empty_context())?;
        body.build()
    };
    let init = opener.state_init()?;
    Ok(OutMessage::deploy(
        address_of(&init)?,
        value,
        init,
        build().map_err(encoding("opener list"))?,
    ))
}

/// What the opener's own transaction costs for a list of so many items, without the items' way to their channels: its gas
/// (as recorded in `gas.json`, rounded up), and the message that brings back what is left.
pub fn opener_fee(prices: &Prices, items: usize) -> NanoTon {
    const LIST_GAS: u64 = 3_200;
    const ITEM_GAS: u64 = 2_180;
    let items = u64::try_from(items).unwrap_or(u64::MAX);
    let gas = ITEM_GAS.saturating_mul(items).saturating_add(LIST_GAS);
    prices.gas_fee(gas).saturating_add(prices.message_fee(0, 0))
}

/// Reads the opener at `address`; `None` where nothing is deployed. The code must be the pinned code.
pub async fn fetch_opener(
    chain: &dyn Chain,
    address: TonAddress,
) -> Result<Option<OpenerState>, ChainError> {
    let Some(found) = account::fetch(chain, address, opener_code()?, "opener").await? else {
        return Ok(None);
    };
    let owner = found.read(|data| {
        let mut slice = data.as_slice()?;
        let owner = load_address(&mut slice)?;
        if slice.is_data_empty() && slice.is_refs_empty() {
            Ok(owner)
        } else {
            Err(Error::InvalidData)
        }
    })?;
    let terms = OpenerTerms { owner };
    found.belongs_to(terms.address()?)?;
    Ok(Some(OpenerState {
        address,
        terms,
        balance: found.balance,
        last_lt: found.last_lt,
    }))
}

/// Which channels refused their item, among the opener's transactions.
pub fn refusals(transactions: &[TransactionSummary]) -> Vec<Refusal> {
    transactions
        .iter()
        .filter(|transaction| transaction.bounced)
        .filter_map(|transaction| {
            Some(Refusal {
                channel: transaction.source?,
                value: transaction.value,
                lt: transaction.lt,
            })
        })
        .collect()
}

impl OpenerNotice {
    /// Reads a message's body (bag of cells); `None` where it is something else. Look at the sender too: anybody can
    /// write such a body.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let cell = Boc::decode(body).ok()?;
        let mut slice = cell.as_slice().ok()?;
        let op = slice.load_u32().ok()?;
        let query_id = slice.load_u64().ok()?;
        let notice = match op {
            OP_EXCESSES => Self::Excesses { query_id },
            OP_RETURNED => Self::Returned {
                query_id,
                channel: TonAddress {
                    workchain: 0,
                    hash: slice.load_u256().ok()?.0,
                },
            },
            _ => return None,
        };
        (slice.is_data_empty() && slice.is_refs_empty()).then_some(notice)
    }
}
