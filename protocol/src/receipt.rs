//! What a worker states, under its enclave's key, about a job it did.
//!
//! The signature is Ed25519 (RFC 8032) over `"cocoon/receipt/v2" 00 ‖ canonical Receipt bytes`, by
//! the receipt key that the claims of the evidence name. A [`SignedReceipt`], encoded, is a leaf of
//! the worker's settlement batch: `SHA-256(00 ‖ bytes)` as in RFC 6962, section 2.1.

use crate::ids::{Digest, JobId, PeerId, PublicKey32, TonAddress};
use crate::job::FinishReason;
use crate::proto;
use crate::terms::{MAX_MODEL_ID_BYTES, Price};
use crate::units::{NanoTon, UnixMillis};
use crate::wire::{Verified, Wire, WireError, bytes, decode, encode, field};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Precedes the receipt in what is signed.
pub const RECEIPT_DOMAIN: &[u8] = b"cocoon/receipt/v2\0";
/// Most bytes of a receipt.
pub const MAX_RECEIPT_BYTES: usize = 1024;
/// Most bytes of a receipt with its signature.
pub const MAX_SIGNED_RECEIPT_BYTES: usize = 1152;

/// How the job ended, in the worker's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// End of turn or a stop string.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// The client cancelled.
    Cancelled,
    /// The client's stream ended.
    ClientLost,
    /// The voucher that would have let the job go on did not come.
    PaymentStalled,
    /// The engine failed.
    EngineFailed,
    /// The worker was going down.
    ShutDown,
}

impl Ending {
    /// Its name, for people and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::ClientLost => "client_lost",
            Self::PaymentStalled => "payment_stalled",
            Self::EngineFailed => "engine_failed",
            Self::ShutDown => "shut_down",
        }
    }

    pub(crate) const fn to_proto(self) -> proto::Ending {
        match self {
            Self::Stop => proto::Ending::Stop,
            Self::Length => proto::Ending::Length,
            Self::Cancelled => proto::Ending::Cancelled,
            Self::ClientLost => proto::Ending::ClientLost,
            Self::PaymentStalled => proto::Ending::PaymentStalled,
            Self::EngineFailed => proto::Ending::EngineFailed,
            Self::ShutDown => proto::Ending::ShutDown,
        }
    }

    pub(crate) fn from_proto(value: i32) -> Option<Self> {
        match proto::Ending::try_from(value).ok()? {
            proto::Ending::Unspecified => None,
            proto::Ending::Stop => Some(Self::Stop),
            proto::Ending::Length => Some(Self::Length),
            proto::Ending::Cancelled => Some(Self::Cancelled),
            proto::Ending::ClientLost => Some(Self::ClientLost),
            proto::Ending::PaymentStalled => Some(Self::PaymentStalled),
            proto::Ending::EngineFailed => Some(Self::EngineFailed),
            proto::Ending::ShutDown => Some(Self::ShutDown),
        }
    }
}

impl From<FinishReason> for Ending {
    fn from(finish: FinishReason) -> Self {
        match finish {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::Cancelled => Self::Cancelled,
        }
    }
}

/// See the module's doc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The job.
    pub job: JobId,
    /// Who did it.
    pub worker: PeerId,
    /// For whom.
    pub client: PeerId,
    /// Name of the model.
    pub model: String,
    /// Digest of the model's file.
    pub model_digest: Digest,
    /// Evidence of the enclave: [`crate::evidence::Claims::digest`].
    pub evidence: Digest,
    /// To `JobRequest::chat`: [`Salt::request`](crate::Salt::request).
    pub request_commitment: Digest,
    /// To all that was sent: [`Salt::response`](crate::Salt::response).
    pub response_commitment: Digest,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that were sent.
    pub output_tokens: u32,
    /// What they cost each.
    pub price: Price,
    /// What this job costs.
    pub amount: NanoTon,
    /// Where it is paid.
    pub channel: TonAddress,
    /// Total of the newest voucher the worker held at the end.
    pub cumulative: NanoTon,
    /// How it ended.
    pub ending: Ending,
    /// When the worker took it.
    pub started: UnixMillis,
    /// When it ended.
    pub ended: UnixMillis,
    /// The key that signs this. To be compared with the evidence by whoever believes it.
    pub receipt_key: PublicKey32,
    /// To the tokens that were sent: [`Salt::counted_tokens`](crate::Salt::counted_tokens).
    pub tokens_commitment: Option<Digest>,
    /// Digest of the tokenizer and template that counted, where the engine has them.
    pub tokenizer: Option<Digest>,
}

/// A receipt's bytes with their signature, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReceipt {
    /// The encoded [`Receipt`].
    pub receipt: Vec<u8>,
    /// Over [`RECEIPT_DOMAIN`] and the receipt.
    pub signature: [u8; 64],
}

fn signed_bytes(receipt: &[u8]) -> Vec<u8> {
    [RECEIPT_DOMAIN, receipt].concat()
}

