//! What a chain tells: blocks, accounts, transactions, stacks of get methods.

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::wire::{base64_bytes, base64_option, decimal, decimal_nano, hex_int};

/// A block of the chain. Its hash is what the network uses as a beacon: nobody knows it before `unix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    pub seqno: u32,
    pub hash: Digest,
    /// Seconds since 1970 when the block was made, by the chain's clock.
    pub unix: u32,
}

/// Whether an account can run code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    /// Holds coins, but no code yet.
    Uninit,
    Active,
    /// Its rent is unpaid; only a hash of the state is left.
    Frozen,
}

/// An account after its last transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    #[serde(with = "decimal_nano")]
    pub balance: NanoTon,
    pub status: AccountStatus,
    /// Representation hash of the code cell; `None` unless active.
    pub code_hash: Option<Digest>,
    /// Bag of cells with the data; `None` unless active.
    #[serde(with = "base64_option")]
    pub data: Option<Vec<u8>>,
    /// Logical time of the last transaction.
    #[serde(with = "decimal")]
    pub last_lt: u64,
    pub last_hash: Digest,
}

/// A message that a transaction sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    pub destination: TonAddress,
    /// What arrives; the forwarding fee is not in it.
    #[serde(with = "decimal_nano")]
    pub value: NanoTon,
    /// The part of the forwarding fee that the receiving side collects.
    #[serde(with = "decimal_nano")]
    pub forward_fee: NanoTon,
    pub bounced: bool,
}

/// A transaction, in the fields a node looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSummary {
    pub account: TonAddress,
    pub hash: Digest,
    #[serde(with = "decimal")]
    pub lt: u64,
    /// Seconds since 1970, the time of its block.
    pub unix: u32,
    pub block: u32,
    /// Hash of the message that caused it, as returned by [`Chain::send_external`](super::Chain::send_external).
    pub in_message: Option<Digest>,
    /// That message's body as a bag of cells, where the client tells it. Commits are read from it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "base64_option"
    )]
    pub in_body: Option<Vec<u8>>,
    /// Who sent that message; `None` for an external one.
    pub source: Option<TonAddress>,
    /// What that message carried.
    #[serde(with = "decimal_nano")]
    pub value: NanoTon,
    /// Whether that message came back from a contract that refused it.
    pub bounced: bool,
    pub gas_used: u64,
    /// Gas, rent, import and the sender's part of forwarding: what this transaction took out of circulation.
    #[serde(with = "decimal_nano")]
    pub total_fees: NanoTon,
    /// `None` where no code ran (a plain transfer to an account without code).
    pub exit_code: Option<i32>,
    /// Result of sending and reserving; `None` where it did not come to that.
    pub action_result: Option<i32>,
    /// Code ran to its end and its actions were done; for an account without code, that coins arrived.
    pub success: bool,
    /// Messages to other accounts, in order.
    pub sent: Vec<Transfer>,
}

/// A value on the stack of a get method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "snake_case")]
pub enum StackItem {
    Null,
    /// A 257-bit integer.
    #[serde(with = "hex_int")]
    Num(BigInt),
    /// Bag of cells.
    #[serde(with = "base64_bytes")]
    Cell(Vec<u8>),
    /// Bag of cells whose root holds exactly the slice.
    #[serde(with = "base64_bytes")]
    Slice(Vec<u8>),
    Tuple(Vec<StackItem>),
}

impl StackItem {
    /// The integer, where it is one that fits.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Num(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The integer as 32 big-endian bytes, where it is a `uint256`.
    pub fn as_bytes32(&self) -> Option<[u8; 32]> {
        let Self::Num(value) = self else { return None };
        let (sign, bytes) = value.to_bytes_be();
        if sign == num_bigint::Sign::Minus {
            return None;
        }
        // `to_bytes_be` has no leading zeros, except for zero itself.
        let start = 32usize.checked_sub(bytes.len())?;
        let mut out = [0; 32];
        out.get_mut(start..)?.copy_from_slice(&bytes);
        Some(out)
    }

    /// Whether it is TVM's `true` (-1).
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Num(value) => Some(*value != BigInt::ZERO),
            _ => None,
        }
    }
}

/// What a get method left on the stack, bottom first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodResult {
    pub stack: Vec<StackItem>,
    pub gas_used: u64,
}

/// Where all coins of a devnet are. `minted == balances + in_flight + collected`, to the last nanoTON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supply {
    /// Created at genesis.
    #[serde(with = "decimal")]
    pub minted: u64,
    /// Held by accounts.
    #[serde(with = "decimal")]
    pub balances: u64,
    /// In messages that wait for the next block, with their forwarding fees.
    #[serde(with = "decimal")]
    pub in_flight: u64,
    /// Fees taken so far. Nobody gets them here; on TON, validators do.
    #[serde(with = "decimal")]
    pub collected: u64,
}
