//! Ten thousand single flipped bits each in quote, collateral, claims, policy and its signature, and
//! some more in what Intel signed: none gets through in anything that is signed, and nothing panics.
//!
//! The positions come from a seed, so that a failure is found again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::log::NoteSigner;
use cocoon_attestation::policy::signature;
use cocoon_attestation::policy::{Policy, TEMPLATE, simulated};
use cocoon_attestation::{Check, FactorResult, Trust, Verifier};
use cocoon_protocol::evidence::{Attached, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::intel::extract_cert_chain;
use dcap_qvl::quote::{AuthDataV3, Header, Quote, Report};
use support::simulated::{honest, verify};
use support::{claims, expectation, policy_for_samples};

const FLIPS: usize = 10_000;
/// Of Intel's samples, where a flip costs all factors and the same code is looked at again.
const REAL_FLIPS: usize = 2_000;

const REAL_QUOTE: &[u8] = include_bytes!("fixtures/tdx_quote");
const REAL_COLLATERAL: &[u8] = include_bytes!("fixtures/tdx_quote_collateral.json");
const REAL_TIME: UnixMillis = UnixMillis::from_millis(1_752_919_234_000);

/// `FLIPS` copies of `bytes`, each with another bit flipped (SplitMix64 from `seed`).
fn flipped(bytes: &[u8], seed: u64) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut state = seed;
    (0..FLIPS).map(move |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let bit = usize::try_from(mixed).unwrap() % (bytes.len() * 8);
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit, changed)
    })
}

/// All of a quote that somebody has signed. The rest is malleable: lengths and types that nobody
/// reads, the certificates' text form, the root that is only compared with ours, trailing zeroes.
#[derive(PartialEq)]
struct Signed {
    header: Header,
    report: Report,
    signature: [u8; 64],
    attestation_key: [u8; 64],
    enclave: [u8; 384],
    enclave_signature: [u8; 64],
    enclave_data: Vec<u8>,
    certificates: Vec<Vec<u8>>,
}

fn signed(quote: &[u8]) -> Signed {
    let quote = Quote::parse(quote).unwrap();
    let mut certificates = extract_cert_chain(&quote).unwrap();
    certificates.truncate(2);
    let AuthDataV3 {
        ecdsa_signature,
        ecdsa_attestation_key,
        qe_report,
        qe_report_signature,
        qe_auth_data,
        ..
    } = quote.auth_data.into_v3();
    Signed {
        header: quote.header,
        report: quote.report,
        signature: ecdsa_signature,
        attestation_key: ecdsa_attestation_key,
        enclave: qe_report,
        enclave_signature: qe_report_signature,
        enclave_data: qe_auth_data.data,
        certificates,
    }
}

/// All of the collateral that somebody has signed.
fn same_collateral(one: &[u8], other: &[u8]) -> bool {
    let parse = |json| serde_json::from_slice::<QuoteCollateralV3>(json).unwrap();
    let (one, other) = (parse(one), parse(other));
    one.tcb_info == other.tcb_info
        && one.tcb_info_signature == other.tcb_info_signature
        && one.qe_identity == other.qe_identity
        && one.qe_identity_signature == other.qe_identity_signature
        && one.root_ca_crl == other.root_ca_crl
        && one.pck_crl == other.pck_crl
}

/// Whether Intel's part of the samples holds.
fn real_holds(quote: Vec<u8>, collateral_json: Vec<u8>) -> bool {
    let bundle = EvidenceBundle {
        quote,
        collateral_json,
        claims: claims(),
        attached: Attached::default(),
    };
    let beacons = support::beacons();
    let verdict = Verifier::new(Trust::Intel, policy_for_samples())
        .unwrap()
        .examine(REAL_TIME, &bundle, &expectation(&bundle.claims, &beacons));
    assert!(!verdict.accepted());
    verdict.result(Check::SignatureChain) == Some(FactorResult::Pass)
}

