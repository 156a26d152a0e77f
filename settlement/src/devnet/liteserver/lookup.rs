//! Blocks by number or by time.

use ton_liteapi::tl::common::BlockId;
use ton_liteapi::tl::request::{LookupBlock, LookupBlockWithProof};
use ton_liteapi::tl::response::{BlockHeader, LookupBlockResult, Response, ShardBlockLink};
use tycho_types::boc::Boc;

use super::super::record::{BlockRecord, Place};
use super::answer::{Desk, Named, Refusal, code};
use super::ids;
use super::proofs::{self, HeaderParts};

/// What a lookup goes by: a logical time, or a time in seconds since 1970, or else the number.
#[derive(Clone, Copy)]
struct By {
    lt: Option<u64>,
    unix: Option<u32>,
}

impl Desk<'_> {
    pub(super) fn lookup_block(&self, query: &LookupBlock) -> Result<Response, Refusal> {
        let by = By {
            lt: query.lt,
            unix: query.utime,
        };
        let named = self.look_for(&query.id, by)?;
        Ok(Response::BlockHeader(BlockHeader {
            id: ids::block_id(&named.record, named.place),
            header_proof: Boc::encode(proofs::header(&self.root(&named)?, HeaderParts::default())?),
            mode: (),
            with_state_update: None,
            with_value_flow: None,
            with_extra: None,
            with_shard_hashes: None,
            with_prev_blk_signatures: None,
        }))
    }

    /// With proofs that lead from a masterchain block that the client trusts to the block found, and with the header
    /// of the block before it, which shows that no earlier one fits.
    pub(super) fn lookup_with_proof(
        &self,
        query: &LookupBlockWithProof,
    ) -> Result<Response, Refusal> {
        let by = By {
            lt: query.lt,
            unix: query.utime,
        };
        let named = self.look_for(&query.id, by)?;
        let trusted = self.master(&query.mc_block_id)?;
        let holder = Named {
            place: Place::Master,
            record: named.record,
            fork: None,
        };
        let holder_id = ids::block_id(&holder.record, Place::Master);
        let mut client_mc_state_proof = Vec::new();
        let mut mc_block_proof = Vec::new();
        if holder_id != query.mc_block_id {
            if trusted.record.seqno <= holder.record.seqno {
                return Err(Refusal::new(
                    code::NOT_READY,
                    "the block is newer than the one that the client trusts",
                ));
            }
            let state = self.states(&trusted.record)?.master;
            let header = proofs::header(&self.root(&trusted)?, HeaderParts::default())?;
            client_mc_state_proof = Boc::encode(header);
            mc_block_proof = Boc::encode(proofs::old_block(&state, holder.record.seqno)?);
        }
        let id = ids::block_id(&named.record, named.place);
        let mut shard_links = Vec::new();
        if named.place == Place::Base {
            let parts = HeaderParts {
                extra: true,
                shards: true,
                ..HeaderParts::default()
            };
            shard_links.push(ShardBlockLink {
                id: id.clone(),
                proof: Boc::encode(proofs::header(&self.root(&holder)?, parts)?),
            });
        }
        let header = proofs::header(&self.root(&named)?, HeaderParts::default())?;
        Ok(Response::LookupBlockResult(LookupBlockResult {
            id,
            mode: (),
            mc_block_id: holder_id,
            client_mc_state_proof,
            mc_block_proof,
            shard_links,
            header: Boc::encode(header),
            prev_header: self.header_before(&named)?,
        }))
    }

    /// Empty for the first block: before it there is none.
    fn header_before(&self, named: &Named) -> Result<Vec<u8>, Refusal> {
        let Some(seqno) = named.record.seqno.checked_sub(1).filter(|seqno| *seqno > 0) else {
            return Ok(Vec::new());
        };
        let root = self.devnet.block_root(named.place, seqno)?;
        Ok(Boc::encode(proofs::header(&root, HeaderParts::default())?))
    }

    /// By number; by logical time, the first block that ends at it or later; by unix time, the first one made then or
    /// later.
    fn look_for(&self, id: &BlockId, by: By) -> Result<Named, Refusal> {
        let missing = || Refusal::new(code::NOT_READY, "block is not in db");
        let place = ids::holder(id.workchain).ok_or_else(missing)?;
        let seqno = if let Some(lt) = by.lt {
            self.first_block(|record| *record.end_lt.get(place) >= lt)?
        } else if let Some(unix) = by.unix {
            self.first_block(|record| record.unix >= unix)?
        } else {
            id.seqno
        };
        let record = self.devnet.record(seqno).map_err(|_| missing())?;
        Ok(Named {
            place,
            record,
            fork: None,
        })
    }

    /// The number of the first block that fits, where all after it do too; one above the newest where none does.
    pub(super) fn first_block(&self, fits: impl Fn(&BlockRecord) -> bool) -> Result<u32, Refusal> {
        let mut low = 1;
        let mut high = self.devnet.tip.record.seqno.saturating_add(1);
        while low < high {
            let middle = low.midpoint(high);
            if fits(&self.devnet.record(middle)?) {
                high = middle;
            } else {
                low = middle.saturating_add(1);
            }
        }
        Ok(low)
    }
}
