//! Evidence on the wire: what an enclave claims, and the quote that binds the claims.
//!
//! The quote's report data is, byte for byte,
//!
//! ```text
//! SHA-512("cocoon/report-data/v2" 00 ‖ len f₁ ‖ f₁ ‖ … ‖ len f₁₀ ‖ f₁₀)
//!
//! f₁ noise_key      f₂ SHA-256(mlkem_key)  f₃ receipt_key
//! f₄ peer (bytes)   f₅ model               f₆ config
//! f₇ gpu_evidence   f₈ beacon seqno as u32 little-endian ‖ beacon hash
//! f₉ epoch as u64 little-endian                    f₁₀ canary
//! ```
//!
//! with each length as a 32-bit little-endian integer. Evidence is named by the SHA-256 of its
//! report data ([`Claims::digest`]), never by a hash of the quote: quotes are malleable.

use crate::ids::{Digest, PeerId};
use crate::proto;
use crate::proto::evidence_reply::{NotFound, Reply};
use crate::session::MLKEM_KEY_BYTES;
use crate::wire::{Wire, WireError, bytes, codec, field};
use sha2::{Digest as _, Sha512};

/// Most bytes of an evidence bundle, and of the reply that carries one.
pub const MAX_EVIDENCE_BYTES: usize = 256 * 1024;
/// Most bytes of a request for evidence.
pub const MAX_EVIDENCE_REQUEST_BYTES: usize = 64;
/// Most bytes of a quote.
pub const MAX_QUOTE_BYTES: usize = 16 * 1024;
/// Most bytes of collateral.
pub const MAX_COLLATERAL_BYTES: usize = 64 * 1024;
/// Most bytes of a firmware's event log.
pub const MAX_EVENT_LOG_BYTES: usize = 64 * 1024;
/// Most bytes of the evidence of a guest's GPUs.
pub const MAX_GPU_EVIDENCE_BYTES: usize = 96 * 1024;
/// Most bytes of the proof that an image stands in a transparency log.
pub const MAX_IMAGE_PROOF_BYTES: usize = 8 * 1024;
/// Precedes the fields in what is hashed into the report data.
pub const REPORT_DATA_DOMAIN: &[u8] = b"cocoon/report-data/v2\0";

/// A recent block of the chain, so that evidence cannot have been made before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// Number of the block.
    pub seqno: u32,
    /// Its hash.
    pub hash: Digest,
}

/// What an enclave says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// X25519 static key of the session handshake.
    pub noise_key: [u8; 32],
    /// ML-KEM-768 encapsulation key, [`MLKEM_KEY_BYTES`].
    pub mlkem_key: Vec<u8>,
    /// Ed25519 key that signs receipts.
    pub receipt_key: [u8; 32],
    /// The libp2p identity it answers as.
    pub peer: PeerId,
    /// Digest of the model's file.
    pub model: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// Digest of the GPU's evidence, or [`Digest::ZERO`] for none.
    pub gpu_evidence: Digest,
    /// Not made before this block.
    pub beacon: Beacon,
    /// Hours since 1970 in which the keys were made.
    pub epoch: u64,
    /// Digest of the model's answers to the known questions, or [`Digest::ZERO`] if nobody asked them.
    pub canary: Digest,
}

impl Claims {
    /// What the quote must hold; see the module's doc.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        let mut hash = Sha512::new();
        hash.update(REPORT_DATA_DOMAIN);
        let mut add = |field: &[u8]| {
            // No field is longer than a PeerId, so the length always fits.
            let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
            hash.update(length.to_le_bytes());
            hash.update(field);
        };
        add(&self.noise_key);
        add(Digest::sha256(&self.mlkem_key).as_bytes());
        add(&self.receipt_key);
        add(&self.peer.to_bytes());
        add(self.model.as_bytes());
        add(self.config.as_bytes());
        add(self.gpu_evidence.as_bytes());
        add(&[
            &self.beacon.seqno.to_le_bytes()[..],
            self.beacon.hash.as_bytes(),
        ]
        .concat());
        add(&self.epoch.to_le_bytes());
        add(self.canary.as_bytes());
        hash.finalize().into()
    }

    /// The evidence's name: SHA-256 of the report data.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.report_data())
    }
}

/// All that a verifier needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceBundle {
    /// The TDX quote, at most [`MAX_QUOTE_BYTES`].
    pub quote: Vec<u8>,
    /// Intel's collateral as JSON, at most [`MAX_COLLATERAL_BYTES`]. Empty: the verifier has its own.
    pub collateral_json: Vec<u8>,
    /// What the quote's report data binds.
    pub claims: Claims,
    /// What else is shown, if anything.
    pub attached: Attached,
}

/// Parts of a bundle that not every guest has. An empty one is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// The firmware's event log (TCG, crypto agile), at most [`MAX_EVENT_LOG_BYTES`].
    pub event_log: Vec<u8>,
    /// What [`Claims::gpu_evidence`] is the digest of, at most [`MAX_GPU_EVIDENCE_BYTES`].
    pub gpu_evidence: Vec<u8>,
    /// That the guest's image stands in a transparency log, at most [`MAX_IMAGE_PROOF_BYTES`].
    pub image_proof: Vec<u8>,
}

