//! The contracts on TON, seen from outside: their addresses, their messages, their state.
//!
//! What they *do* is written in `contracts/*.tolk` and executed by a TVM; nothing of it is repeated here. The compiled
//! code is committed next to the sources and pinned by hash, and an account with any other code is refused.

mod account;
mod channel;
pub(crate) mod encoding;
pub mod getters;
mod ledger_contract;
pub(crate) mod message;
mod opener;
pub mod registry;

use std::sync::LazyLock;

use cocoon_protocol::Digest;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;

use crate::chain::ChainError;

pub use channel::{
    CHANNEL_RESERVE, CONTRACT_VERSION, ChannelState, ChannelTerms, MIN_CLAIM, claim_message,
    fetch_channel, finish_message, open_message, release_message, start_close_message,
    top_up_message,
};
pub use ledger_contract::{
    Commit, KEPT_ROOTS, LEDGER_RESERVE, LedgerState, LedgerTerms, commit_message,
    deploy_ledger_message, fetch_ledger, withdraw_message,
};
pub use message::OutMessage;
pub(crate) use message::external as external_message;
pub use opener::{
    MAX_OPENER_ITEMS, MIN_OPENER_ITEM, OPENER_RESERVE, OpenerItem, OpenerNotice, OpenerState,
    OpenerTerms, Refusal, fetch_opener, open_many_message, opener_fee, refusals,
};

/// Exit codes of the channel contract, as its source names them.
pub mod channel_exit {
    pub const SIGNATURE: i32 = 105;
    pub const NOT_NEWER: i32 = 106;
    pub const BALANCE: i32 = 107;
    pub const NOT_CLIENT: i32 = 108;
    pub const TOO_EARLY: i32 = 109;
    pub const UNKNOWN_EXTERNAL: i32 = 110;
    pub const DUST: i32 = 112;
    pub const ALREADY_CLOSING: i32 = 113;
    pub const FINISHED: i32 = 114;
    pub const WORKCHAIN: i32 = 115;
    pub const NOT_WORKER: i32 = 116;
    pub const BAGGAGE: i32 = 117;
    pub const FEE: i32 = 118;
    pub const UNKNOWN_OP: i32 = 0xffff;
}

/// Exit codes of the ledger contract, as its source names them.
pub mod ledger_exit {
    pub const SIGNATURE: i32 = 105;
    pub const BALANCE: i32 = 107;
    pub const NOT_OWNER: i32 = 108;
    pub const UNKNOWN_EXTERNAL: i32 = 110;
    pub const ADDRESS: i32 = 111;
    pub const SEQNO: i32 = 112;
    pub const EXPIRED: i32 = 113;
    pub const REGRESS: i32 = 114;
    pub const WORKCHAIN: i32 = 115;
    pub const BAGGAGE: i32 = 117;
    pub const UNKNOWN_OP: i32 = 0xffff;
}

/// Exit codes of the opener contract, as its source names them.
pub mod opener_exit {
    pub const NOT_OWNER: i32 = 108;
    pub const DUST: i32 = 112;
    pub const TOO_MANY: i32 = 119;
    pub const UNKNOWN_OP: i32 = 0xffff;
}

/// Exit codes of the registry contract, as its source names them.
pub mod registry_exit {
    pub const SIGNATURE: i32 = 105;
    pub const TOO_EARLY: i32 = 109;
    pub const SEQNO: i32 = 112;
    pub const EXPIRED: i32 = 113;
    pub const REGRESS: i32 = 114;
    pub const WORKCHAIN: i32 = 115;
    pub const TOO_MANY: i32 = 119;
    pub const NOT_PENDING: i32 = 120;
    pub const MALFORMED: i32 = 121;
    pub const UNKNOWN_OP: i32 = 0xffff;
}

static CHANNEL_CODE: LazyLock<Option<Cell>> =
    LazyLock::new(|| Boc::decode(include_bytes!("../../contracts/channel.boc")).ok());
static LEDGER_CODE: LazyLock<Option<Cell>> =
    LazyLock::new(|| Boc::decode(include_bytes!("../../contracts/ledger.boc")).ok());
static OPENER_CODE: LazyLock<Option<Cell>> =
    LazyLock::new(|| Boc::decode(include_bytes!("../../contracts/opener.boc")).ok());
static REGISTRY_CODE: LazyLock<Option<Cell>> =
    LazyLock::new(|| Boc::decode(include_bytes!("../../contracts/registry.boc")).ok());

/// Code of the channel contract.
pub(crate) fn channel_code() -> Result<Cell, ChainError> {
    committed(&CHANNEL_CODE)
}

/// Code of the ledger contract.
pub(crate) fn ledger_code() -> Result<Cell, ChainError> {
    committed(&LEDGER_CODE)
}

/// Code of the opener contract.
pub(crate) fn opener_code() -> Result<Cell, ChainError> {
    committed(&OPENER_CODE)
}

/// Code of the registry contract.
pub(crate) fn registry_code() -> Result<Cell, ChainError> {
    committed(&REGISTRY_CODE)
}

fn committed(code: &LazyLock<Option<Cell>>) -> Result<Cell, ChainError> {
    LazyLock::force(code).clone().ok_or(ChainError::Encoding {
        what: "contract code",
        reason: "the committed bag of cells is broken".to_owned(),
    })
}

/// Hash of the channel's code; every channel this crate talks to has it.
pub fn channel_code_hash() -> Result<Digest, ChainError> {
    Ok(encoding::digest(channel_code()?.repr_hash()))
}

/// Hash of the ledger's code.
pub fn ledger_code_hash() -> Result<Digest, ChainError> {
    Ok(encoding::digest(ledger_code()?.repr_hash()))
}

/// Hash of the opener's code.
pub fn opener_code_hash() -> Result<Digest, ChainError> {
    Ok(encoding::digest(opener_code()?.repr_hash()))
}

/// Hash of the registry's code.
pub fn registry_code_hash() -> Result<Digest, ChainError> {
    Ok(encoding::digest(registry_code()?.repr_hash()))
}
