//! Actors with real parts around them: real contracts in a real TVM, real ledgers on disk, real
//! evidence under the simulated root, and a mesh of channels in the place of sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    unreachable_pub
)]

mod support;

mod closing;
mod earning;
mod engine;
mod log_watch;
mod paying;
mod pipe;
mod settling;

#[cfg(feature = "simulated-evidence")]
mod collateral;
#[cfg(feature = "simulated-evidence")]
mod finding_workers;
#[cfg(feature = "simulated-evidence")]
mod first_contact;
#[cfg(feature = "simulated-evidence")]
mod richer_jobs;
#[cfg(feature = "simulated-evidence")]
mod vault;
#[cfg(feature = "simulated-evidence")]
mod whole_jobs;
