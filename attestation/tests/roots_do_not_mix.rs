//! Simulated evidence never verifies under Intel's root, and Intel's never under the simulated one,
//! in whatever combination of quote, collateral and root.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::{
    Check, EvidenceSource as _, FactorResult, Policy, SimulatedSource, Trust, Verdict, Verifier,
};
use cocoon_protocol::evidence::Attached;
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::units::UnixMillis;
use support::{claims, expectation, policy_for_samples};

const REAL_QUOTE: &[u8] = include_bytes!("fixtures/tdx_quote");
const REAL_COLLATERAL: &[u8] = include_bytes!("fixtures/tdx_quote_collateral.json");
/// A time at which Intel's collateral is in force; the simulator's is made for it.
const THEN: UnixMillis = UnixMillis::from_millis(1_752_919_234_000);

fn policy() -> Policy {
    let mut policy = policy_for_samples();
    policy.images.push(simulated::image().into());
    policy
}

fn examine(trust: Trust, quote: &[u8], collateral: &[u8]) -> Verdict {
    let mut claims = claims();
    claims.epoch = THEN.millis() / 3_600_000;
    let bundle = EvidenceBundle {
        quote: quote.to_vec(),
        collateral_json: collateral.to_vec(),
        claims,
        attached: Attached::default(),
    };
    let beacons = support::beacons();
    let expectation = expectation(&bundle.claims, &beacons);
    Verifier::new(trust, policy())
        .unwrap()
        .examine(THEN, &bundle, &expectation)
}

/// Quote and collateral of a simulated worker whose claims are in order.
fn simulated_pair() -> (Vec<u8>, Vec<u8>) {
    let mut claims = claims();
    claims.epoch = THEN.millis() / 3_600_000;
    let bundle = SimulatedSource::new(b"machine")
        .unwrap()
        .make(THEN, &claims)
        .unwrap();
    (bundle.quote, bundle.collateral_json)
}

/// Everything below the root that a mix must not get through.
fn chain_holds(verdict: &Verdict) -> bool {
    [
        Check::SignatureChain,
        Check::RootPinned,
        Check::PlatformLabel,
    ]
    .iter()
    .all(|check| verdict.result(*check) == Some(FactorResult::Pass))
}

#[test]
fn only_unmixed_evidence_holds_under_its_own_root() {
    let (quote, collateral) = simulated_pair();
    let quotes = [("real", REAL_QUOTE), ("simulated", quote.as_slice())];
    let collaterals = [
        ("real", REAL_COLLATERAL),
        ("simulated", collateral.as_slice()),
    ];
    let mut held = Vec::new();
    for trust in [Trust::Intel, Trust::Simulated] {
        for (of_quote, quote) in quotes {
            for (of_collateral, collateral) in collaterals {
                let verdict = examine(trust, quote, collateral);
                if chain_holds(&verdict) {
                    held.push((trust.name(), of_quote, of_collateral));
                } else {
                    assert!(!verdict.accepted());
                }
            }
        }
    }
    assert_eq!(
        held,
        [
            ("intel", "real", "real"),
            ("simulated", "simulated", "simulated")
        ]
    );
}

#[test]
fn simulated_evidence_under_intels_root_is_refused_by_root_label_and_signatures() {
    let (quote, collateral) = simulated_pair();
    let verdict = examine(Trust::Intel, &quote, &collateral);
    let failed: Vec<_> = verdict.failures().map(|factor| factor.name).collect();
    assert_eq!(failed, ["root_pinned", "platform_label", "signature_chain"]);
    assert!(examine(Trust::Simulated, &quote, &collateral).accepted());
}

#[test]
fn real_evidence_under_the_simulated_root_is_refused_by_root_label_and_signatures() {
    let verdict = examine(Trust::Simulated, REAL_QUOTE, REAL_COLLATERAL);
    for check in [
        Check::RootPinned,
        Check::PlatformLabel,
        Check::SignatureChain,
    ] {
        assert_eq!(
            verdict.result(check),
            Some(FactorResult::Fail),
            "{}",
            check.name()
        );
    }
}

#[test]
fn intels_root_pasted_behind_simulated_certificates_does_not_help() {
    let real = dcap_qvl::quote::Quote::parse(REAL_QUOTE).unwrap();
    let real_chain = String::from_utf8(real.raw_cert_chain().unwrap().to_vec()).unwrap();
    let begin = "-----BEGIN CERTIFICATE-----";
    let intel_root = &real_chain[real_chain.rfind(begin).unwrap()..];

    let (quote, collateral) = simulated_pair();
    let simulated_chain = {
        let quote = dcap_qvl::quote::Quote::parse(&quote).unwrap();
        quote.raw_cert_chain().unwrap().to_vec()
    };
    let at = quote
        .windows(simulated_chain.len())
        .position(|window| window == simulated_chain.as_slice())
        .unwrap();
    let text = String::from_utf8(simulated_chain.clone()).unwrap();
    let mut chain = text[..text.rfind(begin).unwrap()].to_owned();
    chain.push_str(intel_root.trim_end_matches('\0'));

    // Three lengths in front of the chain have to grow or shrink with it: its own, that of the
    // quoting enclave's certification data, and that of all authentication data.
    let change =
        i64::try_from(chain.len()).unwrap() - i64::try_from(simulated_chain.len()).unwrap();
    let mut pasted = quote[..at].to_vec();
    pasted.extend_from_slice(chain.as_bytes());
    for position in [at - 4, 632 + 4 + 64 + 64 + 2, 632] {
        let old = u32::from_le_bytes(pasted[position..position + 4].try_into().unwrap());
        let new = u32::try_from(i64::from(old) + change).unwrap();
        pasted[position..position + 4].copy_from_slice(&new.to_le_bytes());
    }

    let verdict = examine(Trust::Intel, &pasted, &collateral);
    assert_ne!(
        verdict.result(Check::RootPinned),
        Some(FactorResult::Fail),
        "\n{verdict}"
    );
    let failed: Vec<_> = verdict.failures().map(|factor| factor.name).collect();
    assert_eq!(failed, ["platform_label", "signature_chain"]);
}
