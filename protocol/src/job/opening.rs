//! A channel that is on its way to the chain, as its client tells a worker of it.

use crate::ids::{PublicKey32, TonAddress};
use crate::proto;
use crate::wire::{Wire, WireError, field};

/// What a channel is being deployed with. Together with the worker's payout address, which the worker knows better than
/// anybody who tells it, and the code of the contract's version, this decides the channel's address: so a worker
/// computes the address itself, and believes nothing. The network's id is not in it; vouchers sign that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningTerms {
    /// The client's wallet, which deploys the channel and gets the rest back.
    pub client: TonAddress,
    /// Ed25519 key that signs vouchers.
    pub client_key: PublicKey32,
    /// Keeps two channels of the same pair apart.
    pub nonce: u32,
    /// Seconds between the client's wish to close and the end.
    pub close_delay_s: u32,
}

impl Wire for OpeningTerms {
    const NAME: &'static str = "OpeningTerms";
    const MAX_BYTES: usize = 128;
    type Proto = proto::OpeningTerms;

    fn to_proto(&self) -> Self::Proto {
        proto::OpeningTerms {
            client: Some(self.client.into()),
            client_key: self.client_key.as_bytes().to_vec(),
            nonce: self.nonce,
            close_delay_s: self.close_delay_s,
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            client: field::<Self>("client").address(proto.client)?,
            client_key: PublicKey32::from_bytes(
                field::<Self>("client_key").array(&proto.client_key)?,
            ),
            nonce: proto.nonce,
            close_delay_s: proto.close_delay_s,
        })
    }
}
