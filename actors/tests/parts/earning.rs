//! A worker's cashier: channels that real contracts back, vouchers, jobs.

use crate::support::books::{channel_terms, earning, open_channel, store, voucher};
use crate::support::chain::{TestChain, wallet};
use crate::support::{job, milliton, nano, peer, system, until};
use cocoon_actors::ask::{Address, ask, tell};
use cocoon_actors::cashier::earning::{
    Accept, CLOSING_MARGIN_S, ChannelClosing, CloseWorkerJob, Earning, LEAST_CLOSE_DELAY_S,
    OpenWorkerJob, Reconciled, WorkerBooks,
};
use cocoon_actors::cashier::{Cashier, CashierError};
use cocoon_actors::supervision::supervise;
use cocoon_protocol::job::Outcome;
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{ChannelTerms, start_close_message};
use cocoon_settlement::devnet::faucet;
use cocoon_settlement::ledger::{LedgerError, VoucherError, WorkerLedger};
use cocoon_settlement::store::RocksStore;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const CLIENT: u8 = 1;
const WORKER: u8 = 2;

struct Till {
    chain: TestChain,
    cashier: Address<Cashier>,
    ledger: Arc<WorkerLedger<Arc<RocksStore>>>,
    _directory: TempDir,
}

impl Till {
    /// A cashier that may serve.
    async fn new() -> Self {
        let till = Self::unreconciled().await;
        tell(&till.cashier, Reconciled(true)).unwrap();
        till
    }

    async fn unreconciled() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let chain = TestChain::new(&[CLIENT, WORKER]).await;
        let parts: Earning = earning(directory.path(), &chain, WORKER);
        Self {
            ledger: Arc::clone(&parts.ledger),
            cashier: supervise(Cashier::earning(parts)),
            chain,
            _directory: directory,
        }
    }

    async fn channel(&self, nonce: u32) -> TonAddress {
        open_channel(&self.chain, &channel_terms(CLIENT, WORKER, nonce), CLIENT).await
    }

    async fn open(&self, number: u8, channel: TonAddress) -> Result<NanoTon, CashierError> {
        self.open_for(number, channel, milliton(10)).await
    }

    async fn open_for(
        &self,
        number: u8,
        channel: TonAddress,
        needed: NanoTon,
    ) -> Result<NanoTon, CashierError> {
        let open = OpenWorkerJob {
            job: job(number),
            client: peer(CLIENT),
            channel,
            needed,
            credit_window: milliton(1),
            terms: None,
        };
        let opened = ask(&self.cashier, open).await.unwrap();
        opened.map(|channel| channel.held)
    }

    async fn accept(
        &self,
        channel: TonAddress,
        voucher: SignedVoucher,
    ) -> Result<NanoTon, CashierError> {
        let accept = Accept { channel, voucher };
        ask(&self.cashier, accept).await.unwrap()
    }

    async fn close(&self, number: u8, channel: TonAddress) -> Result<(), CashierError> {
        let close = CloseWorkerJob {
            job: job(number),
            channel,
            outcome: Outcome::ClientLost,
            receipt: None,
            cost: NanoTon::ZERO,
        };
        ask(&self.cashier, close).await.unwrap()
    }
}

#[test]
fn nothing_is_served_before_ledger_and_chain_agree_nor_after_they_differ() {
    system(async {
        let till = Till::unreconciled().await;
        let channel = till.channel(0).await;
        for serve in [false, true, false] {
            tell(&till.cashier, Reconciled(serve)).unwrap();
            let opened = till.open(1, channel).await;
            if serve {
                opened.unwrap();
                till.close(1, channel).await.unwrap();
            } else {
                assert!(matches!(opened, Err(CashierError::Unreconciled)));
            }
        }
    });
}

