//! Which guest images are admitted, without anybody who admits them: those that stand in an append-only log whose
//! head k of n rebuilders signed.
//!
//! A rebuilder builds the image of an [`Entry`] from its source revision, and signs a [`Checkpoint`] of the log only if
//! the measurements came out the same and the log grew out of the one that he signed before. A worker staples an
//! [`ImageProof`] to its advert; [`admit`] holds it against the verifier's [`RebuilderSet`] and the registers of the
//! quote. Whether everybody is shown one log is [`cocoon_protocol::log_heads`]' question; [`RebuilderSet`] is its judge.
//!
//! The formats are the field's: the tree of RFC 6962, `c2sp.org/signed-note`, `c2sp.org/tlog-checkpoint`. Byte for byte,
//! and what they prove and what not: `docs/transparency-log.md`. There is no IO here.
//!
//! [`ImageProof`]: cocoon_protocol::log::ImageProof

mod checkpoint;
mod entry;
mod key;
mod note;
mod proof;
mod rebuilders;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use entry::{Entry, EntryError, MAX_IMAGE_NAME_BYTES, MAX_REVISION_BYTES};
pub use key::{KeyError, NoteSigner, NoteVerifier};
pub use note::{MAX_KEY_NAME_BYTES, MAX_NOTE_SIGNATURES, Note, NoteError, NoteSignature};
pub use proof::{Admitted, ProofError, REGISTER_NAMES, admit, open};
pub use rebuilders::{
    MAX_REBUILDERS, RebuilderSet, RebuilderSetError, SignedCheckpoint, SignedCheckpointError,
};
