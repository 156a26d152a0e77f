//! Each way in which a quote, its collateral or its platform can be wrong is refused and named.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::{Check, EvidenceSource as _, FactorResult, Policy, SimulatedSource};
use cocoon_protocol::evidence::Attached;
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_tdx_simulator::{CollateralTerms, Machine, Simulator, TcbStatus};
use support::simulated::{honest, shaped, terms, verifier, verify, verify_at, with_collateral};
use support::{NOW_SECONDS, claims, expectation, now, refused};

#[test]
fn an_oversized_quote_is_refused_unread() {
    let mut bundle = honest(&claims());
    bundle.quote.resize(16 * 1024 + 1, 0);
    let verdict = verify(&bundle);
    refused(&verdict, &[Check::QuoteSize]);
    assert_eq!(
        verdict.result(Check::QuoteStructure),
        Some(FactorResult::Skip)
    );
}

#[test]
fn bytes_that_are_no_quote_are_refused() {
    for quote in [Vec::new(), vec![0; 48], vec![0xff; 5_000]] {
        let bundle = EvidenceBundle {
            quote,
            ..honest(&claims())
        };
        refused(&verify(&bundle), &[Check::QuoteStructure]);
    }
}

#[test]
fn a_flipped_signature_breaks_the_chain() {
    let mut bundle = honest(&claims());
    bundle.quote[632 + 4 + 10] ^= 1;
    refused(&verify(&bundle), &[Check::SignatureChain]);
}

#[test]
fn a_second_chain_in_the_collateral_does_not_replace_the_one_in_the_quote() {
    let mut bundle = honest(&claims());
    let chain = {
        let quote = dcap_qvl::quote::Quote::parse(&bundle.quote).unwrap();
        String::from_utf8(quote.raw_cert_chain().unwrap().to_vec()).unwrap()
    };
    let mut collateral: dcap_qvl::QuoteCollateralV3 =
        serde_json::from_slice(&bundle.collateral_json).unwrap();
    collateral.pck_certificate_chain = Some(chain.clone());
    bundle.collateral_json = serde_json::to_vec(&collateral).unwrap();
    assert!(verify(&bundle).accepted());

    // One letter of the authority's certificate, the second of the three inside the quote.
    let end = "-----END CERTIFICATE-----";
    let in_chain = chain.match_indices(end).nth(1).unwrap().0 - 20;
    let start = bundle
        .quote
        .windows(64)
        .position(|window| window == &chain.as_bytes()[..64]);
    let at = start.unwrap() + in_chain;
    bundle.quote[at] = if bundle.quote[at] == b'A' { b'B' } else { b'A' };
    refused(&verify(&bundle), &[Check::SignatureChain]);
}

#[test]
fn a_forger_with_a_root_of_its_own_is_refused_before_signatures_are_checked() {
    let forger = Simulator::from_seed([8; 32]).unwrap();
    let honest = honest(&claims());
    let report = *dcap_qvl::quote::Quote::parse(&honest.quote)
        .unwrap()
        .report
        .as_td10()
        .unwrap();
    let quote = forger
        .quote(&Machine::from_seed(b"machine 1"), &report)
        .unwrap();
    let collateral_json = serde_json::to_vec(&forger.collateral(&terms()).unwrap()).unwrap();
    let bundle = EvidenceBundle {
        quote,
        collateral_json,
        claims: claims(),
        attached: Attached::default(),
    };
    let verdict = verify(&bundle);
    refused(&verdict, &[Check::RootPinned]);
    assert_eq!(
        verdict.result(Check::SignatureChain),
        Some(FactorResult::Skip)
    );
}

#[test]
fn a_revoked_platform_is_refused_and_another_one_is_not() {
    let machine = Machine::from_seed(b"machine 1");
    let bundle = with_collateral(&CollateralTerms {
        revoked: vec![machine.serial],
        ..terms()
    });
    let verdict = verify(&bundle);
    refused(&verdict, &[Check::PckCrl]);
    assert_eq!(
        verdict.result(Check::SignatureChain),
        Some(FactorResult::Skip)
    );

    let other = SimulatedSource::new(b"machine 2")
        .unwrap()
        .make(now(), &claims())
        .unwrap();
    let other = EvidenceBundle {
        collateral_json: bundle.collateral_json,
        ..other
    };
    assert!(verify(&other).accepted());
}

#[test]
fn a_platform_that_is_not_up_to_date_is_refused_with_its_advisories() {
    for status in [
        TcbStatus::OutOfDate,
        TcbStatus::SWHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::Revoked,
    ] {
        let bundle = with_collateral(&CollateralTerms {
            platform_status: status,
            advisories: vec!["INTEL-SA-01192".to_owned()],
            ..terms()
        });
        let verdict = verify(&bundle);
        refused(&verdict, &[Check::TcbStatus]);
        assert_eq!(
            verdict.factor(Check::TcbStatus).unwrap().seen,
            format!("{status} (INTEL-SA-01192)")
        );
    }
}

