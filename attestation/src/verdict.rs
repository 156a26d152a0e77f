//! The result of looking at evidence: named factors, each with its reason.

use std::fmt;

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::Trust;

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
    /// The claimed model is the advertised one.
    ModelDigest = "model_digest",
    /// The claimed configuration is allowed.
    ConfigDigest = "config_digest",
    /// The claims name a recent block, so the evidence was not made before it.
    Beacon = "beacon",
    /// The claimed hour is now, or recent enough.
    Epoch = "epoch",
    /// GPU evidence, if any is claimed or demanded.
    GpuEvidence = "gpu_evidence",
    /// The guest is not under debug.
    Debug = "debug_off",
    /// The host cannot inject page faults that the guest would handle.
    SeptVeDisable = "sept_ve_disable",
    /// No profiling, no migration, no service guests, no reserved bits.
    TdAttributes = "td_attributes",
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
    /// The host named no owner.
    MrOwner = "mrowner",
    /// The host slipped in no configuration of its own.
    MrConfigId = "mrconfigid",
    /// The quote's certificates end in the pinned root.
    RootPinned = "root_pinned",
    /// The platform is not one that labels itself as simulated, or is, under the simulated root.
    PlatformLabel = "platform_label",
    /// The collateral can be read.
    CollateralStructure = "collateral_structure",
    /// Every part of the collateral is in force now.
    CollateralExpiry = "collateral_expiry",
    /// The collateral is not older than the policy's floor.
    TcbEvaluation = "tcb_evaluation",
    /// All signatures, from the pinned root to the quote.
    SignatureChain = "signature_chain",
    /// The platform's certificate is not revoked.
    Revocation = "revocation",
    /// The quoting enclave is Intel's, and up to date.
    QeIdentity = "qe_identity",
    /// The platform's and the TDX module's security versions are up to date.
    TcbStatus = "tcb_status",
    /// Dynamic platform, cached keys, hyperthreading.
    PlatformFlags = "platform_flags",
}

impl Check {
    /// Whether a policy may be silent about it. All others must pass in every verdict.
    #[must_use]
    pub const fn may_be_skipped(self) -> bool {
        matches!(self, Self::ConfigDigest | Self::GpuEvidence | Self::MrSeam)
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FactorResult {
    /// Looked at and found in order.
    Pass,
    /// Looked at and found wrong.
    Fail,
    /// Not looked at. Never the same as passed.
    Skip,
}

impl fmt::Display for FactorResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        })
    }
}

/// One line of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Factor {
    /// [`Check::name`].
    pub name: &'static str,
    /// Whether the verdict accepts only if this passed.
    pub required: bool,
    /// How it came out.
    pub result: FactorResult,
    /// Why, in a sentence.
    pub reason: String,
    /// What the evidence shows. Empty where there is nothing to show.
    pub seen: String,
    /// What it would have to show.
    pub wanted: String,
}

/// What a verifier thinks of a bundle.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// Every [`Check`], once, in order.
    pub factors: Vec<Factor>,
    /// Until when an accepted verdict stands: the earlier of the collateral's expiry and the end of
    /// the evidence's hours. Zero if refused.
    pub valid_until: UnixMillis,
    /// The claims that were looked at. They are only worth something if the verdict accepts.
    pub claims: Claims,
    /// Digest of the claims' `report_data`, by which adverts and receipts name evidence.
    pub evidence: Digest,
    /// The root that the verdict was given under.
    pub trust: Trust,
    /// The machine: hexadecimal PPID of its PCK certificate. Empty if it was not reached.
    pub platform_id: String,
    /// Whether the platform's factors come from an earlier verdict on the same platform and claims.
    pub cached: bool,
}

impl Verdict {
    /// Whether every check is there once and every required one passed.
    #[must_use]
    pub fn accepted(&self) -> bool {
        Check::ALL.len() == self.factors.len()
            && Check::ALL.iter().zip(&self.factors).all(|(check, factor)| {
                factor.name == check.name()
                    && match factor.result {
                        FactorResult::Pass => true,
                        FactorResult::Fail => false,
                        FactorResult::Skip => !factor.required && check.may_be_skipped(),
                    }
            })
    }

    /// Whether it accepts and still stands.
    #[must_use]
    pub fn is_valid_at(&self, now: UnixMillis) -> bool {
        self.accepted() && now < self.valid_until
    }

    /// The factor of a check.
    #[must_use]
    pub fn factor(&self, check: Check) -> Option<&Factor> {
        self.factors
            .iter()
            .find(|factor| factor.name == check.name())
    }

    /// How a check came out.
    #[must_use]
    pub fn result(&self, check: Check) -> Option<FactorResult> {
        self.factor(check).map(|factor| factor.result)
    }

    /// Everything that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Factor> {
        self.factors
            .iter()
            .filter(|factor| factor.result == FactorResult::Fail)
    }

    /// The first thing that failed.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Factor> {
        self.failures().next()
    }
}

