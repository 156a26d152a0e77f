//! Block 0: one wallet with all the coins.

use cocoon_protocol::{Digest, NanoTon};
use ed25519_dalek::SigningKey;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, HashBytes, Lazy, Store};
use tycho_types::models::{
    Account, AccountState, CurrencyCollection, IntAddr, OptionalAccount, ShardAccount, StorageInfo,
    StorageUsed,
};
use tycho_types::num::VarUint56;

use super::block::block_hash;
use super::execution::broken;
use super::storage::{self, Batch, META};
use super::{GLOBAL_ID, LT_PER_BLOCK, MINTED, Meta, encode_account, encode_json};
use crate::chain::{BlockRef, ChainError};
use crate::contract::encoding::{std_addr, tokens};
use crate::wallet::Wallet;

/// Seed of the faucet's key. It is printed here on purpose: whoever runs a devnet may spend its coins.
pub const FAUCET_SEED: [u8; 32] = *b"cocoon devnet faucet, public key";

/// The wallet that owns [`MINTED`] coins at genesis. Its key is public.
pub fn faucet() -> Result<Wallet, ChainError> {
    Wallet::from_key(SigningKey::from_bytes(&FAUCET_SEED), GLOBAL_ID)
}

pub(super) fn create(unix: u32) -> Result<(Meta, Batch), ChainError> {
    let faucet = faucet()?;
    let head = BlockRef {
        seqno: 0,
        hash: block_hash(0, Digest::from_bytes([0; 32]), unix, &[]),
        unix,
    };
    let meta = Meta {
        global_id: GLOBAL_ID,
        head,
        next_lt: LT_PER_BLOCK,
        minted: MINTED.nano(),
        collected: 0,
        clock_ahead: 0,
        in_flight_next: 0,
    };
    let account = active(&faucet, MINTED, unix).map_err(broken("genesis"))?;
    let mut batch = Batch::new();
    batch.insert(
        storage::account_key(faucet.address()),
        Some(encode_account(&account)?),
    );
    batch.insert(storage::block_key(0), Some(encode_json(&head)?));
    batch.insert(META.to_vec(), Some(encode_json(&meta)?));
    Ok((meta, batch))
}

/// An account as if a transaction had deployed the wallet in block 0.
fn active(
    wallet: &Wallet,
    balance: NanoTon,
    unix: u32,
) -> Result<ShardAccount, tycho_types::error::Error> {
    const LT: u64 = 2;
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
        last_trans_hash: HashBytes::ZERO,
        last_trans_lt: LT - 1,
    })
}
