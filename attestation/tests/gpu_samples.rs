//! NVIDIA's own samples: an H100's report and certificates, and 26 RIM files.
//!
//! They are fetched by `scripts/fetch-gpu-fixtures.sh`. No published report has the driver or VBIOS of a
//! published RIM file, so against these RIM files the real report cannot pass; against a manifest made of
//! its own values it does, and `gpu_synthetic.rs` goes the whole way with made-up GPUs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "support/gpu.rs"]
#[allow(dead_code)]
mod support;

use cocoon_attestation::gpu::manifest::{Golden, GoldenRim, ManifestError};
use cocoon_attestation::gpu::report::{Opaque, Switch};
use cocoon_attestation::gpu::rim::{self, RimError};
use cocoon_attestation::gpu::{
    Chain, ExpiredRimSigners, GpuCheck, GpuExpectation, GpuManifest, GpuPolicy, GpuTrust,
    GpuVerdict, NrasKeys, Report, RimKind, verify,
};
use cocoon_attestation::{FactorResult, Measurement};
use cocoon_protocol::gpu::GpuEvidence;
use support::{NOW, SAMPLE_NONCE, Seeded, THEN, at, evidence, lenient, nonce, outcomes};

fn judge(now: u64, evidence: &GpuEvidence, manifest: &GpuManifest, asked: &str) -> GpuVerdict {
    verify(
        at(now),
        evidence,
        &GpuExpectation {
            nonce: nonce(asked),
            manifest,
            policy: &lenient(),
            trust: &GpuTrust::Nvidia,
            nras_keys: &NrasKeys::default(),
        },
    )
}

/// A manifest that says of driver and VBIOS of a report what the report says.
fn own_manifest(report: &[u8], like: &GoldenRim) -> GpuManifest {
    let report = Report::parse(report).unwrap();
    let rim = |kind, version: String, indices: std::ops::Range<u8>| GoldenRim {
        kind,
        version,
        measurements: indices
            .map(|index| Golden {
                index,
                digests: vec![Measurement::from_bytes(
                    report.measurements[&(index + 1)].try_into().unwrap(),
                )],
            })
            .collect(),
        ..like.clone()
    };
    GpuManifest::new(vec![
        rim(
            RimKind::Driver,
            report.text(Opaque::DriverVersion).unwrap().to_owned(),
            0..40,
        ),
        rim(RimKind::Vbios, report.vbios_version().unwrap(), 40..64),
    ])
    .unwrap()
}

fn sample_rim(folder: &std::path::Path, name: &str) -> GoldenRim {
    let bytes = &support::sample_rims(folder)[name];
    rim::import(name, bytes, &GpuTrust::Nvidia, THEN, false).unwrap()
}

const DRIVER: &str = "Driver_RIM_test_no_gpu.swidtag";
const VBIOS: &str = "1010_0200_882_960074001C_PROD.swidtag";

#[test]
fn the_h100s_report_is_taken_apart() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let report = Report::parse(&gpu.report).unwrap();
    assert_eq!(hex::encode(report.nonce), SAMPLE_NONCE);
    assert_eq!(report.measurements.len(), 64);
    assert!(report.measurements.keys().copied().eq(1..=64));
    assert!(report.measurements.values().all(|value| value.len() == 48));
    assert_eq!(report.text(Opaque::DriverVersion), Some("550.90.07"));
    assert_eq!(report.vbios_version().as_deref(), Some("96.00.9F.00.01"));
    assert_eq!(report.text(Opaque::Project), Some("1010"));
    assert_eq!(report.text(Opaque::ProjectSku), Some("0200"));
    assert_eq!(report.text(Opaque::ChipSku), Some("882"));
    assert_eq!(report.switch(Opaque::Nvdec0), Switch::Off);
    assert_eq!(report.switch(Opaque::ProtectedPcie), Switch::Off);
    assert_eq!(report.mode(), None);
    assert!(!report.has_feature_flag());
    assert_eq!(report.opaque_fields().count(), 14);
}

#[test]
fn the_h100s_own_part_passes_and_its_versions_are_unknown_to_the_samples_rims() {
    let Some(folder) = support::samples() else {
        return;
    };
    let manifest = GpuManifest::new(vec![
        sample_rim(&folder, DRIVER),
        sample_rim(&folder, VBIOS),
    ])
    .unwrap();
    let gpu = support::sample_gpu(&folder);
    let verdict = judge(NOW, &evidence(vec![gpu]), &manifest, SAMPLE_NONCE);
    for check in [
        GpuCheck::Report,
        GpuCheck::Nonce,
        GpuCheck::RootPinned,
        GpuCheck::Chain,
        GpuCheck::Unique,
        GpuCheck::Fwid,
        GpuCheck::Signature,
    ] {
        assert_eq!(
            verdict.result(0, check),
            Some(FactorResult::Pass),
            "{check:?}"
        );
    }
    let (failed, skipped) = outcomes(&verdict);
    assert_eq!(failed, ["gpu_driver_version", "gpu_vbios_version"]);
    assert_eq!(
        skipped,
        [
            "gpu_cc_mode",
            "gpu_devtools_off",
            "gpu_measurements",
            "gpu_rim_signers",
            "gpu_ocsp",
            "gpu_nras"
        ]
    );
    assert!(!verdict.accepted());
    let identity = verdict.gpus[0].as_ref().unwrap();
    assert_eq!(identity.chip, "GH100");
    assert_eq!(identity.device_serial, "41431d480fe5e87274");
    assert_eq!(
        identity.leaf_serial,
        "53c22ba15e5d68088282da074ed9fb37aa585771"
    );
    assert!(identity.fwid.starts_with("f5c384aebb579217"));
}

