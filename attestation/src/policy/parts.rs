//! The tables of a policy.

use cocoon_protocol::ids::Digest;
use dcap_qvl::TcbStatus;
use serde::{Deserialize, Serialize};

use super::{MAX_GRACE_DAYS, PolicyError, at_most, within};
use crate::Measurement;
use crate::event_log::EventPolicy;

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

/// Most advisories that one policy may live with.
const MAX_ADVISORIES: usize = 256;
/// Most TDX modules that one policy may name.
pub(super) const MAX_MODULES: usize = 64;

/// Which security versions are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcbPolicy {
    /// Lowest `tcbEvaluationDataNumber` of the collateral.
    pub min_evaluation: u32,
    /// Statuses that are accepted, as Intel spells them. `Revoked` never is.
    pub accepted: Vec<TcbStatus>,
    /// How many days after the date of its level a platform that is out of date is still taken.
    /// Only with `OutOfDate` or `OutOfDateConfigurationNeeded` in `accepted`.
    pub grace_days: u32,
    /// Advisories that the policy's author has read and lives with. A status other than
    /// `UpToDate` is accepted only if all its advisories are among these.
    pub advisories_allowed: Vec<String>,
}

impl Default for TcbPolicy {
    fn default() -> Self {
        Self {
            min_evaluation: DEFAULT_MIN_TCB_EVALUATION,
            accepted: vec![TcbStatus::UpToDate],
            grace_days: 0,
            advisories_allowed: Vec::new(),
        }
    }
}

impl TcbPolicy {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        at_most("statuses", self.accepted.len(), 8)?;
        at_most("advisories", self.advisories_allowed.len(), MAX_ADVISORIES)?;
        within(
            "tcb.grace_days",
            self.grace_days.into(),
            0..=MAX_GRACE_DAYS.into(),
        )?;
        if !self.accepted.contains(&TcbStatus::UpToDate) {
            return Err(PolicyError::Tcb(
                "`accepted` has to contain `UpToDate`, which is better than anything else",
            ));
        }
        if self.accepted.contains(&TcbStatus::Revoked) {
            return Err(PolicyError::Tcb(
                "`accepted` must not contain `Revoked`: somebody else has that platform's keys",
            ));
        }
        if self.accepts_out_of_date() != (self.grace_days > 0) {
            return Err(PolicyError::Tcb(
                "`OutOfDate` in `accepted` and `grace_days` above 0 go together",
            ));
        }
        Ok(())
    }

    fn accepts_out_of_date(&self) -> bool {
        self.accepted.iter().any(|status| is_out_of_date(*status))
    }

    /// The grace in seconds.
    #[must_use]
    pub fn grace_seconds(&self) -> u64 {
        u64::from(self.grace_days).saturating_mul(24 * 3_600)
    }
}

/// Whether the grace decides about this status.
pub(crate) const fn is_out_of_date(status: TcbStatus) -> bool {
    matches!(
        status,
        TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded
    )
}

/// How a machine may be set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformPolicy {
    /// Worker identities (peer ids) that one machine may show in one hour. A worker that restarts
    /// with its identity counts once, however often it renews its keys.
    pub workers_per_platform: u32,
    /// Whether packages may be added to the platform. All known clouds say yes.
    pub allow_dynamic_platform: bool,
    /// Whether Intel's registration service may keep the platform's keys. All known clouds say yes.
    pub allow_cached_keys: bool,
    /// Whether hyperthreading may be on. All known clouds say yes; it leaves side channels open
    /// between guests of one core.
    pub allow_smt: bool,
}

impl Default for PlatformPolicy {
    fn default() -> Self {
        Self {
            workers_per_platform: 1,
            allow_dynamic_platform: true,
            allow_cached_keys: true,
            allow_smt: true,
        }
    }
}

/// What a guest may be under and use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestPolicy {
    /// TDX module measurements (MRSEAM) that are allowed. Empty: any module that Intel signed and
    /// whose version the collateral accepts.
    pub mrseam: Vec<Measurement>,
    /// Processor state components that a guest may have switched on.
    pub xfam_allowed: u64,
}

impl Default for GuestPolicy {
    fn default() -> Self {
        Self {
            mrseam: Vec::new(),
            xfam_allowed: DEFAULT_XFAM_ALLOWED,
        }
    }
}

/// A guest image, by the registers that measure it.
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

/// An image that a policy allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedImage {
    /// A name for people, such as the release.
    pub name: String,
    /// The virtual firmware, as built by the TDX module.
    pub mrtd: Measurement,
    /// Firmware configuration, if it has one right value. It has where memory and ACPI tables are
    /// the same on all machines; else `events` says what may be measured into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr0: Option<Measurement>,
    /// Kernel, measured by the firmware.
    pub rtmr1: Measurement,
    /// Kernel command line and initial file system.
    pub rtmr2: Measurement,
    /// What may be measured into RTMR0, event by event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventPolicy>,
}

impl From<Image> for AllowedImage {
    fn from(image: Image) -> Self {
        Self {
            name: image.name,
            mrtd: image.mrtd,
            rtmr0: Some(image.rtmr0),
            rtmr1: image.rtmr1,
            rtmr2: image.rtmr2,
            events: None,
        }
    }
}

impl AllowedImage {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        let name = || self.name.clone();
        match (&self.rtmr0, &self.events) {
            (Some(_), None) => Ok(()),
            (None, Some(events)) => events.check().map_err(|source| PolicyError::Events {
                name: name(),
                source,
            }),
            _ => Err(PolicyError::EitherOr { name: name() }),
        }
    }
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPolicy {
    /// Digest of its weights.
    pub digest: Digest,
    /// Digests of its answers to the known questions: one per engine or number format that is
    /// allowed to answer.
    pub canary: Vec<Digest>,
}
