//! What the tests of GPU evidence share: NVIDIA's samples, and made-up ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attestation::gpu::{GpuManifest, GpuPolicy, GpuTrust, NrasKeys, rim};
use cocoon_attestation::{FactorResult, gpu};
use cocoon_protocol::gpu::{Gpu, GpuEvidence};
use cocoon_protocol::units::UnixMillis;
use serde::Deserialize;

/// 2025-10-09, when NVIDIA's device certificates are in force and its sample RIM files' signers are not.
pub(crate) const NOW: u64 = 1_760_000_000;
/// 2024-01-01, when those signers were in force.
pub(crate) const THEN: u64 = 1_704_067_200;
/// What NVIDIA's sample report answers.
pub(crate) const SAMPLE_NONCE: &str =
    "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";

pub(crate) const fn at(seconds: u64) -> UnixMillis {
    UnixMillis::from_millis(seconds * 1_000)
}

pub(crate) fn nonce(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// The folder of `scripts/fetch-gpu-fixtures.sh`; none, and loudly so, where it was not run.
pub(crate) fn samples() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = set("COCOON_TEST_GPU_FIXTURES")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("cocoon/gpu-fixtures")))
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/cocoon/gpu-fixtures")))
        .filter(|folder| folder.join("hopperAttestationReport.txt").is_file());
    if folder.is_none() {
        let required =
            std::env::var_os("COCOON_REQUIRE_GPU_FIXTURES").is_some_and(|value| value == "1");
        assert!(
            !required,
            "COCOON_REQUIRE_GPU_FIXTURES=1, but the samples are not there; run \
             scripts/fetch-gpu-fixtures.sh"
        );
        eprintln!(
            "\n##  NOT RUN: NVIDIA's samples are missing. Run scripts/fetch-gpu-fixtures.sh, and set\n\
             ##  COCOON_REQUIRE_GPU_FIXTURES=1 to insist.\n"
        );
    }
    folder
}

/// NVIDIA's H100: report and certificates.
pub(crate) fn sample_gpu(folder: &std::path::Path) -> Gpu {
    let text = std::fs::read_to_string(folder.join("hopperAttestationReport.txt")).unwrap();
    let pem = std::fs::read_to_string(folder.join("hopperCertChain.txt")).unwrap();
    Gpu {
        report: hex::decode(text.split_whitespace().collect::<String>()).unwrap(),
        certificates: gpu::chain::from_pem(&pem).unwrap(),
    }
}

pub(crate) fn evidence(gpus: Vec<Gpu>) -> GpuEvidence {
    GpuEvidence {
        gpus,
        ocsp_responses: Vec::new(),
        nras_token: Vec::new(),
    }
}

/// All RIM files of the samples, by name.
pub(crate) fn sample_rims(folder: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "swidtag"))
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect()
}

/// `tests/fixtures/gpu/synthetic.json`, made by `make.py` there.
#[derive(Deserialize)]
pub(crate) struct Synthetic {
    pub(crate) now: u64,
    pub(crate) nonce: String,
    pub(crate) fwid: String,
    device_root: String,
    other_root: String,
    rim_root: String,
    chains: BTreeMap<String, Vec<String>>,
    reports: BTreeMap<String, String>,
    ocsp: BTreeMap<String, String>,
    rims: BTreeMap<String, String>,
    nras_keys: String,
    nras: BTreeMap<String, String>,
}

impl Synthetic {
    pub(crate) fn load() -> Self {
        serde_json::from_str(include_str!("../fixtures/gpu/synthetic.json")).unwrap()
    }

    #[cfg(feature = "simulated-evidence")]
    pub(crate) fn trust(&self) -> GpuTrust {
        GpuTrust::simulated(&decode(&self.device_root), &decode(&self.rim_root)).unwrap()
    }

    #[cfg(feature = "simulated-evidence")]
    pub(crate) fn other_trust(&self) -> GpuTrust {
        GpuTrust::simulated(&decode(&self.other_root), &decode(&self.rim_root)).unwrap()
    }

    pub(crate) fn chain(&self, name: &str) -> Vec<Vec<u8>> {
        self.chains[name].iter().map(|der| decode(der)).collect()
    }

    pub(crate) fn report(&self, name: &str) -> Vec<u8> {
        decode(&self.reports[name])
    }

    pub(crate) fn ocsp(&self, name: &str) -> Vec<u8> {
        decode(&self.ocsp[name])
    }

    pub(crate) fn rim(&self, name: &str) -> &[u8] {
        self.rims[name].as_bytes()
    }

    pub(crate) fn nras(&self, name: &str) -> Vec<u8> {
        self.nras[name].as_bytes().to_vec()
    }

    pub(crate) fn nras_keys(&self) -> NrasKeys {
        NrasKeys::from_json(self.nras_keys.as_bytes()).unwrap()
    }

    /// A report of one name with the certificates of another.
    pub(crate) fn gpu(&self, report: &str, chain: &str) -> Gpu {
        Gpu {
            report: self.report(report),
            certificates: self.chain(chain),
        }
    }

    pub(crate) fn manifest(&self, trust: &GpuTrust, names: &[&str]) -> GpuManifest {
        let rims = names
            .iter()
            .map(|name| rim::import(name, self.rim(name), trust, self.now, true).unwrap())
            .collect();
        GpuManifest::new(rims).unwrap()
    }
}

fn decode(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// A policy without the demands that a test does not meet.
pub(crate) fn lenient() -> GpuPolicy {
    GpuPolicy {
        require_mode: false,
        expired_rim_signers: gpu::ExpiredRimSigners::Allow,
        ..GpuPolicy::default()
    }
}

/// Names of what failed, and of what was skipped.
pub(crate) fn outcomes(verdict: &gpu::GpuVerdict) -> (Vec<&'static str>, Vec<&'static str>) {
    let of = |result| {
        verdict
            .factors
            .iter()
            .filter(|factor| factor.result == result)
            .map(|factor| factor.name)
            .collect()
    };
    (of(FactorResult::Fail), of(FactorResult::Skip))
}

/// The same numbers at every run (SplitMix64).
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(bound).unwrap()).unwrap()
    }
}
