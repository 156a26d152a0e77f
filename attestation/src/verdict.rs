//! The result of looking at evidence: named factors, each with its reason.

use std::fmt;

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::cache::CacheKey;
use crate::gpu::GpuFactor;
use crate::{Check, Trust};

/// Name and version of a verdict's JSON. Fields are only ever added under the same version.
pub const VERDICT_FORMAT: &str = "cocoon.verdict/1";

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
    /// Its GPUs: hexadecimal SHA-256 of the keys of their boot ROMs. Empty if it has none, or if they
    /// were not reached.
    pub gpu_ids: Vec<String>,
    /// What `gpu_evidence` is made of: every check of every GPU. Empty like `gpu_ids`.
    pub gpu: Vec<GpuFactor>,
    /// `tcbEvaluationDataNumber` of the collateral, once its signatures held.
    pub tcb_evaluation: Option<u32>,
    /// Whether the platform's factors come from an earlier verdict on the same platform and claims.
    pub cached: bool,
}

impl Verdict {
    /// Before anything was looked at.
    pub(crate) fn unfinished(trust: Trust, claims: &Claims) -> Self {
        Self {
            factors: Vec::new(),
            valid_until: UnixMillis::from_millis(0),
            claims: claims.clone(),
            evidence: claims.digest(),
            trust,
            platform_id: String::new(),
            gpu_ids: Vec::new(),
            gpu: Vec::new(),
            tcb_evaluation: None,
            cached: false,
        }
    }

    /// What it is remembered by.
    pub(crate) fn cache_key(&self) -> CacheKey {
        CacheKey {
            platform_id: self.platform_id.clone(),
            report_data: self.claims.report_data(),
        }
    }

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
        for factor in &self.gpu {
            writeln!(
                formatter,
                "{:<4}  GPU {} {:<18}  {}",
                factor.result, factor.gpu, factor.name, factor.reason
            )?;
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
        let mut out = serializer.serialize_struct("Verdict", 16)?;
        out.serialize_field("format", VERDICT_FORMAT)?;
        out.serialize_field("accepted", &self.accepted())?;
        out.serialize_field("trust", &self.trust)?;
        out.serialize_field("evidence", &self.evidence.to_string())?;
        out.serialize_field("platform_id", &self.platform_id)?;
        out.serialize_field("gpu_ids", &self.gpu_ids)?;
        out.serialize_field("tcb_evaluation", &self.tcb_evaluation)?;
        out.serialize_field("valid_until_ms", &self.valid_until.millis())?;
        out.serialize_field("cached", &self.cached)?;
        out.serialize_field("peer", &self.claims.peer.to_string())?;
        out.serialize_field("model", &self.claims.model.to_string())?;
        out.serialize_field("config", &self.claims.config.to_string())?;
        out.serialize_field("beacon_seqno", &self.claims.beacon.seqno)?;
        out.serialize_field("epoch", &self.claims.epoch)?;
        out.serialize_field("factors", &self.factors)?;
        out.serialize_field("gpu", &self.gpu)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use cocoon_protocol::evidence::Beacon;
    use cocoon_protocol::ids::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::findings::Findings;

    fn verdict(factors: Vec<Factor>) -> Verdict {
        let claims = Claims {
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
        };
        Verdict {
            factors,
            valid_until: UnixMillis::from_millis(1),
            ..Verdict::unfinished(Trust::Intel, &claims)
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
    fn what_a_policy_insists_on_fails_where_there_is_nothing_to_look_at() {
        let mut findings = Findings::insisting(&[Check::Canary]);
        findings.not_asked(Check::Canary, "the guest asked nothing");
        findings.not_asked(Check::MrSeam, "no module is named");
        let verdict = verdict(findings.finish());
        assert_eq!(verdict.result(Check::Canary), Some(FactorResult::Fail));
        let module = verdict.factor(Check::MrSeam).unwrap();
        assert_eq!(
            (module.result, module.required),
            (FactorResult::Skip, false)
        );
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
        assert_eq!(json["format"], VERDICT_FORMAT);
        assert_eq!(json["accepted"], false);
        assert_eq!(json["trust"], "intel");
        assert_eq!(json["factors"].as_array().unwrap().len(), Check::ALL.len());
        assert_eq!(json["factors"][4]["name"], "peer_id");
        assert_eq!(json["factors"][4]["result"], "fail");
    }
}
