//! A request that passed validation, and its encoding on the wire.

use std::collections::BTreeMap;
use std::fmt;

use cocoon_inference::{
    MAX_CONSTRAINT_BYTES, MAX_LOGIT_BIAS, MAX_STOP_BYTES, MAX_STOPS, MAX_TOP_LOGPROBS, Pooling,
};
use cocoon_protocol::job::{MAX_CHAT_BYTES, MAX_CHOICES};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most messages in one conversation.
pub const MAX_MESSAGES: usize = 1024;
/// Longest model name, bytes.
pub const MAX_MODEL_NAME_BYTES: usize = 256;
/// Largest encoded submission, bytes: the bound of `JobRequest.chat` on the wire.
pub const MAX_SUBMISSION_BYTES: usize = MAX_CHAT_BYTES;
/// Texts in one request for embeddings.
pub const MAX_EMBEDDED_TEXTS: usize = 64;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions. `OpenAI`'s `developer` is this too.
    System,
    /// The person.
    User,
    /// The model, earlier.
    Assistant,
}

impl Role {
    /// The name a chat template expects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of the conversation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Sizes only: content never reaches a log, not even through `{:?}`.
impl fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{} bytes]", self.role.as_str(), self.content.len())
    }
}

/// What an answer must look like.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswerFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema {
        /// The schema. Its fields are written in its order.
        schema: Map<String, Value>,
    },
    /// Text that a regular expression matches as a whole.
    Regex {
        /// The expression.
        pattern: String,
    },
    /// Text of a grammar.
    Grammar {
        /// In llguidance's variant of Lark.
        lark: String,
    },
}

impl AnswerFormat {
    /// The parameter in which an app says it.
    #[must_use]
    pub const fn parameter(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema { .. } => "response_format",
            Self::Regex { .. } => "guided_regex",
            Self::Grammar { .. } => "guided_grammar",
        }
    }

    /// The least that is wrong with it; whether a schema or grammar makes sense is known to the engine.
    fn check(&self) -> Result<(), SubmissionError> {
        let bytes = match self {
            Self::JsonObject => return Ok(()),
            Self::JsonSchema { schema } => serde_json::to_vec(schema).map_or(0, |text| text.len()),
            Self::Regex { pattern: text } | Self::Grammar { lark: text } => text.len(),
        };
        if (1..=MAX_CONSTRAINT_BYTES).contains(&bytes) {
            Ok(())
        } else {
            Err(SubmissionError::new(
                self.parameter(),
                format!("must have 1 to {MAX_CONSTRAINT_BYTES} bytes, this has {bytes}"),
            ))
        }
    }
}

/// Sizes only: a schema may quote what it is about.
impl fmt::Debug for AnswerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JsonObject => f.write_str("JsonObject"),
            Self::JsonSchema { schema } => write!(f, "JsonSchema[{} keys]", schema.len()),
            Self::Regex { pattern } => write!(f, "Regex[{} bytes]", pattern.len()),
            Self::Grammar { lark } => write!(f, "Grammar[{} bytes]", lark.len()),
        }
    }
}

/// Texts to be embedded.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingWish {
    /// 1 to [`MAX_EMBEDDED_TEXTS`], none empty.
    pub input: Vec<String>,
    /// How an embedding is made of the tokens' outputs.
    pub pooling: Pooling,
}

/// Sizes only, never content.
impl fmt::Debug for EmbeddingWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddingWish({} texts)", self.input.len())
    }
}

