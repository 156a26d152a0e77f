//! Evidence in, verdict out.
//!
//! A worker shows an [`EvidenceBundle`]: a TDX quote, the collateral to check it with, and the
//! claims that the quote's `report_data` is a hash of. A [`Verifier`] turns it into a [`Verdict`],
//! a list of named factors that pass, fail or are skipped, each with its reason. A skipped factor
//! never counts as passed, and a verdict accepts only if every required factor passed.
//!
//! # Order
//! Cheapest first, because a bad bundle costs a stranger nothing to make: size, structure (1 µs),
//! claims, measurements, collateral, and only then signatures (0.6 ms with optimisation). The first
//! stage with a failure ends the work; what comes later is listed as skipped, "not reached".
//!
//! # What a verdict rests on
//! - The chain of signatures from one pinned root ([`Trust`]), appraised by `dcap-qvl` under its
//!   strict policy: only `UpToDate`.
//! - `report_data`, which binds the worker's keys, peer id, model, configuration and a recent
//!   block; so a quote cannot be moved to another peer, key, model or hour.
//! - RTMR3, which the guest extends with model and configuration before it opens the network.
//!
//! # What it does not prove
//! Somebody with the machine in their hands and an interposer on its memory bus can extract the
//! keys that sign quotes ("TEE.fail", 2025). No software check sees that. GPU evidence is not
//! verified yet: a bundle that claims some is refused.
//!
//! # Simulation
//! With the feature `simulated-evidence` there is a second root, `Trust::Simulated`, which gives no
//! security at all. The type [`Attested`] keeps the results of the two apart.
//!
//! There is no clock and no network here. Files are read by [`source::ConfigfsTsmSource`] only.
//!
//! [`EvidenceBundle`]: cocoon_protocol::evidence::EvidenceBundle

pub mod admission;
pub mod budget;
pub mod cache;
pub mod launch;
pub mod measurement;
pub mod policy;
pub mod source;
pub mod trust;
pub mod vault;
pub mod verdict;
pub mod verifier;

pub use admission::{Admission, AdmissionConfig, OverBudget};
pub use measurement::Measurement;
pub use policy::{Image, Policy, PolicyError};
#[cfg(feature = "simulated-evidence")]
pub use source::SimulatedSource;
pub use source::{ConfigfsTsmSource, EvidenceError, EvidenceSource};
#[cfg(feature = "simulated-evidence")]
pub use trust::Simulated;
pub use trust::{Attested, Intel, NotAttested, Trust, TrustError};
pub use verdict::{Check, Factor, FactorResult, Verdict};
pub use verifier::{Expectation, Verifier};
