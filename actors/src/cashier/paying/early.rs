//! A job may begin on a channel that is on its way to the chain, if its worker serves there: its client has sent what
//! opens it, and a voucher on a channel that never opens binds nobody.

use super::{Books, ClientChannel, LeaseChannel, LeasedChannel};
use crate::ask::{Ask, Query, Reply};
use crate::cashier::opening::{Opened, Unopened};
use crate::cashier::{Cashier, CashierError};
use actix::prelude::*;
use cocoon_protocol::job::OpeningTerms;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::ledger::ClientChannelState;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use tokio::sync::oneshot;
use tracing::{Instrument, warn};

/// Openings that run and whose message was sent. Bounded by the openings, of which there are
/// [`MAX_CHANNELS_PER_WORKER`](super::MAX_CHANNELS_PER_WORKER) to each worker.
#[derive(Default)]
pub(super) struct Early {
    sent: BTreeSet<TonAddress>,
    /// One for each job at most.
    waiting: Vec<(TonAddress, Reply<Result<(), CashierError>>)>,
}

impl Early {
    pub(super) fn is_sent(&self, channel: &TonAddress) -> bool {
        self.sent.contains(channel)
    }

    /// The opening has ended, one way or the other.
    fn end(&mut self, channel: &TonAddress, is_open: bool) {
        self.sent.remove(channel);
        let over = |of: &mut (TonAddress, _)| of.0 == *channel;
        for (_, reply) in self.waiting.extract_if(.., over) {
            reply.send(if is_open {
                Ok(())
            } else {
                Err(CashierError::NotOpen(*channel))
            });
        }
    }
}

/// What a worker has to know of a channel that is on its way; nothing of any other.
pub(super) fn terms(channel: &ClientChannel) -> Option<OpeningTerms> {
    let is_opening = matches!(channel.state, ClientChannelState::Opening { .. });
    is_opening.then_some(OpeningTerms {
        client: channel.terms.client,
        client_key: channel.terms.client_key,
        nonce: channel.terms.nonce,
        close_delay_s: channel.terms.close_delay_s,
    })
}

/// Where a lease goes: once.
type LeaseReply = Rc<Cell<Option<Reply<Result<LeasedChannel, CashierError>>>>>;

impl Cashier {
    /// Opens a channel, and leases it to the job as soon as the message that opens it was sent.
    pub(super) fn open_for(
        &mut self,
        query: LeaseChannel,
        deposit: NanoTon,
        reply: Reply<Result<LeasedChannel, CashierError>>,
        context: &mut Context<Self>,
    ) {
        let Some(books) = &self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        let reply: LeaseReply = Rc::new(Cell::new(Some(reply)));
        let (sent, on_sent) = oneshot::channel();
        let parts = books.parts.clone();
        let opening = async move { parts.open(&query, deposit, sent).await };
        let first = Rc::clone(&reply);
        context.spawn(on_sent.in_current_span().into_actor(self).map(
            move |sent, cashier: &mut Self, _| {
                // Nothing was sent: the opening's end says why.
                if let (Ok(address), Some(books)) = (sent, &mut cashier.paying) {
                    books.opening_sent(&query, &address, &first);
                }
            },
        ));
        context.spawn(opening.in_current_span().into_actor(self).map(
            move |opened, cashier: &mut Self, _| {
                if let Some(books) = &mut cashier.paying {
                    let deposits = books.opening_deposits;
                    books.opening_deposits = deposits.saturating_sub(deposit);
                    books.opening_ended(&query, opened, reply.take());
                }
            },
        ));
    }
}

impl Books {
    fn opening_sent(&mut self, query: &LeaseChannel, address: &TonAddress, reply: &LeaseReply) {
        // The opening may have ended in the same breath.
        let Some(reply) = reply.take() else { return };
        match self.parts.ledger.channel(address) {
            Ok(Some(channel)) => {
                self.early.sent.insert(*address);
                self.hand_over(query, &channel, reply);
            }
            Ok(None) => reply.send(Err(CashierError::NotOpen(*address))),
            Err(error) => reply.send(Err(error.into())),
        }
    }

    /// `reply`: if nobody has got the channel yet.
    fn opening_ended(
        &mut self,
        query: &LeaseChannel,
        opened: Result<Opened, Unopened>,
        reply: Option<Reply<Result<LeasedChannel, CashierError>>>,
    ) {
        if let Some(count) = self.opening.get_mut(&query.worker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.opening.remove(&query.worker);
            }
        }
        let opened = match opened {
            // In the same breath as the lease: nobody else may take it in between.
            Ok(Opened { address, deposit }) => self
                .parts
                .ledger
                .record_open(&address, deposit)
                .map_err(|error| Unopened {
                    error: error.into(),
                    in_doubt: Some(address),
                }),
            Err(unopened) => Err(unopened),
        };
        match (opened, reply) {
            (Ok(channel), reply) => {
                self.early.end(&channel.address, true);
                if let Some(reply) = reply {
                    self.hand_over(query, &channel, reply);
                }
            }
            (Err(Unopened { error, in_doubt }), reply) => {
                if let Some(address) = in_doubt {
                    warn!(channel = %address, %error, "whether a channel opened is not known yet");
                    self.in_doubt.insert(address, query.worker);
                    self.early.end(&address, false);
                }
                match reply {
                    Some(reply) => reply.send(Err(error)),
                    None => self.forget_early(),
                }
            }
        }
    }

    /// An opening that was given up says no address: whatever is not on its way any more has ended.
    fn forget_early(&mut self) {
        let ledger = &self.parts.ledger;
        let is_over = |address: &TonAddress| {
            let found = ledger.channel(address);
            !matches!(found, Ok(Some(channel)) if terms(&channel).is_some())
        };
        let over: Vec<_> = self
            .early
            .sent
            .iter()
            .copied()
            .filter(|address| is_over(address))
            .collect();
        for address in over {
            self.early.end(&address, false);
        }
    }
}

/// Waits until a channel that is on its way is open on chain.
#[derive(Clone, Copy, Debug)]
pub struct AwaitOpen(pub TonAddress);
impl Query for AwaitOpen {
    type Answer = Result<(), CashierError>;
}
impl Handler<Ask<AwaitOpen>> for Cashier {
    type Result = ();
    fn handle(&mut self, asked: Ask<AwaitOpen>, _: &mut Self::Context) {
        let (AwaitOpen(channel), reply, _job) = asked.open();
        let Some(books) = &mut self.paying else {
            return reply.send(Err(CashierError::WrongRole));
        };
        if books.early.is_sent(&channel) {
            return books.early.waiting.push((channel, reply));
        }
        reply.send(match books.parts.ledger.channel(&channel) {
            Ok(Some(found)) if found.state == ClientChannelState::Open => Ok(()),
            Ok(_) => Err(CashierError::NotOpen(channel)),
            Err(error) => Err(error.into()),
        });
    }
}
