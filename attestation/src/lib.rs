//! Evidence in, verdict out.
//!
//! A worker shows an [`EvidenceBundle`]: a TDX quote, the collateral to check it with, and the
//! claims that the quote's `report_data` is a hash of. A [`Verifier`] turns it into a [`Verdict`],
//! a list of named factors that pass, fail or are skipped, each with its reason. A skipped factor
//! never counts as passed, and a verdict accepts only if every required factor passed.
//!
//! # Order
//! Cheapest first, because a bad bundle costs a stranger nothing to make: size, structure (1 µs),
//! claims, measurements, collateral, then signatures (0.6 ms with optimisation) and last the GPUs'
//! (milliseconds each). The first
//! stage with a failure ends the work; what comes later is listed as skipped, "not reached".
//!
//! # What a verdict rests on
//! - The chain of signatures from one pinned root ([`Trust`]), checked by `dcap-qvl` and appraised by
//!   the [`Policy`]; by default only `UpToDate` is taken.
//! - `report_data`, which binds the worker's keys, peer id, model, configuration and a recent
//!   block; so a quote cannot be moved to another peer, key, model or hour.
//! - RTMR3, which the guest extends with model and configuration before it opens the network.
//!
//! # What it does not prove
//! Somebody with the machine in their hands and an interposer on its memory bus can extract the
//! keys that sign quotes ("TEE.fail", 2025). No software check sees that. GPU evidence has a verifier
//! of its own in [`gpu`]; [`Verifier`] does not call it yet, so a bundle that claims some is refused.
//!
//! # Simulation
//! With the feature `simulated-evidence` there is a second root, `Trust::Simulated`, which gives no
//! security at all. The type [`Attested`] keeps the results of the two apart.
//!
//! # Which images
//! A policy names the images it allows. Instead of by a list, an image can be admitted by the public record of it, a
//! transparency log that several people signed after building the image themselves: [`log`].
//!
//! There is no clock and no network here. Files are read in a guest only: by
//! [`source::ConfigfsTsmSource`], [`launch`] and [`event_log::read_log`].
//!
//! [`EvidenceBundle`]: cocoon_protocol::evidence::EvidenceBundle

pub mod admission;
mod advice;
pub mod budget;
pub mod cache;
pub mod census;
pub mod check;
pub mod event_log;
mod findings;
pub mod gpu;
pub mod launch;
pub mod launch_measure;
pub mod log;
pub mod measurement;
pub mod memory;
pub mod policy;
pub mod provisioning;
pub mod shelf;
pub mod source;
pub mod trust;
pub mod vault;
pub mod verdict;
pub mod verifier;

pub use admission::{Admission, AdmissionConfig, OverBudget};
pub use census::Census;
pub use check::{Check, UnknownCheck};
pub use measurement::Measurement;
pub use memory::Memory;
pub use policy::{Image, Policy, PolicyError};
pub use shelf::{CollateralFacts, Shelf, Shelved};
#[cfg(feature = "simulated-evidence")]
pub use source::SimulatedSource;
pub use source::{ConfigfsTsmSource, EvidenceError, EvidenceSource};
#[cfg(feature = "simulated-evidence")]
pub use trust::Simulated;
pub use trust::{Attested, Intel, NotAttested, Trust, TrustError};
pub use verdict::{Factor, FactorResult, VERDICT_FORMAT, Verdict};
pub use verifier::{Expectation, GpuReferences, Verifier};
