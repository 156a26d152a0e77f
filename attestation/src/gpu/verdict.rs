//! What a verifier thinks of GPUs: named factors for each, as in [`crate::verdict`].

use std::fmt;

use serde::Serialize;

use crate::FactorResult;

macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Everything that is looked at for each GPU, in the order in which a verdict lists it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum GpuCheck {
            $($(#[$doc])* $variant,)+
        }

        impl GpuCheck {
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
    /// An SPDM 1.1 measurement exchange that ends where it says.
    Report = "gpu_report",
    /// The report answers the nonce made of this guest's keys.
    Nonce = "gpu_nonce",
    /// The certificates end in NVIDIA's pinned device root.
    RootPinned = "gpu_root_pinned",
    /// The certificates are in force, signed one by the next, and may be used so.
    Chain = "gpu_chain",
    /// No GPU comes twice.
    Unique = "gpu_unique",
    /// The report's key was made for the firmware that the report names.
    Fwid = "gpu_fwid",
    /// The key of the leaf signed the report.
    Signature = "gpu_signature",
    /// The manifest knows the driver.
    DriverVersion = "gpu_driver_version",
    /// The manifest knows the VBIOS.
    VbiosVersion = "gpu_vbios_version",
    /// The GPU is in a confidential mode that the policy allows, and all GPUs in the same.
    CcMode = "gpu_cc_mode",
    /// The GPU's protections are not loosened for debugging.
    DevtoolsOff = "gpu_devtools_off",
    /// What runs is what NVIDIA published for driver and VBIOS.
    Measurements = "gpu_measurements",
    /// Who signed the published values, and when.
    RimSigners = "gpu_rim_signers",
    /// No certificate is revoked.
    Ocsp = "gpu_ocsp",
    /// NVIDIA's attestation service says the same.
    Nras = "gpu_nras",
}

impl GpuCheck {
    /// Whether a policy may be content without it. All others must pass for every GPU.
    #[must_use]
    pub const fn may_be_skipped(self) -> bool {
        matches!(
            self,
            Self::CcMode | Self::DevtoolsOff | Self::Ocsp | Self::Nras
        )
    }
}

/// One line of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GpuFactor {
    /// Which GPU of the evidence, from 0.
    pub gpu: usize,
    /// [`GpuCheck::name`].
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

/// Which GPU it is. Worth something only if the verdict accepts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct GpuIdentity {
    /// The device itself: hexadecimal SHA-256 of the key that its boot ROM signs firmware keys with. It
    /// stays when firmware is changed, so one device counts once.
    pub device: String,
    /// Serial number of that key's certificate, hexadecimal.
    pub device_serial: String,
    /// Serial number of the certificate that signed the report, hexadecimal; another one with other
    /// firmware.
    pub leaf_serial: String,
    /// SHA-384 of the firmware, hexadecimal; empty if the certificate names none.
    pub fwid: String,
    /// Name of the chip, such as GH100.
    pub chip: String,
    /// Version of the driver, if it can be read.
    pub driver: String,
    /// Version of the VBIOS, if it can be read.
    pub vbios: String,
}

/// What a verifier thinks of the GPUs of a guest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GpuVerdict {
    /// Every [`GpuCheck`] once for each GPU, GPU by GPU, in order.
    pub factors: Vec<GpuFactor>,
    /// Which GPU each is; none where its certificates cannot be read.
    pub gpus: Vec<Option<GpuIdentity>>,
}

impl GpuVerdict {
    /// Whether there is a GPU, each has every check once, and every required one passed.
    #[must_use]
    pub fn accepted(&self) -> bool {
        let wanted = (0..self.gpus.len())
            .flat_map(|gpu| GpuCheck::ALL.iter().map(move |check| (gpu, *check)));
        !self.gpus.is_empty()
            && self.factors.len() == self.gpus.len().saturating_mul(GpuCheck::ALL.len())
            && wanted.zip(&self.factors).all(|((gpu, check), factor)| {
                factor.gpu == gpu
                    && factor.name == check.name()
                    && match factor.result {
                        FactorResult::Pass => true,
                        FactorResult::Fail => false,
                        FactorResult::Skip => !factor.required && check.may_be_skipped(),
                    }
            })
    }

