//! What a bundle may carry beside quote and collateral, and whose machine it is.

use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::ids::Digest;

use super::{Look, Verifier};
use crate::Check;
use crate::census::{Hardware, NoPlace};
use crate::findings::Findings;

impl Verifier {
    pub(super) fn image_in_log(&self, bundle: &EvidenceBundle, findings: &mut Findings) {
        let reason = if bundle.attached.image_proof.is_empty() {
            "the evidence shows no proof that its image stands in a log"
        } else {
            "this version cannot look images up in a log"
        };
        findings.not_asked(Check::ImageInLog, reason);
    }

    /// The platform id is not authenticated yet. A stranger who writes another machine's into a
    /// quote is refused here or by the signatures, and takes nobody's place, since only accepted
    /// workers are counted.
    pub(super) fn platform_unique(&self, look: &mut Look<'_>) {
        let Some(memory) = look.memory else {
            look.findings
                .not_asked(Check::PlatformUnique, "nobody counts workers here");
            return;
        };
        let hardware = Hardware::Platform(look.verdict.platform_id.clone());
        let place = memory.place(&look.verdict, &hardware, self.places());
        placed(
            Check::PlatformUnique,
            place,
            &format!(
                "at most {} worker(s) on one machine in one hour",
                self.places()
            ),
            &mut look.findings,
        );
    }

    pub(super) fn gpu_unique(&self, look: &mut Look<'_>) {
        let Some(memory) = look.memory else {
            look.findings
                .not_asked(Check::GpuUnique, "nobody counts GPUs here");
            return;
        };
        let taken = look.verdict.gpu_ids.iter().find_map(|id| {
            let hardware = Hardware::Gpu(id.clone());
            memory.place(&look.verdict, &hardware, 1).err()
        });
        if look.verdict.gpu_ids.is_empty() {
            look.findings
                .not_asked(Check::GpuUnique, "no GPU was authenticated");
            return;
        }
        let place = taken.map_or(Ok(0), Err);
        let wanted = "one worker on one GPU in one hour";
        placed(Check::GpuUnique, place, wanted, &mut look.findings);
    }

    /// What the quote's claims say of GPUs.
    pub(super) fn gpu(&self, look: &mut Look<'_>) {
        let claimed = look.bundle.claims.gpu_evidence;
        let findings = &mut look.findings;
        if claimed == Digest::ZERO {
            if look.bundle.attached.gpu_evidence.is_empty() {
                findings.not_asked(Check::GpuEvidence, "no GPU is claimed");
            } else {
                findings.fail(
                    Check::GpuEvidence,
                    "GPU evidence is shown that the quote does not bind",
                    "no claim",
                    "the evidence's digest in the claims",
                );
            }
            return;
        }
        findings.fail(
            Check::GpuEvidence,
            "the bundle claims GPU evidence, which this version cannot verify",
            claimed.to_string(),
            "no claim, or verified evidence",
        );
    }
}

fn placed(check: Check, place: Result<usize, NoPlace>, wanted: &str, findings: &mut Findings) {
    match place {
        Ok(others) => findings.pass(
            check,
            "nobody else's place is taken",
            format!("{others} other(s) in this hour"),
        ),
        Err(no_place) => {
            let seen = match &no_place {
                NoPlace::Taken { by, .. } => format!("worker {by}"),
                NoPlace::Full => String::new(),
            };
            findings.fail(check, no_place.to_string(), seen, wanted);
        }
    }
}
