//! Whatever a stranger sends, the verifier answers with a whole verdict and never with a panic, and
//! no change to a signed byte gets through.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::collections::BTreeSet;

use cocoon_attestation::log::NoteSigner;
use cocoon_attestation::policy::Policy;
use cocoon_attestation::policy::signature;
use cocoon_attestation::{Check, FactorResult, Trust, Verdict, Verifier};
use cocoon_protocol::evidence::Attached;
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::units::UnixMillis;
use support::{claims, expectation, policy_for_samples};

const QUOTE: &[u8] = include_bytes!("fixtures/tdx_quote");
const COLLATERAL: &[u8] = include_bytes!("fixtures/tdx_quote_collateral.json");
const THEN: UnixMillis = UnixMillis::from_millis(1_752_919_234_000);
/// Header and report of a version 4 quote.
const SIGNED_BYTES: usize = 632;

fn examine(quote: Vec<u8>, collateral_json: Vec<u8>) -> Verdict {
    let bundle = EvidenceBundle {
        quote,
        collateral_json,
        claims: claims(),
        attached: Attached::default(),
    };
    let beacons = support::beacons();
    let expectation = expectation(&bundle.claims, &beacons);
    let verdict = Verifier::new(Trust::Intel, policy_for_samples())
        .unwrap()
        .examine(THEN, &bundle, &expectation);
    let names: BTreeSet<_> = verdict.factors.iter().map(|factor| factor.name).collect();
    assert_eq!(names.len(), Check::ALL.len());
    assert_eq!(verdict.factors.len(), Check::ALL.len());
    assert!(!verdict.accepted());
    verdict
}

#[test]
fn random_bytes_as_a_quote_are_refused_without_a_panic() {
    bolero::check!()
        .with_iterations(600)
        .for_each(|bytes: &[u8]| {
            examine(bytes.to_vec(), COLLATERAL.to_vec());
        });
}

#[test]
fn random_bytes_behind_a_real_header_are_refused_without_a_panic() {
    bolero::check!()
        .with_iterations(400)
        .for_each(|bytes: &[u8]| {
            examine(
                [&QUOTE[..SIGNED_BYTES], bytes].concat(),
                COLLATERAL.to_vec(),
            );
        });
}

#[test]
fn random_bytes_as_collateral_are_refused_without_a_panic() {
    bolero::check!()
        .with_iterations(200)
        .for_each(|bytes: &[u8]| {
            let verdict = examine(QUOTE.to_vec(), bytes.to_vec());
            assert_eq!(
                verdict.result(Check::CollateralStructure),
                Some(FactorResult::Fail)
            );
        });
}

#[test]
fn a_changed_quote_never_keeps_both_its_signatures_and_another_report() {
    let honest = examine(QUOTE.to_vec(), COLLATERAL.to_vec());
    assert_eq!(
        honest.result(Check::SignatureChain),
        Some(FactorResult::Pass)
    );
    bolero::check!()
        .with_iterations(200)
        .with_type::<(u16, u8)>()
        .for_each(|(at, mask)| {
            let at = usize::from(*at) % QUOTE.len();
            let mut quote = QUOTE.to_vec();
            quote[at] ^= *mask;
            let verdict = examine(quote, COLLATERAL.to_vec());
            if verdict.result(Check::SignatureChain) == Some(FactorResult::Pass) {
                assert!(at >= SIGNED_BYTES || *mask == 0, "byte {at} is signed");
                assert_eq!(verdict.platform_id, honest.platform_id);
            }
        });
}

#[test]
fn changed_collateral_never_verifies_as_other_collateral() {
    let decoded: dcap_qvl::QuoteCollateralV3 = serde_json::from_slice(COLLATERAL).unwrap();
    bolero::check!()
        .with_iterations(200)
        .with_type::<(u16, u8)>()
        .for_each(|(at, mask)| {
            let at = usize::from(*at) % COLLATERAL.len();
            let mut json = COLLATERAL.to_vec();
            json[at] ^= *mask;
            let verdict = examine(QUOTE.to_vec(), json.clone());
            if verdict.result(Check::SignatureChain) == Some(FactorResult::Pass) {
                // White space, hexadecimal letters' case, or the certificates' text form; not what
                // Intel signed.
                let changed: dcap_qvl::QuoteCollateralV3 = serde_json::from_slice(&json).unwrap();
                assert_eq!(changed.tcb_info, decoded.tcb_info);
                assert_eq!(changed.qe_identity, decoded.qe_identity);
                assert_eq!(changed.root_ca_crl, decoded.root_ca_crl);
                assert_eq!(changed.pck_crl, decoded.pck_crl);
            }
        });
}

#[test]
fn random_bytes_in_any_part_of_the_collateral_never_verify() {
    let decoded: dcap_qvl::QuoteCollateralV3 = serde_json::from_slice(COLLATERAL).unwrap();
    bolero::check!()
        .with_iterations(200)
        .with_type::<(u8, Vec<u8>)>()
        .for_each(|(part, bytes)| {
            let text = || String::from_utf8_lossy(bytes).into_owned();
            let mut changed = decoded.clone();
            match part % 8 {
                0 => changed.tcb_info = text(),
                1 => changed.qe_identity = text(),
                2 => changed.tcb_info_issuer_chain = text(),
                3 => changed.qe_identity_issuer_chain = text(),
                4 => changed.root_ca_crl.clone_from(bytes),
                5 => changed.pck_crl.clone_from(bytes),
                6 => changed.tcb_info_signature.clone_from(bytes),
                _ => changed.qe_identity_signature.clone_from(bytes),
            }
            let verdict = examine(QUOTE.to_vec(), serde_json::to_vec(&changed).unwrap());
            assert_ne!(
                verdict.result(Check::SignatureChain),
                Some(FactorResult::Pass)
            );
        });
}

#[test]
fn random_text_as_a_policy_or_its_signature_is_refused_without_a_panic() {
    let signer = NoteSigner::new("release.example/policy", &[9; 32]).unwrap();
    let keys = [signer.verifier()];
    let frames = [
        ("", ""),
        ("version = 2\n", ""),
        (
            "cocoon.policy/2\nsha256 ",
            "\n\n\u{2014} release.example/policy AAAA\n",
        ),
    ];
    bolero::check!()
        .with_iterations(2_000)
        .with_type::<(u8, String)>()
        .for_each(|(frame, text)| {
            let (before, behind) = frames[usize::from(*frame) % frames.len()];
            let text = format!("{before}{text}{behind}");
            assert!(Policy::from_toml(&text).is_err());
            assert!(signature::verify(b"policy", text.as_bytes(), &keys).is_err());
        });
}