impl Receipt {
    /// Its canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a receipt without believing it; see [`SignedReceipt::verify`].
    ///
    /// # Errors
    /// Why the bytes are no receipt.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes)
    }

    /// Signs it with the enclave's receipt key, whose public half it names from now on.
    ///
    /// # Errors
    /// Why nobody would accept it, for example a model's name that is too long.
    pub fn sign(mut self, key: &SigningKey) -> Result<SignedReceipt, WireError> {
        self.receipt_key = PublicKey32::from_bytes(key.verifying_key().to_bytes());
        let receipt = self.encode();
        Self::decode(&receipt)?;
        let signature = key.sign(&signed_bytes(&receipt)).to_bytes();
        Ok(SignedReceipt { receipt, signature })
    }
}

impl SignedReceipt {
    /// Its canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads one; the receipt inside stays bytes until [`Self::verify`].
    ///
    /// # Errors
    /// Why the bytes are no signed receipt.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes)
    }

    /// Checks that the key the receipt names signed it. Whether that key is an enclave's is for
    /// the caller to compare with the evidence.
    ///
    /// # Errors
    /// [`WireError::BadSignature`], or why the bytes inside are no receipt.
    pub fn verify(&self) -> Result<Verified<Receipt>, WireError> {
        let receipt = Receipt::decode(&self.receipt)?;
        let key = VerifyingKey::from_bytes(receipt.receipt_key.as_bytes()).map_err(|_| {
            WireError::NotAKey {
                message: Receipt::NAME,
                field: "receipt_key",
            }
        })?;
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&signed_bytes(&self.receipt), &signature)
            .map_err(|_| WireError::BadSignature {
                message: Receipt::NAME,
            })?;
        Ok(Verified::after_the_check(receipt))
    }

    /// Exactly what [`Self::signature`] is over: [`RECEIPT_DOMAIN`] and the receipt.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(&self.receipt)
    }

    /// Its leaf in the settlement batch, which is also the receipt's name.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        Digest::sha256(&[&[0][..], &self.encode()].concat())
    }
}

impl Wire for Receipt {
    const NAME: &'static str = "Receipt";
    const MAX_BYTES: usize = MAX_RECEIPT_BYTES;
    type Proto = proto::Receipt;

    fn to_proto(&self) -> Self::Proto {
        proto::Receipt {
            job: self.job.as_bytes().to_vec(),
            worker: self.worker.to_bytes(),
            client: self.client.to_bytes(),
            model: self.model.clone(),
            model_digest: bytes(&self.model_digest),
            evidence: bytes(&self.evidence),
            request_commitment: bytes(&self.request_commitment),
            response_commitment: bytes(&self.response_commitment),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            price: Some(self.price.to_proto()),
            amount: self.amount.nano(),
            channel: Some(self.channel.into()),
            cumulative: self.cumulative.nano(),
            ending: self.ending.to_proto().into(),
            started_ms: self.started.millis(),
            ended_ms: self.ended.millis(),
            receipt_key: self.receipt_key.as_bytes().to_vec(),
            tokens_commitment: self.tokens_commitment.as_ref().map(bytes),
            tokenizer: self.tokenizer.as_ref().map(bytes),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let digest = |name, bytes: &[u8]| field::<Self>(name).digest(bytes);
        let optional =
            |name, bytes: Option<Vec<u8>>| bytes.map(|bytes| digest(name, &bytes)).transpose();
        Ok(Self {
            job: JobId::from_bytes(field::<Self>("job").array(&proto.job)?),
            worker: field::<Self>("worker").peer(&proto.worker)?,
            client: field::<Self>("client").peer(&proto.client)?,
            model: field::<Self>("model").bounded(proto.model, MAX_MODEL_ID_BYTES)?,
            model_digest: digest("model_digest", &proto.model_digest)?,
            evidence: digest("evidence", &proto.evidence)?,
            request_commitment: digest("request_commitment", &proto.request_commitment)?,
            response_commitment: digest("response_commitment", &proto.response_commitment)?,
            prompt_tokens: proto.prompt_tokens,
            output_tokens: proto.output_tokens,
            price: Price::from_proto(field::<Self>("price"), proto.price)?,
            amount: NanoTon::from_nano(proto.amount),
            channel: field::<Self>("channel").address(proto.channel)?,
            cumulative: NanoTon::from_nano(proto.cumulative),
            ending: Ending::from_proto(proto.ending)
                .ok_or(field::<Self>("ending").unknown(proto.ending))?,
            started: UnixMillis::from_millis(proto.started_ms),
            ended: UnixMillis::from_millis(proto.ended_ms),
            receipt_key: PublicKey32::from_bytes(
                field::<Self>("receipt_key").array(&proto.receipt_key)?,
            ),
            tokens_commitment: optional("tokens_commitment", proto.tokens_commitment)?,
            tokenizer: optional("tokenizer", proto.tokenizer)?,
        })
    }
}

impl Wire for SignedReceipt {
    const NAME: &'static str = "SignedReceipt";
    const MAX_BYTES: usize = MAX_SIGNED_RECEIPT_BYTES;
    type Proto = proto::SignedReceipt;

    fn to_proto(&self) -> Self::Proto {
        proto::SignedReceipt {
            receipt: self.receipt.clone(),
            signature: self.signature.to_vec(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            receipt: field::<Self>("receipt").bounded(proto.receipt, MAX_RECEIPT_BYTES)?,
            signature: field::<Self>("signature").array(&proto.signature)?,
        })
    }
}
