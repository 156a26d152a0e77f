//! How a guest gets the key of a sealed model, message by message.
//!
//! ```text
//!   guest                                             vault (the owner's node)
//!     │ Hello { model } ──────────────────────────────► │
//!     │ ◄────────────────────────────── Nonce { nonce } │
//!     │ Claim { nonce, model, evidence } ─────────────► │
//!     │ ◄───────────────── evidence request, and its reply
//!     │                                                 │ judges the evidence by the owner's policy
//!     │ ◄══ session to the attested keys ══ KeyRelease ═│
//!     │ ══ end ═══════════════════════════════════════► │
//!     │ ◄────────────────────────────────────── Released │ (or Refused, with its reason)
//! ```
//!
//! The vault is the session's initiator and the guest its responder, as client and worker are for a
//! job, so the key can only be read by who holds the secrets that the quote binds. Nothing outside
//! of that session is secret.
//!
//! The decisions are in `attestation`'s `vault`; the header of a sealed model, which has the same
//! rules of encoding, is [`SealedHeader`].

use crate::ids::Digest;
use crate::proto;
use crate::proto::vault_reply::{Nonce as NonceReply, Reason, Refused, Released, Reply};
use crate::proto::vault_request::{Claim, Hello, Request};
use crate::wire::{Wire, WireError, bytes, codec, field};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Most bytes of a guest's request.
pub const MAX_VAULT_REQUEST_BYTES: usize = 128;
/// Most bytes of a vault's reply.
pub const MAX_VAULT_REPLY_BYTES: usize = 256;
/// Most bytes of the frame that carries the key.
pub const MAX_KEY_RELEASE_BYTES: usize = 128;
/// Most bytes of a sealed model's header.
pub const MAX_SEALED_HEADER_BYTES: usize = 512;
/// Longest name of a factor in a refusal, bytes.
pub const MAX_FACTOR_BYTES: usize = 64;
/// Longest name of a sealed model, bytes.
pub const MAX_SEALED_NAME_BYTES: usize = 128;
/// Longest life of a nonce, milliseconds.
pub const MAX_NONCE_LIFETIME_MS: u32 = 600_000;
/// Longest time that a vault asks to be left alone for, milliseconds.
pub const MAX_AGAIN_AFTER_MS: u32 = 3_600_000;
/// Largest model that is sealed, bytes.
pub const MAX_PLAIN_BYTES: u64 = 1 << 40;
/// Smallest chunk, bytes. Only a file's last one has fewer.
pub const MIN_CHUNK_BYTES: u32 = 4 << 10;
/// Largest chunk, bytes.
pub const MAX_CHUNK_BYTES: u32 = 16 << 20;
/// Most chunks of a file: their numbers have 32 bits, and a reader keeps a digest for each.
pub const MAX_CHUNKS: u64 = 1 << 24;

/// 32 random bytes of the vault that make a claim count once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", hex::encode(self.0))
    }
}

/// The key that opens every sealed file of one model's weights. Wiped when dropped, and never
/// printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl ContentKey {
    /// From its bytes. Whoever made the array wipes it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(…)")
    }
}

/// What a guest asks of a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultRequest {
    /// A nonce.
    Hello {
        /// Digest of the plain weights.
        model: Digest,
    },
    /// The key.
    Claim {
        /// From this vault, for this peer and model.
        nonce: Nonce,
        /// Digest of the plain weights.
        model: Digest,
        /// [`crate::Claims::digest`] of the guest's evidence.
        evidence: Digest,
    },
}

/// Why a vault does not release a key, as the guest is told. The owner's log says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultRefusal {
    /// It holds no key for that model.
    UnknownModel,
    /// The peer has asked a moment ago.
    TooSoon,
    /// It examines as many guests as it can.
    Busy,
    /// The nonce is not this peer's, not for this model, used or over.
    Nonce,
    /// The evidence was not to be had.
    NoEvidence,
    /// The evidence is not in order.
    Evidence,
    /// The session could not be opened, or broke.
    NotDelivered,
    /// The owner's log could not be written, and nothing is released without it.
    CannotRecord,
}

