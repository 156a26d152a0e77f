//! A client's cashier: channels that it opens on chain, whatever happens on the way.

use crate::support::books::{channel_terms, payer, paying, voucher};
use crate::support::chain::{Fate, TestChain, wallet};
use crate::support::{job, milliton, nano, peer, system, until, until_async};
use cocoon_actors::ask::{Address, ask, tell};
use cocoon_actors::cashier::paying::{
    AwaitOpen, ClientBooks, CloseClientJob, LeaseChannel, LeasedChannel, MAX_CHANNELS_PER_WORKER,
    Paying, Sign,
};
use cocoon_actors::cashier::{CLOSE_DELAY_S, Cashier, CashierError};
use cocoon_actors::clock;
use cocoon_actors::supervision::Stop;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::{Chain, ChainError};
use cocoon_settlement::contract::{claim_message, open_message};
use cocoon_settlement::ledger::{ChannelOpening, ClientChannel, ClientChannelState, LedgerError};
use std::collections::BTreeSet;
use tempfile::TempDir;

const CLIENT: u8 = 1;
const WORKER: u8 = 2;
const OTHER: u8 = 3;

struct Purse {
    chain: TestChain,
    parts: Paying,
    cashier: Address<Cashier>,
    _directory: TempDir,
}

impl Purse {
    async fn new() -> Self {
        Self::funded(&[CLIENT]).await
    }

    async fn funded(seeds: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let chain = TestChain::new(seeds).await;
        let parts = paying(directory.path(), &chain, CLIENT);
        Self {
            cashier: payer(&parts),
            chain,
            parts,
            _directory: directory,
        }
    }

    /// What a crash leaves: the same books, a new cashier.
    fn crash(&mut self) {
        self.cashier = payer(&self.parts);
    }

    fn query(number: u8, worker: u8) -> LeaseChannel {
        LeaseChannel {
            job: job(number),
            worker: peer(worker),
            payout: wallet(worker).address(),
            needed: milliton(10),
        }
    }

    /// A channel that is open on chain.
    async fn lease(&self, number: u8) -> Result<LeasedChannel, CashierError> {
        self.lease_as(Self::query(number, WORKER)).await
    }

    async fn lease_as(&self, query: LeaseChannel) -> Result<LeasedChannel, CashierError> {
        let leased = ask(&self.cashier, query).await.unwrap()?;
        if leased.opening.is_some()
            && let Err(error) = ask(&self.cashier, AwaitOpen(leased.address)).await.unwrap()
        {
            let close = CloseClientJob {
                job: query.job,
                channel: leased.address,
                outcome: Outcome::Cancelled,
                receipt: None,
            };
            ask(&self.cashier, close).await.unwrap().unwrap();
            return Err(error);
        }
        Ok(leased)
    }

    async fn close(&self, number: u8, channel: TonAddress) -> Result<(), CashierError> {
        let close = CloseClientJob {
            job: job(number),
            channel,
            outcome: Outcome::Cancelled,
            receipt: None,
        };
        ask(&self.cashier, close).await.unwrap()
    }

    fn channels(&self) -> Vec<ClientChannel> {
        let mut channels = Vec::new();
        self.parts
            .ledger
            .for_each_channel(|channel| {
                channels.push(channel);
                Ok(())
            })
            .unwrap();
        channels
    }

    fn only_channel(&self) -> ClientChannel {
        let channels = self.channels();
        assert_eq!(channels.len(), 1);
        channels[0].clone()
    }

    /// Deposits that have left the wallet.
    async fn deposits(&self) -> usize {
        let history = self.chain.history(self.parts.address).await;
        let sent = history.iter().flat_map(|transaction| &transaction.sent);
        sent.filter(|transfer| transfer.value == self.parts.purse.deposit)
            .count()
    }
}

