//! Closing together in the ledgers: what is agreed to stays agreed to, and nothing is served or signed after it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;

use cocoon_protocol::voucher::{Release, SignedRelease};
use cocoon_protocol::{Outcome, PublicKey32};

use super::testing::{GLOBAL_ID, address, at, client_key, job, peer, public, ton, voucher};
use super::*;
use crate::contract::ChannelTerms;
use crate::settler::{
    ChannelView, LedgerView, MAX_RELEASE_ATTEMPTS, SendFailure, Settler, SettlerConfig,
    SettlerInput, SettlerOutput, SettlerProblem,
};
use crate::store::MemoryStore;
use crate::store::record::{open_without_checksum, seal};

type Worker = WorkerLedger<Arc<MemoryStore>>;

fn release(seed: u8, total: u64) -> SignedRelease {
    Release {
        channel: address(seed),
        cumulative: ton(total),
    }
    .sign(&client_key(seed), GLOBAL_ID)
}

/// Channel 1 with a job that was paid 100 and has ended.
fn paid() -> (Arc<MemoryStore>, Worker) {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    let ledger = WorkerLedger::new(store.clone());
    let key = public(&client_key(1));
    ledger
        .register_channel(address(1), peer(1), key, ton(0))
        .unwrap();
    ledger.open_job(job(1), peer(1), address(1), at(1)).unwrap();
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    let checked = check_voucher(&voucher(1, 100), &channel, ton(5_000), GLOBAL_ID).unwrap();
    ledger.accept_voucher(&checked).unwrap();
    ledger
        .close_job(&job(1), &Outcome::Completed, None, at(2))
        .unwrap();
    (store, ledger)
}

#[test]
fn only_the_newest_total_signed_by_the_client_with_no_job_on_the_channel_is_agreed_to() {
    let (_, ledger) = paid();
    for total in [0, 99, 101] {
        assert!(matches!(
            ledger.agree_release(&release(1, total), GLOBAL_ID),
            Err(LedgerError::ReleaseTotal { .. })
        ));
    }
    let foreign = SignedRelease {
        signature: release(2, 100).signature,
        ..release(1, 100)
    };
    assert!(matches!(
        ledger.agree_release(&foreign, GLOBAL_ID),
        Err(LedgerError::BadRelease(_))
    ));
    // A voucher for the same total is no release, nor is a release of another network.
    let voucher = SignedRelease {
        signature: voucher(1, 100).signature,
        ..release(1, 100)
    };
    assert!(ledger.agree_release(&voucher, GLOBAL_ID).is_err());
    assert!(
        ledger
            .agree_release(&release(1, 100), GLOBAL_ID + 1)
            .is_err()
    );
    assert!(matches!(
        ledger.agree_release(&release(2, 0), GLOBAL_ID),
        Err(LedgerError::UnknownChannel(_))
    ));
    ledger.open_job(job(2), peer(1), address(1), at(3)).unwrap();
    assert!(matches!(
        ledger.agree_release(&release(1, 100), GLOBAL_ID),
        Err(LedgerError::ChannelBusy(_))
    ));
    ledger
        .close_job(&job(2), &Outcome::Cancelled, None, at(4))
        .unwrap();
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    assert_eq!(channel.release, None, "a refusal leaves nothing behind");
    ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap();
}

#[test]
fn what_was_agreed_to_survives_a_restart_and_nothing_is_served_after_it() {
    let (store, ledger) = paid();
    let agreed = ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap();
    drop(ledger);
    for _ in 0..2 {
        let ledger = WorkerLedger::new(store.clone());
        ledger.recover(at(5)).unwrap();
        assert!(matches!(
            ledger.open_job(job(3), peer(1), address(1), at(6)),
            Err(LedgerError::ChannelReleased(_))
        ));
        let fresh = WorkerChannel {
            held: None,
            ..agreed.clone()
        };
        let checked = check_voucher(&voucher(1, 101), &fresh, ton(5_000), GLOBAL_ID).unwrap();
        assert!(matches!(
            ledger.accept_voucher(&checked),
            Err(LedgerError::ChannelReleased(_))
        ));
        // The client did not hear it and asks again.
        assert_eq!(
            ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap(),
            agreed
        );
        assert!(check(&store, Some(GLOBAL_ID)).unwrap().is_clean());
    }
}

