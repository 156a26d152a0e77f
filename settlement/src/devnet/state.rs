//! The states of the two chains: what a block turns into the next one, and what proofs are made against.
//!
//! A state is a tree of cells that shares everything unchanged with the state before, so keeping many costs little.

use std::collections::HashSet;

use cocoon_protocol::TonAddress;
use tycho_types::cell::{Cell, CellBuilder, DynCell, HashBytes, Lazy};
use tycho_types::dict::AugDict;
use tycho_types::error::Error;
use tycho_types::merkle::{FilterAction, MerkleFilter};
use tycho_types::models::{
    BlockRef as ExtBlkRef, CurrencyCollection, DepthBalanceInfo, KeyBlockRef, KeyMaxLt,
    McStateExtra, ShardAccount, ShardAccounts, ShardDescription, ShardHashes, ShardIdent,
    ShardStateUnsplit, ValidatorInfo,
};

use super::network::Network;
use super::record::{BlockRecord, Place, Split};
use super::{GLOBAL_ID, MINTED};

/// `OldMcBlocksInfo` of TL-B: every masterchain block by number.
pub(super) type OldBlocks = AugDict<u32, KeyMaxLt, KeyBlockRef>;

/// The newest block and all that stands after it.
#[derive(Clone)]
pub(super) struct Tip {
    pub(super) record: BlockRecord,
    pub(super) accounts: Split<ShardAccounts>,
    /// All masterchain blocks before this one.
    pub(super) old_blocks: OldBlocks,
    /// The newest key block before this one.
    pub(super) last_key_block: Option<ExtBlkRef>,
    pub(super) states: Split<Cell>,
}

/// What a state is made of beside its accounts. All of it can be read from the records of the blocks.
pub(super) struct Facts<'a> {
    pub(super) seqno: u32,
    pub(super) unix: u32,
    pub(super) start_lt: u64,
    pub(super) end_lt: Split<u64>,
    pub(super) key_block: bool,
    pub(super) base_fees: u64,
    pub(super) collected: u64,
    pub(super) previous: Option<&'a BlockRecord>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(record: &BlockRecord, previous: Option<&'a BlockRecord>) -> Self {
        Self {
            seqno: record.seqno,
            unix: record.unix,
            start_lt: record.start_lt,
            end_lt: record.end_lt,
            key_block: record.key_block,
            base_fees: record.base_fees,
            collected: record.collected,
            previous,
        }
    }

    fn oldest_referenced(&self) -> u32 {
        self.previous.map_or(0, |previous| previous.seqno)
    }
}

pub(super) fn coins(nano: u64) -> CurrencyCollection {
    CurrencyCollection::new(u128::from(nano))
}

/// nanoTON that the accounts of a dictionary hold together.
pub(super) fn held(accounts: &ShardAccounts) -> &CurrencyCollection {
    &accounts.root_extra().balance
}

/// Writes an account into a dictionary, or removes it from there.
pub(super) fn put(
    accounts: &mut ShardAccounts,
    address: TonAddress,
    account: Option<&ShardAccount>,
) -> Result<(), Error> {
    let key = HashBytes(address.hash);
    let Some(account) = account else {
        accounts.remove(key)?;
        return Ok(());
    };
    let balance = account
        .load_account()?
        .map_or(CurrencyCollection::ZERO, |account| account.balance);
    let depth = DepthBalanceInfo {
        split_depth: 0,
        balance,
    };
    accounts.set(key, depth, account)?;
    Ok(())
}

/// An empty `OutMsgQueueInfo`: messages are delivered in the block that sends them. What does not fit waits outside
/// of the state (see `docs/devnet.md`).
fn empty_queue() -> Result<Cell, Error> {
    let mut queue = CellBuilder::new();
    queue.store_bit_zero()?; // out_queue: empty …
    queue.store_u64(0)?; // … with its augmentation, the smallest lt
    queue.store_bit_zero()?; // proc_info: empty
    queue.store_bit_zero()?; // extra: nothing
    queue.build()
}

