//! A job at the client: from a chat request to a checked receipt.
//!
//! ```text
//!   verified workers ─► quotes ─► best offer ─► channel ─► handshake ─► Job
//!     ▲                                                       │ refused or lost before any text
//!     └──────────────── next best, or ask anew ◄──────────────┘
//!   tokens ⇄ vouchers ─► Finished ─► receipt checked, stored ─► Done
//! ```
//!
//! Once text was handed to the asker the job stays where it is: if the worker is lost then, it ends
//! in [`GatewayError::WorkerLost`], and only what arrived was paid for.

mod conversation;
mod placement;
mod receipt;
mod served;

use self::served::{Answer, Served};
use crate::ask::{Address, ask, ask_surely, tell, tell_surely};
use crate::attestor::{AcceptedOf, Attestor};
use crate::cashier::paying::{AwaitOpen, CloseClientJob, LeaseChannel, LeasedChannel};
use crate::cashier::{Cashier, CashierError};
use crate::clock;
use crate::directory::{Directory, PeerFailed};
use crate::gateway_port::{Completion, GatewayError, JobEvent, JobEvents, JobSubmission};
use crate::mesh::Mesh;
use crate::metrics::{Metrics, Side};
use crate::negotiator::{Negotiate, Negotiator, Unneeded};
use crate::router::Router;
use cocoon_protocol::job::{JobErrorCode, Outcome};
use cocoon_protocol::metering::Payer;
use cocoon_protocol::negotiation::{Candidate, Offer, Wish};
use cocoon_protocol::{Digest, JobId, ModelTerms, NanoTon, PeerId, Salt, TonAddress};
use cocoon_settlement::ledger::ReceiptFile;
use std::time::Duration;
use tracing::{debug, info, warn};

/// Workers that one job may be tried on.
pub const MAX_ATTEMPTS: u8 = 4;

/// Longest wait for a slot while all verified workers are busy.
pub const PLACEMENT_PATIENCE: Duration = Duration::from_secs(10);
/// An offer that binds no longer than this is renewed before the session is opened, ms.
const OFFER_MARGIN_MS: u64 = 100;
/// Pause between two rounds of quotes.
const PLACEMENT_PAUSE: Duration = Duration::from_millis(500);

/// The name of a job's attempt: every job in a ledger ends once, so a job that moves to another
/// worker is another job there. The first attempt has the job's own name.
#[must_use]
pub fn attempt_id(job: JobId, attempt: u8) -> JobId {
    let mut bytes = *job.as_bytes();
    if let Some(last) = bytes.last_mut() {
        *last ^= attempt;
    }
    JobId::from_bytes(bytes)
}

/// What a client's jobs are done with.
#[derive(Clone)]
pub struct ClientParts {
    /// This node.
    pub peer: PeerId,
    /// Trust domain that sessions are bound to.
    pub trust_domain: Digest,
    /// Streams.
    pub mesh: Address<Mesh>,
    /// Who exists.
    pub directory: Address<Directory>,
    /// Whose evidence was accepted.
    pub attestor: Address<Attestor>,
    /// Whom to ask.
    pub router: Address<Router>,
    /// Offers.
    pub negotiator: Address<Negotiator>,
    /// Channels and vouchers.
    pub cashier: Address<Cashier>,
    /// Counters.
    pub metrics: Metrics,
}

/// Runs a job to its one terminal event. Returns its outcome.
pub async fn run(
    parts: ClientParts,
    job: JobId,
    chat: JobSubmission,
    events: JobEvents,
) -> Outcome {
    let mut run = Run {
        parts,
        public_job: job,
        job,
        chat,
        started: std::time::Instant::now(),
        failed: Vec::new(),
        delivered: false,
    };
    let (outcome, last) = run.attempts(&events).await;
    info!(outcome = outcome.label(), "job ended");
    run.parts.metrics.job_ended(Side::Client, outcome.label());
    // A reader that is gone does not need the last event.
    let _ = events.send(last).await;
    outcome
}

struct Run {
    parts: ClientParts,
    /// The name that the asker knows.
    public_job: JobId,
    /// The name of this attempt, in ledgers and receipts.
    job: JobId,
    chat: JobSubmission,
    started: std::time::Instant,
    failed: Vec<PeerId>,
    /// Whether any text has reached the asker.
    delivered: bool,
}

/// How an attempt on one worker ended.
enum Attempt {
    Done(Completion),
    /// The asker is gone.
    Cancelled,
    /// Another worker may do better.
    Again(Outcome, GatewayError),
    /// It would be the same anywhere, or text was delivered.
    Final(Outcome, GatewayError),
}

