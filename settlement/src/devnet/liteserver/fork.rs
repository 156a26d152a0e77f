//! Second blocks with the numbers of real ones.

use std::collections::BTreeMap;

use ton_liteapi::tl::common::BlockIdExt;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, DynCell, HashBytes, Lazy};
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
    /// The fork of the newest block: the same block with another random seed, or of another form, and so with another
    /// hash.
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
        let forked = match kind {
            Fork::Signed | Fork::Unsigned => forked(&root),
            Fork::UnknownForm => upgraded(&root),
        }
        .map_err(broken("fork"))?;
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

/// Root and header begin with other constructors than any that is known.
fn upgraded(root: &Cell) -> Result<Cell, Error> {
    let mut references = root.references().cloned();
    let header = references.next().ok_or(Error::CellUnderflow)?;
    let mut block = other_constructor(root.as_ref())?;
    block.store_reference(other_form(header.as_ref())?)?;
    for reference in references {
        block.store_reference(reference)?;
    }
    block.build()
}

fn other_form(cell: &DynCell) -> Result<Cell, Error> {
    let mut builder = other_constructor(cell)?;
    for reference in cell.references().cloned() {
        builder.store_reference(reference)?;
    }
    builder.build()
}

/// The cell's data with the bits of its constructor inverted.
fn other_constructor(cell: &DynCell) -> Result<CellBuilder, Error> {
    let mut data = cell.as_slice()?;
    let constructor = data.load_u32()?;
    let mut builder = CellBuilder::new();
    builder.store_u32(!constructor)?;
    builder.store_slice_data(data)?;
    Ok(builder)
}
