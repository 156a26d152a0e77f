//! Whatever a stranger sends as evidence of GPUs, every parser answers and none panics.
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
    Certificate, Chain, GpuCheck, GpuExpectation, GpuManifest, GpuTrust, NrasKeys, OcspResponse,
    Report, chain, fwid, nras, rim, verify,
};
use cocoon_protocol::gpu::{Gpu, GpuEvidence};
use support::{Synthetic, at, lenient, nonce};

/// Random bytes, and bytes of a sample with random changes, cuts and insertions.
fn strangers(sample: &[u8], iterations: usize, take: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    bolero::check!()
        .with_iterations(iterations)
        .with_type::<(u8, u16, u16, Vec<u8>)>()
        .for_each(|(kind, from, until, bytes)| {
            let from = usize::from(*from) % (sample.len() + 1);
            let until = (from + usize::from(*until) % 8).min(sample.len());
            match kind % 4 {
                0 => take(bytes),
                1 => take(&sample[..from]),
                2 => take(&[&sample[..from], bytes, &sample[until..]].concat()),
                _ => {
                    let mut changed = sample.to_vec();
                    for (byte, mask) in changed[from..].iter_mut().zip(bytes) {
                        *byte ^= mask;
                    }
                    take(&changed);
                }
            }
        });
}

#[test]
fn reports() {
    let made = Synthetic::load();
    strangers(&made.report("hopper"), 20_000, |bytes| {
        if let Ok(report) = Report::parse(bytes) {
            assert!(report.signed.len() + 96 == bytes.len());
            let _ = (report.mode(), report.vbios_version());
        }
    });
}

#[test]
fn certificates_and_firmware() {
    let made = Synthetic::load();
    for name in ["hopper", "blackwell"] {
        strangers(&made.chain(name)[0], 5_000, |bytes| {
            if let Ok(certificate) = Certificate::from_der(bytes) {
                let _ = fwid::firmware(&certificate);
                assert!(certificate.subject().chars().count() <= 200);
            }
        });
    }
    // The extension alone: what a certificate signs is not for the parser to trust either.
    let content = hex::decode(concat!(
        "308193800a4e6f74204e5649444941a67e303d0609608648016503040202043000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000303d0609",
        "608648016503040202043000000000000000000000000000000000000000000000000000000000000000",
        "000000000000000000000000000000000087050080000001",
    ))
    .unwrap();
    assert!(fwid::decode(&content).is_ok());
    strangers(&content, 10_000, |bytes| {
        let _ = fwid::decode(bytes);
    });
}

#[test]
fn chains() {
    let made = Synthetic::load();
    let honest = made.chain("hopper");
    strangers(&honest[1], 1_000, |bytes| {
        let mut certificates: Vec<&[u8]> = honest.iter().map(Vec::as_slice).collect();
        certificates[1] = bytes;
        if let Ok(chain) = Chain::from_der(certificates) {
            assert!(bytes == honest[1] || chain.links().is_err());
        }
    });
    strangers(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        5_000,
        |bytes| {
            let _ = chain::from_pem(&String::from_utf8_lossy(bytes));
        },
    );
}

#[test]
fn ocsp_responses() {
    let made = Synthetic::load();
    strangers(&made.ocsp("brom"), 10_000, |bytes| {
        let _ = OcspResponse::from_der(bytes);
    });
}

#[test]
fn tokens_and_keys() {
    let made = Synthetic::load();
    let keys = made.nras_keys();
    let honest = made.nras("good");
    strangers(&honest, 5_000, |bytes| {
        let _ = nras::check(bytes, &keys, &nonce(&made.nonce), &[&[1]], made.now);
    });
    strangers(
        b"{\"keys\":[{\"kid\":\"a\",\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\"AA\",\"y\":\"AA\"}]}",
        5_000,
        |bytes| {
            let _ = NrasKeys::from_json(bytes);
        },
    );
}

#[test]
fn rim_files() {
    let made = Synthetic::load();
    let honest = made.rim("vbios").to_vec();
    strangers(&honest, 3_000, |bytes| {
        // Nobody but NVIDIA gets a RIM past NVIDIA's root.
        assert!(rim::import("x", bytes, &GpuTrust::Nvidia, made.now, true).is_err());
    });
}

#[test]
fn whole_evidence() {
    let made = Synthetic::load();
    let manifest = GpuManifest::default();
    let keys = made.nras_keys();
    let honest = made.report("hopper");
    strangers(&honest, 300, |bytes| {
        let evidence = GpuEvidence {
            gpus: vec![
                Gpu {
                    report: bytes.to_vec(),
                    certificates: vec![bytes.to_vec()],
                },
                Gpu {
                    report: bytes.to_vec(),
                    certificates: made.chain("hopper"),
                },
            ],
            ocsp_responses: vec![bytes.to_vec()],
            nras_token: bytes.to_vec(),
        };
        let verdict = verify(
            at(made.now),
            &evidence,
            &GpuExpectation {
                nonce: nonce(&made.nonce),
                manifest: &manifest,
                policy: &lenient(),
                trust: &GpuTrust::Nvidia,
                nras_keys: &keys,
            },
        );
        assert!(!verdict.accepted());
        assert_eq!(verdict.factors.len(), 2 * GpuCheck::ALL.len());
        assert_ne!(
            verdict.result(1, GpuCheck::RootPinned),
            Some(FactorResult::Pass)
        );
    });
}
