//! A simulated worker is taken; each way in which its claims or its guest can be wrong is refused and
//! named by its factor.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::launch::LaunchEvents;
use cocoon_attestation::policy::simulated;
use cocoon_attestation::{
    Attested, Check, EvidenceSource as _, FactorResult, Intel, Measurement, NotAttested, Policy,
    Simulated, SimulatedSource, Trust,
};
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle};
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use cocoon_tdx_simulator::{CollateralTerms, TdReport};
use support::simulated::{
    HOUR_MS, expect, honest, shaped, terms, verify, verify_at, with_collateral,
};
use support::{NOW_SECONDS, claims, now, passed, refused};

type Case = (fn(&mut TdReport), Check);

#[test]
fn an_honest_worker_is_accepted_until_its_second_hour_ends() {
    let verdict = verify(&honest(&claims()));
    assert!(verdict.accepted(), "\n{verdict}");
    let skipped: Vec<_> = verdict
        .factors
        .iter()
        .filter(|factor| factor.result != FactorResult::Pass)
        .map(|factor| factor.name)
        .collect();
    assert_eq!(
        skipped,
        [
            "config_digest",
            "canary",
            "mrseam",
            "event_log",
            "image_in_log",
            "platform_unique",
            "gpu_evidence",
            "gpu_unique"
        ]
    );
    assert_eq!(verdict.valid_until.millis(), (claims().epoch + 2) * HOUR_MS);
    assert!(
        verdict.platform_id.starts_with("53494d21"),
        "{}",
        verdict.platform_id
    );
    assert_eq!(verdict.evidence, claims().digest());
}

#[test]
fn a_verdict_does_not_outlive_its_collateral() {
    let terms = CollateralTerms {
        lifetime_seconds: 24 * 3_600 + 60,
        ..terms()
    };
    let verdict = verify(&with_collateral(&terms));
    assert!(verdict.accepted(), "\n{verdict}");
    assert_eq!(verdict.valid_until.millis(), (NOW_SECONDS + 60) * 1_000);
}

#[test]
fn an_accepted_verdict_is_attested_under_its_own_root_and_no_other() {
    let verdict = verify(&honest(&claims()));
    let attested = Attested::<Simulated>::from_verdict(&verdict).unwrap();
    assert_eq!(attested.claims(), &claims());
    assert!(attested.is_valid_at(now()));
    assert!(!attested.is_valid_at(verdict.valid_until));
    assert_eq!(
        Attested::<Intel>::from_verdict(&verdict).unwrap_err(),
        NotAttested::OtherRoot {
            found: Trust::Simulated,
            wanted: Trust::Intel
        }
    );
}

#[test]
fn each_worker_machine_has_its_own_platform_id() {
    let one = verify(&honest(&claims()));
    let two = SimulatedSource::new(b"machine 2")
        .unwrap()
        .make(now(), &claims())
        .unwrap();
    assert_ne!(one.platform_id, verify(&two).platform_id);
}

#[test]
fn evidence_is_the_same_bytes_for_the_same_machine_claims_and_day() {
    assert_eq!(honest(&claims()), honest(&claims()));
}

// Claims.

#[test]
fn another_peer_is_refused() {
    let verdict = expect(&honest(&claims()), |expectation| {
        expectation.peer = support::peer(2)
    });
    refused(&verdict, &[Check::PeerId]);
}

#[test]
fn a_quote_readvertised_under_another_peer_is_refused() {
    let stolen = Claims {
        peer: support::peer(2),
        ..claims()
    };
    let bundle = EvidenceBundle {
        claims: stolen,
        ..honest(&claims())
    };
    refused(&verify(&bundle), &[Check::ReportData]);
}

#[test]
fn another_key_is_refused_whichever_of_the_three_it_is() {
    let swapped = [
        Claims {
            noise_key: [8; 32],
            ..claims()
        },
        Claims {
            mlkem_key: vec![1; 1184],
            ..claims()
        },
        Claims {
            receipt_key: [7; 32],
            ..claims()
        },
    ];
    for claims_of_a_stranger in swapped {
        let bundle = EvidenceBundle {
            claims: claims_of_a_stranger,
            ..honest(&claims())
        };
        let verdict = verify(&bundle);
        refused(&verdict, &[Check::ReportData]);
        assert_eq!(verdict.result(Check::NoiseKey), Some(FactorResult::Skip));
    }
}

