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

use crate::ask::{Address, AskError, ask, ask_surely, tell, tell_surely};
use crate::attestor::{Accepted, AcceptedOf, Attestor, binding};
use crate::cashier::paying::{CloseClientJob, LeaseChannel, LeasedChannel, Sign};
use crate::cashier::{Cashier, CashierError};
use crate::clock;
use crate::directory::{Directory, ListWorkers, PeerFailed, Serving};
use crate::gateway_port::{Completion, Finish, GatewayError, JobEvent, JobEvents, JobSubmission, Usage};
use crate::job::chat::{most_output_tokens, most_prompt_tokens};
use crate::job::pipe::{Pipe, Received};
use crate::job::{HANDSHAKE_LIMIT, WORKER_SILENCE_LIMIT};
use crate::mesh::{Mesh, OpenSession};
use crate::metrics::{Metrics, Side, TokenKind};
use crate::negotiator::{Negotiate, Negotiator, Unneeded};
use crate::router::{Explained, Pick, Router};
use cocoon_protocol::job::{
    ClientFrame, FinishReason, JobError, JobErrorCode, JobRequest, Outcome, WorkerFrame,
};
use cocoon_protocol::metering::Payer;
use cocoon_protocol::negotiation::{Candidate, LineVerdict, Offer, Refusal, ScoreLine, Wish};
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{Digest, JobId, ModelTerms, NanoTon, PeerId, TonAddress};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
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
pub async fn run(parts: ClientParts, job: JobId, chat: JobSubmission, events: JobEvents) -> Outcome {
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

    /// Finds an offer, waiting a little while everybody is busy: a slot that is promised to a client
    /// which chose another worker comes free within an offer's lifetime.
    async fn place(&self, events: &JobEvents) -> Result<Offer, (Outcome, GatewayError)> {
        let patience = tokio::time::Instant::now()
            .checked_add(PLACEMENT_PATIENCE)
            .unwrap_or_else(tokio::time::Instant::now);
        loop {
            match self.find_offer().await {
                Err((_, GatewayError::AllWorkersBusy { .. }))
                    if tokio::time::Instant::now() < patience && !events.is_cancelled() =>
                {
                    tokio::time::sleep(PLACEMENT_PAUSE).await;
                }
                found => return found,
            }
        }
    }

    async fn find_offer(&self) -> Result<Offer, (Outcome, GatewayError)> {
        let busy = |error: AskError| {
            (
                Outcome::Rejected(JobErrorCode::Overloaded),
                GatewayError::Internal {
                    reason: error.to_string(),
                },
            )
        };
        let model = self.chat.model.clone();
        let serving = ask(&self.parts.directory, Serving {
            model: model.clone(),
        })
        .await
        .map_err(busy)?;
        if serving.is_empty() {
            return Err((
                Outcome::Rejected(JobErrorCode::Overloaded),
                self.nobody().await.unwrap_or_else(|error| busy(error).1),
            ));
        }
        let context_tokens = serving
            .iter()
            .filter_map(|entry| entry.advert.model(&model))
            .map(|terms| terms.context_tokens)
            .max()
            .unwrap_or(0);
        let picked = ask(&self.parts.router, Pick {
            entries: serving,
            exclude: self.failed.clone(),
        })
        .await
        .map_err(busy)?;
        let candidates: Vec<_> = picked
            .iter()
            .filter_map(|entry| Candidate::of(entry, &model))
            .collect();
        let asked = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        let max_output_tokens = most_output_tokens(&self.chat).min(context_tokens);
        let wish = Wish {
            client: self.parts.peer,
            max_prompt_tokens: most_prompt_tokens(
                &self.chat,
                context_tokens.saturating_sub(max_output_tokens).saturating_add(1),
            ),
            max_output_tokens,
        };
        let found = ask(&self.parts.negotiator, Negotiate {
            job: self.job,
            wish,
            candidates,
        })
        .await
        .map_err(busy)?;
        let error = refusal(&model, asked, &found.lines);
        let _ = tell(&self.parts.router, Explained(self.job, found.lines));
        found
            .offer
            .ok_or((Outcome::Rejected(JobErrorCode::Overloaded), error))
    }

    /// Why no verified worker serves the model.
    async fn nobody(&self) -> Result<GatewayError, AskError> {
        let now = clock::now();
        let workers = ask(&self.parts.directory, ListWorkers).await?;
        let verified: Vec<_> = workers
            .iter()
            .filter(|entry| entry.is_verified(now))
            .collect();
        if verified.is_empty() {
            return Ok(GatewayError::NoVerifiedWorker {
                seen: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            });
        }
        let mut available: Vec<String> = verified
            .iter()
            .flat_map(|entry| entry.advert.models.iter().map(|terms| terms.id.clone()))
            .collect();
        available.sort();
        available.dedup();
        Ok(if available.contains(&self.chat.model) {
            // All that serve it are pausing after a failure.
            GatewayError::AllWorkersBusy {
                asked: 0,
                retry_after_ms: 1_000,
            }
        } else {
            GatewayError::UnknownModel {
                model: self.chat.model.clone(),
                available,
            }
        })
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
        let mut served = Served {
            channel,
            // No window on our side: every frame is paid at once, since the worker ends a job only
            // when all of it is paid and does not say which frame is the last.
            payer: Payer::new(offer.price, channel.signed, NanoTon::ZERO, needed),
            text: String::new(),
            frames: 0,
            receipt: None,
        };
        let attempt = self.converse(offer, &accepted, &mut served, events).await;
        let outcome = match &attempt {
            Attempt::Done(_) => Outcome::Completed,
            Attempt::Cancelled => Outcome::Cancelled,
            Attempt::Again(outcome, _) | Attempt::Final(outcome, _) => *outcome,
        };
        self.close(channel.address, outcome, served.receipt).await;
        attempt
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
                context_tokens: offer.max_prompt_tokens.saturating_add(offer.max_output_tokens),
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

    async fn close(&self, channel: TonAddress, outcome: Outcome, receipt: Option<SignedReceipt>) {
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

    async fn converse(
        &mut self,
        offer: &Offer,
        accepted: &Arc<Accepted>,
        served: &mut Served,
        events: &JobEvents,
    ) -> Attempt {
        let mut pipe = match timeout(HANDSHAKE_LIMIT, self.connect(offer, accepted)).await {
            Ok(Ok(pipe)) => pipe,
            Ok(Err(reason)) => return self.lost(offer.worker, served, &reason),
            Err(_) => return self.lost(offer.worker, served, "no handshake within the limit"),
        };
        let chat = match self.chat.encode() {
            Ok(chat) => chat,
            Err(error) => {
                return Attempt::Final(Outcome::Rejected(JobErrorCode::BadRequest), error.into());
            }
        };
        let request = JobRequest {
            job: self.job,
            offer: offer.id,
            channel: served.channel.address,
            chat,
        };
        let request_digest = Digest::sha256(&request.chat);
        if let Err(error) = pipe.send(&ClientFrame::Job(request).encode()).await {
            return self.lost(offer.worker, served, &error.to_string());
        }
        loop {
            let received = tokio::select! {
                biased;
                () = events.cancelled() => {
                    self.cancel(&mut pipe, offer, accepted, served, request_digest).await;
                    return Attempt::Cancelled;
                }
                received = timeout(WORKER_SILENCE_LIMIT, pipe.receive()) => received,
            };
            let frame = match received {
                Err(_) => {
                    let after_ms = u64::try_from(WORKER_SILENCE_LIMIT.as_millis()).unwrap_or(0);
                    return self.end(Outcome::TimedOut, GatewayError::TimedOut { after_ms });
                }
                Ok(Ok(Received::Frame(frame))) => frame,
                Ok(Ok(Received::Fin)) => {
                    return self.lost(offer.worker, served, "it ended the session too early");
                }
                Ok(Err(error)) => return self.lost(offer.worker, served, &error.to_string()),
            };
            match WorkerFrame::decode(&frame) {
                Ok(WorkerFrame::Accepted {
                    prompt_tokens,
                    paid_so_far,
                }) => {
                    if let Some(attempt) = self
                        .on_accepted(&mut pipe, offer, served, prompt_tokens, paid_so_far, events)
                        .await
                    {
                        return attempt;
                    }
                }
                Ok(WorkerFrame::Tokens { text, tokens }) => {
                    if let Some(attempt) = self
                        .on_tokens(&mut pipe, offer, served, text, tokens, events)
                        .await
                    {
                        return attempt;
                    }
                }
                Ok(WorkerFrame::Finished { finish, receipt }) => {
                    return self
                        .on_finished(&mut pipe, offer, accepted, served, finish, receipt, request_digest)
                        .await;
                }
                Ok(WorkerFrame::Failed { error, receipt }) => {
                    if let Some(receipt) = receipt
                        && check(&receipt, self, offer, accepted, served, request_digest).is_ok()
                    {
                        served.receipt = Some(receipt);
                    }
                    return self.worker_failed(offer, error);
                }
                Err(error) => return self.lost(offer.worker, served, &error.to_string()),
            }
        }
    }

    async fn connect(&self, offer: &Offer, accepted: &Accepted) -> Result<Pipe, String> {
        let stream = ask(&self.parts.mesh, OpenSession(offer.worker))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let claims = &accepted.bundle.claims;
        let mut rng = StdRng::from_os_rng();
        Pipe::connect(
            stream,
            &binding(self.parts.trust_domain, claims),
            &claims.noise_key,
            &claims.mlkem_key,
            &mut rng,
        )
        .await
        .map_err(|error| error.to_string())
    }

    async fn on_accepted(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        served: &mut Served,
        prompt_tokens: u32,
        paid_so_far: NanoTon,
        events: &JobEvents,
    ) -> Option<Attempt> {
        let worker = offer.worker;
        if paid_so_far > served.channel.signed {
            return Some(self.end(
                Outcome::Rejected(JobErrorCode::VoucherInvalid),
                GatewayError::PaymentFailed {
                    reason: format!(
                        "worker {worker} says it holds {paid_so_far}, we signed {}: this node's ledger may be an old copy",
                        served.channel.signed
                    ),
                },
            ));
        }
        if prompt_tokens > offer.max_prompt_tokens || served.payer.on_accepted(prompt_tokens).is_err() {
            return Some(self.lost(worker, served, "it miscounts the prompt"));
        }
        // What was signed and never arrived is owed all the same.
        if paid_so_far < served.channel.signed
            && let Some(newest) = served.channel.newest
            && let Err(error) = pipe.send(&ClientFrame::Voucher(newest).encode()).await
        {
            return Some(self.lost(worker, served, &error.to_string()));
        }
        let event = JobEvent::Accepted {
            worker,
            prompt_tokens,
        };
        // A reader that is gone is noticed by the loop.
        let _ = events.send(event).await;
        None
    }

    async fn on_tokens(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        served: &mut Served,
        text: String,
        tokens: u32,
        events: &JobEvents,
    ) -> Option<Attempt> {
        // Every frame but the last brings a token: so text is bounded by what was agreed, and a
        // worker cannot keep a job alive with frames of nothing.
        served.frames = served.frames.saturating_add(1);
        if served.frames > offer.max_output_tokens.saturating_add(1) {
            return Some(self.lost(offer.worker, served, "it sends more frames than tokens"));
        }
        let due = match served.payer.on_tokens(tokens) {
            Ok(due) => due,
            Err(error) => return Some(self.lost(offer.worker, served, &error.to_string())),
        };
        if !self.delivered && served.frames == 1 {
            let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.parts.metrics.first_token(Side::Client, elapsed);
        }
        self.parts
            .metrics
            .count_tokens(Side::Client, TokenKind::Completion, tokens);
        served.text.push_str(&text);
        if !text.is_empty() {
            self.delivered = true;
            // Waits while the reader is behind; a reader that is gone is noticed by the loop.
            let _ = events.send(JobEvent::Delta { text }).await;
        }
        match due {
            Some(cumulative) => self.pay(pipe, offer, served, cumulative).await,
            None => None,
        }
    }

    async fn pay(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        served: &Served,
        cumulative: NanoTon,
    ) -> Option<Attempt> {
        let sign = Sign {
            channel: served.channel.address,
            cumulative,
        };
        let signed = match ask_surely(&self.parts.cashier, sign).await {
            Ok(Ok(signed)) => signed,
            Ok(Err(error)) => {
                return Some(self.end(
                    Outcome::PaymentStalled,
                    GatewayError::PaymentFailed {
                        reason: error.to_string(),
                    },
                ));
            }
            Err(error) => {
                return Some(self.end(
                    Outcome::PaymentStalled,
                    GatewayError::PaymentFailed {
                        reason: error.to_string(),
                    },
                ));
            }
        };
        match pipe.send(&ClientFrame::Voucher(signed).encode()).await {
            Ok(()) => None,
            Err(error) => Some(self.lost(offer.worker, served, &error.to_string())),
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn on_finished(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        accepted: &Accepted,
        served: &mut Served,
        finish: FinishReason,
        receipt: SignedReceipt,
        request_digest: Digest,
    ) -> Attempt {
        let worker = offer.worker;
        if let Err(reason) = check(&receipt, self, offer, accepted, served, request_digest) {
            warn!(%worker, reason, "the receipt is wrong");
            return self.end(
                Outcome::WorkerLost,
                GatewayError::WorkerFailed {
                    peer: worker,
                    reason: format!("its receipt is wrong: {reason}"),
                },
            );
        }
        let leaf = receipt.leaf();
        served.receipt = Some(receipt);
        if pipe.send(&ClientFrame::Done.encode()).await.is_ok() {
            let _ = pipe.finish().await;
        }
        let usage = Usage {
            prompt_tokens: served.payer.prompt_tokens().unwrap_or(0),
            completion_tokens: served.payer.output_tokens(),
        };
        self.parts
            .metrics
            .count_tokens(Side::Client, TokenKind::Prompt, usage.prompt_tokens);
        Attempt::Done(Completion {
            finish: match finish {
                FinishReason::Length => Finish::Length,
                FinishReason::Stop | FinishReason::Cancelled => Finish::Stop,
            },
            usage,
            cost: served.payer.owed(),
            worker,
            receipt: leaf.to_string(),
        })
    }

    /// The asker is gone: pay for what arrived, say so, and take the receipt if it comes soon.
    async fn cancel(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        accepted: &Accepted,
        served: &mut Served,
        request_digest: Digest,
    ) {
        if let Some(due) = served.payer.on_end()
            && self.pay(pipe, offer, served, due).await.is_some()
        {
            return;
        }
        if pipe.send(&ClientFrame::Cancel.encode()).await.is_err() {
            return;
        }
        let last_words = async {
            while let Ok(Received::Frame(frame)) = pipe.receive().await {
                match WorkerFrame::decode(&frame) {
                    // Sent before the worker heard; received, so paid for.
                    Ok(WorkerFrame::Tokens { text, tokens }) => {
                        served.text.push_str(&text);
                        if served.payer.on_tokens(tokens).is_err() {
                            return;
                        }
                    }
                    Ok(
                        WorkerFrame::Finished { receipt, .. }
                        | WorkerFrame::Failed {
                            receipt: Some(receipt),
                            ..
                        },
                    ) => {
                        if check(&receipt, self, offer, accepted, served, request_digest).is_ok() {
                            served.receipt = Some(receipt);
                        }
                        return;
                    }
                    _ => return,
                }
            }
        };
        let _ = timeout(HANDSHAKE_LIMIT, last_words).await;
        let _ = pipe.finish().await;
    }

    fn worker_failed(&self, offer: &Offer, error: JobError) -> Attempt {
        let (outcome, failure) = match error.code {
            JobErrorCode::ContextTooLong => (
                Outcome::Rejected(error.code),
                GatewayError::ContextTooLong {
                    model: offer.model.clone(),
                    prompt_tokens: most_prompt_tokens(&self.chat, u32::MAX),
                    limit_tokens: offer.max_prompt_tokens,
                },
            ),
            JobErrorCode::BadRequest => (
                Outcome::Rejected(error.code),
                GatewayError::BadRequest {
                    field: None,
                    message: error.message,
                },
            ),
            code => (
                if code == JobErrorCode::Internal {
                    Outcome::EngineFailed
                } else {
                    Outcome::Rejected(code)
                },
                GatewayError::WorkerFailed {
                    peer: offer.worker,
                    reason: error.to_string(),
                },
            ),
        };
        match error.code {
            JobErrorCode::ContextTooLong | JobErrorCode::BadRequest => {
                Attempt::Final(outcome, failure)
            }
            _ => self.end(outcome, failure),
        }
    }

    fn lost(&self, worker: PeerId, served: &Served, reason: &str) -> Attempt {
        info!(%worker, reason, "worker lost");
        self.end(
            Outcome::WorkerLost,
            GatewayError::WorkerLost {
                peer: worker,
                tokens_received: served.payer.output_tokens(),
            },
        )
    }

    /// Elsewhere if nothing was delivered yet; else this is the end.
    fn end(&self, outcome: Outcome, error: GatewayError) -> Attempt {
        if self.delivered {
            Attempt::Final(outcome, error)
        } else {
            Attempt::Again(outcome, error)
        }
    }
}

/// What one attempt has brought so far.
struct Served {
    channel: LeasedChannel,
    payer: Payer,
    text: String,
    /// Frames of tokens that arrived.
    frames: u32,
    receipt: Option<SignedReceipt>,
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

/// Every way in which a receipt could say something else than what happened here.
fn check(
    signed: &SignedReceipt,
    run: &Run,
    offer: &Offer,
    accepted: &Accepted,
    served: &Served,
    request_digest: Digest,
) -> Result<(), &'static str> {
    let verified = signed.verify().map_err(|_| "its signature")?;
    let receipt: &Receipt = &verified;
    let claims = &accepted.bundle.claims;
    let checks = [
        (
            receipt.receipt_key.as_bytes() == &claims.receipt_key,
            "another key than the enclave's",
        ),
        (receipt.evidence == offer.evidence, "other evidence"),
        (receipt.job == run.job, "another job"),
        (receipt.worker == offer.worker, "another worker"),
        (receipt.client == run.parts.peer, "another client"),
        (receipt.model_digest == offer.model_digest, "another model"),
        (receipt.request_digest == request_digest, "another request"),
        (
            receipt.response_digest == Digest::sha256(served.text.as_bytes()),
            "another answer than arrived",
        ),
        (
            Some(receipt.prompt_tokens) == served.payer.prompt_tokens(),
            "another prompt length",
        ),
        (
            receipt.output_tokens == served.payer.output_tokens(),
            "another number of tokens than arrived",
        ),
        (receipt.price == offer.price, "another price"),
        (receipt.amount == served.payer.owed(), "another amount"),
        (
            receipt.channel == served.channel.address,
            "another channel",
        ),
        (
            receipt.cumulative <= served.payer.cumulative(),
            "more than was signed",
        ),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, what)) => Err(what),
    }
}

/// What the workers' refusals mean to the asker.
fn refusal(model: &str, asked: u32, lines: &[ScoreLine]) -> GatewayError {
    let too_long = lines.iter().find_map(|line| match line.verdict {
        LineVerdict::Refused(Refusal::TooLong { limit_tokens }) => Some(limit_tokens),
        _ => None,
    });
    match too_long {
        Some(limit_tokens) => GatewayError::ContextTooLong {
            model: model.to_owned(),
            prompt_tokens: limit_tokens.saturating_add(1),
            limit_tokens,
        },
        None => GatewayError::AllWorkersBusy {
            asked,
            retry_after_ms: 1_000,
        },
    }
}
