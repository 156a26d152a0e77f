//! Who gets the key of a sealed model: the guest in order, once, and nobody else. Each refusal has its
//! reason, and each is recorded for the owner.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::collections::BTreeSet;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::vault::{
    Ask, Event, Finding, Input, MAX_DETAIL_CHARS, MAX_NONCES, MAX_REMEMBERED_PEERS, Output, Record,
    Vault, VaultConfig,
};
use cocoon_attestation::{Expectation, Trust, Verdict, Verifier};
use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::vault::{Nonce, VaultRefusal, VaultReply};
use support::simulated::{HOUR_MS, honest, shaped, verifier};
use support::{claims, now, peer, policy_for_samples};

fn model() -> Digest {
    claims().model
}

fn vault() -> Vault {
    Vault::new(config())
}

fn config() -> VaultConfig {
    VaultConfig::new(Trust::Simulated, BTreeSet::from([model()]))
}

fn nonce(number: u8) -> Nonce {
    Nonce::from_bytes([number; 32])
}

fn later(ms: u64) -> UnixMillis {
    now().saturating_add(ms)
}

fn hello(vault: &mut Vault, at: UnixMillis, who: PeerId, number: u8) -> Vec<Output> {
    let input = Input::Hello {
        ask: Ask(u64::from(number)),
        peer: who,
        model: model(),
        nonce: nonce(number),
    };
    vault.handle(at, input)
}

fn claim_of(claims: &Claims, number: u8) -> Input {
    Input::Claim {
        ask: Ask(1_000 + u64::from(number)),
        peer: peer(1),
        nonce: nonce(number),
        model: model(),
        evidence: claims.digest(),
    }
}

/// What the owner's verifier says of a bundle that peer 1 showed for this model.
fn judge(
    verifier: &Verifier,
    at: UnixMillis,
    bundle: &EvidenceBundle,
    evidence: Digest,
) -> Verdict {
    let beacons = support::beacons();
    let expectation = Expectation::new(peer(1), model(), evidence, &beacons);
    verifier.verify(at, bundle, &expectation)
}

fn records(outputs: &[Output]) -> Vec<&Record> {
    let records = outputs.iter().filter_map(|output| match output {
        Output::Record(record) => Some(record.as_ref()),
        _ => None,
    });
    records.collect()
}

