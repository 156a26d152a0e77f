//! What an engine is, whatever computes it.

use cocoon_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Stop strings of one request, as in OpenAI's API.
pub const MAX_STOPS: usize = 4;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 256;
/// Highest temperature, as in OpenAI's API.
pub const MAX_TEMPERATURE: f32 = 2.0;

/// Who speaks in a [`Message`]. Closed, so that no request can name a role that the template would print
/// without looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model, earlier.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Always plain text: a control token written in it reaches the model as letters.
    pub content: String,
}

/// How tokens are chosen and when to end.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the likeliest token always; up to [`MAX_TEMPERATURE`].
    pub temperature: f32,
    /// Share of the probability the candidates must hold, in (0, 1]. 1 keeps all of them.
    pub top_p: f32,
    /// The same seed, prompt and parameters give the same answer on the same machine. `None` draws one.
    pub seed: Option<u64>,
    /// Strings that end the answer and are not part of it: up to [`MAX_STOPS`] of [`MAX_STOP_BYTES`].
    pub stop: Vec<String>,
    /// Most tokens to generate, at least 1. The end of the model's context may come first.
    pub max_tokens: u32,
}

impl SamplingParams {
    /// The likeliest token always, up to `max_tokens`.
    pub fn greedy(max_tokens: u32) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            seed: None,
            stop: Vec::new(),
            max_tokens,
        }
    }

    /// Refuses what [`SamplingParams`]' fields do not allow.
    ///
    /// # Errors
    /// [`EngineError::Parameter`] naming the field.
    pub fn check(&self) -> Result<(), EngineError> {
        let refuse = |name, wanted| Err(EngineError::Parameter { name, wanted });
        if !(0.0..=MAX_TEMPERATURE).contains(&self.temperature) {
            return refuse("temperature", "from 0 to 2");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", "above 0 and at most 1");
        }
        if self.max_tokens == 0 {
            return refuse("max_tokens", "at least 1");
        }
        if self.stop.len() > MAX_STOPS {
            return refuse("stop", "at most 4 strings");
        }
        if self
            .stop
            .iter()
            .any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
        {
            return refuse("stop", "strings of 1 to 256 bytes");
        }
        Ok(())
    }
}

/// What is known of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name people ask for. The digest, not the name, says which weights these are.
    pub id: String,
    /// SHA-256 of the model file.
    pub digest: Digest,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Bytes of memory the weights take, shared by all generations.
    pub weights_bytes: u64,
    /// Bytes of memory that a generation's cache takes per token of prompt and answer.
    pub cache_bytes_per_token: u64,
}

/// A conversation as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token numbers, template included.
    pub tokens: Vec<u32>,
}

/// Why a generation ended. Cancelling is the owner's affair: it drops the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// What one step brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// New text: whole characters only. Empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Tokens generated: 0 for a step that read a piece of the prompt and for the model's end-of-turn
    /// token, which says nothing; else 1.
    pub tokens: u32,
    /// Set exactly on the last step.
    pub finish: Option<FinishReason>,
}

/// A loaded model.
pub trait Engine: Send + Sync {
    /// What model this is.
    fn describe(&self) -> &ModelInfo;

    /// Applies the model's chat template and tokenises.
    ///
    /// # Errors
    /// [`EngineError::EmptyMessages`], [`EngineError::ContextTooLong`], [`EngineError::Template`].
    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError>;

    /// Begins an answer. Allocates its cache; computes nothing yet.
    ///
    /// # Errors
    /// [`EngineError::Parameter`], [`EngineError::ContextTooLong`], [`EngineError::UnknownToken`].
    fn start(
        &self,
        prompt: Prompt,
        params: SamplingParams,
    ) -> Result<Box<dyn Generation + Send>, EngineError>;
}

/// An answer in the making. Dropping it ends it.
pub trait Generation {
    /// Computes one piece of the prompt or one token. Blocks, and keeps the processor busy, for as long as
    /// one forward pass takes.
    ///
    /// # Errors
    /// [`EngineError::Finished`] after the last step; [`EngineError::NotFinite`] when the weights are
    /// broken. After an error the generation is over.
    fn step(&mut self) -> Result<Step, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_out_of_range_is_refused_by_name() {
        let good = SamplingParams::greedy(1);
        assert!(good.check().is_ok());
        let bad = [
            (
                "temperature",
                SamplingParams {
                    temperature: -0.1,
                    ..good.clone()
                },
            ),
            (
                "temperature",
                SamplingParams {
                    temperature: 2.1,
                    ..good.clone()
                },
            ),
            (
                "temperature",
                SamplingParams {
                    temperature: f32::NAN,
                    ..good.clone()
                },
            ),
            (
                "top_p",
                SamplingParams {
                    top_p: 0.0,
                    ..good.clone()
                },
            ),
            (
                "top_p",
                SamplingParams {
                    top_p: 1.1,
                    ..good.clone()
                },
            ),
            (
                "top_p",
                SamplingParams {
                    top_p: f32::NAN,
                    ..good.clone()
                },
            ),
            (
                "max_tokens",
                SamplingParams {
                    max_tokens: 0,
                    ..good.clone()
                },
            ),
            (
                "stop",
                SamplingParams {
                    stop: vec![String::new()],
                    ..good.clone()
                },
            ),
            (
                "stop",
                SamplingParams {
                    stop: vec!["x".repeat(257)],
                    ..good.clone()
                },
            ),
            (
                "stop",
                SamplingParams {
                    stop: vec!["x".into(); 5],
                    ..good.clone()
                },
            ),
        ];
        for (wanted, params) in bad {
            assert!(
                matches!(params.check(), Err(EngineError::Parameter { name, .. }) if name == wanted),
                "{params:?}"
            );
        }
    }
}
