//! Made-up GPUs under a made-up root, so that everything can pass, and each defect alone can fail.
//!
//! All of it was encoded and signed by other implementations: see `fixtures/gpu/make.py`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "support/gpu.rs"]
#[allow(dead_code)]
mod support;

use cocoon_attestation::FactorResult;
use cocoon_attestation::gpu::{
    Certificate, ExpiredRimSigners, GpuCheck, GpuExpectation, GpuManifest, GpuMode, GpuPolicy,
    GpuTrust, GpuVerdict, NrasKeys, nras, verify,
};
use cocoon_protocol::gpu::{Gpu, GpuEvidence};
use support::{Seeded, Synthetic, at, evidence, nonce, outcomes};

/// Everything that a judgement rests on; tests change one thing.
struct Case {
    made: Synthetic,
    trust: GpuTrust,
    manifest: GpuManifest,
    policy: GpuPolicy,
    keys: NrasKeys,
    now: u64,
}

impl Case {
    fn new() -> Self {
        let made = Synthetic::load();
        let trust = made.trust();
        let manifest = made.manifest(
            &trust,
            &["driver", "vbios", "blackwell_driver", "blackwell_vbios"],
        );
        Self {
            now: made.now,
            keys: made.nras_keys(),
            policy: GpuPolicy::default(),
            made,
            trust,
            manifest,
        }
    }

    fn judge(&self, evidence: &GpuEvidence) -> GpuVerdict {
        // What is judged has been on the wire.
        let evidence = GpuEvidence::decode(&evidence.encode()).unwrap();
        verify(
            at(self.now),
            &evidence,
            &GpuExpectation {
                nonce: nonce(&self.made.nonce),
                manifest: &self.manifest,
                policy: &self.policy,
                trust: &self.trust,
                nras_keys: &self.keys,
            },
        )
    }

    fn one(&self, report: &str, chain: &str) -> GpuVerdict {
        self.judge(&evidence(vec![self.made.gpu(report, chain)]))
    }

    fn whole(&self) -> GpuEvidence {
        GpuEvidence {
            gpus: vec![self.made.gpu("hopper", "hopper")],
            ocsp_responses: ["brom", "provisioner", "identity"]
                .map(|name| self.made.ocsp(name))
                .to_vec(),
            nras_token: self.made.nras("good"),
        }
    }
}

#[track_caller]
fn fails(verdict: &GpuVerdict, names: &[&str]) {
    assert_eq!(outcomes(verdict).0, names, "{verdict}");
    assert!(!verdict.accepted());
}

#[test]
fn with_everything_in_order_all_but_devtools_pass() {
    let mut case = Case::new();
    case.policy.require_ocsp = true;
    case.policy.require_nras = true;
    case.policy.expired_rim_signers = ExpiredRimSigners::Refuse;
    let verdict = case.judge(&case.whole());
    assert!(verdict.accepted(), "{verdict}");
    assert_eq!(outcomes(&verdict).1, ["gpu_devtools_off"]);
    let identity = verdict.gpus[0].as_ref().unwrap();
    assert_eq!(identity.fwid, case.made.fwid);
    assert_eq!(
        (identity.chip.as_str(), identity.driver.as_str()),
        ("GH100", "550.90.07")
    );
    assert_eq!(verdict.factor(0, GpuCheck::CcMode).unwrap().seen, "SPT");
    let json = serde_json::to_value(&verdict.factors).unwrap();
    assert_eq!(json[0]["name"], "gpu_report");
    assert_eq!(json[0]["result"], "pass");
}

#[test]
fn blackwells_dice_extension_is_read() {
    let case = Case::new();
    let verdict = case.one("blackwell", "blackwell");
    assert!(verdict.accepted(), "{verdict}");
    let identity = verdict.gpus[0].as_ref().unwrap();
    assert_eq!(
        (identity.chip.as_str(), &identity.fwid),
        ("GB100", &case.made.fwid)
    );
}

#[test]
fn a_chain_without_its_root_is_as_good() {
    assert!(Case::new().one("rootless", "rootless").accepted());
}