#[test]
fn a_platform_that_is_out_of_date_is_taken_while_the_grace_lasts_and_not_longer() {
    let advisory = "INTEL-SA-01192".to_owned();
    let outdated = CollateralTerms {
        platform_status: TcbStatus::OutOfDate,
        advisories: vec![advisory.clone()],
        ..terms()
    };
    let bundle = with_collateral(&outdated);
    let policy = |grace_days, advisories_allowed| {
        let mut policy = simulated::policy();
        policy.tcb.accepted.push(TcbStatus::OutOfDate);
        policy.tcb.grace_days = grace_days;
        policy.tcb.advisories_allowed = advisories_allowed;
        policy
    };
    let read = vec![advisory];
    // The level is dated when the collateral was issued: exactly one day ago.
    let two_days = verify_at(now(), policy(2, read.clone()), &bundle, &claims());
    assert!(two_days.accepted(), "\n{two_days}");
    let one_day = verify_at(now(), policy(1, read.clone()), &bundle, &claims());
    refused(&one_day, &[Check::TcbStatus]);
    let unread = verify_at(now(), policy(2, Vec::new()), &bundle, &claims());
    refused(&unread, &[Check::TcbStatus]);

    // The verdict does not outlive the grace.
    let minute = 60;
    let ending = CollateralTerms {
        issued: NOW_SECONDS + minute - 24 * 3_600,
        ..outdated
    };
    let verdict = verify_at(now(), policy(1, read), &with_collateral(&ending), &claims());
    assert!(verdict.accepted(), "\n{verdict}");
    assert_eq!(verdict.valid_until.millis(), (NOW_SECONDS + minute) * 1_000);
}

#[test]
fn an_enclave_out_of_date_is_taken_by_the_same_grace() {
    let bundle = with_collateral(&CollateralTerms {
        enclave_status: TcbStatus::OutOfDate,
        ..terms()
    });
    let mut policy = simulated::policy();
    policy.tcb.accepted.push(TcbStatus::OutOfDate);
    policy.tcb.grace_days = 2;
    let verdict = verify_at(now(), policy.clone(), &bundle, &claims());
    assert!(verdict.accepted(), "\n{verdict}");
    policy.tcb.grace_days = 1;
    refused(
        &verify_at(now(), policy, &bundle, &claims()),
        &[Check::QeIdentity],
    );
}

#[test]
fn a_quoting_enclave_that_is_not_up_to_date_is_refused() {
    let bundle = with_collateral(&CollateralTerms {
        enclave_status: TcbStatus::OutOfDate,
        ..terms()
    });
    refused(&verify(&bundle), &[Check::QeIdentity]);
    let bundle = with_collateral(&CollateralTerms {
        enclave_status: TcbStatus::Revoked,
        ..terms()
    });
    refused(&verify(&bundle), &[Check::QeIdentity]);
}

#[test]
fn expired_collateral_is_refused() {
    let issued = NOW_SECONDS - 30 * 24 * 3_600;
    let verdict = verify(&with_collateral(&CollateralTerms::healthy(issued)));
    refused(&verdict, &[Check::CollateralExpiry]);
}

#[test]
fn collateral_from_the_future_is_refused() {
    let verdict = verify(&with_collateral(&CollateralTerms::healthy(NOW_SECONDS + 1)));
    refused(&verdict, &[Check::CollateralExpiry]);
}

#[test]
fn collateral_below_the_floor_is_refused() {
    let verdict = verify(&with_collateral(&CollateralTerms {
        evaluation: 19,
        ..terms()
    }));
    refused(&verdict, &[Check::TcbEvaluation]);
}

#[test]
fn collateral_that_is_none_is_refused() {
    for collateral_json in [Vec::new(), b"{}".to_vec(), vec![b' '; 65 * 1024]] {
        let bundle = EvidenceBundle {
            collateral_json,
            ..honest(&claims())
        };
        refused(&verify(&bundle), &[Check::CollateralStructure]);
    }
}

#[test]
fn collateral_that_was_touched_breaks_the_chain() {
    let bundle = honest(&claims());
    let text = String::from_utf8(bundle.collateral_json.clone()).unwrap();
    let touched = text.replace("\\\"pceId\\\":\\\"0000\\\"", "\\\"pceId\\\":\\\"0001\\\"");
    assert_ne!(touched, text);
    let bundle = EvidenceBundle {
        collateral_json: touched.into_bytes(),
        ..bundle
    };
    refused(&verify(&bundle), &[Check::SignatureChain]);
}

#[test]
fn how_the_platform_is_set_up_is_for_the_policy_to_allow() {
    let forbidding: [fn(&mut Policy); 3] = [
        |policy| policy.platform.allow_smt = false,
        |policy| policy.platform.allow_cached_keys = false,
        |policy| policy.platform.allow_dynamic_platform = false,
    ];
    for forbid in forbidding {
        let mut policy = simulated::policy();
        forbid(&mut policy);
        let verdict = verify_at(now(), policy, &honest(&claims()), &claims());
        refused(&verdict, &[Check::PlatformFlags]);
    }
}

#[test]
fn examining_lists_all_that_is_wrong_where_verifying_stops_at_the_first_stage() {
    let mut bundle = shaped(|report| report.td_attributes[0] |= 1);
    bundle.claims.noise_key = [8; 32];
    let beacons = support::beacons();
    let expectation = expectation(&bundle.claims, &beacons);
    let verifier = verifier(simulated::policy());
    refused(
        &verifier.verify(now(), &bundle, &expectation),
        &[Check::ReportData],
    );
    let examined = verifier.examine(now(), &bundle, &expectation);
    let failed: Vec<_> = examined.failures().map(|factor| factor.name).collect();
    assert_eq!(failed, ["report_data", "debug_off", "signature_chain"]);
}
