//! What a bundle may carry beside quote and collateral: the proof that its image stands in a log,
//! the firmware's event log, the GPUs' evidence.

use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::gpu::{GpuEvidence, gpu_nonce};
use cocoon_protocol::ids::Digest;
use cocoon_protocol::log::ImageProof;
use dcap_qvl::quote::TDReport10;

use super::{Look, Verifier};
use crate::event_log::{self, ProvenLog};
use crate::findings::Findings;
use crate::gpu::{self, GpuExpectation};
use crate::log::{Entry, open};
use crate::policy::AllowedImage;
use crate::{Check, Measurement};

impl Verifier {
    /// The image that the log says the guest runs, if it proves that it stands there.
    pub(super) fn image_in_log(
        &self,
        bundle: &EvidenceBundle,
        td: &TDReport10,
        findings: &mut Findings,
    ) -> Option<AllowedImage> {
        let check = Check::ImageInLog;
        let Some(rebuilders) = &self.policy.log else {
            findings.not_asked(check, "the policy names no log of images");
            return None;
        };
        let proof = &bundle.attached.image_proof;
        if proof.is_empty() {
            findings.not_asked(check, "no proof is shown that the image stands in the log");
            return None;
        }
        let wanted = || {
            format!(
                "a place in {}, signed by {} of {}",
                rebuilders.origin(),
                rebuilders.threshold(),
                rebuilders.keys().len()
            )
        };
        let mut refuse = |reason: String| {
            let seen = format!("{} bytes", proof.len());
            findings.fail(check, reason, seen, wanted());
        };
        let proof = match ImageProof::decode(proof) {
            Ok(proof) => proof,
            Err(error) => {
                refuse(error.to_string());
                return None;
            }
        };
        // Registers before signatures. RTMR0 is not among them: where it differs from machine to
        // machine the policy lists its events, and where not it is compared with the image below.
        if let Some(reason) = other_guest(&proof, td) {
            refuse(reason);
            return None;
        }
        match open(&proof, rebuilders) {
            Ok(admitted) => {
                findings.pass(
                    check,
                    format!(
                        "image {:?} stands in the log, signed by {}",
                        admitted.image.name,
                        admitted.signers.join(", ")
                    ),
                    format!(
                        "entry {} of {}, revision {}",
                        admitted.index, admitted.head.size, admitted.revision
                    ),
                );
                Some(admitted.image.into())
            }
            Err(error) => {
                refuse(error.to_string());
                None
            }
        }
    }

    /// GPUs cost most of all: milliseconds each.
    pub(super) fn gpu(&self, look: &mut Look<'_>) {
        let claims = &look.bundle.claims;
        let shown = &look.bundle.attached.gpu_evidence;
        if claims.gpu_evidence == Digest::ZERO && shown.is_empty() {
            look.findings
                .not_asked(Check::GpuEvidence, "no GPU is claimed and none is shown");
            return;
        }
        let evidence = match GpuEvidence::decode(shown) {
            Ok(evidence) => evidence,
            Err(error) => {
                look.findings.fail(
                    Check::GpuEvidence,
                    error.to_string(),
                    format!("{} bytes", shown.len()),
                    "the evidence of one to eight GPUs",
                );
                return;
            }
        };
        let verdict = gpu::verify(
            look.now,
            &evidence,
            &GpuExpectation {
                nonce: gpu_nonce(claims),
                manifest: &self.gpus.manifest,
                policy: &self.policy.gpu,
                trust: &self.gpus.trust,
                nras_keys: &self.gpus.nras_keys,
            },
        );
        let chips: Vec<_> = verdict
            .gpus
            .iter()
            .map(|gpu| gpu.as_ref().map_or("unknown", |gpu| gpu.chip.as_str()))
            .collect();
        let seen = format!("{} GPU(s): {}", chips.len(), chips.join(", "));
        match verdict.first_obstacle() {
            None if verdict.accepted() => look.findings.pass(
                Check::GpuEvidence,
                "every GPU runs what NVIDIA published, in a confidential mode, for this guest",
                seen,
            ),
            obstacle => {
                let reason = obstacle.map_or_else(
                    || "no GPU is in it".to_owned(),
                    |factor| format!("GPU {}: {}: {}", factor.gpu, factor.name, factor.reason),
                );
                look.findings
                    .fail(Check::GpuEvidence, reason, seen, "every required factor");
            }
        }
        look.verdict.gpu_ids = verdict
            .gpus
            .iter()
            .flatten()
            .map(|gpu| gpu.device.clone())
            .collect();
        look.verdict.gpu = verdict.factors;
    }
}