/// A table for people: one line per factor.
impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for factor in &self.factors {
            writeln!(
                formatter,
                "{:<4}  {:<20}  {}",
                factor.result, factor.name, factor.reason
            )?;
            if factor.result == FactorResult::Fail {
                writeln!(formatter, "      seen    {}", factor.seen)?;
                writeln!(formatter, "      wanted  {}", factor.wanted)?;
            }
        }
        let outcome = if self.accepted() {
            "accepted"
        } else {
            "refused"
        };
        write!(formatter, "{outcome} under the {} root", self.trust)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Verdict", 12)?;
        out.serialize_field("accepted", &self.accepted())?;
        out.serialize_field("trust", &self.trust)?;
        out.serialize_field("evidence", &self.evidence.to_string())?;
        out.serialize_field("platform_id", &self.platform_id)?;
        out.serialize_field("valid_until_ms", &self.valid_until.millis())?;
        out.serialize_field("cached", &self.cached)?;
        out.serialize_field("peer", &self.claims.peer.to_string())?;
        out.serialize_field("model", &self.claims.model.to_string())?;
        out.serialize_field("config", &self.claims.config.to_string())?;
        out.serialize_field("beacon_seqno", &self.claims.beacon.seqno)?;
        out.serialize_field("epoch", &self.claims.epoch)?;
        out.serialize_field("factors", &self.factors)?;
        out.end()
    }
}

/// Collects factors while a verifier works.
#[derive(Default)]
pub(crate) struct Findings {
    factors: Vec<(Check, Factor)>,
}

impl Findings {
    fn record(
        &mut self,
        check: Check,
        result: FactorResult,
        reason: impl Into<String>,
        seen: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        // A failure is never overwritten by something milder, and nothing is listed twice.
        if let Some((_, old)) = self
            .factors
            .iter_mut()
            .find(|(recorded, _)| *recorded == check)
        {
            if old.result == FactorResult::Fail || result != FactorResult::Fail {
                return;
            }
            old.result = result;
            old.required = true;
            old.reason = reason.into();
            old.seen = seen.into();
            old.wanted = wanted.into();
            return;
        }
        let factor = Factor {
            name: check.name(),
            required: true,
            result,
            reason: reason.into(),
            seen: seen.into(),
            wanted: wanted.into(),
        };
        self.factors.push((check, factor));
    }

    pub(crate) fn pass(
        &mut self,
        check: Check,
        reason: impl Into<String>,
        seen: impl Into<String>,
    ) {
        self.record(check, FactorResult::Pass, reason, seen, "");
    }

    pub(crate) fn fail(
        &mut self,
        check: Check,
        reason: impl Into<String>,
        seen: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        self.record(check, FactorResult::Fail, reason, seen, wanted);
    }

    /// Passes if `holds`, else fails; `reasons` are for the one and for the other.
    pub(crate) fn require(
        &mut self,
        check: Check,
        holds: bool,
        reasons: (&str, &str),
        seen: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        if holds {
            self.record(check, FactorResult::Pass, reasons.0, seen, wanted);
        } else {
            self.record(check, FactorResult::Fail, reasons.1, seen, wanted);
        }
    }

    /// The policy does not ask. Only checks that may be skipped become optional by it.
    pub(crate) fn not_asked(&mut self, check: Check, reason: impl Into<String>) {
        self.record(check, FactorResult::Skip, reason, "", "");
        if check.may_be_skipped()
            && let Some((_, factor)) = self.factors.last_mut()
            && factor.name == check.name()
        {
            factor.required = false;
        }
    }

    /// Could not be looked at although it is required.
    pub(crate) fn not_reached(&mut self, check: Check, reason: impl Into<String>) {
        self.record(check, FactorResult::Skip, reason, "", "");
    }

    pub(crate) fn copy(&mut self, check: Check, factor: &Factor) {
        if !self.factors.iter().any(|(recorded, _)| *recorded == check) {
            self.factors.push((check, factor.clone()));
        }
    }

    pub(crate) fn any_failed(&self) -> bool {
        self.factors
            .iter()
            .any(|(_, factor)| factor.result == FactorResult::Fail)
    }

    /// All checks in order; what is missing was not reached.
    pub(crate) fn finish(mut self) -> Vec<Factor> {
        self.factors.sort_by_key(|(check, _)| *check);
        let why = self
            .factors
            .iter()
            .find(|(_, factor)| factor.result == FactorResult::Fail)
            .map_or_else(
                || "not reached".to_owned(),
                |(check, _)| format!("not reached: {} failed", check.name()),
            );
        for check in Check::ALL {
            self.not_reached_if_missing(*check, &why);
        }
        self.factors.sort_by_key(|(check, _)| *check);
        self.factors.into_iter().map(|(_, factor)| factor).collect()
    }

