//! Request for quote and signed offer, on the wire.

use crate::envelope::{self, Enveloped};
use crate::ids::{Digest, Keypair, OfferId, PeerId, TonAddress};
use crate::proto;
use crate::proto::quote_reply::Reply;
use crate::proto::refusal::Reason;
use crate::terms::{MAX_MODEL_ID_BYTES, Price};
use crate::units::{NanoTon, UnixMillis};
use crate::wire::{Verified, Wire, WireError, bytes, codec, field};

/// Most bytes of a request.
pub const MAX_QUOTE_REQUEST_BYTES: usize = 256;
/// Most bytes of a [`Decline`].
pub const MAX_DECLINE_BYTES: usize = 32;
/// Most bytes of a reply.
pub const MAX_QUOTE_REPLY_BYTES: usize = 1280;
/// Most bytes of a signed offer.
pub const MAX_OFFER_BYTES: usize = 1024;
/// Domain separation of an offer's signature.
pub const OFFER_DOMAIN: &str = "cocoon/offer/v1";
/// Payload type of an offer's envelope.
pub const OFFER_PAYLOAD_TYPE: &[u8] = b"/cocoon/offer/1";

/// "What would you want for a job of at most this size?" The connection says who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteRequest {
    /// Drawn by the client; names the offer too.
    pub offer_request: OfferId,
    /// Name of the model.
    pub model: String,
    /// Digest of the model's file.
    pub model_digest: Digest,
    /// Most tokens the prompt may turn out to have.
    pub max_prompt_tokens: u32,
    /// Most tokens of the answer.
    pub max_output_tokens: u32,
}

/// "Your offer was not the best." Sent instead of a request; frees the slot that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decline {
    /// The offer.
    pub offer: OfferId,
}

/// A worker's binding word, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// From the request.
    pub id: OfferId,
    /// Who offers.
    pub worker: PeerId,
    /// To whom alone.
    pub client: PeerId,
    /// Name of the model.
    pub model: String,
    /// Digest of the model's file.
    pub model_digest: Digest,
    /// What a token costs.
    pub price: Price,
    /// How far the worker runs ahead of the vouchers.
    pub credit_window: NanoTon,
    /// How long until it begins, by its own estimate, in milliseconds.
    pub expected_wait_ms: u32,
    /// Until when it can be redeemed.
    pub expires: UnixMillis,
    /// Evidence of the enclave that will answer: [`crate::evidence::Claims::digest`].
    pub evidence: Digest,
    /// Most tokens of the prompt.
    pub max_prompt_tokens: u32,
    /// Most tokens of the answer.
    pub max_output_tokens: u32,
    /// Where it wants to be paid.
    pub payout: TonAddress,
}

impl Offer {
    /// The most that a job under this offer costs. `None` only at prices no decoder lets in.
    #[must_use]
    pub fn worst_cost(&self) -> Option<NanoTon> {
        self.price
            .cost(self.max_prompt_tokens, self.max_output_tokens)
    }

    /// The signed bytes for [`QuoteReply::Offer`].
    ///
    /// # Errors
    /// [`WireError::OtherSigner`] if the key is not the worker's, or why nobody would accept it.
    pub fn sign(&self, key: &Keypair) -> Result<Vec<u8>, WireError> {
        envelope::seal(key, self)
    }
}

/// Checks a signed offer: size, envelope, signature, fields, and that the worker signed it.
///
/// # Errors
/// The first of those checks that fails.
pub fn decode_offer(bytes: &[u8]) -> Result<Verified<Offer>, WireError> {
    envelope::open(bytes)
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteReply {
    /// A signed offer, for [`decode_offer`].
    Offer(Vec<u8>),
    /// No offer.
    Refused(Refusal),
}

/// Why a worker makes no offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not serve this model, or not with this digest.
    #[error("the model is not served")]
    UnknownModel,
    /// Every slot is taken or promised.
    #[error("no free slot")]
    NoFreeSlot,
    /// Prompt and answer together do not fit.
    #[error("prompt and answer have more than {limit_tokens} tokens")]
    TooLong {
        /// What fits.
        limit_tokens: u32,
    },
    /// It takes no new jobs.
    #[error("the worker is draining")]
    Draining,
    /// Too many open offers, to everybody or to this client.
    #[error("too many open offers")]
    Busy,
}

codec!(QuoteRequest);
codec!(Decline);
codec!(QuoteReply);

impl Wire for QuoteRequest {
    const NAME: &'static str = "QuoteRequest";
    const MAX_BYTES: usize = MAX_QUOTE_REQUEST_BYTES;
    type Proto = proto::QuoteRequest;

