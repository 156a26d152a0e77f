//! What RTMR0 may hold, event by event.
//!
//! The firmware, which MRTD names, measures its configuration in a fixed order. So the policy is a
//! list of steps in that order, and an event is judged by its *position*: its type and data come
//! from whoever sends the log. Were an event that may have any digest recognised by its type, a
//! guest with Secure Boot keys of its owner's could call them ACPI tables.
//!
//! For the same reason a step that takes any digest cannot be optional.

use serde::{Deserialize, Serialize};

use super::event::EventKind;
use super::{ProvenLog, Replay};
use crate::Measurement;

/// Most steps of a policy. A firmware without boot options of its own has about 15.
pub const MAX_STEPS: usize = 128;
/// Most digests that one step may allow.
pub const MAX_DIGESTS: usize = 64;

/// The register that is judged by events.
const RTMR0: u8 = 0;

/// The events of RTMR0 that are allowed, in their order. Nothing else is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventPolicy {
    /// One per event.
    pub steps: Vec<Step>,
}

/// What one event has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// For people: what is measured here.
    pub name: String,
    /// The type that the log gives the event. A slip of the author's is found by it, not an
    /// attack.
    pub event: EventKind,
    /// The digests that are allowed. Empty only together with `varies`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Measurement>,
    /// Why any digest is allowed, such as "ACPI tables are made by the host". The guest must then
    /// not rely on what is measured here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub varies: Option<String>,
    /// Whether the event may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A policy that cannot mean what its author wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventPolicyError {
    /// It would accept only firmware that measures nothing.
    #[error("the event policy has no steps")]
    Empty,
    /// More steps than firmware measures.
    #[error("the event policy has {count} steps, more than {MAX_STEPS}")]
    TooManySteps {
        /// How many.
        count: usize,
    },
    /// More digests than releases have.
    #[error("step {name:?} allows {count} digests, more than {MAX_DIGESTS}")]
    TooManyDigests {
        /// Which step.
        name: String,
        /// How many.
        count: usize,
    },
    /// Neither digests nor a reason, or both.
    #[error("step {name:?} has to say either which `digests` it allows or why it `varies`")]
    EitherOr {
        /// Which step.
        name: String,
    },
    /// It would let other events take its place.
    #[error("step {name:?} takes any digest, so it cannot be optional")]
    OptionalAny {
        /// Which step.
        name: String,
    },
}

/// What a log has that the policy does not allow, or the reverse. Positions count RTMR0's events
/// from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Another digest than the policy allows here.
    #[error("event {position}, {name}: digest {seen} is not allowed")]
    Digest {
        /// Which event.
        position: usize,
        /// The step it stands at.
        name: String,
        /// Its digest.
        seen: Measurement,
    },
    /// The log gives it another type.
    #[error("event {position}, {name}: it is {seen}, not {wanted}")]
    Kind {
        /// Which event.
        position: usize,
        /// The step it stands at.
        name: String,
        /// What the log says.
        seen: EventKind,
        /// What the policy says.
        wanted: EventKind,
    },
    /// The log ends before this step.
    #[error("{name} was not measured")]
    Missing {
        /// Which step.
        name: String,
    },
    /// The log has more events than the policy has steps.
    #[error("event {position}, {kind} {digest}, is known to no step")]
    Unexpected {
        /// Which event.
        position: usize,
        /// What the log calls it.
        kind: EventKind,
        /// Its digest.
        digest: Measurement,
    },
}

impl EventPolicy {
    /// Checks that the policy can be meant.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), EventPolicyError> {
        if self.steps.is_empty() {
            return Err(EventPolicyError::Empty);
        }
        if self.steps.len() > MAX_STEPS {
            return Err(EventPolicyError::TooManySteps {
                count: self.steps.len(),
            });
        }
        for step in &self.steps {
            let name = || step.name.clone();
            if step.digests.len() > MAX_DIGESTS {
                return Err(EventPolicyError::TooManyDigests {
                    name: name(),
                    count: step.digests.len(),
                });
            }
            if step.digests.is_empty() != step.varies.is_some() {
                return Err(EventPolicyError::EitherOr { name: name() });
            }
            if step.optional && step.varies.is_some() {
                return Err(EventPolicyError::OptionalAny { name: name() });
            }
        }
        Ok(())
    }

    /// What is wrong with the log; empty if it is as the policy wants it. A policy that does not
    /// pass [`EventPolicy::check`] accepts nothing.
    #[must_use]
    pub fn judge(&self, log: &ProvenLog) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut events = log.replay().of_register(RTMR0).enumerate().peekable();
        for step in &self.steps {
            if step.optional
                && events
                    .peek()
                    .is_none_or(|(_, event)| !step.takes(event.digest))
            {
                continue;
            }
            let Some((position, event)) = events.next() else {
                findings.push(Finding::Missing {
                    name: step.name.clone(),
                });
                continue;
            };
            if event.kind != step.event {
                findings.push(Finding::Kind {
                    position,
                    name: step.name.clone(),
                    seen: event.kind,
                    wanted: step.event,
                });
            }
            if !step.takes(event.digest) {
                findings.push(Finding::Digest {
                    position,
                    name: step.name.clone(),
                    seen: event.digest,
                });
            }
        }
        findings.extend(events.map(|(position, event)| Finding::Unexpected {
            position,
            kind: event.kind,
            digest: event.digest,
        }));
        if findings.is_empty() && self.check().is_err() {
            findings.push(Finding::Missing {
                name: "a policy that can be meant".to_owned(),
            });
        }
        findings
    }

    /// A first policy from a log of a machine that its author trusts: what is made by the host may
    /// vary, all else is as in the log. To be read before it is shipped.
    #[must_use]
    pub fn drafted_from(log: &Replay) -> Self {
        let steps = log
            .of_register(RTMR0)
            .map(|event| {
                let varies = match event.kind {
                    EventKind::HANDOFF_TABLES2 => Some("the host lists the guest's memory"),
                    EventKind::PLATFORM_CONFIG_FLAGS => Some("the host makes ACPI tables"),
                    _ => None,
                };
                let content = event.content().to_string();
                Step {
                    name: if content.is_empty() {
                        event.kind.to_string()
                    } else {
                        content
                    },
                    event: event.kind,
                    digests: match varies {
                        None => vec![event.digest],
                        Some(_) => Vec::new(),
                    },
                    varies: varies.map(str::to_owned),
                    optional: false,
                }
            })
            .collect();
        Self { steps }
    }
}

impl Step {
    /// Neither digests nor a reason takes nothing.
    fn takes(&self, digest: Measurement) -> bool {
        self.varies.is_some() || self.digests.contains(&digest)
    }
}
