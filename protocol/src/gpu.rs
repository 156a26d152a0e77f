//! Evidence of GPUs on the wire: reports, their certificates, and what came with them.
//!
//! A GPU's report names no guest, so the two are tied together at both ends: the report answers a
//! nonce made of the guest's keys ([`gpu_nonce`]), and the guest's claims name the report by
//! [`GpuEvidence::digest`], which the quote binds. What it is worth is for the verifier to say; here
//! it is bytes within bounds.

use crate::evidence::Claims;
use crate::ids::Digest;
use crate::proto;
use crate::wire::{Wire, WireError, codec, field};
use sha2::{Digest as _, Sha256};

/// Most bytes of the evidence of all GPUs of a worker.
pub const MAX_GPU_EVIDENCE_BYTES: usize = 96 * 1024;
/// Most GPUs of a worker.
pub const MAX_GPUS: usize = 8;
/// Most bytes of a report. Hopper's and Blackwell's have 4 KiB.
pub const MAX_GPU_REPORT_BYTES: usize = 8 * 1024;
/// Most certificates of a chain. NVIDIA's have 5, the root included.
pub const MAX_GPU_CERTIFICATES: usize = 6;
/// Most bytes of a certificate.
pub const MAX_GPU_CERTIFICATE_BYTES: usize = 2 * 1024;
/// Most OCSP responses: one for each GPU's own certificate and a few for the authorities they share.
pub const MAX_OCSP_RESPONSES: usize = 24;
/// Most bytes of an OCSP response.
pub const MAX_OCSP_RESPONSE_BYTES: usize = 4 * 1024;
/// Most bytes of a token of NVIDIA's attestation service.
pub const MAX_NRAS_TOKEN_BYTES: usize = 32 * 1024;
/// Precedes the fields in what is hashed into a nonce.
pub const GPU_NONCE_DOMAIN: &[u8] = b"cocoon/gpu-nonce/v1\0";

/// The evidence of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// SPDM request and signed response, as the driver hands them out.
    pub report: Vec<u8>,
    /// DER, the key that signed the report first, up to the root or to what the root signed.
    pub certificates: Vec<Vec<u8>>,
}

/// The evidence of all GPUs of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuEvidence {
    /// One to [`MAX_GPUS`].
    pub gpus: Vec<Gpu>,
    /// OCSP responses for the certificates, in any order and each once; empty for none.
    pub ocsp_responses: Vec<Vec<u8>>,
    /// NVIDIA's attestation service about them, as JSON; empty for none.
    pub nras_token: Vec<u8>,
}

codec!(GpuEvidence);

impl GpuEvidence {
    /// What [`Claims::gpu_evidence`] names: SHA-256 of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.encode())
    }
}

/// The nonce that a GPU is asked to sign for these claims.
///
/// `SHA-256("cocoon/gpu-nonce/v1" 00 ‖ noise_key ‖ receipt_key ‖ beacon hash)`: keys that exist in one
/// guest only, and a block before which the report cannot have been made.
#[must_use]
pub fn gpu_nonce(claims: &Claims) -> [u8; 32] {
    Sha256::new()
        .chain_update(GPU_NONCE_DOMAIN)
        .chain_update(claims.noise_key)
        .chain_update(claims.receipt_key)
        .chain_update(claims.beacon.hash.as_bytes())
        .finalize()
        .into()
}

impl Wire for Gpu {
    const NAME: &'static str = "Gpu";
    const MAX_BYTES: usize = MAX_GPU_EVIDENCE_BYTES;
    type Proto = proto::Gpu;

