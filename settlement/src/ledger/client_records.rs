//! What a client keeps on disk, byte for byte.

use cocoon_protocol::{
    Digest, JobId, NanoTon, PeerId, PublicKey32, Salt, SignedVoucher, TonAddress, UnixMillis,
    Voucher,
};

use super::jobs::{read_peer, write_channel};
use super::{
    CLIENT_BY_WORKER, CLIENT_CHANNELS, CLIENT_RECEIPTS, CLIENT_RECEIPTS_BY_LEAF, channel_key,
    read_channel, read_digest, whole_key,
};
use crate::contract::ChannelTerms;
use crate::store::{Column, Reader, Record, RecordError, Writer};

/// Channels a client keeps, closed ones included. Each costs a deposit; this bounds what a broken program could open.
pub const MAX_CLIENT_CHANNELS: usize = 4_096;

/// The newest voucher signed on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedPart {
    /// The total promised.
    pub cumulative: NanoTon,
    /// Our signature, kept so that the very same voucher can be sent again.
    pub signature: [u8; 64],
    /// When it was signed.
    pub at: UnixMillis,
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientChannelState {
    /// The transfer that deploys it was, or was about to be, handed to the chain.
    Opening {
        /// Unix second after which the wallet's message can no longer be applied.
        valid_until: u32,
        /// The message's hash, once it was sent.
        message: Option<Digest>,
    },
    /// Seen on chain with its deposit. Vouchers may be signed.
    Open,
    /// The worker was, or was about to be, asked to close together. Nothing is signed any more. Since version 2.
    Releasing {
        /// Unix second of chain time at which it is closed alone, if it is not finished by then.
        until: u32,
        /// The worker has said that it will.
        agreed: bool,
    },
    /// We asked for the rest back; the worker may claim until then.
    Closing {
        /// Unix second from which it can be finished.
        close_at: u32,
    },
    /// Finished, or never opened. Kept, because its nonce must not be used again.
    Closed,
}

/// A channel we pay on. Column `client.channels`, key: address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientChannel {
    /// The contract.
    pub address: TonAddress,
    /// The node it pays.
    pub worker: PeerId,
    /// What the contract was deployed with.
    pub terms: ChannelTerms,
    /// Everything deposited so far.
    pub deposit: NanoTon,
    /// What the contract keeps of it and never pays out.
    pub reserve: NanoTon,
    /// The newest voucher.
    pub signed: Option<SignedPart>,
    /// When it was first written here.
    pub opened: UnixMillis,
    /// How far it has come.
    pub state: ClientChannelState,
}

impl ClientChannel {
    /// The total promised so far.
    #[must_use]
    pub fn signed_total(&self) -> NanoTon {
        self.signed
            .map_or(NanoTon::ZERO, |signed| signed.cumulative)
    }

    /// The highest total the contract will honour.
    #[must_use]
    pub fn spendable(&self) -> NanoTon {
        self.deposit.saturating_sub(self.reserve)
    }

    /// What can still be promised.
    #[must_use]
    pub fn available(&self) -> NanoTon {
        self.spendable().saturating_sub(self.signed_total())
    }

    /// Whether a voucher may be signed: it is open, or the message that opens it was sent. A voucher on a channel that
    /// never opens binds its client to nothing.
    #[must_use]
    pub fn takes_vouchers(&self) -> bool {
        matches!(
            self.state,
            ClientChannelState::Open
                | ClientChannelState::Opening {
                    message: Some(_),
                    ..
                }
        )
    }

    /// The newest voucher, to be sent again to a worker that does not have it.
    #[must_use]
    pub fn newest_voucher(&self) -> Option<SignedVoucher> {
        self.signed.map(|signed| SignedVoucher {
            voucher: Voucher {
                channel: self.address,
                cumulative: signed.cumulative,
            },
            signature: signed.signature,
        })
    }
}

impl Record for ClientChannel {
    const COLUMN: Column = CLIENT_CHANNELS;
    const VERSION: u8 = 2;

