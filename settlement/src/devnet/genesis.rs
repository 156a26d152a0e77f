//! Before block 1: one wallet with all the coins.

use cocoon_protocol::{NanoTon, TonAddress};
use ed25519_dalek::SigningKey;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, HashBytes, Lazy, Store};
use tycho_types::models::{
    Account, AccountState, CurrencyCollection, IntAddr, OptionalAccount, ShardAccount, StorageInfo,
    StorageUsed,
};
use tycho_types::num::VarUint56;

use super::execution::broken;
use super::{GLOBAL_ID, MINTED};
use crate::chain::ChainError;
use crate::contract::encoding::{std_addr, tokens};
use crate::wallet::Wallet;

/// Seed of the faucet's key. It is printed here on purpose: whoever runs a devnet may spend its coins.
pub const FAUCET_SEED: [u8; 32] = *b"cocoon devnet faucet, public key";

/// The wallet that owns [`MINTED`] coins at genesis. Its key is public.
pub fn faucet() -> Result<Wallet, ChainError> {
    Wallet::from_key(SigningKey::from_bytes(&FAUCET_SEED), GLOBAL_ID)
}

/// The accounts of the base chain before the first block: the faucet.
pub(super) fn accounts(unix: u32) -> Result<(TonAddress, ShardAccount), ChainError> {
    let faucet = faucet()?;
    let account = active(&faucet, MINTED, unix).map_err(broken("genesis"))?;
    Ok((faucet.address(), account))
}

/// An account as if a transaction before the first block had deployed the wallet.
fn active(
    wallet: &Wallet,
    balance: NanoTon,
    unix: u32,
) -> Result<ShardAccount, tycho_types::error::Error> {
    const LT: u64 = 1;
    let balance = CurrencyCollection {
        tokens: tokens(balance),
        ..CurrencyCollection::ZERO
    };
    let state = AccountState::Active(wallet.state_init().clone());
    // Rent is charged for AccountStorage: last_trans_lt, balance and state.
    let mut stored = CellBuilder::new();
    stored.store_u64(LT)?;
    balance.store_into(&mut stored, Cell::empty_context())?;
    state.store_into(&mut stored, Cell::empty_context())?;
    let size = stored
        .build()?
        .compute_unique_stats(1 << 10)
        .ok_or(tycho_types::error::Error::Cancelled)?;
    let account = Account {
        address: IntAddr::Std(std_addr(wallet.address())),
        storage_stat: StorageInfo {
            used: StorageUsed {
                cells: VarUint56::new(size.cell_count),
                bits: VarUint56::new(size.bit_count),
            },
            last_paid: unix,
            ..StorageInfo::default()
        },
        last_trans_lt: LT,
        balance,
        state,
    };
    Ok(ShardAccount {
        account: Lazy::new(&OptionalAccount(Some(account)))?,
        // No transaction can be asked for, so none is named. C++ wants this below the account's own.
        last_trans_hash: HashBytes::ZERO,
        last_trans_lt: 0,
    })
}
