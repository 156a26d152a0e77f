//! Gathers where a node's money is, from its ledgers and the chain.

use crate::ask::{Address, ask};
use crate::cashier::Cashier;
use crate::cashier::earning::{CreditGiven, WorkerBooks};
use crate::cashier::paying::{ChannelFunds, ClientFunds};
use crate::gateway::from_ask;
use crate::gateway_port::{
    EarningChannel, EarningFunds, EarningTotals, Funds, GatewayError, LockState, LockedChannel,
    LockedTotals, MAX_EARNING_CHANNELS, MAX_RECLAIMED, PayingFunds, Reclaimed,
};
use crate::metrics::Metrics;
use crate::view::{View, internal};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::chain::wire::MAX_TRANSACTIONS_PER_PAGE;
use cocoon_settlement::contract::{CHANNEL_RESERVE, ChannelState, fetch_channel};
use cocoon_settlement::ledger::{ClientChannelState, WorkerSummary};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for one answer of the chain; without it the ledger's word is shown, and said to be that.
const CHAIN_PATIENCE: Duration = Duration::from_secs(2);
/// Channels looked up on chain at once, for one answer; of the others the last look is shown.
const MAX_LOOKS: usize = 64;

impl View {
    /// Where every nanoTON is. Sets the gauges too.
    pub(crate) async fn gather_funds(&self) -> Result<Funds, GatewayError> {
        let mut funds = Funds::default();
        let (Some((address, chain)), Some(cashier)) = (&self.wallet, &self.cashier) else {
            return Ok(funds);
        };
        let wallet = balance(chain.as_ref(), *address).await;
        funds.wallet = Some(address.to_string());
        funds.wallet_nanoton = wallet.map(NanoTon::nano);
        if self.settler.is_some() {
            let books = ask(cashier, WorkerBooks).await.map_err(from_ask)?;
            let credit = ask(cashier, CreditGiven).await.map_err(from_ask)?;
            let mut earning = earning(&books.map_err(internal)?);
            let credit = credit.map_err(internal)?;
            earning.totals.credit_nanoton = credit.unpaid.nano();
            earning.totals.first_contact_nanoton = credit.first_contact.nano();
            earning.totals.first_contact_lost_nanoton = credit.first_contact_lost.nano();
            for channel in &mut earning.channels {
                channel.closes_at_unix = credit
                    .closing
                    .iter()
                    .find(|(closing, _)| closing.to_string() == channel.address)
                    .map(|(_, close_at)| *close_at);
            }
            if let Some(ledger) = self.ledger {
                earning.ledger = ledger.to_string();
                let held = balance(chain.as_ref(), ledger).await;
                earning.ledger_nanoton = held.map(NanoTon::nano);
            }
            funds.earning = Some(earning);
        } else {
            funds.paying = Some(self.paying_funds(cashier, chain, *address).await?);
        }
        let standing = chain.standing();
        funds.chain_is_verified = standing.is_sound();
        funds.chain = standing.to_string();
        show(&self.metrics, &funds);
        Ok(funds)
    }

    async fn paying_funds(
        &self,
        cashier: &Address<Cashier>,
        chain: &Arc<dyn Chain>,
        wallet: TonAddress,
    ) -> Result<PayingFunds, GatewayError> {
        let channels = ask(cashier, ClientFunds).await.map_err(from_ask)?;
        let mut channels = channels.map_err(internal)?;
        channels.sort_by_key(|found| found.channel.opened);
        let mut paying = PayingFunds {
            limit_nanoton: self.locked_limit.nano(),
            ..PayingFunds::default()
        };
        let unix = head_unix(chain.as_ref()).await;
        let mut looks = 0_usize;
        for found in &mut channels {
            if found.channel.state == ClientChannelState::Closed {
                continue;
            }
            if looks < MAX_LOOKS {
                looks = looks.saturating_add(1);
                if let Some(state) = look(chain.as_ref(), found.channel.address).await {
                    found.seen = Some(state);
                }
            }
            let line = locked(found, unix);
            add(&mut paying.totals, &line);
            paying.channels.push(line);
        }
        for found in channels.iter().rev() {
            if paying.reclaimed.len() >= MAX_RECLAIMED || looks >= MAX_LOOKS {
                break;
            }
            if found.channel.state == ClientChannelState::Closed {
                looks = looks.saturating_add(1);
                paying
                    .reclaimed
                    .extend(reclaimed(chain.as_ref(), found, wallet).await);
            }
        }
        Ok(paying)
    }
}