/// Exactly one refusal, told to the guest and recorded with the owner's reason and factor.
#[track_caller]
fn refused(outputs: &[Output], told: VaultRefusal, reason: &str, factor: &str) {
    let [Output::Record(record), Output::Reply { reply, .. }] = outputs else {
        panic!("{outputs:?}");
    };
    assert_eq!(record.event, Event::Refused);
    assert_eq!(record.reason, Some(reason), "{record}");
    assert_eq!(record.factor.unwrap_or_default(), factor, "{record}");
    assert_eq!(record.peer, Some(peer(1).to_string()));
    let VaultReply::Refused {
        reason,
        factor: named,
        ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert_eq!((*reason, named.as_str()), (told, factor));
}

/// The claim of peer 1 up to the verdict on `bundle`, which it names as `evidence`.
fn judged(
    vault: &mut Vault,
    at: UnixMillis,
    verifier: &Verifier,
    bundle: &EvidenceBundle,
) -> Vec<Output> {
    assert!(matches!(
        hello(vault, at, peer(1), 1)[..],
        [Output::Reply {
            reply: VaultReply::Nonce { .. },
            ..
        }]
    ));
    let examine = vault.handle(at, claim_of(&bundle.claims, 1));
    let [Output::Examine { ask, evidence, .. }] = examine[..] else {
        panic!("{examine:?}");
    };
    let verdict = judge(verifier, at, bundle, evidence);
    vault.handle(
        at,
        Input::Judged {
            ask,
            finding: Finding::Verdict(Box::new(verdict)),
        },
    )
}

#[test]
fn the_right_guest_gets_the_key_once_and_the_owner_reads_of_it_first() {
    let mut vault = vault();
    let bundle = honest(&claims());
    let outputs = judged(&mut vault, now(), &verifier(simulated::policy()), &bundle);
    let [
        Output::Record(record),
        Output::Release {
            ask,
            nonce: with,
            claims,
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(record.event, Event::Released);
    assert_eq!(record.platform_id.as_ref().map(String::len), Some(32));
    assert_eq!((*with, claims.as_ref()), (nonce(1), &bundle.claims));
    let done = vault.handle(now(), Input::Delivered { ask: *ask });
    assert_eq!(records(&done)[0].event, Event::Delivered);
    assert!(matches!(
        done[1],
        Output::Reply {
            reply: VaultReply::Released,
            ..
        }
    ));
    assert_eq!(vault.memory().2, 0);
    // A second verdict, or a second confirmation, releases nothing more.
    let verdict = judge(
        &verifier(simulated::policy()),
        now(),
        &bundle,
        bundle.claims.digest(),
    );
    let finding = Finding::Verdict(Box::new(verdict));
    assert!(
        vault
            .handle(now(), Input::Judged { ask: *ask, finding })
            .is_empty()
    );
    assert!(
        vault
            .handle(now(), Input::Delivered { ask: *ask })
            .is_empty()
    );
}

#[test]
fn a_guest_that_is_not_in_order_is_refused_by_the_factor_that_is_not() {
    let owner = || verifier(simulated::policy());
    let of = |change: fn(&mut Claims)| {
        let mut changed = claims();
        change(&mut changed);
        honest(&changed)
    };
    let table: Vec<(&str, EvidenceBundle, Verifier)> = vec![
        ("mrtd", shaped(|report| report.mr_td = [7; 48]), owner()),
        ("rtmr1", shaped(|report| report.rt_mr1 = [7; 48]), owner()),
        ("rtmr3", shaped(|report| report.rt_mr3 = [7; 48]), owner()),
        (
            "debug_off",
            shaped(|report| report.td_attributes[0] |= 1),
            owner(),
        ),
        (
            "model_digest",
            of(|claims| claims.model = Digest::sha256(b"other weights")),
            owner(),
        ),
        ("peer_id", of(|claims| claims.peer = peer(2)), owner()),
        ("epoch", of(|claims| claims.epoch -= 3), owner()),
        (
            "beacon",
            of(|claims| claims.beacon.hash = Digest::sha256(b"nobody's block")),
            owner(),
        ),
        (
            "root_pinned",
            honest(&claims()),
            // Under the simulated guest's own measurements, so that only the root is in its way.
            Verifier::new(Trust::Intel, simulated::policy())
                .unwrap_or_else(|_| Verifier::new(Trust::Intel, policy_for_samples()).unwrap()),
        ),
    ];
    for (factor, bundle, verifier) in table {
        let mut vault = vault();
        let outputs = judged(&mut vault, now(), &verifier, &bundle);
        refused(&outputs, VaultRefusal::Evidence, "evidence", factor);
        assert_eq!(vault.memory().2, 0, "{factor}: the place is free again");
    }
}

#[test]
fn a_verdict_is_looked_at_again_before_a_key_leaves() {
    let owner = verifier(simulated::policy());
    let bundle = honest(&claims());
    let good = judge(&owner, now(), &bundle, bundle.claims.digest());
    assert!(good.accepted());
    // Verdicts that no verifier gives to this claim.
    type Change = fn(&mut Verdict);
    let stories: [(&str, VaultConfig, Change); 5] = [
        (
            "root_pinned",
            VaultConfig {
                trust: Trust::Intel,
                ..config()
            },
            |_| {},
        ),
        ("peer_id", config(), |verdict| verdict.claims.peer = peer(2)),
        ("model_digest", config(), |verdict| {
            verdict.claims.model = Digest::ZERO
        }),
        ("advertised_evidence", config(), |verdict| {
            verdict.claims.noise_key = [1; 32]
        }),
        ("epoch", config(), |verdict| verdict.valid_until = now()),
    ];
    for (factor, config, change) in stories {
        let mut vault = Vault::new(config);
        let _ = hello(&mut vault, now(), peer(1), 1);
        let _ = vault.handle(now(), claim_of(&claims(), 1));
        let mut verdict = good.clone();
        change(&mut verdict);
        let finding = Finding::Verdict(Box::new(verdict));
        let outputs = vault.handle(
            now(),
            Input::Judged {
                ask: Ask(1_001),
                finding,
            },
        );
        refused(&outputs, VaultRefusal::Evidence, "evidence", factor);
    }
}

#[test]
fn evidence_that_was_good_an_hour_ago_is_refused_now() {
    let bundle = honest(&claims());
    let at = later(2 * HOUR_MS);
    let outputs = judged(&mut vault(), at, &verifier(simulated::policy()), &bundle);
    refused(&outputs, VaultRefusal::Evidence, "evidence", "epoch");
}

#[test]
fn a_request_that_is_replayed_is_refused() {
    let mut vault = vault();
    let bundle = honest(&claims());
    let outputs = judged(&mut vault, now(), &verifier(simulated::policy()), &bundle);
    assert!(matches!(outputs[1], Output::Release { .. }));
    let replay = vault.handle(later(1), claim_of(&bundle.claims, 1));
    refused(&replay, VaultRefusal::Nonce, "nonce_replayed", "");
    // And when it was delivered, and when its time is over.
    let _ = vault.handle(later(2), Input::Delivered { ask: Ask(1_001) });
    let replay = vault.handle(later(90_000), claim_of(&bundle.claims, 1));
    refused(&replay, VaultRefusal::Nonce, "nonce_replayed", "");
    let replay = vault.handle(later(180_000), claim_of(&bundle.claims, 1));
    refused(&replay, VaultRefusal::Nonce, "nonce_unknown", "");
}

#[test]
fn a_nonce_is_of_one_peer_one_model_and_one_minute() {
    let mut vault = Vault::new(VaultConfig {
        models: BTreeSet::from([model(), Digest::ZERO]),
        ..config()
    });
    let _ = hello(&mut vault, now(), peer(2), 1);
    refused(
        &vault.handle(now(), claim_of(&claims(), 1)),
        VaultRefusal::Nonce,
        "nonce_of_another_peer",
        "",
    );
    let _ = hello(&mut vault, now(), peer(1), 2);
    let other_model = Input::Claim {
        ask: Ask(9),
        peer: peer(1),
        nonce: nonce(2),
        model: Digest::ZERO,
        evidence: claims().digest(),
    };
    refused(
        &vault.handle(now(), other_model),
        VaultRefusal::Nonce,
        "nonce_of_another_model",
        "",
    );
    refused(
        &vault.handle(later(60_000), claim_of(&claims(), 2)),
        VaultRefusal::Nonce,
        "nonce_over",
        "",
    );
    refused(
        &vault.handle(now(), claim_of(&claims(), 3)),
        VaultRefusal::Nonce,
        "nonce_unknown",
        "",
    );
    // A second one takes the place of the first.
    let _ = hello(&mut vault, now(), peer(1), 4);
    let _ = hello(&mut vault, now(), peer(1), 5);
    refused(
        &vault.handle(now(), claim_of(&claims(), 4)),
        VaultRefusal::Nonce,
        "nonce_unknown",
        "",
    );
    assert!(matches!(
        vault.handle(now(), claim_of(&claims(), 5))[..],
        [Output::Examine { .. }]
    ));
}

#[test]
fn a_second_request_in_a_row_waits() {
    let mut vault = vault();
    let bundle = honest(&claims());
    let _ = judged(&mut vault, now(), &verifier(simulated::policy()), &bundle);
    let second = hello(&mut vault, later(4_000), peer(1), 2);
    refused(&second, VaultRefusal::TooSoon, "too_soon", "");
    let [
        _,
        Output::Reply {
            reply: VaultReply::Refused { again_after_ms, .. },
            ..
        },
    ] = second[..]
    else {
        panic!("{second:?}");
    };
    assert_eq!(again_after_ms, 6_000);
    // Others do not wait for it.
    let other = hello(&mut vault, later(4_000), peer(2), 3);
    assert!(matches!(
        other[..],
        [Output::Reply {
            reply: VaultReply::Nonce { .. },
            ..
        }]
    ));
    let third = hello(&mut vault, later(10_000), peer(1), 4);
    assert!(matches!(
        third[..],
        [Output::Reply {
            reply: VaultReply::Nonce { .. },
            ..
        }]
    ));
}

#[test]
fn a_model_without_a_key_and_evidence_that_is_not_shown_are_refused() {
    let mut vault = vault();
    let unknown = Input::Hello {
        ask: Ask(1),
        peer: peer(1),
        model: Digest::ZERO,
        nonce: nonce(1),
    };
    refused(
        &vault.handle(now(), unknown),
        VaultRefusal::UnknownModel,
        "unknown_model",
        "",
    );
    for (at, finding, told, reason) in [
        (
            0,
            Finding::NoEvidence("gone\nfor good".to_owned()),
            VaultRefusal::NoEvidence,
            "no_evidence",
        ),
        (
            20_000,
            Finding::NotExamined("x".repeat(5_000)),
            VaultRefusal::Evidence,
            "not_examined",
        ),
    ] {
        let at = later(at);
        let _ = hello(&mut vault, at, peer(1), 2);
        let _ = vault.handle(at, claim_of(&claims(), 2));
        let outputs = vault.handle(
            at,
            Input::Judged {
                ask: Ask(1_002),
                finding,
            },
        );
        refused(&outputs, told, reason, "");
        let detail = records(&outputs)[0].detail.clone().unwrap();
        assert!(detail.chars().count() <= MAX_DETAIL_CHARS && !detail.contains('\n'));
    }
}

#[test]
fn without_a_record_nothing_is_released_and_what_is_lost_is_recorded() {
    for (input, told, reason) in [
        (
            Input::Unrecorded { ask: Ask(1_001) },
            VaultRefusal::CannotRecord,
            "cannot_record",
        ),
        (
            Input::Lost {
                ask: Ask(1_001),
                reason: "the stream was lost".to_owned(),
            },
            VaultRefusal::NotDelivered,
            "not_delivered",
        ),
    ] {
        let mut vault = vault();
        let _ = judged(
            &mut vault,
            now(),
            &verifier(simulated::policy()),
            &honest(&claims()),
        );
        let outputs = vault.handle(now(), input);
        let [Output::Record(record), Output::Reply { reply, .. }] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(
            (record.event, record.reason),
            (Event::NotDelivered, Some(reason))
        );
        assert!(matches!(reply, VaultReply::Refused { reason, .. } if *reason == told));
        assert_eq!(vault.memory().2, 0);
    }
}

#[test]
fn strangers_cannot_fill_the_owners_log_or_memory() {
    let mut vault = Vault::new(VaultConfig {
        refusals_per_minute: 10,
        ..config()
    });
    let stranger = |number: u32| {
        let mut bytes = vec![0x12, 32];
        bytes.extend(Digest::sha256(&number.to_le_bytes()).as_bytes());
        PeerId::from_bytes(&bytes).unwrap()
    };
    let mut listed = 0;
    for number in 0..100 {
        let claim = Input::Claim {
            ask: Ask(u64::from(number)),
            peer: stranger(number),
            nonce: nonce(0),
            model: model(),
            evidence: Digest::ZERO,
        };
        listed += records(&vault.handle(now(), claim)).len();
    }
    assert_eq!(listed, 10);
    let next = vault.handle(later(60_000), claim_of(&claims(), 9));
    let left_out: Vec<_> = records(&next)
        .iter()
        .filter_map(|record| record.count)
        .collect();
    assert_eq!(left_out, [90]);
    // One nonce each, and the oldest goes first.
    let many = u32::try_from(MAX_NONCES).unwrap() + 50;
    for number in 0..many {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let hello = Input::Hello {
            ask: Ask(u64::from(number)),
            peer: stranger(number),
            model: model(),
            nonce: Nonce::from_bytes(bytes),
        };
        let _ = vault.handle(later(u64::from(number) / 1_000), hello);
    }
    let (nonces, peers, open) = vault.memory();
    assert_eq!(nonces, MAX_NONCES);
    assert!(peers <= MAX_REMEMBERED_PEERS && open == 0);
}

#[test]
fn no_more_than_a_number_are_examined_at_once_and_a_place_comes_back() {
    let mut vault = Vault::new(VaultConfig {
        examinations: 1,
        ..config()
    });
    let _ = hello(&mut vault, now(), peer(2), 1);
    let other = Input::Claim {
        ask: Ask(1),
        peer: peer(2),
        nonce: nonce(1),
        model: model(),
        evidence: Digest::ZERO,
    };
    assert!(matches!(
        vault.handle(now(), other)[..],
        [Output::Examine { .. }]
    ));
    let _ = hello(&mut vault, later(50_000), peer(1), 2);
    let busy = vault.handle(later(50_000), claim_of(&claims(), 2));
    refused(&busy, VaultRefusal::Busy, "busy", "");
    // The other's examiner never came back; its nonce still counts.
    let again = vault.handle(later(60_000), claim_of(&claims(), 2));
    assert!(matches!(again[..], [Output::Examine { .. }]));
}

#[test]
fn a_record_is_one_line_of_json_and_one_for_people() {
    let mut vault = vault();
    let outputs = judged(
        &mut vault,
        now(),
        &verifier(simulated::policy()),
        &shaped(|report| report.mr_td = [7; 48]),
    );
    let record = records(&outputs)[0].clone();
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["event"], "refused");
    assert_eq!(json["reason"], "evidence");
    assert_eq!(json["factor"], "mrtd");
    assert_eq!(json["peer"], peer(1).to_string());
    assert_eq!(json["model"], model().to_string());
    assert!(json.get("platform_id").is_none());
    assert!(!record.to_string().contains('\n'));
    assert!(record.to_string().contains("mrtd: "), "{record}");
}
