//! Names of things: digests, jobs, offers, keys and TON addresses.
//!
//! All are plain bytes that print as lower-case hexadecimal and serialise as that text.

pub use libp2p_identity::{Keypair, PeerId};

use rand_core::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// Why bytes or text are no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The wrong number of bytes.
    #[error("{kind} has {expected} bytes, this has {got}")]
    Length {
        /// What it should have been.
        kind: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        got: usize,
    },
    /// Not hexadecimal, or an address without a workchain.
    #[error("{kind} is written as {form}")]
    Form {
        /// What it should have been.
        kind: &'static str,
        /// How it is written.
        form: &'static str,
    },
}

macro_rules! byte_name {
    ($(#[$doc:meta])* $name:ident, $length:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Bytes of one.
            pub const LENGTH: usize = $length;

            /// From its bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError::Length {
                    kind: $kind,
                    expected: $length,
                    got: bytes.len(),
                })
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = hex::decode(text).map_err(|_| IdError::Form {
                    kind: $kind,
                    form: "hexadecimal",
                })?;
                Self::try_from(bytes.as_slice())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(de::Error::custom)
            }
        }
    };
}

byte_name!(
    /// A SHA-256 digest.
    Digest, 32, "a digest"
);
byte_name!(
    /// A job, drawn at random by the client.
    JobId, 16, "a job id"
);
byte_name!(
    /// A request for an offer, and the offer that answers it; drawn at random by the client.
    OfferId, 16, "an offer id"
);
byte_name!(
    /// A raw public key, Ed25519 or X25519.
    PublicKey32, 32, "a public key"
);

impl Digest {
    /// All zeros: "none" where a digest is optional in something signed.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 of these bytes.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl JobId {
    /// A fresh one.
    pub fn random(rng: &mut (impl RngCore + ?Sized)) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

impl OfferId {
    /// A fresh one.
    pub fn random(rng: &mut (impl RngCore + ?Sized)) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

/// An account on TON, in its raw form `workchain:hash`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TonAddress {
    /// 0 is the base chain, -1 the masterchain.
    pub workchain: i8,
    /// Hash of the account's initial state.
    pub hash: [u8; 32],
}

impl fmt::Display for TonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.workchain, hex::encode(self.hash))
    }
}

impl fmt::Debug for TonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TonAddress({self})")
    }
}

impl FromStr for TonAddress {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form {
            kind: "a TON address",
            form: "`workchain:64 hexadecimal digits`",
        };
        let (workchain, hash) = text.split_once(':').ok_or_else(form)?;
        let workchain = workchain.parse().map_err(|_| form())?;
        let bytes = hex::decode(hash).map_err(|_| form())?;
        Ok(Self {
            workchain,
            hash: bytes.try_into().map_err(|_| form())?,
        })
    }
}

impl Serialize for TonAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TonAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identifier_of_another_length_is_refused() {
        assert_eq!(
            JobId::try_from(&[0; 15][..]),
            Err(IdError::Length {
                kind: "a job id",
                expected: 16,
                got: 15
            })
        );
        assert!("zz".parse::<Digest>().is_err());
        assert!("0:12".parse::<TonAddress>().is_err());
        assert!("300:00".parse::<TonAddress>().is_err());
    }

    proptest! {
        #[test]
        fn identifiers_survive_printing(bytes: [u8; 32], workchain: i8) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            let address = TonAddress { workchain, hash: bytes };
            prop_assert_eq!(address.to_string().parse::<TonAddress>().unwrap(), address);
        }
    }
}