    fn not_reached_if_missing(&mut self, check: Check, why: &str) {
        if !self.factors.iter().any(|(recorded, _)| *recorded == check) {
            self.not_reached(check, why);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use cocoon_protocol::evidence::Beacon;
    use cocoon_protocol::ids::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn verdict(factors: Vec<Factor>) -> Verdict {
        Verdict {
            factors,
            valid_until: UnixMillis::from_millis(1),
            claims: Claims {
                noise_key: [0; 32],
                mlkem_key: Vec::new(),
                receipt_key: [0; 32],
                peer: Keypair::ed25519_from_bytes([1; 32])
                    .unwrap()
                    .public()
                    .to_peer_id(),
                model: Digest::ZERO,
                config: Digest::ZERO,
                gpu_evidence: Digest::ZERO,
                canary: Digest::ZERO,
                beacon: Beacon {
                    seqno: 0,
                    hash: Digest::ZERO,
                },
                epoch: 0,
            },
            evidence: Digest::ZERO,
            trust: Trust::Intel,
            platform_id: String::new(),
            cached: false,
        }
    }

    fn outcome() -> impl Strategy<Value = (FactorResult, bool)> {
        let result = prop_oneof![
            8 => Just(FactorResult::Pass),
            1 => Just(FactorResult::Fail),
            1 => Just(FactorResult::Skip),
        ];
        (result, any::<bool>())
    }

    fn factor(check: Check, result: FactorResult, required: bool) -> Factor {
        Factor {
            name: check.name(),
            required,
            result,
            reason: String::new(),
            seen: String::new(),
            wanted: String::new(),
        }
    }

    proptest! {
        #[test]
        fn a_skip_never_counts_as_a_pass(
            outcomes in prop::collection::vec(outcome(), Check::ALL.len())
        ) {
            let factors: Vec<_> = Check::ALL
                .iter()
                .zip(&outcomes)
                .map(|(check, (result, required))| factor(*check, *result, *required))
                .collect();
            let all_in_order = Check::ALL.iter().zip(&outcomes).all(|(check, (result, required))| {
                *result == FactorResult::Pass
                    || (*result == FactorResult::Skip && !required && check.may_be_skipped())
            });
            prop_assert_eq!(verdict(factors).accepted(), all_in_order);
        }

        #[test]
        fn a_verdict_with_a_factor_missing_or_doubled_never_accepts(
            index in 0..Check::ALL.len(),
            double in any::<bool>(),
        ) {
            let mut factors: Vec<_> =
                Check::ALL.iter().map(|check| factor(*check, FactorResult::Pass, true)).collect();
            prop_assert!(verdict(factors.clone()).accepted());
            if double {
                let again = factors[index].clone();
                factors.insert(index, again);
            } else {
                factors.remove(index);
            }
            prop_assert!(!verdict(factors).accepted());
        }

        #[test]
        fn findings_list_every_check_once_and_keep_failures(
            steps in prop::collection::vec((0..Check::ALL.len(), 0..4_u8), 0..80)
        ) {
            let mut findings = Findings::default();
            let mut failed = std::collections::BTreeSet::new();
            for (index, step) in steps {
                let check = Check::ALL[index];
                match step {
                    0 => findings.pass(check, "fine", ""),
                    1 => {
                        findings.fail(check, "wrong", "", "");
                        failed.insert(check.name());
                    }
                    2 => findings.not_asked(check, "silent"),
                    _ => findings.not_reached(check, "late"),
                }
            }
            let verdict = verdict(findings.finish());
            let names: Vec<_> = verdict.factors.iter().map(|factor| factor.name).collect();
            let wanted: Vec<_> = Check::ALL.iter().map(|check| check.name()).collect();
            prop_assert_eq!(names, wanted);
            let still: std::collections::BTreeSet<_> =
                verdict.failures().map(|factor| factor.name).collect();
            prop_assert_eq!(still, failed);
        }
    }

    #[test]
    fn an_empty_verdict_refuses() {
        assert!(!verdict(Vec::new()).accepted());
    }

    #[test]
    fn what_was_not_reached_names_what_stopped_it() {
        let mut findings = Findings::default();
        findings.pass(Check::QuoteSize, "fits", "");
        findings.fail(Check::PeerId, "other peer", "a", "b");
        let verdict = verdict(findings.finish());
        let last = verdict.factor(Check::TcbStatus).unwrap();
        assert_eq!(last.result, FactorResult::Skip);
        assert_eq!(last.reason, "not reached: peer_id failed");
    }

    #[test]
    fn a_verdict_becomes_json_with_its_outcome_and_factors() {
        let mut findings = Findings::default();
        findings.fail(Check::PeerId, "other peer", "a", "b");
        let json = serde_json::to_value(verdict(findings.finish())).unwrap();
        assert_eq!(json["accepted"], false);
        assert_eq!(json["trust"], "intel");
        assert_eq!(json["factors"].as_array().unwrap().len(), Check::ALL.len());
        assert_eq!(json["factors"][4]["name"], "peer_id");
        assert_eq!(json["factors"][4]["result"], "fail");
    }
}
