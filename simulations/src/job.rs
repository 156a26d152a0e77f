//! Jobs and sessions as both of their ends see them. Each end changes only its own part.

use cocoon_protocol::negotiation::{Lease, Offer};
use cocoon_protocol::{NanoTon, Negotiation, Outcome, Payee, Payer, UnixMillis};

/// What a client wants: one answer.
pub(crate) struct Job {
    pub(crate) client: usize,
    pub(crate) wanted: UnixMillis,
    pub(crate) prompt_tokens: u32,
    /// How long the answer will be, whoever gives it.
    pub(crate) output_tokens: u32,
    pub(crate) fault: Option<PlannedFault>,
    pub(crate) negotiation: Option<Negotiation>,
    pub(crate) chosen: bool,
    pub(crate) first_token: bool,
    pub(crate) end: Option<End>,
}

/// Something that will go wrong in a job, once so many tokens have passed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedFault {
    pub(crate) kind: FaultKind,
    pub(crate) after_tokens: u32,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The worker's process dies after sending.
    WorkerStops,
    /// The client's process dies after receiving, before it signs.
    ClientStopsUnsigned,
    /// The client's process dies after receiving and signing.
    ClientStopsSigned,
    /// The client reads on and signs no more.
    ClientStopsPaying,
}

/// How a job ended for one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As protocol/ names it.
    Outcome(Outcome),
    /// Nobody made an offer that could be used.
    Unplaced,
    /// This side's own process died.
    Stopped,
}

impl End {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Outcome(outcome) => outcome.label(),
            Self::Unplaced => "unplaced",
            Self::Stopped => "process_stopped",
        }
    }
}

/// One attempt of a job at one worker.
pub(crate) struct Session {
    pub(crate) job: usize,
    pub(crate) client: usize,
    pub(crate) worker: usize,
    pub(crate) client_incarnation: u64,
    pub(crate) worker_incarnation: u64,
    pub(crate) offer: Offer,
    pub(crate) client_end: ClientEnd,
    /// There once the offer is redeemed.
    pub(crate) worker_end: Option<WorkerEnd>,
}

/// What the client knows of a session.
pub(crate) struct ClientEnd {
    pub(crate) payer: Payer,
    pub(crate) prompt_tokens: u32,
    pub(crate) received: u32,
    pub(crate) last_heard: UnixMillis,
    pub(crate) open: bool,
}

/// What the worker knows of a session.
pub(crate) struct WorkerEnd {
    pub(crate) payee: Payee,
    pub(crate) lease: Option<Lease>,
    pub(crate) prompt_tokens: u32,
    /// Voucher total held when the job began.
    pub(crate) base: NanoTon,
    /// Voucher total held now.
    pub(crate) held: NanoTon,
    /// Tokens made and not sent.
    pub(crate) in_hand: u32,
    pub(crate) sent: u32,
    /// Tokens still to be made.
    pub(crate) to_make: u32,
    pub(crate) finished: bool,
    /// Counts the times it began to wait for the client.
    pub(crate) wait: u64,
    pub(crate) waiting: bool,
    pub(crate) worst_exposure: NanoTon,
    pub(crate) end: Option<End>,
}
