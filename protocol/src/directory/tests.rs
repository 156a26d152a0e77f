#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use super::*;
use crate::samples::{advert, peer, terms};

const HOUR: u64 = 3_600_000;

fn at(millis: u64) -> UnixMillis {
    UnixMillis::from_millis(millis)
}

fn evidence(seed: u8) -> Digest {
    Digest::from_bytes([seed; 32])
}

fn verified(advert: Advert) -> Verified<Advert> {
    Verified::after_the_check(advert)
}

fn directory() -> Directory {
    Directory::new(DirectoryConfig::default())
}

fn join(directory: &mut Directory, now: u64, who: u8) -> Vec<DirectoryOutput> {
    let mut advert = advert(peer(who), now);
    advert.sequence = now + 1;
    directory.handle(at(now), DirectoryInput::Advert(verified(advert)))
}

fn accept(directory: &mut Directory, now: u64, who: u8, until: u64) -> Vec<DirectoryOutput> {
    let input = DirectoryInput::EvidenceAccepted {
        peer: peer(who),
        evidence: evidence(0x13),
        valid_until: at(until),
    };
    directory.handle(at(now), input)
}

fn reject(directory: &mut Directory, now: u64, who: u8) -> Vec<DirectoryOutput> {
    let input = DirectoryInput::EvidenceRejected {
        peer: peer(who),
        evidence: evidence(0x13),
        reason: "debug TD".to_owned(),
    };
    directory.handle(at(now), input)
}

fn tick(directory: &mut Directory, now: u64) -> Vec<DirectoryOutput> {
    directory.handle(at(now), DirectoryInput::Tick)
}

fn fetch(who: u8, which: u8) -> DirectoryOutput {
    DirectoryOutput::FetchEvidence {
        peer: peer(who),
        evidence: evidence(which),
    }
}

/// Keeps a worker's advert alive without changing anything else.
fn refresh(directory: &mut Directory, now: u64, who: u8) -> Vec<DirectoryOutput> {
    join(directory, now, who)
}

#[test]
fn a_worker_joins_is_examined_and_then_serves() {
    let mut directory = directory();
    assert_eq!(
        join(&mut directory, 0, 1),
        [DirectoryOutput::Joined { peer: peer(1) }, fetch(1, 0x13)]
    );
    assert!(directory.serving(at(1), "smollm2").is_empty());
    assert_eq!(
        accept(&mut directory, 5, 1, HOUR),
        [DirectoryOutput::Verified { peer: peer(1) }]
    );
    assert_eq!(directory.serving(at(6), "smollm2").len(), 1);
    assert!(directory.serving(at(6), "another").is_empty());
    assert!(directory.serving(at(60_000), "smollm2").is_empty());
    assert_eq!(
        tick(&mut directory, 60_000),
        [DirectoryOutput::Left { peer: peer(1) }]
    );
}

#[test]
fn only_a_larger_sequence_is_news() {
    let mut directory = directory();
    let mut advert = advert(peer(1), 1_000);
    advert.sequence = 5;
    let judge = |directory: &Directory, advert: &Advert| {
        directory.judge(at(1_000), &verified(advert.clone()))
    };
    assert_eq!(judge(&directory, &advert), Acceptance::Fresh);
    directory.handle(at(1_000), DirectoryInput::Advert(verified(advert.clone())));
    for sequence in [0, 4, 5] {
        advert.sequence = sequence;
        assert_eq!(judge(&directory, &advert), Acceptance::Duplicate);
        let outputs = directory.handle(at(1_000), DirectoryInput::Advert(verified(advert.clone())));
        assert_eq!(outputs, []);
    }
    advert.sequence = 6;
    assert_eq!(judge(&directory, &advert), Acceptance::Fresh);
}

