//! A chat request that passed validation, and its encoding on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most messages in one conversation.
pub const MAX_MESSAGES: usize = 1024;
/// Most stop strings (`OpenAI`'s own limit).
pub const MAX_STOPS: usize = 4;
/// Longest stop string, bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// Longest model name, bytes.
pub const MAX_MODEL_NAME_BYTES: usize = 256;
/// Largest encoded submission, bytes; equals the bound of `JobRequest.chat` on the wire.
pub const MAX_SUBMISSION_BYTES: usize = 256 * 1024;

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

/// A chat request that passed validation. `None` means "the engine's default".
///
/// Its JSON encoding ([`JobSubmission::encode`]) is a subset of `OpenAI`'s chat request and is what
/// travels in `JobRequest.chat`; the worker reads it back with [`JobSubmission::decode`].
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSubmission {
    /// The model's id as its workers advertise it.
    pub model: String,
    /// The conversation, oldest first; never empty.
    pub messages: Vec<ChatMessage>,
    /// Most tokens to generate, ≥ 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 (greedy) to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Above 0, up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
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
            .field("max_tokens", &self.max_tokens)
            .field("temperature", &self.temperature)
            .field("top_p", &self.top_p)
            .field("seed", &self.seed)
            .field("stops", &self.stop.len())
            .finish()
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
    /// Every rule about values, in one place for both ends: the gateway checks before it pays
    /// anybody, the worker checks what a stranger sent.
    pub fn validate(&self) -> Result<(), SubmissionError> {
        if self.model.is_empty() || self.model.len() > MAX_MODEL_NAME_BYTES {
            return Err(SubmissionError::new(
                "model",
                format!("must have 1 to {MAX_MODEL_NAME_BYTES} bytes"),
            ));
        }
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
        if self.max_tokens == Some(0) {
            return Err(SubmissionError::new("max_tokens", "must be at least 1"));
        }
        if let Some(temperature) = self.temperature
            && !(0.0..=2.0).contains(&temperature)
        {
            return Err(SubmissionError::new(
                "temperature",
                "must lie between 0 and 2",
            ));
        }
        if let Some(top_p) = self.top_p
            && !(top_p > 0.0 && top_p <= 1.0)
        {
            return Err(SubmissionError::new(
                "top_p",
                "must be above 0 and at most 1",
            ));
        }
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
        Ok(())
    }

    /// The bytes for `JobRequest.chat`.
    pub fn encode(&self) -> Result<Vec<u8>, SubmissionError> {
        let bytes = serde_json::to_vec(self).map_err(|error| {
            // Only a float that JSON cannot express ends here, and `validate` refuses those.
            SubmissionError::new("body", error.to_string())
        })?;
        if bytes.len() > MAX_SUBMISSION_BYTES {
            return Err(SubmissionError::new(
                "messages",
                format!(
                    "the conversation takes {} bytes, the limit is {MAX_SUBMISSION_BYTES}",
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
                    "is not a chat request: line {} column {}",
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn submission() -> JobSubmission {
        JobSubmission {
            model: "SmolLM2-135M-Instruct".to_owned(),
            messages: vec![ChatMessage {
                role: Role::User,
                content: "planted-secret".to_owned(),
            }],
            max_tokens: Some(8),
            temperature: Some(0.5),
            top_p: None,
            seed: Some(7),
            stop: vec!["\n\n".to_owned()],
        }
    }

    fn any_submission() -> impl Strategy<Value = JobSubmission> {
        let message = (0..3u8, ".{0,40}").prop_map(|(role, content)| ChatMessage {
            role: [Role::System, Role::User, Role::Assistant]
                .get(usize::from(role))
                .copied()
                .unwrap_or(Role::User),
            content,
        });
        (
            "[a-zA-Z0-9/._-]{1,60}",
            prop::collection::vec(message, 1..6),
            prop::option::of(1..=u32::MAX),
            prop::option::of(0.0f32..=2.0),
            prop::option::of(0.001f32..=1.0),
            prop::option::of(any::<u64>()),
            prop::collection::vec(".{1,20}", 0..=MAX_STOPS),
        )
            .prop_map(
                |(model, messages, max_tokens, temperature, top_p, seed, stop)| JobSubmission {
                    model,
                    messages,
                    max_tokens,
                    temperature,
                    top_p,
                    seed,
                    stop,
                },
            )
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(submission in any_submission()) {
            prop_assert_eq!(&JobSubmission::decode(&submission.encode().unwrap()).unwrap(), &submission);
        }

        #[test]
        fn decoding_a_strangers_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = JobSubmission::decode(&bytes);
        }
    }

    #[test]
    fn debug_output_holds_no_content() {
        let text = format!("{:?}", submission());
        assert!(!text.contains("planted-secret"), "{text}");
        assert!(text.contains("user[14 bytes]"), "{text}");
    }

    #[test]
    fn a_decoding_error_does_not_quote_the_input() {
        let error = JobSubmission::decode(br#"{"model":"m","planted-secret":1}"#).unwrap_err();
        assert!(!error.to_string().contains("planted-secret"), "{error}");
    }

    #[test]
    fn each_value_out_of_range_is_refused_with_its_field() {
        type Spoil = fn(&mut JobSubmission);
        let spoil: [(&str, Spoil); 10] = [
            ("model", |s| s.model.clear()),
            ("model", |s| s.model = "m".repeat(MAX_MODEL_NAME_BYTES + 1)),
            ("messages", |s| s.messages.clear()),
            ("messages", |s| {
                s.messages = vec![
                    ChatMessage {
                        role: Role::User,
                        content: String::new()
                    };
                    MAX_MESSAGES + 1
                ];
            }),
            ("max_tokens", |s| s.max_tokens = Some(0)),
            ("temperature", |s| s.temperature = Some(f32::NAN)),
            ("temperature", |s| s.temperature = Some(2.5)),
            ("top_p", |s| s.top_p = Some(0.0)),
            ("stop", |s| s.stop = vec!["a".to_owned(); MAX_STOPS + 1]),
            ("stop", |s| s.stop = vec![String::new()]),
        ];
        for (field, spoil) in spoil {
            let mut bad = submission();
            spoil(&mut bad);
            assert_eq!(bad.validate().unwrap_err().field, field);
        }
        submission().validate().unwrap();
    }

    #[test]
    fn a_conversation_larger_than_the_wire_allows_is_refused() {
        let mut big = submission();
        big.messages = vec![ChatMessage {
            role: Role::User,
            content: "x".repeat(MAX_SUBMISSION_BYTES),
        }];
        assert_eq!(big.encode().unwrap_err().field, "messages");
    }
}
