//! Talking to the worker: frames in, vouchers out, and the receipt at the end.

use super::receipt::Happened;
use super::served::Served;
use super::{Attempt, Run};
use crate::ask::{ask, ask_surely};
use crate::attestor::{Accepted, binding};
use crate::cashier::paying::Sign;
use crate::gateway_port::{Completion, Delta, GatewayError, JobEvent, JobEvents, Usage};
use crate::job::chat::most_prompt_tokens;
use crate::job::embedding::{self, MAX_EMBEDDING_FRAMES};
use crate::job::pipe::{Pipe, Received};
use crate::job::{HANDSHAKE_LIMIT, WORKER_SILENCE_LIMIT};
use crate::mesh::OpenSession;
use crate::metrics::{Side, TokenKind};
use cocoon_protocol::job::{
    ClientFrame, FinishReason, JobError, JobErrorCode, JobRequest, Outcome, Tokens, WorkerFrame,
};
use cocoon_protocol::negotiation::Offer;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{Digest, NanoTon, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use tokio::time::timeout;
use tracing::{info, warn};

impl Run {
    pub(super) async fn converse(
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
            salt: served.salt,
            terms: served.channel.opening,
        };
        let asked = served.salt.request(&request.chat);
        if let Err(error) = pipe.send(&ClientFrame::Job(request).encode()).await {
            return self.lost(offer.worker, served, &error.to_string());
        }
        loop {
            let received = tokio::select! {
                biased;
                () = events.cancelled() => {
                    self.cancel(&mut pipe, offer, accepted, served, asked).await;
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
                Ok(WorkerFrame::Tokens(tokens)) => {
                    if let Some(attempt) = self
                        .on_tokens(&mut pipe, offer, served, tokens, events)
                        .await
                    {
                        return attempt;
                    }
                }
                Ok(WorkerFrame::Finished { finish, receipt }) => {
                    return self
                        .on_finished(
                            &mut pipe, offer, accepted, served, finish, receipt, asked, events,
                        )
                        .await;
                }
                Ok(WorkerFrame::Failed { error, receipt }) => {
                    if let Some(receipt) = receipt
                        && self.check(&receipt, offer, accepted, served, asked).is_ok()
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
        if prompt_tokens > offer.max_prompt_tokens
            || served.payer.on_accepted(prompt_tokens).is_err()
        {
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
        frame: Tokens,
        events: &JobEvents,
    ) -> Option<Attempt> {
        let tokens = frame.tokens;
        // Every frame but each answer's last brings a token: so text is bounded by what was agreed, and
        // a worker cannot keep a job alive with frames of nothing. Embeddings have a bound of their own.
        served.frames = served.frames.saturating_add(1);
        let most = match self.chat.embedding {
            Some(_) => MAX_EMBEDDING_FRAMES,
            None => {
                let last = u32::from(self.chat.choices());
                offer.max_output_tokens.saturating_add(last)
            }
        };
        if served.frames > most {
            return Some(self.lost(offer.worker, served, "it sends more frames than tokens"));
        }
        // A prompt shorter than was offered leaves room under the price, which is not for more tokens.
        let output_tokens = served.payer.output_tokens().saturating_add(tokens);
        if output_tokens > offer.max_output_tokens {
            return Some(self.lost(offer.worker, served, "it sends more tokens than it offered"));
        }
        if let Err(reason) = served.keep(&frame, &self.chat) {
            return Some(self.lost(offer.worker, served, reason));
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
        let Tokens {
            text,
            choice,
            logprobs,
            ids,
            ..
        } = frame;
        // Embeddings are handed over when all are there.
        if self.chat.embedding.is_none()
            && !(text.is_empty() && logprobs.is_empty() && ids.is_empty())
        {
            self.delivered = true;
            let delta = Delta {
                choice,
                text,
                logprobs,
                ids,
            };
            // Waits while the reader is behind; a reader that is gone is noticed by the loop.
            let _ = events.send(JobEvent::Delta(delta)).await;
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
        asked: Digest,
        events: &JobEvents,
    ) -> Attempt {
        let worker = offer.worker;
        if let Err(reason) = self.check(&receipt, offer, accepted, served, asked) {
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
        if let Err(error) = self.hand_over_embeddings(served, events).await {
            warn!(%worker, %error, "the embeddings are wrong");
            return self.end(
                Outcome::WorkerLost,
                GatewayError::WorkerFailed {
                    peer: worker,
                    reason: format!("what it sent is wrong: {error}"),
                },
            );
        }
        let usage = Usage {
            prompt_tokens: served.payer.prompt_tokens().unwrap_or(0),
            completion_tokens: served.payer.output_tokens(),
        };
        self.parts
            .metrics
            .count_tokens(Side::Client, TokenKind::Prompt, usage.prompt_tokens);
        Attempt::Done(Completion {
            finishes: served.finishes(finish),
            usage,
            cost: served.payer.owed(),
            worker,
            receipt: leaf.to_string(),
        })
    }

    /// All of them at once, if that is what the job is for.
    async fn hand_over_embeddings(
        &mut self,
        served: &Served,
        events: &JobEvents,
    ) -> Result<(), embedding::EmbeddingError> {
        let Some(wish) = &self.chat.embedding else {
            return Ok(());
        };
        let text = served.answers.first().map_or("", |answer| &answer.text);
        let embeddings = embedding::decode(text, wish.input.len())?;
        self.delivered = true;
        // A reader that is gone has no use for them.
        let _ = events.send(JobEvent::Embeddings(embeddings)).await;
        Ok(())
    }

    /// The asker is gone: pay for what arrived, say so, and take the receipt if it comes soon.
    async fn cancel(
        &mut self,
        pipe: &mut Pipe,
        offer: &Offer,
        accepted: &Accepted,
        served: &mut Served,
        asked: Digest,
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
                    Ok(WorkerFrame::Tokens(frame)) => {
                        if served.keep(&frame, &self.chat).is_err()
                            || served.payer.on_tokens(frame.tokens).is_err()
                        {
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
                        if self.check(&receipt, offer, accepted, served, asked).is_ok() {
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

    fn check(
        &self,
        receipt: &SignedReceipt,
        offer: &Offer,
        accepted: &Accepted,
        served: &Served,
        asked: Digest,
    ) -> Result<(), &'static str> {
        let happened = Happened {
            job: self.job,
            client: self.parts.peer,
            offer,
            claims: &accepted.bundle.claims,
            asked,
            served,
        };
        happened.check(receipt)
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
                    field: blamed(&error.message).map(str::to_owned),
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

/// The parameter that a worker's refusal names at its beginning, if it is one of those that only an engine can
/// judge.
fn blamed(message: &str) -> Option<&'static str> {
    const JUDGED_BY_ENGINES: [&str; 4] = [
        "response_format",
        "guided_regex",
        "guided_grammar",
        "logit_bias",
    ];
    let (name, _) = message.split_once(':')?;
    JUDGED_BY_ENGINES.into_iter().find(|known| *known == name)
}
