//! What a machine lacks to run a worker, and how to mend it.
//!
//! Each check looks at one thing and gives back one [`Finding`]: what was looked at, what was found, why it matters and
//! the next step. A check that does not concern this configuration says so instead of passing. The order is that in
//! which an operator mends: configuration, guest, card, clock, evidence, machine, network, model.
//!
//! Files are read below one root ([`Place`]), so that the checks run over another machine's files and over the trees of
//! the tests. What only a running machine can tell (a quote, a port, a command's answer, the chain) comes through
//! [`Machine`] and [`ChainView`], which say nothing where there is none.

mod chain;
mod clock;
mod evidence;
mod gpu;
mod guest;
mod machine;
mod model;
mod network;
mod place;

#[cfg(test)]
mod tests;

use cocoon_protocol::units::UnixMillis;
use serde::Serialize;

pub use chain::{ChainView, Wallet};
pub use place::{Live, Machine, OnlyFiles, Place, Ran, Transport, TsmReport};

use crate::config::{Config, EngineDevice, EvidenceSource, NodeRole, Problem};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// A worker cannot run, or clients would refuse it, until this is mended.
    Missing,
    /// A worker runs, but not well, or this could not be found out.
    Warning,
    /// Does not concern this configuration.
    NotApplicable,
}

impl Outcome {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "MISSING",
            Self::Warning => "warning",
            Self::NotApplicable => "n/a",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, for people and for scripts.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// A file, a command, an address.
    pub looked_at: String,
    /// What was there.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do; empty where there is nothing to do.
    pub next: String,
}

/// A check on its way to a finding.
struct Look {
    check: &'static str,
    looked_at: String,
    why: &'static str,
}

impl Look {
    fn at(check: &'static str, looked_at: impl Into<String>, why: &'static str) -> Self {
        Self {
            check,
            looked_at: looked_at.into(),
            why,
        }
    }

    fn end(self, outcome: Outcome, found: impl Into<String>, next: impl Into<String>) -> Finding {
        Finding {
            check: self.check,
            outcome,
            looked_at: self.looked_at,
            found: found.into(),
            why: self.why,
            next: next.into(),
        }
    }

    fn ok(self, found: impl Into<String>) -> Finding {
        self.end(Outcome::Ok, found, "")
    }

    fn missing(self, found: impl Into<String>, next: impl Into<String>) -> Finding {
        self.end(Outcome::Missing, found, next)
    }

    fn warning(self, found: impl Into<String>, next: impl Into<String>) -> Finding {
        self.end(Outcome::Warning, found, next)
    }

    fn not_applicable(self, found: impl Into<String>) -> Finding {
        self.end(Outcome::NotApplicable, found, "")
    }
}

/// What is examined.
pub struct Patient<'a> {
    /// Where files are.
    pub place: &'a Place,
    /// What only a running machine can tell.
    pub machine: &'a dyn Machine,
    /// Its configuration, with paths as on the machine.
    pub config: &'a Config,
    /// What is wrong with the configuration.
    pub problems: &'a [Problem],
    /// What the chain says; `None` where it was not asked.
    pub chain: Option<&'a ChainView>,
    /// Now.
    pub now: UnixMillis,
    /// Hash the model however large it is.
    pub thorough: bool,
}

impl Patient<'_> {
    fn is_worker(&self) -> bool {
        matches!(self.config.role, None | Some(NodeRole::Worker))
    }

    /// Whether quotes are needed from this machine; if not, why not.
    fn no_tdx(&self) -> Option<&'static str> {
        if !self.is_worker() {
            Some("only workers make evidence")
        } else if self.config.evidence == EvidenceSource::Simulated {
            Some("evidence is simulated, for development")
        } else {
            None
        }
    }

    fn on_a_card(&self) -> bool {
        self.config.device == EngineDevice::Cuda && self.config.upstream.is_none()
    }

    fn not_live(&self) -> &'static str {
        "only files were looked at, not a running machine"
    }
}

/// All findings, and what they come to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing is missing.
    pub ready: bool,
    /// For which role.
    pub role: &'static str,
    /// With which evidence.
    pub evidence: EvidenceSource,
    /// In the order in which to mend.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many checks came out so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        let same = |finding: &&Finding| finding.outcome == outcome;
        self.findings.iter().filter(same).count()
    }

    /// The finding of a check.
    #[must_use]
    pub fn find(&self, check: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}

/// Makes all checks.
#[must_use]
pub fn examine(patient: &Patient<'_>) -> Report {
    let mut findings = configuration(patient);
    let (guest, quote) = guest::examine(patient);
    findings.extend(guest);
    findings.extend(gpu::examine(patient));
    findings.extend(clock::examine(patient));
    findings.extend(evidence::examine(patient, quote.as_deref()));
    findings.extend(machine::examine(patient));
    findings.extend(network::examine(patient));
    findings.extend(chain::examine(patient));
    findings.extend(model::examine(patient));
    Report {
        ready: findings
            .iter()
            .all(|finding| finding.outcome != Outcome::Missing),
        role: patient.config.role.unwrap_or(NodeRole::Worker).as_str(),
        evidence: patient.config.evidence,
        findings,
    }
}

fn configuration(patient: &Patient<'_>) -> Vec<Finding> {
    let why = "a node does not start with a configuration that makes none";
    if patient.problems.is_empty() {
        return vec![Look::at("configuration", "cocoon config --check", why).ok("complete")];
    }
    patient
        .problems
        .iter()
        .map(|problem| {
            let value = match problem.value.as_str() {
                "" => problem.name.to_owned(),
                value => format!("{} = {value}", problem.name),
            };
            Look::at("configuration", problem.origin.to_string(), why)
                .missing(format!("{value}: {}", problem.why), problem.fix.clone())
        })
        .collect()
}
