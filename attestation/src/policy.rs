//! What a verifier demands. Written by people as TOML, shipped with a release, never taken from a
//! peer.

use std::collections::BTreeSet;

use cocoon_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::Measurement;

/// Most guest images that one policy may allow.
pub const MAX_IMAGES: usize = 64;

/// Newest TCB evaluation that every Intel platform family had collateral for when this release
/// was made. Older collateral can hide advisories: the same quote is up to date under number 17
/// and has four open advisories under number 20.
pub const DEFAULT_MIN_TCB_EVALUATION: u32 = 18;

/// Processor state that a guest may use: x87, SSE, AVX, AVX-512, PKRU, CET, user interrupts, AMX.
/// Not allowed are processor trace and last-branch records, which tell others where it ran.
/// Bits: Intel SDM volume 1, section 13.1.
pub const DEFAULT_XFAM_ALLOWED: u64 = 0x0006_5ae7;

/// x87 and SSE, which the TDX module insists on.
pub const XFAM_REQUIRED: u64 = 0x3;

/// A guest image that a release vouches for, by the registers that measure it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// A name for people, such as the release.
    pub name: String,
    /// The virtual firmware, as built by the TDX module.
    pub mrtd: Measurement,
    /// Firmware configuration, measured by the firmware.
    pub rtmr0: Measurement,
    /// Kernel, measured by the firmware.
    pub rtmr1: Measurement,
    /// Kernel command line and initial file system.
    pub rtmr2: Measurement,
}

/// The verifier's demands beyond those that are never up for choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Lowest `tcbEvaluationDataNumber` of the collateral.
    pub min_tcb_evaluation: u32,
    /// How many hours after the end of its own hour evidence is still taken. With 1, evidence made
    /// at 10:59 is valid until 12:00, and a worker has an hour to make new one.
    pub max_epoch_age_hours: u64,
    /// Processor state components that a guest may have switched on.
    pub xfam_allowed: u64,
    /// Whether packages may be added to the platform. All known clouds say yes.
    pub allow_dynamic_platform: bool,
    /// Whether Intel's registration service may keep the platform's keys. All known clouds say yes.
    pub allow_cached_keys: bool,
    /// Whether hyperthreading may be on. All known clouds say yes; it leaves side channels open
    /// between guests of one core.
    pub allow_smt: bool,
    /// Whether a worker without verified GPU evidence is refused.
    pub require_gpu: bool,
    /// Digests of configurations that are allowed. Empty: any, but RTMR3 still has to hold the
    /// configuration that the worker claims.
    pub configs: Vec<Digest>,
    /// TDX module measurements (MRSEAM) that are allowed. Empty: any module that Intel signed and
    /// whose version the collateral calls up to date.
    pub mrseam: Vec<Measurement>,
    /// Guest images that are allowed. Empty: none, so nobody is accepted.
    pub images: Vec<Image>,
}

/// A policy that cannot mean what its author wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Nobody could ever be accepted.
    #[error("the policy allows no guest image, so it accepts nobody")]
    NoImages,
    /// The list is longer than a release needs.
    #[error("the policy allows {count} guest images, more than {MAX_IMAGES}")]
    TooManyImages {
        /// How many it names.
        count: usize,
    },
    /// Two images have the same name, so a verdict would be ambiguous.
    #[error("the policy names image {name:?} twice")]
    DuplicateImage {
        /// The name.
        name: String,
    },
    /// The mask leaves out state that every TDX guest has.
    #[error("xfam_allowed {xfam_allowed:#x} leaves out x87 or SSE, which every guest has")]
    Xfam {
        /// The mask.
        xfam_allowed: u64,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_tcb_evaluation: DEFAULT_MIN_TCB_EVALUATION,
            max_epoch_age_hours: 1,
            xfam_allowed: DEFAULT_XFAM_ALLOWED,
            allow_dynamic_platform: true,
            allow_cached_keys: true,
            allow_smt: true,
            require_gpu: false,
            configs: Vec::new(),
            mrseam: Vec::new(),
            images: Vec::new(),
        }
    }
}

