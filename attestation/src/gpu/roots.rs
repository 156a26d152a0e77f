//! NVIDIA's two pinned roots: one over GPUs, one over the signers of RIM files.

use std::sync::LazyLock;

use super::certificate::Certificate;
#[cfg(feature = "simulated-evidence")]
use super::certificate::CertificateError;

/// "NVIDIA Device Identity CA", see `roots/README.md`.
const DEVICE: &[u8] = include_bytes!("../../roots/nvidia_device_identity_ca.der");
/// "NVIDIA CoRIM signing Root CA".
const RIM: &[u8] = include_bytes!("../../roots/nvidia_corim_signing_root_ca.der");

#[allow(
    clippy::expect_used,
    reason = "two files of this repository; a test decodes them"
)]
static NVIDIA: LazyLock<(Certificate, Certificate)> = LazyLock::new(|| {
    (
        Certificate::from_der(DEVICE).expect("the pinned device root decodes"),
        Certificate::from_der(RIM).expect("the pinned RIM root decodes"),
    )
});

/// Whose signatures count. Never from a peer, a file or the environment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum GpuTrust {
    /// NVIDIA's.
    #[default]
    Nvidia,
    /// Made-up ones, for tests.
    #[cfg(feature = "simulated-evidence")]
    Simulated(Box<SimulatedRoots>),
}

/// Roots of tests.
#[cfg(feature = "simulated-evidence")]
#[derive(Clone, Debug)]
pub struct SimulatedRoots {
    device: Certificate,
    rim: Certificate,
}

impl GpuTrust {
    /// Over GPUs.
    #[must_use]
    pub fn device_root(&self) -> &Certificate {
        match self {
            Self::Nvidia => &NVIDIA.0,
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated(roots) => &roots.device,
        }
    }

    /// Over the signers of RIM files.
    #[must_use]
    pub fn rim_root(&self) -> &Certificate {
        match self {
            Self::Nvidia => &NVIDIA.1,
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated(roots) => &roots.rim,
        }
    }

    /// Two roots of a test, as DER.
    ///
    /// # Errors
    /// Why one is no certificate.
    #[cfg(feature = "simulated-evidence")]
    pub fn simulated(device: &[u8], rim: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self::Simulated(Box::new(SimulatedRoots {
            device: Certificate::from_der(device)?,
            rim: Certificate::from_der(rim)?,
        })))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_roots_are_the_pinned_ones() {
        for (root, subject, digest) in [
            (
                GpuTrust::Nvidia.device_root(),
                "O=NVIDIA,CN=NVIDIA Device Identity CA",
                "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
            ),
            (
                GpuTrust::Nvidia.rim_root(),
                "CN=NVIDIA CoRIM signing Root CA,O=NVIDIA,C=US",
                "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
            ),
        ] {
            assert_eq!(root.subject(), subject);
            assert_eq!(hex::encode(Sha256::digest(root.der())), digest);
            assert!(root.issued(root));
        }
    }
}
