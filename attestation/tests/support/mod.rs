//! What the integration tests share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod gpu;
#[cfg(feature = "simulated-evidence")]
pub(crate) mod simulated;

use cocoon_attestation::log::{NoteSigner, RebuilderSet};
use cocoon_attestation::policy::TcbPolicy;
use cocoon_attestation::{Check, Expectation, FactorResult, Image, Measurement, Policy, Verdict};
use cocoon_protocol::evidence::{Beacon, Claims};
use cocoon_protocol::ids::{Digest, Keypair, PeerId};
use cocoon_protocol::units::UnixMillis;

/// 2025-10-09 08:53:20 UTC.
pub(crate) const NOW_SECONDS: u64 = 1_760_000_000;

pub(crate) fn now() -> UnixMillis {
    UnixMillis::from_millis(NOW_SECONDS * 1_000)
}

pub(crate) fn peer(number: u8) -> PeerId {
    Keypair::ed25519_from_bytes([number; 32])
        .unwrap()
        .public()
        .to_peer_id()
}

pub(crate) fn claims() -> Claims {
    Claims {
        noise_key: [9; 32],
        mlkem_key: vec![0; 1184],
        receipt_key: ed25519_dalek::SigningKey::from_bytes(&[5; 32])
            .verifying_key()
            .to_bytes(),
        peer: peer(1),
        model: Digest::sha256(b"model"),
        config: Digest::sha256(b"config"),
        gpu_evidence: Digest::ZERO,
        canary: Digest::ZERO,
        beacon: Beacon {
            seqno: 100,
            hash: Digest::sha256(b"block 100"),
        },
        epoch: NOW_SECONDS / 3_600,
    }
}

pub(crate) fn beacons() -> Vec<Beacon> {
    (98..=101)
        .map(|seqno| Beacon {
            seqno,
            hash: Digest::sha256(format!("block {seqno}").as_bytes()),
        })
        .collect()
}

/// What a client that saw an honest advert for `claims` expects.
pub(crate) fn expectation<'a>(claims: &Claims, recent_beacons: &'a [Beacon]) -> Expectation<'a> {
    Expectation::new(claims.peer, claims.model, claims.digest(), recent_beacons)
}

/// A policy for looking at Intel's samples, whose images nobody vouches for.
pub(crate) fn policy_for_samples() -> Policy {
    Policy {
        tcb: TcbPolicy {
            min_evaluation: 17,
            ..TcbPolicy::default()
        },
        images: vec![
            Image {
                name: "some release".to_owned(),
                mrtd: Measurement::of(b"firmware"),
                rtmr0: Measurement::of(b"configuration"),
                rtmr1: Measurement::of(b"kernel"),
                rtmr2: Measurement::of(b"command line"),
            }
            .into(),
        ],
        ..Policy::default()
    }
}

/// Exactly these checks failed, and so the verdict refuses.
#[track_caller]
pub(crate) fn refused(verdict: &Verdict, checks: &[Check]) {
    let failed: Vec<_> = verdict.failures().map(|factor| factor.name).collect();
    let wanted: Vec<_> = checks.iter().map(|check| check.name()).collect();
    assert_eq!(failed, wanted, "\n{verdict}");
    assert!(!verdict.accepted());
    assert_eq!(verdict.valid_until.millis(), 0);
}

#[track_caller]
pub(crate) fn passed(verdict: &Verdict, checks: &[Check]) {
    for check in checks {
        assert_eq!(
            verdict.result(*check),
            Some(FactorResult::Pass),
            "{}\n{verdict}",
            check.name()
        );
    }
}

/// Two rebuilders who both have to sign.
pub(crate) fn rebuilders() -> RebuilderSet {
    let keys = rebuilding().map(|signer| signer.verifier()).to_vec();
    RebuilderSet::new("example.org/guest-images", 2, keys).unwrap()
}

pub(crate) fn rebuilding() -> [NoteSigner; 2] {
    [1, 2].map(|number| {
        NoteSigner::new(&format!("rebuilder{number}.example"), &[number; 32]).unwrap()
    })
}