#[test]
fn a_channel_carries_one_job_at_a_time_and_is_free_when_the_job_is_closed_once() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        assert_eq!(till.open(1, channel).await.unwrap(), NanoTon::ZERO);
        let refused = till.open(2, channel).await;
        assert!(matches!(refused, Err(CashierError::InUse(busy)) if busy == channel));

        till.close(1, channel).await.unwrap();
        let again = till.close(1, channel).await;
        assert!(matches!(
            again,
            Err(CashierError::Ledger(LedgerError::JobEnded { .. }))
        ));
        till.open(2, channel).await.unwrap();
    });
}

#[test]
fn two_jobs_that_ask_for_one_channel_at_once_do_not_both_get_it() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        let (first, second) = tokio::join!(till.open(1, channel), till.open(2, channel));
        assert!(first.is_ok());
        assert!(matches!(second, Err(CashierError::InUse(_))));
    });
}

#[test]
fn a_channel_that_would_not_pay_this_worker_surely_is_refused() {
    system(async {
        let till = Till::new().await;

        let nowhere = channel_terms(CLIENT, WORKER, 9).address().unwrap();
        let refused = till.open(1, nowhere).await;
        assert!(matches!(refused, Err(CashierError::NotOpen(_))));

        // Something else than a channel at that address.
        let refused = till.open(1, faucet().unwrap().address()).await;
        assert!(matches!(refused, Err(CashierError::Chain(_))));

        let elsewhere = channel_terms(CLIENT, CLIENT, 0);
        let elsewhere = open_channel(&till.chain, &elsewhere, CLIENT).await;
        let refused = till.open(1, elsewhere).await;
        assert!(matches!(refused, Err(CashierError::NotOurs(_))));

        let hasty = ChannelTerms {
            close_delay_s: LEAST_CLOSE_DELAY_S - 1,
            ..channel_terms(CLIENT, WORKER, 1)
        };
        let hasty = open_channel(&till.chain, &hasty, CLIENT).await;
        let refused = till.open(1, hasty).await;
        assert!(matches!(
            refused,
            Err(CashierError::ClosesTooSoon { delay_s, .. }) if delay_s == LEAST_CLOSE_DELAY_S - 1
        ));

        let closing = till.channel(2).await;
        let close = start_close_message(closing).unwrap();
        let client = wallet(CLIENT);
        client.send(&till.chain.local, &[close]).await.unwrap();
        let refused = till.open(1, closing).await;
        assert!(
            matches!(refused, Err(CashierError::Closing { channel, .. }) if channel == closing)
        );

        // None of them left a job behind.
        assert!(till.ledger.open_jobs().unwrap().is_empty());
    });
}

#[test]
fn a_job_must_fit_into_what_the_channel_has_left_after_older_vouchers() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        let capacity = till.chain.channel(channel).await.unwrap().capacity();

        let refused = till.open_for(1, channel, capacity.saturating_add(nano(1)));
        assert!(matches!(
            refused.await,
            Err(CashierError::Underfunded { capacity: found, .. }) if found == capacity
        ));
        till.open_for(1, channel, capacity).await.unwrap();
        let held = milliton(100);
        till.accept(channel, voucher(channel, held, CLIENT))
            .await
            .unwrap();
        till.close(1, channel).await.unwrap();

        let refused = till.open_for(2, channel, capacity).await;
        assert!(matches!(
            refused,
            Err(CashierError::Underfunded { needed, .. }) if needed == capacity.saturating_add(held)
        ));
        let rest = capacity.saturating_sub(held);
        assert_eq!(till.open_for(2, channel, rest).await.unwrap(), held);
    });
}