/// The state of the base chain.
pub(super) fn base(facts: &Facts<'_>, accounts: &ShardAccounts) -> Result<Cell, Error> {
    CellBuilder::build_from(&ShardStateUnsplit {
        global_id: GLOBAL_ID,
        shard_ident: ShardIdent::BASECHAIN,
        seqno: facts.seqno,
        gen_utime: facts.unix,
        gen_lt: facts.end_lt.base,
        min_ref_mc_seqno: facts.oldest_referenced(),
        out_msg_queue_info: empty_queue()?,
        accounts: Lazy::new(accounts)?,
        total_balance: held(accounts).clone(),
        // On their way to the masterchain with this block.
        total_validator_fees: coins(facts.base_fees),
        master_ref: facts
            .previous
            .map(|previous| previous.external_ref(Place::Master)),
        ..ShardStateUnsplit::default()
    })
}

/// The only entry of `ShardHashes`: the base chain's newest block.
pub(super) fn shards(
    facts: &Facts<'_>,
    id: &tycho_types::models::BlockId,
) -> Result<ShardHashes, Error> {
    let description = ShardDescription {
        seqno: facts.seqno,
        reg_mc_seqno: facts.seqno,
        start_lt: facts.start_lt,
        end_lt: facts.end_lt.base,
        root_hash: id.root_hash,
        file_hash: id.file_hash,
        before_split: false,
        before_merge: false,
        want_split: false,
        want_merge: false,
        nx_cc_updated: false,
        next_catchain_seqno: 0,
        next_validator_shard: ShardIdent::PREFIX_FULL,
        min_ref_mc_seqno: facts.oldest_referenced(),
        gen_utime: facts.unix,
        split_merge_at: None,
        fees_collected: coins(facts.base_fees),
        funds_created: CurrencyCollection::ZERO,
    };
    ShardHashes::from_shards([(&ShardIdent::BASECHAIN, &description)])
}

/// The state of the masterchain.
pub(super) fn master(
    facts: &Facts<'_>,
    accounts: &ShardAccounts,
    network: &Network,
    shards: ShardHashes,
    old_blocks: &OldBlocks,
    last_key_block: Option<ExtBlkRef>,
) -> Result<Cell, Error> {
    let extra = McStateExtra {
        shards,
        config: network.genuine.clone(),
        validator_info: ValidatorInfo {
            validator_list_hash_short: network.set_hash.master,
            catchain_seqno: 0,
            nx_cc_updated: false,
        },
        prev_blocks: old_blocks.clone(),
        after_key_block: facts.key_block,
        last_key_block,
        block_create_stats: None,
        global_balance: coins(MINTED.nano()),
    };
    CellBuilder::build_from(&ShardStateUnsplit {
        global_id: GLOBAL_ID,
        shard_ident: ShardIdent::MASTERCHAIN,
        seqno: facts.seqno,
        gen_utime: facts.unix,
        gen_lt: facts.end_lt.master,
        min_ref_mc_seqno: facts.oldest_referenced(),
        out_msg_queue_info: empty_queue()?,
        accounts: Lazy::new(accounts)?,
        total_balance: held(accounts).clone(),
        total_validator_fees: coins(facts.collected),
        custom: Some(Lazy::new(&extra)?),
        ..ShardStateUnsplit::default()
    })
}

/// Adds a block to those before the next one.
pub(super) fn remember(old_blocks: &mut OldBlocks, record: &BlockRecord) -> Result<(), Error> {
    let (extra, value) = remembered(record);
    old_blocks.set(record.seqno, extra, value)?;
    Ok(())
}

/// A block's entry in [`OldBlocks`].
pub(super) fn remembered(record: &BlockRecord) -> (KeyMaxLt, KeyBlockRef) {
    (
        KeyMaxLt {
            has_key_block: record.key_block,
            max_end_lt: record.end_lt.master,
        },
        KeyBlockRef {
            is_key_block: record.key_block,
            block_ref: record.external_ref(Place::Master),
        },
    )
}

/// The key block that a state after `record` names: the newest one before it.
pub(super) fn key_block_before_next(
    record: &BlockRecord,
    last_key_block: Option<&ExtBlkRef>,
) -> Option<ExtBlkRef> {
    if record.key_block && record.seqno > 0 {
        Some(record.external_ref(Place::Master))
    } else {
        last_key_block.cloned()
    }
}

