//! Whose word counts: k of n rebuilders.

use std::collections::BTreeSet;

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::log_heads::JudgeHead;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::key::{KeyError, NoteVerifier};
use super::note::{MAX_NOTE_SIGNATURES, Note, NoteError, is_key_name};

/// Most rebuilders of a set: as many as a note has signatures.
pub const MAX_REBUILDERS: usize = MAX_NOTE_SIGNATURES;

/// One log, and who must have signed its checkpoints. Written by people as TOML, shipped with a release, never taken
/// from a peer:
///
/// ```toml
/// origin = "example.org/guest-images"
/// threshold = 2
/// keys = ["example.org/alice+…+…", "example.net/bob+…+…", "example.com/carol+…+…"]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct RebuilderSet {
    origin: String,
    threshold: usize,
    keys: Vec<NoteVerifier>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    origin: String,
    threshold: usize,
    keys: Vec<String>,
}

/// A set that cannot mean what its author wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuilderSetError {
    /// No name of a log.
    #[error(
        "the origin {origin:?} is no name of a log: up to 128 bytes without spaces and plus signs"
    )]
    Origin {
        /// What stands there.
        origin: String,
    },
    /// A key that is none.
    #[error("rebuilder {index}: {source}")]
    Key {
        /// Which of the list, from 1.
        index: usize,
        /// What is wrong.
        source: KeyError,
    },
    /// More than a note can hold the signatures of.
    #[error("{count} rebuilders are more than the {MAX_REBUILDERS} that a note has room for")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// One signature would count twice.
    #[error(
        "{name} and another rebuilder have one name or one key; each counts once, list it once"
    )]
    Repeated {
        /// The later one.
        name: String,
    },
    /// Nobody needed, or more than there are.
    #[error("threshold {threshold} of {count} rebuilders; choose 1 to {count}")]
    Threshold {
        /// How many must sign.
        threshold: usize,
        /// How many there are.
        count: usize,
    },
}

/// A checkpoint that enough rebuilders signed. Only [`RebuilderSet`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    signers: Vec<String>,
}

impl SignedCheckpoint {
    /// What was signed.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The names of the rebuilders of the set whose signatures verified.
    #[must_use]
    pub fn signers(&self) -> &[String] {
        &self.signers
    }
}

/// Why a checkpoint does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedCheckpointError {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A note about something else.
    #[error("the signed text is no checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Of another log.
    #[error("a checkpoint of the log {found:?}, wanted is {wanted:?}")]
    OtherLog {
        /// The origin that it names.
        found: String,
        /// The log of this set.
        wanted: String,
    },
    /// Somebody changed the text, or invented the signature.
    #[error("the signature under the name and key id of {name} is not by that key over this text")]
    BadSignature {
        /// Whose it pretends to be.
        name: String,
    },
    /// Not enough.
    #[error("{signed} of the rebuilders signed, {threshold} must; ask the others to sign")]
    TooFewSigners {
        /// How many did.
        signed: usize,
        /// How many must.
        threshold: usize,
    },
}

impl RebuilderSet {
    /// A set of which `threshold` must sign the checkpoints of the log `origin`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(
        origin: &str,
        threshold: usize,
        keys: Vec<NoteVerifier>,
    ) -> Result<Self, RebuilderSetError> {
        let origin = origin.to_owned();
        if !is_key_name(&origin) {
            return Err(RebuilderSetError::Origin { origin });
        }
        let count = keys.len();
        if count > MAX_REBUILDERS {
            return Err(RebuilderSetError::TooMany { count });
        }
        let (mut names, mut points) = (BTreeSet::new(), BTreeSet::new());
        for key in &keys {
            if !names.insert(key.name()) || !points.insert(key.public_key()) {
                let name = key.name().to_owned();
                return Err(RebuilderSetError::Repeated { name });
            }
        }
        if threshold == 0 || threshold > count {
            return Err(RebuilderSetError::Threshold { threshold, count });
        }
        Ok(Self {
            origin,
            threshold,
            keys,
        })
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many must sign.
    #[must_use]
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// Who may.
    #[must_use]
    pub fn keys(&self) -> &[NoteVerifier] {
        &self.keys
    }

    /// Reads a signed checkpoint and checks it. Costs up to [`MAX_NOTE_SIGNATURES`] Ed25519 verifications.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(&self, note: &[u8]) -> Result<SignedCheckpoint, SignedCheckpointError> {
        let note = Note::parse(note)?;
        let checkpoint = self.read(&note)?;
        let signers = self.signers(&note)?;
        Ok(SignedCheckpoint {
            checkpoint,
            signers,
        })
    }

    /// The checkpoint in a note, if it is of this log. Signatures are not looked at.
    pub(super) fn read(&self, note: &Note) -> Result<Checkpoint, SignedCheckpointError> {
        let checkpoint: Checkpoint = note.text().parse()?;
        if checkpoint.origin != self.origin {
            return Err(SignedCheckpointError::OtherLog {
                found: checkpoint.origin,
                wanted: self.origin.clone(),
            });
        }
        Ok(checkpoint)
    }

    /// Who of the set signed, each once. A stranger's signature is no matter; a wrong one under a known key is.
    pub(super) fn signers(&self, note: &Note) -> Result<Vec<String>, SignedCheckpointError> {
        let mut signers = BTreeSet::new();
        for signature in note.signatures() {
            let Some(key) = self.keys.iter().find(|key| key.made(signature)) else {
                continue;
            };
            let name = key.name().to_owned();
            if !key.verifies(note.text(), signature) {
                return Err(SignedCheckpointError::BadSignature { name });
            }
            signers.insert(name);
        }
        if signers.len() < self.threshold {
            return Err(SignedCheckpointError::TooFewSigners {
                signed: signers.len(),
                threshold: self.threshold,
            });
        }
        Ok(signers.into_iter().collect())
    }
}

impl JudgeHead for RebuilderSet {
    fn judge(&self, checkpoint: &[u8]) -> Option<TreeHead> {
        let signed = self.verify(checkpoint).ok()?;
        Some(signed.checkpoint.head)
    }
}

impl TryFrom<Written> for RebuilderSet {
    type Error = RebuilderSetError;

    fn try_from(written: Written) -> Result<Self, RebuilderSetError> {
        let count = written.keys.len();
        if count > MAX_REBUILDERS {
            return Err(RebuilderSetError::TooMany { count });
        }
        let key = |(at, key): (usize, &String)| {
            key.parse().map_err(|source| RebuilderSetError::Key {
                index: at.saturating_add(1),
                source,
            })
        };
        let keys = written.keys.iter().enumerate().map(key);
        let keys = keys.collect::<Result<_, _>>()?;
        Self::new(&written.origin, written.threshold, keys)
    }
}

impl From<RebuilderSet> for Written {
    fn from(set: RebuilderSet) -> Self {
        Self {
            origin: set.origin,
            threshold: set.threshold,
            keys: set.keys.iter().map(ToString::to_string).collect(),
        }
    }
}