#[test]
fn each_bad_voucher_is_refused_by_name_and_changes_nothing() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        let other = till.channel(1).await;
        let capacity = till.chain.channel(channel).await.unwrap().capacity();

        let early = till.accept(channel, voucher(channel, milliton(1), CLIENT));
        assert!(matches!(early.await, Err(CashierError::NotOpen(_))));

        till.open(1, channel).await.unwrap();
        till.open(2, other).await.unwrap();
        let held = milliton(5);
        let good = voucher(channel, held, CLIENT);
        assert_eq!(till.accept(channel, good).await.unwrap(), held);

        let refused = |found: Result<NanoTon, CashierError>| match found {
            Err(CashierError::Voucher(error)) => error,
            other => panic!("not refused: {other:?}"),
        };
        for total in [held, milliton(4), NanoTon::ZERO] {
            let error = refused(till.accept(channel, voucher(channel, total, CLIENT)).await);
            assert_eq!(
                error,
                VoucherError::NotIncreasing {
                    held,
                    offered: total
                }
            );
        }
        let forged = voucher(channel, milliton(6), WORKER);
        assert!(matches!(
            refused(till.accept(channel, forged).await),
            VoucherError::BadSignature { .. }
        ));
        let mut broken = voucher(channel, milliton(6), CLIENT);
        broken.voucher.cumulative = milliton(7);
        assert!(matches!(
            refused(till.accept(channel, broken).await),
            VoucherError::BadSignature { .. }
        ));
        let greedy = voucher(channel, capacity.saturating_add(nano(1)), CLIENT);
        assert!(matches!(
            refused(till.accept(channel, greedy).await),
            VoucherError::Underfunded { .. }
        ));
        // Properly signed, for the client's other channel: money that is due there, not here.
        let crossed = voucher(other, milliton(6), CLIENT);
        assert_eq!(
            refused(till.accept(channel, crossed).await),
            VoucherError::OtherChannel {
                found: other,
                wanted: channel
            }
        );
        let held_on = |address| till.ledger.channel(&address).unwrap().unwrap().held_total();
        assert_eq!(held_on(channel), held);
        assert_eq!(held_on(other), NanoTon::ZERO);
    });
}

#[test]
fn a_client_that_closes_ends_no_job_until_little_time_is_left_and_its_last_voucher_is_kept() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        till.open(1, channel).await.unwrap();
        let now = u32::try_from(cocoon_actors::clock::now().seconds()).unwrap();
        for (left_s, total, goes_on) in [
            (LEAST_CLOSE_DELAY_S, 5, true),
            (CLOSING_MARGIN_S + 60, 6, true),
            (CLOSING_MARGIN_S - 60, 7, false),
            (0, 8, false),
        ] {
            let close_at = now + left_s;
            tell(&till.cashier, ChannelClosing { channel, close_at }).unwrap();
            let total = milliton(total);
            let accepted = till.accept(channel, voucher(channel, total, CLIENT)).await;
            if goes_on {
                assert_eq!(accepted.unwrap(), total);
            } else {
                assert!(
                    matches!(accepted, Err(CashierError::Closing { close_at: said, .. }) if said == close_at)
                );
            }
            let held = till.ledger.channel(&channel).unwrap().unwrap().held_total();
            assert_eq!(held, total, "what was signed is kept in any case");
        }
    });
}

#[test]
fn a_job_whose_session_is_gone_before_it_began_leaves_its_channel_free() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        {
            let mut asking = Box::pin(till.open(1, channel));
            assert!(futures::poll!(asking.as_mut()).is_pending());
        }
        let ended = || {
            let job = till.ledger.job(&job(1)).unwrap();
            job.is_some_and(|job| job.end.is_some())
        };
        until("the job's end", ended).await;
        till.open(2, channel).await.unwrap();
        let books = ask(&till.cashier, WorkerBooks).await.unwrap().unwrap();
        assert_eq!(books.open_jobs, 1);
    });
}

const DIRECTORY: &str = "COCOON_EARNING_DIRECTORY";

/// Runs in a process of its own, by the test below, and dies at the very answer.
#[test]
#[ignore = "a part of the test below, which runs it as a process of its own"]
fn child_that_dies_with_the_answer() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    system(async {
        let chain = TestChain::new(&[CLIENT, WORKER]).await;
        let parts = earning(&PathBuf::from(directory), &chain, WORKER);
        let cashier = supervise(Cashier::earning(parts));
        tell(&cashier, Reconciled(true)).unwrap();
        let till = Till {
            chain,
            ledger: Arc::new(WorkerLedger::new(store(
                tempfile::tempdir().unwrap().path(),
            ))),
            cashier,
            _directory: tempfile::tempdir().unwrap(),
        };
        let channel = till.channel(0).await;
        till.open(1, channel).await.unwrap();
        let voucher = voucher(channel, milliton(7), CLIENT);
        till.accept(channel, voucher).await.unwrap();
        // No destructor runs, no buffer is flushed.
        std::process::abort();
    });
}

