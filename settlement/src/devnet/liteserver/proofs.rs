//! Merkle proofs over blocks and states, as liteserver clients expect them.
//!
//! A proof is the tree with everything cut away that its reader need not see. What to keep is found by reading it: a
//! cell whose data was read while the proof was made stays.

use std::collections::HashSet;

use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, DynCell, HashBytes, UsageTree, UsageTreeMode};
use tycho_types::error::Error;
use tycho_types::merkle::MerkleProof;
use tycho_types::models::{Block, BlockExtra, OptionalAccount, ShardStateUnsplit};

use super::super::state::coins;

/// Parameters that clients look for when they check signatures: the workchains, the ways to agree on blocks (28 to
/// 30) and the validators before, now and after. Those that are absent are shown to be.
const PARAMETERS_FOR_SIGNATURES: [u32; 8] = [12, 28, 29, 30, 32, 34, 35, 36];
/// Masterchain blocks that contracts may ask for by number (`PREVMCBLOCKS` and `PREVMCBLOCKS_100`).
const PREVIOUS_BLOCKS: u32 = 16;

/// Which parts of a block a header comes with.
#[derive(Clone, Copy, Default)]
pub(super) struct HeaderParts {
    pub(super) value_flow: bool,
    pub(super) extra: bool,
    pub(super) shards: bool,
}

/// Proves what `read` reads.
fn proof_of(root: &Cell, read: impl FnOnce(&Cell) -> Result<(), Error>) -> Result<Cell, Error> {
    let usage = UsageTree::new(UsageTreeMode::OnDataAccess);
    let tracked = usage.track(root);
    read(&tracked)?;
    CellBuilder::build_from(MerkleProof::create(root.as_ref(), usage).build()?)
}

/// Reads a whole tree. Each cell once: a contract may refer to the same cells over and over, and a walk along every
/// path would never end.
fn read_all(root: &DynCell) {
    let mut seen = HashSet::new();
    let mut waiting = vec![root];
    while let Some(cell) = waiting.pop() {
        if seen.insert(*cell.repr_hash()) {
            let _ = cell.data();
            waiting.extend(cell.references());
        }
    }
}

/// What every proof about a block shows: its header, and the hash of the state after it.
fn read_header(root: &Cell) -> Result<Block, Error> {
    let block: Block = root.parse()?;
    let _ = block.info.load()?;
    let _ = block.state_update.inner().data();
    Ok(block)
}

fn read_shards(extra: &BlockExtra) -> Result<(), Error> {
    if let Some(custom) = extra.load_custom()?
        && let Some(shards) = custom.shards.as_dict().root()
    {
        read_all(shards.as_ref());
    }
    Ok(())
}

/// A block's header. Of a block whose form is not known, as much as would be its header.
pub(super) fn header(root: &Cell, parts: HeaderParts) -> Result<Cell, Error> {
    if root.parse::<Block>().is_err() {
        return proof_of(root, |root| {
            let _ = root.data();
            root.references().for_each(|part| {
                let _ = part.data();
            });
            Ok(())
        });
    }
    proof_of(root, |root| {
        let block = read_header(root)?;
        if parts.value_flow {
            read_all(block.value_flow.inner().as_ref());
        }
        if parts.extra || parts.shards {
            let extra = block.load_extra()?;
            if parts.shards {
                read_shards(&extra)?;
            }
        }
        Ok(())
    })
}

/// A key block's header and the parameters that say who signs the blocks after it.
pub(super) fn key_block(root: &Cell) -> Result<Cell, Error> {
    proof_of(root, |root| {
        let block = read_header(root)?;
        let custom = block
            .load_extra()?
            .load_custom()?
            .ok_or(Error::InvalidData)?;
        let config = custom.config.ok_or(Error::InvalidData)?;
        for number in PARAMETERS_FOR_SIGNATURES {
            if let Some(value) = config.params.as_dict().get(number)? {
                read_all(value.as_ref());
            }
        }
        Ok(())
    })
}