    /// The factor of a check of one GPU.
    #[must_use]
    pub fn factor(&self, gpu: usize, check: GpuCheck) -> Option<&GpuFactor> {
        self.factors
            .iter()
            .find(|factor| factor.gpu == gpu && factor.name == check.name())
    }

    /// How a check of one GPU came out.
    #[must_use]
    pub fn result(&self, gpu: usize, check: GpuCheck) -> Option<FactorResult> {
        self.factor(gpu, check).map(|factor| factor.result)
    }

    /// Everything that failed.
    pub fn failures(&self) -> impl Iterator<Item = &GpuFactor> {
        self.factors
            .iter()
            .filter(|factor| factor.result == FactorResult::Fail)
    }

    /// The first thing that stands against it: a failure, else something required that was skipped.
    #[must_use]
    pub fn first_obstacle(&self) -> Option<&GpuFactor> {
        self.failures().next().or_else(|| {
            self.factors
                .iter()
                .find(|factor| factor.required && factor.result == FactorResult::Skip)
        })
    }
}

/// A table for people: one line per factor.
impl fmt::Display for GpuVerdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for factor in &self.factors {
            writeln!(
                formatter,
                "{}  {:<4}  {:<18}  {}",
                factor.gpu, factor.result, factor.name, factor.reason
            )?;
        }
        let outcome = if self.accepted() {
            "accepted"
        } else {
            "refused"
        };
        write!(formatter, "{outcome}")
    }
}

/// Collects the factors of one GPU.
pub(super) struct GpuFindings {
    gpu: usize,
    factors: Vec<(GpuCheck, GpuFactor)>,
}

impl GpuFindings {
    pub(super) const fn new(gpu: usize) -> Self {
        Self {
            gpu,
            factors: Vec::new(),
        }
    }

    /// A failure is never overwritten, and nothing is listed twice.
    fn record(
        &mut self,
        check: GpuCheck,
        result: FactorResult,
        required: bool,
        texts: (String, String, String),
    ) {
        let factor = GpuFactor {
            gpu: self.gpu,
            name: check.name(),
            required: required || !check.may_be_skipped(),
            result,
            reason: texts.0,
            seen: texts.1,
            wanted: texts.2,
        };
        match self.factors.iter_mut().find(|(known, _)| *known == check) {
            None => self.factors.push((check, factor)),
            Some((_, old)) => {
                if old.result != FactorResult::Fail && result == FactorResult::Fail {
                    *old = factor;
                }
            }
        }
    }

    pub(super) fn pass(
        &mut self,
        check: GpuCheck,
        reason: impl Into<String>,
        seen: impl Into<String>,
    ) {
        self.record(
            check,
            FactorResult::Pass,
            true,
            (reason.into(), seen.into(), String::new()),
        );
    }

    pub(super) fn fail(
        &mut self,
        check: GpuCheck,
        reason: impl Into<String>,
        seen: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        self.record(
            check,
            FactorResult::Fail,
            true,
            (reason.into(), seen.into(), wanted.into()),
        );
    }

    /// Not looked at, or nothing to look at. Whether that is enough is the policy's word.
    pub(super) fn skip(&mut self, check: GpuCheck, required: bool, reason: impl Into<String>) {
        self.record(
            check,
            FactorResult::Skip,
            required,
            (reason.into(), String::new(), String::new()),
        );
    }

    pub(super) fn failed(&self, check: GpuCheck) -> bool {
        self.factors
            .iter()
            .any(|(known, factor)| *known == check && factor.result == FactorResult::Fail)
    }