impl Run {
    async fn attempts(&mut self, events: &JobEvents) -> (Outcome, JobEvent) {
        let mut last = None;
        for attempt in 0..MAX_ATTEMPTS {
            self.job = attempt_id(self.public_job, attempt);
            let offer = match self.place(events).await {
                Ok(offer) => offer,
                Err((outcome, error)) => {
                    // Say why the workers that were tried failed, not that nobody is left.
                    let (outcome, error) = last.unwrap_or((outcome, error));
                    return (outcome, JobEvent::Failed(error));
                }
            };
            let worker = offer.worker;
            if events.is_cancelled() {
                self.give_back(&offer).await;
                return cancelled();
            }
            match self.attempt(&offer, events).await {
                Attempt::Done(completion) => {
                    return (Outcome::Completed, JobEvent::Finished(completion));
                }
                Attempt::Cancelled => return cancelled(),
                Attempt::Final(outcome, error) => {
                    self.blame(worker, &outcome);
                    return (outcome, JobEvent::Failed(error));
                }
                Attempt::Again(outcome, error) => {
                    // Not the error itself: a worker's own words may be in it, and what a worker
                    // writes has no place in a log.
                    info!(%worker, outcome = outcome.label(), code = error.openai_code(), "trying another worker");
                    self.blame(worker, &outcome);
                    self.failed.push(worker);
                    last = Some((outcome, error));
                }
            }
            if events.is_cancelled() {
                return cancelled();
            }
        }
        let (outcome, error) = last.unwrap_or((
            Outcome::TimedOut,
            GatewayError::Internal {
                reason: "no attempt was made".to_owned(),
            },
        ));
        (outcome, JobEvent::Failed(error))
    }

    /// Tells the directory about a worker that broke its word; a typed refusal is no such thing.
    fn blame(&self, worker: PeerId, outcome: &Outcome) {
        if matches!(
            outcome,
            Outcome::WorkerLost | Outcome::TimedOut | Outcome::EngineFailed
        ) && let Err(error) = tell(&self.parts.directory, PeerFailed(worker))
        {
            debug!(%error, "failure not noted");
        }
    }

    async fn attempt(&mut self, offer: &Offer, events: &JobEvents) -> Attempt {
        let worker = offer.worker;
        let accepted = match ask(&self.parts.attestor, AcceptedOf(worker)).await {
            Ok(Some(accepted)) if accepted.bundle.claims.digest() == offer.evidence => accepted,
            _ => {
                self.give_back(offer).await;
                return Attempt::Again(
                    Outcome::WorkerLost,
                    GatewayError::WorkerFailed {
                        peer: worker,
                        reason: "its evidence is not the one that was verified".to_owned(),
                    },
                );
            }
        };
        let (channel, needed) = match self.lease_channel(offer).await {
            Ok(leased) => leased,
            Err(attempt) => {
                self.give_back(offer).await;
                return attempt;
            }
        };
        // Opening a channel takes a few blocks, in which the asker may have gone.
        if events.is_cancelled() {
            self.give_back(offer).await;
            self.close(channel.address, Outcome::Cancelled, None).await;
            return Attempt::Cancelled;
        }
        // And an offer may not outlive it.
        let renewed;
        let offer = if offer.expires <= clock::now().saturating_add(OFFER_MARGIN_MS) {
            match self.renew(offer).await {
                Some(fresh) => {
                    renewed = fresh;
                    &renewed
                }
                None => {
                    let outcome = Outcome::Rejected(JobErrorCode::OfferExpired);
                    self.close(channel.address, outcome, None).await;
                    return Attempt::Again(
                        outcome,
                        GatewayError::AllWorkersBusy {
                            asked: 1,
                            retry_after_ms: 1_000,
                        },
                    );
                }
            }
        } else {
            offer
        };
        let mut served = self.served(offer, channel, needed);
        let mut attempt = self.converse(offer, &accepted, &mut served, events).await;
        if channel.opening.is_some() && is_refused_for_its_channel(&attempt) {
            // As ever, then: the worker serves when it sees the channel, and is not to blame.
            match self.when_open(offer, channel).await {
                Ok((offer, channel)) => {
                    served = self.served(&offer, channel, needed);
                    attempt = self.converse(&offer, &accepted, &mut served, events).await;
                }
                Err(failed) => attempt = failed,
            }
        }
        let outcome = match &attempt {
            Attempt::Done(_) => Outcome::Completed,
            Attempt::Cancelled => Outcome::Cancelled,
            Attempt::Again(outcome, _) | Attempt::Final(outcome, _) => *outcome,
        };
        let receipt = served.receipt.map(|receipt| {
            Box::new(ReceiptFile {
                receipt,
                salt: served.salt,
                evidence: accepted.bundle.clone(),
            })
        });
        self.close(channel.address, outcome, receipt).await;
        attempt
    }

    fn served(&self, offer: &Offer, channel: LeasedChannel, needed: NanoTon) -> Served {
        Served {
            channel,
            // No window on our side: every frame is paid at once, since the worker ends a job only
            // when all of it is paid and does not say which frame is the last.
            payer: Payer::new(offer.price, channel.signed, NanoTon::ZERO, needed),
            salt: Salt::from_bytes(rand::random()),
            answers: vec![Answer::default(); usize::from(self.chat.choices())],
            frames: 0,
            receipt: None,
        }
    }