/// Asks a worker for evidence that its advert names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvidenceRequest {
    /// [`Claims::digest`].
    pub evidence: Digest,
}

/// What the worker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made, sent and gone; the bundle is the usual case"
)]
pub enum EvidenceReply {
    /// The evidence. Whether it is what was asked for is for the verifier to see.
    Bundle(EvidenceBundle),
    /// It does not have it, or not any more.
    NotFound,
}

codec!(EvidenceBundle);
codec!(EvidenceRequest);
codec!(EvidenceReply);

impl Wire for Claims {
    const NAME: &'static str = "Claims";
    const MAX_BYTES: usize = MAX_EVIDENCE_BYTES;
    type Proto = proto::Claims;

    fn to_proto(&self) -> Self::Proto {
        proto::Claims {
            noise_key: self.noise_key.to_vec(),
            mlkem_key: self.mlkem_key.clone(),
            receipt_key: self.receipt_key.to_vec(),
            peer: self.peer.to_bytes(),
            model: bytes(&self.model),
            config: bytes(&self.config),
            gpu_evidence: bytes(&self.gpu_evidence),
            beacon: Some(proto::Beacon {
                seqno: self.beacon.seqno,
                hash: bytes(&self.beacon.hash),
            }),
            epoch: self.epoch,
            canary: bytes(&self.canary),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let beacon = field::<Self>("beacon").required(proto.beacon)?;
        Ok(Self {
            noise_key: field::<Self>("noise_key").array(&proto.noise_key)?,
            mlkem_key: field::<Self>("mlkem_key")
                .array::<MLKEM_KEY_BYTES>(&proto.mlkem_key)?
                .to_vec(),
            receipt_key: field::<Self>("receipt_key").array(&proto.receipt_key)?,
            peer: field::<Self>("peer").peer(&proto.peer)?,
            model: field::<Self>("model").digest(&proto.model)?,
            config: field::<Self>("config").digest(&proto.config)?,
            gpu_evidence: field::<Self>("gpu_evidence").digest(&proto.gpu_evidence)?,
            beacon: Beacon {
                seqno: beacon.seqno,
                hash: field::<Self>("beacon.hash").digest(&beacon.hash)?,
            },
            epoch: proto.epoch,
            canary: field::<Self>("canary").digest(&proto.canary)?,
        })
    }
}

impl Wire for EvidenceBundle {
    const NAME: &'static str = "EvidenceBundle";
    const MAX_BYTES: usize = MAX_EVIDENCE_BYTES;
    type Proto = proto::EvidenceBundle;

    fn to_proto(&self) -> Self::Proto {
        proto::EvidenceBundle {
            quote: self.quote.clone(),
            collateral_json: self.collateral_json.clone(),
            claims: Some(self.claims.to_proto()),
            event_log: self.attached.event_log.clone(),
            gpu_evidence: self.attached.gpu_evidence.clone(),
            image_proof: self.attached.image_proof.clone(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let optional = |name, bytes: Vec<u8>, limit| {
            field::<Self>(name).at_most(bytes.len(), limit)?;
            Ok::<_, WireError>(bytes)
        };
        let claims = field::<Self>("claims").required(proto.claims)?;
        Ok(Self {
            quote: field::<Self>("quote").bounded(proto.quote, MAX_QUOTE_BYTES)?,
            collateral_json: optional(
                "collateral_json",
                proto.collateral_json,
                MAX_COLLATERAL_BYTES,
            )?,
            claims: Claims::from_proto(claims)?,
            attached: Attached {
                event_log: optional("event_log", proto.event_log, MAX_EVENT_LOG_BYTES)?,
                gpu_evidence: optional("gpu_evidence", proto.gpu_evidence, MAX_GPU_EVIDENCE_BYTES)?,
                image_proof: optional("image_proof", proto.image_proof, MAX_IMAGE_PROOF_BYTES)?,
            },
        })
    }
}

impl Wire for EvidenceRequest {
    const NAME: &'static str = "EvidenceRequest";
    const MAX_BYTES: usize = MAX_EVIDENCE_REQUEST_BYTES;
    type Proto = proto::EvidenceRequest;

    fn to_proto(&self) -> Self::Proto {
        proto::EvidenceRequest {
            evidence: bytes(&self.evidence),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            evidence: field::<Self>("evidence").digest(&proto.evidence)?,
        })
    }
}

impl Wire for EvidenceReply {
    const NAME: &'static str = "EvidenceReply";
    const MAX_BYTES: usize = MAX_EVIDENCE_BYTES;
    type Proto = proto::EvidenceReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Bundle(bundle) => Reply::Bundle(bundle.to_proto()),
            Self::NotFound => Reply::NotFound(NotFound {}),
        };
        proto::EvidenceReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::Bundle(bundle) => Self::Bundle(EvidenceBundle::from_proto(bundle)?),
            Reply::NotFound(NotFound {}) => Self::NotFound,
        })
    }
}