    /// All checks in order; what is missing was not reached.
    pub(super) fn finish(mut self) -> Vec<GpuFactor> {
        self.factors.sort_by_key(|(check, _)| *check);
        let why = self
            .factors
            .iter()
            .find(|(_, factor)| factor.result == FactorResult::Fail)
            .map_or_else(
                || "not reached".to_owned(),
                |(check, _)| format!("not reached: {} failed", check.name()),
            );
        for check in GpuCheck::ALL {
            if !self.factors.iter().any(|(known, _)| known == check) {
                self.skip(*check, true, why.clone());
            }
        }
        self.factors.sort_by_key(|(check, _)| *check);
        self.factors.into_iter().map(|(_, factor)| factor).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use proptest::prelude::*;

    use super::*;

    fn outcome() -> impl Strategy<Value = (FactorResult, bool)> {
        let result = prop_oneof![
            12 => Just(FactorResult::Pass),
            1 => Just(FactorResult::Fail),
            1 => Just(FactorResult::Skip),
        ];
        (result, any::<bool>())
    }

    fn verdict(gpus: usize, outcomes: &[(FactorResult, bool)]) -> GpuVerdict {
        let factors = (0..gpus)
            .flat_map(|gpu| GpuCheck::ALL.iter().map(move |check| (gpu, *check)))
            .zip(outcomes.iter().cycle())
            .map(|((gpu, check), (result, required))| GpuFactor {
                gpu,
                name: check.name(),
                required: *required,
                result: *result,
                reason: String::new(),
                seen: String::new(),
                wanted: String::new(),
            })
            .collect();
        GpuVerdict {
            factors,
            gpus: vec![None; gpus],
        }
    }

    proptest! {
        #[test]
        fn a_skip_never_counts_as_a_pass(
            outcomes in prop::collection::vec(outcome(), GpuCheck::ALL.len())
        ) {
            let all = GpuCheck::ALL.iter().zip(&outcomes).all(|(check, (result, required))| {
                *result == FactorResult::Pass
                    || (*result == FactorResult::Skip && !required && check.may_be_skipped())
            });
            prop_assert_eq!(verdict(2, &outcomes).accepted(), all);
        }

        #[test]
        fn a_verdict_with_a_factor_missing_or_doubled_never_accepts(
            index in 0..GpuCheck::ALL.len() * 2,
            double in any::<bool>(),
        ) {
            let mut verdict = verdict(2, &[(FactorResult::Pass, true)]);
            prop_assert!(verdict.accepted());
            if double {
                let again = verdict.factors[index].clone();
                verdict.factors.insert(index, again);
            } else {
                verdict.factors.remove(index);
            }
            prop_assert!(!verdict.accepted());
        }

        #[test]
        fn findings_list_every_check_once_and_keep_failures(
            steps in prop::collection::vec((0..GpuCheck::ALL.len(), 0..3_u8), 0..60)
        ) {
            let mut findings = GpuFindings::new(0);
            let mut failed = std::collections::BTreeSet::new();
            for (index, step) in steps {
                let check = GpuCheck::ALL[index];
                match step {
                    0 => findings.pass(check, "fine", ""),
                    1 => {
                        findings.fail(check, "wrong", "", "");
                        failed.insert(check.name());
                    }
                    _ => findings.skip(check, false, "silent"),
                }
            }
            let factors = findings.finish();
            let names: Vec<_> = factors.iter().map(|factor| factor.name).collect();
            let wanted: Vec<_> = GpuCheck::ALL.iter().map(|check| check.name()).collect();
            prop_assert_eq!(names, wanted);
            let still: std::collections::BTreeSet<_> = factors
                .iter()
                .filter(|factor| factor.result == FactorResult::Fail)
                .map(|factor| factor.name)
                .collect();
            prop_assert_eq!(still, failed);
            // Only what may be skipped is ever optional.
            let optional = factors.iter().zip(GpuCheck::ALL).all(|(factor, check)| {
                factor.required || check.may_be_skipped()
            });
            prop_assert!(optional);
        }
    }

    #[test]
    fn a_verdict_without_gpus_refuses() {
        assert!(!verdict(0, &[(FactorResult::Pass, true)]).accepted());
    }
}