async fn balance(chain: &dyn Chain, address: TonAddress) -> Option<NanoTon> {
    let account = tokio::time::timeout(CHAIN_PATIENCE, chain.account(address)).await;
    let account = account.ok()?.ok()?;
    Some(account.map_or(NanoTon::ZERO, |account| account.balance))
}

async fn head_unix(chain: &dyn Chain) -> Option<u32> {
    let head = tokio::time::timeout(CHAIN_PATIENCE, chain.head()).await;
    Some(head.ok()?.ok()?.unix)
}

async fn look(chain: &dyn Chain, channel: TonAddress) -> Option<ChannelState> {
    let look = fetch_channel(chain, channel);
    let seen = tokio::time::timeout(CHAIN_PATIENCE, look).await;
    seen.ok()?.ok()?
}

/// The end of a channel, from its own last transaction; nothing for one that never opened.
async fn reclaimed(
    chain: &dyn Chain,
    found: &ChannelFunds,
    wallet: TonAddress,
) -> Option<Reclaimed> {
    let address = found.channel.address;
    let page = chain.transactions(address, 0, MAX_TRANSACTIONS_PER_PAGE);
    let page = tokio::time::timeout(CHAIN_PATIENCE, page)
        .await
        .ok()?
        .ok()?;
    let (transaction, returned) = page.iter().rev().find_map(|transaction| {
        let sent = transaction
            .sent
            .iter()
            .filter(|sent| sent.destination == wallet);
        let returned = sent.fold(NanoTon::ZERO, |sum, sent| sum.saturating_add(sent.value));
        (returned > NanoTon::ZERO).then_some((transaction, returned))
    })?;
    Some(Reclaimed {
        address: address.to_string(),
        worker: found.channel.worker.to_string(),
        returned_nanoton: returned.nano(),
        at_unix: transaction.unix,
        transaction: transaction.hash.to_string(),
    })
}

/// One channel, taken apart so that the parts add up to what is locked.
fn locked(found: &ChannelFunds, unix: Option<u32>) -> LockedChannel {
    let (channel, seen) = (&found.channel, found.seen.as_ref());
    let claimed = seen.map_or(NanoTon::ZERO, |seen| seen.claimed);
    let inside = seen.map_or(channel.deposit, |seen| seen.balance);
    let signed = channel.signed_total();
    let promised = signed.saturating_sub(claimed).min(inside);
    let rest = inside.saturating_sub(promised);
    let closing = match channel.state {
        ClientChannelState::Closing { close_at } => {
            Some(seen.and_then(|seen| seen.close_at).unwrap_or(close_at))
        }
        _ => seen.and_then(|seen| seen.close_at),
    };
    // What a closing channel kept comes back with the rest.
    let together = matches!(channel.state, ClientChannelState::Releasing { .. });
    let kept = match closing {
        Some(_) => NanoTon::ZERO,
        None if together => NanoTon::ZERO,
        None => channel.reserve.max(CHANNEL_RESERVE).min(rest),
    };
    let state = match (channel.state, closing) {
        (ClientChannelState::Opening { .. }, _) => LockState::Opening,
        (_, Some(close_at)) if unix.is_some_and(|unix| unix >= close_at) => LockState::Finishing,
        (_, Some(_)) => LockState::Closing,
        (ClientChannelState::Releasing { .. }, None) => LockState::ClosingTogether,
        _ => LockState::Open,
    };
    LockedChannel {
        address: channel.address.to_string(),
        worker: channel.worker.to_string(),
        state,
        in_use: found.leased,
        deposit_nanoton: claimed.saturating_add(inside).max(channel.deposit).nano(),
        signed_nanoton: signed.nano(),
        claimed_nanoton: claimed.nano(),
        locked_nanoton: inside.nano(),
        promised_nanoton: promised.nano(),
        free_nanoton: rest.saturating_sub(kept).nano(),
        kept_nanoton: kept.nano(),
        since_unix_ms: channel.opened.millis(),
        used_unix_ms: channel.signed.map(|signed| signed.at.millis()),
        free_at_unix: closing,
        close_delay_s: channel.terms.close_delay_s,
        seen_on_chain: seen.is_some(),
    }
}