#[test]
fn a_voucher_is_on_disk_before_the_answer_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("earning::child_that_dies_with_the_answer")
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), None, "it must die: {said}");

    let ledger = WorkerLedger::new(store(directory.path()));
    let mut held = Vec::new();
    ledger
        .for_each_channel(|channel| {
            held.push(channel.held_total());
            Ok(())
        })
        .unwrap();
    assert_eq!(held, [milliton(7)], "{said}");
    // And the job that it died in is ended, once, with an entry for what was paid.
    let recovered = ledger.recover(cocoon_actors::clock::now()).unwrap();
    assert_eq!(recovered.len(), 1);
    let entry = recovered[0].entry.as_ref().unwrap();
    assert_eq!(entry.credited, milliton(7));
}

#[test]
fn clients_that_do_not_pay_get_a_bounded_credit_and_those_that_did_are_served_on() {
    system(async {
        let till = Till::new().await;
        let paying = till.channel(0).await;
        till.open(1, paying).await.unwrap();
        till.accept(paying, voucher(paying, milliton(20), CLIENT))
            .await
            .unwrap();
        till.close(1, paying).await.unwrap();
        // Strangers, each with a channel and a name of its own, take a window each and are gone.
        let mut served = 0;
        for number in 2..12 {
            let channel = till.channel(u32::from(number)).await;
            let open = OpenWorkerJob {
                job: job(number),
                client: peer(number + 100),
                channel,
                needed: milliton(10),
                credit_window: milliton(1),
                terms: None,
            };
            match ask(&till.cashier, open).await.unwrap() {
                Ok(_) => served += 1,
                Err(error) => {
                    assert!(matches!(error, CashierError::Credit(_)), "{error}");
                    continue;
                }
            }
            let close = CloseWorkerJob {
                job: job(number),
                channel,
                outcome: Outcome::ClientLost,
                receipt: None,
                cost: milliton(1),
            };
            ask(&till.cashier, close).await.unwrap().unwrap();
        }
        assert_eq!(served, 6);
        till.open(20, paying).await.unwrap();
    });
}

#[test]
fn a_client_that_leaves_its_windows_unpaid_is_refused_until_it_pays() {
    system(async {
        let till = Till::new().await;
        let channel = till.channel(0).await;
        let close = |number, cost| CloseWorkerJob {
            job: job(number),
            channel,
            outcome: Outcome::ClientLost,
            receipt: None,
            cost,
        };
        for number in 1..=3 {
            till.open(number, channel).await.unwrap();
            let closed = ask(&till.cashier, close(number, milliton(1))).await;
            closed.unwrap().unwrap();
        }
        let refused = till.open(4, channel).await;
        assert!(matches!(refused, Err(CashierError::Credit(_))));
        assert!(till.ledger.open_jobs().unwrap().is_empty());
    });
}

#[test]
fn while_the_head_is_unverifiable_known_channels_are_served_up_to_the_risk_limit() {
    system(async {
        let till = Till::new().await;
        let (known, fresh) = (till.channel(0).await, till.channel(1).await);
        till.open(1, known).await.unwrap();
        till.close(1, known).await.unwrap();
        till.chain.verifiable(false);
        let refused = till.open(2, fresh).await;
        assert!(matches!(refused, Err(CashierError::Unproved(channel)) if channel == fresh));
        // A job may cost 10, and 100 may be risked.
        for number in 3..13 {
            till.open(number, known).await.unwrap();
            till.close(number, known).await.unwrap();
        }
        let refused = till.open(13, known).await;
        assert!(matches!(refused, Err(CashierError::Doubt(_))));
        assert!(till.ledger.open_jobs().unwrap().is_empty());
        till.chain.verifiable(true);
        till.open(14, fresh).await.unwrap();
    });
}
