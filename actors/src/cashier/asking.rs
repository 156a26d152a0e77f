//! A client asks a worker to close a channel together.
//!
//! That it asks is in the ledger before, so nothing is signed on the channel any more, whatever comes back. An answer only
//! says whether it is worth waiting: what was done shows on chain.

use super::Cashier;
use super::opening::CLOSE_DELAY_S;
use super::paying::Books;
use crate::ask::ask;
use crate::mesh::AskPeer;
use crate::port::{PortError, Question};
use actix::prelude::*;
use cocoon_protocol::TonAddress;
use cocoon_protocol::release::ReleaseReply;
use cocoon_protocol::voucher::Release;
use cocoon_settlement::ledger::{ClientChannelState, LedgerError};
use tracing::{Instrument, debug, info, warn};

/// What came of a question.
enum Heard {
    Agreed,
    /// For good, and why.
    Refused(String),
    /// Perhaps another time, and why.
    Nothing(String),
}

impl Cashier {
    /// Sends the release of a channel that is noted as to be closed together.
    pub(super) fn ask_to_release(&mut self, address: TonAddress, context: &mut Context<Self>) {
        let Some(books) = &self.paying else { return };
        let parts = &books.parts;
        let (channel, mesh) = match (parts.ledger.channel(&address), &parts.mesh) {
            (Ok(Some(channel)), Some(mesh)) => (channel, mesh.clone()),
            (Err(error), _) => return warn!(%error, "the ledger could not be read"),
            _ => return,
        };
        if !matches!(channel.state, ClientChannelState::Releasing { .. }) {
            return;
        }
        let release = Release {
            channel: address,
            cumulative: channel.signed_total(),
        };
        let question = AskPeer {
            peer: channel.worker,
            question: Question::Release,
            request: release.sign(&parts.key, parts.global_id).encode(),
        };
        let asking = async move {
            match ask(&mesh, question).await {
                Ok(Ok(answer)) => match ReleaseReply::decode(&answer) {
                    Ok(ReleaseReply::Agreed) => Heard::Agreed,
                    Ok(ReleaseReply::Refused(why)) if why.may_pass() => {
                        Heard::Nothing(why.to_string())
                    }
                    Ok(ReleaseReply::Refused(why)) => Heard::Refused(why.to_string()),
                    Err(error) => Heard::Refused(error.to_string()),
                },
                Ok(Err(error @ PortError::Unsupported { .. })) => Heard::Refused(error.to_string()),
                Ok(Err(error)) => Heard::Nothing(error.to_string()),
                Err(error) => Heard::Nothing(error.to_string()),
            }
        };
        context.spawn(asking.in_current_span().into_actor(self).map(
            move |heard, cashier: &mut Self, _| {
                if let Some(books) = &mut cashier.paying
                    && let Err(error) = books.heard(&address, heard)
                {
                    warn!(%error, "the ledger could not be written");
                }
            },
        ));
    }
}

impl Books {
    fn heard(&mut self, address: &TonAddress, heard: Heard) -> Result<(), LedgerError> {
        let ledger = &self.parts.ledger;
        let state = ledger.channel(address)?.map(|channel| channel.state);
        let Some(ClientChannelState::Releasing { until, .. }) = state else {
            return Ok(());
        };
        match heard {
            Heard::Agreed => {
                info!(channel = %address, "the worker closes the channel together");
                ledger.record_release_agreed(address)?;
            }
            Heard::Refused(why) => {
                info!(channel = %address, why, "closing the channel alone");
                // At the latest; the chain will say when.
                let close_at = until.saturating_add(CLOSE_DELAY_S);
                ledger.record_closing(address, close_at)?;
                self.purse.on_refused(address);
            }
            Heard::Nothing(why) => {
                debug!(channel = %address, why, "not closed together yet");
            }
        }
        Ok(())
    }
}
