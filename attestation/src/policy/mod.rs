//! What a verifier demands. Written by people as TOML (docs/policy.md), shipped and signed with a
//! release, never taken from a peer.

mod parts;
pub mod signature;
#[cfg(feature = "simulated-evidence")]
pub mod simulated;

use std::collections::BTreeSet;

use cocoon_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use self::parts::MAX_MODULES;
pub(crate) use self::parts::is_out_of_date;
pub use self::parts::{
    AllowedImage, DEFAULT_MIN_TCB_EVALUATION, DEFAULT_XFAM_ALLOWED, GuestPolicy, Image,
    ModelPolicy, PlatformPolicy, TcbPolicy, XFAM_REQUIRED,
};
use crate::Check;
use crate::event_log::EventPolicyError;
use crate::gpu::GpuPolicy;
use crate::log::RebuilderSet;

/// The version that this program reads.
pub const POLICY_VERSION: u32 = 2;
/// Largest policy file, bytes.
pub const MAX_POLICY_BYTES: usize = 1024 * 1024;
/// Most guest images that one policy may allow.
pub const MAX_IMAGES: usize = 64;
/// Most models whose answers one policy may know.
pub const MAX_MODELS: usize = 256;
/// Most worker identities that a policy may allow on one machine.
pub const MAX_WORKERS_PER_PLATFORM: u32 = 1_024;
/// Longest grace for a platform that is out of date, days.
pub const MAX_GRACE_DAYS: u32 = 366;

/// A policy to start from, with every key and what it means. As it stands it allows no image.
pub const TEMPLATE: &str = include_str!("template.toml");

/// The verifier's demands beyond those that are never up for choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// [`POLICY_VERSION`]. A file has to say it.
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// Factors that have to pass although a policy may be silent about them. All others have to
    /// pass anyway.
    pub required: Vec<Check>,
    /// How many hours after the end of its own hour evidence is still taken. With 1, evidence made
    /// at 10:59 is valid until 12:00, and a worker has an hour to make new one.
    pub max_epoch_age_hours: u64,
    /// Digests of configurations that are allowed. Empty: any, but RTMR3 still has to hold the
    /// configuration that the worker claims.
    pub configs: Vec<Digest>,
    /// The platform's and the quoting enclave's security versions.
    pub tcb: TcbPolicy,
    /// How the machine is set up, and how many workers it may be.
    pub platform: PlatformPolicy,
    /// The TDX module and the guest's processor state.
    pub guest: GuestPolicy,
    /// What GPUs may be in and must show.
    pub gpu: GpuPolicy,
    /// SHA-256 of the file with what drivers and VBIOS versions measure to
    /// ([`crate::gpu::GpuManifest`]). Without it no GPU passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_manifest: Option<Digest>,
    /// The log whose images are allowed, and who must have signed it. None: only `images` are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<RebuilderSet>,
    /// Guest images that are allowed, whether in a log or not.
    pub images: Vec<AllowedImage>,
    /// Models whose answers to the known questions are known.
    pub models: Vec<ModelPolicy>,
}

/// A policy that cannot be read, or cannot mean what its author wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No policy is that long.
    #[error("the policy has {bytes} bytes, more than {MAX_POLICY_BYTES}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// It does not say which version it is.
    #[error(
        "the policy does not say `version = {POLICY_VERSION}`; `cocoon policy template` prints one that does"
    )]
    NoVersion,
    /// Another version.
    #[error("the policy is of version {found}; this program reads version {POLICY_VERSION}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// Not TOML, an unknown key, or a value of another kind.
    #[error("{0}")]
    Malformed(String),
    /// Nobody could ever be accepted.
    #[error("the policy allows no guest image and names no log of them, so it accepts nobody")]
    NoImages,
    /// A list is longer than a release needs.
    #[error("the policy lists {count} {what}, more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many it names.
        count: usize,
        /// How many it may.
        limit: usize,
    },
    /// Two images have the same name, so a verdict would be ambiguous.
    #[error("the policy names image {name:?} twice")]
    DuplicateImage {
        /// The name.
        name: String,
    },
    /// Neither a value of RTMR0 nor its events, or both.
    #[error("image {name:?} has to say either `rtmr0` or `events`")]
    EitherOr {
        /// The image.
        name: String,
    },
    /// Events that cannot be meant.
    #[error("image {name:?}: {source}")]
    Events {
        /// The image.
        name: String,
        /// Why.
        source: EventPolicyError,
    },
    /// Two entries for one model.
    #[error("the policy names model {digest} twice")]
    DuplicateModel {
        /// The model.
        digest: Digest,
    },
    /// An entry that says nothing.
    #[error("the policy names model {digest} without any `canary`")]
    NoCanary {
        /// The model.
        digest: Digest,
    },
    /// The mask leaves out state that every TDX guest has.
    #[error("guest.xfam_allowed {xfam_allowed:#x} leaves out x87 or SSE, which every guest has")]
    Xfam {
        /// The mask.
        xfam_allowed: u64,
    },
    /// A status that must never be accepted, or a combination that says two things.
    #[error("tcb: {0}")]
    Tcb(&'static str),
    /// A number outside of what makes sense.
    #[error("{key} = {value} is not within {least} to {most}")]
    Range {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least that makes sense.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A factor is required that the same policy gives nothing to compare with.
    #[error("the policy requires `{check}` but `{key}` is empty, so nobody could pass")]
    NothingToCompare {
        /// Which factor.
        check: Check,
        /// The key that would say with what.
        key: &'static str,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            version: POLICY_VERSION,
            name: String::new(),
            required: Vec::new(),
            max_epoch_age_hours: 1,
            configs: Vec::new(),
            tcb: TcbPolicy::default(),
            platform: PlatformPolicy::default(),
            guest: GuestPolicy::default(),
            gpu: GpuPolicy::default(),
            gpu_manifest: None,
            log: None,
            images: Vec::new(),
            models: Vec::new(),
        }
    }
}

