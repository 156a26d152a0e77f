//! The attestor's state machine: budget, then memory, then verifier.

use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::ids::PeerId;
use cocoon_protocol::units::UnixMillis;

use crate::budget::FailureBudget;
pub use crate::budget::{BudgetConfig, Exhausted as OverBudget};
use crate::{Census, Expectation, Memory, Verdict, Verifier};

/// Sizes and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Accepted verdicts to remember.
    pub cached_verdicts: usize,
    /// Limits on failed verifications.
    pub budget: BudgetConfig,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            cached_verdicts: 1_024,
            budget: BudgetConfig::default(),
        }
    }
}

/// Decides who is let in. It owns the verifier together with its memory, so a remembered verdict is
/// always one of this root and this policy.
pub struct Admission {
    verifier: Verifier,
    memory: Memory,
    budget: FailureBudget,
}

impl Admission {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(verifier: Verifier, config: AdmissionConfig) -> Self {
        Self {
            verifier,
            memory: Memory::new(config.cached_verdicts),
            budget: FailureBudget::new(config.budget),
        }
    }

    /// Looks at a bundle that `from` handed over. `from` is the peer at the other end of the
    /// connection, which is the one to blame for a bad bundle; whose evidence it should be is said
    /// by `expectation`.
    ///
    /// # Errors
    /// If `from`, or everybody together, failed too often; then nothing was looked at.
    pub fn admit(
        &mut self,
        now: UnixMillis,
        from: &PeerId,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
    ) -> Result<Verdict, OverBudget> {
        self.budget.allow(now, from)?;
        let verdict = self
            .verifier
            .verify_remembering(now, bundle, expectation, &mut self.memory);
        if !verdict.accepted() {
            self.budget.failed(now, from);
        }
        Ok(verdict)
    }

    /// Who was seen on which machine.
    #[must_use]
    pub fn census(&self) -> &Census {
        self.memory.census()
    }

    /// The verifier, to look at a bundle outside of budget and memory.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }
}
