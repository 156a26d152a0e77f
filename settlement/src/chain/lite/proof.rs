//! From a proved block to what is in its state: Merkle proofs.
//!
//! A Merkle proof is the tree it speaks of with branches pruned, each pruned branch standing in with its hash. Checking
//! one is hashing it. `ton-net-block` checks blocks, states and accounts; what it has no call for (the configuration,
//! old blocks) is read here with `tycho-types` out of states that were checked the same way.

use cocoon_protocol::TonAddress;
use ton_net_block::proof::{verify_block_state, verify_shard_block, verify_shard_state};
use ton_net_block::{Block, BlockHeader, BlockLink, Lookup, PartialBlockProof};
use tycho_types::boc::Boc;
use tycho_types::boc::de::{BocHeader, Options};
use tycho_types::cell::{Cell, CellFamily, HashBytes};
use tycho_types::merkle::MerkleProof;
use tycho_types::models::{BlockchainConfigParams, ShardAccount, ShardStateUnsplit};

use super::LiteError;
use super::wire::{AccountAnswer, BlockId, MASTERCHAIN};

/// Largest proof or state in an answer, bytes. Mainnet's whole configuration is about a quarter of it.
pub(super) const MAX_PROOF_BYTES: usize = 4 * 1024 * 1024;
/// Links in one answer. Mainnet's servers send 16.
pub(super) const MAX_LINKS: usize = 64;
/// Signatures in one set. Mainnet has about a hundred validators of the masterchain.
const MAX_SIGNATURES: usize = 1024;

/// What a block's own header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proved {
    pub(super) id: BlockId,
    /// Seconds since 1970.
    pub(super) unix: u32,
    pub(super) key_block: bool,
    /// The newest key block before it.
    pub(super) prev_key_block: u32,
}

impl Proved {
    /// The key block whose configuration holds in this block's state.
    pub(super) fn config_of(&self) -> u32 {
        if self.key_block {
            self.id.seqno
        } else {
            self.prev_key_block
        }
    }
}

fn bounded(what: &'static str, bytes: &[u8]) -> Result<(), LiteError> {
    if bytes.len() > MAX_PROOF_BYTES {
        return Err(LiteError::TooLarge {
            what,
            size: bytes.len(),
            limit: MAX_PROOF_BYTES,
        });
    }
    Ok(())
}

/// The header in a proof of this block.
pub(super) fn header(id: &BlockId, proof: &[u8]) -> Result<Proved, LiteError> {
    const WHAT: &str = "block header";
    bounded(WHAT, proof)?;
    let read: BlockHeader = Block::from_proof(proof, &id.root_hash)
        .and_then(|block| block.header())
        .map_err(LiteError::not_proved(WHAT))?;
    if (read.workchain, read.shard, read.seqno) != (id.workchain, id.shard, id.seqno) {
        return Err(LiteError::NotProved {
            what: WHAT,
            reason: "it is the header of another block".to_owned(),
        });
    }
    Ok(Proved {
        id: *id,
        unix: read.gen_utime,
        key_block: read.key_block,
        prev_key_block: read.prev_key_block_seqno,
    })
}

/// Refuses what is larger than the protocol needs before anything of it is computed.
pub(super) fn within_limits(proof: &PartialBlockProof) -> Result<(), LiteError> {
    if proof.steps.len() > MAX_LINKS {
        return Err(LiteError::TooLarge {
            what: "links of a block proof",
            size: proof.steps.len(),
            limit: MAX_LINKS,
        });
    }
    for step in &proof.steps {
        match step {
            BlockLink::Forward {
                dest_proof,
                config_proof,
                signatures,
                ..
            } => {
                bounded("header proof", dest_proof)?;
                bounded("configuration proof", config_proof)?;
                let count = signatures.signatures().len();
                if count > MAX_SIGNATURES {
                    return Err(LiteError::TooLarge {
                        what: "signature set",
                        size: count,
                        limit: MAX_SIGNATURES,
                    });
                }
            }
            BlockLink::Back {
                dest_proof,
                proof,
                state_proof,
                ..
            } => {
                bounded("header proof", dest_proof)?;
                bounded("block proof", proof)?;
                bounded("state proof", state_proof)?;
            }
            _ => {
                return Err(LiteError::UnknownForm {
                    what: "link of a block proof",
                    tag: None,
                });
            }
        }
    }
    Ok(())
}

