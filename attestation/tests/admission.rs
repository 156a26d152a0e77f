//! Who is looked at again, who from memory, and who not at all.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::{
    Admission, AdmissionConfig, Check, EvidenceSource as _, Expectation, SimulatedSource, Verdict,
};
use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use support::simulated::{HOUR_MS, honest, shaped, verifier};
use support::{claims, expectation, now, refused};

fn admission(config: AdmissionConfig) -> Admission {
    Admission::new(verifier(simulated::policy()), config)
}

#[test]
fn the_second_look_at_the_same_evidence_comes_from_the_cache() {
    let mut admission = admission(AdmissionConfig::default());
    let beacons = support::beacons();
    let mut bundle = honest(&claims());
    let expectation = expectation(&bundle.claims, &beacons);
    let first = admission
        .admit(now(), &support::peer(1), &bundle, &expectation)
        .unwrap();
    // Quotes are malleable: padded, it is other bytes and the same evidence.
    bundle.quote.extend_from_slice(&[0; 32]);
    let second = admission
        .admit(now(), &support::peer(2), &bundle, &expectation)
        .unwrap();
    assert!(first.accepted() && second.accepted());
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(first.valid_until, second.valid_until);
}

#[test]
fn a_cached_verdict_does_not_excuse_from_the_expectation() {
    let mut admission = admission(AdmissionConfig::default());
    let beacons = support::beacons();
    let bundle = honest(&claims());
    let expectation = expectation(&bundle.claims, &beacons);
    let from = support::peer(1);
    assert!(
        admission
            .admit(now(), &from, &bundle, &expectation)
            .unwrap()
            .accepted()
    );
    let other_peer = Expectation {
        peer: support::peer(2),
        ..expectation
    };
    refused(
        &admission.admit(now(), &from, &bundle, &other_peer).unwrap(),
        &[Check::PeerId],
    );
    let later = UnixMillis::from_millis((claims().epoch + 2) * HOUR_MS);
    refused(
        &admission
            .admit(later, &from, &bundle, &expectation)
            .unwrap(),
        &[Check::Epoch],
    );
}

#[test]
fn a_cache_of_one_keeps_the_latest_verdict() {
    let mut admission = admission(AdmissionConfig {
        cached_verdicts: 1,
        ..Default::default()
    });
    let beacons = support::beacons();
    let from = support::peer(1);
    let other = Claims {
        noise_key: [3; 32],
        ..claims()
    };
    let mut seen = Vec::new();
    for claims in [&claims(), &other, &other, &claims()] {
        let expectation = expectation(claims, &beacons);
        let verdict = admission
            .admit(now(), &from, &honest(claims), &expectation)
            .unwrap();
        seen.push(verdict.cached);
    }
    assert_eq!(seen, [false, false, true, false]);
}

#[test]
fn a_peer_that_keeps_showing_bad_bundles_is_not_looked_at_any_more() {
    let mut admission = admission(AdmissionConfig::default());
    let beacons = support::beacons();
    let bad = shaped(|report| report.td_attributes[0] |= 1);
    let expectation = expectation(&bad.claims, &beacons);
    let attempts = (0..10)
        .take_while(|_| {
            admission
                .admit(now(), &support::peer(1), &bad, &expectation)
                .is_ok()
        })
        .count();
    assert_eq!(attempts, 5);
    let other = admission.admit(now(), &support::peer(2), &honest(&claims()), &expectation);
    assert!(other.unwrap().accepted());
}

/// A worker of its own identity on a machine of its own or of somebody else's.
fn worker(peer: u8, machine: &[u8], epoch: u64) -> EvidenceBundle {
    let claims = Claims {
        peer: support::peer(peer),
        epoch,
        ..claims()
    };
    SimulatedSource::new(machine)
        .unwrap()
        .make(now(), &claims)
        .unwrap()
}

fn admit_at(admission: &mut Admission, at: UnixMillis, bundle: &EvidenceBundle) -> Verdict {
    let beacons = support::beacons();
    let expectation = expectation(&bundle.claims, &beacons);
    admission
        .admit(at, &bundle.claims.peer, bundle, &expectation)
        .unwrap()
}