    /// Waits until the channel is open on chain, and asks for the slot anew: the refusal has used the offer up.
    async fn when_open(
        &self,
        offer: &Offer,
        channel: LeasedChannel,
    ) -> Result<(Offer, LeasedChannel), Attempt> {
        match ask_surely(&self.parts.cashier, AwaitOpen(channel.address)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(payment_attempt(&error)),
            Err(error) => return Err(payment_attempt_text(error.to_string())),
        }
        let channel = LeasedChannel {
            opening: None,
            ..channel
        };
        let fresh = self.renew(offer).await;
        let fresh = fresh.ok_or_else(|| {
            Attempt::Again(
                Outcome::Rejected(JobErrorCode::OfferExpired),
                GatewayError::AllWorkersBusy {
                    asked: 1,
                    retry_after_ms: 1_000,
                },
            )
        })?;
        Ok((fresh, channel))
    }

    /// A channel for the job, and the most that the job can cost.
    async fn lease_channel(&self, offer: &Offer) -> Result<(LeasedChannel, NanoTon), Attempt> {
        let Some(needed) = offer.worst_cost() else {
            return Err(Attempt::Again(
                Outcome::Rejected(JobErrorCode::Overloaded),
                GatewayError::WorkerFailed {
                    peer: offer.worker,
                    reason: "its price is beyond any amount".to_owned(),
                },
            ));
        };
        let lease = LeaseChannel {
            job: self.job,
            worker: offer.worker,
            payout: offer.payout,
            needed,
        };
        match ask(&self.parts.cashier, lease).await {
            Ok(Ok(channel)) => Ok((channel, needed)),
            Ok(Err(error)) => Err(payment_attempt(&error)),
            Err(error) => Err(payment_attempt_text(error.to_string())),
        }
    }

    /// Lets the worker have the slot back that it keeps for an offer which will not be taken up.
    async fn give_back(&self, offer: &Offer) {
        let unneeded = Unneeded {
            worker: offer.worker,
            offer: offer.id,
        };
        if let Err(error) = tell_surely(&self.parts.negotiator, unneeded).await {
            debug!(%error, "an offer is left to expire");
        }
    }

    /// The same worker's offer again, on terms no worse.
    async fn renew(&self, offer: &Offer) -> Option<Offer> {
        let candidate = Candidate {
            peer: offer.worker,
            evidence: offer.evidence,
            payout: offer.payout,
            terms: ModelTerms {
                id: offer.model.clone(),
                digest: offer.model_digest,
                context_tokens: offer
                    .max_prompt_tokens
                    .saturating_add(offer.max_output_tokens),
                price: offer.price,
            },
        };
        let negotiate = Negotiate {
            job: self.job,
            wish: Wish {
                client: self.parts.peer,
                max_prompt_tokens: offer.max_prompt_tokens,
                max_output_tokens: offer.max_output_tokens,
            },
            candidates: vec![candidate],
        };
        ask(&self.parts.negotiator, negotiate).await.ok()?.offer
    }

    async fn close(
        &self,
        channel: TonAddress,
        outcome: Outcome,
        receipt: Option<Box<ReceiptFile>>,
    ) {
        let close = CloseClientJob {
            job: self.job,
            channel,
            outcome,
            receipt,
        };
        match ask_surely(&self.parts.cashier, close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "job not closed in the ledger"),
            Err(error) => warn!(%error, "job not closed in the ledger"),
        }
    }
}

/// Whether the worker does not serve on a channel that it does not see. Before any text; the same job may be sent again.
fn is_refused_for_its_channel(attempt: &Attempt) -> bool {
    let refusal = Outcome::Rejected(JobErrorCode::ChannelUnknown);
    matches!(attempt, Attempt::Again(outcome, _) if *outcome == refusal)
}

/// The asker is gone, and so is whoever could read the event.
fn cancelled() -> (Outcome, JobEvent) {
    (
        Outcome::Cancelled,
        JobEvent::Failed(GatewayError::ShuttingDown),
    )
}

fn payment_attempt(error: &CashierError) -> Attempt {
    match error {
        CashierError::ChannelsBusy { .. } | CashierError::InUse(_) => Attempt::Again(
            Outcome::Rejected(JobErrorCode::Overloaded),
            GatewayError::AllWorkersBusy {
                asked: 1,
                retry_after_ms: 1_000,
            },
        ),
        _ => payment_attempt_text(error.to_string()),
    }
}

fn payment_attempt_text(reason: String) -> Attempt {
    Attempt::Final(
        Outcome::Rejected(JobErrorCode::ChannelUnderfunded),
        GatewayError::PaymentFailed { reason },
    )
}
