//! `POST /v1/chat/completions`: one job, answered whole or as server-sent events.
//!
//! A stream starts only when a worker has accepted the job, so what goes wrong before that is an
//! ordinary HTTP error with its own status. What goes wrong later is an event
//! `data: {"error":{…}}` and the end of the stream, without `[DONE]`: `OpenAI`'s SDKs raise an API
//! error on such an event, and a program that only looks for `[DONE]` sees that it never came.
//!
//! When the caller goes away, hyper drops the response (or the handler), which drops the
//! [`JobHandle`], which cancels the job.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cocoon_actors::gateway_port::{
    Completion, Delta as Said, Finish, GatewayError, JobEvent, JobHandle, PositionLogprobs,
};
use futures::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::HttpState;
use super::error::ApiError;
use super::intake::{JOB_HEADER, RECEIPT_HEADER, json_body, permit};
use super::openai::reply::{
    AssistantMessage, Chunk, ChunkChoice, Delta, Extension, Head, Logprobs, Whole, WholeChoice,
    completion_id,
};
use super::openai::request::{self, ChatRequest};

/// Most text of all answers that is gathered for a caller who does not stream, bytes. A worker is
/// paid by the token; this bounds what it may call a token.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// The same for log-probabilities, as the wire counts them. Numbers of tokens have the bound of the text.
const MAX_LOGPROB_BYTES: usize = 32 * 1024 * 1024;

/// The handler.
pub(super) async fn create(
    State(state): State<Arc<HttpState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let gateway = state.gateway()?;
    let body = json_body(&state, request).await?;
    let ChatRequest {
        submission,
        stream,
        include_usage,
        token_ids,
    } = request::parse(&body)?;
    drop(body);
    let permit = permit(&state)?;

    let model = submission.model.clone();
    let (choices, wants_logprobs) = (submission.choices(), submission.top_logprobs.is_some());
    let job = gateway.submit(submission).await?;
    let answer = Answer {
        head: Head {
            id: completion_id(job.job()),
            object: if stream {
                "chat.completion.chunk"
            } else {
                "chat.completion"
            },
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| elapsed.as_secs()),
            model,
        },
        job,
        choices,
        wants_logprobs,
        wants_ids: token_ids,
        _permit: permit,
    };
    let name = answer.job.job().to_string();
    let mut response = if stream {
        let keep_alive = KeepAlive::new()
            .interval(state.limits.keep_alive)
            .text("keep-alive");
        answer.streamed(include_usage, keep_alive).await?
    } else {
        answer.whole().await?
    };
    if let Ok(value) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(JOB_HEADER, value);
    }
    Ok(response)
}

/// A job on its way to an HTTP response.
struct Answer {
    head: Head,
    job: JobHandle,
    choices: u8,
    wants_logprobs: bool,
    wants_ids: bool,
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut gathered = Gathered::new(self.choices);
        while let Some(event) = self.job.next().await {
            match event {
                // A conversation has no embeddings.
                JobEvent::Accepted { .. } | JobEvent::Embeddings(_) => {}
                JobEvent::Delta(delta) => gathered.push(delta)?,
                JobEvent::Finished(completion) => {
                    let whole = Json(self.completed(&gathered, &completion));
                    let mut response = whole.into_response();
                    if let Ok(value) = HeaderValue::from_str(&completion.receipt) {
                        response.headers_mut().insert(RECEIPT_HEADER, value);
                    }
                    return Ok(response);
                }
                JobEvent::Failed(error) => return Err(error.into()),
            }
        }
        // `JobHandle::next` gives a terminal event before it gives `None`.
        Err(GatewayError::Internal {
            reason: "the job gave no outcome".to_owned(),
        }
        .into())
    }

    fn completed<'a>(&'a self, gathered: &'a Gathered, completion: &Completion) -> Whole<'a> {
        // Of all tokens or of none, says the port.
        let has_ids = gathered.answers.iter().any(|answer| !answer.ids.is_empty())
            || completion.usage.completion_tokens == 0;
        let choice = |(index, answer): (u8, &'a GatheredAnswer)| WholeChoice {
            index,
            message: AssistantMessage {
                role: "assistant",
                content: &answer.text,
                refusal: None,
            },
            finish_reason: finish_of(completion, index).into(),
            logprobs: self.wants_logprobs.then(|| Logprobs::of(&answer.positions)),
            token_ids: self
                .wants_ids
                .then(|| has_ids.then_some(answer.ids.as_slice())),
        };
        Whole {
            head: &self.head,
            choices: (0..).zip(&gathered.answers).map(choice).collect(),
            usage: completion.usage.into(),
            cocoon: Extension::new(self.job.job(), completion),
        }
    }

    async fn streamed(
        mut self,
        include_usage: bool,
        keep_alive: KeepAlive,
    ) -> Result<Response, ApiError> {
        let first = self.job.next().await;
        if let Some(JobEvent::Failed(error)) = first {
            return Err(error.into());
        }
        let mut events = Events {
            answer: self,
            include_usage,
            pending: VecDeque::new(),
        };
        for choice in 0..events.answer.choices {
            let role = Delta {
                role: Some("assistant"),
                content: Some(""),
            };
            events.say(choice, role, None, &[]);
        }
        if let Some(event) = first {
            events.take(event);
        }
        let stream = stream::unfold(events, |mut events| async move {
            loop {
                if let Some(event) = events.pending.pop_front() {
                    return Some((Ok::<_, Infallible>(event), events));
                }
                let event = events.answer.job.next().await?;
                events.take(event);
            }
        });
        let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
        // A proxy in front that gathers the answer would undo the stream.
        response.headers_mut().insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        Ok(response)
    }
}