/// Follows links backwards from a proved block to an older one, each shown in the state of the block before it.
pub(super) fn backwards(
    from: &BlockId,
    target: &BlockId,
    proof: &PartialBlockProof,
) -> Result<Proved, LiteError> {
    const WHAT: &str = "old block";
    let wrong = |reason: &str| LiteError::NotProved {
        what: WHAT,
        reason: reason.to_owned(),
    };
    within_limits(proof)?;
    let mut at = *from;
    let mut last = None;
    for step in &proof.steps {
        let BlockLink::Back {
            from,
            to,
            dest_proof,
            proof,
            state_proof,
            ..
        } = step
        else {
            return Err(wrong("the proof goes forwards"));
        };
        let to = BlockId::from(to);
        if BlockId::from(from) != at {
            return Err(wrong("its links do not meet"));
        }
        if to.seqno >= at.seqno || !to.is_masterchain() {
            return Err(wrong("it does not go back in the masterchain"));
        }
        if old_block(&at, proof, state_proof, to.seqno)? != Some((to.root_hash, to.file_hash)) {
            return Err(wrong("the state does not list that block"));
        }
        last = Some(header(&to, dest_proof)?);
        at = to;
    }
    match last {
        Some(proved) if proved.id == *target => Ok(proved),
        _ => Err(wrong("it ends somewhere else")),
    }
}

/// Root and file hash of a block.
type Hashes = ([u8; 32], [u8; 32]);

/// Hashes of an old masterchain block as the state of `block` lists it.
fn old_block(
    block: &BlockId,
    block_proof: &[u8],
    state_proof: &[u8],
    seqno: u32,
) -> Result<Option<Hashes>, LiteError> {
    let state = masterchain_state(block, block_proof, state_proof)?;
    let read = || {
        let Some(custom) = state.load_custom()? else {
            return Err(tycho_types::error::Error::InvalidData);
        };
        custom.prev_blocks.get(seqno)
    };
    let entry = read().map_err(unreadable("masterchain state"))?;
    Ok(entry.map(|(_, old)| (old.block_ref.root_hash.0, old.block_ref.file_hash.0)))
}

/// The configuration in the state of `block`.
pub(super) fn config(
    block: &BlockId,
    state_proof: &[u8],
    config_proof: &[u8],
) -> Result<BlockchainConfigParams, LiteError> {
    const WHAT: &str = "configuration";
    let state = masterchain_state(block, state_proof, config_proof)?;
    let root = state
        .load_custom()
        .and_then(|custom| custom.ok_or(tycho_types::error::Error::InvalidData))
        .and_then(|custom| {
            custom
                .config
                .params
                .as_dict()
                .root()
                .clone()
                .ok_or(tycho_types::error::Error::InvalidData)
        })
        .map_err(unreadable(WHAT))?;
    // Out of the proof's shadow: without a pruned branch the cells are themselves, and contracts may look at them.
    let root = Boc::decode(Boc::encode(&root)).map_err(malformed(WHAT))?;
    if !root.level_mask().is_empty() {
        return Err(LiteError::NotProved {
            what: WHAT,
            reason: "parts of it are left out".to_owned(),
        });
    }
    Ok(BlockchainConfigParams::from_raw(root))
}

/// A masterchain block's state as far as two proofs show it: of the block, and of its state.
fn masterchain_state(
    block: &BlockId,
    block_proof: &[u8],
    state_proof: &[u8],
) -> Result<ShardStateUnsplit, LiteError> {
    const WHAT: &str = "masterchain state";
    bounded(WHAT, block_proof)?;
    bounded(WHAT, state_proof)?;
    let roots = parse(block_proof, WHAT)?;
    let hash = verify_block_state(&roots, &block.root_hash).map_err(LiteError::not_proved(WHAT))?;
    for root in bag(state_proof, WHAT)? {
        let Ok(proof) = root.parse_exotic::<MerkleProof>() else {
            continue;
        };
        if proof.hash.0 == hash {
            return Cell::virtualize(proof.cell)
                .parse::<ShardStateUnsplit>()
                .map_err(unreadable(WHAT));
        }
    }
    Err(LiteError::NotProved {
        what: WHAT,
        reason: "no proof is of that state".to_owned(),
    })
}

/// An account in the state that `block` commits to; `None` if the state shows that there is none.
pub(super) fn account(
    block: &BlockId,
    address: TonAddress,
    answer: AccountAnswer<'_>,
) -> Result<Option<ShardAccount>, LiteError> {
    const WHAT: &str = "account";
    for bytes in [answer.shard_proof, answer.proof, answer.state] {
        bounded(WHAT, bytes)?;
    }
    let not_proved = LiteError::not_proved(WHAT);
    let workchain = i32::from(address.workchain);
    let holder = if workchain == MASTERCHAIN {
        block.root_hash
    } else {
        verify_shard_block(
            answer.shard_proof,
            &block.root_hash,
            workchain,
            &address.hash,
        )
        .map_err(not_proved)?
    };
    let roots = parse(answer.proof, WHAT)?;
    let state = verify_block_state(&roots, &holder).map_err(not_proved)?;
    let state = verify_shard_state(&roots, &state).map_err(not_proved)?;
    let wrong = |reason: &str| LiteError::NotProved {
        what: WHAT,
        reason: reason.to_owned(),
    };
    let entry = match state.account(&address.hash).map_err(not_proved)? {
        Lookup::Found(entry) => entry,
        Lookup::Pruned => return Err(wrong("the proof leaves it out")),
        Lookup::Absent if answer.state.is_empty() => return Ok(None),
        Lookup::Absent => return Err(wrong("a state of an account that does not exist")),
    };
    let cell = Boc::decode(answer.state).map_err(malformed(WHAT))?;
    // The hash at the highest level: a pruned branch below would change it.
    if cell.is_exotic() || cell.repr_hash().0 != *entry.account_hash() {
        return Err(wrong("its state is another one"));
    }
    let account = tycho_types::cell::Lazy::from_raw(cell).map_err(unreadable(WHAT))?;
    let account = ShardAccount {
        account,
        last_trans_hash: HashBytes(*entry.last_trans_hash()),
        last_trans_lt: entry.last_trans_lt(),
    };
    // Read once, so that a form that is not known is noticed here.
    account.load_account().map_err(unreadable(WHAT))?;
    Ok(Some(account))
}

