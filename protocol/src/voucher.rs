//! A client's promise to pay a worker, in total since their channel was opened.
//!
//! Vouchers are cumulative: the newest one replaces all before it, so losing one costs nothing and
//! claiming one twice pays nothing. What is signed is what the channel's contract checks, byte for
//! byte (56 bytes, integers big-endian):
//!
//! ```text
//! "vch1" ‖ global_id i32 ‖ version u8 = 1 ‖ channel hash 32 bytes ‖ cumulative nanoTON u120
//! ```
//!
//! with Ed25519 (RFC 8032) over these bytes. `global_id` is the chain's own (ConfigParam 19), so a
//! voucher of one network is nothing on another.

use crate::ids::{PublicKey32, TonAddress};
use crate::proto;
use crate::units::NanoTon;
use crate::wire::{Wire, WireError, field};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// The first four signed bytes: `vch1`.
pub const VOUCHER_TAG: u32 = 0x7663_6831;
/// The version that is signed.
pub const VOUCHER_VERSION: u8 = 1;
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
    /// The channel's client key is no Ed25519 key.
    #[error("{0} is not an Ed25519 key")]
    BadKey(PublicKey32),
}

impl Voucher {
    /// What is signed on the chain with this `global_id`.
    #[must_use]
    pub fn signed_bytes(&self, global_id: i32) -> [u8; VOUCHER_SIGNED_BYTES] {
        let tag = VOUCHER_TAG.to_be_bytes();
        let global_id = global_id.to_be_bytes();
        let version = [VOUCHER_VERSION];
        // 120 bits: seven bytes above the 64 that an amount has here.
        let high = [0; 7];
        let low = self.cumulative.nano().to_be_bytes();
        let mut signed = [0; VOUCHER_SIGNED_BYTES];
        let parts: [&[u8]; 6] = [&tag, &global_id, &version, &self.channel.hash, &high, &low];
        for (to, from) in signed.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        signed
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
