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
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cocoon_actors::gateway_port::{Completion, GatewayError, JobEvent, JobHandle};
use futures::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::HttpState;
use super::error::ApiError;
use super::openai::reply::{
    AssistantMessage, Chunk, ChunkChoice, Delta, Extension, Head, Whole, WholeChoice, completion_id,
};
use super::openai::request::{self, ChatRequest};

/// Names the job in a response's headers.
const JOB_HEADER: HeaderName = HeaderName::from_static("x-cocoon-job");
/// Most text of an answer that is gathered for a caller who does not stream, bytes. A worker is
/// paid by the token; this bounds what it may call a token.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// The handler.
pub(super) async fn create(
    State(state): State<Arc<HttpState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let gateway = state.gateway()?;
    require_json(&request)?;
    let body = read_body(&state, request).await?;
    let ChatRequest {
        submission,
        stream,
        include_usage,
    } = request::parse(&body)?;
    drop(body);
    let permit = Arc::clone(&state.job_permits)
        .try_acquire_owned()
        .map_err(|_| GatewayError::Overloaded {
            limit: state.limits.max_jobs,
        })?;

    let model = submission.model.clone();
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

/// A page on the web can make a browser post text to loopback without asking, but not JSON.
fn require_json(request: &Request) -> Result<(), ApiError> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if is_json {
        Ok(())
    } else {
        Err(ApiError::invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the header `Content-Type: application/json`",
        ))
    }
}

async fn read_body(state: &HttpState, request: Request) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(state.limits.body_timeout, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::invalid(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!(
                    "the body may have at most {} bytes",
                    state.limits.max_body_bytes
                ),
            ))
        }
        Ok(Err(rejection)) => Err(ApiError::invalid(
            rejection.status(),
            "unreadable_body",
            "the body could not be read to its end",
        )),
        Err(_) => Err(ApiError::invalid(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!(
                "the body did not arrive within {} s",
                state.limits.body_timeout.as_secs()
            ),
        )),
    }
}

/// A job on its way to an HTTP response.
struct Answer {
    head: Head,
    job: JobHandle,
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut text = String::new();
        while let Some(event) = self.job.next().await {
            match event {
                JobEvent::Accepted { .. } => {}
                JobEvent::Delta { text: more } => {
                    if text.len().saturating_add(more.len()) > MAX_ANSWER_BYTES {
                        return Err(GatewayError::Internal {
                            reason: format!("the answer is larger than {MAX_ANSWER_BYTES} bytes"),
                        }
                        .into());
                    }
                    text.push_str(&more);
                }
                JobEvent::Finished(completion) => {
                    return Ok(Json(self.completed(&text, &completion)).into_response());
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

    fn completed<'a>(&'a self, text: &'a str, completion: &Completion) -> Whole<'a> {
        Whole {
            head: &self.head,
            choices: [WholeChoice {
                index: 0,
                message: AssistantMessage {
                    role: "assistant",
                    content: text,
                    refusal: None,
                },
                finish_reason: completion.finish.into(),
                logprobs: None,
            }],
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
        events.say(Delta {
            role: Some("assistant"),
            content: Some(""),
        });
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

/// A job as server-sent events.
struct Events {
    answer: Answer,
    include_usage: bool,
    /// Made and not sent yet; at most the three that end a stream.
    pending: VecDeque<Event>,
}

impl Events {
    fn take(&mut self, event: JobEvent) {
        match event {
            JobEvent::Accepted { .. } => {}
            JobEvent::Delta { text } => {
                self.say(Delta {
                    role: None,
                    content: Some(&text),
                });
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
        let last = json(&Chunk {
            head,
            choices: vec![ChunkChoice {
                index: 0,
                delta: Delta::default(),
                finish_reason: Some(completion.finish.into()),
                logprobs: None,
            }],
            usage: self.include_usage.then_some(None),
            cocoon: Some(Extension::new(self.answer.job.job(), completion)),
        });
        let usage = self.include_usage.then(|| {
            json(&Chunk {
                head,
                choices: Vec::new(),
                usage: Some(Some(completion.usage.into())),
                cocoon: None,
            })
        });
        self.pending.push_back(last);
        self.pending.extend(usage);
        self.pending.push_back(Event::default().data("[DONE]"));
    }

    fn say(&mut self, delta: Delta<'_>) {
        let chunk = json(&Chunk {
            head: &self.answer.head,
            choices: vec![ChunkChoice {
                index: 0,
                delta,
                finish_reason: None,
                logprobs: None,
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
