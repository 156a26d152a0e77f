//! A job at the worker: from an inbound stream to a stored receipt.
//!
//! ```text
//!   handshake ─► Job ─► redeem the offer ─► check the channel ─► prefill ─► Accepted
//!     ┌──────────────────────────────────────────────────────────────────────┘
//!     └► tokens ⇄ vouchers (each durable before the tokens that it unlocks) ─► last voucher
//!        ─► receipt, durable ─► Finished ─► Done
//! ```

mod door;
mod refusal;

pub use self::door::serve;
use self::refusal::{
    Refused, cashier_error, engine_failed, last_words, redeem_error, refuse, start_error,
};
use crate::ask::{Address, AskError, ask, ask_surely, tell_surely};
use crate::attestor::{Attestor, Enclave};
use crate::cashier::Cashier;
use crate::cashier::earning::{Accept, CloseWorkerJob, OpenWorkerJob, PayingChannel};
use crate::clock;
use crate::engine::{Embed, Engine, Generate, Said, StartError, Started};
use crate::gateway_port::JobSubmission;
use crate::job::chat::{Scopes, most_prompt_tokens, to_engine};
use crate::job::frames::Frames;
use crate::job::pipe::{Pipe, PipeError, Received};
use crate::job::{HANDSHAKE_LIMIT, VOUCHER_LIMIT};
use crate::metrics::{Metrics, Side, TokenKind};
use crate::negotiator::{Negotiator, Redeem, Release};
use cocoon_inference::EngineError;
use cocoon_protocol::job::{
    ClientFrame, FinishReason, JobError, JobErrorCode, JobRequest, Outcome, Tokens, WorkerFrame,
};
use cocoon_protocol::metering::Payee;
use cocoon_protocol::negotiation::{Lease, Offer};
use cocoon_protocol::receipt::{Ending, Receipt, SignedReceipt};
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::voucher::SignedVoucher;
use cocoon_protocol::{Digest, NanoTon, PeerId, PublicKey32};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

/// Vouchers that a client may send beyond one for each frame: the newest of the job before, and one
/// with which it ends this job early.
const SPARE_VOUCHERS: u32 = 2;

/// What a worker's jobs are done with.
#[derive(Clone)]
pub struct WorkerParts {
    /// This node.
    pub peer: PeerId,
    /// Keys and evidence.
    pub attestor: Address<Attestor>,
    /// Offers.
    pub negotiator: Address<Negotiator>,
    /// Channels, vouchers, receipts.
    pub cashier: Address<Cashier>,
    /// The model.
    pub engine: Address<Engine>,
    /// Counters.
    pub metrics: Metrics,
}

struct Job {
    parts: WorkerParts,
    scopes: Arc<Scopes>,
    client: PeerId,
    pipe: Pipe,
    enclave: Arc<Enclave>,
    request: JobRequest,
    started: UnixMillis,
}