    fn to_proto(&self) -> Self::Proto {
        proto::Gpu {
            report: self.report.clone(),
            certificates: self.certificates.clone(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let certificates = field::<Self>("certificates");
        certificates.at_most(proto.certificates.len(), MAX_GPU_CERTIFICATES)?;
        if proto.certificates.is_empty() {
            return certificates.required(None);
        }
        Ok(Self {
            report: field::<Self>("report").bounded(proto.report, MAX_GPU_REPORT_BYTES)?,
            certificates: proto
                .certificates
                .into_iter()
                .map(|der| certificates.bounded(der, MAX_GPU_CERTIFICATE_BYTES))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Wire for GpuEvidence {
    const NAME: &'static str = "GpuEvidence";
    const MAX_BYTES: usize = MAX_GPU_EVIDENCE_BYTES;
    type Proto = proto::GpuEvidence;

    fn to_proto(&self) -> Self::Proto {
        proto::GpuEvidence {
            gpus: self.gpus.iter().map(Wire::to_proto).collect(),
            ocsp_responses: self.ocsp_responses.clone(),
            nras_token: self.nras_token.clone(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let gpus = field::<Self>("gpus");
        gpus.at_most(proto.gpus.len(), MAX_GPUS)?;
        if proto.gpus.is_empty() {
            return gpus.required(None);
        }
        let responses = field::<Self>("ocsp_responses");
        responses.at_most(proto.ocsp_responses.len(), MAX_OCSP_RESPONSES)?;
        field::<Self>("nras_token").at_most(proto.nras_token.len(), MAX_NRAS_TOKEN_BYTES)?;
        Ok(Self {
            gpus: proto
                .gpus
                .into_iter()
                .map(Gpu::from_proto)
                .collect::<Result<_, _>>()?,
            ocsp_responses: proto
                .ocsp_responses
                .into_iter()
                .map(|der| responses.bounded(der, MAX_OCSP_RESPONSE_BYTES))
                .collect::<Result<_, _>>()?,
            nras_token: proto.nras_token,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::samples::any_claims;

    fn any_gpu() -> impl Strategy<Value = Gpu> {
        let blob = |most: usize| vec(any::<u8>(), 1..most);
        (blob(300), vec(blob(100), 1..=MAX_GPU_CERTIFICATES)).prop_map(|(report, certificates)| {
            Gpu {
                report,
                certificates,
            }
        })
    }

    fn any_evidence() -> impl Strategy<Value = GpuEvidence> {
        (
            vec(any_gpu(), 1..=MAX_GPUS),
            vec(vec(any::<u8>(), 1..100), 0..=MAX_OCSP_RESPONSES),
            vec(any::<u8>(), 0..200),
        )
            .prop_map(|(gpus, ocsp_responses, nras_token)| GpuEvidence {
                gpus,
                ocsp_responses,
                nras_token,
            })
    }

    fn small() -> GpuEvidence {
        GpuEvidence {
            gpus: vec![Gpu {
                report: vec![1],
                certificates: vec![vec![2], vec![3]],
            }],
            ocsp_responses: vec![vec![4]],
            nras_token: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(value in any_evidence()) {
            let bytes = value.encode();
            prop_assert_eq!(&GpuEvidence::decode(&bytes).unwrap(), &value);
            prop_assert_eq!(value.digest(), Digest::sha256(&bytes));
            let mut longer = bytes.clone();
            longer.extend([0xa0, 0x06, 0x01]);
            prop_assert!(GpuEvidence::decode(&longer).is_err());
        }

        #[test]
        fn a_nonce_depends_on_keys_and_beacon_alone(claims in any_claims(), flip in any::<bool>()) {
            let nonce = gpu_nonce(&claims);
            let mut other = claims.clone();
            if flip { other.noise_key[0] ^= 1 } else { other.receipt_key[31] ^= 0x80 }
            prop_assert_ne!(gpu_nonce(&other), nonce);
            let mut same = claims;
            same.epoch ^= 1;
            same.gpu_evidence = Digest::sha256(b"other");
            prop_assert_eq!(gpu_nonce(&same), nonce);
        }
    }

    #[test]
    fn any_bytes_may_come_as_gpu_evidence() {
        bolero::check!()
            .with_iterations(2_000)
            .for_each(|bytes: &[u8]| {
                if let Ok(value) = GpuEvidence::decode(bytes) {
                    assert_eq!(value.encode(), bytes);
                }
            });
    }

    #[test]
    fn every_bound_is_held() {
        let refused = |change: fn(&mut GpuEvidence)| {
            let mut value = small();
            change(&mut value);
            GpuEvidence::decode(&value.encode()).unwrap_err()
        };
        assert!(GpuEvidence::decode(&small().encode()).is_ok());
        let name = |error: WireError| match error {
            WireError::TooLong { field, .. } | WireError::Missing { field, .. } => field,
            WireError::TooLarge { .. } => "size",
            other => panic!("{other}"),
        };
        assert_eq!(name(refused(|e| e.gpus.clear())), "gpus");
        assert_eq!(
            name(refused(|e| e.gpus = vec![e.gpus[0].clone(); MAX_GPUS + 1])),
            "gpus"
        );
        assert_eq!(
            name(refused(|e| e.nras_token = vec![0; MAX_NRAS_TOKEN_BYTES + 1])),
            "nras_token"
        );
        assert_eq!(
            name(refused(
                |e| e.gpus[0].report = vec![0; MAX_GPU_REPORT_BYTES + 1]
            )),
            "report"
        );
        assert_eq!(name(refused(|e| e.gpus[0].report.clear())), "report");
        assert_eq!(
            name(refused(|e| e.gpus[0].certificates.clear())),
            "certificates"
        );
        assert_eq!(
            name(refused(
                |e| e.gpus[0].certificates = vec![vec![0]; MAX_GPU_CERTIFICATES + 1]
            )),
            "certificates"
        );
        assert_eq!(
            name(refused(
                |e| e.gpus[0].certificates[1] = vec![0; MAX_GPU_CERTIFICATE_BYTES + 1]
            )),
            "certificates"
        );
        assert_eq!(
            name(refused(
                |e| e.ocsp_responses = vec![vec![0]; MAX_OCSP_RESPONSES + 1]
            )),
            "ocsp_responses"
        );
        assert_eq!(
            name(refused(
                |e| e.ocsp_responses[0] = vec![0; MAX_OCSP_RESPONSE_BYTES + 1]
            )),
            "ocsp_responses"
        );
        assert_eq!(
            name(GpuEvidence::decode(&vec![0; MAX_GPU_EVIDENCE_BYTES + 1]).unwrap_err()),
            "size"
        );
    }

    /// Computed with Python's hashlib:
    /// `sha256(b"cocoon/gpu-nonce/v1\0" + b"\x01"*32 + b"\x02"*32 + b"\x03"*32)`.
    #[test]
    fn the_nonce_is_the_documented_hash() {
        let claims = Claims {
            noise_key: [1; 32],
            mlkem_key: Vec::new(),
            receipt_key: [2; 32],
            peer: crate::ids::Keypair::ed25519_from_bytes([1; 32])
                .unwrap()
                .public()
                .to_peer_id(),
            model: Digest::ZERO,
            config: Digest::ZERO,
            gpu_evidence: Digest::ZERO,
            beacon: crate::evidence::Beacon {
                seqno: 4,
                hash: Digest::from_bytes([3; 32]),
            },
            epoch: 5,
            canary: Digest::ZERO,
        };
        assert_eq!(
            hex::encode(gpu_nonce(&claims)),
            "32346b0069f3d477bb0c13dd315791b7e1e22b1dbae9ddea6fc5480fd244510c"
        );
    }
}