/// A request that passed validation: for an answer to `messages`, or for the embeddings of texts. `None`
/// means "the engine's default". [`JobSubmission::default`] asks for nothing, and is refused.
///
/// Its JSON encoding ([`JobSubmission::encode`]) speaks `OpenAI`'s chat request, with few differences
/// (`top_logprobs` alone asks for log-probabilities; formats are flat), and is what travels in
/// `JobRequest.chat`; the worker reads it back with [`JobSubmission::decode`].
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSubmission {
    /// The model's id as its workers advertise it.
    pub model: String,
    /// The conversation, oldest first; empty only where embeddings are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<ChatMessage>,
    /// Texts to be embedded, and nothing else then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingWish>,
    /// Most tokens to generate for each answer, ≥ 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Answers to the one conversation, 1 to [`MAX_CHOICES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u8>,
    /// 0 (greedy) to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Candidates for each token; 0 means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Above 0, up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// 0 to below 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Above 0, up to 2; 1 does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// -2 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Added to the logits of these tokens, -100 to 100; at most [`MAX_LOGIT_BIAS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Log-probabilities are wanted, with this many alternatives, up to [`MAX_TOP_LOGPROBS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u8>,
    /// What the answer must look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<AnswerFormat>,
    /// Seed of the sampler. A negative `OpenAI` seed is its two's complement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Generation ends before the first of these; at most [`MAX_STOPS`], none empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl fmt::Debug for JobSubmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSubmission")
            .field("model", &self.model)
            .field("messages", &self.messages)
            .field("embedding", &self.embedding)
            .field("max_tokens", &self.max_tokens)
            .field("n", &self.n)
            .field("temperature", &self.temperature)
            .field("top_p", &self.top_p)
            .field("response_format", &self.response_format)
            .field("seed", &self.seed)
            .field("stops", &self.stop.len())
            .finish_non_exhaustive()
    }
}

/// Why a submission is not acceptable: the field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SubmissionError {
    /// The request's field, for example `messages`.
    pub field: String,
    /// What is wrong and what would be right. Holds no content.
    pub message: String,
}

impl SubmissionError {
    fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl JobSubmission {
    /// Answers that are wanted.
    #[must_use]
    pub fn choices(&self) -> u8 {
        self.n.unwrap_or(1)
    }

    /// Every rule about values, in one place for both ends: the gateway checks before it pays
    /// anybody, the worker checks what a stranger sent.
    pub fn validate(&self) -> Result<(), SubmissionError> {
        if self.model.is_empty() || self.model.len() > MAX_MODEL_NAME_BYTES {
            return Err(SubmissionError::new(
                "model",
                format!("must have 1 to {MAX_MODEL_NAME_BYTES} bytes"),
            ));
        }
        match &self.embedding {
            Some(wish) => self.check_embedding(wish),
            None => self.check_chat(),
        }
    }

    fn check_embedding(&self, wish: &EmbeddingWish) -> Result<(), SubmissionError> {
        if !(1..=MAX_EMBEDDED_TEXTS).contains(&wish.input.len()) {
            return Err(SubmissionError::new(
                "input",
                format!(
                    "must hold 1 to {MAX_EMBEDDED_TEXTS} texts, this holds {}",
                    wish.input.len()
                ),
            ));
        }
        if wish.input.iter().any(String::is_empty) {
            return Err(SubmissionError::new("input", "must hold no empty text"));
        }
        let nothing_else = Self {
            model: self.model.clone(),
            embedding: self.embedding.clone(),
            ..Self::default()
        };
        if *self != nothing_else {
            return Err(SubmissionError::new(
                "input",
                "is embedded, not answered: no message and no parameter of an answer goes with it",
            ));
        }
        Ok(())
    }

    fn check_chat(&self) -> Result<(), SubmissionError> {
        if self.messages.is_empty() {
            return Err(SubmissionError::new(
                "messages",
                "must hold at least one message",
            ));
        }
        if self.messages.len() > MAX_MESSAGES {
            return Err(SubmissionError::new(
                "messages",
                format!(
                    "holds {} messages, the limit is {MAX_MESSAGES}",
                    self.messages.len()
                ),
            ));
        }
        self.check_numbers()?;
        if self.stop.len() > MAX_STOPS {
            return Err(SubmissionError::new(
                "stop",
                format!(
                    "holds {} strings, the limit is {MAX_STOPS}",
                    self.stop.len()
                ),
            ));
        }
        if self
            .stop
            .iter()
            .any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
        {
            return Err(SubmissionError::new(
                "stop",
                format!("each string must have 1 to {MAX_STOP_BYTES} bytes"),
            ));
        }
        if self.logit_bias.len() > MAX_LOGIT_BIAS {
            return Err(SubmissionError::new(
                "logit_bias",
                format!(
                    "holds {} tokens, the limit is {MAX_LOGIT_BIAS}",
                    self.logit_bias.len()
                ),
            ));
        }
        match &self.response_format {
            Some(format) => format.check(),
            None => Ok(()),
        }
    }

    /// The ranges are those of [`cocoon_inference::SamplingParams`], written so that NaN, which no
    /// comparison accepts, is refused.
    fn check_numbers(&self) -> Result<(), SubmissionError> {
        let holds = |value: Option<f32>, rule: fn(f32) -> bool| value.is_none_or(rule);
        let rules = [
            (
                self.max_tokens != Some(0),
                "max_tokens",
                "must be at least 1",
            ),
            (
                (1..=MAX_CHOICES).contains(&self.choices()),
                "n",
                "must be from 1 to 8",
            ),
            (
                holds(self.temperature, |t| (0.0..=2.0).contains(&t)),
                "temperature",
                "must lie between 0 and 2",
            ),
            (
                holds(self.top_p, |p| p > 0.0 && p <= 1.0),
                "top_p",
                "must be above 0 and at most 1",
            ),
            (
                holds(self.min_p, |p| (0.0..1.0).contains(&p)),
                "min_p",
                "must be at least 0 and below 1",
            ),
            (
                holds(self.repetition_penalty, |p| p > 0.0 && p <= 2.0),
                "repetition_penalty",
                "must be above 0 and at most 2",
            ),
            (
                holds(self.frequency_penalty, |p| (-2.0..=2.0).contains(&p)),
                "frequency_penalty",
                "must lie between -2 and 2",
            ),
            (
                holds(self.presence_penalty, |p| (-2.0..=2.0).contains(&p)),
                "presence_penalty",
                "must lie between -2 and 2",
            ),
            (
                self.logit_bias
                    .values()
                    .all(|bias| (-100.0..=100.0).contains(bias)),
                "logit_bias",
                "must hold numbers between -100 and 100",
            ),
            (
                self.top_logprobs.is_none_or(|top| top <= MAX_TOP_LOGPROBS),
                "top_logprobs",
                "must be at most 20",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, field, message)) => Err(SubmissionError::new(field, message)),
        }
    }

