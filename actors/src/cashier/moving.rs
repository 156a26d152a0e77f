//! Moving a client's deposits: looks at the channels, asks the [purse](cocoon_settlement::purse) what to do, does it.
//!
//! One round at a time. What a message has done is not believed of the message: the next round sees it on chain.

use super::paying::{Books, Paying};
use super::{Cashier, CashierError};
use crate::clock;
use actix::prelude::*;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{ChainError, TransactionSummary};
use cocoon_settlement::contract::{
    ChannelState, OpenerTerms, fetch_channel, fetch_opener, finish_message, start_close_message,
};
use cocoon_settlement::ledger::{ClientChannel, ClientChannelState, LedgerError};
use cocoon_settlement::purse::{Move, Phase, PurseChannel, locked, way};
use cocoon_settlement::wallet::Wallet;
use std::time::Duration;
use tracing::{Instrument, info, warn};

/// Channels looked at in one round. More wait for the next ones: those looked at longest ago come first.
const MAX_LOOKS: usize = 64;

/// A channel that holds so much more than is noted was topped up. Less than any top-up.
const NOTED_RISE: NanoTon = NanoTon::from_nano(10_000_000);

/// What a round has seen.
struct Seen {
    unix: u32,
    wallet: NanoTon,
    channels: Vec<ChannelState>,
}

impl Paying {
    async fn look_around(&self, channels: &[TonAddress]) -> Result<Seen, CashierError> {
        let head = self.chain.head().await;
        let standing = self.chain.standing();
        if !standing.is_sound() {
            return Err(CashierError::Unverifiable(standing));
        }
        let account = self.chain.account(self.address).await?;
        let mut seen = Seen {
            unix: head?.unix,
            wallet: account.map_or(NanoTon::ZERO, |account| account.balance),
            channels: Vec::new(),
        };
        for address in channels {
            let found = fetch_channel(self.chain.as_ref(), *address).await?;
            seen.channels.extend(found);
        }
        Ok(seen)
    }

    /// One transfer after another; what a failure leaves undone is seen at the next look.
    async fn send(&self, moves: &[Move]) -> Result<Vec<TransactionSummary>, ChainError> {
        let mut messages = Vec::new();
        let mut top_ups = Vec::new();
        for planned in moves {
            match planned {
                Move::Finish(channel) => messages.push(finish_message(*channel)?),
                Move::StartClose(channel) => messages.push(start_close_message(*channel)?),
                Move::TopUp { channel, amount } => top_ups.push((*channel, *amount)),
                // Not the chain's business yet.
                Move::Together(_) => {}
            }
        }
        let wallet = self.wallet.lock().await.clone();
        if self.opener_pays(&wallet, &top_ups).await? {
            messages.push(way::through_opener(&wallet, &top_ups)?);
        } else {
            messages.extend(way::direct(&top_ups)?);
        }
        let mut done = Vec::new();
        for transfer in messages.chunks(wallet.version().max_messages()) {
            // Whoever opens a channel for a job gets its turn in between.
            let wallet = self.wallet.lock().await;
            done.push(wallet.send(self.chain.as_ref(), transfer).await?);
        }
        Ok(done)
    }

    /// Whether several top-ups cost less through the opener, at the prices of this moment.
    async fn opener_pays(
        &self,
        wallet: &Wallet,
        top_ups: &[way::TopUp],
    ) -> Result<bool, ChainError> {
        if top_ups.len() < 2 {
            return Ok(false);
        }
        let prices = self.chain.prices().await?;
        if !way::opener_pays(&prices, wallet, true, top_ups)? {
            return Ok(false);
        }
        let opener = OpenerTerms {
            owner: wallet.address(),
        };
        let deployed = fetch_opener(self.chain.as_ref(), opener.address()?).await?;
        way::opener_pays(&prices, wallet, deployed.is_some(), top_ups)
    }
}

impl Cashier {
    /// Keeps deposits where they are used, now and then.
    pub(super) fn watch_deposits(&mut self, context: &mut Context<Self>) {
        if let Some(books) = &self.paying {
            let pause = Duration::from_millis(books.parts.purse.round_ms);
            self.move_deposits(context);
            context.run_interval(pause, Self::move_deposits);
        }
    }

    fn move_deposits(&mut self, context: &mut Context<Self>) {
        let Some(books) = &mut self.paying else {
            return;
        };
        if books.moving {
            return;
        }
        let channels = match books.to_look_at() {
            Ok(channels) if channels.is_empty() => return,
            Ok(channels) => channels,
            Err(error) => return warn!(%error, "the ledger could not be read"),
        };
        books.moving = true;
        let parts = books.parts.clone();
        let look = async move { parts.look_around(&channels).await };
        context.spawn(look.in_current_span().into_actor(self).map(
            |seen, cashier: &mut Self, context| {
                let Some(books) = &mut cashier.paying else {
                    return;
                };
                let planned = seen.and_then(|seen| Ok(books.plan(&seen)?));
                match planned {
                    Ok(moves) if !moves.is_empty() => cashier.carry_out(moves, context),
                    Ok(_) => books.moving = false,
                    Err(error) => {
                        books.moving = false;
                        warn!(%error, "deposits were not looked at");
                    }
                }
            },
        ));
    }

