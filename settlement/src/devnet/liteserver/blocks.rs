//! Headers, shards, the configuration, and the way from one masterchain block to another.

use ton_liteapi::tl::common::{
    BlockIdExt, BlockLink, Int256, Signature as TlSignature, SignatureSet,
};
use ton_liteapi::tl::request::{GetBlockHeader, GetBlockProof, GetShardInfo};
use ton_liteapi::tl::response::{
    AllShardsInfo, BlockHeader, ConfigInfo, PartialBlockProof, Response, ShardBlockLink,
    ShardBlockProof, ShardInfo,
};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellFamily, Store};
use tycho_types::models::{Block, ShardStateUnsplit};

use super::super::assemble::sign;
use super::super::record::{BlockRecord, Place};
use super::answer::{Desk, Named, Refusal, code};
use super::ids;
use super::proofs::{self, HeaderParts};

/// Links in one answer; a longer way takes several questions.
pub const MAX_LINKS: usize = 16;

impl Desk<'_> {
    pub(super) fn block_header(&self, query: &GetBlockHeader) -> Result<Response, Refusal> {
        let named = self.find(&query.id)?;
        let parts = HeaderParts {
            value_flow: query.with_value_flow.is_some(),
            extra: query.with_extra.is_some(),
            shards: query.with_shard_hashes.is_some(),
        };
        Ok(Response::BlockHeader(BlockHeader {
            id: query.id.clone(),
            mode: (),
            with_state_update: query.with_state_update,
            with_value_flow: query.with_value_flow,
            with_extra: query.with_extra,
            with_shard_hashes: query.with_shard_hashes,
            with_prev_blk_signatures: query.with_prev_blk_signatures,
            header_proof: Boc::encode(proofs::header(&self.root(&named)?, parts)?),
        }))
    }

    /// From the block itself, which names them as the state after it does.
    pub(super) fn all_shards(&self, id: &BlockIdExt) -> Result<Response, Refusal> {
        let named = self.master(id)?;
        let root = self.root(&named)?;
        let shards = root
            .parse::<Block>()?
            .load_extra()?
            .load_custom()?
            .ok_or(tycho_types::error::Error::InvalidData)?
            .shards;
        let mut data = CellBuilder::new();
        shards.store_into(&mut data, Cell::empty_context())?;
        let parts = HeaderParts {
            extra: true,
            shards: true,
            ..HeaderParts::default()
        };
        Ok(Response::AllShardsInfo(AllShardsInfo {
            id: id.clone(),
            proof: Boc::encode(proofs::header(&root, parts)?),
            data: Boc::encode(data.build()?),
        }))
    }

    pub(super) fn shard_info(&self, query: &GetShardInfo) -> Result<Response, Refusal> {
        let named = self.master(&query.id)?;
        if query.workchain != 0 || (query.exact && query.shard != Place::Base.shard().prefix()) {
            return Err(Refusal::new(code::NOT_READY, "there is no such shard"));
        }
        let state = self.states(&named.record)?.master;
        let parsed: ShardStateUnsplit = state.parse()?;
        let tree = parsed
            .load_custom()?
            .ok_or(tycho_types::error::Error::InvalidData)?
            .shards
            .get_workchain_shards(0)?
            .ok_or(tycho_types::error::Error::InvalidData)?
            .into_root();
        Ok(Response::ShardInfo(ShardInfo {
            id: query.id.clone(),
            shardblk: ids::block_id(&named.record, Place::Base),
            shard_proof: self.shards_proof(&named, &state)?,
            shard_descr: Boc::encode(tree),
        }))
    }

    /// A masterchain block's header and the shards in the state after it.
    pub(super) fn shards_proof(&self, named: &Named, state: &Cell) -> Result<Vec<u8>, Refusal> {
        let header = proofs::header(&self.root(named)?, HeaderParts::default())?;
        Ok(proofs::pair(&header, &proofs::shards(state)?))
    }

    /// A base-chain block stands in the masterchain block of its number.
    pub(super) fn shard_block_proof(&self, id: &BlockIdExt) -> Result<Response, Refusal> {
        let named = self.find(id)?;
        let master = Named {
            place: Place::Master,
            ..named
        };
        let parts = HeaderParts {
            extra: true,
            shards: true,
            ..HeaderParts::default()
        };
        Ok(Response::ShardBlockProof(ShardBlockProof {
            masterchain_id: ids::block_id(&master.record, Place::Master),
            links: vec![ShardBlockLink {
                id: id.clone(),
                proof: Boc::encode(proofs::header(&self.root(&master)?, parts)?),
            }],
        }))
    }

    /// All parameters, whichever were asked for: a proof of a few is hardly smaller.
    pub(super) fn config(
        &self,
        id: &BlockIdExt,
        from_key_block: bool,
    ) -> Result<Response, Refusal> {
        if from_key_block {
            return Err(Refusal::new(
                code::PROTOCOL,
                "parameters are read from states, not from key blocks",
            ));
        }
        let named = self.master(id)?;
        let state = self.states(&named.record)?.master;
        let header = proofs::header(&self.root(&named)?, HeaderParts::default())?;
        Ok(Response::ConfigInfo(ConfigInfo {
            mode: (),
            id: id.clone(),
            state_proof: Boc::encode(header),
            config_proof: Boc::encode(proofs::config(&state)?),
            with_state_root: None,
            with_libraries: None,
            with_state_extra_root: None,
            with_shard_hashes: None,
            with_validator_set: None,
            with_special_smc: None,
            with_accounts_root: None,
            with_prev_blocks: None,
            with_workchain_info: None,
            with_capabilities: None,
            extract_from_key_block: None,
        }))
    }

    pub(super) fn master(&self, id: &BlockIdExt) -> Result<Named, Refusal> {
        let named = self.find(id)?;
        if named.place != Place::Master {
            return Err(Refusal::new(
                code::PROTOCOL,
                "the reference block has to be of the masterchain",
            ));
        }
        Ok(named)
    }

    /// The way from a block that the client trusts to another: forward over key blocks, each link signed by the
    /// validators that the block before names; backward through what a state remembers.
    pub(super) fn block_proof(&self, query: &GetBlockProof) -> Result<Response, Refusal> {
        let known = self.master(&query.known_block)?;
        let target = match &query.target_block {
            Some(id) => self.master(id)?,
            None => Named {
                place: Place::Master,
                record: self.devnet.tip.record,
                fork: None,
            },
        };
        let mut steps = Vec::new();
        let mut at = known;
        let from = ids::block_id(&at.record, Place::Master);
        let goal = ids::block_id(&target.record, Place::Master);
        while ids::block_id(&at.record, Place::Master) != goal && steps.len() < MAX_LINKS {
            let next = self.next_on_the_way(&at, &target)?;
            steps.push(if next.record.seqno > at.record.seqno {
                self.forward(&at, &next)?
            } else {
                self.back(&at, &next)?
            });
            at = next;
        }
        let to = ids::block_id(&at.record, Place::Master);
        Ok(Response::PartialBlockProof(PartialBlockProof {
            complete: to == goal,
            from,
            to,
            steps,
        }))
    }

    fn next_on_the_way(&self, at: &Named, target: &Named) -> Result<Named, Refusal> {
        let (here, there) = (&at.record, &target.record);
        let seqno = if there.seqno < here.seqno {
            there.seqno
        } else if !here.key_block || here.seqno == there.seqno {
            // Only a key block says who signs what follows.
            here.previous_key_block
        } else {
            self.next_key_block(here.seqno, there)?
        };
        if seqno == there.seqno {
            return Ok(Named {
                place: Place::Master,
                record: *there,
                fork: target.fork.clone(),
            });
        }
        Ok(Named {
            place: Place::Master,
            record: self.devnet.record(seqno)?,
            fork: None,
        })
    }

    /// The first key block after `after`, or the target itself where there is none before it.
    fn next_key_block(&self, after: u32, target: &BlockRecord) -> Result<u32, Refusal> {
        let first = self.first_block(|record| {
            record.newest_key_block() > after || record.seqno >= target.seqno
        })?;
        Ok(first.min(target.seqno))
    }

    fn forward(&self, from: &Named, to: &Named) -> Result<BlockLink, Refusal> {
        let id = ids::block_id(&to.record, Place::Master);
        let config = if from.record.seqno == 0 {
            // From the beginning there is no block to take it from, but the state itself.
            let zero = Boc::decode(self.devnet.block_bytes(Place::Master, 0)?)
                .map_err(|error| Refusal::new(code::INTERNAL, error.to_string()))?;
            proofs::config(&zero)?
        } else {
            proofs::key_block(&self.devnet.block_root(Place::Master, from.record.seqno)?)?
        };
        Ok(BlockLink::BlockLinkForward {
            to_key_block: to.record.key_block,
            from: ids::block_id(&from.record, Place::Master),
            to: id.clone(),
            dest_proof: Boc::encode(proofs::header(&self.root(to)?, HeaderParts::default())?),
            config_proof: Boc::encode(config),
            signatures: self.signatures(to, &id)?,
        })
    }

    fn back(&self, from: &Named, to: &Named) -> Result<BlockLink, Refusal> {
        let state = self.states(&from.record)?.master;
        let dest_proof = if to.record.seqno == 0 {
            Vec::new()
        } else {
            Boc::encode(proofs::header(&self.root(to)?, HeaderParts::default())?)
        };
        Ok(BlockLink::BlockLinkBack {
            to_key_block: to.record.key_block,
            from: ids::block_id(&from.record, Place::Master),
            to: ids::block_id(&to.record, Place::Master),
            dest_proof,
            proof: Boc::encode(proofs::header(&self.root(from)?, HeaderParts::default())?),
            state_proof: Boc::encode(proofs::old_block(&state, to.record.seqno)?),
        })
    }

    fn signatures(&self, named: &Named, id: &BlockIdExt) -> Result<SignatureSet, Refusal> {
        let (short_id, mut signature) = sign(&named.record);
        if self.faults.wrong_proofs
            && let Some(byte) = signature.first_mut()
        {
            *byte ^= 1;
        }
        if self.forks.is_unsigned(id) {
            signature = [0; 64];
        }
        let header = self
            .devnet
            .block_root(Place::Master, named.record.seqno)?
            .parse::<Block>()?
            .load_info()?;
        Ok(SignatureSet {
            validator_set_hash: header.gen_validator_list_hash_short,
            catchain_seqno: header.gen_catchain_seqno,
            signatures: vec![TlSignature {
                node_id_short: Int256(short_id),
                signature: signature.to_vec(),
            }],
        })
    }
}