/// To see a file's version before its keys.
#[derive(Deserialize)]
struct Versioned {
    version: Option<u32>,
}

impl Policy {
    /// Reads a policy file and checks that it can be meant.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { bytes: text.len() });
        }
        let malformed = |error: toml::de::Error| PolicyError::Malformed(error.to_string());
        let Versioned { version } = toml::from_str(text).map_err(malformed)?;
        match version {
            None => return Err(PolicyError::NoVersion),
            Some(POLICY_VERSION) => {}
            Some(found) => return Err(PolicyError::Version { found }),
        }
        let policy: Self = toml::from_str(text).map_err(malformed)?;
        policy.check()?;
        Ok(policy)
    }

    /// Checks that the policy can be meant.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.version != POLICY_VERSION {
            return Err(PolicyError::Version {
                found: self.version,
            });
        }
        self.check_images()?;
        self.check_models()?;
        self.tcb.check()?;
        within(
            "platform.workers_per_platform",
            u64::from(self.platform.workers_per_platform),
            1..=u64::from(MAX_WORKERS_PER_PLATFORM),
        )?;
        within("max_epoch_age_hours", self.max_epoch_age_hours, 0..=24)?;
        let xfam_allowed = self.guest.xfam_allowed;
        if xfam_allowed & XFAM_REQUIRED != XFAM_REQUIRED {
            return Err(PolicyError::Xfam { xfam_allowed });
        }
        at_most("guest.mrseam", self.guest.mrseam.len(), MAX_MODULES)?;
        self.check_required()
    }

    fn check_images(&self) -> Result<(), PolicyError> {
        if self.images.is_empty() && self.log.is_none() {
            return Err(PolicyError::NoImages);
        }
        at_most("images", self.images.len(), MAX_IMAGES)?;
        self.images.iter().try_for_each(AllowedImage::check)?;
        let mut names = BTreeSet::new();
        match self.images.iter().find(|image| !names.insert(&image.name)) {
            None => Ok(()),
            Some(twice) => Err(PolicyError::DuplicateImage {
                name: twice.name.clone(),
            }),
        }
    }

    fn check_models(&self) -> Result<(), PolicyError> {
        at_most("models", self.models.len(), MAX_MODELS)?;
        let mut digests = BTreeSet::new();
        for model in &self.models {
            let digest = model.digest;
            if model.canary.is_empty() {
                return Err(PolicyError::NoCanary { digest });
            }
            if !digests.insert(digest) {
                return Err(PolicyError::DuplicateModel { digest });
            }
        }
        Ok(())
    }

    fn check_required(&self) -> Result<(), PolicyError> {
        let nothing = [
            (Check::ConfigDigest, "configs", self.configs.is_empty()),
            (Check::MrSeam, "guest.mrseam", self.guest.mrseam.is_empty()),
            (Check::Canary, "models", self.models.is_empty()),
            (Check::ImageInLog, "log", self.log.is_none()),
            (
                Check::GpuEvidence,
                "gpu_manifest",
                self.gpu_manifest.is_none(),
            ),
        ]
        .into_iter()
        .find(|(check, _, is_empty)| *is_empty && self.required.contains(check));
        match nothing {
            None => Ok(()),
            Some((check, key, _)) => Err(PolicyError::NothingToCompare { check, key }),
        }
    }

    /// The known answers of a model, if the policy knows any.
    #[must_use]
    pub fn canary(&self, model: &Digest) -> Option<&[Digest]> {
        self.models
            .iter()
            .find(|known| known.digest == *model)
            .map(|known| known.canary.as_slice())
    }
}

pub(crate) fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), PolicyError> {
    if count > limit {
        return Err(PolicyError::TooMany { what, count, limit });
    }
    Ok(())
}

fn within(
    key: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<(), PolicyError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(PolicyError::Range {
        key,
        value,
        least: *range.start(),
        most: *range.end(),
    })
}

#[cfg(test)]
mod tests;