/// The cells of an old state that a new one may refer to instead of repeating them. Found by walking both trees down
/// from their roots and stopping where the new one is old again, so the work grows with the change, not the state.
pub(super) struct Unchanged {
    old: HashSet<HashBytes>,
    /// Cells of the new state that were looked at. A contract may refer to the same cells over and over.
    seen: HashSet<HashBytes>,
}

impl Unchanged {
    pub(super) fn between(old: &DynCell, new: &DynCell) -> Self {
        let mut unchanged = Self {
            old: HashSet::from([*old.repr_hash()]),
            seen: HashSet::new(),
        };
        unchanged.visit(old, new);
        unchanged
    }

    /// Recursion is as deep as a state, of which an account is most: TON allows 512 levels.
    fn visit(&mut self, old: &DynCell, new: &DynCell) {
        if self.old.contains(new.repr_hash()) || !self.seen.insert(*new.repr_hash()) {
            return;
        }
        for child in old.references() {
            self.old.insert(*child.repr_hash());
        }
        // A dictionary's branch that grew a level has its old self among its children, and the other way round.
        if self.old.contains(new.repr_hash()) {
            return;
        }
        for (index, child) in new.references().enumerate() {
            if self.old.contains(child.repr_hash()) {
                continue;
            }
            let counterpart = u8::try_from(index)
                .ok()
                .and_then(|index| old.reference(index));
            if let Some(counterpart) = counterpart {
                self.visit(counterpart, child);
            }
        }
    }
}

impl MerkleFilter for Unchanged {
    fn check(&self, cell: &HashBytes) -> FilterAction {
        if self.old.contains(cell) {
            FilterAction::Include
        } else {
            FilterAction::Skip
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use proptest::prelude::*;
    use tycho_types::dict::Dict;
    use tycho_types::merkle::MerkleUpdate;

    use super::*;

    fn tree(entries: &std::collections::BTreeMap<u32, u64>) -> Cell {
        let mut dict: Dict<u32, (u64, Cell)> = Dict::new();
        for (key, value) in entries {
            let mut deep = CellBuilder::new();
            deep.store_u64(*value).unwrap();
            deep.store_reference(CellBuilder::build_from(value / 3).unwrap())
                .unwrap();
            dict.set(key, (*value, deep.build().unwrap())).unwrap();
        }
        CellBuilder::build_from(&dict).unwrap()
    }

    proptest! {
        #[test]
        fn an_update_made_of_what_changed_leads_from_old_to_new(
            old in proptest::collection::btree_map(0u32..40, 0u64..9, 0..30),
            changes in proptest::collection::vec((0u32..80, proptest::option::of(0u64..9)), 0..6),
        ) {
            let mut new = old.clone();
            for (key, value) in changes {
                match value {
                    Some(value) => { new.insert(key, value); }
                    None => { new.remove(&key); }
                }
            }
            let (old, new) = (tree(&old), tree(&new));
            let filter = Unchanged::between(old.as_ref(), new.as_ref());
            let update = MerkleUpdate::create(old.as_ref(), new.as_ref(), filter).build().unwrap();
            let applied = update.apply(&old).unwrap();
            prop_assert_eq!(applied.repr_hash(), new.repr_hash());
        }
    }

    #[test]
    fn an_update_of_a_growing_list_stays_small() {
        let mut blocks = OldBlocks::new();
        let mut largest = 0;
        for seqno in 0..600u32 {
            let old = CellBuilder::build_from(&blocks).unwrap();
            let reference = KeyBlockRef {
                is_key_block: false,
                block_ref: ExtBlkRef {
                    end_lt: u64::from(seqno),
                    seqno,
                    root_hash: HashBytes::ZERO,
                    file_hash: HashBytes::ZERO,
                },
            };
            let extra = KeyMaxLt {
                has_key_block: false,
                max_end_lt: u64::from(seqno),
            };
            blocks.set(seqno, extra, reference).unwrap();
            let new = CellBuilder::build_from(&blocks).unwrap();
            let filter = Unchanged::between(old.as_ref(), new.as_ref());
            let update = MerkleUpdate::create(old.as_ref(), new.as_ref(), filter)
                .build()
                .unwrap();
            let bytes = tycho_types::boc::BocRepr::encode(
                tycho_types::cell::LazyExotic::new(&update).unwrap(),
            );
            largest = largest.max(bytes.unwrap().len());
        }
        assert!(largest < 6000, "{largest} bytes");
    }
}
