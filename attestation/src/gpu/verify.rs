//! The verdict on the GPUs of a guest.
//!
//! For each GPU the report's structure and nonce come first: both cost nothing, and evidence for
//! somebody else's nonce is not worth looking at a certificate. Everything after them is looked at even if
//! something else failed, so that a verdict names all that is wrong.

use std::collections::BTreeSet;

use cocoon_protocol::gpu::{Gpu, GpuEvidence, MAX_GPU_CERTIFICATES, MAX_GPUS};
use cocoon_protocol::units::UnixMillis;

use super::chain::Chain;
use super::fwid::{self, Firmware, FwidError};
use super::golden::{golden, list};
use super::manifest::GpuManifest;
use super::nras::{self, NrasKeys};
use super::ocsp::OcspResponse;
use super::policy::GpuPolicy;
use super::report::{GpuMode, Opaque, Report};
use super::roots::GpuTrust;
use super::verdict::{GpuCheck, GpuFindings, GpuIdentity, GpuVerdict};

/// Most OCSP responses about one certificate; two while one replaces the other.
const MAX_RESPONSES_EACH: usize = 2;

/// What the evidence is judged by.
#[derive(Clone, Copy, Debug)]
pub struct GpuExpectation<'a> {
    /// What the GPUs were asked to sign; [`cocoon_protocol::gpu::gpu_nonce`] of the claims.
    pub nonce: [u8; 32],
    /// What drivers and VBIOS versions measure to.
    pub manifest: &'a GpuManifest,
    /// What is demanded.
    pub policy: &'a GpuPolicy,
    /// Whose signatures count.
    pub trust: &'a GpuTrust,
    /// Keys of NVIDIA's attestation service; without any, its tokens are not looked at.
    pub nras_keys: &'a NrasKeys,
}

/// One GPU's evidence, decoded as far as it goes.
struct Decoded<'a> {
    report: Option<Report<'a>>,
    chain: Option<Chain>,
    firmware: Option<Result<Firmware, FwidError>>,
}

impl Decoded<'_> {
    fn mode(&self) -> Option<GpuMode> {
        self.report.as_ref().and_then(Report::mode)
    }
}

/// Judges the evidence of all GPUs of a guest at `now`.
#[must_use]
pub fn verify(
    now: UnixMillis,
    evidence: &GpuEvidence,
    expectation: &GpuExpectation<'_>,
) -> GpuVerdict {
    let now = now.seconds();
    let mut findings: Vec<_> = (0..evidence.gpus.len().min(MAX_GPUS))
        .map(GpuFindings::new)
        .collect();
    let decoded: Vec<_> = evidence
        .gpus
        .iter()
        .zip(&mut findings)
        .map(|(gpu, findings)| decode(gpu, expectation, findings))
        .collect();
    let identities: Vec<_> = decoded.iter().map(identity).collect();
    let responses: Vec<_> = evidence
        .ocsp_responses
        .iter()
        .map(|der| OcspResponse::from_der(der).map_err(|error| error.to_string()))
        .collect();
    let second = second_opinion(now, evidence, expectation, &decoded);
    let modes: BTreeSet<_> = decoded.iter().filter_map(Decoded::mode).collect();
    let mut devices = BTreeSet::new();
    for ((gpu, findings), identity) in decoded.iter().zip(&mut findings).zip(&identities) {
        let Decoded {
            report: Some(report),
            chain,
            firmware,
        } = gpu
        else {
            continue;
        };
        if findings.failed(GpuCheck::Nonce) {
            continue;
        }
        let chip = identity.as_ref().map_or("", |identity| &identity.chip);
        mode(report, modes.len() > 1, expectation.policy, findings);
        devtools(firmware.as_ref(), findings);
        golden(now, report, chip, expectation, findings);
        if let Some(chain) = chain {
            links(now, chain, expectation.trust, findings);
            signature(report, chain, findings);
            ocsp(now, chain, &responses, expectation, findings);
        }
        if let Some(firmware) = firmware {
            same_firmware(report, firmware, findings);
        }
        if let Some(identity) = identity {
            if devices.insert(&identity.device) {
                findings.pass(
                    GpuCheck::Unique,
                    "no other GPU of the evidence is this device",
                    &identity.device,
                );
            } else {
                findings.fail(
                    GpuCheck::Unique,
                    "the evidence shows the same device twice",
                    &identity.device,
                    "another device",
                );
            }
        }
        match &second {
            Opinion::Same => {
                findings.pass(GpuCheck::Nras, "NVIDIA's service found all in order", "");
            }
            Opinion::None(why) => {
                findings.skip(GpuCheck::Nras, expectation.policy.require_nras, *why);
            }
            Opinion::Other(why) => findings.fail(GpuCheck::Nras, why, "", ""),
        }
    }
    GpuVerdict {
        factors: findings.into_iter().flat_map(GpuFindings::finish).collect(),
        gpus: identities,
    }
}