impl Policy {
    /// Checks that the policy can be meant.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.images.is_empty() {
            return Err(PolicyError::NoImages);
        }
        if self.images.len() > MAX_IMAGES {
            return Err(PolicyError::TooManyImages {
                count: self.images.len(),
            });
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.images.iter().find(|image| !names.insert(&image.name)) {
            return Err(PolicyError::DuplicateImage {
                name: twice.name.clone(),
            });
        }
        if self.xfam_allowed & XFAM_REQUIRED != XFAM_REQUIRED {
            return Err(PolicyError::Xfam {
                xfam_allowed: self.xfam_allowed,
            });
        }
        Ok(())
    }
}

/// The image of a simulated guest. No guest has these measurements: they are one byte repeated.
#[cfg(feature = "simulated-evidence")]
pub mod simulated {
    use super::{Image, Policy};
    use crate::Measurement;

    /// Name of the only simulated image.
    pub const IMAGE_NAME: &str = "simulated guest";
    /// Firmware of the simulated image.
    pub const MRTD: Measurement = Measurement::from_bytes([0xd0; 48]);
    /// Firmware configuration of the simulated image.
    pub const RTMR0: Measurement = Measurement::from_bytes([0xd1; 48]);
    /// Kernel of the simulated image.
    pub const RTMR1: Measurement = Measurement::from_bytes([0xd2; 48]);
    /// Command line and initial file system of the simulated image.
    pub const RTMR2: Measurement = Measurement::from_bytes([0xd3; 48]);
    /// The evaluation number that the simulator writes into its collateral.
    pub const TCB_EVALUATION: u32 = 20;

    /// The simulated image.
    #[must_use]
    pub fn image() -> Image {
        Image {
            name: IMAGE_NAME.to_owned(),
            mrtd: MRTD,
            rtmr0: RTMR0,
            rtmr1: RTMR1,
            rtmr2: RTMR2,
        }
    }

    /// The policy of a simulated network: as strict as the default one, and it allows the
    /// simulated image.
    #[must_use]
    pub fn policy() -> Policy {
        Policy {
            min_tcb_evaluation: TCB_EVALUATION,
            images: vec![image()],
            ..Policy::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn image(name: &str) -> Image {
        Image {
            name: name.to_owned(),
            mrtd: Measurement::of(name.as_bytes()),
            rtmr0: Measurement::ZERO,
            rtmr1: Measurement::ZERO,
            rtmr2: Measurement::ZERO,
        }
    }

    #[test]
    fn a_policy_survives_toml() {
        let policy = Policy {
            configs: vec![Digest::sha256(b"config")],
            mrseam: vec![Measurement::of(b"module")],
            images: vec![image("one"), image("two")],
            ..Policy::default()
        };
        let text = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<Policy>(&text).unwrap(), policy);
    }

    #[test]
    fn a_misspelt_demand_is_refused_and_not_ignored() {
        assert!(toml::from_str::<Policy>("min_tcb_evalution = 20").is_err());
    }

    #[test]
    fn what_is_not_written_keeps_its_strict_default() {
        let policy: Policy = toml::from_str("require_gpu = true").unwrap();
        assert_eq!(
            policy,
            Policy {
                require_gpu: true,
                ..Policy::default()
            }
        );
    }

    #[test]
    fn a_policy_without_images_is_refused() {
        assert_eq!(Policy::default().check(), Err(PolicyError::NoImages));
    }

    #[test]
    fn an_image_named_twice_is_refused() {
        let policy = Policy {
            images: vec![image("one"), image("one")],
            ..Policy::default()
        };
        assert_eq!(
            policy.check(),
            Err(PolicyError::DuplicateImage {
                name: "one".to_owned()
            })
        );
    }

    #[test]
    fn trace_state_is_not_allowed_by_default() {
        let (processor_trace, last_branches) = (1 << 8, 1 << 15);
        assert_eq!(DEFAULT_XFAM_ALLOWED & (processor_trace | last_branches), 0);
    }
}
