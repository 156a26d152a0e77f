//! Closing a channel together, on the wire: a client hands its signed [`Release`](crate::voucher::Release) to the worker,
//! and the worker says whether it will send it to the channel.
//!
//! The client has noted before that it signs nothing more on this channel, so a request that is lost, repeated or
//! answered late does no harm. A worker that agrees has noted that it serves nothing more on it, and answers the same
//! again. What came of it shows on chain, and only there.

use crate::proto;
use crate::proto::release_reply::{Agreed, Reason, Refused, Reply};
use crate::units::NanoTon;
use crate::voucher::{Release, SignedRelease};
use crate::wire::{Wire, WireError, codec, field};

/// Most bytes of a release.
pub const MAX_RELEASE_BYTES: usize = 160;
/// Most bytes of the reply.
pub const MAX_RELEASE_REPLY_BYTES: usize = 64;

/// What a worker answers to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReply {
    /// It serves nothing on this channel any more, and sends the release by itself.
    Agreed,
    /// It will not.
    Refused(ReleaseRefusal),
}

/// Why a worker does not close together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefusal {
    /// A job is on the channel, or was a moment ago.
    #[error("a job is on the channel; ask again when it has ended")]
    Busy,
    /// It cannot look at the chain, or too many ask at once.
    #[error("the worker cannot close channels at the moment; ask again later")]
    NotNow,
    /// The channel has paid it nothing.
    #[error("the worker does not know the channel; close it alone")]
    UnknownChannel,
    /// Its newest voucher is for another total than the release.
    #[error("the worker holds a voucher for another total; close the channel alone")]
    OtherTotal,
    /// The signature is not the channel's client's.
    #[error("the release is not signed by the channel's client")]
    NotSigned,
    /// The channel has earned it too little for the fee that the worker pays.
    #[error("the channel has earned the worker too little for the fee; close it alone")]
    NotWorthIt,
    /// On chain the channel is closed, not there, or not this worker's.
    #[error("the worker does not find the channel open on chain")]
    NotOpen,
}

impl ReleaseRefusal {
    /// Whether asking again later may help.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Busy | Self::NotNow)
    }
}

codec!(SignedRelease);
codec!(ReleaseReply);

impl Wire for SignedRelease {
    const NAME: &'static str = "SignedRelease";
    const MAX_BYTES: usize = MAX_RELEASE_BYTES;
    type Proto = proto::SignedRelease;

    fn to_proto(&self) -> Self::Proto {
        proto::SignedRelease {
            channel: Some(self.release.channel.into()),
            cumulative: self.release.cumulative.nano(),
            signature: self.signature.to_vec(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            release: Release {
                channel: field::<Self>("channel").address(proto.channel)?,
                cumulative: NanoTon::from_nano(proto.cumulative),
            },
            signature: field::<Self>("signature").array(&proto.signature)?,
        })
    }
}

impl Wire for ReleaseReply {
    const NAME: &'static str = "ReleaseReply";
    const MAX_BYTES: usize = MAX_RELEASE_REPLY_BYTES;
    type Proto = proto::ReleaseReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Agreed => Reply::Agreed(Agreed {}),
            Self::Refused(refusal) => {
                let reason = match refusal {
                    ReleaseRefusal::Busy => Reason::Busy,
                    ReleaseRefusal::NotNow => Reason::NotNow,
                    ReleaseRefusal::UnknownChannel => Reason::UnknownChannel,
                    ReleaseRefusal::OtherTotal => Reason::OtherTotal,
                    ReleaseRefusal::NotSigned => Reason::NotSigned,
                    ReleaseRefusal::NotWorthIt => Reason::NotWorthIt,
                    ReleaseRefusal::NotOpen => Reason::NotOpen,
                };
                Reply::Refused(Refused {
                    reason: reason.into(),
                })
            }
        };
        proto::ReleaseReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::Agreed(Agreed {}) => Self::Agreed,
            Reply::Refused(Refused { reason }) => Self::Refused(match Reason::try_from(reason) {
                Ok(Reason::Busy) => ReleaseRefusal::Busy,
                Ok(Reason::NotNow) => ReleaseRefusal::NotNow,
                Ok(Reason::UnknownChannel) => ReleaseRefusal::UnknownChannel,
                Ok(Reason::OtherTotal) => ReleaseRefusal::OtherTotal,
                Ok(Reason::NotSigned) => ReleaseRefusal::NotSigned,
                Ok(Reason::NotWorthIt) => ReleaseRefusal::NotWorthIt,
                Ok(Reason::NotOpen) => ReleaseRefusal::NotOpen,
                _ => return Err(field::<Self>("reason").unknown(reason)),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::samples::address;
    use proptest::prelude::*;

    const REFUSALS: [ReleaseRefusal; 7] = [
        ReleaseRefusal::Busy,
        ReleaseRefusal::NotNow,
        ReleaseRefusal::UnknownChannel,
        ReleaseRefusal::OtherTotal,
        ReleaseRefusal::NotSigned,
        ReleaseRefusal::NotWorthIt,
        ReleaseRefusal::NotOpen,
    ];

    proptest! {
        #[test]
        fn a_release_comes_back_as_it_was(
            seed in any::<u8>(), total in any::<u64>(), half in any::<[u8; 32]>()
        ) {
            let mut signature = [0; 64];
            for (to, from) in signature.iter_mut().zip(half.iter().cycle()) {
                *to = *from;
            }
            let release = Release { channel: address(seed), cumulative: NanoTon::from_nano(total) };
            let signed = SignedRelease { release, signature };
            prop_assert_eq!(SignedRelease::decode(&signed.encode()).unwrap(), signed);
        }
    }

    #[test]
    fn a_release_on_the_wire_is_these_bytes() {
        let release = Release {
            channel: address(0xcc),
            cumulative: NanoTon::from_nano(1_500_000_000),
        };
        let signed = SignedRelease {
            release,
            signature: [0x77; 64],
        };
        // Field 1, 34 bytes: field 2, 32 bytes (the base chain is 0 and not written). Field 2, a varint. Field 3, 64 bytes.
        let wanted = format!(
            "0a221220{}1080dea0cb051a40{}",
            "cc".repeat(32),
            "77".repeat(64)
        );
        assert_eq!(hex::encode(signed.encode()), wanted);
        assert_eq!(hex::encode(ReleaseReply::Agreed.encode()), "0a00");
    }

    #[test]
    fn every_refusal_comes_back_as_it_was_and_what_is_none_is_refused() {
        for refusal in REFUSALS {
            let reply = ReleaseReply::Refused(refusal);
            assert_eq!(ReleaseReply::decode(&reply.encode()).unwrap(), reply);
        }
        for reason in [0, 8] {
            let reply = proto::ReleaseReply {
                reply: Some(Reply::Refused(Refused { reason })),
            };
            let bytes = prost::Message::encode_to_vec(&reply);
            assert!(matches!(
                ReleaseReply::decode(&bytes),
                Err(WireError::UnknownValue { .. })
            ));
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused() {
        bolero::check!()
            .with_iterations(20_000)
            .for_each(|bytes: &[u8]| {
                if let Ok(release) = SignedRelease::decode(bytes) {
                    assert_eq!(release.encode(), bytes);
                }
                if let Ok(reply) = ReleaseReply::decode(bytes) {
                    assert_eq!(reply.encode(), bytes);
                }
            });
    }
}