/// Roots of a bag of at most [`MAX_LINKS`] cells, as `ton-net` sees them.
fn parse(bytes: &[u8], what: &'static str) -> Result<Vec<ton_net_cell::Cell>, LiteError> {
    ton_net_cell::parse_boc(bytes).map_err(|error| LiteError::Malformed {
        what,
        reason: error.to_string(),
    })
}

/// Roots of a bag, as `tycho-types` sees them.
pub(super) fn bag(bytes: &[u8], what: &'static str) -> Result<Vec<Cell>, LiteError> {
    let header = BocHeader::decode(
        bytes,
        &Options {
            min_roots: None,
            max_roots: Some(MAX_LINKS),
        },
    )
    .map_err(malformed(what))?;
    let roots = header.roots().to_vec();
    let cells = header
        .finalize(Cell::empty_context())
        .map_err(malformed(what))?;
    roots
        .into_iter()
        .map(|index| {
            cells.get(index).ok_or(LiteError::Malformed {
                what,
                reason: "a root that is not there".to_owned(),
            })
        })
        .collect()
}

fn malformed(what: &'static str) -> impl FnOnce(tycho_types::boc::de::Error) -> LiteError {
    move |error| LiteError::Malformed {
        what,
        reason: error.to_string(),
    }
}

/// A structure of a form that is not known, where the hash says it is the network's.
fn unreadable(what: &'static str) -> impl FnOnce(tycho_types::error::Error) -> LiteError {
    move |error| match error {
        tycho_types::error::Error::InvalidTag => LiteError::UnknownForm { what, tag: None },
        other => LiteError::NotProved {
            what,
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    const ID: BlockId = BlockId {
        workchain: MASTERCHAIN,
        shard: super::super::wire::MASTERCHAIN_SHARD,
        seqno: 7,
        root_hash: [1; 32],
        file_hash: [2; 32],
    };

    #[test]
    fn no_bytes_make_a_check_panic_or_pass() {
        bolero::check!().for_each(|bytes: &[u8]| {
            assert!(header(&ID, bytes).is_err());
            assert!(config(&ID, bytes, bytes).is_err());
            let _ = bag(bytes, "bag");
            for workchain in [0, -1] {
                let address = TonAddress {
                    workchain,
                    hash: [3; 32],
                };
                let answer = AccountAnswer {
                    shard_proof: bytes,
                    proof: bytes,
                    state: bytes,
                };
                assert!(account(&ID, address, answer).is_err());
            }
        });
    }

    /// A chain of so many cells, each holding the next.
    fn deep(cells: u32) -> Vec<u8> {
        let mut bytes = vec![0xb5, 0xee, 0x9c, 0x72, 0x03, 0x04];
        for number in [cells, 1, 0] {
            bytes.extend(&number.to_be_bytes()[1..]);
        }
        bytes.extend((cells * 5 - 3).to_be_bytes());
        bytes.extend([0, 0, 0]);
        for index in 1..cells {
            bytes.extend([1, 0]);
            bytes.extend(&index.to_be_bytes()[1..]);
        }
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn a_bag_of_any_depth_takes_no_more_stack_than_there_is() {
        for cells in [1_000, 65_000, 700_000] {
            let bytes = deep(cells);
            let work = move || {
                let _ = bag(&bytes, "bag");
                let _ = parse(&bytes, "bag");
                let _ = header(&ID, &bytes);
            };
            let small = std::thread::Builder::new().stack_size(256 * 1024);
            small.spawn(work).unwrap().join().unwrap();
        }
        assert!(bag(&deep(1_000), "bag").is_ok());
    }

    #[test]
    fn what_is_too_large_is_not_looked_at() {
        let large = vec![0; MAX_PROOF_BYTES + 1];
        assert!(matches!(
            header(&ID, &large),
            Err(LiteError::TooLarge { .. })
        ));
        assert!(matches!(
            config(&ID, &large, &[]),
            Err(LiteError::TooLarge { .. })
        ));
    }
}