#[test]
fn each_defect_of_a_chain_fails_the_chain_alone() {
    let case = Case::new();
    for (name, reason) in [
        ("not_a_ca", "may not sign certificates"),
        ("leaf_is_ca", "not a certificate for signing data"),
        ("other_signer", "was not signed by the next one"),
        ("other_name", "was not signed by the next one"),
        ("old", "in force from"),
        ("early", "in force from"),
        ("short_path", "or not for so long a path"),
        ("no_cert_sign", "may not sign certificates"),
    ] {
        let verdict = case.one(name, name);
        fails(&verdict, &["gpu_chain"]);
        let factor = verdict.factor(0, GpuCheck::Chain).unwrap();
        assert!(factor.reason.contains(reason), "{name}: {}", factor.reason);
    }
    // What cannot be decoded leaves nothing to check signatures with.
    for (name, reason) in [
        ("critical", "1.2.3.4 is critical and unknown"),
        ("sha256", "not ECDSA with SHA-384"),
    ] {
        let verdict = case.one(name, name);
        let factor = verdict.factor(0, GpuCheck::Chain).unwrap();
        assert!(factor.reason.contains(reason), "{name}: {}", factor.reason);
        assert_eq!(
            verdict.result(0, GpuCheck::Signature),
            Some(FactorResult::Skip)
        );
        assert!(!verdict.accepted());
    }
}

#[test]
fn another_root_fails_the_root_alone() {
    let case = Case::new();
    // Same name, other key; in the chain, and as the pinned one.
    fails(&case.one("other_root", "other_root"), &["gpu_root_pinned"]);
    let other = Case {
        trust: case.made.other_trust(),
        ..Case::new()
    };
    fails(&other.one("hopper", "hopper"), &["gpu_root_pinned"]);
    fails(&other.one("rootless", "rootless"), &["gpu_root_pinned"]);
    assert!(other.one("other_root", "other_root").accepted());
    let nvidia = Case {
        trust: GpuTrust::Nvidia,
        ..Case::new()
    };
    fails(&nvidia.one("hopper", "hopper"), &["gpu_root_pinned"]);
}

#[test]
fn a_report_of_another_gpu_fails_the_signature() {
    let case = Case::new();
    fails(&case.one("second", "hopper"), &["gpu_signature"]);
}

#[test]
fn firmware_that_does_not_match_fails_the_fwid_alone() {
    let case = Case::new();
    for (report, chain) in [
        ("other_fwid", "hopper"),
        ("without_fwid", "hopper"),
        ("no_fwid", "no_fwid"),
        ("sha256_fwid", "sha256_fwid"),
        ("short_fwid", "short_fwid"),
    ] {
        fails(&case.one(report, chain), &["gpu_fwid"]);
    }
}

#[test]
fn debuggable_firmware_fails() {
    fails(&Case::new().one("debug", "debug"), &["gpu_devtools_off"]);
}

#[test]
fn the_mode_must_be_known_and_allowed_and_the_same_for_all() {
    let mut case = Case::new();
    for (report, mode) in [("hopper", "SPT"), ("mpt", "MPT"), ("ppcie", "PPCIE")] {
        let verdict = case.one(report, "hopper");
        assert!(verdict.accepted(), "{verdict}");
        assert_eq!(verdict.factor(0, GpuCheck::CcMode).unwrap().seen, mode);
    }
    fails(&case.one("unknown_mode", "hopper"), &["gpu_cc_mode"]);
    let silent = case.one("no_mode", "hopper");
    assert_eq!(silent.result(0, GpuCheck::CcMode), Some(FactorResult::Skip));
    assert!(!silent.accepted());
    case.policy.require_mode = false;
    assert!(case.one("no_mode", "hopper").accepted());

    let two = |first: &str, second: &str| {
        case.judge(&evidence(vec![
            case.made.gpu(first, "hopper"),
            case.made.gpu(second, "second"),
        ]))
    };
    assert!(two("mpt", "second_mpt").accepted());
    fails(&two("mpt", "second"), &["gpu_cc_mode", "gpu_cc_mode"]);

    case.policy.modes.remove(&GpuMode::Ppcie);
    fails(&case.one("ppcie", "hopper"), &["gpu_cc_mode"]);
}

#[test]
fn versions_that_the_manifest_does_not_know_fail() {
    let case = Case::new();
    for (report, name) in [
        ("other_driver", "gpu_driver_version"),
        ("odd_driver", "gpu_driver_version"),
        ("other_vbios", "gpu_vbios_version"),
    ] {
        let verdict = case.one(report, "hopper");
        fails(&verdict, &[name]);
        assert_eq!(
            verdict.result(0, GpuCheck::Measurements),
            Some(FactorResult::Skip)
        );
    }
}

