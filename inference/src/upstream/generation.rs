//! One answer of an upstream server, as it comes.

use std::sync::Arc;

use serde_json::Value;

use super::count::Counter;
use super::events::{EventError, Events};
use super::link::Stream;
use super::reply::{Choice, Chunk, Usage, reason};
use super::{Shared, UpstreamError};
use crate::engine::{FinishReason, Generation, PositionLogprobs, Step};
use crate::error::EngineError;
use crate::stream::TextStream;

/// Bytes that a stream may have in all, and for each token that it may bring: its text in JSON, and twenty
/// alternatives.
const STREAM_BYTES: u64 = 256 * 1024;
const STREAM_BYTES_PER_TOKEN: u64 = 8 * 1024;
/// Tokens of the prompt that a server may add to those sent: its own begin-of-text.
const PROMPT_SLACK: u32 = 1;

pub(super) struct UpstreamGeneration {
    shared: Arc<Shared>,
    state: State,
    prompt_tokens: u32,
    max_tokens: u32,
    /// Alternatives wanted at each position.
    top: Option<usize>,
    text: TextStream,
    counter: Counter,
}

enum State {
    /// Not sent yet.
    Waiting(Value),
    Reading(Events<Stream>),
    Over,
}

/// What the server has said at the end.
struct End {
    finish: FinishReason,
    usage: Option<Usage>,
    text: String,
    logprobs: Vec<PositionLogprobs>,
}

impl UpstreamGeneration {
    pub(super) fn new(
        shared: Arc<Shared>,
        body: Value,
        prompt_tokens: u32,
        max_tokens: u32,
        top: Option<u8>,
        stop: Vec<String>,
    ) -> Self {
        Self {
            shared,
            state: State::Waiting(body),
            prompt_tokens,
            max_tokens,
            top: top.map(usize::from),
            // The server cuts at the stop strings too; that it does is not taken on trust.
            text: TextStream::new(stop),
            counter: Counter::new(),
        }
    }

