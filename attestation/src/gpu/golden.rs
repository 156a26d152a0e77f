//! What a report shows, against the manifest: versions, measurements, and who vouched for them.

use std::collections::BTreeSet;

use super::manifest::{GoldenRim, RimKind};
use super::policy::ExpiredRimSigners;
use super::report::{Opaque, Report, Switch};
use super::time::shown;
use super::verdict::{GpuCheck, GpuFindings};
use super::verify::GpuExpectation;

/// Index of the measurement that is of no meaning while the first video decoder is off: NVIDIA's
/// verifier skips it then, and so does this one. The report signs whether it is off.
const NVDEC0_INDEX: u8 = 35;
/// Most indices that a verdict lists.
const MAX_LISTED: usize = 40;
/// Most versions that a verdict lists.
const MAX_VERSIONS: usize = 8;

/// Driver, VBIOS, measurements and the signers of their RIM files.
pub(super) fn golden(
    now: u64,
    report: &Report<'_>,
    chip: &str,
    expectation: &GpuExpectation<'_>,
    findings: &mut GpuFindings,
) {
    let driver = report
        .text(Opaque::DriverVersion)
        .map(str::to_owned)
        .unwrap_or_default();
    let vbios = report.vbios_version().unwrap_or_default();
    let mut known = |check, kind, version: String| {
        let rim = expectation.manifest.find(kind, chip, &version);
        if rim.is_some() {
            findings.pass(check, format!("the manifest knows the {kind}"), version);
        } else if version.is_empty() {
            findings.fail(
                check,
                format!("the report has no version of the {kind} that can be read"),
                "",
                "",
            );
        } else {
            findings.fail(
                check,
                format!("the manifest does not know this {kind} of {chip}"),
                version,
                list(expectation.manifest.versions(kind, chip), MAX_VERSIONS),
            );
        }
        rim
    };
    let rims = [
        known(GpuCheck::DriverVersion, RimKind::Driver, driver),
        known(GpuCheck::VbiosVersion, RimKind::Vbios, vbios),
    ];
    if let [Some(driver), Some(vbios)] = rims {
        compare(report, [driver, vbios], findings);
        signers(
            now,
            [driver, vbios],
            expectation.policy.expired_rim_signers,
            findings,
        );
    }
}

fn compare(report: &Report<'_>, rims: [&GoldenRim; 2], findings: &mut GpuFindings) {
    let check = GpuCheck::Measurements;
    let without_decoder = match report.switch(Opaque::Nvdec0) {
        Switch::Off => true,
        Switch::On | Switch::Absent => false,
        Switch::Unknown => {
            findings.fail(
                check,
                "the report says of the video decoder neither that it is on nor off",
                "",
                "",
            );
            return;
        }
    };
    let mut compared = BTreeSet::new();
    let mut wrong = Vec::new();
    for rim in rims {
        for golden in &rim.measurements {
            if !compared.insert(golden.index) {
                findings.fail(
                    check,
                    format!(
                        "driver and VBIOS both claim index {}, so the manifest contradicts itself",
                        golden.index
                    ),
                    "",
                    "",
                );
                return;
            }
            if golden.index == NVDEC0_INDEX && without_decoder {
                continue;
            }
            // A report counts its blocks from 1.
            let seen = golden
                .index
                .checked_add(1)
                .and_then(|block| report.measurements.get(&block));
            let right = seen.is_some_and(|seen| {
                golden
                    .digests
                    .iter()
                    .any(|digest| digest.as_bytes() == seen)
            });
            if !right {
                wrong.push(format!("{} ({})", golden.index, rim.kind));
            }
        }
    }
    if wrong.is_empty() {
        findings.pass(
            check,
            format!("all {} values are the published ones", compared.len()),
            "",
        );
    } else {
        findings.fail(
            check,
            format!(
                "{} of {} values are not the published ones",
                wrong.len(),
                compared.len()
            ),
            format!(
                "other values at {}",
                list(wrong.iter().map(String::as_str), MAX_LISTED)
            ),
            "the published values",
        );
    }
}

fn signers(now: u64, rims: [&GoldenRim; 2], policy: ExpiredRimSigners, findings: &mut GpuFindings) {
    let check = GpuCheck::RimSigners;
    let mut expired = Vec::new();
    for rim in rims {
        let signer = &rim.signer;
        if now < signer.valid_from {
            findings.fail(
                check,
                format!("the signer of the {} is not in force yet", rim.kind),
                shown(signer.valid_from),
                "",
            );
            return;
        }
        if now <= signer.valid_until {
            continue;
        }
        let allowed = match policy {
            ExpiredRimSigners::Refuse => false,
            ExpiredRimSigners::AllowIfValidAtImport => {
                !rim.signer_expired_at_import && rim.imported_at <= signer.valid_until
            }
            ExpiredRimSigners::Allow => true,
        };
        let what = format!("{} ({})", rim.kind, shown(signer.valid_until));
        if !allowed {
            findings.fail(
                check,
                format!(
                    "the signer of the {} has expired, and the policy refuses that",
                    rim.kind
                ),
                what,
                if rim.signer_expired_at_import {
                    "a RIM file that was imported while its signer was in force"
                } else {
                    "a signer that is in force"
                },
            );
            return;
        }
        expired.push(what);
    }
    if expired.is_empty() {
        findings.pass(check, "the signers of both RIM files are in force", "");
    } else {
        findings.pass(
            check,
            "the policy allows RIM files whose signer has expired",
            expired.join(", "),
        );
    }
}

/// The first of them, with commas.
pub(super) fn list<'a>(items: impl Iterator<Item = &'a str>, most: usize) -> String {
    let mut listed: Vec<_> = items.take(most.saturating_add(1)).collect();
    if listed.len() > most {
        listed.truncate(most);
        listed.push("…");
    }
    listed.join(", ")
}
