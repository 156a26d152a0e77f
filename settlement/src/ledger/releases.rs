//! Closing a channel together: what the worker notes before it answers, before it sends, and when it is done; and what
//! the client notes before it asks.
//!
//! A worker that has agreed takes no voucher and begins no job on the channel any more, also after a restart: the release
//! pays what was signed when it agreed, and nothing above. A client that has asked signs nothing more, whatever the
//! worker answers: its signature does not expire.

use cocoon_protocol::voucher::{Release, SignedRelease};
use cocoon_protocol::{NanoTon, TonAddress};

use super::jobs::{self, Side};
use super::{
    ClientChannel, ClientChannelState, ClientLedger, LedgerError, WorkerChannel, WorkerLedger,
};
use crate::store::{Reader, RecordError, Store, WriteBatch, Writer};

/// A release that this worker has agreed to. Part of a [`WorkerChannel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreedRelease {
    /// All that the channel pays this worker: its newest voucher's total.
    pub cumulative: NanoTon,
    /// The client's Ed25519 signature.
    pub signature: [u8; 64],
    /// How often it was sent, or about to be.
    pub attempts: u32,
    /// Chain time (unix seconds) from which it may be sent again.
    pub retry_after: u32,
    /// The chain shows the channel as finished.
    pub done: bool,
}

impl AgreedRelease {
    /// The release as it is sent.
    #[must_use]
    pub fn for_channel(&self, channel: TonAddress) -> SignedRelease {
        SignedRelease {
            release: Release {
                channel,
                cumulative: self.cumulative,
            },
            signature: self.signature,
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.amount(self.cumulative);
        out.fixed(&self.signature);
        out.u32(self.attempts);
        out.u32(self.retry_after);
        out.u8(u8::from(self.done));
    }

    pub(super) fn read(fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            cumulative: fields.amount()?,
            signature: fields.fixed()?,
            attempts: fields.u32()?,
            retry_after: fields.u32()?,
            done: match fields.u8()? {
                0 => false,
                1 => true,
                _ => return Err(RecordError::BadValue("the end of a release")),
            },
        })
    }
}

impl WorkerChannel {
    /// What it has paid this worker since this ledger knows it, or has promised to.
    #[must_use]
    pub fn earned(&self) -> NanoTon {
        self.held_total().saturating_sub(self.base)
    }
}

impl<S: Store> WorkerLedger<S> {
    /// Agrees to close a channel together. When this returns, the channel serves nothing any more. Agreeing to the same
    /// release again changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], [`LedgerError::ChannelBusy`] while a job is on it,
    /// [`LedgerError::ReleaseTotal`] unless it pays exactly the newest voucher's total, [`LedgerError::BadRelease`] for a
    /// signature that is not the client's, or the store's failure. Nothing is written in any of these cases.
    pub fn agree_release(
        &self,
        signed: &SignedRelease,
        global_id: i32,
    ) -> Result<WorkerChannel, LedgerError> {
        let writing = self.begin();
        let address = signed.release.channel;
        let mut channel = self.known_channel(&address)?;
        let held = channel.held_total();
        if signed.release.cumulative != held {
            return Err(LedgerError::ReleaseTotal {
                channel: address,
                held,
                offered: signed.release.cumulative,
            });
        }
        signed
            .check(address, held, channel.client_key, global_id)
            .map_err(|_| LedgerError::BadRelease(address))?;
        if channel.release.is_some() {
            // Whoever is told "agreed" may take it for durable.
            self.finish(writing, WriteBatch::new())?;
            return Ok(channel);
        }
        for job in jobs::open_jobs(&self.latest(), Side::Worker)? {
            if jobs::find_open(&self.latest(), Side::Worker, &job)?.channel == address {
                return Err(LedgerError::ChannelBusy(address));
            }
        }
        channel.release = Some(AgreedRelease {
            cumulative: held,
            signature: signed.signature,
            attempts: 0,
            retry_after: 0,
            done: false,
        });
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        self.finish(writing, batch)?;
        Ok(channel)
    }

    /// Notes that the release of a channel is about to be sent. Before sending it.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], [`LedgerError::Inconsistent`] without a release or for more than is covered, or
    /// the store's failure.
    pub fn record_release_attempt(
        &self,
        address: &TonAddress,
        retry_after: u32,
    ) -> Result<(), LedgerError> {
        self.change_release(address, |covered, release| {
            if release.cumulative > covered {
                return Err(LedgerError::Inconsistent(
                    "a release goes beyond what a confirmed commit covers",
                ));
            }
            release.attempts = release.attempts.saturating_add(1);
            release.retry_after = retry_after;
            Ok(())
        })
    }

    /// Notes that the chain shows a channel with a release as finished.
    ///
    /// # Errors
    /// As [`WorkerLedger::record_release_attempt`].
    pub fn record_released(&self, address: &TonAddress) -> Result<(), LedgerError> {
        self.change_release(address, |_, release| {
            release.done = true;
            Ok(())
        })
    }

    fn change_release(
        &self,
        address: &TonAddress,
        change: impl FnOnce(NanoTon, &mut AgreedRelease) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let writing = self.begin();
        let mut channel = self.known_channel(address)?;
        let covered = channel.covered_total();
        let release = channel
            .release
            .as_mut()
            .ok_or(LedgerError::Inconsistent("nobody agreed to a release"))?;
        change(covered, release)?;
        let mut batch = WriteBatch::new();
        batch.put(&channel);
        self.finish(writing, batch)
    }
}

impl<S: Store> ClientLedger<S> {
    /// The worker is asked to close together; from now on nothing is signed on this channel. Before it is asked. `until`
    /// is the unix second of chain time at which the client closes alone.
    ///
    /// # Errors
    /// [`LedgerError::ChannelNotOpen`], [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_releasing(
        &self,
        address: &TonAddress,
        until: u32,
    ) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| match channel.state {
            ClientChannelState::Open => {
                channel.state = ClientChannelState::Releasing {
                    until,
                    agreed: false,
                };
                Ok(())
            }
            // Asked again: the end of waiting stays where it was.
            ClientChannelState::Releasing { .. } => Ok(()),
            _ => Err(LedgerError::ChannelNotOpen(*address)),
        })
    }

    /// The worker has agreed. Nothing changes on a channel that went on meanwhile.
    ///
    /// # Errors
    /// [`LedgerError::UnknownChannel`], or the store's failure.
    pub fn record_release_agreed(
        &self,
        address: &TonAddress,
    ) -> Result<ClientChannel, LedgerError> {
        self.change(address, |channel| {
            if let ClientChannelState::Releasing { agreed, .. } = &mut channel.state {
                *agreed = true;
            }
            Ok(())
        })
    }
}
