//! The key block that trust rests on, kept beside the node's data so that the next start walks a few links, not
//! thousands.
//!
//! It is a root of trust like the `init_block`: whoever can write this file chooses the chain. It is bound to the network
//! by the zero state's hash, so that a file of another network is not used. The network's number is kept with it: a node
//! that starts while no head can be verified must know which network it is on.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire::BlockId;

/// Largest file that is read, bytes.
const MAX_BYTES: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct File {
    network: String,
    workchain: i32,
    shard: String,
    seqno: u32,
    root_hash: String,
    file_hash: String,
    #[serde(default)]
    global_id: Option<i32>,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// The newest verified key block.
    pub(super) block: BlockId,
    /// ConfigParam 19, once it was read.
    pub(super) global_id: Option<i32>,
}

/// The newest key block that was verified on this network; `None` where no file is, or it is of another network.
pub(super) fn load(path: &Path, network: &[u8; 32]) -> Option<Anchor> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.len() > MAX_BYTES {
        tracing::warn!(path = %path.display(), "the file of the verified key block is too large, it is not used");
        return None;
    }
    let read = || {
        let file: File = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let hash = |text: &str| -> Option<[u8; 32]> { hex::decode(text).ok()?.try_into().ok() };
        let block = BlockId {
            workchain: file.workchain,
            shard: u64::from_str_radix(&file.shard, 16).ok()?,
            seqno: file.seqno,
            root_hash: hash(&file.root_hash)?,
            file_hash: hash(&file.file_hash)?,
        };
        let kept = Anchor {
            block,
            global_id: file.global_id,
        };
        Some((hash(&file.network)?, kept))
    };
    match read() {
        Some((of, kept)) if of == *network && kept.block.is_masterchain() => Some(kept),
        Some(_) => {
            tracing::info!(path = %path.display(), "the verified key block is of another network, it is not used");
            None
        }
        None => {
            tracing::warn!(path = %path.display(), "the file of the verified key block cannot be read, it is not used");
            None
        }
    }
}

/// Writes the file as a whole.
pub(super) fn store(path: &Path, network: &[u8; 32], kept: &Anchor) -> std::io::Result<()> {
    let block = &kept.block;
    let file = File {
        network: hex::encode(network),
        workchain: block.workchain,
        shard: format!("{:016x}", block.shard),
        seqno: block.seqno,
        root_hash: hex::encode(block.root_hash),
        file_hash: hex::encode(block.file_hash),
        global_id: kept.global_id,
    };
    let bytes = serde_json::to_vec_pretty(&file).map_err(std::io::Error::other)?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut beside = PathBuf::from(path);
    beside.set_extension("new");
    let mut out = std::fs::File::create(&beside)?;
    out.write_all(&bytes)?;
    out.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chain::lite::wire::{MASTERCHAIN, MASTERCHAIN_SHARD};

    #[test]
    fn a_key_block_is_found_again_on_its_own_network_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/chain-anchor.json");
        let kept = |block| Anchor {
            block,
            global_id: Some(-239),
        };
        let block = BlockId {
            workchain: MASTERCHAIN,
            shard: MASTERCHAIN_SHARD,
            seqno: 9,
            root_hash: [1; 32],
            file_hash: [2; 32],
        };
        assert_eq!(load(&path, &[7; 32]), None);
        store(&path, &[7; 32], &kept(block)).unwrap();
        assert_eq!(load(&path, &[7; 32]), Some(kept(block)));
        assert_eq!(load(&path, &[8; 32]), None);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(load(&path, &[7; 32]), None);
    }
}
