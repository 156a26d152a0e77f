//! The key block that trust rests on, kept beside the node's data so that the next start walks a few links, not
//! thousands.
//!
//! It is a root of trust like the `init_block`: whoever can write this file chooses the chain. It is bound to the network
//! by the zero state's hash, so that a file of another network is not used.

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
}

/// The newest key block that was verified on this network; `None` where no file is, or it is of another network.
pub(super) fn load(path: &Path, network: &[u8; 32]) -> Option<BlockId> {
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
        Some((hash(&file.network)?, block))
    };
    match read() {
        Some((of, block)) if of == *network && block.is_masterchain() => Some(block),
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
pub(super) fn store(path: &Path, network: &[u8; 32], block: &BlockId) -> std::io::Result<()> {
    let file = File {
        network: hex::encode(network),
        workchain: block.workchain,
        shard: format!("{:016x}", block.shard),
        seqno: block.seqno,
        root_hash: hex::encode(block.root_hash),
        file_hash: hex::encode(block.file_hash),
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
        let block = BlockId {
            workchain: MASTERCHAIN,
            shard: MASTERCHAIN_SHARD,
            seqno: 9,
            root_hash: [1; 32],
            file_hash: [2; 32],
        };
        assert_eq!(load(&path, &[7; 32]), None);
        store(&path, &[7; 32], &block).unwrap();
        assert_eq!(load(&path, &[7; 32]), Some(block));
        assert_eq!(load(&path, &[8; 32]), None);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(load(&path, &[7; 32]), None);
    }
}
