//! How messages become bytes and bytes become messages.
//!
//! Every decoder does the same four steps, and stops at the first that fails: the size against the
//! message's limit; Protobuf; each field against its type and bounds; and the *canonical* check,
//! which encodes the result again and compares. The last one refuses unknown fields, repeated
//! fields, overlong varints and explicit defaults in one stroke, so a message has one spelling and
//! nobody can change the bytes of something signed, or of a settlement leaf, without changing what
//! it says.

use crate::ids::{Digest, PeerId, TonAddress};
use crate::proto;
use prost::Message;
use std::ops::Deref;

/// Longest PeerId accepted: 2 bytes of multihash header and a digest of 64 bytes.
pub const MAX_PEER_ID_BYTES: usize = 66;

/// Why bytes are not the message they should be, or a message cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes than such a message may have; nothing was decoded.
    #[error("{message} has at most {limit} bytes, this has {got}")]
    TooLarge {
        /// Name of the message.
        message: &'static str,
        /// Bytes it may have.
        limit: usize,
        /// Bytes it has.
        got: usize,
    },
    /// Not Protobuf, or not of this message's types.
    #[error("{message} is not well-formed: {source}")]
    Malformed {
        /// Name of the message.
        message: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// Understood, but spelled in another way than the canonical one; unknown fields end here.
    #[error("{message} has {got} bytes where its canonical encoding has {canonical}, or others")]
    NotCanonical {
        /// Name of the message.
        message: &'static str,
        /// Bytes it has.
        got: usize,
        /// Bytes of its canonical encoding.
        canonical: usize,
    },
    /// A field that must be there is not.
    #[error("{message}.{field} is missing")]
    Missing {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A field of fixed length has another.
    #[error("{message}.{field} has {expected} bytes, this has {got}")]
    Length {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        got: usize,
    },
    /// A field has more bytes, or more entries, than it may have.
    #[error("{message}.{field} has at most {limit} bytes or entries, this has {got}")]
    TooLong {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// How many it may have.
        limit: usize,
        /// How many it has.
        got: usize,
    },
    /// A number is outside of what makes sense.
    #[error("{message}.{field} is {value}, which is outside {low}..={high}")]
    OutOfRange {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// What it is.
        value: i128,
        /// The least it may be.
        low: i128,
        /// The most it may be.
        high: i128,
    },
    /// An enumeration has a value this version does not know.
    #[error("{message}.{field} has the unknown value {value}")]
    UnknownValue {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// The value.
        value: i32,
    },
    /// Bytes that must be text are not UTF-8.
    #[error("{message}.{field} is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// How many bytes are text.
        valid_up_to: usize,
    },
    /// Bytes that must be a libp2p PeerId are none.
    #[error("{message}.{field} is not a PeerId")]
    NotAPeer {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// Bytes that must be an Ed25519 public key are none.
    #[error("{message}.{field} is not an Ed25519 public key")]
    NotAKey {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// Not a libp2p SignedEnvelope, or one with a key of an unknown kind.
    #[error("{message} does not come in a signed envelope")]
    NotAnEnvelope {
        /// Name of the message.
        message: &'static str,
    },
    /// The signature was made for something else, by another key, or not at all.
    #[error("the signature of {message} does not verify")]
    BadSignature {
        /// Name of the message.
        message: &'static str,
    },
    /// Signed, but not by the peer that it speaks for.
    #[error("{message} speaks for {named} and is signed by {signer}")]
    OtherSigner {
        /// Name of the message.
        message: &'static str,
        /// Whose key signed.
        signer: Box<PeerId>,
        /// Whose key should have.
        named: Box<PeerId>,
    },
    /// Our own key cannot sign.
    #[error("{message} could not be signed")]
    Signing {
        /// Name of the message.
        message: &'static str,
    },
}

/// Something whose signature was checked. Only this crate can make one, and only after the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) const fn after_the_check(value: T) -> Self {
        Self(value)
    }

    /// The thing itself; what it was checked for is forgotten.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A message of this crate beside its generated Protobuf type.
pub(crate) trait Wire: Sized {
    /// For errors.
    const NAME: &'static str;
    /// Most bytes, checked before anything else.
    const MAX_BYTES: usize;
    /// The generated type.
    type Proto: Message + Default;

    fn to_proto(&self) -> Self::Proto;
    fn from_proto(proto: Self::Proto) -> Result<Self, WireError>;
}

pub(crate) fn encode<T: Wire>(value: &T) -> Vec<u8> {
    value.to_proto().encode_to_vec()
}

pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    check_size(T::NAME, T::MAX_BYTES, bytes)?;
    let proto = T::Proto::decode(bytes).map_err(|source| WireError::Malformed {
        message: T::NAME,
        source,
    })?;
    let value = T::from_proto(proto)?;
    check_canonical(T::NAME, bytes, &encode(&value))?;
    Ok(value)
}

