//! What can be wrong with a sealed model.

use std::path::PathBuf;

use cocoon_protocol::{Digest, WireError};

/// Why a model could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The disk.
    #[error("{file}: {error}")]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Something else.
    #[error("{file} is not a sealed model")]
    NotSealed {
        /// Which file.
        file: PathBuf,
    },
    /// A later format.
    #[error("{file} is sealed in version {found}; this program reads version {known}: update it")]
    Version {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// The header is none.
    #[error("{file}: {error}; fetch the file again")]
    Header {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        error: WireError,
    },
    /// Cut off, or something was added.
    #[error("{file} has {got} bytes where its header says {expected}; fetch the file again")]
    Length {
        /// Which file.
        file: PathBuf,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        got: u64,
    },
    /// The list of digests is not the header's.
    #[error("{file}: the list of its chunks is damaged; fetch the file again")]
    List {
        /// Which file.
        file: PathBuf,
    },
    /// A chunk is not the one that was sealed.
    #[error(
        "{file}: chunk {number} of {count} is damaged or not in its place; fetch the file again"
    )]
    Chunk {
        /// Which file.
        file: PathBuf,
        /// Which chunk, from 1.
        number: u64,
        /// How many there are.
        count: u64,
    },
    /// A key for something else.
    #[error("{file} was sealed with the key {wanted}; this is the key {got}")]
    WrongKey {
        /// Which file.
        file: PathBuf,
        /// Id of the key that opens it.
        wanted: String,
        /// Id of the key that was given.
        got: String,
    },
    /// The header was changed by somebody without the key.
    #[error("{file}: the header is not the one that was sealed; fetch the file again")]
    HeaderAltered {
        /// Which file.
        file: PathBuf,
    },
    /// The owner sealed other weights than the header says.
    #[error("{file} claims the weights {claimed} and holds {got}; nothing of it is used")]
    OtherWeights {
        /// Which file.
        file: PathBuf,
        /// Digest in the header.
        claimed: Digest,
        /// Digest of what was opened.
        got: Digest,
    },
    /// Not a single GGUF file.
    #[error(
        "{file} is no GGUF file; a folder or a split model is sealed after `gguf-split --merge`"
    )]
    NotGguf {
        /// Which file.
        file: PathBuf,
    },
    /// Too large, or a name too long.
    #[error("{file} cannot be sealed: {error}")]
    Terms {
        /// Which file.
        file: PathBuf,
        /// Which bound it breaks.
        error: WireError,
    },
    /// The plain file was written to while it was sealed.
    #[error("{file} changed while it was being sealed; nothing was kept")]
    Changed {
        /// Which file.
        file: PathBuf,
    },
    /// No memory for the plain weights.
    #[error("no memory for {bytes} bytes of weights: {error}")]
    Memory {
        /// How many.
        bytes: u64,
        /// What the system says.
        error: std::io::Error,
    },
    /// The cipher or the random generator of the library failed.
    #[error("the cryptographic library failed; nothing was kept")]
    Library,
}
