//! Counts and samples, from which the report is made.

use std::collections::BTreeMap;

use cocoon_protocol::{NanoTon, Outcome};

use crate::distribution::Samples;
use crate::job::End;
use crate::report::DirectoryReport;

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) directory: DirectoryReport,
    pub(crate) verified_after_ms: Samples,
    pub(crate) client_outcomes: BTreeMap<String, u64>,
    pub(crate) worker_outcomes: BTreeMap<String, u64>,
    pub(crate) chosen_after_ms: Samples,
    pub(crate) first_token_after_ms: Samples,
    pub(crate) completed_after_ms: Samples,
    pub(crate) offered: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) redeem_failed: BTreeMap<String, u64>,
    pub(crate) leases_granted: u64,
    pub(crate) leases_released: u64,
    pub(crate) leases_died: u64,
    pub(crate) max_exposure: NanoTon,
    pub(crate) largest_window: NanoTon,
    pub(crate) exposure_permille: Samples,
}

impl Tally {
    /// How the directories filled.
    pub(crate) fn directory_report(&self) -> DirectoryReport {
        DirectoryReport {
            verified_after_ms: self.verified_after_ms.distribution(),
            ..self.directory.clone()
        }
    }

    /// A job ended for its client.
    pub(crate) fn client_ended(&mut self, how: End, after_ms: u64) {
        count(&mut self.client_outcomes, how.label());
        if how == End::Outcome(Outcome::Completed) {
            self.completed_after_ms.add(after_ms);
        }
    }

    /// A session ended for its worker.
    pub(crate) fn worker_ended(&mut self, how: End, worst_exposure: NanoTon, window: NanoTon) {
        count(&mut self.worker_outcomes, how.label());
        self.max_exposure = self.max_exposure.max(worst_exposure);
        let permille = u128::from(worst_exposure.nano())
            .saturating_mul(1000)
            .checked_div(u128::from(window.nano()));
        let permille = permille.and_then(|permille| u64::try_from(permille).ok());
        self.exposure_permille.add(permille.unwrap_or(0));
    }

    /// A worker refused to quote.
    pub(crate) fn refused(&mut self, label: &str) {
        count(&mut self.refused, label);
    }

    /// An offer could not be redeemed.
    pub(crate) fn redeem_failed(&mut self, label: &str) {
        count(&mut self.redeem_failed, label);
    }
}

fn count(counts: &mut BTreeMap<String, u64>, label: &str) {
    let count = counts.entry(label.to_owned()).or_default();
    *count = count.saturating_add(1);
}
