//! A file's bytes without a copy, and their SHA-256.

use std::fs::File;
use std::path::Path;

use cocoon_protocol::Digest;
use ring::digest::{Context, SHA256};

use super::CheckpointError;
use crate::sealed::SecretBytes;

/// Largest file that is mapped, in bytes. The largest real ones are some 50 GB.
pub const MAX_MAPPED_BYTES: u64 = 1 << 40;

/// Bytes hashed between two calls of the progress function.
const HASH_BYTES: usize = 4 << 20;

/// A whole file in the address space.
pub(super) enum Mapped {
    /// Read from disk by the system when they are looked at.
    File(memmap2::Mmap),
    /// In memory already.
    Memory(Vec<u8>),
    /// Opened from a sealed file, which took their digest.
    Secret(SecretBytes, Digest),
}

impl Mapped {
    /// Maps a file.
    #[allow(unsafe_code)]
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let failed = |error| CheckpointError::Io {
            file: path.to_owned(),
            error,
        };
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        if !path.metadata().map_err(failed)?.is_file() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > MAX_MAPPED_BYTES {
            return Err(CheckpointError::TooLarge {
                file: path.to_owned(),
                what: "its size in bytes",
                got: bytes,
                limit: MAX_MAPPED_BYTES,
            });
        }
        // Nothing can be mapped of an empty file.
        if bytes == 0 {
            return Ok(Self::Memory(Vec::new()));
        }
        // SAFETY: a shared mapping is sound for as long as nobody changes the file, which this process
        // never does: it opens model files for reading only. The store marks what it keeps read-only and
        // replaces files by renaming, which leaves a mapping as it was. What remains is another process of
        // the same user that writes to the file in place all the same. If it cuts the file short, looking
        // at a page behind the new end ends this process with SIGBUS; nothing is read that is not there.
        // If it overwrites bytes, we may compute with other weights than those that were hashed. Whoever
        // can do that can also change this program's memory; in a measured guest nobody can. All uses of
        // the bytes are bounds-checked copies and arithmetic on integers and floats, for which every bit
        // pattern is valid; no reference to a type with invalid values, and no `str`, is made into them.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Ok(Self::File(map))
    }

    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Memory(bytes) => bytes,
            Self::Secret(bytes, _) => bytes,
        }
    }

    /// The digest of all bytes. Reads the whole file once, so that it is in the page cache afterwards where
    /// there is room. `progress` is told how many more bytes are done.
    pub(super) fn digest(&self, progress: &mut dyn FnMut(u64)) -> Digest {
        if let Self::Secret(bytes, digest) = self {
            progress(bytes.len() as u64);
            return *digest;
        }
        let mut hash = Context::new(&SHA256);
        for piece in self.bytes().chunks(HASH_BYTES) {
            hash.update(piece);
            progress(piece.len() as u64);
        }
        let mut digest = [0; 32];
        // SHA-256 has 32 bytes.
        digest.copy_from_slice(hash.finish().as_ref());
        Digest::from_bytes(digest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_digest_is_the_files_sha256_and_progress_counts_every_byte() {
        let bytes: Vec<u8> = (0..HASH_BYTES + 5).map(|i| (i % 251) as u8).collect();
        let mut done = vec![];
        let digest = Mapped::Memory(bytes.clone()).digest(&mut |n| done.push(n));
        assert_eq!(digest, Digest::sha256(&bytes));
        assert_eq!(done, [HASH_BYTES as u64, 5]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let mapped = Mapped::open(file.path()).unwrap();
        assert!(matches!(mapped, Mapped::File(_)));
        assert_eq!(mapped.bytes(), bytes);
        assert_eq!(mapped.digest(&mut |_| {}), digest);
    }

    #[test]
    fn an_empty_file_is_empty_and_a_missing_one_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Mapped::open(file.path()).unwrap().bytes().is_empty());
        assert!(matches!(
            Mapped::open(Path::new("/no/such/file")),
            Err(CheckpointError::Io { .. })
        ));
    }
}