/// The public `encode` and `decode` of a message.
macro_rules! codec {
    ($name:ident) => {
        impl $name {
            /// Its canonical bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                crate::wire::encode(self)
            }

            /// Reads one.
            ///
            /// # Errors
            /// Why the bytes are none.
            pub fn decode(bytes: &[u8]) -> Result<Self, crate::wire::WireError> {
                crate::wire::decode(bytes)
            }
        }
    };
}
pub(crate) use codec;

pub(crate) const fn check_size(
    message: &'static str,
    limit: usize,
    bytes: &[u8],
) -> Result<(), WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge {
            message,
            limit,
            got: bytes.len(),
        });
    }
    Ok(())
}

pub(crate) fn check_canonical(
    message: &'static str,
    bytes: &[u8],
    canonical: &[u8],
) -> Result<(), WireError> {
    if bytes != canonical {
        return Err(WireError::NotCanonical {
            message,
            got: bytes.len(),
            canonical: canonical.len(),
        });
    }
    Ok(())
}

/// One field of one message: turns what Protobuf found there into its type, or into an error that
/// names it.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) message: &'static str,
    pub(crate) field: &'static str,
}

/// Names the fields of the message `T`.
pub(crate) const fn field<T: Wire>(field: &'static str) -> Field {
    Field {
        message: T::NAME,
        field,
    }
}

impl Field {
    pub(crate) fn required<T>(self, value: Option<T>) -> Result<T, WireError> {
        let Self { message, field } = self;
        value.ok_or(WireError::Missing { message, field })
    }

    pub(crate) fn array<const N: usize>(self, bytes: &[u8]) -> Result<[u8; N], WireError> {
        let Self { message, field } = self;
        if bytes.is_empty() {
            return Err(WireError::Missing { message, field });
        }
        bytes.try_into().map_err(|_| WireError::Length {
            message,
            field,
            expected: N,
            got: bytes.len(),
        })
    }

    pub(crate) fn digest(self, bytes: &[u8]) -> Result<Digest, WireError> {
        self.array(bytes).map(Digest::from_bytes)
    }

    pub(crate) fn peer(self, bytes: &[u8]) -> Result<PeerId, WireError> {
        let Self { message, field } = self;
        if bytes.is_empty() {
            return Err(WireError::Missing { message, field });
        }
        self.at_most(bytes.len(), MAX_PEER_ID_BYTES)?;
        PeerId::from_bytes(bytes).map_err(|_| WireError::NotAPeer { message, field })
    }

    pub(crate) fn address(
        self,
        address: Option<proto::TonAddress>,
    ) -> Result<TonAddress, WireError> {
        let address = self.required(address)?;
        let workchain = self.within(
            i128::from(address.workchain),
            i128::from(i8::MIN),
            i128::from(i8::MAX),
        )?;
        Ok(TonAddress {
            workchain,
            hash: self.array(&address.hash)?,
        })
    }

    /// A number within bounds, in the type that they fit.
    pub(crate) fn within<T: TryFrom<i128>>(
        self,
        value: impl Into<i128>,
        low: i128,
        high: i128,
    ) -> Result<T, WireError> {
        let Self { message, field } = self;
        let value = value.into();
        let error = WireError::OutOfRange {
            message,
            field,
            value,
            low,
            high,
        };
        if value < low || value > high {
            return Err(error);
        }
        T::try_from(value).map_err(|_| error)
    }

    pub(crate) const fn at_most(self, got: usize, limit: usize) -> Result<(), WireError> {
        let Self { message, field } = self;
        if got > limit {
            return Err(WireError::TooLong {
                message,
                field,
                limit,
                got,
            });
        }
        Ok(())
    }

    /// Bytes or text that must be there and be no longer than `limit` bytes.
    pub(crate) fn bounded<T: AsRef<[u8]>>(self, value: T, limit: usize) -> Result<T, WireError> {
        let Self { message, field } = self;
        let got = value.as_ref().len();
        if got == 0 {
            return Err(WireError::Missing { message, field });
        }
        self.at_most(got, limit)?;
        Ok(value)
    }

    pub(crate) const fn unknown(self, value: i32) -> WireError {
        let Self { message, field } = self;
        WireError::UnknownValue {
            message,
            field,
            value,
        }
    }
}

impl From<TonAddress> for proto::TonAddress {
    fn from(address: TonAddress) -> Self {
        Self {
            workchain: i32::from(address.workchain),
            hash: address.hash.to_vec(),
        }
    }
}

/// Puts a field's number of fixed bytes into a Protobuf field.
pub(crate) fn bytes(of: &Digest) -> Vec<u8> {
    of.as_bytes().to_vec()
}
