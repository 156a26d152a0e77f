//! A worker's answer to a client that wants to close a channel together.
//!
//! It agrees when the release pays exactly its newest voucher, no job is on the channel, and the channel has earned it
//! enough for the fee, which the worker pays. That, and that a channel closes once, is what bounds the fees that strangers
//! can cause: they are never more than a fixed part of what the same strangers have paid.

use super::earning::Books;
use super::{Cashier, CashierError};
use crate::ask::{Address, tell};
use crate::settler::{ReleasesAgreed, Settler};
use actix::prelude::*;
use cocoon_protocol::release::{ReleaseRefusal, ReleaseReply};
use cocoon_protocol::voucher::SignedRelease;
use cocoon_protocol::{NanoTon, PeerId};
use cocoon_settlement::chain::{ChainError, Prices};
use cocoon_settlement::contract::{ChannelState, fetch_channel};
use cocoon_settlement::ledger::LedgerError;
use cocoon_settlement::settler::release_fee;
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

/// Looks at the chain for clients that want to close, at once; who comes then is asked to come again.
const MAX_RELEASE_LOOKS: usize = 8;

/// A peer's request to close a channel together. Dropping the reply refuses bytes that are none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseAsked {
    /// Who asks. What counts is the signature of the channel's client.
    pub peer: PeerId,
    /// The encoded release.
    pub request: Vec<u8>,
    /// Takes the encoded reply.
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// Whom to tell that a release was agreed to. Without it the settler finds out within a minute.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SettledBy(pub Address<Settler>);

impl Handler<SettledBy> for Cashier {
    type Result = ();
    fn handle(&mut self, SettledBy(settler): SettledBy, _: &mut Self::Context) {
        if let Some(books) = &mut self.earning {
            books.settler = Some(settler);
        }
    }
}

impl Handler<ReleaseAsked> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: ReleaseAsked, context: &mut Self::Context) {
        let ReleaseAsked {
            peer,
            request,
            reply,
        } = asked;
        let Some(books) = &mut self.earning else {
            return;
        };
        let signed = match SignedRelease::decode(&request) {
            Ok(signed) => signed,
            Err(error) => return debug!(%peer, %error, "no release"),
        };
        if let Some(answer) = books.answer_without_a_look(&signed) {
            debug!(%peer, channel = %signed.release.channel, ?answer, "asked to close together");
            let _ = reply.send(answer.encode());
            return;
        }
        books.release_looks = books.release_looks.saturating_add(1);
        let chain = Arc::clone(&books.parts.chain);
        let look = async move {
            let state = fetch_channel(chain.as_ref(), signed.release.channel).await;
            let prices = chain.prices().await;
            // After the look: it is what the last call showed.
            (state, prices, chain.standing().is_sound())
        };
        context.spawn(look.into_actor(self).map(
            move |(state, prices, sound), cashier: &mut Self, _| {
                let Some(books) = &mut cashier.earning else {
                    return;
                };
                books.release_looks = books.release_looks.saturating_sub(1);
                let answer = match books.agree(&signed, state, prices, sound) {
                    Ok(()) => ReleaseReply::Agreed,
                    Err(refusal) => ReleaseReply::Refused(refusal),
                };
                info!(%peer, channel = %signed.release.channel, ?answer, "asked to close together");
                let _ = reply.send(answer.encode());
            },
        ));
    }
}

impl Books {
    /// The answer, where the chain need not be asked: nobody makes this worker look for a channel that never paid it.
    fn answer_without_a_look(&self, signed: &SignedRelease) -> Option<ReleaseReply> {
        let refuse = |refusal| Some(ReleaseReply::Refused(refusal));
        let release = &signed.release;
        if !self.reconciled || self.release_looks >= MAX_RELEASE_LOOKS {
            return refuse(ReleaseRefusal::NotNow);
        }
        let channel = match self.parts.ledger.channel(&release.channel) {
            Ok(Some(channel)) => channel,
            Ok(None) => return refuse(ReleaseRefusal::UnknownChannel),
            Err(error) => {
                warn!(%error, "the ledger could not be read");
                return refuse(ReleaseRefusal::NotNow);
            }
        };
        let held = channel.held_total();
        if release.cumulative != held {
            return refuse(ReleaseRefusal::OtherTotal);
        }
        let global_id = self.parts.global_id;
        if signed
            .check(release.channel, held, channel.client_key, global_id)
            .is_err()
        {
            return refuse(ReleaseRefusal::NotSigned);
        }
        if channel.release.is_some() {
            return Some(ReleaseReply::Agreed);
        }
        if self.serving.contains_key(&release.channel) {
            return refuse(ReleaseRefusal::Busy);
        }
        if self.parts.release_fee_multiple > 0 && channel.earned() == NanoTon::ZERO {
            return refuse(ReleaseRefusal::NotWorthIt);
        }
        None
    }

    /// Agrees, durably, if the chain shows what it should.
    fn agree(
        &self,
        signed: &SignedRelease,
        state: Result<Option<ChannelState>, ChainError>,
        prices: Result<Prices, ChainError>,
        sound: bool,
    ) -> Result<(), ReleaseRefusal> {
        let not_now = |error: CashierError| {
            warn!(%error, "a channel that is to be closed together was not looked at");
            ReleaseRefusal::NotNow
        };
        let (state, prices) = match (state, prices) {
            (Ok(state), Ok(prices)) if sound => (state, prices),
            (Err(error), _) | (_, Err(error)) => return Err(not_now(error.into())),
            _ => return Err(ReleaseRefusal::NotNow),
        };
        let release = &signed.release;
        let state = state
            .filter(|state| !state.finished && state.terms.worker == self.parts.payout)
            .filter(|state| release.cumulative <= state.capacity())
            .ok_or(ReleaseRefusal::NotOpen)?;
        // The chain was looked at without the lock that an actor is: look again.
        if self.serving.contains_key(&state.address) {
            return Err(ReleaseRefusal::Busy);
        }
        if !self.reconciled {
            return Err(ReleaseRefusal::NotNow);
        }
        let ledger = &self.parts.ledger;
        let refused = |error| match error {
            LedgerError::ChannelBusy(_) => ReleaseRefusal::Busy,
            LedgerError::UnknownChannel(_) => ReleaseRefusal::UnknownChannel,
            LedgerError::ReleaseTotal { .. } => ReleaseRefusal::OtherTotal,
            LedgerError::BadRelease(_) => ReleaseRefusal::NotSigned,
            other => not_now(other.into()),
        };
        let channel = ledger
            .channel(&release.channel)
            .map_err(refused)?
            .ok_or(ReleaseRefusal::UnknownChannel)?;
        let least = release_fee(&prices).saturating_mul(self.parts.release_fee_multiple);
        if channel.earned() < least {
            return Err(ReleaseRefusal::NotWorthIt);
        }
        ledger
            .agree_release(signed, self.parts.global_id)
            .map_err(refused)?;
        if let Some(settler) = &self.settler
            && let Err(error) = tell(settler, ReleasesAgreed)
        {
            debug!(%error, "the settler will find out by itself");
        }
        Ok(())
    }
}
