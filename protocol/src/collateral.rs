//! Collateral on the wire: what a verifier needs besides a quote, for a whole family of platforms.
//!
//! It is asked for by family and never by quote, so whoever answers does not learn whom the asker is
//! about to verify, and one answer serves every worker of the family for up to a month.

use crate::evidence::MAX_COLLATERAL_BYTES;
use crate::proto;
use crate::proto::collateral_reply::{NoCollateral, Reply};
use crate::units::UnixMillis;
use crate::wire::{Wire, WireError, codec, field};

/// Most bytes of a request for collateral.
pub const MAX_COLLATERAL_REQUEST_BYTES: usize = 64;
/// Most bytes of the reply.
pub const MAX_COLLATERAL_REPLY_BYTES: usize = MAX_COLLATERAL_BYTES + 1024;

/// The authority of Intel's that certifies a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PckAuthority {
    /// Platforms of several packages, "Intel SGX PCK Platform CA".
    Platform,
    /// Platforms of one package, "Intel SGX PCK Processor CA".
    Processor,
}

impl PckAuthority {
    /// As in the addresses of Intel's provisioning service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Processor => "processor",
        }
    }
}

/// The platforms that share their collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlatformFamily {
    /// Family, model, stepping, platform type and custom SKU, as Intel encodes them.
    pub fmspc: [u8; 6],
    /// Who certifies them.
    pub authority: PckAuthority,
}

impl std::fmt::Display for PlatformFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", hex::encode(self.fmspc), self.authority.name())
    }
}

/// Asks any peer for a family's collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollateralRequest {
    /// Which.
    pub family: PlatformFamily,
    /// Only collateral that is in force beyond this moment is of use.
    pub beyond: UnixMillis,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollateralReply {
    /// Collateral as JSON, 1 byte to [`MAX_COLLATERAL_BYTES`]. Worth nothing until it was checked.
    Collateral(Vec<u8>),
    /// It has none, or none that lasts so long.
    None,
}

codec!(CollateralRequest);
codec!(CollateralReply);

impl Wire for CollateralRequest {
    const NAME: &'static str = "CollateralRequest";
    const MAX_BYTES: usize = MAX_COLLATERAL_REQUEST_BYTES;
    type Proto = proto::CollateralRequest;

    fn to_proto(&self) -> Self::Proto {
        let authority = match self.family.authority {
            PckAuthority::Platform => proto::PckAuthority::Platform,
            PckAuthority::Processor => proto::PckAuthority::Processor,
        };
        proto::CollateralRequest {
            fmspc: self.family.fmspc.to_vec(),
            authority: authority.into(),
            beyond_ms: self.beyond.millis(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let authority = match proto::PckAuthority::try_from(proto.authority) {
            Ok(proto::PckAuthority::Platform) => PckAuthority::Platform,
            Ok(proto::PckAuthority::Processor) => PckAuthority::Processor,
            _ => return Err(field::<Self>("authority").unknown(proto.authority)),
        };
        Ok(Self {
            family: PlatformFamily {
                fmspc: field::<Self>("fmspc").array(&proto.fmspc)?,
                authority,
            },
            beyond: UnixMillis::from_millis(proto.beyond_ms),
        })
    }
}

impl Wire for CollateralReply {
    const NAME: &'static str = "CollateralReply";
    const MAX_BYTES: usize = MAX_COLLATERAL_REPLY_BYTES;
    type Proto = proto::CollateralReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Collateral(json) => Reply::CollateralJson(json.clone()),
            Self::None => Reply::None(NoCollateral {}),
        };
        proto::CollateralReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::CollateralJson(json) => Self::Collateral(
                field::<Self>("collateral_json").bounded(json, MAX_COLLATERAL_BYTES)?,
            ),
            Reply::None(NoCollateral {}) => Self::None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn any_request() -> impl Strategy<Value = CollateralRequest> {
        (any::<[u8; 6]>(), any::<bool>(), any::<u64>()).prop_map(|(fmspc, platform, beyond)| {
            let authority = if platform {
                PckAuthority::Platform
            } else {
                PckAuthority::Processor
            };
            CollateralRequest {
                family: PlatformFamily { fmspc, authority },
                beyond: UnixMillis::from_millis(beyond),
            }
        })
    }

    proptest! {
        #[test]
        fn a_request_comes_back_as_it_was(request in any_request()) {
            prop_assert_eq!(CollateralRequest::decode(&request.encode()).unwrap(), request);
        }

        #[test]
        fn a_reply_comes_back_as_it_was(json in prop::collection::vec(any::<u8>(), 1..300)) {
            let reply = CollateralReply::Collateral(json);
            prop_assert_eq!(CollateralReply::decode(&reply.encode()).unwrap(), reply);
        }
    }

    #[test]
    fn the_largest_reply_fits_and_one_byte_more_does_not() {
        let reply = CollateralReply::Collateral(vec![b'x'; MAX_COLLATERAL_BYTES]);
        assert_eq!(CollateralReply::decode(&reply.encode()).unwrap(), reply);
        let more = CollateralReply::Collateral(vec![b'x'; MAX_COLLATERAL_BYTES + 1]).encode();
        assert!(matches!(
            CollateralReply::decode(&more),
            Err(WireError::TooLong { .. })
        ));
        let none = CollateralReply::None;
        assert_eq!(CollateralReply::decode(&none.encode()).unwrap(), none);
    }

    #[test]
    fn an_authority_that_is_none_is_refused() {
        let request = proto::CollateralRequest {
            fmspc: vec![0; 6],
            authority: 3,
            beyond_ms: 0,
        };
        let bytes = prost::Message::encode_to_vec(&request);
        assert!(matches!(
            CollateralRequest::decode(&bytes),
            Err(WireError::UnknownValue { .. })
        ));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused() {
        bolero::check!()
            .with_iterations(20_000)
            .for_each(|bytes: &[u8]| {
                if let Ok(request) = CollateralRequest::decode(bytes) {
                    assert_eq!(request.encode(), bytes);
                }
                if let Ok(reply) = CollateralReply::decode(bytes) {
                    assert_eq!(reply.encode(), bytes);
                }
            });
    }
}
