//! What can happen.
//!
//! Sessions carry these few messages and not the encoded frames of protocol/: no state machine looks
//! at text, and a signature that is always valid decides nothing. Adverts and offers are signed and
//! decoded for real, because the machines accept nothing else.

use std::rc::Rc;

use cocoon_protocol::negotiation::{Offer, QuoteRequest, Refusal};
use cocoon_protocol::wire::Verified;
use cocoon_protocol::{Advert, Digest, JobErrorCode, NanoTon};

/// An event. Nodes, jobs and sessions are named by their index. An `incarnation` counts the
/// processes a node has had: what was meant for an earlier one comes to nothing.
#[derive(Debug)]
pub(crate) enum Event {
    /// A worker tells everybody what it has.
    AdvertDue { worker: usize, incarnation: u64 },
    /// An advert reaches a client.
    AdvertArrives {
        client: usize,
        advert: Rc<Verified<Advert>>,
    },
    /// A client has fetched evidence and examined it.
    EvidenceExamined {
        client: usize,
        incarnation: u64,
        worker: usize,
        evidence: Digest,
        good: bool,
    },
    /// A client's directory looks at the clock.
    DirectoryTick { client: usize, incarnation: u64 },
    /// An application wants an answer.
    JobWanted { client: usize },
    /// A request for quote reaches a worker.
    QuoteAsked {
        job: usize,
        worker: usize,
        request: QuoteRequest,
    },
    /// The reply reaches the client.
    QuoteAnswered {
        job: usize,
        worker: usize,
        /// `None`: the worker could not be reached.
        reply: Option<Result<Box<Verified<Offer>>, Refusal>>,
    },
    /// A client's negotiation looks at the clock.
    NegotiationTick { job: usize },
    /// A message reaches the worker of a session.
    ToWorker { session: usize, message: ToWorker },
    /// The client of a session tries to redeem its offer once more.
    JobAgain { session: usize },
    /// A message reaches the client of a session.
    ToClient { session: usize, message: ToClient },
    /// The engine of a session's worker has made some tokens.
    Generated { session: usize, tokens: u32 },
    /// The worker of a session has waited for its client long enough. Counts only if it is still
    /// the same wait.
    WorkerImpatient { session: usize, wait: u64 },
    /// The client of a session looks at how long it has heard nothing.
    ClientImpatient { session: usize },
    /// The worker of a session learns that its client is gone.
    ClientGone { session: usize },
    /// The client of a session learns that its worker is gone.
    WorkerGone { session: usize },
    /// A worker's process dies.
    WorkerStops { worker: usize, incarnation: u64 },
    /// A worker's process starts again.
    WorkerStarts { worker: usize },
    /// A client's process dies.
    ClientStops { client: usize, incarnation: u64 },
    /// A client's process starts again.
    ClientStarts { client: usize },
}

/// What a client says in a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToWorker {
    /// The job, after the handshake.
    Job,
    /// A voucher for this total.
    Voucher(NanoTon),
    /// Stop.
    Cancel,
    /// The answer is complete and paid.
    Done,
}

/// What a worker says in a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToClient {
    /// The job runs.
    Accepted { prompt_tokens: u32 },
    /// So many tokens.
    Tokens(u32),
    /// The answer is complete.
    Finished,
    /// The job failed.
    Failed(JobErrorCode),
}

impl Event {
    /// Its name and numbers for the trace.
    pub(crate) fn fingerprint(&self) -> (&'static str, Vec<u64>) {
        match self {
            Self::AdvertDue {
                worker,
                incarnation,
            } => ("advert_due", vec![index(*worker), *incarnation]),
            Self::AdvertArrives { client, advert } => {
                ("advert_arrives", vec![index(*client), advert.sequence])
            }
            Self::EvidenceExamined {
                client,
                incarnation,
                worker,
                good,
                ..
            } => (
                "evidence_examined",
                vec![
                    index(*client),
                    *incarnation,
                    index(*worker),
                    u64::from(*good),
                ],
            ),
            Self::DirectoryTick {
                client,
                incarnation,
            } => ("directory_tick", vec![index(*client), *incarnation]),
            Self::JobWanted { client } => ("job_wanted", vec![index(*client)]),
            Self::QuoteAsked { job, worker, .. } => {
                ("quote_asked", vec![index(*job), index(*worker)])
            }
            Self::QuoteAnswered { job, worker, reply } => (
                "quote_answered",
                vec![
                    index(*job),
                    index(*worker),
                    u64::from(matches!(reply, Some(Ok(_)))),
                ],
            ),
            Self::NegotiationTick { job } => ("negotiation_tick", vec![index(*job)]),
            Self::ToWorker { session, message } => {
                let (kind, number) = match message {
                    ToWorker::Job => ("to_worker_job", 0),
                    ToWorker::Voucher(total) => ("to_worker_voucher", total.nano()),
                    ToWorker::Cancel => ("to_worker_cancel", 0),
                    ToWorker::Done => ("to_worker_done", 0),
                };
                (kind, vec![index(*session), number])
            }
            Self::JobAgain { session } => ("job_again", vec![index(*session)]),
            Self::ToClient { session, message } => {
                let (kind, number) = match message {
                    ToClient::Accepted { prompt_tokens } => {
                        ("to_client_accepted", u64::from(*prompt_tokens))
                    }
                    ToClient::Tokens(tokens) => ("to_client_tokens", u64::from(*tokens)),
                    ToClient::Finished => ("to_client_finished", 0),
                    ToClient::Failed(_) => ("to_client_failed", 0),
                };
                (kind, vec![index(*session), number])
            }
            Self::Generated { session, tokens } => {
                ("generated", vec![index(*session), u64::from(*tokens)])
            }
            Self::WorkerImpatient { session, wait } => {
                ("worker_impatient", vec![index(*session), *wait])
            }
            Self::ClientImpatient { session } => ("client_impatient", vec![index(*session)]),
            Self::ClientGone { session } => ("client_gone", vec![index(*session)]),
            Self::WorkerGone { session } => ("worker_gone", vec![index(*session)]),
            Self::WorkerStops {
                worker,
                incarnation,
            } => ("worker_stops", vec![index(*worker), *incarnation]),
            Self::WorkerStarts { worker } => ("worker_starts", vec![index(*worker)]),
            Self::ClientStops {
                client,
                incarnation,
            } => ("client_stops", vec![index(*client), *incarnation]),
            Self::ClientStarts { client } => ("client_starts", vec![index(*client)]),
        }
    }
}

fn index(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}