#[test]
fn measurements_are_compared_index_by_index() {
    let mut case = Case::new();
    assert!(case.one("alternative", "hopper").accepted());
    for report in ["wrong_value", "missing_value", "nvdec_on", "nvdec_unknown"] {
        fails(&case.one(report, "hopper"), &["gpu_measurements"]);
    }
    let seen = case.one("wrong_value", "hopper");
    assert_eq!(
        seen.factor(0, GpuCheck::Measurements).unwrap().seen,
        "other values at 2 (VBIOS)"
    );
    // With the decoder off its measurement means nothing.
    assert!(case.one("nvdec_off", "hopper").accepted());
    case.manifest = case
        .made
        .manifest(&case.trust, &["driver", "conflicting_vbios"]);
    fails(&case.one("hopper", "hopper"), &["gpu_measurements"]);
}

#[test]
fn an_expired_rim_signer_is_a_matter_of_policy() {
    let mut case = Case::new();
    let judged = |case: &Case| case.one("hopper", "hopper");
    // Imported and judged while the signer is in force; then judged after its time.
    case.policy.expired_rim_signers = ExpiredRimSigners::Refuse;
    assert!(judged(&case).accepted());
    case.now += 2 * 365 * 86_400;
    fails(&judged(&case), &["gpu_rim_signers"]);
    case.policy.expired_rim_signers = ExpiredRimSigners::AllowIfValidAtImport;
    let verdict = judged(&case);
    assert!(verdict.accepted(), "{verdict}");
    assert!(
        verdict
            .factor(0, GpuCheck::RimSigners)
            .unwrap()
            .reason
            .contains("expired")
    );
    // Imported too late.
    case.manifest = case.made.manifest(&case.trust, &["old_driver", "vbios"]);
    fails(&judged(&case), &["gpu_rim_signers"]);
    case.policy.expired_rim_signers = ExpiredRimSigners::Allow;
    assert!(judged(&case).accepted());
    // Before its time.
    case.now = case.made.now - 1_000 * 86_400;
    fails(&judged(&case), &["gpu_rim_signers"]);
}

#[test]
fn a_manifest_claim_of_a_valid_import_must_agree_with_its_own_dates() {
    let mut case = Case::new();
    let mut rims = case
        .made
        .manifest(&case.trust, &["old_driver", "vbios"])
        .rims()
        .to_vec();
    for rim in &mut rims {
        rim.signer_expired_at_import = false;
    }
    case.manifest = GpuManifest::new(rims).unwrap();
    fails(&case.one("hopper", "hopper"), &["gpu_rim_signers"]);
}

#[test]
fn ocsp_passes_only_for_all_certificates_and_fails_for_one_bad_response() {
    let mut case = Case::new();
    let with = |case: &Case, names: &[&str]| {
        let mut evidence = case.whole();
        evidence.ocsp_responses = names.iter().map(|name| case.made.ocsp(name)).collect();
        case.judge(&evidence)
    };
    for good in ["brom", "by_issuer", "without_next"] {
        let verdict = with(&case, &[good, "provisioner", "identity", "second_brom"]);
        assert_eq!(
            verdict.result(0, GpuCheck::Ocsp),
            Some(FactorResult::Pass),
            "{good}"
        );
    }
    let partly = with(&case, &["brom", "identity"]);
    assert_eq!(partly.result(0, GpuCheck::Ocsp), Some(FactorResult::Skip));
    assert!(partly.accepted());
    case.policy.require_ocsp = true;
    assert!(!with(&case, &["brom", "identity"]).accepted());
    assert!(!with(&case, &[]).accepted());
    assert!(with(&case, &["brom", "provisioner", "identity"]).accepted());
    fails(
        &with(
            &case,
            &["brom", "brom", "by_issuer", "provisioner", "identity"],
        ),
        &["gpu_ocsp"],
    );
    for (bad, reason) in [
        ("revoked", "revoked, since 2025-10-07"),
        ("unknown", "does not know"),
        ("stale", "in force from"),
        ("stale_without_next", "in force from"),
        ("future", "in force from"),
        ("stranger", "neither by the certificate's issuer"),
        ("not_for_ocsp", "neither by the certificate's issuer"),
        ("late_responder", "neither by the certificate's issuer"),
        ("other_ca", "neither by the certificate's issuer"),
        ("try_later", "status 3"),
    ] {
        // Even if a good one is there too.
        for names in [
            vec![bad, "provisioner", "identity"],
            vec!["brom", "provisioner", "identity", bad],
        ] {
            let verdict = with(&case, &names);
            fails(&verdict, &["gpu_ocsp"]);
            let factor = verdict.factor(0, GpuCheck::Ocsp).unwrap();
            assert!(factor.reason.contains(reason), "{bad}: {}", factor.reason);
        }
    }
}

