//! Bundles that carry more than quote and collateral are accepted if it is in order. What is refused,
//! and by which factor, stands in the mix matrix.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod matrix {
    pub(crate) mod attached;
    pub(crate) mod source;
}
mod support;
use cocoon_attestation::gpu::{GpuCheck, GpuManifest};
use cocoon_attestation::policy::simulated;
use cocoon_attestation::{
    Check, Expectation, FactorResult, GpuReferences, Image, Measurement, Trust, Verdict, Verifier,
};
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use matrix::source::{Scene, Source};
use support::gpu::{Synthetic, evidence};
use support::{passed, refused};

fn judged(scene: &Scene) -> Verdict {
    let bundle = scene.bundle();
    scene.judge(Trust::Simulated, &bundle, &scene.told(&bundle), false)
}

#[test]
fn an_image_that_stands_in_the_log_needs_no_list() {
    let mut scene = Scene::new(Source::SimulatedA);
    scene.logged(simulated::image(), &support::rebuilding());
    scene.policy.required = vec![Check::ImageInLog];
    let verdict = judged(&scene);
    assert!(verdict.accepted(), "\n{verdict}");
    passed(
        &verdict,
        &[Check::ImageInLog, Check::MrTd, Check::Rtmr0, Check::Rtmr2],
    );
    let reason = &verdict.factor(Check::ImageInLog).unwrap().reason;
    assert!(reason.contains("rebuilder1.example, rebuilder2.example"));
}

#[test]
fn a_logged_image_with_another_firmware_configuration_is_refused_by_rtmr0() {
    let mut scene = Scene::new(Source::SimulatedA);
    let image = Image {
        rtmr0: Measurement::of(b"another machine's"),
        ..simulated::image()
    };
    scene.logged(image, &support::rebuilding());
    refused(&judged(&scene), &[Check::Rtmr0]);
}

#[test]
fn without_list_and_proof_nobody_is_accepted() {
    let mut scene = Scene::new(Source::SimulatedA);
    scene.logged(simulated::image(), &support::rebuilding());
    scene.attached.image_proof.clear();
    refused(
        &judged(&scene),
        &[Check::MrTd, Check::Rtmr0, Check::Rtmr1, Check::Rtmr2],
    );
}

#[test]
fn rtmr0_is_taken_by_its_events_on_any_machine() {
    for measured in ["FS", "fS"] {
        let mut scene = Scene::new(Source::SimulatedA);
        scene.boots(measured, measured);
        let verdict = judged(&scene);
        assert!(verdict.accepted(), "{measured}\n{verdict}");
        passed(&verdict, &[Check::EventLog, Check::Rtmr0]);
    }
}

#[test]
fn a_log_that_does_not_replay_leaves_rtmr0_open_and_so_refuses() {
    let mut scene = Scene::new(Source::SimulatedA);
    scene.boots("FX", "FS");
    let verdict = judged(&scene);
    refused(&verdict, &[Check::EventLog]);
    assert_eq!(verdict.result(Check::Rtmr0), Some(FactorResult::Skip));
    assert!(verdict.factor(Check::Rtmr0).unwrap().required);
}

/// Made-up GPUs answer a made-up nonce: somebody else's.
#[test]
fn borrowed_gpu_evidence_is_bound_by_the_quote_and_refused_by_its_nonce() {
    let made = Synthetic::load();
    let shown = evidence(vec![made.gpu("hopper", "hopper")]);
    let mut scene = Scene::new(Source::SimulatedA);
    scene.claim(|claims| claims.gpu_evidence = shown.digest());
    scene.attached.gpu_evidence = shown.encode();
    let bundle = scene.bundle();
    let trust = made.trust();
    let manifest: GpuManifest = made.manifest(&trust, &["driver", "vbios"]);
    let verifier = Verifier::new(Trust::Simulated, scene.policy.clone())
        .unwrap()
        .with_gpus(GpuReferences {
            manifest,
            trust,
            nras_keys: made.nras_keys(),
        });
    let beacons = support::beacons();
    let expectation = Expectation::new(
        bundle.claims.peer,
        bundle.claims.model,
        bundle.claims.digest(),
        &beacons,
    );
    let now = UnixMillis::from_millis(scene.seconds * 1_000);
    let verdict = verifier.verify(now, &bundle, &expectation);
    refused(&verdict, &[Check::GpuEvidence]);
    let reason = &verdict.factor(Check::GpuEvidence).unwrap().reason;
    assert!(reason.starts_with("GPU 0: gpu_nonce:"), "{reason}");
    assert_eq!(verdict.gpu.len(), GpuCheck::ALL.len());
    assert_eq!(
        verdict.result(Check::SignatureChain),
        Some(FactorResult::Pass),
        "GPUs are looked at last"
    );

    // Other bytes than those that the quote binds cost a hash and nothing more.
    let mut other = bundle.clone();
    other.attached.gpu_evidence.push(0);
    let verdict = verifier.verify(now, &other, &expectation);
    refused(&verdict, &[Check::GpuEvidence]);
    assert_eq!(verdict.result(Check::Debug), Some(FactorResult::Skip));
    assert_ne!(Digest::sha256(&other.attached.gpu_evidence), shown.digest());
}
