//! Between this project's types and TON's cells.

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use tycho_types::cell::{Cell, CellBuilder, CellFamily, CellSlice, HashBytes, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::models::{IntAddr, StateInit, StdAddr};
use tycho_types::num::Tokens;

use crate::chain::ChainError;

/// Names what could not be put into a cell.
pub(crate) fn encoding(what: &'static str) -> impl FnOnce(tycho_types::error::Error) -> ChainError {
    move |error| ChainError::Encoding {
        what,
        reason: error.to_string(),
    }
}

pub(crate) fn digest(hash: &HashBytes) -> Digest {
    Digest::from_bytes(hash.0)
}

pub(crate) fn std_addr(address: TonAddress) -> StdAddr {
    StdAddr::new(address.workchain, HashBytes(address.hash))
}

pub(crate) fn ton_address(address: &StdAddr) -> TonAddress {
    TonAddress {
        workchain: address.workchain,
        hash: address.address.0,
    }
}

/// The address where it is an ordinary one.
pub(crate) fn standard(address: &IntAddr) -> Option<TonAddress> {
    match address {
        IntAddr::Std(address) => Some(ton_address(address)),
        IntAddr::Var(_) => None,
    }
}

pub(crate) fn tokens(amount: NanoTon) -> Tokens {
    Tokens::new(u128::from(amount.nano()))
}

/// Saturates: a devnet mints 10^15 nanoTON and mainnet has 5·10^18, both below 2^63.
pub(crate) fn nano_ton(tokens: Tokens) -> NanoTon {
    NanoTon::from_nano(u64::try_from(tokens.into_inner()).unwrap_or(u64::MAX))
}

pub(crate) fn store_address(
    builder: &mut CellBuilder,
    address: TonAddress,
) -> Result<(), tycho_types::error::Error> {
    std_addr(address).store_into(builder, Cell::empty_context())
}

pub(crate) fn store_coins(
    builder: &mut CellBuilder,
    amount: NanoTon,
) -> Result<(), tycho_types::error::Error> {
    tokens(amount).store_into(builder, Cell::empty_context())
}

/// An address stored by a contract as `address`: `addr_std` without anycast.
pub(crate) fn load_address(
    slice: &mut CellSlice<'_>,
) -> Result<TonAddress, tycho_types::error::Error> {
    let address = StdAddr::load_from(slice)?;
    if address.anycast.is_some() {
        return Err(tycho_types::error::Error::InvalidData);
    }
    Ok(ton_address(&address))
}

pub(crate) fn load_coins(slice: &mut CellSlice<'_>) -> Result<NanoTon, tycho_types::error::Error> {
    u64::try_from(Tokens::load_from(slice)?.into_inner())
        .map(NanoTon::from_nano)
        .map_err(|_| tycho_types::error::Error::IntOverflow)
}

/// Code and first data of a contract.
pub(crate) fn state_init(code: Cell, data: Cell) -> StateInit {
    StateInit {
        split_depth: None,
        special: None,
        code: Some(code),
        data: Some(data),
        libraries: Dict::new(),
    }
}

/// The base-chain address of a contract that starts with this state: the hash of its StateInit.
pub(crate) fn address_of(init: &StateInit) -> Result<TonAddress, ChainError> {
    let cell = CellBuilder::build_from(init).map_err(encoding("state init"))?;
    Ok(TonAddress {
        workchain: 0,
        hash: cell.repr_hash().0,
    })
}