#[test]
fn an_old_advert_does_not_bring_a_removed_worker_back() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    for _ in 0..3 {
        directory.handle(at(1), DirectoryInput::PeerFailed { peer: peer(1) });
    }
    assert!(directory.is_empty());
    assert_eq!(join(&mut directory, 0, 1), []);
    // A newer one does, still in its pause.
    assert_eq!(join(&mut directory, 2, 1).len(), 2);
    accept(&mut directory, 3, 1, HOUR);
    assert!(directory.serving(at(4), "smollm2").is_empty());
    assert_eq!(directory.serving(at(4_001), "smollm2").len(), 1);
}

#[test]
fn an_advert_from_the_future_or_with_an_endless_life_is_invalid() {
    let directory = directory();
    let judge = |advert: Advert| directory.judge(at(100_000), &verified(advert));
    assert_eq!(judge(advert(peer(1), 110_000)), Acceptance::Fresh);
    assert_eq!(
        judge(advert(peer(1), 110_001)),
        Acceptance::Invalid(AdvertFault::FromTheFuture {
            ahead_ms: 10_001,
            limit_ms: 10_000
        })
    );
    for lifetime_ms in [0, 120_001] {
        let mut advert = advert(peer(1), 100_000);
        advert.lifetime_ms = lifetime_ms;
        assert_eq!(
            judge(advert),
            Acceptance::Invalid(AdvertFault::Lifetime {
                lifetime_ms: u64::from(lifetime_ms),
                limit_ms: 120_000
            })
        );
    }
    assert_eq!(judge(advert(peer(1), 40_000)), Acceptance::Duplicate);
    let mut ended = advert(peer(1), 100_000);
    ended.evidence_expires = at(100_000);
    assert_eq!(
        judge(ended),
        Acceptance::Invalid(AdvertFault::EndedEvidence)
    );
    let mut twice = advert(peer(1), 100_000);
    twice.models = vec![terms(), terms()];
    assert_eq!(
        judge(twice),
        Acceptance::Invalid(AdvertFault::RepeatedModel)
    );
}

#[test]
fn rejected_evidence_is_asked_for_again_after_a_pause_that_doubles() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    let mut now = 0;
    for pause in [1_000, 2_000, 4_000, 8_000] {
        reject(&mut directory, now, 1);
        assert_eq!(
            directory.entry(&peer(1)).unwrap().standing,
            Standing::Rejected {
                reason: "debug TD".to_owned()
            }
        );
        assert_eq!(tick(&mut directory, now + pause - 1), []);
        assert_eq!(directory.next_tick(), Some(at(now + pause)));
        now += pause;
        assert_eq!(tick(&mut directory, now), [fetch(1, 0x13)]);
    }
}

#[test]
fn an_examination_without_a_result_is_given_up_and_tried_again() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    assert_eq!(tick(&mut directory, 14_999), []);
    assert_eq!(tick(&mut directory, 15_000), []);
    assert_eq!(
        directory.entry(&peer(1)).unwrap().standing,
        Standing::Unverified
    );
    assert_eq!(tick(&mut directory, 16_000), [fetch(1, 0x13)]);
}

#[test]
fn evidence_is_examined_again_before_it_ends_and_serves_meanwhile() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    accept(&mut directory, 0, 1, HOUR);
    let mut now = 0;
    while now < HOUR - 60_000 {
        assert_eq!(tick(&mut directory, now), []);
        refresh(&mut directory, now + 1, 1);
        now += 30_000;
    }
    assert_eq!(tick(&mut directory, now), [fetch(1, 0x13)]);
    assert_eq!(directory.serving(at(now), "smollm2").len(), 1);
    // No new verdict: at the end it serves no more.
    refresh(&mut directory, HOUR - 1, 1);
    assert!(directory.serving(at(HOUR), "smollm2").is_empty());
    tick(&mut directory, HOUR);
    assert!(!directory.entry(&peer(1)).unwrap().is_verified(at(HOUR)));
    assert_eq!(
        accept(&mut directory, HOUR + 1, 1, 2 * HOUR),
        [DirectoryOutput::Verified { peer: peer(1) }]
    );
}

#[test]
fn evidence_whose_end_does_not_move_is_not_fetched_in_a_loop() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    accept(&mut directory, 0, 1, 50_000);
    for now in (0..50_000).step_by(500) {
        assert_eq!(tick(&mut directory, now), []);
    }
}

