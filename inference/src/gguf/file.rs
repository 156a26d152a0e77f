//! A whole file in memory, with the digest taken while it was read.
//!
//! The file is read, not mapped: a mapping of a file that somebody else can truncate is a crash waiting,
//! and everything in it is turned into f32 once and then dropped anyway.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cocoon_protocol::Digest;
use ring::digest::{Context, SHA256};

use super::{GgufError, Header, dequantise, parse};

/// Largest file read into memory, in bytes.
pub const MAX_FILE_BYTES: u64 = 8 << 30;

/// Bytes read between two calls of the progress function.
const READ_BYTES: usize = 1 << 20;

/// A file's bytes, its checked header and its SHA-256.
pub struct GgufFile {
    bytes: Vec<u8>,
    header: Header,
    digest: Digest,
}

impl GgufFile {
    /// Reads the file, hashing it on the way, and checks its header.
    ///
    /// `progress` is told `(bytes done, bytes in all)` about once per MiB.
    ///
    /// # Errors
    /// [`GgufError`]; the file may be hostile.
    pub fn read(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, GgufError> {
        let mut file = File::open(path)?;
        let announced = file.metadata()?.len();
        if announced > MAX_FILE_BYTES {
            return Err(GgufError::FileTooLarge {
                bytes: announced,
                limit: MAX_FILE_BYTES,
            });
        }
        let incomplete = |read: usize| GgufError::Incomplete {
            announced,
            read: read as u64,
        };
        let size = usize::try_from(announced).map_err(|_| incomplete(0))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| incomplete(0))?;
        bytes.resize(size, 0);

        let mut hash = Context::new(&SHA256);
        let mut done = 0u64;
        progress(0, announced);
        for piece in bytes.chunks_mut(READ_BYTES) {
            file.read_exact(piece).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => GgufError::Incomplete {
                    announced,
                    read: done,
                },
                _ => GgufError::Io(error),
            })?;
            hash.update(piece);
            done = done.saturating_add(piece.len() as u64);
            progress(done, announced);
        }
        // A file that grew would have another digest than the one its reader will be told.
        if file.read(&mut [0])? != 0 {
            return Err(incomplete(size));
        }
        Self::checked(bytes, hash)
    }

    /// A file that is in memory already.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let mut hash = Context::new(&SHA256);
        hash.update(&bytes);
        Self::checked(bytes, hash)
    }

    fn checked(bytes: Vec<u8>, hash: Context) -> Result<Self, GgufError> {
        let header = parse(&bytes)?;
        let mut digest = [0; 32];
        // SHA-256 has 32 bytes.
        digest.copy_from_slice(hash.finish().as_ref());
        Ok(Self {
            bytes,
            header,
            digest: Digest::from_bytes(digest),
        })
    }

    /// The table of contents.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// SHA-256 of all bytes of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Appends a tensor's elements, as f32 in storage order, to `out`.
    ///
    /// # Errors
    /// When the tensor is missing or has other dimensions (fastest first) than these.
    pub fn tensor(&self, name: &str, dims: &[usize], out: &mut Vec<f32>) -> Result<(), GgufError> {
        let info = self.header.tensor(name, dims)?;
        let data = self
            .bytes
            .get(info.range.clone())
            .ok_or_else(|| GgufError::OutsideFile {
                tensor: name.to_owned(),
                offset: info.range.start as u64,
                data: self.bytes.len(),
            })?;
        dequantise(info.format, data, out)
    }
}
