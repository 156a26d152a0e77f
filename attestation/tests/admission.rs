//! Who is looked at again, who from memory, and who not at all.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::{Admission, AdmissionConfig, Check, Expectation};
use cocoon_protocol::evidence::Claims;
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