#[test]
fn a_job_opens_a_channel_once_and_the_next_one_uses_it_again() {
    system(async {
        let purse = Purse::new().await;
        let leased = purse.lease(1).await.unwrap();
        assert_eq!(leased.signed, NanoTon::ZERO);
        let on_chain = purse.chain.channel(leased.address).await.unwrap();
        let recorded = purse.only_channel();
        assert_eq!(recorded.state, ClientChannelState::Open);
        assert_eq!(recorded.deposit, on_chain.balance);

        let sign = Sign {
            channel: leased.address,
            cumulative: milliton(3),
        };
        ask(&purse.cashier, sign).await.unwrap().unwrap();
        purse.close(1, leased.address).await.unwrap();
        let again = purse.close(1, leased.address).await;
        assert!(matches!(
            again,
            Err(CashierError::Ledger(LedgerError::JobEnded { .. }))
        ));

        let second = purse.lease(2).await.unwrap();
        assert_eq!(second.address, leased.address);
        assert_eq!(second.signed, milliton(3));
        assert_eq!(
            second.newest.unwrap().voucher.cumulative,
            milliton(3),
            "for a worker that never got it"
        );
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn two_jobs_at_once_open_a_channel_each_and_each_of_them_once() {
    system(async {
        let purse = Purse::new().await;
        let (first, second) = tokio::join!(purse.lease(1), purse.lease(2));
        let addresses = BTreeSet::from([first.unwrap().address, second.unwrap().address]);
        assert_eq!(addresses.len(), 2, "a channel carries one job at a time");
        assert_eq!(purse.deposits().await, 2);
        let channels = purse.channels();
        let nonces: BTreeSet<_> = channels.iter().map(|channel| channel.terms.nonce).collect();
        assert_eq!(nonces, BTreeSet::from([0, 1]));
        for channel in channels {
            assert_eq!(channel.state, ClientChannelState::Open);
            assert!(addresses.contains(&channel.address));
        }
        // Free again, they serve two more.
        for (number, address) in [1, 2].into_iter().zip(addresses) {
            // Which job has which channel does not matter to the books.
            purse.close(number, address).await.unwrap();
        }
        let (third, fourth) = tokio::join!(purse.lease(3), purse.lease(4));
        assert_ne!(third.unwrap().address, fourth.unwrap().address);
        assert_eq!(purse.deposits().await, 2);
    });
}

#[test]
fn openings_that_run_count_against_the_limit_of_channels_to_one_worker() {
    system(async {
        let purse = Purse::new().await;
        let jobs = (0..10).map(|number| purse.lease(number));
        let outcomes = futures::future::join_all(jobs).await;
        let leased: BTreeSet<_> = outcomes
            .iter()
            .filter_map(|outcome| Some(outcome.as_ref().ok()?.address))
            .collect();
        assert_eq!(leased.len(), MAX_CHANNELS_PER_WORKER);
        for outcome in outcomes {
            if let Err(error) = outcome {
                assert!(matches!(
                    error,
                    CashierError::ChannelsBusy {
                        limit: MAX_CHANNELS_PER_WORKER,
                        ..
                    }
                ));
            }
        }
        assert_eq!(purse.deposits().await, MAX_CHANNELS_PER_WORKER);
        // Another worker is another matter.
        let other = ask(&purse.cashier, Purse::query(20, OTHER)).await;
        other.unwrap().unwrap();
    });
}

#[test]
fn a_job_that_no_channel_could_pay_for_opens_none() {
    system(async {
        let purse = Purse::new().await;
        let greedy = LeaseChannel {
            needed: purse.parts.purse.deposit,
            ..Purse::query(1, WORKER)
        };
        let refused = ask(&purse.cashier, greedy).await.unwrap();
        assert!(matches!(
            refused,
            Err(CashierError::DepositTooSmall { needed, deposit }) if needed == deposit
        ));
        assert!(purse.channels().is_empty());
    });
}

#[test]
fn an_empty_wallet_is_an_error_with_numbers_and_writes_no_channel_down() {
    system(async {
        let purse = Purse::funded(&[]).await;
        for number in 0..3 {
            let refused = purse.lease(number).await;
            assert!(matches!(
                refused,
                Err(CashierError::Chain(ChainError::InsufficientBalance {
                    available: NanoTon::ZERO,
                    ..
                }))
            ));
        }
        assert!(purse.channels().is_empty());
        let books = ask(&purse.cashier, ClientBooks).await.unwrap().unwrap();
        assert_eq!(books.open_jobs, 0);
    });
}

#[test]
fn a_refused_transfer_ends_the_opening_at_once() {
    system(async {
        let purse = Purse::new().await;
        purse.chain.next(Fate::Refused);
        let refused = purse.lease(1).await;
        assert!(matches!(
            refused,
            Err(CashierError::Chain(ChainError::NotAccepted { .. }))
        ));
        assert_eq!(purse.only_channel().state, ClientChannelState::Closed);
        // Its nonce is not used again.
        purse.lease(2).await.unwrap();
        assert_eq!(purse.channels().len(), 2);
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn a_transfer_that_was_lost_lapses_when_it_can_no_longer_be_applied_and_not_before() {
    system(async {
        let mut purse = Purse::new().await;
        purse.chain.next(Fate::Lost);
        let lost = purse.lease(1).await;
        assert!(matches!(
            lost,
            Err(CashierError::Chain(ChainError::Unreachable { .. }))
        ));
        let ClientChannelState::Opening { valid_until, .. } = purse.only_channel().state else {
            panic!("not opening: {:?}", purse.only_channel());
        };

        // In its last valid second it is still in doubt, here and after a crash.
        let unix = purse.chain.head().await.unwrap().unix;
        purse.chain.pass(valid_until - unix);
        for _ in 0..3 {
            purse.crash();
            ask(&purse.cashier, ClientBooks).await.unwrap().unwrap();
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            assert!(matches!(
                purse.only_channel().state,
                ClientChannelState::Opening { .. }
            ));
        }
        purse.chain.pass(1);
        // A restart by the supervisor looks as a start of the process does.
        tell(&purse.cashier, Stop).unwrap();
        until("the end of the opening", || {
            purse.only_channel().state == ClientChannelState::Closed
        })
        .await;
        assert_eq!(purse.deposits().await, 0);
    });
}

#[test]
fn an_opening_whose_answer_was_lost_is_found_without_a_restart_and_not_paid_twice() {
    system(async {
        let purse = Purse::new().await;
        purse.chain.next(Fate::AnswerLost);
        purse.lease(1).await.unwrap_err();
        assert_eq!(purse.deposits().await, 1);
        // The cashier looks from time to time, by itself.
        until("the channel", || {
            purse.only_channel().state == ClientChannelState::Open
        })
        .await;
        let leased = purse.lease(2).await.unwrap();
        assert_eq!(leased.address, purse.only_channel().address);
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn openings_in_doubt_count_against_the_limit_too() {
    system(async {
        let purse = Purse::new().await;
        for number in 0..4 {
            purse.chain.next(Fate::Lost);
            purse.lease(number).await.unwrap_err();
        }
        let refused = purse.lease(9).await;
        assert!(matches!(refused, Err(CashierError::ChannelsBusy { .. })));
    });
}

/// Writes an opening down and, if `send`, sends its message: where a process may have died.
async fn begin_opening(purse: &Purse, send: bool) -> TonAddress {
    let terms = channel_terms(CLIENT, WORKER, 0);
    let address = terms.address().unwrap();
    let open = open_message(&terms, purse.parts.purse.deposit).unwrap();
    let transfer = wallet(CLIENT)
        .prepare(&purse.chain.local, &[open])
        .await
        .unwrap();
    let opening = ChannelOpening {
        worker: peer(WORKER),
        address,
        terms,
        deposit: purse.parts.purse.deposit,
        reserve: milliton(5),
        valid_until: transfer.valid_until,
    };
    purse
        .parts
        .ledger
        .open_channel(opening, clock::now())
        .unwrap();
    if send {
        let ledger = &purse.parts.ledger;
        ledger
            .record_opening_sent(&address, transfer.message)
            .unwrap();
        let local = &purse.chain.local;
        let message = local.send_external(&transfer.boc).await.unwrap();
        assert_eq!(message, transfer.message, "the hash is known before");
    }
    address
}

#[test]
fn an_opening_that_a_crash_interrupted_after_sending_is_taken_up() {
    system(async {
        let mut purse = Purse::new().await;
        let address = begin_opening(&purse, true).await;
        // Long after: what counts is what was applied, not what could be.
        purse.chain.pass(10_000);
        purse.crash();
        until("the channel", || {
            purse.only_channel().state == ClientChannelState::Open
        })
        .await;
        assert_eq!(purse.lease(1).await.unwrap().address, address);
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn an_opening_that_a_crash_interrupted_before_sending_lapses() {
    system(async {
        let mut purse = Purse::new().await;
        let address = begin_opening(&purse, false).await;
        purse.chain.pass(10_000);
        purse.crash();
        until("the end of the opening", || {
            purse.only_channel().state == ClientChannelState::Closed
        })
        .await;
        let leased = purse.lease(1).await.unwrap();
        assert_ne!(leased.address, address);
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn a_deposit_that_was_paid_is_waited_for_however_long_its_channel_takes() {
    system(async {
        let mut purse = Purse::new().await;
        let address = begin_opening(&purse, true).await;
        purse.chain.hide(address);
        purse.chain.pass(10_000);
        purse.crash();
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
        assert!(
            matches!(
                purse.only_channel().state,
                ClientChannelState::Opening { .. }
            ),
            "a deposit was given up: {:?}",
            purse.only_channel()
        );
        purse.chain.show(address);
        purse.crash();
        until("the channel", || {
            purse.only_channel().state == ClientChannelState::Open
        })
        .await;
    });
}

#[test]
fn a_channel_whose_job_is_gone_when_it_opens_is_free_for_the_next() {
    system(async {
        let purse = Purse::new().await;
        {
            let mut asking = Box::pin(purse.lease(1));
            assert!(futures::poll!(asking.as_mut()).is_pending());
        }
        let ended = || {
            let job = purse.parts.ledger.job(&job(1)).unwrap();
            job.is_some_and(|job| job.end.is_some())
        };
        until("the job's end", ended).await;
        let leased = purse.lease(2).await.unwrap();
        assert_eq!(leased.address, purse.only_channel().address);
        assert_eq!(purse.deposits().await, 1);
    });
}

#[test]
fn nothing_is_signed_beyond_what_the_channel_can_pay() {
    system(async {
        let purse = Purse::new().await;
        let leased = purse.lease(1).await.unwrap();
        let most = purse.only_channel().spendable();
        let sign = |cumulative| {
            let channel = leased.address;
            ask(
                &purse.cashier,
                Sign {
                    channel,
                    cumulative,
                },
            )
        };
        let refused = sign(most.saturating_add(nano(1))).await.unwrap();
        assert!(matches!(
            refused,
            Err(CashierError::Ledger(
                LedgerError::InsufficientDeposit { .. }
            ))
        ));
        sign(most).await.unwrap().unwrap();
        let on_chain = purse.chain.channel(leased.address).await.unwrap();
        assert!(most <= on_chain.capacity());
    });
}

/// A purse whose channels are closed as soon as no job is on them.
async fn hasty() -> Purse {
    let directory = tempfile::tempdir().unwrap();
    let chain = TestChain::new(&[CLIENT, WORKER]).await;
    let mut parts = paying(directory.path(), &chain, CLIENT);
    parts.purse.unused_ms = 0;
    parts.purse.retry_ms = 0;
    Purse {
        cashier: payer(&parts),
        chain,
        parts,
        _directory: directory,
    }
}

#[test]
fn an_unused_channel_is_closed_by_itself_and_what_was_not_promised_comes_back() {
    system(async {
        let purse = hasty().await;
        let before = purse.chain.balance(purse.parts.address).await;
        let leased = purse.lease(1).await.unwrap();
        let sign = Sign {
            channel: leased.address,
            cumulative: milliton(30),
        };
        ask(&purse.cashier, sign).await.unwrap().unwrap();
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let on_chain = purse.chain.channel(leased.address).await.unwrap();
        assert!(on_chain.is_open(), "a channel with a job on it was closed");

        purse.close(1, leased.address).await.unwrap();
        until("the wish to close", || {
            matches!(
                purse.only_channel().state,
                ClientChannelState::Closing { .. }
            )
        })
        .await;
        // Nothing is signed on it any more, and the next job has another channel.
        let sign = Sign {
            channel: leased.address,
            cumulative: milliton(40),
        };
        let refused = ask(&purse.cashier, sign).await.unwrap();
        assert!(matches!(
            refused,
            Err(CashierError::Ledger(LedgerError::ChannelNotOpen(_)))
        ));
        until_async("the close on chain", async || {
            let on_chain = purse.chain.channel(leased.address).await.unwrap();
            on_chain.close_at.is_some()
        })
        .await;
        // The worker claims what was promised.
        let voucher = voucher(leased.address, milliton(30), CLIENT);
        let claim = claim_message(&voucher).unwrap();
        purse.chain.local.send_external(&claim).await.unwrap();
        purse.chain.pass(CLOSE_DELAY_S + 1);
        until("the end", || {
            purse.only_channel().state == ClientChannelState::Closed
        })
        .await;
        let after = purse.chain.balance(purse.parts.address).await;
        let gone = before.checked_sub(after).unwrap();
        let fees = gone.checked_sub(milliton(30)).unwrap();
        assert!(fees < milliton(10), "{fees} of fees");
    });
}

#[test]
fn a_wish_to_close_that_was_lost_is_sent_again() {
    system(async {
        let purse = hasty().await;
        let leased = purse.lease(1).await.unwrap();
        purse.chain.next(Fate::Refused);
        purse.close(1, leased.address).await.unwrap();
        until_async("the close on chain", async || {
            let on_chain = purse.chain.channel(leased.address).await.unwrap();
            on_chain.close_at.is_some()
        })
        .await;
        assert!(purse.chain.is_ordinary());
    });
}

#[test]
fn a_used_channel_is_topped_up_before_it_is_empty() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = TestChain::new(&[CLIENT]).await;
        let mut parts = paying(directory.path(), &chain, CLIENT);
        parts.purse.quiet_ms = 0;
        let purse = Purse {
            cashier: payer(&parts),
            chain,
            parts,
            _directory: directory,
        };
        let leased = purse.lease(1).await.unwrap();
        let sign = Sign {
            channel: leased.address,
            cumulative: milliton(900),
        };
        ask(&purse.cashier, sign).await.unwrap().unwrap();
        until("the top-up", || {
            purse.only_channel().available() > milliton(900)
        })
        .await;
        let recorded = purse.only_channel();
        let on_chain = purse.chain.channel(leased.address).await.unwrap();
        assert_eq!(recorded.deposit, on_chain.balance);
        assert!(recorded.spendable() <= on_chain.capacity());
        assert_eq!(recorded.signed_total(), milliton(900), "it pays on");
    });
}

#[test]
fn channels_lock_no_more_than_the_limit() {
    system(async {
        let directory = tempfile::tempdir().unwrap();
        let chain = TestChain::new(&[CLIENT]).await;
        let mut parts = paying(directory.path(), &chain, CLIENT);
        parts.purse.total = milliton(2_500);
        let purse = Purse {
            cashier: payer(&parts),
            chain,
            parts,
            _directory: directory,
        };
        let (one, two) = tokio::join!(purse.lease(1), purse.lease(2));
        one.unwrap();
        two.unwrap();
        // What is left is enough for the job, so it is what the third gets.
        let third = purse.lease(3).await.unwrap();
        let on_chain = purse.chain.channel(third.address).await.unwrap();
        assert!(on_chain.balance <= milliton(501));
        let refused = purse.lease(4).await;
        assert!(matches!(refused, Err(CashierError::TooMuchLocked(_))));
        let locked = purse.channels().iter().fold(NanoTon::ZERO, |sum, channel| {
            sum.saturating_add(channel.deposit)
        });
        assert!(locked <= milliton(2_500), "{locked}");
    });
}

#[test]
fn while_the_head_is_unverifiable_nothing_is_deposited_and_little_is_spent() {
    system(async {
        let purse = Purse::new().await;
        let leased = purse.lease(1).await.unwrap();
        purse.close(1, leased.address).await.unwrap();
        purse.chain.verifiable(false);
        // A job costs 10 at most, and 100 may be risked.
        for number in 2..12 {
            let leased = purse.lease(number).await.unwrap();
            purse.close(number, leased.address).await.unwrap();
        }
        let refused = purse.lease(12).await;
        assert!(matches!(refused, Err(CashierError::Doubt(_))));
        let other = ask(&purse.cashier, Purse::query(13, OTHER)).await.unwrap();
        assert!(matches!(other, Err(CashierError::Unverifiable(_))));
        assert_eq!(purse.deposits().await, 1);
        purse.chain.verifiable(true);
        purse.lease(14).await.unwrap();
    });
}