#[test]
fn keys_that_are_bound_but_are_none_are_refused_by_name() {
    let cases = [
        (
            Claims {
                noise_key: [0; 32],
                ..claims()
            },
            Check::NoiseKey,
        ),
        (
            Claims {
                mlkem_key: vec![0xff; 1184],
                ..claims()
            },
            Check::MlKemKey,
        ),
        (
            Claims {
                mlkem_key: Vec::new(),
                ..claims()
            },
            Check::MlKemKey,
        ),
        (
            Claims {
                receipt_key: [0; 32],
                ..claims()
            },
            Check::ReceiptKey,
        ),
    ];
    for (claims, check) in cases {
        refused(&verify(&honest(&claims)), &[check]);
    }
}

#[test]
fn another_model_than_the_advertised_one_is_refused() {
    let verdict = expect(&honest(&claims()), |expectation| {
        expectation.model = Digest::sha256(b"a bigger model");
    });
    refused(&verdict, &[Check::ModelDigest]);
}

#[test]
fn a_model_claimed_in_report_data_but_not_measured_at_launch_is_refused() {
    // The guest launched with another model than the one its process now claims.
    let bundle = shaped(|report| {
        let launched = LaunchEvents {
            model: Digest::sha256(b"tiny"),
            ..LaunchEvents::claimed(&claims())
        };
        report.rt_mr3 = *launched.rtmr3().as_bytes();
    });
    refused(&verify(&bundle), &[Check::Rtmr3]);
}

#[test]
fn evidence_that_was_not_advertised_is_refused() {
    let verdict = expect(&honest(&claims()), |expectation| {
        expectation.evidence = Digest::sha256(b"other evidence");
    });
    refused(&verdict, &[Check::AdvertisedEvidence]);
}

#[test]
fn a_configuration_that_the_policy_does_not_know_is_refused() {
    let policy = |config| Policy {
        configs: vec![config],
        ..simulated::policy()
    };
    let bundle = honest(&claims());
    let verdict = verify_at(now(), policy(Digest::sha256(b"other")), &bundle, &claims());
    refused(&verdict, &[Check::ConfigDigest]);
    assert!(verify_at(now(), policy(claims().config), &bundle, &claims()).accepted());
}

#[test]
fn a_stale_beacon_is_refused() {
    let old = Claims {
        beacon: Beacon {
            seqno: 3,
            hash: Digest::sha256(b"block 3"),
        },
        ..claims()
    };
    refused(&verify(&honest(&old)), &[Check::Beacon]);
}

#[test]
fn a_recent_number_with_another_hash_is_no_beacon() {
    let forged = Claims {
        beacon: Beacon {
            seqno: 100,
            hash: Digest::sha256(b"fork"),
        },
        ..claims()
    };
    refused(&verify(&honest(&forged)), &[Check::Beacon]);
}

#[test]
fn a_verifier_that_knows_no_block_accepts_nobody() {
    let verdict = expect(&honest(&claims()), |expectation| {
        expectation.recent_beacons = &[]
    });
    refused(&verdict, &[Check::Beacon]);
}

#[test]
fn an_expired_epoch_is_refused_from_its_first_millisecond() {
    let bundle = honest(&claims());
    let end = (claims().epoch + 2) * HOUR_MS;
    let at = |ms| {
        verify_at(
            UnixMillis::from_millis(ms),
            simulated::policy(),
            &bundle,
            &claims(),
        )
    };
    assert!(at(end - 1).accepted());
    refused(&at(end), &[Check::Epoch]);
}

#[test]
fn an_epoch_that_has_not_begun_is_refused_beyond_clock_skew() {
    let next = Claims {
        epoch: claims().epoch + 1,
        ..claims()
    };
    let bundle = honest(&next);
    refused(&verify(&bundle), &[Check::Epoch]);
    let nearly = UnixMillis::from_millis(next.epoch * HOUR_MS - 60_000);
    assert!(verify_at(nearly, simulated::policy(), &bundle, &next).accepted());
}