    fn key(&self) -> Vec<u8> {
        channel_key(&self.address)
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.worker.to_bytes());
        write_channel(out, &self.terms.client);
        write_channel(out, &self.terms.worker);
        out.fixed(self.terms.client_key.as_bytes());
        out.u32(self.terms.nonce);
        out.u32(self.terms.close_delay_s);
        out.amount(self.deposit);
        out.amount(self.reserve);
        out.option(self.signed.as_ref(), |out, signed| {
            out.amount(signed.cumulative);
            out.fixed(&signed.signature);
            out.u64(signed.at.millis());
        });
        out.u64(self.opened.millis());
        match &self.state {
            ClientChannelState::Opening {
                valid_until,
                message,
            } => {
                out.u8(0);
                out.u32(*valid_until);
                out.option(message.as_ref(), |out, hash| out.fixed(hash.as_bytes()));
            }
            ClientChannelState::Open => out.u8(1),
            ClientChannelState::Closing { close_at } => {
                out.u8(2);
                out.u32(*close_at);
            }
            ClientChannelState::Closed => out.u8(3),
            ClientChannelState::Releasing { until, agreed } => {
                out.u8(4);
                out.u32(*until);
                out.u8(u8::from(*agreed));
            }
        }
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            address: whole_key(key, read_channel)?,
            worker: read_peer(fields)?,
            terms: ChannelTerms {
                client: read_channel(fields)?,
                worker: read_channel(fields)?,
                client_key: PublicKey32::from_bytes(fields.fixed()?),
                nonce: fields.u32()?,
                close_delay_s: fields.u32()?,
            },
            deposit: fields.amount()?,
            reserve: fields.amount()?,
            signed: fields.option(|fields| {
                Ok(SignedPart {
                    cumulative: fields.amount()?,
                    signature: fields.fixed()?,
                    at: UnixMillis::from_millis(fields.u64()?),
                })
            })?,
            opened: UnixMillis::from_millis(fields.u64()?),
            state: match fields.u8()? {
                0 => ClientChannelState::Opening {
                    valid_until: fields.u32()?,
                    message: fields.option(read_digest)?,
                },
                1 => ClientChannelState::Open,
                2 => ClientChannelState::Closing {
                    close_at: fields.u32()?,
                },
                3 => ClientChannelState::Closed,
                4 => ClientChannelState::Releasing {
                    until: fields.u32()?,
                    agreed: match fields.u8()? {
                        0 => false,
                        1 => true,
                        _ => return Err(RecordError::BadValue("the state of a channel")),
                    },
                },
                _ => return Err(RecordError::BadValue("the state of a channel")),
            },
        })
    }
}

/// Finds a worker's channels. Column `client.channels.by_worker`, key: PeerId with its length ‖ address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByWorker {
    pub worker: PeerId,
    pub channel: TonAddress,
}

impl ByWorker {
    pub(super) fn prefix(worker: &PeerId) -> Vec<u8> {
        let peer = worker.to_bytes();
        // A PeerId is at most 66 bytes.
        let mut key = vec![u8::try_from(peer.len()).unwrap_or(u8::MAX)];
        key.extend_from_slice(&peer);
        key
    }
}

impl Record for ByWorker {
    const COLUMN: Column = CLIENT_BY_WORKER;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        let mut key = Self::prefix(&self.worker);
        key.extend_from_slice(&channel_key(&self.channel));
        key
    }

    fn write(&self, _out: &mut Writer) {}

    fn read(_version: u8, key: &[u8], _fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        const ADDRESS_BYTES: usize = 33;
        let bad = RecordError::BadValue("a worker's channel key");
        let (&len, rest) = key.split_first().ok_or(bad)?;
        let (peer, address) = rest.split_at_checked(usize::from(len)).ok_or(bad)?;
        if address.len() != ADDRESS_BYTES {
            return Err(bad);
        }
        Ok(Self {
            worker: PeerId::from_bytes(peer).map_err(|_| bad)?,
            channel: whole_key(address, read_channel)?,
        })
    }
}

/// A receipt as it came from the worker, already verified by whoever filed it. Column `client.receipts`, key: job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReceipt {
    /// The job.
    pub job: JobId,
    /// Who worked.
    pub worker: PeerId,
    /// When it was filed.
    pub at: UnixMillis,
    /// `SignedReceipt::encode`.
    pub receipt: Vec<u8>,
    /// Opens its commitments.
    pub salt: Salt,
}

impl Record for KeptReceipt {
    const COLUMN: Column = CLIENT_RECEIPTS;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.job.as_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.worker.to_bytes());
        out.u64(self.at.millis());
        out.bytes(&self.receipt);
        out.fixed(self.salt.as_bytes());
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            job: JobId::from_bytes(whole_key(key, Reader::fixed)?),
            worker: read_peer(fields)?,
            at: UnixMillis::from_millis(fields.u64()?),
            receipt: fields.bytes()?.to_vec(),
            salt: Salt::from_bytes(fields.fixed()?),
        })
    }
}

/// Finds a receipt by its name. Column `client.receipts.by_leaf`, key: leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByLeaf {
    pub leaf: Digest,
    pub job: JobId,
}

impl Record for ByLeaf {
    const COLUMN: Column = CLIENT_RECEIPTS_BY_LEAF;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.leaf.as_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.fixed(self.job.as_bytes());
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            leaf: whole_key(key, read_digest)?,
            job: JobId::from_bytes(fields.fixed()?),
        })
    }
}