impl VaultRefusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::UnknownModel,
        Self::TooSoon,
        Self::Busy,
        Self::Nonce,
        Self::NoEvidence,
        Self::Evidence,
        Self::NotDelivered,
        Self::CannotRecord,
    ];

    /// For logs and scripts.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown_model",
            Self::TooSoon => "too_soon",
            Self::Busy => "busy",
            Self::Nonce => "nonce",
            Self::NoEvidence => "no_evidence",
            Self::Evidence => "evidence",
            Self::NotDelivered => "not_delivered",
            Self::CannotRecord => "cannot_record",
        }
    }

    const fn reason(self) -> Reason {
        match self {
            Self::UnknownModel => Reason::UnknownModel,
            Self::TooSoon => Reason::TooSoon,
            Self::Busy => Reason::Busy,
            Self::Nonce => Reason::Nonce,
            Self::NoEvidence => Reason::NoEvidence,
            Self::Evidence => Reason::Evidence,
            Self::NotDelivered => Reason::NotDelivered,
            Self::CannotRecord => Reason::CannotRecord,
        }
    }
}

/// What a vault answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultReply {
    /// To a hello.
    Nonce {
        /// For the claim.
        nonce: Nonce,
        /// Milliseconds in which it must be used.
        lifetime_ms: u32,
    },
    /// To a claim: the session has carried the key.
    Released,
    /// To either.
    Refused {
        /// Why.
        reason: VaultRefusal,
        /// The factor of the verdict that failed; empty for all other reasons.
        factor: String,
        /// Not to be asked again within so many milliseconds.
        again_after_ms: u32,
    },
}

/// The frame that carries a key. Its encoding is secret too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRelease {
    /// The nonce of the claim that this answers.
    pub nonce: Nonce,
    /// Digest of the plain weights.
    pub model: Digest,
    /// Opens them.
    pub key: ContentKey,
}

/// The readable part of a sealed model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    /// SHA-256 of the plain weights.
    pub model: Digest,
    /// Their length, bytes.
    pub plain_bytes: u64,
    /// Plain bytes of every chunk but the last.
    pub chunk_bytes: u32,
    /// Names the content key.
    pub key_id: [u8; 16],
    /// Drawn for this file.
    pub salt: [u8; 32],
    /// For people.
    pub name: String,
    /// SHA-256 of the list of the chunks' digests.
    pub chunks: Digest,
}

impl SealedHeader {
    /// How many chunks there are; at least one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.plain_bytes
            .div_ceil(u64::from(self.chunk_bytes.max(1)))
    }

    /// Plain bytes of the chunk of this number.
    #[must_use]
    pub fn chunk_length(&self, number: u64) -> u64 {
        let chunk = u64::from(self.chunk_bytes);
        let begun = number.saturating_mul(chunk);
        self.plain_bytes.saturating_sub(begun).min(chunk)
    }
}

codec!(VaultRequest);
codec!(VaultReply);
codec!(SealedHeader);

impl KeyRelease {
    /// Its canonical bytes, wiped when dropped.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(crate::wire::encode(self))
    }

    /// Reads one, and wipes what it was read from.
    ///
    /// # Errors
    /// Why the bytes are none.
    pub fn decode(mut bytes: Vec<u8>) -> Result<Self, WireError> {
        let release = crate::wire::decode(&bytes);
        bytes.zeroize();
        release
    }
}

impl Wire for VaultRequest {
    const NAME: &'static str = "VaultRequest";
    const MAX_BYTES: usize = MAX_VAULT_REQUEST_BYTES;
    type Proto = proto::VaultRequest;

    fn to_proto(&self) -> Self::Proto {
        let request = match self {
            Self::Hello { model } => Request::Hello(Hello {
                model: bytes(model),
            }),
            Self::Claim {
                nonce,
                model,
                evidence,
            } => Request::Claim(Claim {
                nonce: nonce.0.to_vec(),
                model: bytes(model),
                evidence: bytes(evidence),
            }),
        };
        proto::VaultRequest {
            request: Some(request),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("request").required(proto.request)? {
            Request::Hello(hello) => Self::Hello {
                model: field::<Self>("hello.model").digest(&hello.model)?,
            },
            Request::Claim(claim) => Self::Claim {
                nonce: Nonce(field::<Self>("claim.nonce").array(&claim.nonce)?),
                model: field::<Self>("claim.model").digest(&claim.model)?,
                evidence: field::<Self>("claim.evidence").digest(&claim.evidence)?,
            },
        })
    }
}

