//! Collateral is kept when its signatures were found to hold, is served by family, and never goes back.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

mod support;

use cocoon_attestation::shelf::{facts, family_of};
use cocoon_attestation::{Check, FactorResult, Shelf};
use cocoon_protocol::collateral::{CollateralReply, CollateralRequest, PckAuthority};
use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use cocoon_tdx_simulator::{CollateralTerms, FMSPC};
use dcap_qvl::TcbStatus;
use support::simulated::{honest, terms, verify, verify_at, with_collateral};
use support::{claims, now};

fn evaluation(evaluation: u32) -> CollateralTerms {
    CollateralTerms {
        evaluation,
        ..terms()
    }
}

fn learned(shelf: &mut Shelf, bundle: &EvidenceBundle) -> bool {
    shelf.learn(bundle, &verify(bundle)).is_some()
}

fn ask(beyond: UnixMillis) -> CollateralRequest {
    CollateralRequest {
        family: family_of(&honest(&claims()).quote).unwrap(),
        beyond,
    }
}

#[test]
fn quote_and_collateral_name_the_same_family() {
    let bundle = honest(&claims());
    let family = family_of(&bundle.quote).unwrap();
    assert_eq!(family.fmspc, FMSPC);
    assert_eq!(family.authority, PckAuthority::Platform);
    assert_eq!(facts(&bundle.collateral_json).unwrap().family, family);
}

#[test]
fn intels_samples_name_their_family_too() {
    let quote = include_bytes!("fixtures/tdx_quote");
    let json = include_bytes!("fixtures/tdx_quote_collateral.json");
    let family = family_of(quote).unwrap();
    assert_eq!(family.to_string(), "b0c06f000000/platform");
    let facts = facts(json).unwrap();
    assert_eq!(facts.family, family);
    assert!(facts.from < facts.until);
}

#[test]
fn what_was_learned_is_served_while_it_is_in_force() {
    let mut shelf = Shelf::default();
    let bundle = honest(&claims());
    assert_eq!(shelf.answer(now(), &ask(now())), CollateralReply::None);
    let stored = shelf
        .learn(&bundle, &verify(&bundle))
        .expect("it is the first");
    assert_eq!(
        shelf.answer(now(), &ask(now())),
        CollateralReply::Collateral(bundle.collateral_json.clone())
    );
    let end = stored.facts.until;
    assert_eq!(shelf.answer(now(), &ask(end)), CollateralReply::None);
    assert_eq!(shelf.answer(end, &ask(now())), CollateralReply::None);
    let restored = Shelf::restore([stored]);
    assert!(restored.find(now(), &ask(now()).family).is_some());
}

#[test]
fn the_floor_rises_and_never_falls() {
    let mut shelf = Shelf::default();
    let family = ask(now()).family;
    let (older, newer) = (
        with_collateral(&evaluation(20)),
        with_collateral(&evaluation(23)),
    );
    assert!(learned(&mut shelf, &newer));
    assert!(!learned(&mut shelf, &older), "older collateral was taken");
    assert_eq!(shelf.floor(&family), 23);
    assert!(!shelf.would_use(now(), &family, &older.collateral_json));
    assert!(shelf.would_use(now(), &family, &newer.collateral_json));
    // The floor outlives the collateral.
    let end = facts(&newer.collateral_json).unwrap().until;
    assert!(shelf.find(end, &family).is_none());
    assert_eq!(shelf.floor(&family), 23);
}

#[test]
fn newer_collateral_counts_also_when_it_condemns_the_worker_that_showed_it() {
    let mut shelf = Shelf::default();
    let condemned = with_collateral(&CollateralTerms {
        platform_status: TcbStatus::OutOfDate,
        ..evaluation(21)
    });
    let verdict = verify(&condemned);
    assert_eq!(verdict.result(Check::TcbStatus), Some(FactorResult::Fail));
    assert!(shelf.learn(&condemned, &verdict).is_some());
    assert_eq!(shelf.floor(&ask(now()).family), 21);
}

#[test]
fn nothing_is_kept_whose_signatures_were_not_found_to_hold() {
    let mut shelf = Shelf::default();
    // Touched.
    let mut touched = honest(&claims());
    let text = String::from_utf8(touched.collateral_json).unwrap();
    touched.collateral_json = text
        .replace(
            "\\\"tcbEvaluationDataNumber\\\":20",
            "\\\"tcbEvaluationDataNumber\\\":99",
        )
        .into_bytes();
    assert_eq!(facts(&touched.collateral_json).unwrap().evaluation, 99);
    assert!(!learned(&mut shelf, &touched));
    // Not reached: the claims are somebody else's.
    let stolen = EvidenceBundle {
        claims: Claims {
            noise_key: [7; 32],
            ..claims()
        },
        ..honest(&claims())
    };
    assert!(!learned(&mut shelf, &stolen));
    // Over.
    let bundle = honest(&claims());
    let end = facts(&bundle.collateral_json).unwrap().until;
    let late = verify_at(
        end,
        cocoon_attestation::policy::simulated::policy(),
        &bundle,
        &bundle.claims,
    );
    assert!(shelf.learn(&bundle, &late).is_none());
    assert_eq!(shelf.iter().count(), 0);
}

#[test]
fn collateral_is_due_in_the_last_quarter_of_its_life() {
    let mut shelf = Shelf::default();
    let bundle = honest(&claims());
    assert!(learned(&mut shelf, &bundle));
    let facts = facts(&bundle.collateral_json).unwrap();
    let lifetime = facts.until.millis() - facts.from.millis();
    let at = |quarters: u64| UnixMillis::from_millis(facts.from.millis() + lifetime / 4 * quarters);
    assert_eq!(shelf.due(at(2)).count(), 0);
    assert_eq!(
        shelf.due(at(3)).collect::<Vec<_>>(),
        [(facts.family, facts.until)]
    );
    assert_eq!(shelf.due(facts.until).count(), 1);
}

#[test]
fn any_bytes_have_facts_or_an_error() {
    let whole = honest(&claims()).collateral_json;
    bolero::check!()
        .with_iterations(3_000)
        .with_type::<(u16, Vec<u8>)>()
        .for_each(|(at, bytes)| {
            let _ = facts(bytes);
            let _ = family_of(bytes);
            let mut json = whole.clone();
            let at = usize::from(*at) % json.len();
            let end = (at + bytes.len()).min(json.len());
            json.splice(at..end, bytes.iter().copied());
            let _ = facts(&json);
        });
}