#[test]
fn an_epoch_at_the_end_of_time_does_not_overflow() {
    let verdict = verify(&honest(&Claims {
        epoch: u64::MAX,
        ..claims()
    }));
    refused(&verdict, &[Check::Epoch]);
}

#[test]
fn gpu_evidence_that_nobody_can_verify_is_refused_and_not_skipped() {
    let boasting = Claims {
        gpu_evidence: Digest::sha256(b"eight GPUs"),
        ..claims()
    };
    refused(&verify(&honest(&boasting)), &[Check::GpuEvidence]);
    let policy = Policy {
        gpu_manifest: Some(Digest::ZERO),
        required: vec![Check::GpuEvidence],
        ..simulated::policy()
    };
    refused(
        &verify_at(now(), policy, &honest(&claims()), &claims()),
        &[Check::GpuEvidence],
    );
}

// Guest.

#[test]
fn a_guest_that_is_not_shut_to_its_host_is_refused() {
    let cases: [Case; 10] = [
        (|report| report.td_attributes[0] |= 1, Check::Debug),
        (
            |report| report.td_attributes[3] &= !0x10,
            Check::SeptVeDisable,
        ),
        (
            |report| report.td_attributes[0] |= 0x10,
            Check::TdAttributes,
        ),
        (|report| report.td_attributes[3] |= 0x20, Check::Migratable),
        (|report| report.td_attributes[2] |= 0x02, Check::ServiceTd),
        (|report| report.xfam[1] |= 1, Check::Xfam),
        (|report| report.xfam[0] = 0, Check::Xfam),
        (|report| report.mr_owner = [1; 48], Check::MrOwner),
        (
            |report| report.mr_owner_config = [1; 48],
            Check::MrOwnerConfig,
        ),
        (|report| report.mr_config_id = [1; 48], Check::MrConfigId),
    ];
    for (shape, check) in cases {
        refused(&verify(&shaped(shape)), &[check]);
    }
}

#[test]
fn an_unknown_measurement_is_refused_by_its_register() {
    let cases: [Case; 5] = [
        (|report| report.mr_td = [1; 48], Check::MrTd),
        (|report| report.rt_mr0 = [1; 48], Check::Rtmr0),
        (|report| report.rt_mr1 = [1; 48], Check::Rtmr1),
        (|report| report.rt_mr2 = [1; 48], Check::Rtmr2),
        (|report| report.rt_mr3 = [0; 48], Check::Rtmr3),
    ];
    for (shape, check) in cases {
        refused(&verify(&shaped(shape)), &[check]);
    }
}

#[test]
fn registers_of_two_allowed_images_cannot_be_mixed() {
    let mut policy = simulated::policy();
    let mut next = simulated::image();
    next.name = "next release".to_owned();
    next.mrtd = Measurement::from_bytes([0xe0; 48]);
    next.rtmr0 = Measurement::from_bytes([0xe1; 48]);
    next.rtmr1 = Measurement::from_bytes([0xe2; 48]);
    policy.images.push(next.into());
    let bundle = shaped(|report| report.rt_mr1 = [0xe2; 48]);
    refused(
        &verify_at(now(), policy, &bundle, &claims()),
        &[Check::Rtmr1],
    );
}

#[test]
fn a_tdx_module_that_the_policy_does_not_know_is_refused() {
    let policy = |module| {
        let mut policy = simulated::policy();
        policy.guest.mrseam = vec![module];
        policy
    };
    let bundle = honest(&claims());
    let verdict = verify_at(now(), policy(Measurement::of(b"other")), &bundle, &claims());
    refused(&verdict, &[Check::MrSeam]);
    let known = Measurement::from_bytes([0x5e; 48]);
    let verdict = verify_at(now(), policy(known), &bundle, &claims());
    assert!(verdict.accepted());
    passed(&verdict, &[Check::MrSeam]);
}