/// Why the proof is about another guest than the quote, if it is.
fn other_guest(proof: &ImageProof, td: &TDReport10) -> Option<String> {
    let image = match Entry::decode(&proof.entry) {
        Ok(entry) => entry.image,
        Err(error) => return Some(format!("the proof's entry: {error}")),
    };
    [
        ("MRTD", image.mrtd, td.mr_td),
        ("RTMR1", image.rtmr1, td.rt_mr1),
        ("RTMR2", image.rtmr2, td.rt_mr2),
    ]
    .into_iter()
    .map(|(register, logged, seen)| (register, logged, Measurement::from_bytes(seen)))
    .find(|(_, logged, seen)| logged != seen)
    .map(|(register, logged, seen)| {
        format!(
            "{register} is {seen}, but the image {:?} of the proof has {logged}",
            image.name
        )
    })
}

/// Whether claims and evidence are about the same GPUs. A hash; what the evidence is worth is looked
/// at last.
pub(super) fn gpu_binding(bundle: &EvidenceBundle, findings: &mut Findings) {
    let claimed = bundle.claims.gpu_evidence;
    let shown = &bundle.attached.gpu_evidence;
    let found = if shown.is_empty() {
        Digest::ZERO
    } else {
        Digest::sha256(shown)
    };
    if found == claimed {
        return;
    }
    let reason = match (claimed == Digest::ZERO, shown.is_empty()) {
        (true, _) => "GPU evidence is shown that the quote does not bind",
        (_, true) => "GPU evidence is claimed and none is shown",
        _ => "other GPU evidence is shown than the quote binds",
    };
    findings.fail(
        Check::GpuEvidence,
        reason,
        found.to_string(),
        claimed.to_string(),
    );
}

/// The firmware's log, if it is that of the quote. A log that is shown is one that somebody may
/// believe, so a wrong one is refused even where no image asks for it.
pub(super) fn event_log(
    bundle: &EvidenceBundle,
    td: &TDReport10,
    is_asked: bool,
    findings: &mut Findings,
) -> Option<ProvenLog> {
    let check = Check::EventLog;
    let log = &bundle.attached.event_log;
    let seen = format!("{} bytes", log.len());
    if log.is_empty() {
        if is_asked {
            let wanted = "the firmware's event log";
            let reason = "the image is judged by its events, but no event log is shown";
            findings.fail(check, reason, seen, wanted);
        } else {
            findings.not_asked(check, "no event log is shown, and the image asks for none");
        }
        return None;
    }
    let quoted = [td.rt_mr0, td.rt_mr1, td.rt_mr2].map(Measurement::from_bytes);
    let replay = match event_log::replay(log) {
        Ok(replay) => replay,
        Err(error) => {
            findings.fail(check, error.to_string(), seen, "a TCG event log");
            return None;
        }
    };
    let count = replay.events.len();
    match replay.proven_by(&quoted) {
        Ok(proven) => {
            findings.pass(
                check,
                "the event log replays to RTMR0, RTMR1 and RTMR2",
                format!("{count} events"),
            );
            Some(proven)
        }
        Err(error) => {
            findings.fail(
                check,
                error.to_string(),
                error.replayed.to_string(),
                error.quoted.to_string(),
            );
            None
        }
    }
}
