//! Holding a proof against keys and registers.

use cocoon_protocol::log::{ImageProof, TreeHead};
use cocoon_protocol::merkle::{InclusionProof, leaf_hash};

use super::entry::{Entry, EntryError};
use super::note::{Note, NoteError};
use super::rebuilders::{RebuilderSet, SignedCheckpointError};
use crate::{Image, Measurement};

/// The registers that an entry measures, in the order of [`Entry::registers`].
pub const REGISTER_NAMES: [&str; 4] = ["MRTD", "RTMR0", "RTMR1", "RTMR2"];

/// What a proof proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The image.
    pub image: Image,
    /// The source it is built from.
    pub revision: String,
    /// Its place in the log, from 0.
    pub index: u64,
    /// The signed head of the log that it stands in.
    pub head: TreeHead,
    /// The rebuilders who signed.
    pub signers: Vec<String>,
}

/// Why a proof admits nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a line of the log.
    #[error("the proof's entry: {0}")]
    Entry(#[from] EntryError),
    /// The guest is another one.
    #[error("{register} is {measured}, but the image {image:?} of the proof has {logged}")]
    Register {
        /// Which.
        register: &'static str,
        /// The image's name.
        image: String,
        /// What the log says.
        logged: Box<Measurement>,
        /// What the quote says.
        measured: Box<Measurement>,
    },
    /// Not a signed checkpoint of this log, or not signed by enough.
    #[error("the proof's checkpoint: {0}")]
    Checkpoint(#[from] SignedCheckpointError),
    /// There is no such place.
    #[error("entry {index} of a log of {size}")]
    Index {
        /// The place, from 0.
        index: u64,
        /// Entries of the log.
        size: u64,
    },
    /// The entry does not stand in the log at this place.
    #[error("the path from entry {index} does not lead to the signed root of {size} entries")]
    Path {
        /// The place, from 0.
        index: u64,
        /// Entries of the log.
        size: u64,
    },
}

/// Whether a guest with these registers (MRTD, RTMR0, RTMR1, RTMR2) runs an image of the log: compares the registers
/// first, then what [`open`] does, cheapest first.
///
/// # Errors
/// The first thing that is wrong.
pub fn admit(
    proof: &ImageProof,
    rebuilders: &RebuilderSet,
    registers: &[Measurement; 4],
) -> Result<Admitted, ProofError> {
    let entry = Entry::decode(&proof.entry)?;
    let pairs = entry.registers().into_iter().zip(*registers);
    for (register, (logged, measured)) in REGISTER_NAMES.into_iter().zip(pairs) {
        if logged != measured {
            return Err(ProofError::Register {
                register,
                image: entry.image.name,
                logged: Box::new(logged),
                measured: Box::new(measured),
            });
        }
    }
    open(proof, rebuilders)
}

/// Whether the proof's entry stands in the log that the rebuilders signed, whoever runs it.
///
/// # Errors
/// The first thing that is wrong.
pub fn open(proof: &ImageProof, rebuilders: &RebuilderSet) -> Result<Admitted, ProofError> {
    let Entry { image, revision } = Entry::decode(&proof.entry)?;
    let malformed = |error: NoteError| SignedCheckpointError::from(error);
    let note = Note::parse(&proof.checkpoint).map_err(malformed)?;
    let head = rebuilders.read(&note)?.head;
    let (index, size) = (proof.index, head.size);
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let path = InclusionProof {
        index,
        size,
        path: proof.path.clone(),
    };
    if !path.leads(leaf_hash(&proof.entry), head.root) {
        return Err(ProofError::Path { index, size });
    }
    let signers = rebuilders.signers(&note)?;
    Ok(Admitted {
        image,
        revision,
        index,
        head,
        signers,
    })
}
