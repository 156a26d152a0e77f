//! Serving on channels that are not on chain yet, and looking for them until they are.

use super::earning::{Books, OpenWorkerJob, PayingChannel};
use super::{Cashier, CashierError, earning};
use crate::clock;
use crate::metrics::Metrics;
use actix::prelude::*;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{ChannelState, ChannelTerms, fetch_channel};
use cocoon_settlement::credit::{FirstContact, FirstContactBook, FirstContactConfig};
use cocoon_settlement::ledger::{LedgerError, WorkerLedger};
use cocoon_settlement::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument, info, warn};

/// Pause between two rounds of looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Channels looked at in one round, so that strangers do not make this worker ask the chain without end. The others have
/// their turn in the following rounds, and a job looks at its own.
const MAX_LOOKS: usize = 2;

/// The book as an earlier process left it.
pub(super) fn resume<S: Store>(
    config: FirstContactConfig,
    ledger: &WorkerLedger<S>,
) -> Result<FirstContactBook, LedgerError> {
    let mut book = FirstContactBook::new(config);
    for (channel, since) in ledger.expected_channels()? {
        let contact = FirstContact {
            channel: channel.address,
            client: channel.client,
            since,
        };
        book.resume(clock::now(), contact, channel.held_total());
    }
    Ok(book)
}

impl Books {
    /// Begins a job on a channel that the chain does not show, if its terms lead to it and to us.
    pub(super) fn open_first_contact(
        &mut self,
        query: &OpenWorkerJob,
    ) -> Result<PayingChannel, CashierError> {
        let not_open = || CashierError::NotOpen(query.channel);
        let told = query.terms.as_ref().ok_or_else(not_open)?;
        let terms = ChannelTerms {
            client: told.client,
            // Not what anybody says: a channel that pays somebody else has another address.
            worker: self.parts.payout,
            client_key: told.client_key,
            nonce: told.nonce,
            close_delay_s: told.close_delay_s,
        };
        if terms.address()? != query.channel {
            return Err(CashierError::NotOurs(query.channel));
        }
        self.may_begin(&query.channel, terms.close_delay_s)?;
        let now = clock::now();
        let known = self.parts.ledger.channel(&query.channel)?;
        let since = match &known {
            None => now,
            // Seen once, and not there now: nothing that a stranger's word could explain.
            Some(channel) => channel.expected.ok_or_else(not_open)?,
        };
        let contact = FirstContact {
            channel: query.channel,
            client: query.client,
            since,
        };
        self.first_contacts.admit(now, contact, query.needed)?;
        let ledger = &self.parts.ledger;
        let opened = ledger
            .expect_channel(query.channel, query.client, terms.client_key, now)
            .map_err(CashierError::from)
            .and_then(|channel| {
                let held = channel.held_total();
                let begun = earning::Begun {
                    // Nothing is known of the deposit; what is served is what was admitted.
                    capacity: held.saturating_add(query.needed),
                    held,
                    // What is signed on a channel that is not there is not paid.
                    paid_before: NanoTon::ZERO,
                    first_contact: Some(query.needed),
                };
                self.begin(query, begun, true)
            });
        if opened.is_err() {
            let (channel, needed) = (&query.channel, query.needed);
            self.first_contacts
                .settle(now, channel, needed, NanoTon::ZERO);
        }
        self.show_first_contacts();
        opened
    }

    /// The chain shows a channel that may be served on already. Once its deposit covers what is signed, it is one like
    /// any other.
    pub(super) fn on_appeared(&mut self, state: &ChannelState) -> Result<(), LedgerError> {
        let Some(channel) = self.parts.ledger.channel(&state.address)? else {
            return Ok(());
        };
        if !state.finished && state.capacity() >= channel.held_total() {
            self.parts.ledger.confirm_channel(&state.address)?;
            self.first_contacts.confirm(&state.address);
            info!(channel = %state.address, "a channel that was served on has appeared on chain");
        }
        self.show_first_contacts();
        Ok(())
    }

    pub(super) fn show_first_contacts(&self) {
        show(&self.parts.metrics, &self.first_contacts);
    }
}

fn show(metrics: &Metrics, book: &FirstContactBook) {
    for (state, amount) in [
        ("outstanding", book.outstanding()),
        ("given", book.given()),
        ("lost", book.lost()),
    ] {
        metrics.first_contact(state, amount.nano());
    }
}

impl Cashier {
    /// Looks for channels that are served on before they are there, now and then.
    pub(super) fn watch_first_contacts(&mut self, context: &mut Context<Self>) {
        if self.earning.is_some() {
            context.run_interval(LOOK_PAUSE, Self::look_for_first_contacts);
        }
    }

    fn look_for_first_contacts(&mut self, context: &mut Context<Self>) {
        let Some(books) = &mut self.earning else {
            return;
        };
        books.first_contacts.forget(clock::now());
        books.show_first_contacts();
        let channels = books.next_first_contacts(MAX_LOOKS);
        if books.looking || channels.is_empty() {
            return;
        }
        books.looking = true;
        let chain = Arc::clone(&books.parts.chain);
        let look = async move {
            let mut seen = Vec::new();
            for channel in channels {
                let state = fetch_channel(chain.as_ref(), channel).await;
                // After the look: it is what the last call showed.
                if !chain.standing().is_sound() {
                    break;
                }
                match state {
                    Ok(found) => seen.extend(found),
                    Err(error) => warn!(%error, %channel, "a channel could not be looked for"),
                }
            }
            seen
        };
        context.spawn(look.in_current_span().into_actor(self).map(
            |seen, cashier: &mut Self, _| {
                let Some(books) = &mut cashier.earning else {
                    return;
                };
                books.looking = false;
                for state in &seen {
                    if let Err(error) = books.on_appeared(state) {
                        warn!(%error, channel = %state.address, "a channel that appeared was not noted");
                    }
                }
            },
        ));
    }
}

impl Books {
    /// The next channels to look for, after the one that was looked for last.
    fn next_first_contacts(&mut self, most: usize) -> Vec<TonAddress> {
        let mut channels: Vec<_> = self.first_contacts.channels().collect();
        let last = self.looked_for;
        let behind = channels.partition_point(|channel| last.is_some_and(|last| *channel <= last));
        channels.rotate_left(behind);
        channels.truncate(most);
        self.looked_for = channels.last().copied();
        channels
    }
}