/// The transactions of one account, or of all, in a block; the transactions themselves are cut away.
pub(super) fn transactions(root: &Cell, account: Option<(HashBytes, u64)>) -> Result<Cell, Error> {
    proof_of(root, |root| {
        let block = read_header(root)?;
        let blocks = block.load_extra()?.account_blocks.load()?;
        match account {
            Some((account, lt)) => {
                if let Some((_, block)) = blocks.get(account)? {
                    let _ = block.transactions.get(lt)?;
                }
            }
            None => {
                for entry in blocks.iter() {
                    let (_, _, block) = entry?;
                    for transaction in block.transactions.iter() {
                        let _ = transaction?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// The place of an account in a state, or that it has none.
pub(super) fn account(state: &Cell, account: &HashBytes) -> Result<Cell, Error> {
    proof_of(state, |state| {
        let state: ShardStateUnsplit = state.parse()?;
        let _ = state.load_accounts()?.get(account)?;
        Ok(())
    })
}

/// The newest block of every shard, from a masterchain state.
pub(super) fn shards(state: &Cell) -> Result<Cell, Error> {
    proof_of(state, |state| {
        let state: ShardStateUnsplit = state.parse()?;
        let extra = state.load_custom()?.ok_or(Error::InvalidData)?;
        if let Some(shards) = extra.shards.as_dict().root() {
            read_all(shards.as_ref());
        }
        Ok(())
    })
}

/// The place of an earlier block among all, from a masterchain state, and the newest key block's name.
pub(super) fn old_block(state: &Cell, seqno: u32) -> Result<Cell, Error> {
    proof_of(state, |state| {
        let state: ShardStateUnsplit = state.parse()?;
        let extra = state.load_custom()?.ok_or(Error::InvalidData)?;
        let _ = extra.prev_blocks.get(seqno)?;
        Ok(())
    })
}

/// The whole configuration, the shards, and the earlier blocks that contracts may ask for.
pub(super) fn config(state: &Cell) -> Result<Cell, Error> {
    proof_of(state, |state| {
        let state: ShardStateUnsplit = state.parse()?;
        let extra = state.load_custom()?.ok_or(Error::InvalidData)?;
        if let Some(config) = extra.config.params.as_dict().root() {
            read_all(config.as_ref());
        }
        if let Some(shards) = extra.shards.as_dict().root() {
            read_all(shards.as_ref());
        }
        let hundreds = state.seqno.saturating_sub(state.seqno % 100);
        let wanted = (0..=PREVIOUS_BLOCKS).flat_map(|back| {
            [
                state.seqno.checked_sub(back),
                back.checked_mul(100)
                    .and_then(|back| hundreds.checked_sub(back)),
            ]
        });
        let key_block = extra.last_key_block.as_ref().map(|block| block.seqno);
        for seqno in wanted.flatten().chain(key_block).chain([0]) {
            let _ = extra.prev_blocks.get(seqno)?;
        }
        if let Some(root) = extra.prev_blocks.dict().root() {
            read_forks(root.as_ref());
        }
        Ok(())
    })
}

/// Whoever looks for the newest key block compares both branches of every fork on the way, so both are shown.
fn read_forks(root: &DynCell) {
    let mut level = vec![root];
    // A dictionary of 32-bit keys has no more levels.
    for _ in 0..32 {
        let Some(fork) = level.pop() else { break };
        let _ = fork.data();
        if let (Some(left), Some(right)) = (fork.reference(0), fork.reference(1)) {
            let _ = left.data();
            level.push(right);
        }
    }
}

/// An account with all that is in it.
pub(super) fn whole_account(cell: &Cell) -> Result<Cell, Error> {
    proof_of(cell, |cell| {
        read_all(cell.as_ref());
        Ok(())
    })
}

/// An account with a TON that is not there, for a server that lies.
pub(super) fn forged(account: &Cell) -> Result<Cell, Error> {
    let mut account: OptionalAccount = account.parse()?;
    if let Some(account) = &mut account.0 {
        account.balance = account.balance.checked_add(&coins(1_000_000_000))?;
    }
    CellBuilder::build_from(account)
}

/// Two proofs in one bag of cells, as `shard_proof` and `proof` have them.
pub(super) fn pair(first: &Cell, second: &Cell) -> Vec<u8> {
    Boc::encode_pair((first, second))
}

/// An account without its code and data, as `getAccountStatePrunned` gives it.
pub(super) fn account_root(cell: &Cell) -> Result<Cell, Error> {
    proof_of(cell, |cell| {
        let _ = cell.data();
        Ok(())
    })
}
