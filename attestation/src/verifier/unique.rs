//! Whether others say that they run on the same machine, or with the same GPU.

use super::{Look, Verifier};
use crate::Check;
use crate::census::{Hardware, NoPlace};
use crate::findings::Findings;

impl Verifier {
    /// The platform id is not authenticated yet. A stranger who writes another machine's into a
    /// quote is refused here or by the signatures, and takes nobody's place, since only accepted
    /// workers are counted.
    pub(super) fn platform_unique(&self, look: &mut Look<'_>) {
        let check = Check::PlatformUnique;
        let Some(memory) = look.memory else {
            look.findings.not_asked(check, "nobody counts workers here");
            return;
        };
        let hardware = Hardware::Platform(look.verdict.platform_id.clone());
        let places = self.places();
        let place = memory.place(&look.verdict, &hardware, places);
        let wanted = format!("at most {places} worker(s) on one machine in one hour");
        placed(check, place, &wanted, &mut look.findings);
    }

    /// GPUs are known by the time they were authenticated.
    pub(super) fn gpu_unique(&self, look: &mut Look<'_>) {
        let check = Check::GpuUnique;
        let Some(memory) = look.memory else {
            look.findings.not_asked(check, "nobody counts GPUs here");
            return;
        };
        if look.verdict.gpu_ids.is_empty() {
            look.findings.not_asked(check, "no GPU was authenticated");
            return;
        }
        let taken = look.verdict.gpu_ids.iter().find_map(|id| {
            let hardware = Hardware::Gpu(id.clone());
            memory.place(&look.verdict, &hardware, 1).err()
        });
        let place = taken.map_or(Ok(0), Err);
        let wanted = "one worker on one GPU in one hour";
        placed(check, place, wanted, &mut look.findings);
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
