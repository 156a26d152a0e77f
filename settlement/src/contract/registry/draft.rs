//! A message to a registry while it gathers signatures: a file that goes from signer to signer.
//!
//! Nothing in the file is believed: what is signed is computed from the change itself, and whoever signs is shown that. A
//! signature that is wrong, or nobody's, is refused when it is added and again when the message is put together.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_protocol::{PublicKey32, TonAddress};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;

use super::{Change, Governance, MAX_SIGNERS, SignedMessage, Subject};
use crate::chain::ChainError;
use crate::contract::OutMessage;

/// Value of [`Draft::format`].
pub const DRAFT_FORMAT: &str = "cocoon-registry-draft/1";
/// Largest file that is read, bytes: a change of 20 cells and 16 signatures have room.
pub const MAX_DRAFT_BYTES: u64 = 32 * 1024;
/// Largest change in base64.
const MAX_CHANGE_CHARS: usize = 8 * 1024;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// [`DRAFT_FORMAT`].
    pub format: String,
    /// The contract it is for.
    pub registry: TonAddress,
    /// The network it is for.
    pub global_id: i32,
    /// One above the registry's; a draft that another message has overtaken is worthless.
    pub seqno: u32,
    /// Unix second after which the contract refuses it.
    pub valid_until: u32,
    /// The change (bag of cells, base64), or which one to cancel.
    pub subject: DraftSubject,
    /// Made so far.
    pub signatures: Vec<DraftSignature>,
}

/// What is drafted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DraftSubject {
    /// A bag of cells, base64.
    Propose(String),
    /// The number of the change that shall not come into force.
    Cancel(u32),
}

/// One signer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftSignature {
    /// Who.
    pub key: PublicKey32,
    /// 64 bytes, hexadecimal.
    pub signature: String,
}

/// Why a draft is no good.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Another program's, or a newer one's.
    #[error("this is a draft of form {0:?}, this program writes {DRAFT_FORMAT:?}")]
    Format(String),
    /// The change is not one.
    #[error("the draft's change cannot be read: {0}")]
    Change(String),
    /// No more than signers there can be.
    #[error("the draft has {0} signatures; a registry has at most {MAX_SIGNERS} signers")]
    TooManySignatures(usize),
    /// Signed already.
    #[error("this key has signed the draft already")]
    SignedAlready,
    /// Not one of those who decide.
    #[error("{0} is not a signer of this registry, or its signature is not over this change")]
    NotASigner(PublicKey32),
    /// Not enough.
    #[error("{found} of {threshold} signatures are there; `cocoon registry sign` adds one")]
    TooFew {
        /// So many.
        found: usize,
        /// Of so many.
        threshold: u8,
    },
    /// See there.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Draft {
    /// Without signatures.
    ///
    /// # Errors
    /// Where the change does not fit its cells.
    pub fn new(
        registry: TonAddress,
        global_id: i32,
        seqno: u32,
        valid_until: u32,
        subject: &Subject,
    ) -> Result<Self, DraftError> {
        Ok(Self {
            format: DRAFT_FORMAT.to_owned(),
            registry,
            global_id,
            seqno,
            valid_until,
            subject: match subject {
                Subject::Propose(change) => {
                    DraftSubject::Propose(STANDARD.encode(Boc::encode(change.to_cell()?)))
                }
                Subject::Cancel(id) => DraftSubject::Cancel(*id),
            },
            signatures: Vec::new(),
        })
    }

    /// What it is about, read from what would be signed.
    ///
    /// # Errors
    /// [`DraftError::Format`], [`DraftError::Change`], [`DraftError::TooManySignatures`].
    pub fn subject(&self) -> Result<Subject, DraftError> {
        if self.format != DRAFT_FORMAT {
            return Err(DraftError::Format(self.format.clone()));
        }
        if self.signatures.len() > MAX_SIGNERS {
            return Err(DraftError::TooManySignatures(self.signatures.len()));
        }
        match &self.subject {
            DraftSubject::Cancel(id) => Ok(Subject::Cancel(*id)),
            DraftSubject::Propose(text) => {
                let bad = |reason: String| DraftError::Change(reason);
                if text.len() > MAX_CHANGE_CHARS {
                    return Err(bad(format!(
                        "it is longer than {MAX_CHANGE_CHARS} characters"
                    )));
                }
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| bad(error.to_string()))?;
                let cell = Boc::decode(bytes).map_err(|error| bad(error.to_string()))?;
                let change = Change::decode(&cell).map_err(|error| bad(error.to_string()))?;
                Ok(Subject::Propose(change))
            }
        }
    }

    fn unsigned(&self) -> Result<SignedMessage, DraftError> {
        let subject = self.subject()?;
        Ok(SignedMessage::new(
            self.registry,
            self.seqno,
            self.valid_until,
            subject,
        ))
    }

    /// Adds this key's signature. Whether it is a signer's is for [`Draft::message`] to say, which knows the registry.
    ///
    /// # Errors
    /// As [`Draft::subject`], and [`DraftError::SignedAlready`].
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), DraftError> {
        let public = PublicKey32::from_bytes(key.verifying_key().to_bytes());
        if self.signatures.iter().any(|one| one.key == public) {
            return Err(DraftError::SignedAlready);
        }
        let bytes = self.unsigned()?.signed_bytes(self.global_id)?;
        self.signatures.push(DraftSignature {
            key: public,
            signature: hex::encode(key.sign(&bytes).to_bytes()),
        });
        Ok(())
    }

    /// The message, for any wallet to send, once enough have signed. Surplus signatures are left out.
    ///
    /// # Errors
    /// [`DraftError::NotASigner`] for a signature that does not count, [`DraftError::TooFew`].
    pub fn message(&self, governance: &Governance) -> Result<OutMessage, DraftError> {
        let mut message = self.unsigned()?;
        for one in self
            .signatures
            .iter()
            .take(usize::from(governance.threshold))
        {
            let mut signature = [0; 64];
            let counts = hex::decode_to_slice(&one.signature, &mut signature).is_ok()
                && message.add(one.key, signature, governance, self.global_id)?;
            if !counts {
                return Err(DraftError::NotASigner(one.key));
            }
        }
        if message.signed_by() < usize::from(governance.threshold) {
            return Err(DraftError::TooFew {
                found: message.signed_by(),
                threshold: governance.threshold,
            });
        }
        Ok(message.message()?)
    }
}
