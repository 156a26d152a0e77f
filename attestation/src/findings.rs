//! Factors as they are found, while a verifier works.

use std::collections::BTreeSet;

use crate::Check;
use crate::verdict::{Factor, FactorResult};

/// Collects factors while a verifier works.
#[derive(Default)]
pub(crate) struct Findings {
    factors: Vec<(Check, Factor)>,
    /// What the policy insists on though a policy may be silent about it.
    insisted: BTreeSet<Check>,
}

impl Findings {
    /// Nothing found yet; of the checks that a policy may be silent about, it insists on these.
    pub(crate) fn insisting(on: &[Check]) -> Self {
        Self {
            factors: Vec::new(),
            insisted: on.iter().copied().collect(),
        }
    }

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

    /// There is nothing to look at: the policy is silent, or the evidence shows nothing. Only
    /// checks that may be skipped become optional by it, and only if the policy does not insist.
    pub(crate) fn not_asked(&mut self, check: Check, reason: impl Into<String>) {
        if self.insisted.contains(&check) {
            let reason = format!("the policy requires this factor, but {}", reason.into());
            self.fail(check, reason, "nothing to look at", "a pass");
            return;
        }
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
