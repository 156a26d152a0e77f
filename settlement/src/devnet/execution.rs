//! One message, one transaction: a thin layer over tycho-executor.

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use tycho_executor::{Executor, ExecutorInspector, ExecutorParams, TxError};
use tycho_types::cell::{Cell, HashBytes, Lazy};
use tycho_types::models::{MsgInfo, OptionalAccount, OwnedMessage, ShardAccount};

use super::network::Network;
use super::record::Place;
use crate::chain::ChainError;
use crate::contract::encoding::{nano_ton, standard, std_addr};

/// What a transaction left behind.
pub(super) struct Executed {
    pub(super) account: ShardAccount,
    /// Whether the account still exists.
    pub(super) exists: bool,
    pub(super) transaction: Cell,
    pub(super) lt: u64,
    /// Smallest logical time for whatever comes next.
    pub(super) next_lt: u64,
    /// What this transaction took out of circulation.
    pub(super) fees: NanoTon,
    /// Internal messages it sent, in order.
    pub(super) sent: Vec<Cell>,
}

/// Time and chance of the block a transaction is in.
#[derive(Clone, Copy)]
pub(super) struct BlockContext {
    pub(super) unix: u32,
    pub(super) lt: u64,
    pub(super) seed: Digest,
}

impl BlockContext {
    fn params(self) -> ExecutorParams {
        ExecutorParams {
            rand_seed: HashBytes(*self.seed.as_bytes()),
            block_unixtime: self.unix,
            block_lt: self.lt,
            // As on TON since global versions 4 and 10.
            charge_action_fees_on_fail: true,
            strict_extra_currency: true,
            ..ExecutorParams::default()
        }
    }
}

/// An account to which nothing ever came.
pub(super) fn no_account() -> Result<ShardAccount, ChainError> {
    Ok(ShardAccount {
        account: Lazy::new(&OptionalAccount(None)).map_err(broken("empty account"))?,
        last_trans_hash: HashBytes::ZERO,
        last_trans_lt: 0,
    })
}

pub(super) fn broken(what: &'static str) -> impl FnOnce(tycho_types::error::Error) -> ChainError {
    move |error| ChainError::Internal {
        reason: format!("{what}: {error}"),
    }
}

/// Asks whether the account would accept an external message, running its code up to ACCEPT.
pub(super) fn check(
    network: &Network,
    context: BlockContext,
    address: TonAddress,
    account: &ShardAccount,
    message: Cell,
) -> Result<(), ChainError> {
    let params = context.params();
    let mut inspector = ExecutorInspector::default();
    let outcome = Executor::new(&params, &network.parsed)
        .with_min_lt(context.lt)
        .check_ordinary_ext(&std_addr(address), message, account, Some(&mut inspector));
    match outcome {
        Ok(()) => Ok(()),
        Err(TxError::Skipped) => Err(ChainError::NotAccepted {
            exit_code: inspector.exit_code,
            reason: match inspector.exit_code {
                Some(_) => "refused by the contract".to_owned(),
                None => "the account has no code, or no coins to take the message in".to_owned(),
            },
        }),
        Err(TxError::Fatal(error)) => Err(ChainError::NotAccepted {
            exit_code: None,
            reason: format!("cannot be executed: {error}"),
        }),
    }
}

/// Runs a message; `None` where an external message is not accepted.
pub(super) fn execute(
    network: &Network,
    context: BlockContext,
    min_lt: u64,
    address: TonAddress,
    account: &ShardAccount,
    message: &Cell,
    external: bool,
) -> Result<Option<Executed>, ChainError> {
    let params = context.params();
    let executor = Executor::new(&params, &network.parsed).with_min_lt(min_lt);
    let uncommitted =
        match executor.begin_ordinary(&std_addr(address), external, message.clone(), account) {
            Ok(uncommitted) => uncommitted,
            Err(TxError::Skipped) => return Ok(None),
            Err(TxError::Fatal(error)) => {
                return Err(ChainError::Internal {
                    reason: format!("executor: {error}"),
                });
            }
        };
    let output = uncommitted.commit().map_err(|error| ChainError::Internal {
        reason: format!("executor: {error}"),
    })?;
    let sent = output
        .transaction_meta
        .out_msgs
        .iter()
        .map(|message| message.inner().clone())
        .filter(|message| matches!(destination(message), Ok(Some(_))))
        .collect();
    let fees = nano_ton(output.transaction_meta.total_fees)
        .checked_add(nano_ton(output.burned))
        .ok_or(ChainError::Internal {
            reason: "fees past 2^64".to_owned(),
        })?;
    Ok(Some(Executed {
        lt: output.new_state.last_trans_lt,
        next_lt: output.transaction_meta.next_lt,
        account: output.new_state,
        exists: output.new_state_meta.exists,
        transaction: output.transaction.inner().clone(),
        fees,
        sent,
    }))
}

/// Where an internal message goes; `None` for a message to the world outside.
pub(super) fn destination(message: &Cell) -> Result<Option<TonAddress>, tycho_types::error::Error> {
    let message = message.parse::<OwnedMessage>()?;
    Ok(match &message.info {
        MsgInfo::Int(info) => standard(&info.dst),
        MsgInfo::ExtIn(_) | MsgInfo::ExtOut(_) => None,
    })
}

/// Which chain's account sent an internal message.
pub(super) fn sender(message: &Cell) -> Result<Option<Place>, tycho_types::error::Error> {
    let message = message.parse::<OwnedMessage>()?;
    Ok(match &message.info {
        MsgInfo::Int(info) => standard(&info.src).and_then(|address| Place::of(address.workchain)),
        MsgInfo::ExtIn(_) | MsgInfo::ExtOut(_) => None,
    })
}

/// What an internal message holds: its value, and the forwarding fee the receiving side collects.
pub(super) fn carried(message: &Cell) -> Result<(NanoTon, NanoTon), tycho_types::error::Error> {
    let message = message.parse::<OwnedMessage>()?;
    Ok(match &message.info {
        MsgInfo::Int(info) => (nano_ton(info.value.tokens), nano_ton(info.fwd_fee)),
        MsgInfo::ExtIn(_) | MsgInfo::ExtOut(_) => (NanoTon::ZERO, NanoTon::ZERO),
    })
}
