//! Quotes that Intel's hardware signed, with the collateral of their time, under Intel's root.
//!
//! They bind claims of other projects, so our verifier refuses them as workers. What is looked at
//! here is Intel's part: certificates, collateral, signatures, security versions.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::{Attested, Check, FactorResult, Intel, NotAttested, Policy, Trust};
use cocoon_attestation::{Verdict, Verifier};
use cocoon_protocol::evidence::Attached;
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::units::UnixMillis;
use support::{claims, expectation, passed, policy_for_samples, refused};

const V4: (&[u8], &[u8]) = (
    include_bytes!("fixtures/tdx_quote"),
    include_bytes!("fixtures/tdx_quote_collateral.json"),
);
/// 2025-07-19 10:00:34 UTC, the last hour of that collateral.
const V4_TIME: u64 = 1_752_919_234;

const V5_EXTENDED: (&[u8], &[u8]) = (
    include_bytes!("fixtures/tdx_quote_td15ex"),
    include_bytes!("fixtures/tdx_quote_td15ex_collateral.json"),
);
/// 2026-10-09, the day after that collateral was issued.
const V5_EXTENDED_TIME: u64 = 1_791_504_586;

const OUTDATED: (&[u8], &[u8]) = (
    include_bytes!("fixtures/tdx_quote_outdated"),
    include_bytes!("fixtures/tdx_quote_outdated_collateral.json"),
);
/// 2026-02-19, the day after that collateral was issued.
const OUTDATED_TIME: u64 = 1_771_498_731;

/// Everything that Intel's part consists of.
const INTELS_PART: [Check; 17] = [
    Check::QuoteSize,
    Check::QuoteStructure,
    Check::Debug,
    Check::SeptVeDisable,
    Check::TdAttributes,
    Check::Migratable,
    Check::ServiceTd,
    Check::RootPinned,
    Check::PlatformLabel,
    Check::CollateralStructure,
    Check::CollateralExpiry,
    Check::SignatureChain,
    Check::RootCrl,
    Check::PckCrl,
    Check::TdxModule,
    Check::QeIdentity,
    Check::TcbStatus,
];

fn bundle(sample: (&[u8], &[u8])) -> EvidenceBundle {
    EvidenceBundle {
        quote: sample.0.to_vec(),
        collateral_json: sample.1.to_vec(),
        claims: claims(),
        attached: Attached::default(),
    }
}

fn examine(sample: (&[u8], &[u8]), seconds: u64, policy: Policy) -> Verdict {
    let bundle = bundle(sample);
    let beacons = support::beacons();
    Verifier::new(Trust::Intel, policy).unwrap().examine(
        UnixMillis::from_millis(seconds * 1_000),
        &bundle,
        &expectation(&bundle.claims, &beacons),
    )
}

#[test]
fn a_real_version_4_quote_verifies_under_intels_root_at_its_time() {
    let verdict = examine(V4, V4_TIME, policy_for_samples());
    passed(&verdict, &INTELS_PART);
    passed(
        &verdict,
        &[Check::TcbEvaluation, Check::PlatformFlags, Check::Xfam],
    );
    assert_eq!(verdict.platform_id.len(), 32);
}

#[test]
fn a_real_version_5_quote_of_an_extended_td_verifies_at_its_time() {
    let verdict = examine(V5_EXTENDED, V5_EXTENDED_TIME, policy_for_samples());
    passed(&verdict, &INTELS_PART);
}

#[test]
fn a_real_quote_of_an_sgx_enclave_is_no_tdx_guest() {
    let enclave: (&[u8], &[u8]) = (include_bytes!("fixtures/sgx_quote"), V4.1);
    let verdict = examine(enclave, V4_TIME, policy_for_samples());
    refused(&verdict, &[Check::QuoteStructure]);
    let structure = verdict.factor(Check::QuoteStructure).unwrap();
    assert_eq!(structure.seen, "version 3");
    assert!(structure.reason.contains("SGX"), "{}", structure.reason);
}