fn add(totals: &mut LockedTotals, line: &LockedChannel) {
    let grow = |sum: &mut u64, amount: u64| *sum = sum.saturating_add(amount);
    grow(&mut totals.locked_nanoton, line.locked_nanoton);
    if line.state == LockState::Opening {
        return grow(&mut totals.opening_nanoton, line.locked_nanoton);
    }
    grow(&mut totals.promised_nanoton, line.promised_nanoton);
    if line.state == LockState::Open {
        grow(&mut totals.free_nanoton, line.free_nanoton);
        grow(&mut totals.kept_nanoton, line.kept_nanoton);
    } else {
        let back = line.free_nanoton.saturating_add(line.kept_nanoton);
        grow(&mut totals.returning_nanoton, back);
    }
}

fn earning(books: &WorkerSummary) -> EarningFunds {
    let mut funds = EarningFunds::default();
    for line in &books.channels {
        let claimable = line.covered.saturating_sub(line.claimed);
        let owed = line.held.saturating_sub(line.claimed);
        let pending = line.pending.unwrap_or(NanoTon::ZERO);
        let channel = EarningChannel {
            address: line.channel.to_string(),
            client: line.client.clone(),
            held_nanoton: line.held.nano(),
            claimed_nanoton: line.claimed.nano(),
            uncovered_nanoton: owed.saturating_sub(claimable).nano(),
            claimable_nanoton: claimable.nano(),
            claiming_nanoton: pending.saturating_sub(line.claimed).nano(),
            closes_at_unix: None,
        };
        let totals = &mut funds.totals;
        let grow = |sum: &mut u64, amount: u64| *sum = sum.saturating_add(amount);
        // What is signed on a channel that is not on chain is nobody's money yet.
        if line.expected.is_none() {
            grow(&mut totals.uncovered_nanoton, channel.uncovered_nanoton);
            grow(&mut totals.claimable_nanoton, channel.claimable_nanoton);
        }
        if channel.held_nanoton > 0 {
            funds.channels.push(channel);
        }
    }
    let EarningTotals {
        uncovered_nanoton,
        claimable_nanoton,
        ..
    } = funds.totals;
    funds.totals.claimed_nanoton = books.claimed.nano();
    funds.totals.earned_nanoton = books
        .claimed
        .nano()
        .saturating_add(uncovered_nanoton)
        .saturating_add(claimable_nanoton);
    funds.channels.sort_by_key(|channel| {
        std::cmp::Reverse(channel.held_nanoton.saturating_sub(channel.claimed_nanoton))
    });
    funds.channels.truncate(MAX_EARNING_CHANNELS);
    funds
}

