//! Random inputs in random order: what must hold whatever happens.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use super::*;
use crate::samples::{advert, peer};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Advert {
        peer: u8,
        sequence: u64,
        /// Relative to now, shifted by a minute.
        issued: u64,
        lifetime_ms: u32,
        evidence: u8,
    },
    Accept {
        peer: u8,
        evidence: u8,
        valid_ms: u64,
    },
    Reject {
        peer: u8,
        evidence: u8,
    },
    Fail(u8),
    Tick,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..12_u8;
    let which = || 0..3_u8;
    prop_oneof![
        4 => (who(), 0..40_u64, 30_000..80_000_u64, 0..130_000_u32, which()).prop_map(
            |(peer, sequence, issued, lifetime_ms, evidence)| Step::Advert {
                peer, sequence, issued, lifetime_ms, evidence,
            }
        ),
        2 => (who(), which(), 0..200_000_u64).prop_map(
            |(peer, evidence, valid_ms)| Step::Accept { peer, evidence, valid_ms }
        ),
        1 => (who(), which()).prop_map(|(peer, evidence)| Step::Reject { peer, evidence }),
        1 => who().prop_map(Step::Fail),
        2 => Just(Step::Tick),
        2 => (0..20_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn bounds_hold_and_nobody_serves_without_a_valid_verdict_about_its_own_evidence(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let config = DirectoryConfig {
            max_workers: 5,
            max_fetches: 2,
            ..DirectoryConfig::default()
        };
        let mut directory = Directory::new(config.clone());
        let mut now = 1_000_000_u64;
        // A second directory with the same inputs, for determinism.
        let mut twin = Directory::new(config.clone());
        let mut present = BTreeSet::new();
        let mut newest: BTreeMap<PeerId, u64> = BTreeMap::new();
        let mut verdicts: BTreeMap<(PeerId, Digest), u64> = BTreeMap::new();
        for step in steps {
            let evidence = |seed: u8| Digest::from_bytes([seed; 32]);
            let input = match step {
                Step::Advert { peer: who, sequence, issued, lifetime_ms, evidence: which } => {
                    let mut advert = advert(peer(who), now + issued - 60_000);
                    advert.sequence = sequence;
                    advert.lifetime_ms = lifetime_ms;
                    advert.evidence = evidence(which);
                    let advert = Verified::after_the_check(advert);
                    // Gossip's answer and what is kept agree.
                    let fresh = directory.judge(
                        UnixMillis::from_millis(now), &advert) == Acceptance::Fresh;
                    if let Some(entry) = directory.entry(&advert.peer)
                        && fresh
                    {
                        prop_assert!(advert.sequence > entry.advert.sequence);
                    }
                    DirectoryInput::Advert(advert)
                }
                Step::Accept { peer: who, evidence: which, valid_ms } => {
                    let held = verdicts.entry((peer(who), evidence(which))).or_default();
                    *held = (*held).max(now + valid_ms);
                    DirectoryInput::EvidenceAccepted {
                        peer: peer(who),
                        evidence: evidence(which),
                        valid_until: UnixMillis::from_millis(now + valid_ms),
                    }
                }
                Step::Reject { peer: who, evidence: which } => DirectoryInput::EvidenceRejected {
                    peer: peer(who),
                    evidence: evidence(which),
                    reason: "é".repeat(200),
                },
                Step::Fail(who) => DirectoryInput::PeerFailed { peer: peer(who) },
                Step::Tick => DirectoryInput::Tick,
                Step::Wait(millis) => {
                    now += millis;
                    continue;
                }
            };
            let is_tick = matches!(input, DirectoryInput::Tick);
            let time = UnixMillis::from_millis(now);
            let outputs = directory.handle(time, input.clone());
            prop_assert_eq!(&twin.handle(time, input), &outputs);

            // Joined and Left tell the truth.
            for output in &outputs {
                match output {
                    DirectoryOutput::Joined { peer } => prop_assert!(present.insert(*peer)),
                    DirectoryOutput::Left { peer } => prop_assert!(present.remove(peer)),
                    DirectoryOutput::Verified { peer } => {
                        prop_assert!(directory.entry(peer).unwrap().is_verified(time));
                    }
                    DirectoryOutput::FetchEvidence { peer, evidence } => {
                        let entry = directory.entry(peer).unwrap();
                        prop_assert_eq!(entry.advert.evidence, *evidence);
                    }
                }
            }
            prop_assert!(directory.entries.keys().eq(present.iter()));

            // Bounds.
            prop_assert!(directory.len() <= config.max_workers);
            prop_assert!(directory.departed.len() <= config.max_workers);
            let running = directory.entries.values().filter(|e| e.is_being_fetched()).count();
            prop_assert_eq!(running, directory.fetching);
            prop_assert!(running <= config.max_fetches);

            for entry in directory.entries.values() {
                // The sequence of one peer never falls while it is here.
                let held = newest.entry(entry.advert.peer).or_default();
                if outputs.contains(&DirectoryOutput::Joined { peer: entry.advert.peer }) {
                    *held = entry.advert.sequence;
                }
                prop_assert!(entry.advert.sequence >= *held);
                *held = entry.advert.sequence;
                prop_assert!(entry.failures < config.max_failures);
                if let Standing::Rejected { reason } = &entry.standing {
                    prop_assert!(reason.len() <= MAX_REASON_BYTES);
                }
            }
            for entry in directory.serving(time, "smollm2") {
                prop_assert!(entry.advert.ends() > time);
                let until = verdicts.get(&(entry.advert.peer, entry.advert.evidence));
                prop_assert!(until.is_some_and(|until| *until > now));
            }
            // After a tick there is nothing left to do now, and a time to come back.
            if is_tick {
                prop_assert!(directory.entries.values().all(|e| e.advert.ends() > time));
                prop_assert!(directory.next_tick().is_none_or(|next| next > time));
            }
        }
    }
}
