//! Messages signed by a libp2p identity: a `SignedEnvelope` (libp2p RFC 0002), whose signature
//! covers a domain-separation string, a payload type and the payload, each with its length.

use crate::ids::{Keypair, PeerId};
use crate::wire::{Verified, Wire, WireError, check_canonical, check_size, decode, encode};
use libp2p_core::SignedEnvelope;

/// A message that travels in a signed envelope.
pub(crate) trait Enveloped: Wire {
    /// Keeps a signature made for one kind of message from counting for another.
    const DOMAIN_SEPARATION: &'static str;
    /// Names the kind within the envelope.
    const PAYLOAD_TYPE: &'static [u8];
    /// Most bytes of the whole envelope.
    const MAX_ENVELOPE_BYTES: usize;

    /// Whose key must have signed.
    fn speaker(&self) -> PeerId;
}

pub(crate) fn seal<T: Enveloped>(key: &Keypair, value: &T) -> Result<Vec<u8>, WireError> {
    let message = T::NAME;
    let signer = key.public().to_peer_id();
    if signer != value.speaker() {
        return Err(WireError::OtherSigner {
            message,
            signer: Box::new(signer),
            named: Box::new(value.speaker()),
        });
    }
    let payload = encode(value);
    // What we send must be what others accept.
    decode::<T>(&payload)?;
    let bytes = SignedEnvelope::new(
        key,
        T::DOMAIN_SEPARATION.to_owned(),
        T::PAYLOAD_TYPE.to_vec(),
        payload,
    )
    .map_err(|_| WireError::Signing { message })?
    .into_protobuf_encoding();
    check_size(message, T::MAX_ENVELOPE_BYTES, &bytes)?;
    Ok(bytes)
}

pub(crate) fn open<T: Enveloped>(bytes: &[u8]) -> Result<Verified<T>, WireError> {
    let message = T::NAME;
    check_size(message, T::MAX_ENVELOPE_BYTES, bytes)?;
    let envelope = SignedEnvelope::from_protobuf_encoding(bytes)
        .map_err(|_| WireError::NotAnEnvelope { message })?;
    check_canonical(message, bytes, &envelope.clone().into_protobuf_encoding())?;
    let (payload, key) = envelope
        .payload_and_signing_key(T::DOMAIN_SEPARATION.to_owned(), T::PAYLOAD_TYPE)
        .map_err(|_| WireError::BadSignature { message })?;
    let value: T = decode(payload)?;
    let signer = key.to_peer_id();
    if signer != value.speaker() {
        return Err(WireError::OtherSigner {
            message,
            signer: Box::new(signer),
            named: Box::new(value.speaker()),
        });
    }
    Ok(Verified::after_the_check(value))
}
