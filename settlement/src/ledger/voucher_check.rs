//! Is this voucher worth tokens? A pure question, asked before anything is written.

use cocoon_protocol::{NanoTon, SignedVoucher, TonAddress};
use ed25519_dalek::VerifyingKey;

use super::WorkerChannel;

/// Why a voucher was refused. Nothing has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// Made out to another channel.
    #[error("the voucher is for channel {found}, the job is paid on {wanted}")]
    OtherChannel {
        /// In the voucher.
        found: TonAddress,
        /// The job's.
        wanted: TonAddress,
    },
    /// Not above the newest one: an old voucher again, or a client that counts wrongly.
    #[error("a total of {offered} is not above the {held} already held")]
    NotIncreasing {
        /// The newest total.
        held: NanoTon,
        /// The refused one.
        offered: NanoTon,
    },
    /// More than the channel can pay.
    #[error("a total of {offered} is more than the {capacity} channel {channel} can pay")]
    Underfunded {
        /// The channel.
        channel: TonAddress,
        /// The refused total.
        offered: NanoTon,
        /// The highest total that would be honoured.
        capacity: NanoTon,
    },
    /// Not signed by the channel's client for this network.
    #[error("the voucher for {cumulative} on {channel} is not signed by the channel's client")]
    BadSignature {
        /// The channel.
        channel: TonAddress,
        /// The total it claims.
        cumulative: NanoTon,
    },
}

/// A voucher that passed [`check_voucher`]; the only kind [`super::WorkerLedger::accept_voucher`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedVoucher(SignedVoucher);

impl CheckedVoucher {
    /// The voucher.
    #[must_use]
    pub fn get(&self) -> &SignedVoucher {
        &self.0
    }
}

/// Checks a voucher against the channel it should pay on: its channel, that its total rises, that the channel can pay
/// it (`capacity`: the highest total the contract would honour, `ChannelState::capacity` as last seen), and last, as
/// it costs most, the client's signature for this network.
///
/// # Errors
/// [`VoucherError`], with the numbers a person needs.
pub fn check_voucher(
    signed: &SignedVoucher,
    channel: &WorkerChannel,
    capacity: NanoTon,
    global_id: i32,
) -> Result<CheckedVoucher, VoucherError> {
    let voucher = &signed.voucher;
    if voucher.channel != channel.address {
        return Err(VoucherError::OtherChannel {
            found: voucher.channel,
            wanted: channel.address,
        });
    }
    let held = channel.held_total();
    if voucher.cumulative <= held {
        return Err(VoucherError::NotIncreasing {
            held,
            offered: voucher.cumulative,
        });
    }
    if voucher.cumulative > capacity {
        return Err(VoucherError::Underfunded {
            channel: channel.address,
            offered: voucher.cumulative,
            capacity,
        });
    }
    // Bytes that are no key are a key nobody signs with.
    let signed_by_client = VerifyingKey::from_bytes(channel.client_key.as_bytes())
        .is_ok_and(|key| signed.verify(&key, global_id).is_ok());
    if signed_by_client {
        Ok(CheckedVoucher(*signed))
    } else {
        Err(VoucherError::BadSignature {
            channel: channel.address,
            cumulative: voucher.cumulative,
        })
    }
}