fn decode<'a>(
    gpu: &'a Gpu,
    expectation: &GpuExpectation<'_>,
    findings: &mut GpuFindings,
) -> Decoded<'a> {
    let report = match Report::parse(&gpu.report) {
        Ok(report) => {
            findings.pass(
                GpuCheck::Report,
                "it is an SPDM 1.1 measurement exchange",
                format!("{} measurements", report.measurements.len()),
            );
            Some(report)
        }
        Err(error) => {
            findings.fail(GpuCheck::Report, error.to_string(), "", "");
            None
        }
    };
    if let Some(report) = &report {
        let (seen, wanted) = (report.nonce, expectation.nonce);
        if seen == wanted {
            findings.pass(
                GpuCheck::Nonce,
                "the report answers our nonce",
                hex::encode(seen),
            );
        } else {
            findings.fail(
                GpuCheck::Nonce,
                "the report answers another nonce",
                hex::encode(seen),
                hex::encode(wanted),
            );
        }
    }
    let worth = report.is_some() && !findings.failed(GpuCheck::Nonce);
    let chain = worth
        .then(|| Chain::from_der(gpu.certificates.iter().map(Vec::as_slice)))
        .and_then(|chain| {
            chain
                .inspect_err(|error| findings.fail(GpuCheck::Chain, error.to_string(), "", ""))
                .ok()
        });
    let firmware = chain.as_ref().map(|chain| fwid::firmware(chain.leaf()));
    Decoded {
        report,
        chain,
        firmware,
    }
}

/// Which GPU it is, as far as its certificates and report tell.
fn identity(gpu: &Decoded<'_>) -> Option<GpuIdentity> {
    let chain = gpu.chain.as_ref()?;
    // The boot ROM's certificate. A chain that has only a leaf below the root has none of its own.
    let device = chain.path().get(1)?;
    let report = gpu.report.as_ref();
    Some(GpuIdentity {
        device: hex::encode(device.key_digest()),
        device_serial: hex::encode(device.serial()),
        leaf_serial: hex::encode(chain.leaf().serial()),
        fwid: gpu
            .firmware
            .as_ref()
            .and_then(|firmware| firmware.as_ref().ok())
            .map(|firmware| hex::encode(firmware.fwid))
            .unwrap_or_default(),
        chip: report
            .and_then(|report| report.text(Opaque::ChipInfo))
            .map_or_else(|| chip(&device.subject()), str::to_owned),
        driver: report
            .and_then(|report| report.text(Opaque::DriverVersion))
            .unwrap_or_default()
            .to_owned(),
        vbios: report.and_then(Report::vbios_version).unwrap_or_default(),
    })
}

/// The chip, from a boot ROM's name: `CN=GH100 A01 GSP BROM,O=NVIDIA Corporation,…`. Older reports do
/// not say it, but the certificate does, and NVIDIA signed that.
fn chip(subject: &str) -> String {
    subject
        .split(['+', ','])
        .find_map(|part| part.strip_prefix("CN="))
        .and_then(|name| name.split(' ').next())
        .unwrap_or_default()
        .to_owned()
}

fn links(now: u64, chain: &Chain, trust: &GpuTrust, findings: &mut GpuFindings) {
    let root = trust.device_root();
    match chain.ends_in(root) {
        Ok(()) => findings.pass(
            GpuCheck::RootPinned,
            "the certificates end in the pinned root",
            root.subject(),
        ),
        Err(error) => findings.fail(GpuCheck::RootPinned, error.to_string(), "", root.subject()),
    }
    match chain.links().and_then(|()| chain.in_force(now)) {
        Ok(()) => findings.pass(
            GpuCheck::Chain,
            format!("{} certificates are in force", chain.path().len()),
            chain.leaf().subject(),
        ),
        Err(error) => findings.fail(GpuCheck::Chain, error.to_string(), "", ""),
    }
}

fn signature(report: &Report<'_>, chain: &Chain, findings: &mut GpuFindings) {
    if report.is_signed_by(chain.leaf()) {
        findings.pass(GpuCheck::Signature, "the leaf's key signed the report", "");
    } else {
        findings.fail(
            GpuCheck::Signature,
            "the leaf's key did not sign this report",
            "",
            "",
        );
    }
}

fn same_firmware(
    report: &Report<'_>,
    firmware: &Result<Firmware, FwidError>,
    findings: &mut GpuFindings,
) {
    let seen = report.opaque(Opaque::Fwid);
    match (seen, firmware) {
        (_, Err(error)) => findings.fail(GpuCheck::Fwid, error.to_string(), "", ""),
        (None, _) => findings.fail(GpuCheck::Fwid, "the report names no firmware", "", ""),
        (Some(seen), Ok(firmware)) if seen == firmware.fwid => findings.pass(
            GpuCheck::Fwid,
            "the key was made for the firmware that the report names",
            hex::encode(seen),
        ),
        (Some(seen), Ok(firmware)) => findings.fail(
            GpuCheck::Fwid,
            "the key was made for other firmware than the report names",
            hex::encode(seen.get(..fwid::FWID_BYTES).unwrap_or(seen)),
            hex::encode(firmware.fwid),
        ),
    }
}

