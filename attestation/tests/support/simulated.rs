//! Simulated workers for the integration tests.
#![allow(dead_code, clippy::unwrap_used)]

use cocoon_attestation::policy::simulated;
use cocoon_attestation::{
    EvidenceSource as _, Expectation, Policy, SimulatedSource, Trust, Verdict, Verifier,
};
use cocoon_protocol::evidence::{Claims, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use cocoon_tdx_simulator::{CollateralTerms, Simulator, TdReport};

use super::{NOW_SECONDS, beacons, claims, expectation, now};

pub(crate) const HOUR_MS: u64 = 3_600_000;

pub(crate) fn verifier(policy: Policy) -> Verifier {
    Verifier::new(Trust::Simulated, policy).unwrap()
}

pub(crate) fn honest(claims: &Claims) -> EvidenceBundle {
    SimulatedSource::new(b"machine 1")
        .unwrap()
        .make(now(), claims)
        .unwrap()
}

pub(crate) fn shaped(shape: fn(&mut TdReport)) -> EvidenceBundle {
    SimulatedSource::new(b"machine 1")
        .unwrap()
        .shaped(shape)
        .make(now(), &claims())
        .unwrap()
}

pub(crate) fn verify_at(
    at: UnixMillis,
    policy: Policy,
    bundle: &EvidenceBundle,
    claims: &Claims,
) -> Verdict {
    let beacons = beacons();
    verifier(policy).verify(at, bundle, &expectation(claims, &beacons))
}

/// Verifies what an advert for `bundle.claims` promised.
pub(crate) fn verify(bundle: &EvidenceBundle) -> Verdict {
    verify_at(now(), simulated::policy(), bundle, &bundle.claims)
}

pub(crate) fn expect(
    bundle: &EvidenceBundle,
    change: impl FnOnce(&mut Expectation<'_>),
) -> Verdict {
    let beacons = beacons();
    let mut expectation = expectation(&bundle.claims, &beacons);
    change(&mut expectation);
    verifier(simulated::policy()).verify(now(), bundle, &expectation)
}

pub(crate) fn terms() -> CollateralTerms {
    CollateralTerms::healthy(NOW_SECONDS - 24 * 3_600)
}

pub(crate) fn with_collateral(terms: &CollateralTerms) -> EvidenceBundle {
    let collateral = Simulator::public().unwrap().collateral(terms).unwrap();
    EvidenceBundle {
        collateral_json: serde_json::to_vec(&collateral).unwrap(),
        ..honest(&claims())
    }
}