#[test]
fn the_h100_is_accepted_under_a_manifest_of_its_own_values() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let manifest = own_manifest(&gpu.report, &sample_rim(&folder, DRIVER));
    let verdict = judge(NOW, &evidence(vec![gpu.clone()]), &manifest, SAMPLE_NONCE);
    assert!(verdict.accepted(), "{verdict}");
    assert_eq!(outcomes(&verdict).0, Vec::<&str>::new());
    // The default policy wants a report that says its mode, and this one is too old for that.
    let strict = verify(
        at(NOW),
        &evidence(vec![gpu]),
        &GpuExpectation {
            nonce: nonce(SAMPLE_NONCE),
            manifest: &manifest,
            policy: &GpuPolicy {
                expired_rim_signers: ExpiredRimSigners::Allow,
                ..GpuPolicy::default()
            },
            trust: &GpuTrust::Nvidia,
            nras_keys: &NrasKeys::default(),
        },
    );
    assert!(!strict.accepted());
    assert_eq!(strict.first_obstacle().unwrap().name, "gpu_cc_mode");
}

#[test]
fn the_real_values_of_other_versions_match_in_part_and_fail() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let mut driver = sample_rim(&folder, DRIVER);
    driver.version = "550.90.07".to_owned();
    let mut vbios = sample_rim(&folder, VBIOS);
    vbios.version = "96.00.9F.00.01".to_owned();
    assert_eq!(
        (driver.measurements.len(), vbios.measurements.len()),
        (21, 12)
    );
    let manifest = GpuManifest::new(vec![driver, vbios]).unwrap();
    let verdict = judge(NOW, &evidence(vec![gpu]), &manifest, SAMPLE_NONCE);
    assert_eq!(outcomes(&verdict).0, ["gpu_measurements"]);
    let factor = verdict.factor(0, GpuCheck::Measurements).unwrap();
    // 8 of the 12 VBIOS values are the same in this and the report's version, which shows that the
    // indices are aligned.
    assert_eq!(factor.seen.matches("(VBIOS)").count(), 4, "{factor:?}");
    assert!(factor.reason.contains("of 33 values"), "{factor:?}");
}

#[test]
fn another_nonce_stops_everything_that_costs() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let verdict = judge(
        NOW,
        &evidence(vec![gpu]),
        &GpuManifest::default(),
        &"00".repeat(32),
    );
    let (failed, skipped) = outcomes(&verdict);
    assert_eq!(failed, ["gpu_nonce"]);
    assert_eq!(skipped.len(), GpuCheck::ALL.len() - 2);
}

#[test]
fn before_the_certificates_time_only_the_chain_fails() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let manifest = own_manifest(&gpu.report, &sample_rim(&folder, DRIVER));
    // 2021-12-31: NVIDIA's authorities were made in 2022, and the RIM signers later still.
    let verdict = judge(1_640_908_800, &evidence(vec![gpu]), &manifest, SAMPLE_NONCE);
    assert_eq!(outcomes(&verdict).0, ["gpu_chain", "gpu_rim_signers"]);
    assert!(
        verdict
            .factor(0, GpuCheck::Chain)
            .unwrap()
            .reason
            .contains("2022-03-01")
    );
}

#[test]
fn the_same_device_counts_once() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let manifest = own_manifest(&gpu.report, &sample_rim(&folder, DRIVER));
    let verdict = judge(
        NOW,
        &evidence(vec![gpu.clone(), gpu]),
        &manifest,
        SAMPLE_NONCE,
    );
    assert_eq!(outcomes(&verdict).0, ["gpu_unique"]);
    assert_eq!(
        verdict.result(1, GpuCheck::Unique),
        Some(FactorResult::Fail)
    );
}

/// The acceptance of the whole report: 10 000 seeded flips of one bit.
#[test]
fn no_flipped_bit_of_the_report_is_accepted() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let chain = Chain::from_der(gpu.certificates.iter().map(Vec::as_slice)).unwrap();
    assert!(
        Report::parse(&gpu.report)
            .unwrap()
            .is_signed_by(chain.leaf())
    );
    let manifest = own_manifest(&gpu.report, &sample_rim(&folder, DRIVER));
    let mut seeded = Seeded(0x0c0c_0011);
    let mut unparsed = 0_u32;
    for round in 0..10_000 {
        let bit = seeded.below(gpu.report.len() * 8);
        let mut flipped = gpu.clone();
        flipped.report[bit / 8] ^= 1 << (bit % 8);
        match Report::parse(&flipped.report) {
            Ok(report) => assert!(!report.is_signed_by(chain.leaf()), "bit {bit}"),
            Err(_) => unparsed += 1,
        }
        // The whole verifier agrees; every fiftieth, since it looks at the certificates anew.
        if round % 50 == 0 {
            let verdict = judge(NOW, &evidence(vec![flipped]), &manifest, SAMPLE_NONCE);
            assert!(!verdict.accepted(), "bit {bit}");
            assert_eq!(verdict.factors.len(), GpuCheck::ALL.len());
        }
    }
    assert!((100..5_000).contains(&unparsed), "{unparsed} did not parse");
}

