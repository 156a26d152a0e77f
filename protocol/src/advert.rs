//! What a worker says about itself to everybody.
//!
//! Only static facts: what is served, at what price, how many jobs at once, which evidence to ask
//! for. Load is asked for when it matters ([`crate::negotiation`]). An advert is signed by the
//! peer's libp2p identity and checked once, after de-duplication and before it is passed on.

use crate::envelope::{self, Enveloped};
use crate::ids::{Digest, Keypair, PeerId, TonAddress};
use crate::proto;
use crate::units::UnixMillis;
use crate::wire::{Wire, WireError, bytes, field};

pub use crate::terms::{MAX_MODEL_ID_BYTES, MAX_TOKEN_PRICE, ModelTerms, Price};
pub use crate::wire::Verified;

/// Most bytes of a signed advert.
pub const MAX_ADVERT_BYTES: usize = 2048;
/// Most models in one advert.
pub const MAX_ADVERT_MODELS: usize = 8;
/// Domain separation of an advert's signature.
pub const ADVERT_DOMAIN: &str = "cocoon/advert/v1";
/// Payload type of an advert's envelope.
pub const ADVERT_PAYLOAD_TYPE: &[u8] = b"/cocoon/advert/1";

/// See the module's doc. Structure is checked when it is decoded; whether it is timely, by
/// [`crate::directory::Directory::judge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Who.
    pub peer: PeerId,
    /// Grows with every advert of this peer, over restarts too: a worker may take the time.
    pub sequence: u64,
    /// When it was made, by the worker's clock.
    pub issued: UnixMillis,
    /// How long it counts from then on, in milliseconds.
    pub lifetime_ms: u32,
    /// What is served, 1 to [`MAX_ADVERT_MODELS`].
    pub models: Vec<ModelTerms>,
    /// Jobs at once, at least 1.
    pub slots: u16,
    /// Which evidence to ask for: [`crate::evidence::Claims::digest`].
    pub evidence: Digest,
    /// When that evidence ends, by the worker's own word.
    pub evidence_expires: UnixMillis,
    /// Where the worker is paid.
    pub payout: TonAddress,
    /// Where it commits its batches.
    pub ledger: TonAddress,
    /// When Intel's word that the platform is up to date runs out unless it is renewed, by the worker's own
    /// word; zero if it does not say.
    pub tcb_expires: UnixMillis,
}

impl Advert {
    /// The moment from which it does not count any more.
    #[must_use]
    pub const fn ends(&self) -> UnixMillis {
        self.issued.saturating_add(self.lifetime_ms as u64)
    }

    /// Its terms for this model.
    #[must_use]
    pub fn model(&self, id: &str) -> Option<&ModelTerms> {
        self.models.iter().find(|model| model.id == id)
    }

    /// The signed bytes that are gossiped.
    ///
    /// # Errors
    /// [`WireError::OtherSigner`] if the key is not the peer's, or why others would not accept it.
    pub fn sign(&self, key: &Keypair) -> Result<Vec<u8>, WireError> {
        envelope::seal(key, self)
    }
}

/// Checks a gossiped advert: size, envelope, signature, fields, and that the peer it speaks for
/// signed it.
///
/// # Errors
/// The first of those checks that fails.
pub fn decode_advert(bytes: &[u8]) -> Result<Verified<Advert>, WireError> {
    envelope::open(bytes)
}

impl Wire for Advert {
    const NAME: &'static str = "Advert";
    const MAX_BYTES: usize = MAX_ADVERT_BYTES;
    type Proto = proto::Advert;

    fn to_proto(&self) -> Self::Proto {
        proto::Advert {
            peer: self.peer.to_bytes(),
            sequence: self.sequence,
            issued_ms: self.issued.millis(),
            lifetime_ms: self.lifetime_ms,
            models: self.models.iter().map(Wire::to_proto).collect(),
            slots: u32::from(self.slots),
            evidence: bytes(&self.evidence),
            evidence_expires_ms: self.evidence_expires.millis(),
            payout: Some(self.payout.into()),
            ledger: Some(self.ledger.into()),
            tcb_expires_ms: self.tcb_expires.millis(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let models = field::<Self>("models");
        if proto.models.is_empty() {
            return Err(WireError::Missing {
                message: Self::NAME,
                field: "models",
            });
        }
        models.at_most(proto.models.len(), MAX_ADVERT_MODELS)?;
        Ok(Self {
            peer: field::<Self>("peer").peer(&proto.peer)?,
            sequence: proto.sequence,
            issued: UnixMillis::from_millis(proto.issued_ms),
            lifetime_ms: proto.lifetime_ms,
            models: proto
                .models
                .into_iter()
                .map(ModelTerms::from_proto)
                .collect::<Result<_, _>>()?,
            slots: field::<Self>("slots").within(proto.slots, 1, i128::from(u16::MAX))?,
            evidence: field::<Self>("evidence").digest(&proto.evidence)?,
            evidence_expires: UnixMillis::from_millis(proto.evidence_expires_ms),
            payout: field::<Self>("payout").address(proto.payout)?,
            ledger: field::<Self>("ledger").address(proto.ledger)?,
            tcb_expires: UnixMillis::from_millis(proto.tcb_expires_ms),
        })
    }
}

impl Enveloped for Advert {
    const DOMAIN_SEPARATION: &'static str = ADVERT_DOMAIN;
    const PAYLOAD_TYPE: &'static [u8] = ADVERT_PAYLOAD_TYPE;
    const MAX_ENVELOPE_BYTES: usize = MAX_ADVERT_BYTES;

    fn speaker(&self) -> PeerId {
        self.peer
    }
}
