//! How jobs end.

use super::JobErrorCode;

/// How a job ended, at one end. Exactly one per job and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything was sent, and there is a receipt.
    Completed,
    /// The client wanted no more.
    Cancelled,
    /// The worker refused it before the first token.
    Rejected(JobErrorCode),
    /// The worker disappeared.
    WorkerLost,
    /// The client disappeared.
    ClientLost,
    /// The client stopped paying.
    PaymentStalled,
    /// The engine failed.
    EngineFailed,
    /// It took too long.
    TimedOut,
}

impl Outcome {
    /// Every label there is, for counters that should be there from the start.
    pub const LABELS: [&'static str; 8] = [
        "completed",
        "cancelled",
        "rejected",
        "worker_lost",
        "client_lost",
        "payment_stalled",
        "engine_failed",
        "timed_out",
    ];

    /// Its name, for metrics: one of [`Self::LABELS`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Rejected(_) => "rejected",
            Self::WorkerLost => "worker_lost",
            Self::ClientLost => "client_lost",
            Self::PaymentStalled => "payment_stalled",
            Self::EngineFailed => "engine_failed",
            Self::TimedOut => "timed_out",
        }
    }
}