    fn carry_out(&mut self, mut moves: Vec<Move>, context: &mut Context<Self>) {
        for planned in &moves {
            if let Move::Together(channel) = planned {
                self.ask_to_release(*channel, context);
            }
        }
        moves.retain(|planned| !matches!(planned, Move::Together(_)));
        let Some(books) = &mut self.paying else {
            return;
        };
        if moves.is_empty() {
            books.moving = false;
            return;
        }
        let parts = books.parts.clone();
        let sending = async move { (parts.send(&moves).await, moves) };
        context.spawn(sending.in_current_span().into_actor(self).map(
            |(sent, moves), cashier: &mut Self, _| {
                if let Some(books) = &mut cashier.paying {
                    books.moving = false;
                }
                match sent {
                    Ok(transactions) => {
                        for transaction in transactions {
                            info!(transaction = %transaction.hash, "a transfer was applied");
                        }
                        for planned in moves {
                            info!(?planned, "deposits moved");
                        }
                    }
                    Err(error) => warn!(%error, ?moves, "deposits were not moved, or nobody knows"),
                }
            },
        ));
    }
}

impl Books {
    /// Channels that may have changed: those never seen first, then those seen longest ago.
    fn to_look_at(&self) -> Result<Vec<TonAddress>, LedgerError> {
        let mut channels = Vec::new();
        self.parts.ledger.for_each_channel(|channel| {
            if is_locking(&channel) {
                channels.push(channel.address);
            }
            Ok(())
        })?;
        channels.sort_by_key(|channel| self.looked.get(channel).copied());
        channels.truncate(MAX_LOOKS);
        Ok(channels)
    }

    /// Writes down what was seen and decides what to do. What is to be closed is noted before its message is sent, and before its
    /// worker is asked.
    fn plan(&mut self, seen: &Seen) -> Result<Vec<Move>, LedgerError> {
        let now = clock::now();
        for state in &seen.channels {
            self.looked.insert(state.address, now);
            self.note(state)?;
        }
        let mut channels = Vec::new();
        self.parts.ledger.for_each_channel(|channel| {
            if is_locking(&channel) {
                channels.push(self.view(&channel));
            }
            Ok(())
        })?;
        let opening = self.locked()?.saturating_sub(locked(&channels));
        let moves = self
            .purse
            .plan(now, seen.unix, seen.wallet, opening, &channels);
        for planned in &moves {
            match planned {
                Move::Together(channel) => {
                    let until = seen.unix.saturating_add(self.parts.purse.together_s);
                    self.parts.ledger.record_releasing(channel, until)?;
                }
                Move::StartClose(channel) => {
                    let delay_s = super::opening::CLOSE_DELAY_S;
                    let close_at = seen.unix.saturating_add(delay_s);
                    self.parts.ledger.record_closing(channel, close_at)?;
                }
                Move::Finish(_) | Move::TopUp { .. } => {}
            }
        }
        Ok(moves)
    }

    fn note(&mut self, state: &ChannelState) -> Result<(), LedgerError> {
        self.seen.insert(state.address, *state);
        let Some(channel) = self.parts.ledger.channel(&state.address)? else {
            return Ok(());
        };
        let ledger = &self.parts.ledger;
        if state.finished {
            if channel.state != ClientChannelState::Closed {
                info!(channel = %state.address, "the rest of a channel has come back");
                ledger.record_closed(&state.address)?;
            }
            self.seen.remove(&state.address);
            self.looked.remove(&state.address);
            return Ok(());
        }
        match (channel.state, state.close_at) {
            (ClientChannelState::Closing { close_at: noted }, Some(close_at))
                if noted != close_at =>
            {
                ledger.record_closing(&state.address, close_at)?;
            }
            (ClientChannelState::Open | ClientChannelState::Releasing { .. }, Some(close_at)) => {
                ledger.record_closing(&state.address, close_at)?;
            }
            (ClientChannelState::Open, None) => {
                let deposit = state.claimed.saturating_add(state.balance);
                // Rent takes a little all the time, claims leave a little behind: no top-up, and not worth a write.
                if deposit >= channel.deposit.saturating_add(NOTED_RISE) {
                    ledger.record_open(&state.address, deposit)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn view(&self, channel: &ClientChannel) -> PurseChannel {
        let phase = match channel.state {
            // What is noted counts until the chain has been looked at.
            ClientChannelState::Closing { close_at } => Phase::Closing {
                close_at: match self.seen.get(&channel.address) {
                    Some(seen) => seen.close_at,
                    None => Some(close_at),
                },
            },
            ClientChannelState::Releasing { until, agreed } => Phase::Together { until, agreed },
            _ => Phase::Open,
        };
        PurseChannel {
            address: channel.address,
            worker: channel.worker,
            available: channel.available(),
            locked: self.locked_in(channel),
            phase,
            leased: self.leased.contains_key(&channel.address),
            last_used: channel.signed.map_or(channel.opened, |signed| signed.at),
        }
    }
}

/// Whether a channel was open once and holds something.
fn is_locking(channel: &ClientChannel) -> bool {
    matches!(
        channel.state,
        ClientChannelState::Open
            | ClientChannelState::Releasing { .. }
            | ClientChannelState::Closing { .. }
    )
}