    fn advance(&mut self) -> Result<Step, EngineError> {
        let mut events = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return Err(EngineError::Finished),
            State::Reading(events) => events,
            State::Waiting(body) => {
                let stream = self.shared.link.open("completions", &body)?;
                let limit = u64::from(self.max_tokens)
                    .saturating_mul(STREAM_BYTES_PER_TOKEN)
                    .saturating_add(STREAM_BYTES);
                Events::new(stream, limit)
            }
        };
        loop {
            let Some(chunk) = self.chunk(&mut events)? else {
                return Err(self.cut());
            };
            let Some(choice) = chunk.choices.first() else {
                continue;
            };
            let logprobs = self.logprobs(choice)?;
            if let Some(finish) = &choice.finish_reason {
                let finish = match finish.as_str() {
                    "stop" => FinishReason::Stop,
                    "length" => FinishReason::Length,
                    other => {
                        let what = format!("an answer that ended by {other:?}");
                        return Err(self.shared.link.garbled(&what).into());
                    }
                };
                return self.end(
                    &mut events,
                    End {
                        finish,
                        usage: chunk.usage,
                        text: choice.text.clone(),
                        logprobs,
                    },
                );
            }
            if choice.text.is_empty() && logprobs.is_empty() {
                continue;
            }
            let tokens = self.count(&choice.text)?;
            let delta = self.text.push(choice.text.as_bytes());
            if delta.stopped {
                // A server that goes on after a stop string is left alone; what was certain is counted.
                return Ok(Step {
                    text: delta.text,
                    tokens,
                    ids: Vec::new(),
                    logprobs,
                    finish: Some(FinishReason::Stop),
                });
            }
            self.state = State::Reading(events);
            return Ok(Step {
                text: delta.text,
                tokens,
                ids: Vec::new(),
                logprobs,
                finish: None,
            });
        }
    }

    /// The next event's content; `None` at `[DONE]` and at the end of the stream.
    fn chunk(&self, events: &mut Events<Stream>) -> Result<Option<Chunk>, EngineError> {
        let link = &self.shared.link;
        let data = match events.next() {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(None),
            Err(EventError::Io(error)) => return Err(link.broken(&error).into()),
            Err(EventError::NotText) => return Err(link.garbled("bytes that are no text").into()),
            Err(EventError::LongLine) => {
                return Err(UpstreamError::TooMuch {
                    address: link.address(),
                    what: "bytes in one event",
                    limit: super::events::MAX_LINE_BYTES,
                }
                .into());
            }
            Err(EventError::LongStream { limit }) => {
                return Err(UpstreamError::TooMuch {
                    address: link.address(),
                    what: "bytes of an answer",
                    limit,
                }
                .into());
            }
        };
        if data == "[DONE]" {
            return Ok(None);
        }
        let chunk: Chunk = serde_json::from_str(&data).map_err(|error| {
            link.garbled(&format!("an event that is none ({:?})", error.classify()))
        })?;
        match &chunk.error {
            None => Ok(Some(chunk)),
            Some(error) => Err(UpstreamError::Refused {
                address: link.address(),
                status: 200,
                message: reason(error.to_string().as_bytes()),
            }
            .into()),
        }
    }

    /// Reads on to the usage, which may come after the last text, and settles the count.
    fn end(&mut self, events: &mut Events<Stream>, mut end: End) -> Result<Step, EngineError> {
        while let Some(chunk) = self.chunk(events)? {
            end.usage = chunk.usage.or(end.usage);
        }
        let mut tokens = self.count(&end.text)?;
        let delta = self.text.push(end.text.as_bytes());
        let mut text = delta.text;
        let mut finish = end.finish;
        if delta.stopped {
            finish = FinishReason::Stop;
        } else {
            text.push_str(&self.text.finish());
        }
        let theirs = end.usage.map(|usage| usage.completion_tokens);
        if let Some(usage) = end.usage {
            let most = self.prompt_tokens.saturating_add(PROMPT_SLACK);
            if !(self.prompt_tokens..=most).contains(&usage.prompt_tokens) {
                return Err(self.miscounted("the prompt", usage.prompt_tokens, self.prompt_tokens));
            }
        } else {
            tracing::debug!("the upstream server reports no usage; our own count stands alone");
        }
        match self.counter.finish(theirs, self.shared.tokens.as_ref())? {
            Ok(last) => tokens = tokens.saturating_add(last),
            Err(apart) => return Err(self.miscounted("the answer", apart.theirs, apart.ours)),
        }
        Ok(Step {
            text,
            tokens,
            ids: Vec::new(),
            logprobs: end.logprobs,
            finish: Some(finish),
        })
    }

    fn count(&mut self, text: &str) -> Result<u32, EngineError> {
        let tokens = self.counter.push(text, self.shared.tokens.as_ref())?;
        let most = super::count::most(self.max_tokens);
        if self.counter.generated() > most {
            return Err(UpstreamError::TooMuch {
                address: self.shared.link.address(),
                what: "tokens",
                limit: most.into(),
            }
            .into());
        }
        Ok(tokens)
    }

    fn logprobs(&self, choice: &Choice) -> Result<Vec<PositionLogprobs>, EngineError> {
        let Some(top) = self.top else {
            return Ok(Vec::new());
        };
        let link = &self.shared.link;
        choice
            .logprobs(top, self.shared.tokens.as_ref())
            .ok_or_else(|| link.garbled("log-probabilities of no tokens").into())
    }

    fn cut(&self) -> EngineError {
        UpstreamError::Cut {
            address: self.shared.link.address(),
        }
        .into()
    }

    fn miscounted(&self, what: &'static str, theirs: u32, ours: u32) -> EngineError {
        UpstreamError::Miscounted {
            address: self.shared.link.address(),
            what,
            theirs,
            ours,
        }
        .into()
    }
}

impl Generation for UpstreamGeneration {
    fn step(&mut self) -> Result<Step, EngineError> {
        // After an error, and after the last step, the state is `Over`.
        self.advance()
    }
}
