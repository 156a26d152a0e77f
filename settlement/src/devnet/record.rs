//! What the chain remembers of every block beside its bytes.

use cocoon_protocol::Digest;
use serde::{Deserialize, Serialize};
use tycho_types::cell::HashBytes;
use tycho_types::models::{BlockId, BlockRef as ExtBlkRef, ShardIdent};

use crate::chain::BlockRef;
use crate::contract::encoding::digest;

/// One thing for each of the two chains. A masterchain block and the base-chain block under it have the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Split<T> {
    pub(super) base: T,
    pub(super) master: T,
}

/// The two chains of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Workchain 0, one shard.
    Base,
    /// Workchain -1.
    Master,
}

impl Place {
    /// `None` for a workchain that this network does not have.
    pub(super) fn of(workchain: i8) -> Option<Self> {
        match workchain {
            0 => Some(Self::Base),
            -1 => Some(Self::Master),
            _ => None,
        }
    }

    pub(super) fn workchain(self) -> i32 {
        self.shard().workchain()
    }

    /// The number as addresses have it.
    pub(super) fn of_address(self) -> i8 {
        match self {
            Self::Base => 0,
            Self::Master => -1,
        }
    }

    pub(super) fn shard(self) -> ShardIdent {
        match self {
            Self::Base => ShardIdent::BASECHAIN,
            Self::Master => ShardIdent::MASTERCHAIN,
        }
    }
}

impl<T> Split<T> {
    pub(super) fn get(&self, place: Place) -> &T {
        match place {
            Place::Base => &self.base,
            Place::Master => &self.master,
        }
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        match place {
            Place::Base => &mut self.base,
            Place::Master => &mut self.master,
        }
    }
}

/// The hashes of a block (or, with number 0, of a zero state): of its root cell, and of its bytes (SHA-256).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hashes {
    pub(super) root: Digest,
    pub(super) file: Digest,
}

/// A masterchain block and the base-chain block in it. Number 0 stands for the zero states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockRecord {
    pub(super) seqno: u32,
    /// Seconds since 1970.
    pub(super) unix: u32,
    pub(super) start_lt: u64,
    pub(super) end_lt: Split<u64>,
    pub(super) hashes: Split<Hashes>,
    /// Root hashes of the states after it.
    pub(super) states: Split<Digest>,
    /// Whether it carries the configuration, and with it the validators of the blocks after it.
    pub(super) key_block: bool,
    /// Number of the newest key block before it; 0 where there is none.
    pub(super) previous_key_block: u32,
    /// Which set of validators signs it.
    pub(super) validators: u32,
    /// Which set signs the next one.
    pub(super) next_validators: u32,
    /// nanoTON of fees that its base-chain block took.
    pub(super) base_fees: u64,
    /// nanoTON of fees that all blocks up to it took.
    pub(super) collected: u64,
    /// Transactions in it, on both chains.
    pub(super) transactions: u32,
}

impl BlockRecord {
    /// As the rest of the crate knows it.
    pub(super) fn reference(&self) -> BlockRef {
        BlockRef {
            seqno: self.seqno,
            hash: self.hashes.master.root,
            unix: self.unix,
        }
    }

    pub(super) fn id(&self, place: Place) -> BlockId {
        let hashes = self.hashes.get(place);
        BlockId {
            shard: place.shard(),
            seqno: self.seqno,
            root_hash: HashBytes(*hashes.root.as_bytes()),
            file_hash: HashBytes(*hashes.file.as_bytes()),
        }
    }

    /// `ExtBlkRef` of TL-B.
    pub(super) fn external_ref(&self, place: Place) -> ExtBlkRef {
        let id = self.id(place);
        ExtBlkRef {
            end_lt: *self.end_lt.get(place),
            seqno: id.seqno,
            root_hash: id.root_hash,
            file_hash: id.file_hash,
        }
    }

    /// Number of the newest key block up to and with this one. The zero state is none.
    pub(super) fn newest_key_block(&self) -> u32 {
        if self.key_block && self.seqno > 0 {
            self.seqno
        } else {
            self.previous_key_block
        }
    }
}

pub(super) fn hashes(root: &HashBytes, bytes: &[u8]) -> Hashes {
    Hashes {
        root: digest(root),
        file: Digest::sha256(bytes),
    }
}
