//! Finding a worker for a job.

use super::{PLACEMENT_PATIENCE, PLACEMENT_PAUSE, Run};
use crate::ask::{AskError, ask, tell};
use crate::clock;
use crate::directory::{ListWorkers, Serving};
use crate::gateway_port::{GatewayError, JobEvents};
use crate::job::chat::{most_output_tokens, most_prompt_tokens};
use crate::negotiator::Negotiate;
use crate::router::{Explained, Pick};
use cocoon_protocol::job::{JobErrorCode, Outcome};
use cocoon_protocol::negotiation::{Candidate, LineVerdict, Offer, Refusal, ScoreLine, Wish};

impl Run {
    /// Finds an offer, waiting a little while everybody is busy: a slot that is promised to a client
    /// which chose another worker comes free within an offer's lifetime.
    pub(super) async fn place(&self, events: &JobEvents) -> Result<Offer, (Outcome, GatewayError)> {
        let patience = tokio::time::Instant::now()
            .checked_add(PLACEMENT_PATIENCE)
            .unwrap_or_else(tokio::time::Instant::now);
        loop {
            match self.find_offer().await {
                Err((_, GatewayError::AllWorkersBusy { .. }))
                    if tokio::time::Instant::now() < patience
                        && !events.is_cancelled()
                        && self.is_anybody_left().await =>
                {
                    tokio::time::sleep(PLACEMENT_PAUSE).await;
                }
                found => return found,
            }
        }
    }

    /// Whether a verified worker serves the model and has not failed this job, be it busy or pausing
    /// after a failure: else there is nothing to wait for.
    async fn is_anybody_left(&self) -> bool {
        let now = clock::now();
        let workers = ask(&self.parts.directory, ListWorkers).await;
        workers.unwrap_or_default().iter().any(|entry| {
            entry.is_verified(now)
                && entry.advert.model(&self.chat.model).is_some()
                && !self.failed.contains(&entry.advert.peer)
        })
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
        let serving = ask(
            &self.parts.directory,
            Serving {
                model: model.clone(),
            },
        )
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
        let picked = ask(
            &self.parts.router,
            Pick {
                entries: serving,
                exclude: self.failed.clone(),
            },
        )
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
                context_tokens
                    .saturating_sub(max_output_tokens)
                    .saturating_add(1),
            ),
            max_output_tokens,
        };
        let found = ask(
            &self.parts.negotiator,
            Negotiate {
                job: self.job,
                wish,
                candidates,
            },
        )
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