#[test]
fn no_flipped_bit_of_a_certificate_is_accepted() {
    let Some(folder) = support::samples() else {
        return;
    };
    let gpu = support::sample_gpu(&folder);
    let manifest = own_manifest(&gpu.report, &sample_rim(&folder, DRIVER));
    let mut seeded = Seeded(0x0c0c_0012);
    for _ in 0..600 {
        let mut flipped = gpu.clone();
        let at = seeded.below(flipped.certificates.len());
        let bit = seeded.below(flipped.certificates[at].len() * 8);
        flipped.certificates[at][bit / 8] ^= 1 << (bit % 8);
        let verdict = judge(NOW, &evidence(vec![flipped]), &manifest, SAMPLE_NONCE);
        assert!(
            !verdict.accepted(),
            "certificate {at}, bit {bit}: {verdict}"
        );
    }
}

#[test]
fn all_26_rims_verify_while_their_signers_are_in_force_and_later_only_if_told() {
    let Some(folder) = support::samples() else {
        return;
    };
    let rims = support::sample_rims(&folder);
    assert_eq!(rims.len(), 26);
    let mut drivers = 0;
    for (name, bytes) in &rims {
        let trust = &GpuTrust::Nvidia;
        let rim = rim::import(name, bytes, trust, THEN, false).unwrap();
        assert!(!rim.signer_expired_at_import);
        assert_eq!(rim.product, "GH100");
        assert_eq!(
            rim.measurements.len(),
            if rim.kind == RimKind::Driver { 21 } else { 12 }
        );
        drivers += u32::from(rim.kind == RimKind::Driver);
        assert!(matches!(
            rim::import(name, bytes, trust, NOW, false),
            Err(RimError::Expired(_))
        ));
        let late = rim::import(name, bytes, trust, NOW, true).unwrap();
        assert!(late.signer_expired_at_import);
        assert_eq!(late.measurements, rim.measurements);
        // Not yet in force is never excused.
        assert!(matches!(
            rim::import(name, bytes, trust, 1_600_000_000, true),
            Err(RimError::Chain(_))
        ));
    }
    assert_eq!(drivers, 1);
    let mut all: Vec<_> = rims
        .iter()
        .map(|(name, bytes)| rim::import(name, bytes, &GpuTrust::Nvidia, THEN, false).unwrap())
        .collect();
    // One VBIOS version comes in two files, both signed, with different values: one is for tests.
    assert!(matches!(
        GpuManifest::new(all.clone()),
        Err(ManifestError::Contradiction { .. })
    ));
    all.retain(|rim| rim.file != "1010_0200_882_96005E0001_test_no_gpu.swidtag");
    let manifest = GpuManifest::new(all).unwrap();
    assert_eq!(manifest.rims().len(), 25);
    let text = toml::to_string(&manifest).unwrap();
    assert_eq!(toml::from_str::<GpuManifest>(&text).unwrap(), manifest);
}

#[test]
fn a_rim_with_one_attribute_changed_is_refused() {
    let Some(folder) = support::samples() else {
        return;
    };
    for (name, bytes) in support::sample_rims(&folder) {
        let text = String::from_utf8(bytes).unwrap();
        let changed = text.replacen("active=\"False\"", "active=\"True\"", 1);
        assert_ne!(changed, text);
        assert_eq!(
            rim::import(&name, changed.as_bytes(), &GpuTrust::Nvidia, THEN, false),
            Err(RimError::Digest)
        );
    }
}

#[test]
fn a_rim_with_a_flipped_bit_says_the_same_or_nothing() {
    let Some(folder) = support::samples() else {
        return;
    };
    let bytes = support::sample_rims(&folder).remove(VBIOS).unwrap();
    let honest = rim::import(VBIOS, &bytes, &GpuTrust::Nvidia, THEN, false).unwrap();
    let mut seeded = Seeded(0x0c0c_0013);
    let mut accepted = 0;
    for _ in 0..3_000 {
        let bit = seeded.below(bytes.len() * 8);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(rim) = rim::import(VBIOS, &flipped, &GpuTrust::Nvidia, THEN, false) {
            // White space between attributes or in base64: other bytes, the same meaning.
            accepted += 1;
            assert_eq!(
                (rim.kind, &rim.version, &rim.measurements, &rim.signer),
                (
                    honest.kind,
                    &honest.version,
                    &honest.measurements,
                    &honest.signer
                ),
                "bit {bit}"
            );
        }
    }
    assert!(accepted < 100, "{accepted}");
}