#[test]
fn other_evidence_in_a_newer_advert_starts_anew() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    accept(&mut directory, 0, 1, HOUR);
    let mut newer = advert(peer(1), 10);
    newer.sequence = 100;
    newer.evidence = evidence(0x14);
    assert_eq!(
        directory.handle(at(10), DirectoryInput::Advert(verified(newer))),
        [fetch(1, 0x14)]
    );
    assert!(directory.serving(at(10), "smollm2").is_empty());
    // A verdict about the old evidence changes nothing.
    assert_eq!(accept(&mut directory, 11, 1, HOUR), []);
    assert!(directory.serving(at(11), "smollm2").is_empty());
    let accepted = DirectoryInput::EvidenceAccepted {
        peer: peer(1),
        evidence: evidence(0x14),
        valid_until: at(HOUR),
    };
    directory.handle(at(12), accepted);
    assert_eq!(directory.serving(at(12), "smollm2").len(), 1);
}

#[test]
fn evidence_that_has_ended_already_is_a_rejection() {
    let mut directory = directory();
    join(&mut directory, 10, 1);
    assert_eq!(accept(&mut directory, 10, 1, 10), []);
    assert!(matches!(
        directory.entry(&peer(1)).unwrap().standing,
        Standing::Rejected { .. }
    ));
}

#[test]
fn a_failed_worker_pauses_and_is_removed_at_the_last_failure() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    accept(&mut directory, 0, 1, HOUR);
    let failed = || DirectoryInput::PeerFailed { peer: peer(1) };
    assert_eq!(directory.handle(at(0), failed()), []);
    assert!(directory.serving(at(999), "smollm2").is_empty());
    assert_eq!(directory.serving(at(1_000), "smollm2").len(), 1);
    directory.handle(at(1_000), failed());
    assert!(directory.serving(at(2_999), "smollm2").is_empty());
    assert_eq!(
        directory.handle(at(3_000), failed()),
        [DirectoryOutput::Left { peer: peer(1) }]
    );
}

#[test]
fn failures_are_forgotten_after_a_quiet_while() {
    let mut directory = directory();
    join(&mut directory, 0, 1);
    directory.handle(at(0), DirectoryInput::PeerFailed { peer: peer(1) });
    for now in (30_000..330_000).step_by(30_000) {
        refresh(&mut directory, now, 1);
        tick(&mut directory, now);
    }
    assert_eq!(directory.entry(&peer(1)).unwrap().failures, 0);
}

#[test]
fn a_newcomer_replaces_the_rejected_then_the_unverified_never_the_verified() {
    let mut directory = Directory::new(DirectoryConfig {
        max_workers: 3,
        ..DirectoryConfig::default()
    });
    join(&mut directory, 0, 1);
    join(&mut directory, 1, 2);
    join(&mut directory, 2, 3);
    accept(&mut directory, 3, 1, HOUR);
    reject(&mut directory, 3, 3);
    let left = |who| DirectoryOutput::Left { peer: peer(who) };
    assert!(join(&mut directory, 4, 4).contains(&left(3)));
    assert!(join(&mut directory, 5, 5).contains(&left(2)));
    accept(&mut directory, 6, 4, HOUR);
    accept(&mut directory, 6, 5, HOUR);
    assert_eq!(join(&mut directory, 7, 6), []);
    assert_eq!(directory.len(), 3);
}

#[test]
fn examinations_wait_for_one_another() {
    let mut directory = Directory::new(DirectoryConfig {
        max_fetches: 1,
        ..DirectoryConfig::default()
    });
    assert_eq!(join(&mut directory, 0, 1).len(), 2);
    assert_eq!(join(&mut directory, 1, 2).len(), 1);
    assert_eq!(tick(&mut directory, 2), []);
    assert_eq!(
        accept(&mut directory, 3, 1, HOUR),
        [DirectoryOutput::Verified { peer: peer(1) }, fetch(2, 0x13)]
    );
}
