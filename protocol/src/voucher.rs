//! A client's promise to pay a worker, in total since their channel was opened.
//!
//! Vouchers are cumulative: the newest one replaces all before it, so losing one costs nothing and
//! claiming one twice pays nothing. What is signed is what the channel's contract checks, byte for
//! byte (56 bytes, integers big-endian):
//!
//! ```text
//! "vch1" ‖ global_id i32 ‖ version u8 = 2 ‖ channel hash 32 bytes ‖ cumulative nanoTON u120
//! ```
//!
//! with Ed25519 (RFC 8032) over these bytes. `global_id` is the chain's own (ConfigParam 19), so a
//! voucher of one network is nothing on another.
//!
//! A [`Release`] is the client's half of closing a channel together: "with this much in all you are
//! paid". The same bytes with the tag `rel1`; so neither can stand for the other.

use crate::ids::{PublicKey32, TonAddress};
use crate::proto;
use crate::units::NanoTon;
use crate::wire::{Wire, WireError, field};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// The first four signed bytes: `vch1`.
pub const VOUCHER_TAG: u32 = 0x7663_6831;
/// The first four signed bytes of a release: `rel1`.
pub const RELEASE_TAG: u32 = 0x7265_6c31;
/// The version that is signed, of vouchers and releases: the channel contract's.
pub const VOUCHER_VERSION: u8 = 2;
/// How many bytes are signed.
pub const VOUCHER_SIGNED_BYTES: usize = 56;

/// See the module's doc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// The channel's contract. Only its hash is signed: channels live on the base chain.
    pub channel: TonAddress,
    /// All that was ever promised on it.
    pub cumulative: NanoTon,
}

/// The client's consent to close the channel at once. Only the worker's wallet can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The channel's contract.
    pub channel: TonAddress,
    /// All that the worker gets out of it, what it has claimed included. The client gets the rest.
    pub cumulative: NanoTon,
}

/// A release with its signature, not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedRelease {
    /// What is agreed to.
    pub release: Release,
    /// Ed25519 over [`Release::signed_bytes`].
    pub signature: [u8; 64],
}

/// A voucher with its signature, not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedVoucher {
    /// What is promised.
    pub voucher: Voucher,
    /// Ed25519 over [`Voucher::signed_bytes`].
    pub signature: [u8; 64],
}

/// Why a voucher does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// It pays on another channel.
    #[error("the voucher is for channel {found}, not {wanted}")]
    OtherChannel {
        /// Its channel.
        found: TonAddress,
        /// The channel of this job.
        wanted: TonAddress,
    },
    /// It promises no more than one already held.
    #[error("the voucher promises {offered} in total, {held} is already held")]
    NotIncreasing {
        /// Total of the newest voucher held.
        held: NanoTon,
        /// Its total.
        offered: NanoTon,
    },
    /// Its signature is not the client's over these bytes.
    #[error("the voucher for {cumulative} on {channel} is not signed by the channel's client")]
    BadSignature {
        /// Its channel.
        channel: TonAddress,
        /// Its total.
        cumulative: NanoTon,
    },
    /// A release pays the worker less than the newest voucher it holds.
    #[error("the release pays {offered} in total, vouchers for {held} are already held")]
    ReleasesLess {
        /// Total of the newest voucher held.
        held: NanoTon,
        /// The release's total.
        offered: NanoTon,
    },
    /// A release is not signed by the channel's client over these bytes.
    #[error("the release at {cumulative} of {channel} is not signed by the channel's client")]
    BadRelease {
        /// Its channel.
        channel: TonAddress,
        /// Its total.
        cumulative: NanoTon,
    },
    /// The channel's client key is no Ed25519 key.
    #[error("{0} is not an Ed25519 key")]
    BadKey(PublicKey32),
}

impl Voucher {
    /// What is signed on the chain with this `global_id`.
    #[must_use]
    pub fn signed_bytes(&self, global_id: i32) -> [u8; VOUCHER_SIGNED_BYTES] {
        signed_bytes(VOUCHER_TAG, self.channel, self.cumulative, global_id)
    }

    /// Signs it with the client's channel key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey, global_id: i32) -> SignedVoucher {
        SignedVoucher {
            voucher: *self,
            signature: key.sign(&self.signed_bytes(global_id)).to_bytes(),
        }
    }

    /// What this voucher adds to the total already `held` on `channel`.
    ///
    /// # Errors
    /// [`VoucherError::OtherChannel`] or [`VoucherError::NotIncreasing`].
    pub fn increment(&self, channel: TonAddress, held: NanoTon) -> Result<NanoTon, VoucherError> {
        if self.channel != channel {
            return Err(VoucherError::OtherChannel {
                found: self.channel,
                wanted: channel,
            });
        }
        match self.cumulative.checked_sub(held) {
            Some(more) if more > NanoTon::ZERO => Ok(more),
            _ => Err(VoucherError::NotIncreasing {
                held,
                offered: self.cumulative,
            }),
        }
    }
}