impl Job {
    async fn run(mut self) {
        let redeem = Redeem {
            now: self.started,
            offer: self.request.offer,
            client: self.client,
        };
        let lease = match ask(&self.parts.negotiator, redeem).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return self.end_refused(redeem_error(error)).await,
            Err(error) => {
                return self
                    .end_refused(refuse(JobErrorCode::Overloaded, error))
                    .await;
            }
        };
        let offer_id = lease.offer.id;
        let outcome = self.leased(&lease).await;
        if self.comes_again(outcome) {
            info!("job sent away until its channel is on chain");
            self.parts.metrics.first_contact_refusals.inc();
        } else {
            info!(outcome = outcome.label(), "job ended");
            self.parts.metrics.job_ended(Side::Worker, outcome.label());
        }
        if let Err(error) = tell_surely(&self.parts.negotiator, Release(lease.id)).await {
            warn!(%error, %offer_id, "slot not released");
        }
    }

    /// Whether the client was told to wait for its channel: it comes again with the same job, which ends then.
    fn comes_again(&self, outcome: Outcome) -> bool {
        self.request.terms.is_some() && outcome == Outcome::Rejected(JobErrorCode::ChannelUnknown)
    }

    async fn end_refused(mut self, error: Refused) {
        info!(code = error.code.label(), "job refused");
        let outcome = Outcome::Rejected(error.code);
        self.say_failed(error, None).await;
        self.parts.metrics.job_ended(Side::Worker, outcome.label());
    }

    async fn say_failed(&mut self, error: JobError, receipt: Option<&SignedReceipt>) {
        let frame = WorkerFrame::Failed {
            error,
            receipt: receipt.cloned(),
        };
        if let Err(error) = self.pipe.send(&frame.encode()).await {
            debug!(%error, "the client did not hear of the failure");
            return;
        }
        let _ = self.pipe.finish().await;
    }

    /// With a slot.
    async fn leased(&mut self, lease: &Lease) -> Outcome {
        let _running = self.parts.metrics.running(Side::Worker);
        match self.prepare(lease).await {
            Err((outcome, error)) => {
                // Not the message: of a schema that makes no sense it may quote some.
                info!(code = error.code.label(), "job refused");
                if outcome != Outcome::ClientLost {
                    self.say_failed(error, None).await;
                }
                outcome
            }
            Ok(Begun {
                choices,
                started,
                payee,
            }) => {
                let Started {
                    prompt_tokens,
                    tokenizer,
                    mut steps,
                    ended,
                } = started;
                let mut serving = Serving {
                    lease,
                    prompt_tokens,
                    tokenizer,
                    payee,
                    answers: vec![String::new(); usize::from(choices)],
                    ids: vec![Vec::new(); usize::from(choices)],
                    frames: 0,
                    vouchers: 0,
                    fault: None,
                };
                let ending = self.serve(&mut steps, &mut serving).await;
                drop(steps);
                let outcome = self.close(serving, ending).await;
                // The slot that the negotiator gives away next must be free at the engine too.
                let _ = ended.await;
                outcome
            }
        }
    }

    /// Everything that can be refused, and nothing that costs much before something cheap. What
    /// was opened in the ledger is closed there with the outcome that is returned.
    async fn prepare(&mut self, lease: &Lease) -> Result<Begun, (Outcome, Refused)> {
        let rejected = |error: Refused| (Outcome::Rejected(error.code), error);
        let chat = JobSubmission::decode(&self.request.chat)
            .map_err(|error| rejected(refuse(JobErrorCode::BadRequest, error)))?;
        if chat.model != lease.offer.model {
            return Err(rejected(refuse(
                JobErrorCode::BadRequest,
                "the request is for another model than the offer",
            )));
        }
        let needed = lease
            .offer
            .worst_cost()
            .unwrap_or(NanoTon::from_nano(u64::MAX));
        let choices = chat.choices();
        // What was agreed is for all answers together.
        let most = lease.offer.max_output_tokens;
        let share = most.checked_div(u32::from(choices)).unwrap_or(0);
        if share == 0 {
            return Err(rejected(refuse(
                JobErrorCode::BadRequest,
                "the request is for more answers than the offer has tokens",
            )));
        }
        let open = OpenWorkerJob {
            job: self.request.job,
            client: self.client,
            channel: self.request.channel,
            needed,
            credit_window: lease.offer.credit_window,
            terms: self.request.terms,
        };
        let channel = ask(&self.parts.cashier, open)
            .await
            .map_err(|error| rejected(refuse(JobErrorCode::Overloaded, error)))?
            .map_err(|error| rejected(cashier_error(&error)))?;
        let constrained = chat
            .response_format
            .as_ref()
            .map(|format| format.parameter());
        let accepted = match self.start(chat, share, lease).await {
            Ok(Ok(started)) => self.accept(lease, &channel, started).await,
            Ok(Err(error)) => Err(rejected(start_error(&error, constrained))),
            Err(error) => Err(rejected(refuse(JobErrorCode::Overloaded, error))),
        };
        if let Err((outcome, _)) = &accepted {
            self.close_in_ledger(*outcome, None, NanoTon::ZERO).await;
        }
        let (started, payee) = accepted?;
        Ok(Begun {
            choices,
            started,
            payee,
        })
    }

    /// Gives the job to the engine, `share` tokens to each answer.
    async fn start(
        &mut self,
        chat: JobSubmission,
        share: u32,
        lease: &Lease,
    ) -> Result<Result<Started, StartError>, AskError> {
        let max_prompt_tokens = lease.offer.max_prompt_tokens;
        let most_tokens = most_prompt_tokens(&chat, u32::MAX);
        if let Some(wish) = chat.embedding {
            let embed = Embed {
                texts: wish.input,
                pooling: wish.pooling,
                most_tokens,
                max_prompt_tokens,
            };
            return ask(&self.parts.engine, embed).await;
        }
        let (messages, mut sampling) = to_engine(&chat);
        sampling.max_tokens = sampling.max_tokens.min(share);
        let generate = Generate {
            messages,
            sampling,
            max_prompt_tokens,
            choices: chat.choices(),
            scope: Some(self.scopes.of(&self.client)),
        };
        ask(&self.parts.engine, generate).await
    }

    /// Tells the client that the job begins.
    async fn accept(
        &mut self,
        lease: &Lease,
        channel: &PayingChannel,
        started: Started,
    ) -> Result<(Started, Payee), (Outcome, Refused)> {
        let Offer {
            price,
            credit_window,
            ..
        } = lease.offer;
        let mut payee = Payee::new(price, channel.held, channel.held, credit_window);
        payee
            .on_accepted(started.prompt_tokens)
            .map_err(|error| (Outcome::EngineFailed, refuse(JobErrorCode::Internal, error)))?;
        let frame = WorkerFrame::Accepted {
            prompt_tokens: started.prompt_tokens,
            paid_so_far: channel.held,
        };
        match self.pipe.send(&frame.encode()).await {
            Ok(()) => Ok((started, payee)),
            Err(error) => Err((Outcome::ClientLost, refuse(JobErrorCode::Internal, error))),
        }
    }

    /// Ends the job in the ledger, and frees its channel.
    async fn close_in_ledger(
        &mut self,
        outcome: Outcome,
        receipt: Option<SignedReceipt>,
        cost: NanoTon,
    ) {
        let close = CloseWorkerJob {
            job: self.request.job,
            channel: self.request.channel,
            outcome,
            receipt,
            cost,
        };
        match ask_surely(&self.parts.cashier, close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "job not closed in the ledger"),
            Err(error) => warn!(%error, "job not closed in the ledger"),
        }
    }

    /// Tokens out, vouchers in.
    async fn serve(
        &mut self,
        steps: &mut mpsc::Receiver<Result<Said, EngineError>>,
        serving: &mut Serving<'_>,
    ) -> Ending {
        let mut frames = Frames::new(serving.answers.len());
        loop {
            tokio::select! {
                biased;
                received = self.pipe.receive() => {
                    if let Some(ending) = self.on_frame(received, serving).await {
                        return ending;
                    }
                }
                step = steps.recv() => {
                    let full = match step {
                        Some(Ok(said)) => frames.push(said),
                        Some(Err(error)) => {
                            engine_failed(&error);
                            return Ending::EngineFailed;
                        }
                        None => return Ending::EngineFailed,
                    };
                    for frame in full {
                        if let Some(ending) = self.send_tokens(frame, serving).await {
                            return ending;
                        }
                    }
                    if let Some(ending) = frames.ending() {
                        return self.settle_up(serving, ending).await;
                    }
                }
            }
        }
    }

    /// Sends what is gathered, waiting for credit if need be.
    async fn send_tokens(&mut self, frame: Tokens, serving: &mut Serving<'_>) -> Option<Ending> {
        let tokens = frame.tokens;
        let deadline = voucher_deadline();
        while !serving.payee.may_send(tokens) {
            if let Some(ending) = self.await_voucher(serving, deadline).await {
                return Some(ending);
            }
        }
        if serving.frames == 0 {
            let elapsed = clock::now().saturating_since(self.started);
            self.parts.metrics.first_token(Side::Worker, elapsed);
        }
        serving.frames = serving.frames.saturating_add(1);
        if let Err(error) = serving.payee.sent(tokens) {
            warn!(%error, "tokens beyond the credit window");
            return Some(Ending::PaymentStalled);
        }
        if let Some(answer) = serving.answers.get_mut(usize::from(frame.choice)) {
            answer.push_str(&frame.text);
        }
        if let Some(ids) = serving.ids.get_mut(usize::from(frame.choice)) {
            ids.extend(&frame.ids);
        }
        let encoded = WorkerFrame::Tokens(frame).encode();
        if self.pipe.send(&encoded).await.is_err() {
            return Some(Ending::ClientLost);
        }
        self.parts
            .metrics
            .count_tokens(Side::Worker, TokenKind::Completion, tokens);
        None
    }

    /// Waits for the voucher that pays for the last tokens.
    async fn settle_up(&mut self, serving: &mut Serving<'_>, ending: Ending) -> Ending {
        let deadline = voucher_deadline();
        while serving.payee.unpaid() > NanoTon::ZERO {
            if let Some(broken) = self.await_voucher(serving, deadline).await {
                return broken;
            }
        }
        ending
    }

    /// The deadline is that of all the vouchers that are waited for together: many small ones do
    /// not keep a slot longer than none.
    async fn await_voucher(
        &mut self,
        serving: &mut Serving<'_>,
        deadline: Instant,
    ) -> Option<Ending> {
        match timeout_at(deadline, self.pipe.receive()).await {
            Ok(received) => self.on_frame(received, serving).await,
            Err(_) => Some(Ending::PaymentStalled),
        }
    }

    /// What the client says while tokens flow. `Some` ends the job.
    async fn on_frame(
        &mut self,
        received: Result<Received, PipeError>,
        serving: &mut Serving<'_>,
    ) -> Option<Ending> {
        let frame = match received {
            Ok(Received::Frame(frame)) => frame,
            Ok(Received::Fin) => return Some(Ending::ClientLost),
            Err(error) => {
                debug!(%error, "the client was lost");
                return Some(Ending::ClientLost);
            }
        };
        match ClientFrame::decode(&frame) {
            Ok(ClientFrame::Voucher(voucher)) => self.on_voucher(voucher, serving).await,
            Ok(ClientFrame::Cancel) => Some(Ending::Cancelled),
            // There is nothing to be done with before the receipt.
            Ok(ClientFrame::Job(_) | ClientFrame::Done) | Err(_) => {
                debug!("the client broke the session's rules");
                Some(Ending::ClientLost)
            }
        }
    }

    async fn on_voucher(
        &mut self,
        voucher: SignedVoucher,
        serving: &mut Serving<'_>,
    ) -> Option<Ending> {
        // Each costs a write to the disk, and comes before the next step of the model.
        serving.vouchers = serving.vouchers.saturating_add(1);
        if serving.vouchers > serving.frames.saturating_add(SPARE_VOUCHERS) {
            serving.fault = Some("more vouchers than there was to pay for".to_owned());
            return Some(Ending::PaymentStalled);
        }
        let accept = Accept {
            channel: self.request.channel,
            voucher,
        };
        // Durable first; only then does it count.
        let stored = match ask_surely(&self.parts.cashier, accept).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let counted = stored.and_then(|()| {
            serving
                .payee
                .on_voucher(voucher.voucher.cumulative)
                .map_err(|error| error.to_string())
        });
        match counted {
            Ok(_) => None,
            Err(error) => {
                warn!(%error, "voucher refused");
                serving.fault = Some(error);
                Some(Ending::PaymentStalled)
            }
        }
    }

    /// Receipt, outcome, and the last words.
    async fn close(&mut self, serving: Serving<'_>, ending: Ending) -> Outcome {
        let outcome = match ending {
            Ending::Stop | Ending::Length => Outcome::Completed,
            Ending::Cancelled => Outcome::Cancelled,
            Ending::ClientLost => Outcome::ClientLost,
            Ending::PaymentStalled => Outcome::PaymentStalled,
            Ending::EngineFailed => Outcome::EngineFailed,
            Ending::ShutDown => Outcome::Rejected(JobErrorCode::ShuttingDown),
        };
        let finish = match ending {
            Ending::Stop => Some(FinishReason::Stop),
            Ending::Length => Some(FinishReason::Length),
            Ending::Cancelled => Some(FinishReason::Cancelled),
            _ => None,
        };
        self.parts
            .metrics
            .count_tokens(Side::Worker, TokenKind::Prompt, serving.prompt_tokens);
        // A job that failed before it cost anything leaves no receipt.
        let receipt = if finish.is_none() && serving.payee.output_tokens() == 0 {
            None
        } else {
            match self.receipt(&serving, ending) {
                Ok(receipt) => Some(receipt),
                Err(error) => {
                    warn!(%error, "no receipt");
                    None
                }
            }
        };
        self.close_in_ledger(outcome, receipt.clone(), serving.payee.owed())
            .await;
        match (finish, receipt) {
            // Nobody is there to hear.
            _ if ending == Ending::ClientLost => {}
            (Some(finish), Some(receipt)) => self.say_finished(finish, receipt).await,
            (_, receipt) => {
                let error = last_words(ending, serving.fault);
                self.say_failed(error, receipt.as_ref()).await;
            }
        }
        outcome
    }

    async fn say_finished(&mut self, finish: FinishReason, receipt: SignedReceipt) {
        let frame = WorkerFrame::Finished { finish, receipt };
        if self.pipe.send(&frame.encode()).await.is_ok() && self.pipe.finish().await.is_ok() {
            // The client closes when it holds the receipt; it is on our disk either way.
            let _ = timeout(HANDSHAKE_LIMIT, self.pipe.receive()).await;
        }
    }

    fn receipt(
        &self,
        serving: &Serving<'_>,
        ending: Ending,
    ) -> Result<SignedReceipt, cocoon_protocol::WireError> {
        let offer = &serving.lease.offer;
        let salt = &self.request.salt;
        let output_tokens = serving.payee.output_tokens();
        Receipt {
            job: self.request.job,
            worker: self.parts.peer,
            client: self.client,
            model: offer.model.clone(),
            model_digest: offer.model_digest,
            evidence: self.enclave.evidence(),
            request_commitment: salt.request(&self.request.chat),
            response_commitment: salt.response(&serving.answers),
            prompt_tokens: serving.prompt_tokens,
            output_tokens,
            price: offer.price,
            amount: serving.payee.owed(),
            channel: self.request.channel,
            cumulative: serving.payee.cumulative(),
            ending,
            started: self.started,
            ended: clock::now(),
            receipt_key: PublicKey32::from_bytes(
                self.enclave.receipt_key.verifying_key().to_bytes(),
            ),
            tokens_commitment: salt.counted_tokens(&serving.ids, output_tokens),
            tokenizer: serving.tokenizer,
        }
        .sign(&self.enclave.receipt_key)
    }
}

/// A job that the engine has begun and the client has heard of.
struct Begun {
    choices: u8,
    started: Started,
    payee: Payee,
}

/// What is being served.
struct Serving<'a> {
    lease: &'a Lease,
    prompt_tokens: u32,
    /// Digest of the tokenizer that counts.
    tokenizer: Option<Digest>,
    payee: Payee,
    /// What was sent of each answer.
    answers: Vec<String>,
    /// The numbers of the tokens that were sent of each.
    ids: Vec<Vec<u32>>,
    /// Frames of tokens sent.
    frames: u32,
    /// Vouchers received.
    vouchers: u32,
    /// What was wrong with the last one.
    fault: Option<String>,
}

fn voucher_deadline() -> Instant {
    let now = Instant::now();
    now.checked_add(VOUCHER_LIMIT).unwrap_or(now)
}