    fn to_proto(&self) -> Self::Proto {
        proto::QuoteRequest {
            offer_request: self.offer_request.as_bytes().to_vec(),
            model: self.model.clone(),
            model_digest: bytes(&self.model_digest),
            max_prompt_tokens: self.max_prompt_tokens,
            max_output_tokens: self.max_output_tokens,
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            offer_request: OfferId::from_bytes(
                field::<Self>("offer_request").array(&proto.offer_request)?,
            ),
            model: field::<Self>("model").bounded(proto.model, MAX_MODEL_ID_BYTES)?,
            model_digest: field::<Self>("model_digest").digest(&proto.model_digest)?,
            max_prompt_tokens: proto.max_prompt_tokens,
            max_output_tokens: proto.max_output_tokens,
        })
    }
}

impl Wire for Decline {
    const NAME: &'static str = "Decline";
    const MAX_BYTES: usize = MAX_DECLINE_BYTES;
    type Proto = proto::Decline;

    fn to_proto(&self) -> Self::Proto {
        proto::Decline {
            declined: self.offer.as_bytes().to_vec(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            offer: OfferId::from_bytes(field::<Self>("declined").array(&proto.declined)?),
        })
    }
}

impl Wire for QuoteReply {
    const NAME: &'static str = "QuoteReply";
    const MAX_BYTES: usize = MAX_QUOTE_REPLY_BYTES;
    type Proto = proto::QuoteReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Offer(offer) => Reply::Offer(offer.clone()),
            Self::Refused(refusal) => Reply::Refused(refusal.to_proto()),
        };
        proto::QuoteReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::Offer(offer) => {
                Self::Offer(field::<Self>("offer").bounded(offer, MAX_OFFER_BYTES)?)
            }
            Reply::Refused(refusal) => Self::Refused(Refusal::from_proto(refusal)?),
        })
    }
}

impl Wire for Refusal {
    const NAME: &'static str = "Refusal";
    const MAX_BYTES: usize = 16;
    type Proto = proto::Refusal;

    fn to_proto(&self) -> Self::Proto {
        let (reason, limit_tokens) = match *self {
            Self::UnknownModel => (Reason::UnknownModel, 0),
            Self::NoFreeSlot => (Reason::NoFreeSlot, 0),
            Self::TooLong { limit_tokens } => (Reason::TooLong, limit_tokens),
            Self::Draining => (Reason::Draining, 0),
            Self::Busy => (Reason::Busy, 0),
        };
        proto::Refusal {
            reason: reason.into(),
            limit_tokens,
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let limit_tokens = proto.limit_tokens;
        Ok(match Reason::try_from(proto.reason) {
            Ok(Reason::UnknownModel) => Self::UnknownModel,
            Ok(Reason::NoFreeSlot) => Self::NoFreeSlot,
            Ok(Reason::TooLong) => Self::TooLong { limit_tokens },
            Ok(Reason::Draining) => Self::Draining,
            Ok(Reason::Busy) => Self::Busy,
            Ok(Reason::Unspecified) | Err(_) => {
                return Err(field::<Self>("reason").unknown(proto.reason));
            }
        })
    }
}

impl Wire for Offer {
    const NAME: &'static str = "Offer";
    const MAX_BYTES: usize = MAX_OFFER_BYTES;
    type Proto = proto::Offer;

    fn to_proto(&self) -> Self::Proto {
        proto::Offer {
            id: self.id.as_bytes().to_vec(),
            worker: self.worker.to_bytes(),
            client: self.client.to_bytes(),
            model: self.model.clone(),
            model_digest: bytes(&self.model_digest),
            price: Some(self.price.to_proto()),
            credit_window: self.credit_window.nano(),
            expected_wait_ms: self.expected_wait_ms,
            expires_ms: self.expires.millis(),
            evidence: bytes(&self.evidence),
            max_prompt_tokens: self.max_prompt_tokens,
            max_output_tokens: self.max_output_tokens,
            payout: Some(self.payout.into()),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            id: OfferId::from_bytes(field::<Self>("id").array(&proto.id)?),
            worker: field::<Self>("worker").peer(&proto.worker)?,
            client: field::<Self>("client").peer(&proto.client)?,
            model: field::<Self>("model").bounded(proto.model, MAX_MODEL_ID_BYTES)?,
            model_digest: field::<Self>("model_digest").digest(&proto.model_digest)?,
            price: Price::from_proto(field::<Self>("price"), proto.price)?,
            credit_window: NanoTon::from_nano(proto.credit_window),
            expected_wait_ms: proto.expected_wait_ms,
            expires: UnixMillis::from_millis(proto.expires_ms),
            evidence: field::<Self>("evidence").digest(&proto.evidence)?,
            max_prompt_tokens: proto.max_prompt_tokens,
            max_output_tokens: proto.max_output_tokens,
            payout: field::<Self>("payout").address(proto.payout)?,
        })
    }
}

impl Enveloped for Offer {
    const DOMAIN_SEPARATION: &'static str = OFFER_DOMAIN;
    const PAYLOAD_TYPE: &'static [u8] = OFFER_PAYLOAD_TYPE;
    const MAX_ENVELOPE_BYTES: usize = MAX_OFFER_BYTES;

    fn speaker(&self) -> PeerId {
        self.worker
    }
}