impl Wire for VaultReply {
    const NAME: &'static str = "VaultReply";
    const MAX_BYTES: usize = MAX_VAULT_REPLY_BYTES;
    type Proto = proto::VaultReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Nonce { nonce, lifetime_ms } => Reply::Nonce(NonceReply {
                nonce: nonce.0.to_vec(),
                lifetime_ms: *lifetime_ms,
            }),
            Self::Released => Reply::Released(Released {}),
            Self::Refused {
                reason,
                factor,
                again_after_ms,
            } => Reply::Refused(Refused {
                reason: reason.reason().into(),
                factor: factor.clone(),
                again_after_ms: *again_after_ms,
            }),
        };
        proto::VaultReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::Nonce(reply) => Self::Nonce {
                nonce: Nonce(field::<Self>("nonce.nonce").array(&reply.nonce)?),
                lifetime_ms: field::<Self>("nonce.lifetime_ms").within(
                    reply.lifetime_ms,
                    1,
                    i128::from(MAX_NONCE_LIFETIME_MS),
                )?,
            },
            Reply::Released(Released {}) => Self::Released,
            Reply::Refused(refused) => {
                let reason = VaultRefusal::ALL
                    .into_iter()
                    .find(|reason| i32::from(reason.reason()) == refused.reason)
                    .ok_or_else(|| field::<Self>("refused.reason").unknown(refused.reason))?;
                field::<Self>("refused.factor").at_most(refused.factor.len(), MAX_FACTOR_BYTES)?;
                Self::Refused {
                    reason,
                    factor: refused.factor,
                    again_after_ms: field::<Self>("refused.again_after_ms").within(
                        refused.again_after_ms,
                        0,
                        i128::from(MAX_AGAIN_AFTER_MS),
                    )?,
                }
            }
        })
    }
}

impl Wire for KeyRelease {
    const NAME: &'static str = "KeyRelease";
    const MAX_BYTES: usize = MAX_KEY_RELEASE_BYTES;
    type Proto = proto::KeyRelease;

    fn to_proto(&self) -> Self::Proto {
        proto::KeyRelease {
            nonce: self.nonce.0.to_vec(),
            model: bytes(&self.model),
            key: self.key.reveal().to_vec(),
        }
    }

    fn from_proto(mut proto: Self::Proto) -> Result<Self, WireError> {
        let key = field::<Self>("key").array(&proto.key).map(Zeroizing::new);
        proto.key.zeroize();
        Ok(Self {
            nonce: Nonce(field::<Self>("nonce").array(&proto.nonce)?),
            model: field::<Self>("model").digest(&proto.model)?,
            key: ContentKey(key?),
        })
    }
}

impl Wire for SealedHeader {
    const NAME: &'static str = "SealedHeader";
    const MAX_BYTES: usize = MAX_SEALED_HEADER_BYTES;
    type Proto = proto::SealedHeader;

    fn to_proto(&self) -> Self::Proto {
        proto::SealedHeader {
            model: bytes(&self.model),
            plain_bytes: self.plain_bytes,
            chunk_bytes: self.chunk_bytes,
            key_id: self.key_id.to_vec(),
            salt: self.salt.to_vec(),
            name: self.name.clone(),
            chunks: bytes(&self.chunks),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let chunk_bytes: u32 = field::<Self>("chunk_bytes").within(
            proto.chunk_bytes,
            i128::from(MIN_CHUNK_BYTES),
            i128::from(MAX_CHUNK_BYTES),
        )?;
        if !chunk_bytes.is_power_of_two() {
            return Err(field::<Self>("chunk_bytes").unknown(chunk_bytes.cast_signed()));
        }
        let header = Self {
            model: field::<Self>("model").digest(&proto.model)?,
            plain_bytes: field::<Self>("plain_bytes").within(
                proto.plain_bytes,
                1,
                i128::from(MAX_PLAIN_BYTES),
            )?,
            chunk_bytes,
            key_id: field::<Self>("key_id").array(&proto.key_id)?,
            salt: field::<Self>("salt").array(&proto.salt)?,
            name: field::<Self>("name").bounded(proto.name, MAX_SEALED_NAME_BYTES)?,
            chunks: field::<Self>("chunks").digest(&proto.chunks)?,
        };
        field::<Self>("plain_bytes / chunk_bytes").within::<u64>(
            header.count(),
            1,
            i128::from(MAX_CHUNKS),
        )?;
        Ok(header)
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
