//! From the engine's cells to what the interface answers.

use cocoon_protocol::{NanoTon, TonAddress};
use num_bigint::BigInt;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellSlice};
use tycho_types::error::Error;
use tycho_types::models::{
    AccountState as State, ComputePhase, MsgInfo, OwnedMessage, ShardAccount, Transaction, TxInfo,
};
use tycho_vm::{OwnedCellSlice, RcStackValue, Stack};

use crate::chain::{
    AccountState, AccountStatus, ChainError, StackItem, TransactionSummary, Transfer,
};
use crate::contract::encoding::{digest, nano_ton, standard};

/// Deepest nesting of tuples in an argument or a result.
pub(crate) const MAX_TUPLE_DEPTH: u8 = 8;
/// Most values in one tuple of a result, and on a result's stack.
pub(crate) const MAX_VALUES: usize = 256;

pub(crate) fn account(shard: &ShardAccount) -> Result<Option<AccountState>, Error> {
    let Some(account) = shard.load_account()? else {
        return Ok(None);
    };
    let (status, code_hash, data) = match &account.state {
        State::Uninit => (AccountStatus::Uninit, None, None),
        State::Frozen(_) => (AccountStatus::Frozen, None, None),
        State::Active(state) => (
            AccountStatus::Active,
            state.code.as_ref().map(|code| digest(code.repr_hash())),
            Some(
                state
                    .data
                    .as_ref()
                    .map_or_else(|| Boc::encode(Cell::default()), Boc::encode),
            ),
        ),
    };
    Ok(Some(AccountState {
        balance: nano_ton(account.balance.tokens),
        status,
        code_hash,
        data,
        last_lt: shard.last_trans_lt,
        last_hash: digest(&shard.last_trans_hash),
    }))
}

pub(crate) fn transaction(
    account: TonAddress,
    block: u32,
    cell: &Cell,
) -> Result<TransactionSummary, Error> {
    let transaction = cell.parse::<Transaction>()?;
    let mut summary = TransactionSummary {
        account,
        hash: digest(cell.repr_hash()),
        lt: transaction.lt,
        unix: transaction.now,
        block,
        in_message: transaction
            .in_msg
            .as_ref()
            .map(|message| digest(message.repr_hash())),
        in_body: None,
        source: None,
        value: NanoTon::ZERO,
        bounced: false,
        gas_used: 0,
        total_fees: nano_ton(transaction.total_fees.tokens),
        exit_code: None,
        action_result: None,
        success: false,
        sent: Vec::new(),
    };
    if let Some(message) = &transaction.in_msg {
        let body = message.parse::<OwnedMessage>()?.body;
        let body = CellBuilder::build_from(CellSlice::apply(&body)?)?;
        summary.in_body = Some(Boc::encode(&body));
    }
    if let Some(message) = &transaction.in_msg
        && let MsgInfo::Int(info) = message.parse::<OwnedMessage>()?.info
    {
        summary.source = standard(&info.src);
        summary.value = nano_ton(info.value.tokens);
        summary.bounced = info.bounced;
    }
    if let TxInfo::Ordinary(info) = transaction.load_info()? {
        match &info.compute_phase {
            ComputePhase::Executed(phase) => {
                summary.gas_used = phase.gas_used.into_inner();
                summary.exit_code = Some(phase.exit_code);
                summary.success = !info.aborted;
            }
            // Coins for an account without code arrive unless they are bounced.
            ComputePhase::Skipped(_) => summary.success = info.bounce_phase.is_none(),
        }
        summary.action_result = info.action_phase.as_ref().map(|phase| phase.result_code);
    }
    for message in transaction.out_msgs.values() {
        if let MsgInfo::Int(info) = message?.parse::<OwnedMessage>()?.info
            && let Some(destination) = standard(&info.dst)
        {
            summary.sent.push(Transfer {
                destination,
                value: nano_ton(info.value.tokens),
                forward_fee: nano_ton(info.fwd_fee),
                bounced: info.bounced,
            });
        }
    }
    Ok(summary)
}

fn bad_argument(reason: &str) -> ChainError {
    ChainError::Encoding {
        what: "get method argument",
        reason: reason.to_owned(),
    }
}

pub(crate) fn to_vm(item: &StackItem, depth: u8) -> Result<RcStackValue, ChainError> {
    if depth > MAX_TUPLE_DEPTH {
        return Err(bad_argument("tuples are nested too deep"));
    }
    let cell = |boc: &[u8]| Boc::decode(boc).map_err(|error| bad_argument(&error.to_string()));
    Ok(match item {
        StackItem::Null => Stack::make_null(),
        StackItem::Num(value) => RcStackValue::new_dyn_value(value.clone()),
        StackItem::Cell(boc) => RcStackValue::new_dyn_value(cell(boc)?),
        StackItem::Slice(boc) => {
            RcStackValue::new_dyn_value(OwnedCellSlice::new_allow_exotic(cell(boc)?))
        }
        StackItem::Tuple(items) => {
            let items = items
                .iter()
                .map(|item| to_vm(item, depth.saturating_add(1)))
                .collect::<Result<Vec<_>, _>>()?;
            RcStackValue::new_dyn_value(items)
        }
    })
}

pub(crate) fn stack(values: &[RcStackValue]) -> Result<Vec<StackItem>, ChainError> {
    if values.len() > MAX_VALUES {
        return Err(ChainError::Internal {
            reason: format!("get method left {} values", values.len()),
        });
    }
    values.iter().map(|value| from_vm(value, 0)).collect()
}

fn from_vm(value: &RcStackValue, depth: u8) -> Result<StackItem, ChainError> {
    let unreadable = |reason: String| ChainError::Internal {
        reason: format!("get method result: {reason}"),
    };
    if value.is_null() {
        return Ok(StackItem::Null);
    }
    if let Some(number) = value.as_int() {
        let number: &BigInt = number;
        return Ok(StackItem::Num(number.clone()));
    }
    if let Some(cell) = value.as_cell() {
        return Ok(StackItem::Cell(Boc::encode(cell)));
    }
    if let Some(slice) = value.as_cell_slice() {
        let cell = CellBuilder::build_from(slice.apply())
            .map_err(|error| unreadable(error.to_string()))?;
        return Ok(StackItem::Slice(Boc::encode(&cell)));
    }
    if let Some(items) = value.as_tuple() {
        if depth >= MAX_TUPLE_DEPTH || items.len() > MAX_VALUES {
            return Err(unreadable("a tuple too deep or too long".to_owned()));
        }
        return items
            .iter()
            .map(|item| from_vm(item, depth.saturating_add(1)))
            .collect::<Result<_, _>>()
            .map(StackItem::Tuple);
    }
    Err(unreadable(
        "a value that has no form outside the machine".to_owned(),
    ))
}
