//! What must never happen, each with the numbers that show it.

use cocoon_protocol::units::NanoTon;
use serde::Serialize;
use thiserror::Error;

/// One thing that must never happen and did. Nodes and jobs are named by their index.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// A worker served beyond its credit window.
    #[error("job {job}: the worker is {exposure} ahead, its window is {window}")]
    ExposureAboveWindow {
        /// Which job.
        job: usize,
        /// What it served and holds no voucher for.
        exposure: NanoTon,
        /// What it may be ahead.
        window: NanoTon,
    },
    /// A client signed for tokens that it has not received.
    #[error("client {client} signed {signed} to worker {worker} and received {received}")]
    PaidForNothing {
        /// Who signed.
        client: usize,
        /// To whom.
        worker: usize,
        /// The newest cumulative amount.
        signed: NanoTon,
        /// Cost of all tokens that arrived.
        received: NanoTon,
    },
    /// A worker holds more than was signed.
    #[error("worker {worker} holds {held} of client {client}, who signed {signed}")]
    HeldUnsigned {
        /// Who signed.
        client: usize,
        /// Who holds.
        worker: usize,
        /// The newest cumulative amount signed.
        signed: NanoTon,
        /// The newest cumulative amount held.
        held: NanoTon,
    },
    /// What was signed is not what is held and what was lost on the way.
    #[error("client {client} to worker {worker}: signed {signed}, held {held}, lost {lost}")]
    MoneyDoesNotAddUp {
        /// Who signed.
        client: usize,
        /// Who holds.
        worker: usize,
        /// The newest cumulative amount signed.
        signed: NanoTon,
        /// The newest cumulative amount held.
        held: NanoTon,
        /// What only vouchers said that never arrived.
        lost: NanoTon,
    },
    /// One offer was redeemed twice.
    #[error("job {job}: worker {worker} leased one offer twice")]
    DoubleLease {
        /// The second job.
        job: usize,
        /// Who leased.
        worker: usize,
    },
    /// A worker has more leases than slots.
    #[error("worker {worker} has {live} leases and {slots} slots")]
    TooManyLeases {
        /// Who leased.
        worker: usize,
        /// Leases now.
        live: u64,
        /// Slots.
        slots: u64,
    },
    /// A lease was never given back.
    #[error("worker {worker} has {left} leases left at the end")]
    LeaseLeft {
        /// Who leased.
        worker: usize,
        /// How many.
        left: u64,
    },
    /// A job ended twice for one side.
    #[error("job {job} ended as {first} and again as {second} for the {side}")]
    TwoOutcomes {
        /// Which job.
        job: usize,
        /// For whom.
        side: Side,
        /// The outcome it had.
        first: &'static str,
        /// The outcome it got.
        second: &'static str,
    },
    /// A job never ended for one side.
    #[error("job {job} never ended for the {side}")]
    NoOutcome {
        /// Which job.
        job: usize,
        /// For whom.
        side: Side,
    },
    /// A state machine of protocol/ refused what an honest node gave it.
    #[error("job {job}: the {side} was refused an honest step: {reason}")]
    HonestStepRefused {
        /// Which job.
        job: usize,
        /// Whose step.
        side: Side,
        /// The machine's own words.
        reason: String,
    },
    /// A codec of protocol/ refused what an honest node said.
    #[error("a message of an honest node was refused: {reason}")]
    HonestMessageRefused {
        /// The codec's own words.
        reason: String,
    },
}

/// An end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Who asked and pays.
    Client,
    /// Who answers and is paid.
    Worker,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Worker => "worker",
        })
    }
}