fn signed_bytes(
    tag: u32,
    channel: TonAddress,
    cumulative: NanoTon,
    global_id: i32,
) -> [u8; VOUCHER_SIGNED_BYTES] {
    let tag = tag.to_be_bytes();
    let global_id = global_id.to_be_bytes();
    let version = [VOUCHER_VERSION];
    // 120 bits: seven bytes above the 64 that an amount has here.
    let high = [0; 7];
    let low = cumulative.nano().to_be_bytes();
    let mut signed = [0; VOUCHER_SIGNED_BYTES];
    let parts: [&[u8]; 6] = [&tag, &global_id, &version, &channel.hash, &high, &low];
    for (to, from) in signed.iter_mut().zip(parts.concat()) {
        *to = from;
    }
    signed
}

impl Release {
    /// What is signed on the chain with this `global_id`.
    #[must_use]
    pub fn signed_bytes(&self, global_id: i32) -> [u8; VOUCHER_SIGNED_BYTES] {
        signed_bytes(RELEASE_TAG, self.channel, self.cumulative, global_id)
    }

    /// Signs it with the client's channel key. From then on the worker may close whenever it likes, so a client signs
    /// no voucher on this channel afterwards.
    #[must_use]
    pub fn sign(&self, key: &SigningKey, global_id: i32) -> SignedRelease {
        SignedRelease {
            release: *self,
            signature: key.sign(&self.signed_bytes(global_id)).to_bytes(),
        }
    }
}

impl SignedRelease {
    /// Whether a worker that holds vouchers for `held` on `channel` may use it: all checks, the cheap ones first.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(
        &self,
        channel: TonAddress,
        held: NanoTon,
        client_key: PublicKey32,
        global_id: i32,
    ) -> Result<(), VoucherError> {
        let Release {
            channel: found,
            cumulative,
        } = self.release;
        if found != channel {
            return Err(VoucherError::OtherChannel {
                found,
                wanted: channel,
            });
        }
        if cumulative < held {
            return Err(VoucherError::ReleasesLess {
                held,
                offered: cumulative,
            });
        }
        let key = VerifyingKey::from_bytes(client_key.as_bytes())
            .map_err(|_| VoucherError::BadKey(client_key))?;
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&self.release.signed_bytes(global_id), &signature)
            .map_err(|_| VoucherError::BadRelease {
                channel,
                cumulative,
            })
    }
}

impl SignedVoucher {
    /// Checks the signature, strictly (no small-order keys, one encoding per signature).
    ///
    /// # Errors
    /// [`VoucherError::BadSignature`].
    pub fn verify(&self, key: &VerifyingKey, global_id: i32) -> Result<(), VoucherError> {
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&self.voucher.signed_bytes(global_id), &signature)
            .map_err(|_| VoucherError::BadSignature {
                channel: self.voucher.channel,
                cumulative: self.voucher.cumulative,
            })
    }

    /// All checks at once, the cheap ones first: channel, total, key, signature. Returns what the
    /// voucher adds.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(
        &self,
        channel: TonAddress,
        held: NanoTon,
        client_key: PublicKey32,
        global_id: i32,
    ) -> Result<NanoTon, VoucherError> {
        let more = self.voucher.increment(channel, held)?;
        let key = VerifyingKey::from_bytes(client_key.as_bytes())
            .map_err(|_| VoucherError::BadKey(client_key))?;
        self.verify(&key, global_id)?;
        Ok(more)
    }
}

impl Wire for SignedVoucher {
    const NAME: &'static str = "SignedVoucher";
    const MAX_BYTES: usize = 160;
    type Proto = proto::SignedVoucher;

    fn to_proto(&self) -> Self::Proto {
        proto::SignedVoucher {
            channel: Some(self.voucher.channel.into()),
            cumulative: self.voucher.cumulative.nano(),
            signature: self.signature.to_vec(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            voucher: Voucher {
                channel: field::<Self>("channel").address(proto.channel)?,
                cumulative: NanoTon::from_nano(proto.cumulative),
            },
            signature: field::<Self>("signature").array(&proto.signature)?,
        })
    }
}