/// What has arrived of each choice, for a caller who does not stream.
struct Gathered {
    answers: Vec<GatheredAnswer>,
    text_bytes: usize,
    logprob_bytes: usize,
    id_bytes: usize,
}

#[derive(Clone, Default)]
struct GatheredAnswer {
    text: String,
    positions: Vec<PositionLogprobs>,
    ids: Vec<u32>,
}

impl Gathered {
    fn new(choices: u8) -> Self {
        Self {
            answers: vec![GatheredAnswer::default(); usize::from(choices)],
            text_bytes: 0,
            logprob_bytes: 0,
            id_bytes: 0,
        }
    }

    fn push(&mut self, delta: Said) -> Result<(), ApiError> {
        let positions = delta.logprobs.iter().map(PositionLogprobs::most_bytes);
        self.text_bytes = self.text_bytes.saturating_add(delta.text.len());
        self.logprob_bytes = positions.fold(self.logprob_bytes, usize::saturating_add);
        let ids = std::mem::size_of_val(delta.ids.as_slice());
        self.id_bytes = self.id_bytes.saturating_add(ids);
        for (bytes, limit) in [
            (self.text_bytes, MAX_ANSWER_BYTES),
            (self.id_bytes, MAX_ANSWER_BYTES),
            (self.logprob_bytes, MAX_LOGPROB_BYTES),
        ] {
            if bytes > limit {
                return Err(GatewayError::Internal {
                    reason: format!("the answer is larger than {limit} bytes"),
                }
                .into());
            }
        }
        // The port lets no other choice through.
        if let Some(answer) = self.answers.get_mut(usize::from(delta.choice)) {
            answer.text.push_str(&delta.text);
            answer.positions.extend(delta.logprobs);
            answer.ids.extend(delta.ids);
        }
        Ok(())
    }
}

fn finish_of(completion: &Completion, index: u8) -> Finish {
    let finish = completion.finishes.get(usize::from(index));
    finish.copied().unwrap_or(Finish::Stop)
}

/// A job as server-sent events.
struct Events {
    answer: Answer,
    include_usage: bool,
    /// Made and not sent yet; at most one for each choice and two more, which end a stream.
    pending: VecDeque<Event>,
}

impl Events {
    fn take(&mut self, event: JobEvent) {
        match event {
            // A conversation has no embeddings.
            JobEvent::Accepted { .. } | JobEvent::Embeddings(_) => {}
            JobEvent::Delta(Said {
                choice,
                text,
                logprobs,
                ids,
            }) => {
                // Numbers of tokens that say nothing yet are for those who want numbers.
                if text.is_empty() && logprobs.is_empty() && !self.answer.wants_ids {
                    return;
                }
                let delta = Delta {
                    role: None,
                    content: Some(&text),
                };
                let wanted = self.answer.wants_logprobs;
                self.say(choice, delta, wanted.then(|| Logprobs::of(&logprobs)), &ids);
            }
            JobEvent::Finished(completion) => self.finish(&completion),
            JobEvent::Failed(error) => {
                let error = ApiError::from(error);
                self.pending.push_back(json(&error.body()));
            }
        }
    }

    fn finish(&mut self, completion: &Completion) {
        let head = &self.answer.head;
        for index in 0..self.answer.choices {
            let is_last = index.saturating_add(1) == self.answer.choices;
            let extension = || Extension::new(self.answer.job.job(), completion);
            let end = json(&Chunk {
                head,
                choices: vec![ChunkChoice {
                    index,
                    delta: Delta::default(),
                    finish_reason: Some(finish_of(completion, index).into()),
                    logprobs: None,
                    token_ids: None,
                }],
                usage: self.include_usage.then_some(None),
                cocoon: is_last.then(extension),
            });
            self.pending.push_back(end);
        }
        let usage = self.include_usage.then(|| {
            json(&Chunk {
                head,
                choices: Vec::new(),
                usage: Some(Some(completion.usage.into())),
                cocoon: None,
            })
        });
        self.pending.extend(usage);
        self.pending.push_back(Event::default().data("[DONE]"));
    }

    fn say(&mut self, index: u8, delta: Delta<'_>, logprobs: Option<Logprobs<'_>>, ids: &[u32]) {
        let chunk = json(&Chunk {
            head: &self.answer.head,
            choices: vec![ChunkChoice {
                index,
                delta,
                finish_reason: None,
                logprobs,
                token_ids: (self.answer.wants_ids && !ids.is_empty()).then_some(ids),
            }],
            usage: self.include_usage.then_some(None),
            cocoon: None,
        });
        self.pending.push_back(chunk);
    }
}

fn json(value: &impl Serialize) -> Event {
    // These are our own types with string keys; serde_json cannot refuse them. An empty comment
    // is what a caller would see if it ever did.
    Event::default()
        .json_data(value)
        .unwrap_or_else(|_| Event::default().comment(""))
}