fn show(metrics: &Metrics, funds: &Funds) {
    if let Some(wallet) = funds.wallet_nanoton {
        metrics.funds("wallet", wallet);
    }
    if let Some(paying) = &funds.paying {
        let totals = &paying.totals;
        metrics.funds("opening", totals.opening_nanoton);
        metrics.funds("promised", totals.promised_nanoton);
        metrics.funds("free", totals.free_nanoton);
        metrics.funds("kept", totals.kept_nanoton);
        metrics.funds("returning", totals.returning_nanoton);
    }
    if let Some(earning) = &funds.earning {
        let totals = &earning.totals;
        metrics.funds("uncovered", totals.uncovered_nanoton);
        metrics.funds("claimable", totals.claimable_nanoton);
        metrics.funds("credit", totals.credit_nanoton);
        if let Some(ledger) = earning.ledger_nanoton {
            metrics.funds("ledger", ledger);
        }
    }
    metrics
        .chain_verified
        .set(i64::from(funds.chain_is_verified));
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use cocoon_protocol::{PublicKey32, UnixMillis, ids::Keypair};
    use cocoon_settlement::contract::ChannelTerms;
    use cocoon_settlement::ledger::{ClientChannel, SignedPart, WorkerChannelLine};

    fn address(seed: u8) -> TonAddress {
        TonAddress {
            workchain: 0,
            hash: [seed; 32],
        }
    }

    fn nano(amount: u64) -> NanoTon {
        NanoTon::from_nano(amount)
    }

    fn terms() -> ChannelTerms {
        ChannelTerms {
            client: address(1),
            worker: address(2),
            client_key: PublicKey32::from_bytes([3; 32]),
            nonce: 0,
            close_delay_s: 86_400,
        }
    }

    fn channel(signed: u64, state: ClientChannelState) -> ClientChannel {
        let signed = SignedPart {
            cumulative: nano(signed),
            signature: [0; 64],
            at: UnixMillis::from_millis(7),
        };
        ClientChannel {
            address: address(9),
            worker: Keypair::ed25519_from_bytes([5; 32])
                .unwrap()
                .public()
                .to_peer_id(),
            terms: terms(),
            deposit: nano(1_000_000_000),
            reserve: nano(5_000_000),
            signed: Some(signed),
            opened: UnixMillis::from_millis(1),
            state,
        }
    }

    fn seen(balance: u64, claimed: u64, close_at: Option<u32>) -> ChannelState {
        ChannelState {
            address: address(9),
            terms: terms(),
            balance: nano(balance),
            claimed: nano(claimed),
            close_at,
            finished: false,
            last_lt: 1,
        }
    }

    #[test]
    fn what_a_channel_locks_is_the_sum_of_its_parts_whatever_ledger_and_chain_say() {
        let closing = ClientChannelState::Closing { close_at: 500 };
        let opening = ClientChannelState::Opening {
            valid_until: 1,
            message: None,
        };
        let together = ClientChannelState::Releasing {
            until: 500,
            agreed: true,
        };
        for state in [ClientChannelState::Open, together, closing, opening] {
            for signed in [0, 1, 400_000_000, 996_000_000, u64::MAX] {
                for view in [
                    None,
                    Some(seen(0, 0, None)),
                    Some(seen(1_000_000, 999_000_000, None)),
                    Some(seen(700_000_000, 300_000_000, Some(500))),
                    Some(seen(u64::MAX, u64::MAX, None)),
                ] {
                    let found = ChannelFunds {
                        channel: channel(signed, state),
                        seen: view,
                        leased: false,
                    };
                    let line = locked(&found, Some(499));
                    let parts = [line.promised_nanoton, line.free_nanoton, line.kept_nanoton];
                    assert_eq!(line.locked_nanoton, parts.iter().sum::<u64>(), "{found:?}");
                    let mut totals = LockedTotals::default();
                    add(&mut totals, &line);
                    let sums = [
                        totals.opening_nanoton,
                        totals.promised_nanoton,
                        totals.free_nanoton,
                        totals.kept_nanoton,
                        totals.returning_nanoton,
                    ];
                    assert_eq!(totals.locked_nanoton, sums.iter().sum::<u64>());
                }
            }
        }
    }

    #[test]
    fn a_closing_channel_says_when_its_rest_is_free_and_that_it_is_being_fetched_afterwards() {
        let found = ChannelFunds {
            channel: channel(400_000_000, ClientChannelState::Closing { close_at: 500 }),
            seen: Some(seen(700_000_000, 300_000_000, Some(520))),
            leased: false,
        };
        let before = locked(&found, Some(519));
        assert_eq!(
            (before.state, before.free_at_unix),
            (LockState::Closing, Some(520))
        );
        assert_eq!(before.promised_nanoton, 100_000_000);
        assert_eq!(locked(&found, Some(520)).state, LockState::Finishing);
        let mut totals = LockedTotals::default();
        add(&mut totals, &before);
        assert_eq!(totals.returning_nanoton, 600_000_000);
    }

    #[test]
    fn what_a_worker_earned_is_what_it_was_paid_and_what_it_is_owed() {
        let line = |seed, held, covered, claimed| WorkerChannelLine {
            channel: address(seed),
            client: String::new(),
            held: nano(held),
            entered: nano(held),
            covered: nano(covered),
            claimed: nano(claimed),
            pending: None,
            expected: None,
        };
        let books = WorkerSummary {
            // The last was claimed by somebody else, up to what no commit covers here.
            channels: vec![
                line(1, 100, 70, 30),
                line(2, 900, 900, 0),
                line(3, 50, 10, 40),
                // Signed on a channel that is not there yet.
                WorkerChannelLine {
                    expected: Some(UnixMillis::from_millis(1)),
                    ..line(4, 700, 0, 0)
                },
            ],
            held: nano(1_050),
            credited: nano(1_050),
            committed: nano(980),
            claimed: nano(70),
            unclaimed: nano(980),
            open_jobs: 0,
            entries: 3,
            unsettled_entries: 0,
            batches: Vec::new(),
        };
        let funds = earning(&books);
        let totals = funds.totals;
        assert_eq!(totals.earned_nanoton, 1_050);
        assert_eq!((totals.claimed_nanoton, totals.uncovered_nanoton), (70, 40));
        assert_eq!(totals.claimable_nanoton, 940);
        assert_eq!(
            funds.channels[0].held_nanoton, 900,
            "who owes most comes first"
        );
    }
}