fn mode(report: &Report<'_>, mixed: bool, policy: &GpuPolicy, findings: &mut GpuFindings) {
    let wanted = || {
        policy
            .modes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match report.mode() {
        Some(mode) if mixed => findings.fail(
            GpuCheck::CcMode,
            "the GPUs are in different modes",
            mode.to_string(),
            "all in one",
        ),
        Some(mode) if policy.modes.contains(&mode) => findings.pass(
            GpuCheck::CcMode,
            "the GPU is in a confidential mode that the policy allows",
            mode.to_string(),
        ),
        Some(mode) => findings.fail(
            GpuCheck::CcMode,
            "the policy does not allow the GPU's mode",
            mode.to_string(),
            wanted(),
        ),
        None if report.has_feature_flag() => findings.fail(
            GpuCheck::CcMode,
            "the report has a mode that is not known",
            hex::encode(report.opaque(Opaque::FeatureFlag).unwrap_or_default()),
            wanted(),
        ),
        None => findings.skip(
            GpuCheck::CcMode,
            policy.require_mode,
            "the report does not say its mode; its driver is older than the field",
        ),
    }
}

/// No report says whether developers' tools are on: the driver knows (`nvmlSystemGetConfComputeState`),
/// so the measured guest has to look before it asks for evidence. What a report can show is firmware
/// that calls itself debuggable.
fn devtools(firmware: Option<&Result<Firmware, FwidError>>, findings: &mut GpuFindings) {
    if let Some(Ok(Firmware {
        debug: Some(true), ..
    })) = firmware
    {
        findings.fail(
            GpuCheck::DevtoolsOff,
            "the certificate says that its firmware can be debugged",
            "debug",
            "",
        );
        return;
    }
    findings.skip(
        GpuCheck::DevtoolsOff,
        false,
        "no report says it; the measured guest must ask its driver",
    );
}

/// Every certificate between leaf and root must be called good; the leaf was issued by the GPU itself
/// and the root by nobody.
fn ocsp(
    now: u64,
    chain: &Chain,
    responses: &[Result<OcspResponse, String>],
    expectation: &GpuExpectation<'_>,
    findings: &mut GpuFindings,
) {
    let check = GpuCheck::Ocsp;
    let required = expectation.policy.require_ocsp;
    if responses.is_empty() {
        findings.skip(check, required, "no OCSP responses came along");
        return;
    }
    if let Some(Err(error)) = responses.iter().find(|response| response.is_err()) {
        findings.fail(check, error, "", "");
        return;
    }
    let mut silent = Vec::new();
    let mut good = 0_usize;
    for (certificate, issuer) in chain.with_issuers(expectation.trust.device_root()).skip(1) {
        let about: Vec<_> = responses
            .iter()
            .flatten()
            .filter(|response| response.is_about(certificate, issuer))
            .take(MAX_RESPONSES_EACH.saturating_add(1))
            .collect();
        if about.is_empty() {
            silent.push(certificate.subject());
            continue;
        }
        if about.len() > MAX_RESPONSES_EACH {
            findings.fail(
                check,
                format!("more than {MAX_RESPONSES_EACH} responses are about one certificate"),
                certificate.subject(),
                "",
            );
            return;
        }
        for response in about {
            if let Err(error) = response.check(certificate, issuer, now) {
                findings.fail(check, error.to_string(), certificate.subject(), "good");
                return;
            }
        }
        good = good.saturating_add(1);
    }
    if silent.is_empty() && good > 0 {
        findings.pass(
            check,
            format!("the issuers call {good} certificates good"),
            "",
        );
    } else {
        findings.skip(
            check,
            required,
            format!(
                "no response came along for {}",
                list(silent.iter().map(String::as_str), MAX_GPU_CERTIFICATES)
            ),
        );
    }
}

/// What NVIDIA's service says of the same evidence.
enum Opinion {
    /// It says nothing, or cannot be understood for want of keys.
    None(&'static str),
    /// All in order.
    Same,
    /// A token that does not count.
    Other(String),
}

fn second_opinion(
    now: u64,
    evidence: &GpuEvidence,
    expectation: &GpuExpectation<'_>,
    decoded: &[Decoded<'_>],
) -> Opinion {
    if evidence.nras_token.is_empty() {
        return Opinion::None("no token of NVIDIA's attestation service came along");
    }
    if expectation.nras_keys.is_empty() {
        return Opinion::None("no keys of NVIDIA's attestation service are configured");
    }
    let serials: Option<Vec<_>> = decoded
        .iter()
        .map(|gpu| gpu.chain.as_ref().map(|chain| chain.leaf().serial()))
        .collect();
    let Some(serials) = serials else {
        return Opinion::Other("the certificates of a GPU cannot be read".to_owned());
    };
    match nras::check(
        &evidence.nras_token,
        expectation.nras_keys,
        &expectation.nonce,
        &serials,
        now,
    ) {
        Ok(()) => Opinion::Same,
        Err(error) => Opinion::Other(error.to_string()),
    }
}