    /// The bytes for `JobRequest.chat`.
    pub fn encode(&self) -> Result<Vec<u8>, SubmissionError> {
        let bytes = serde_json::to_vec(self).map_err(|error| {
            // Only a float that JSON cannot express ends here, and `validate` refuses those.
            SubmissionError::new("body", error.to_string())
        })?;
        if bytes.len() > MAX_SUBMISSION_BYTES {
            let (field, what) = match self.embedding {
                Some(_) => ("input", "texts take"),
                None => ("messages", "conversation takes"),
            };
            return Err(SubmissionError::new(
                field,
                format!(
                    "the {what} {} bytes, the limit is {MAX_SUBMISSION_BYTES}",
                    bytes.len()
                ),
            ));
        }
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote and checks every rule again.
    pub fn decode(bytes: &[u8]) -> Result<Self, SubmissionError> {
        if bytes.len() > MAX_SUBMISSION_BYTES {
            return Err(SubmissionError::new(
                "body",
                format!(
                    "has {} bytes, the limit is {MAX_SUBMISSION_BYTES}",
                    bytes.len()
                ),
            ));
        }
        let submission: Self = serde_json::from_slice(bytes).map_err(|error| {
            // serde's own message may quote the input, so only the place is told.
            SubmissionError::new(
                "body",
                format!(
                    "is not a request: line {} column {}",
                    error.line(),
                    error.column()
                ),
            )
        })?;
        submission.validate()?;
        Ok(submission)
    }
}

#[cfg(test)]
#[path = "submission_tests.rs"]
mod tests;
