//! Second blocks with the numbers of real ones.

use std::collections::BTreeMap;

use ton_liteapi::tl::common::BlockIdExt;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::error::Error;
use tycho_types::models::Block;

use super::super::Devnet;
use super::super::execution::broken;
use super::super::record::{BlockRecord, Place, hashes};
use super::faults::Fork;
use super::ids;
use crate::chain::ChainError;

/// Forks that a server remembers; the oldest is forgotten first.
const MAX_FORKS: usize = 64;

/// The forks that one server told of, by number.
#[derive(Default)]
pub(super) struct Forks {
    blocks: BTreeMap<u32, (BlockRecord, Cell, Fork)>,
}

impl Forks {
    /// The fork of the newest block: the same block with another random seed, and so with another hash.
    pub(super) fn at_head(
        &mut self,
        devnet: &Devnet,
        kind: Fork,
    ) -> Result<BlockRecord, ChainError> {
        let head = devnet.tip.record;
        if let Some((record, _, known)) = self.blocks.get(&head.seqno)
            && *known == kind
        {
            return Ok(*record);
        }
        let root = devnet.block_root(Place::Master, head.seqno)?;
        let forked = forked(&root).map_err(broken("fork"))?;
        let mut record = head;
        record.hashes.master = hashes(forked.repr_hash(), &Boc::encode(&forked));
        self.blocks.insert(head.seqno, (record, forked, kind));
        if self.blocks.len() > MAX_FORKS {
            self.blocks.pop_first();
        }
        Ok(record)
    }

    pub(super) fn find(&self, id: &BlockIdExt) -> Option<(BlockRecord, Cell)> {
        let (record, root, _) = self.blocks.get(&id.seqno)?;
        (ids::block_id(record, Place::Master) == *id).then(|| (*record, root.clone()))
    }

    /// Whether this is a fork that nobody signed.
    pub(super) fn is_unsigned(&self, id: &BlockIdExt) -> bool {
        self.blocks.get(&id.seqno).is_some_and(|(record, _, kind)| {
            *kind == Fork::Unsigned && ids::block_id(record, Place::Master) == *id
        })
    }
}

fn forked(root: &Cell) -> Result<Cell, Error> {
    let mut block: Block = root.parse()?;
    let mut extra = block.load_extra()?;
    extra.rand_seed = HashBytes(extra.rand_seed.0.map(|byte| !byte));
    block.extra = Lazy::new(&extra)?;
    CellBuilder::build_from(block)
}
