#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use cocoon_protocol::{Digest, Outcome};

use super::*;
use crate::ledger::testing::{
    GLOBAL_ID, MODEL_MIN_CLAIM, ModelChain, address, at, client_key, job, peer, public, receipt,
    ton, voucher,
};
use crate::ledger::{SCHEMA, TransactionRecord, WorkerLedger, check_voucher};
use crate::store::MemoryStore;

type Ledger = WorkerLedger<MemoryStore>;

/// A worker with its ledger, its settler, a chain, and a driver that records what it was told to do.
struct Worker {
    now: UnixMillis,
    chain: ModelChain,
    ledger: Ledger,
    settler: Settler,
    jobs: u64,
    log: Vec<SettlerOutput>,
    /// What the driver does with messages for the chain.
    link: Link,
}

#[derive(PartialEq)]
enum Link {
    Up,
    /// Messages get through, but the answer is lost.
    Deaf,
    /// Nothing gets through, and nobody says so.
    Down,
}

fn config() -> SettlerConfig {
    SettlerConfig {
        batch_entries: 3,
        batch_credit: ton(1_000),
        batch_age_ms: 60_000,
        commit_ttl_s: 20,
        claim_retry_s: 20,
        claim_fee: ton(1),
        commit_fee: ton(1),
        claim_fee_multiple: 100,
        contract_min_claim: ton(MODEL_MIN_CLAIM),
        look_ms: 1_000,
        idle_look_ms: 10_000,
        watch_ms: 10_000,
        ..SettlerConfig::new(address(200))
    }
}

impl Worker {
    fn new() -> Self {
        let ledger = WorkerLedger::new(MemoryStore::new(SCHEMA));
        let mut chain = ModelChain::at(1_000);
        chain.deploy_ledger();
        for seed in 1..=3 {
            chain.open(seed, 5_000);
            let key = public(&client_key(seed));
            ledger
                .register_channel(address(seed), peer(seed), key, ton(0))
                .unwrap();
        }
        let settler = Settler::new(config(), ledger.settler_start().unwrap());
        let mut worker = Self {
            now: at(1_000_000),
            chain,
            ledger,
            settler,
            jobs: 0,
            log: Vec::new(),
            link: Link::Up,
        };
        worker.drive(SettlerInput::Tick);
        assert_eq!(worker.settler.standing(), Standing::Sound);
        worker
    }

    /// A job on channel `seed` that brings its total to `cumulative`.
    fn serve(&mut self, seed: u8, cumulative: u64) {
        self.jobs += 1;
        let id = job(self.jobs);
        self.ledger
            .open_job(id, peer(seed), address(seed), self.now)
            .unwrap();
        let channel = self.ledger.channel(&address(seed)).unwrap().unwrap();
        let signed = voucher(seed, cumulative);
        let checked = check_voucher(&signed, &channel, ton(5_000), GLOBAL_ID).unwrap();
        self.ledger.accept_voucher(&checked).unwrap();
        let receipt = receipt(seed, id, cumulative, cumulative);
        self.ledger
            .close_job(&id, &Outcome::Completed, Some(&receipt), self.now)
            .unwrap();
        let unsettled = self.ledger.unsettled().unwrap();
        self.drive(SettlerInput::Unsettled(unsettled));
    }