#[test]
fn a_flipped_bit_of_an_ocsp_response_never_passes() {
    let case = Case::new();
    let mut seeded = Seeded(0x0c0c_0014);
    for _ in 0..300 {
        let mut evidence = case.whole();
        let response = &mut evidence.ocsp_responses[0];
        let bit = seeded.below(response.len() * 8);
        response[bit / 8] ^= 1 << (bit % 8);
        let verdict = case.judge(&evidence);
        let result = verdict.result(0, GpuCheck::Ocsp).unwrap();
        // The name or key in the outer encoding may change into that of another certificate: then
        // there is none about this one. A changed copy of the responder's certificate is a stranger.
        assert_ne!(result, FactorResult::Pass, "bit {bit}: {verdict}");
    }
}

#[test]
fn an_nras_token_is_a_second_opinion_that_may_fail() {
    let mut case = Case::new();
    let with = |case: &Case, name: &str| {
        let mut evidence = case.whole();
        evidence.nras_token = case.made.nras(name);
        case.judge(&evidence)
    };
    for (name, reason) in [
        ("none", "\"none\"; only ES384 counts"),
        ("none_part", "\"none\"; only ES384 counts"),
        ("hmac", "\"HS256\"; only ES384 counts"),
        ("es256", "\"ES256\"; only ES384 counts"),
        ("imposter", "signature of the overall token"),
        ("imposter_part", "signature of GPU-0"),
        ("unknown_key", "\"key-2\", which is not in the key set"),
        ("critical", "critical headers"),
        ("expired", "in force from"),
        ("expired_part", "in force from"),
        ("early", "in force from"),
        ("other_nonce", "another nonce"),
        ("other_nonce_part", "another nonce"),
        ("other_issuer", "issued by"),
        ("other_digest", "by its digest"),
        ("other_gpu", "is about the GPU"),
        ("extra_part", "about 2 GPUs"),
        ("extra_digest", "about 2 GPUs"),
        ("two", "about 2 GPUs"),
        ("refused", "x-nvidia-overall-att-result"),
        ("refused_part", "measres"),
        ("no_secure_boot", "secboot"),
        ("debug", "dbgstat"),
    ] {
        let verdict = with(&case, name);
        fails(&verdict, &["gpu_nras"]);
        let factor = verdict.factor(0, GpuCheck::Nras).unwrap();
        assert!(factor.reason.contains(reason), "{name}: {}", factor.reason);
    }
    let mut two = case.whole();
    two.gpus.push(case.made.gpu("second", "second"));
    two.nras_token = case.made.nras("two");
    two.ocsp_responses.clear();
    let verdict = case.judge(&two);
    assert_eq!(
        verdict.result(1, GpuCheck::Nras),
        Some(FactorResult::Pass),
        "{verdict}"
    );

    // Without keys a token says nothing, which is not the same as all in order.
    case.keys = NrasKeys::default();
    let verdict = with(&case, "good");
    assert_eq!(verdict.result(0, GpuCheck::Nras), Some(FactorResult::Skip));
    assert!(verdict.accepted());
    case.policy.require_nras = true;
    assert!(!with(&case, "good").accepted());
}

#[test]
fn a_flipped_bit_of_an_nras_token_never_passes() {
    let case = Case::new();
    let honest = case.made.nras("good");
    let nonce = nonce(&case.made.nonce);
    let chain = case.made.chain("hopper");
    let leaf = Certificate::from_der(&chain[0]).unwrap();
    let check = |token: &[u8]| nras::check(token, &case.keys, &nonce, &[leaf.serial()], case.now);
    assert_eq!(check(&honest), Ok(()));
    let mut seeded = Seeded(0x0c0c_0015);
    for _ in 0..2_000 {
        let bit = seeded.below(honest.len() * 8);
        let mut token = honest.clone();
        token[bit / 8] ^= 1 << (bit % 8);
        if check(&token).is_ok() {
            assert!(
                honest[bit / 8].is_ascii_whitespace(),
                "bit {bit} is not white space"
            );
        }
    }
}

#[test]
fn a_gpu_without_a_device_certificate_is_never_unique() {
    let case = Case::new();
    let mut gpu: Gpu = case.made.gpu("hopper", "hopper");
    gpu.certificates.truncate(1);
    let verdict = case.judge(&evidence(vec![gpu]));
    assert!(verdict.gpus[0].is_none());
    assert_eq!(
        verdict.result(0, GpuCheck::Unique),
        Some(FactorResult::Skip)
    );
    assert!(!verdict.accepted());
}