#[test]
fn a_channel_of_version_1_is_read_as_seen_and_without_a_release() {
    let (_, ledger) = paid();
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    let mut body = seal(&channel, &channel_key(&address(1)));
    // Without the checksum, and without the bytes that say "seen on chain" and "no release".
    body.truncate(body.len() - 10);
    body[0] = 1;
    let read = open_without_checksum::<WorkerChannel>(&channel_key(&address(1)), &body);
    assert_eq!(read.unwrap(), channel);
}

/// Drives a settler against what the chain shows, and keeps what it wants sent.
struct Driver {
    ledger: Worker,
    settler: Settler,
    now: u64,
    unix: u32,
    view: ChannelView,
    committed: Option<LedgerView>,
    sent: Vec<&'static str>,
    problems: Vec<SettlerProblem>,
    refuse: bool,
}

impl Driver {
    fn boot(store: &Arc<MemoryStore>, before: Option<&Self>) -> Self {
        let ledger = WorkerLedger::new(store.clone());
        let start = ledger.settler_start().unwrap();
        Self {
            ledger,
            settler: Settler::new(SettlerConfig::new(address(200)), start),
            now: before.map_or(1_000_000, |before| before.now),
            unix: before.map_or(1_000, |before| before.unix),
            view: before.map_or(
                ChannelView {
                    claimed: ton(0),
                    capacity: ton(5_000),
                    close_at: None,
                    finished: false,
                },
                |before| before.view,
            ),
            committed: before.map_or(
                Some(LedgerView {
                    seqno: 0,
                    root: Digest::ZERO,
                    jobs: 0,
                    total: ton(0),
                }),
                |before| before.committed,
            ),
            sent: Vec::new(),
            problems: Vec::new(),
            refuse: false,
        }
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += 1_000;
            self.unix += 1;
            self.drive(SettlerInput::Unsettled(self.ledger.unsettled().unwrap()));
            self.drive(SettlerInput::Tick);
        }
    }

    fn drive(&mut self, input: SettlerInput) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.settler.handle(at(self.now), input) {
                inputs.extend(self.ledger.perform(at(self.now), &output, 100).unwrap());
                match output {
                    SettlerOutput::SubmitCommit(commit) => {
                        self.sent.push("commit");
                        self.committed = Some(LedgerView {
                            seqno: commit.seqno,
                            root: commit.root,
                            jobs: commit.jobs,
                            total: commit.total,
                        });
                    }
                    SettlerOutput::SubmitClaim { .. } => self.sent.push("claim"),
                    SettlerOutput::SubmitRelease(signed) => {
                        assert_eq!(signed, release(1, 100));
                        self.sent.push("release");
                        let channel = address(1);
                        let result = match self.refuse {
                            true => Err(SendFailure::Refused { exit_code: None }),
                            false => Ok(()),
                        };
                        inputs.push_back(SettlerInput::ReleaseSent { channel, result });
                    }
                    SettlerOutput::LookAtLedger => inputs.push_back(SettlerInput::Ledger {
                        unix: self.unix,
                        view: self.committed,
                    }),
                    SettlerOutput::LookAtChannel(channel) => {
                        inputs.push_back(SettlerInput::Channel {
                            unix: self.unix,
                            channel,
                            view: Some(self.view),
                        });
                    }
                    SettlerOutput::Problem(problem) => self.problems.push(problem),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn the_commit_that_covers_the_voucher_comes_first_and_a_restart_sends_nothing_twice() {
    let (store, ledger) = paid();
    ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap();
    drop(ledger);
    // It died between agreeing and sending: neither commit nor release is anywhere but on the disk.
    let mut driver = Driver::boot(&store, None);
    driver.pass(5);
    assert_eq!(driver.sent, ["commit", "release"]);
    // It died between sending and seeing: the first one is still valid.
    let mut driver = Driver::boot(&store, Some(&driver));
    driver.pass(30);
    assert_eq!(driver.sent, [""; 0]);
    driver.pass(90);
    assert_eq!(driver.sent, ["release"]);
    // It took effect.
    driver.view.claimed = ton(100);
    driver.view.finished = true;
    driver.pass(5);
    let channel = driver.ledger.channel(&address(1)).unwrap().unwrap();
    assert_eq!(channel.claimed, ton(100));
    assert!(channel.release.is_some_and(|release| release.done));
    assert_eq!(driver.problems, []);
    assert!(check(&store, Some(GLOBAL_ID)).unwrap().is_clean());
    // For good: nothing is left to do after the next start.
    let mut driver = Driver::boot(&store, Some(&driver));
    driver.pass(200);
    assert_eq!(driver.sent, [""; 0]);
    assert!(matches!(
        driver.ledger.open_job(job(3), peer(1), address(1), at(6)),
        Err(LedgerError::ChannelReleased(_))
    ));
}

#[test]
fn a_release_that_the_chain_never_takes_costs_three_fees_at_most_and_then_the_voucher_is_claimed() {
    let (store, ledger) = paid();
    ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap();
    let mut driver = Driver::boot(&store, None);
    for restart in [false, true, false] {
        if restart {
            driver = Driver {
                sent: driver.sent.clone(),
                problems: driver.problems.clone(),
                ..Driver::boot(&store, Some(&driver))
            };
        }
        driver.pass(400);
    }
    let releases = driver.sent.iter().filter(|sent| **sent == "release");
    assert_eq!(releases.count(), MAX_RELEASE_ATTEMPTS as usize);
    let failed = SettlerProblem::ReleaseFailed {
        channel: address(1),
    };
    assert!(driver.problems.contains(&failed));
    assert!(!driver.sent.contains(&"claim"), "too little for a claim");
    // The client closes alone; a claim of 100 is below the contract's least, so only its attempt shows in bigger books.
    assert!(driver.settler.is_settled());
}

#[test]
fn a_refusal_of_the_wallet_is_tried_again_soon() {
    let (store, ledger) = paid();
    ledger.agree_release(&release(1, 100), GLOBAL_ID).unwrap();
    let mut driver = Driver::boot(&store, None);
    driver.refuse = true;
    driver.pass(20);
    let releases = driver.sent.iter().filter(|sent| **sent == "release");
    assert!(releases.count() > 1);
}

#[test]
fn a_client_signs_nothing_after_it_has_asked_also_after_a_restart() {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    let ledger = ClientLedger::new(store.clone());
    let opening = ChannelOpening {
        worker: peer(9),
        address: address(1),
        terms: ChannelTerms {
            client: address(5),
            worker: address(6),
            client_key: PublicKey32::from_bytes([1; 32]),
            nonce: 0,
            close_delay_s: 1,
        },
        deposit: ton(1_000),
        reserve: ton(10),
        valid_until: 7,
    };
    ledger.open_channel(opening, at(1)).unwrap();
    assert!(matches!(
        ledger.record_releasing(&address(1), 5),
        Err(LedgerError::ChannelNotOpen(_))
    ));
    ledger.record_open(&address(1), ton(1_000)).unwrap();
    let sign = |ledger: &ClientLedger<_>, total| {
        ledger.sign_voucher(&address(1), ton(total), &client_key(1), GLOBAL_ID, at(2))
    };
    sign(&ledger, 10).unwrap();
    ledger.record_releasing(&address(1), 500).unwrap();
    drop(ledger);
    let ledger = ClientLedger::new(store);
    assert!(matches!(
        sign(&ledger, 11),
        Err(LedgerError::ChannelNotOpen(_))
    ));
    ledger.record_release_agreed(&address(1)).unwrap();
    // Asked again, the end stays where it was and what was heard is not forgotten.
    let again = ledger.record_releasing(&address(1), 900).unwrap();
    assert_eq!(
        again.state,
        ClientChannelState::Releasing {
            until: 500,
            agreed: true
        }
    );
    ledger.record_closing(&address(1), 86_900).unwrap();
    let late = ledger.record_release_agreed(&address(1)).unwrap();
    assert_eq!(late.state, ClientChannelState::Closing { close_at: 86_900 });
}