    fn drive(&mut self, input: SettlerInput) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.settler.handle(self.now, input) {
                self.log.push(output.clone());
                inputs.extend(self.ledger.perform(self.now, &output, 3).unwrap());
                let unix = self.chain.unix;
                match output {
                    SettlerOutput::SubmitCommit(commit) => {
                        let result = match self.link {
                            Link::Down => Err(SendFailure::Unknown),
                            _ => self.chain.send_commit(&commit),
                        };
                        let result = match self.link {
                            Link::Up => result,
                            _ => Err(SendFailure::Unknown),
                        };
                        let seqno = commit.seqno;
                        inputs.push_back(SettlerInput::CommitSent { seqno, result });
                    }
                    SettlerOutput::SubmitClaim { channel, voucher } => {
                        let result = match self.link {
                            Link::Down => Err(SendFailure::Unknown),
                            _ => self.chain.send_claim(&voucher),
                        };
                        let result = match self.link {
                            Link::Up => result,
                            _ => Err(SendFailure::Unknown),
                        };
                        inputs.push_back(SettlerInput::ClaimSent {
                            channel,
                            cumulative: voucher.voucher.cumulative,
                            result,
                        });
                    }
                    SettlerOutput::LookAtLedger => inputs.push_back(SettlerInput::Ledger {
                        unix,
                        view: self.chain.ledger_view(),
                    }),
                    SettlerOutput::LookAtChannel(channel) => {
                        inputs.push_back(SettlerInput::Channel {
                            unix,
                            channel,
                            view: self.chain.channel_view(&channel),
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now = self.now.saturating_add(1_000);
            self.chain.block(1);
            self.drive(SettlerInput::Tick);
        }
    }

    /// The process ends and a new one goes on from the ledger.
    fn restart(&mut self) {
        self.settler = Settler::new(config(), self.ledger.settler_start().unwrap());
        self.log.clear();
        self.drive(SettlerInput::Tick);
    }

    fn count(&self, wanted: impl Fn(&SettlerOutput) -> bool) -> usize {
        self.log.iter().filter(|output| wanted(output)).count()
    }

    fn commits_sent(&self) -> usize {
        self.count(|output| matches!(output, SettlerOutput::SubmitCommit(_)))
    }

    fn claims_sent(&self) -> usize {
        self.count(|output| matches!(output, SettlerOutput::SubmitClaim { .. }))
    }

    fn position(&self, wanted: impl Fn(&SettlerOutput) -> bool) -> usize {
        self.log.iter().position(wanted).unwrap()
    }
}

#[test]
fn a_batch_is_on_disk_before_its_commit_and_claims_wait_for_the_confirmation() {
    let mut worker = Worker::new();
    worker.serve(1, 150);
    worker.serve(2, 120);
    assert_eq!(worker.commits_sent(), 0, "two entries do not make a batch");
    worker.serve(1, 300);
    worker.pass(5);
    let order = [
        worker.position(|output| *output == SettlerOutput::PersistBatch { seqno: 1 }),
        worker.position(|output| matches!(output, SettlerOutput::PersistCommitAttempt { .. })),
        worker.position(|output| matches!(output, SettlerOutput::SubmitCommit(_))),
        worker.position(|output| matches!(output, SettlerOutput::Committed { seqno: 1, .. })),
        worker.position(|output| matches!(output, SettlerOutput::PersistClaimAttempt { .. })),
        worker.position(|output| matches!(output, SettlerOutput::SubmitClaim { .. })),
        worker.position(|output| matches!(output, SettlerOutput::Settled { .. })),
    ];
    assert!(order.is_sorted(), "{:?}", worker.log);
    assert_eq!(worker.chain.channels[&address(1)].paid, [300]);
    assert_eq!(worker.chain.channels[&address(2)].paid, [120]);
    assert_eq!(worker.chain.commits[0].total, ton(420));
    assert_eq!(worker.chain.commits[0].jobs, 3);
    assert!(worker.settler.is_settled());
}

#[test]
fn nothing_is_claimed_beyond_what_the_confirmed_commit_covers() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    // Signed after the batch was cut: the voucher is held, but no commit covers it.
    worker.serve(1, 450);
    worker.pass(5);
    assert_eq!(worker.chain.channels[&address(1)].paid, [300]);
    worker.pass(60);
    assert_eq!(worker.chain.channels[&address(1)].paid, [300, 150]);
}

#[test]
fn old_entries_and_large_credits_make_a_batch_too() {
    let mut worker = Worker::new();
    worker.serve(1, 10);
    worker.pass(58);
    assert_eq!(worker.commits_sent(), 0);
    worker.pass(5);
    assert_eq!(worker.commits_sent(), 1);
    worker.serve(2, 1_000);
    worker.pass(2);
    assert_eq!(worker.commits_sent(), 2);
}

#[test]
fn small_amounts_wait_unless_a_flush_asks_and_dust_waits_even_then() {
    let mut worker = Worker::new();
    worker.serve(1, 60);
    worker.serve(2, 4);
    worker.serve(3, 150);
    worker.pass(30);
    assert_eq!(worker.chain.channels[&address(3)].paid, [150]);
    assert!(worker.chain.channels[&address(1)].paid.is_empty());
    worker.drive(SettlerInput::Flush);
    worker.pass(5);
    assert_eq!(worker.chain.channels[&address(1)].paid, [60]);
    assert!(worker.chain.channels[&address(2)].paid.is_empty());
    assert!(worker.settler.is_settled());
}

#[test]
fn a_flush_lasts_until_the_claims_of_its_own_batch_are_paid() {
    let mut worker = Worker::new();
    worker.serve(1, 60);
    worker.drive(SettlerInput::Flush);
    assert!(!worker.settler.is_settled());
    worker.pass(5);
    assert_eq!(worker.chain.channels[&address(1)].paid, [60]);
    worker.serve(1, 70);
    worker.pass(5);
    assert_eq!(worker.commits_sent(), 1, "the flush is over");
}

#[test]
fn a_closing_channel_is_claimed_whatever_the_threshold() {
    let mut worker = Worker::new();
    for (seed, total) in [(1, 20), (2, 20), (3, 20)] {
        worker.serve(seed, total);
    }
    worker.pass(5);
    assert_eq!(worker.claims_sent(), 0);
    worker.chain.channels.get_mut(&address(2)).unwrap().close_at = Some(9_999);
    worker.pass(15);
    assert_eq!(worker.chain.channels[&address(2)].paid, [20]);
    assert_eq!(worker.claims_sent(), 1);
    let told = |output: &SettlerOutput| {
        let closing = SettlerProblem::ChannelClosing {
            channel: address(2),
            close_at: 9_999,
        };
        *output == SettlerOutput::Problem(closing)
    };
    assert_eq!(worker.count(told), 1);
}

#[test]
fn a_commit_is_repeated_only_when_its_time_has_passed() {
    let mut worker = Worker::new();
    worker.link = Link::Down;
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.pass(19);
    assert_eq!(worker.commits_sent(), 1);
    worker.link = Link::Up;
    worker.pass(3);
    assert_eq!(worker.commits_sent(), 2);
    worker.pass(2);
    assert_eq!(worker.chain.commits.len(), 1);
    assert!(worker.chain.duplicates.is_empty());
}

#[test]
fn a_restart_between_sending_and_confirming_sends_nothing_again() {
    for link in [Link::Up, Link::Deaf] {
        let mut worker = Worker::new();
        worker.link = link;
        for total in [100, 200, 300] {
            worker.serve(1, total);
        }
        assert_eq!(worker.commits_sent(), 1);
        worker.restart();
        assert_eq!(worker.commits_sent(), 0);
        worker.pass(1);
        assert_eq!(worker.commits_sent(), 0);
        assert_eq!(worker.chain.commits.len(), 1);
        assert_eq!(worker.claims_sent(), 1);
        worker.restart();
        worker.pass(3);
        assert_eq!(worker.claims_sent(), 0);
        assert_eq!(worker.chain.channels[&address(1)].paid, [300]);
        assert!(worker.chain.duplicates.is_empty());
        assert!(worker.settler.is_settled());
    }
}

#[test]
fn a_message_the_chain_lost_is_sent_again_after_a_restart_too() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.chain.drop_queue();
    worker.restart();
    worker.pass(30);
    assert_eq!(worker.commits_sent(), 1);
    assert_eq!(worker.chain.channels[&address(1)].paid, [300]);
}

#[test]
fn a_refused_claim_is_told_once_and_tried_again_more_and_more_seldom() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    let channel = address(1);
    worker.chain.block(1);
    worker.settler.handle(worker.now, SettlerInput::Tick);
    worker.drive(SettlerInput::Ledger {
        unix: worker.chain.unix,
        view: worker.chain.ledger_view(),
    });
    assert_eq!(worker.claims_sent(), 1);
    worker.chain.drop_queue();
    let mut sent = 0;
    for _ in 0..40 {
        worker.now = worker.now.saturating_add(1_000);
        let refused = SettlerInput::ClaimSent {
            channel,
            cumulative: ton(300),
            result: Err(SendFailure::Refused {
                exit_code: Some(107),
            }),
        };
        worker
            .log
            .extend(worker.settler.handle(worker.now, refused.clone()));
        // The clock of the chain stands still, so only the refusal allows another attempt.
        let view = SettlerInput::Channel {
            unix: worker.chain.unix,
            channel,
            view: worker.chain.channel_view(&channel),
        };
        for wait in [0, 2_000] {
            worker.now = worker.now.saturating_add(wait);
            let outputs = worker.settler.handle(worker.now, view.clone());
            sent += outputs
                .iter()
                .filter(|output| matches!(output, SettlerOutput::SubmitClaim { .. }))
                .count();
            worker.log.extend(outputs);
        }
    }
    assert!((1..5).contains(&sent), "{sent} attempts in 120 s");
    let told = worker.count(|output| {
        matches!(
            output,
            SettlerOutput::Problem(SettlerProblem::ClaimRefused { .. })
        )
    });
    assert_eq!(told, 1);
}