#[test]
fn a_real_quote_is_still_refused_as_a_worker_because_it_binds_other_claims() {
    let verdict = examine(V4, V4_TIME, policy_for_samples());
    assert!(!verdict.accepted());
    for check in [Check::ReportData, Check::MrTd, Check::Rtmr3] {
        assert_eq!(
            verdict.result(check),
            Some(FactorResult::Fail),
            "{}",
            check.name()
        );
    }
    let refusal = Attested::<Intel>::from_verdict(&verdict).unwrap_err();
    assert!(
        matches!(
            refusal,
            NotAttested::Refused {
                factor: "report_data",
                ..
            }
        ),
        "{refusal}"
    );
}

#[test]
fn a_strangers_bundle_for_other_claims_is_refused_before_any_signature_is_checked() {
    let bundle = bundle(V4);
    let beacons = support::beacons();
    let verdict = Verifier::new(Trust::Intel, policy_for_samples())
        .unwrap()
        .verify(
            support::now(),
            &bundle,
            &expectation(&bundle.claims, &beacons),
        );
    refused(&verdict, &[Check::ReportData]);
    let chain = verdict.factor(Check::SignatureChain).unwrap();
    assert_eq!(chain.result, FactorResult::Skip);
    assert_eq!(chain.reason, "not reached: report_data failed");
}

#[test]
fn a_platform_without_a_matching_level_fails_in_its_security_version() {
    let verdict = examine(OUTDATED, OUTDATED_TIME, policy_for_samples());
    assert_eq!(
        verdict.result(Check::TcbStatus),
        Some(FactorResult::Fail),
        "\n{verdict}"
    );
    assert_eq!(
        verdict.result(Check::SignatureChain),
        Some(FactorResult::Skip)
    );
    passed(&verdict, &[Check::PlatformLabel, Check::CollateralExpiry]);
}

#[test]
fn collateral_is_refused_before_it_is_issued_and_after_it_expired() {
    let month = 31 * 24 * 3_600;
    for seconds in [V4_TIME + month, V4_TIME - month] {
        let verdict = examine(V4, seconds, policy_for_samples());
        assert_eq!(
            verdict.result(Check::CollateralExpiry),
            Some(FactorResult::Fail)
        );
        assert_ne!(
            verdict.result(Check::SignatureChain),
            Some(FactorResult::Pass)
        );
    }
}

#[test]
fn collateral_below_the_floor_is_refused_though_intel_signed_it() {
    let mut policy = policy_for_samples();
    policy.tcb.min_evaluation = 18;
    let verdict = examine(V4, V4_TIME, policy);
    let factor = verdict.factor(Check::TcbEvaluation).unwrap();
    assert_eq!(factor.result, FactorResult::Fail);
    assert_eq!(
        (factor.seen.as_str(), factor.wanted.as_str()),
        ("evaluation 17", "evaluation 18 or later")
    );
}

#[test]
fn collateral_of_another_platform_family_does_not_verify() {
    let mixed = (V4.0, OUTDATED.1);
    let verdict = examine(mixed, OUTDATED_TIME, policy_for_samples());
    assert_ne!(
        verdict.result(Check::TcbStatus),
        Some(FactorResult::Pass),
        "\n{verdict}"
    );
    assert_ne!(
        verdict.result(Check::SignatureChain),
        Some(FactorResult::Pass)
    );
}

#[test]
fn one_flipped_bit_anywhere_in_the_signed_part_breaks_the_chain() {
    for at in (0..632).step_by(37) {
        let mut quote = V4.0.to_vec();
        quote[at] ^= 1;
        let verdict = examine((&quote, V4.1), V4_TIME, policy_for_samples());
        assert_ne!(
            verdict.result(Check::SignatureChain),
            Some(FactorResult::Pass),
            "byte {at}"
        );
    }
}

#[test]
fn bytes_after_the_quote_are_refused_unless_they_are_the_zeroes_of_a_padded_buffer() {
    let verdict = examine(
        (&[V4.0, &[0; 64]].concat(), V4.1),
        V4_TIME,
        policy_for_samples(),
    );
    passed(&verdict, &[Check::QuoteStructure]);
    let verdict = examine(
        (&[V4.0, &[1]].concat(), V4.1),
        V4_TIME,
        policy_for_samples(),
    );
    refused(&verdict, &[Check::QuoteStructure]);
}
