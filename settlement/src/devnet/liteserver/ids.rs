//! Between the names of blocks in TL and ours.

use ton_liteapi::tl::common::{BlockIdExt, Int256, ZeroStateIdExt};
use tycho_types::models::BlockId;

use super::super::record::{BlockRecord, Place};

pub(super) fn block_id(record: &BlockRecord, place: Place) -> BlockIdExt {
    let id: BlockId = record.id(place);
    BlockIdExt {
        workchain: id.shard.workchain(),
        shard: id.shard.prefix(),
        seqno: id.seqno,
        root_hash: Int256(id.root_hash.0),
        file_hash: Int256(id.file_hash.0),
    }
}

pub(super) fn zero_state_id(zero: &BlockRecord) -> ZeroStateIdExt {
    let id = zero.id(Place::Master);
    ZeroStateIdExt {
        workchain: id.shard.workchain(),
        root_hash: Int256(id.root_hash.0),
        file_hash: Int256(id.file_hash.0),
    }
}

/// Which chain a full shard belongs to.
pub(super) fn place(workchain: i32, shard: u64) -> Option<Place> {
    let place = holder(workchain)?;
    (shard == place.shard().prefix()).then_some(place)
}

/// The one shard of a workchain, which holds every account. What a lookup names as a shard may be any prefix of accounts.
pub(super) fn holder(workchain: i32) -> Option<Place> {
    Place::of(i8::try_from(workchain).ok()?)
}