#[test]
fn a_channel_that_cannot_pay_is_told_once_and_paid_after_a_top_up() {
    let mut worker = Worker::new();
    worker.chain.channels.get_mut(&address(1)).unwrap().deposit = 250;
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.pass(30);
    let told = worker.count(|output| {
        matches!(
            output,
            SettlerOutput::Problem(SettlerProblem::Underfunded { .. })
        )
    });
    assert_eq!((told, worker.claims_sent()), (1, 0));
    assert!(
        worker.settler.is_settled(),
        "there is nothing that could be done"
    );
    worker.chain.channels.get_mut(&address(1)).unwrap().deposit = 300;
    worker.pass(15);
    assert_eq!(worker.chain.channels[&address(1)].paid, [300]);
}

#[test]
fn an_absent_ledger_contract_is_deployed_once_and_then_used() {
    let mut worker = Worker::new();
    worker.chain.ledger = None;
    worker.chain.unix += 1;
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.pass(5);
    let deploys = worker.count(|output| *output == SettlerOutput::DeployLedger);
    assert_eq!((deploys, worker.commits_sent()), (1, 0));
    worker.chain.deploy_ledger();
    worker.pass(3);
    assert_eq!(worker.chain.commits.len(), 1);
}

#[test]
fn a_ledger_restored_from_an_old_copy_is_refused() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.pass(5);
    // The same chain, but the disk of before the first batch.
    let old = Ledger::new(MemoryStore::new(SCHEMA));
    worker.settler = Settler::new(config(), old.settler_start().unwrap());
    worker.log.clear();
    worker.drive(SettlerInput::Tick);
    let reason = RolledBack::ChainAhead {
        chain: 1,
        ledger: 0,
    };
    assert_eq!(worker.settler.standing(), Standing::Refused(reason));
    assert_eq!(
        worker.count(|output| *output == SettlerOutput::RolledBack(reason)),
        1
    );
    // And nothing moves it any more.
    worker.log.clear();
    worker.drive(SettlerInput::Flush);
    worker.pass(3);
    assert!(worker.log.is_empty());
}

