//! Sealed models: weights that lie on a stranger's disk and can only be read with their owner's key.
//!
//! ```text
//!   0   "cocoon-sealed\n"          14 bytes
//!   14  version                    u16 little-endian, 1
//!   16  length of the header, H    u16 little-endian
//!   18  header                     a `SealedHeader` of protocol/proto/vault.proto, canonical Protobuf
//!  +H   tag of all bytes before    HMAC-SHA-256, 32 bytes
//!  +32  list of n digests          SHA-256 of each sealed chunk, 32 bytes each
//!       n sealed chunks            plain length and 16 bytes of tag each
//! ```
//!
//! **Keys.** All are HKDF-SHA-256 (RFC 5869). The owner's 32 random bytes give one *content key* for each
//! model, `HKDF(salt: digest of the plain weights, key: owner's, info: "cocoon/sealed/v1/content")`. The vault
//! releases a content key and keeps the owner's, so a guest that leaks what it was given leaks that model
//! and no other. Of the content key and the file's own random `salt` are made the key of the header's tag
//! (`info: "cocoon/sealed/v1/header"`) and the key of the chunks (`"cocoon/sealed/v1/chunks"`).
//!
//! **Chunks** are AES-256-GCM in the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár (2015): the
//! nonce is 7 zero bytes, the chunk's number as 32 bits big-endian, and 1 for the last chunk, else 0. So a
//! chunk opens at its own place only, and a file that was cut at a chunk's end does not open. A nonce
//! cannot repeat under one key: the numbers count up, and the key is drawn anew for every file with its
//! salt. The header's tag commits to the key, which GCM alone does not.
//!
//! **Digests.** The header names the digest of the plain weights, which evidence calls the model, and the
//! digest of the list. With the list a chunk that arrived damaged is found without any key
//! ([`Sealed::check`]). It is a flat list and no Merkle tree: everybody who reads the file has the whole
//! list, 32 bytes per MiB, so there is nobody to whom a path through a tree would have to be shown.
//!
//! **Why not `age`.** Its format has neither the plain digest nor a list, so both would be a second format
//! around it; its keys are for recipients who hold a key pair, where ours is handed out by a vault; and it
//! brings some forty crates for what are two functions of `ring`, which is here already.
//!
//! A sealed file may come from a stranger: lengths are checked against the file's real one before
//! anything is allocated, and nothing that was opened is used before its digest is the header's.

mod error;
mod key;
mod memory;
mod read;
mod write;

pub use error::SealedError;
pub use key::{OWNER_KEY_BYTES, OwnerKey, key_id};
pub use memory::SecretBytes;
pub use read::{Sealed, is_sealed};
pub use write::{CHUNK_BYTES, SealTerms, seal, seal_file};

/// What a sealed file begins with.
pub const MAGIC: &[u8; 14] = b"cocoon-sealed\n";
/// The version that is written and read.
pub const VERSION: u16 = 1;
/// The ending of a sealed file's name.
pub const EXTENSION: &str = "cocoon-sealed";

/// Magic, version, length of the header.
const PROLOGUE_BYTES: usize = 18;
/// Of HMAC-SHA-256, and of a digest.
const DIGEST_BYTES: usize = 32;
/// Of AES-256-GCM.
const TAG_BYTES: usize = 16;
