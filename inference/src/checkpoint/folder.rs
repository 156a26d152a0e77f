//! Opening a folder as Hugging Face's libraries write it.

use std::path::Path;

use cocoon_protocol::Digest;

use super::{Checkpoint, CheckpointError};
use crate::error::EngineError;

/// The texts of a folder that are used after it was opened.
pub(super) struct Texts {
    /// The chat template's source.
    pub(super) template: Option<String>,
    /// Text of the token that begins a text, or empty.
    pub(super) bos: String,
    /// Text of the token that ends one, or empty.
    pub(super) eos: String,
}

pub(super) fn open(
    path: &Path,
    _progress: &mut dyn FnMut(u64, u64),
) -> Result<Checkpoint, EngineError> {
    Err(CheckpointError::NotAModel {
        path: path.to_owned(),
    }
    .into())
}

/// The digest of several files that belong together: SHA-256 over a line for each, sorted by name, of its
/// name, its size in bytes in decimal, and its SHA-256 in lower-case hexadecimal, with a zero byte after
/// the first two and a line feed (0x0a) after the third.
pub fn folder_digest(files: &mut [(String, u64, Digest)]) -> Digest {
    files.sort();
    let mut text = Vec::new();
    for (name, bytes, digest) in files.iter() {
        text.extend_from_slice(name.as_bytes());
        text.push(0);
        text.extend_from_slice(bytes.to_string().as_bytes());
        text.push(0);
        text.extend_from_slice(digest.to_string().as_bytes());
        text.push(b'\n');
    }
    Digest::sha256(&text)
}
