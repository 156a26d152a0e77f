//! What is looked at, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Everything that is looked at, in the order in which a verdict lists it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check {
            $($(#[$doc])* $variant,)+
        }

        impl Check {
            /// All checks, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The factor's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

checks! {
    /// Quote of at most 16 KiB. Quotes are malleable at their end, so size is bounded first.
    QuoteSize = "quote_size",
    /// A TDX quote of version 4 or 5 that ends where it says.
    QuoteStructure = "quote_structure",
    /// `report_data` is the hash of the claims.
    ReportData = "report_data",
    /// The evidence is the one that the worker's advert named.
    AdvertisedEvidence = "advertised_evidence",
    /// The claims name the peer that is being dialled.
    PeerId = "peer_id",
    /// The claimed X25519 key is bound and usable.
    NoiseKey = "noise_key",
    /// The claimed ML-KEM-768 key is bound and well formed.
    MlKemKey = "mlkem_key",
    /// The claimed Ed25519 key for receipts is bound and valid.
    ReceiptKey = "receipt_key",
    /// The claimed weights are the advertised ones.
    ModelDigest = "model_digest",
    /// The claimed configuration is allowed.
    ConfigDigest = "config_digest",
    /// The claims name a recent block, so the evidence was not made before it.
    Beacon = "beacon",
    /// The claimed hour is now, or recent enough.
    Epoch = "epoch",
    /// The model's answers to the known questions are the known answers.
    Canary = "canary",
    /// The guest is not under debug.
    Debug = "debug_off",
    /// The host cannot inject page faults that the guest would handle.
    SeptVeDisable = "sept_ve_disable",
    /// No profiling and no reserved bits.
    TdAttributes = "td_attributes",
    /// The host cannot move the guest to another machine.
    Migratable = "migratable",
    /// No service guest is bound to the guest.
    ServiceTd = "service_td",
    /// Processor state that the guest may use.
    Xfam = "xfam",
    /// The TDX module itself.
    MrSeam = "mrseam",
    /// The guest's firmware.
    MrTd = "mrtd",
    /// Firmware configuration.
    Rtmr0 = "rtmr0",
    /// Kernel.
    Rtmr1 = "rtmr1",
    /// Command line and initial file system.
    Rtmr2 = "rtmr2",
    /// Model, configuration and GPU as measured at launch.
    Rtmr3 = "rtmr3",
    /// The firmware's event log replays to the registers, and its events are allowed.
    EventLog = "event_log",
    /// The host named no owner.
    MrOwner = "mrowner",
    /// The host named no configuration of an owner.
    MrOwnerConfig = "mrownerconfig",
    /// The host slipped in no configuration of its own.
    MrConfigId = "mrconfigid",
    /// The image stands in a transparency log.
    ImageInLog = "image_in_log",
    /// No more workers say that they run on this machine than the policy allows.
    PlatformUnique = "platform_unique",
    /// The quote's certificates end in the pinned root.
    RootPinned = "root_pinned",
    /// The platform is not one that labels itself as simulated, or is, under the simulated root.
    PlatformLabel = "platform_label",
    /// The collateral can be read.
    CollateralStructure = "collateral_structure",
    /// Every part of the collateral is in force now.
    CollateralExpiry = "collateral_expiry",
    /// The collateral is not older than the floor.
    TcbEvaluation = "tcb_evaluation",
    /// All signatures, from the pinned root to the quote.
    SignatureChain = "signature_chain",
    /// No authority is on the root's revocation list.
    RootCrl = "root_crl",
    /// The platform's certificate is not on its authority's revocation list.
    PckCrl = "pck_crl",
    /// The quoting enclave is Intel's, and up to date.
    QeIdentity = "qe_identity",
    /// The TDX module is signed and set up as Intel says.
    TdxModule = "tdx_module",
    /// The platform's and the TDX module's security versions are accepted.
    TcbStatus = "tcb_status",
    /// Dynamic platform, cached keys, hyperthreading.
    PlatformFlags = "platform_flags",
    /// The GPUs' own evidence, if any is claimed or demanded.
    GpuEvidence = "gpu_evidence",
    /// No other worker shows the same GPU.
    GpuUnique = "gpu_unique",
}

impl Check {
    /// Whether a policy may be silent about it. All others must pass in every verdict, and no
    /// policy can waive them.
    #[must_use]
    pub const fn may_be_skipped(self) -> bool {
        matches!(
            self,
            Self::ConfigDigest
                | Self::Canary
                | Self::MrSeam
                | Self::EventLog
                | Self::ImageInLog
                | Self::PlatformUnique
                | Self::GpuEvidence
                | Self::GpuUnique
        )
    }

    /// Whether it depends on nothing but the platform, the claims and the collateral, so that an
    /// earlier verdict on the same platform and claims answers it until the collateral ends.
    #[must_use]
    pub(crate) fn is_of_platform(self) -> bool {
        (Self::RootPinned..=Self::GpuEvidence).contains(&self)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no factor has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no factor is called {name:?}; docs/verdicts.md lists all of them")]
pub struct UnknownCheck {
    /// The name.
    pub name: String,
}

impl FromStr for Check {
    type Err = UnknownCheck;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|check| check.name() == name)
            .ok_or_else(|| UnknownCheck {
                name: name.to_owned(),
            })
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Check {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_factor_is_found_by_its_name_and_no_two_share_one() {
        let mut names = std::collections::BTreeSet::new();
        for check in Check::ALL {
            assert_eq!(check.name().parse::<Check>().unwrap(), *check);
            assert!(names.insert(check.name()));
        }
        assert!("tcb".parse::<Check>().is_err());
    }

    #[test]
    fn what_an_earlier_verdict_answers_depends_on_neither_peer_nor_time_nor_census() {
        for check in [
            Check::PeerId,
            Check::Epoch,
            Check::Beacon,
            Check::PlatformUnique,
            Check::GpuUnique,
        ] {
            assert!(!check.is_of_platform(), "{check}");
        }
    }
}