#[test]
fn no_flip_in_a_simulated_quote_changes_what_is_signed_and_is_accepted() {
    let bundle = honest(&claims());
    let before = signed(&bundle.quote);
    assert!(verify(&bundle).accepted());
    let mut accepted = 0;
    for (bit, quote) in flipped(&bundle.quote, 1) {
        let changed = EvidenceBundle {
            quote,
            ..bundle.clone()
        };
        if verify(&changed).accepted() {
            assert!(signed(&changed.quote) == before, "bit {bit}");
            accepted += 1;
        }
    }
    // Quotes are malleable. If this ever falls to nothing, the test has stopped looking.
    assert!((1..FLIPS / 4).contains(&accepted), "{accepted}");
}

#[test]
fn no_flip_in_a_real_quote_changes_what_is_signed_and_holds() {
    let before = signed(REAL_QUOTE);
    assert!(real_holds(REAL_QUOTE.to_vec(), REAL_COLLATERAL.to_vec()));
    for (bit, quote) in flipped(REAL_QUOTE, 2).take(REAL_FLIPS) {
        if real_holds(quote.clone(), REAL_COLLATERAL.to_vec()) {
            assert!(signed(&quote) == before, "bit {bit}");
        }
    }
}

#[test]
fn no_flip_in_simulated_collateral_changes_what_is_signed_and_is_accepted() {
    let bundle = honest(&claims());
    for (bit, collateral_json) in flipped(&bundle.collateral_json, 3) {
        let changed = EvidenceBundle {
            collateral_json,
            ..bundle.clone()
        };
        if verify(&changed).accepted() {
            let same = same_collateral(&changed.collateral_json, &bundle.collateral_json);
            assert!(same, "bit {bit}");
        }
    }
}

#[test]
fn no_flip_in_real_collateral_changes_what_is_signed_and_holds() {
    for (bit, collateral) in flipped(REAL_COLLATERAL, 4).take(REAL_FLIPS) {
        if real_holds(REAL_QUOTE.to_vec(), collateral.clone()) {
            assert!(same_collateral(&collateral, REAL_COLLATERAL), "bit {bit}");
        }
    }
}

#[test]
fn no_flip_in_the_claims_is_accepted() {
    let bundle = honest(&claims());
    let encoded = bundle.encode();
    // The claims stand behind quote and collateral, which have their own tests.
    let from = encoded
        .windows(32)
        .position(|window| window == bundle.claims.noise_key)
        .unwrap();
    let (front, behind) = encoded.split_at(from);
    for (bit, behind) in flipped(behind, 5) {
        let bytes = [front, &behind].concat();
        let Ok(changed) = EvidenceBundle::decode(&bytes) else {
            continue;
        };
        if verify(&changed).accepted() {
            assert_eq!(changed.claims, bundle.claims, "bit {bit}");
        }
    }
}

#[test]
fn no_flip_in_a_policy_or_its_signature_is_taken_for_the_signed_one() {
    let signer = NoteSigner::new("release.example/policy", &[9; 32]).unwrap();
    let keys = [signer.verifier()];
    let policy = toml::to_string(&simulated::policy()).unwrap() + TEMPLATE;
    let note = signature::sign(policy.as_bytes(), &signer, None).unwrap();
    assert!(signature::verify(policy.as_bytes(), note.as_bytes(), &keys).is_ok());
    for (bit, changed) in flipped(policy.as_bytes(), 6) {
        assert!(
            signature::verify(&changed, note.as_bytes(), &keys).is_err(),
            "bit {bit}"
        );
    }
    for (bit, changed) in flipped(note.as_bytes(), 7) {
        assert!(
            signature::verify(policy.as_bytes(), &changed, &keys).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn a_flipped_policy_is_read_or_refused_and_never_panics() {
    let policy = toml::to_string(&simulated::policy()).unwrap();
    for (_, changed) in flipped(policy.as_bytes(), 8) {
        if let Ok(read) = Policy::from_toml(&String::from_utf8_lossy(&changed)) {
            assert_eq!(read.check(), Ok(()));
        }
    }
}