#[test]
fn a_machine_is_one_worker_an_hour_whoever_has_its_key() {
    let mut admission = admission(AdmissionConfig::default());
    let epoch = claims().epoch;
    assert!(admit_at(&mut admission, now(), &worker(1, b"m", epoch)).accepted());
    let second = admit_at(&mut admission, now(), &worker(2, b"m", epoch));
    refused(&second, &[Check::PlatformUnique]);
    let seen = &second.factor(Check::PlatformUnique).unwrap().seen;
    assert_eq!(*seen, format!("worker {}", support::peer(1)));
    assert!(admit_at(&mut admission, now(), &worker(2, b"n", epoch)).accepted());
    // In the next hour the place is free, and the first one is still taken until its evidence ends.
    let next = UnixMillis::from_millis((epoch + 1) * HOUR_MS);
    assert!(admit_at(&mut admission, next, &worker(3, b"m", epoch + 1)).accepted());
    assert!(admit_at(&mut admission, next, &worker(1, b"m", epoch)).accepted());
    assert_eq!(admission.census().len(), 3);
}

#[test]
fn a_worker_that_restarts_with_its_identity_keeps_its_place() {
    let mut admission = admission(AdmissionConfig::default());
    let first = worker(1, b"m", claims().epoch);
    assert!(admit_at(&mut admission, now(), &first).accepted());
    let again = Claims {
        noise_key: [3; 32],
        ..first.claims
    };
    let again = SimulatedSource::new(b"m")
        .unwrap()
        .make(now(), &again)
        .unwrap();
    assert!(admit_at(&mut admission, now(), &again).accepted());
    assert_eq!(admission.census().len(), 1);
}

#[test]
fn a_refused_worker_takes_nobodys_place() {
    let mut admission = admission(AdmissionConfig::default());
    let epoch = claims().epoch;
    let mut forged = worker(2, b"m", epoch);
    let byte = forged.quote.len() / 6;
    forged.quote[byte] ^= 1;
    assert!(!admit_at(&mut admission, now(), &forged).accepted());
    assert!(admit_at(&mut admission, now(), &worker(1, b"m", epoch)).accepted());
}

#[test]
fn a_policy_may_allow_more_workers_on_one_machine() {
    let mut policy = simulated::policy();
    policy.platform.workers_per_platform = 2;
    let mut admission = Admission::new(verifier(policy), AdmissionConfig::default());
    let epoch = claims().epoch;
    for (peer, accepted) in [(1, true), (2, true), (3, false), (1, true)] {
        let verdict = admit_at(&mut admission, now(), &worker(peer, b"m", epoch));
        assert_eq!(verdict.accepted(), accepted, "worker {peer}");
    }
}

#[test]
fn a_raised_floor_counts_for_remembered_verdicts_too() {
    let mut admission = admission(AdmissionConfig::default());
    let bundle = worker(1, b"m", claims().epoch);
    let mut at_floor = |evaluation_floor| {
        let beacons = support::beacons();
        let expectation = Expectation {
            evaluation_floor,
            ..expectation(&bundle.claims, &beacons)
        };
        let from = bundle.claims.peer;
        admission
            .admit(now(), &from, &bundle, &expectation)
            .unwrap()
    };
    let first = at_floor(0);
    assert_eq!(first.tcb_evaluation, Some(simulated::TCB_EVALUATION));
    let second = at_floor(simulated::TCB_EVALUATION);
    assert!(second.accepted() && second.cached);
    assert_eq!(second.tcb_evaluation, first.tcb_evaluation);
    let third = at_floor(simulated::TCB_EVALUATION + 1);
    refused(&third, &[Check::TcbEvaluation]);
}

#[test]
fn a_bundle_without_collateral_is_judged_by_the_verifiers_own() {
    let with = worker(1, b"m", claims().epoch);
    let without = EvidenceBundle {
        collateral_json: Vec::new(),
        ..with.clone()
    };
    let beacons = support::beacons();
    let verifier = verifier(simulated::policy());
    let none = expectation(&with.claims, &beacons);
    refused(
        &verifier.verify(now(), &without, &none),
        &[Check::CollateralStructure],
    );
    let own = Expectation {
        collateral: Some(&with.collateral_json),
        ..none
    };
    assert!(verifier.verify(now(), &without, &own).accepted());
    // What a worker shows counts before what we have: it may be the newer one.
    let bad = EvidenceBundle {
        collateral_json: b"{}".to_vec(),
        ..with.clone()
    };
    refused(
        &verifier.verify(now(), &bad, &own),
        &[Check::CollateralStructure],
    );
}