#[test]
fn a_cloned_disk_is_refused_when_the_other_copy_committed_first() {
    let mut worker = Worker::new();
    worker.link = Link::Down;
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    // The other copy commits its own batch 1.
    let other = crate::contract::Commit {
        ledger: address(200),
        seqno: 1,
        valid_until: worker.chain.unix + 20,
        root: Digest::sha256(b"another log"),
        jobs: 3,
        total: ton(300),
    };
    worker.chain.send_commit(&other).unwrap();
    worker.pass(2);
    assert!(matches!(
        worker.settler.standing(),
        Standing::Refused(RolledBack::Diverged { seqno: 1, .. })
    ));
    assert_eq!(worker.claims_sent(), 0);
}

#[test]
fn a_lagging_server_is_a_problem_and_no_reason_to_send_anything() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    worker.pass(3);
    let before = worker.commits_sent();
    let stale = LedgerView {
        seqno: 0,
        ..worker.chain.ledger_view().unwrap()
    };
    let unix = worker.chain.unix + 1;
    let late = SettlerInput::Ledger {
        unix,
        view: Some(stale),
    };
    worker.drive(late.clone());
    worker.drive(late);
    let problem = SettlerProblem::ChainBehind {
        chain: 0,
        ledger: 1,
    };
    assert_eq!(
        worker.count(|output| *output == SettlerOutput::Problem(problem)),
        1
    );
    assert_eq!(worker.commits_sent(), before);
    assert_eq!(worker.settler.standing(), Standing::Sound);
}

#[test]
fn nothing_is_served_before_the_chain_was_seen() {
    let ledger = Ledger::new(MemoryStore::new(SCHEMA));
    let mut settler = Settler::new(config(), ledger.settler_start().unwrap());
    assert_eq!(settler.standing(), Standing::Unreconciled);
    assert_eq!(
        settler.handle(at(5), SettlerInput::Tick),
        [SettlerOutput::LookAtLedger]
    );
    assert_eq!(settler.handle(at(6), SettlerInput::Flush), []);
    let view = SettlerInput::Ledger {
        unix: 5,
        view: None,
    };
    settler.handle(at(7), view);
    assert_eq!(settler.standing(), Standing::Sound);
}

#[test]
fn what_is_settled_names_its_transaction_when_it_was_seen_first() {
    let mut worker = Worker::new();
    for total in [100, 200, 300] {
        worker.serve(1, total);
    }
    let transaction = TransactionRecord {
        hash: Digest::sha256(b"transaction"),
        lt: 7,
        gas_used: 2_731,
        fees: ton(300_000),
    };
    let sent = worker.log.iter().find_map(|output| match output {
        SettlerOutput::SubmitCommit(commit) => Some(*commit),
        _ => None,
    });
    let message = Digest::sha256(&sent.unwrap().signed_bytes(GLOBAL_ID));
    worker.drive(SettlerInput::Transaction {
        message,
        success: true,
        transaction,
    });
    worker.pass(1);
    let named = SettlerOutput::Committed {
        seqno: 1,
        transaction: Some(transaction),
    };
    assert_eq!(worker.count(|output| *output == named), 1);
}
