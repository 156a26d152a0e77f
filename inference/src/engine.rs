//! What an engine is, whatever computes it.

use std::collections::BTreeMap;

use cocoon_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Stop strings of one request, as in OpenAI's API.
pub const MAX_STOPS: usize = 4;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 256;
/// Highest temperature, as in OpenAI's API.
pub const MAX_TEMPERATURE: f32 = 2.0;
/// Entries of a logit bias, as in OpenAI's API.
pub const MAX_LOGIT_BIAS: usize = 300;
/// Alternatives that log-probabilities may be asked for at each position, as in OpenAI's API.
pub const MAX_TOP_LOGPROBS: u8 = 20;
/// Bytes of a grammar or JSON schema that constrains an answer.
pub const MAX_CONSTRAINT_BYTES: usize = 64 * 1024;

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

/// What an answer's text must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema (itself JSON) accepts.
    JsonSchema(String),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// How tokens are chosen and when to end. [`SamplingParams::greedy`] is the neutral value to start from.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the likeliest token always; up to [`MAX_TEMPERATURE`].
    pub temperature: f32,
    /// Only this many of the likeliest tokens are candidates; 0 keeps all.
    pub top_k: u32,
    /// Share of the probability the candidates must hold, in (0, 1]. 1 keeps all of them.
    pub top_p: f32,
    /// Candidates must have at least this share of the likeliest one's probability, in [0, 1). 0 keeps all.
    pub min_p: f32,
    /// Divides (or, when negative, multiplies) the logit of each token already in prompt or answer (Keskar
    /// et al., *CTRL*, 2019), above 0 and at most 2. 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time it stands in the answer, -2 to 2, as in OpenAI's API.
    pub frequency_penalty: f32,
    /// Taken once from the logit of each token that stands in the answer, -2 to 2, as in OpenAI's API.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens, each -100 to 100; up to [`MAX_LOGIT_BIAS`] of them.
    pub logit_bias: BTreeMap<u32, f32>,
    /// The same seed, prompt and parameters give the same answer on the same machine. `None` draws one.
    pub seed: Option<u64>,
    /// Strings that end the answer and are not part of it: up to [`MAX_STOPS`] of [`MAX_STOP_BYTES`].
    pub stop: Vec<String>,
    /// Most tokens to generate, at least 1. The end of the model's context may come first.
    pub max_tokens: u32,
    /// Report the log-probability of each chosen token and of this many likeliest alternatives, up to
    /// [`MAX_TOP_LOGPROBS`]. `None` reports nothing.
    pub logprobs: Option<u8>,
    /// What the answer must look like. At most [`MAX_CONSTRAINT_BYTES`].
    pub constraint: Option<Constraint>,
    /// Never choose a token that ends the turn: for measuring.
    pub ignore_end: bool,
}

impl SamplingParams {
    /// The likeliest token always, up to `max_tokens`.
    pub fn greedy(max_tokens: u32) -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
            stop: Vec::new(),
            max_tokens,
            logprobs: None,
            constraint: None,
            ignore_end: false,
        }
    }

    /// Refuses what [`SamplingParams`]' fields do not allow.
    ///
    /// # Errors
    /// [`EngineError::Parameter`] naming the field.
    pub fn check(&self) -> Result<(), EngineError> {
        // Written so that NaN, which no comparison accepts, is refused.
        let rules = [
            (
                (0.0..=MAX_TEMPERATURE).contains(&self.temperature),
                "temperature",
                "from 0 to 2",
            ),
            (
                self.top_p > 0.0 && self.top_p <= 1.0,
                "top_p",
                "above 0 and at most 1",
            ),
            (
                (0.0..1.0).contains(&self.min_p),
                "min_p",
                "at least 0 and below 1",
            ),
            (
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 2.0,
                "repetition_penalty",
                "above 0 and at most 2",
            ),
            (
                (-2.0..=2.0).contains(&self.frequency_penalty),
                "frequency_penalty",
                "from -2 to 2",
            ),
            (
                (-2.0..=2.0).contains(&self.presence_penalty),
                "presence_penalty",
                "from -2 to 2",
            ),
            (
                self.logit_bias.len() <= MAX_LOGIT_BIAS,
                "logit_bias",
                "at most 300 tokens",
            ),
            (
                self.logit_bias
                    .values()
                    .all(|bias| (-100.0..=100.0).contains(bias)),
                "logit_bias",
                "numbers from -100 to 100",
            ),
            (self.max_tokens > 0, "max_tokens", "at least 1"),
            (self.stop.len() <= MAX_STOPS, "stop", "at most 4 strings"),
            (
                self.stop
                    .iter()
                    .all(|stop| !stop.is_empty() && stop.len() <= MAX_STOP_BYTES),
                "stop",
                "strings of 1 to 256 bytes",
            ),
            (
                self.logprobs.is_none_or(|top| top <= MAX_TOP_LOGPROBS),
                "top_logprobs",
                "at most 20",
            ),
            (
                self.constraint
                    .as_ref()
                    .is_none_or(|c| c.bytes() <= MAX_CONSTRAINT_BYTES),
                "response_format",
                "a schema or grammar of at most 64 KiB",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, name, wanted)) => Err(EngineError::Parameter { name, wanted }),
        }
    }
}

impl Constraint {
    fn bytes(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
        }
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
    /// Bytes of weights that are read for one token. Less than all of them where embeddings stand apart or
    /// experts are chosen.
    pub bytes_per_token: u64,
    /// Weights that take part in one token: its multiply-adds, attention left out.
    pub weights_per_token: u64,
    /// Bytes of memory that a generation's cache takes per token of prompt and answer.
    pub cache_bytes_per_token: u64,
    /// Tokens that all generations together can hold in the cache. Memory for them is taken at the start.
    pub cache_tokens: u64,
    /// Numbers in an embedding.
    pub embedding_width: u32,
    /// Digest of the tokenizer and template that count; see [`crate::Tokenizer`].
    pub tokenizer: Option<Digest>,
    /// What computes: "avx512-vnni", "cuda", "http://127.0.0.1:8000" and the like.
    pub runs_on: String,
}

/// A conversation as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token numbers, template included.
    pub tokens: Vec<u32>,
}

/// Whose cached prompt beginnings a request may use and leave behind. Two requests with different scopes
/// never share a page, so that no client can learn by timing what another has asked. The worker derives it
/// from the client's identity and a secret of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheScope(pub [u8; 32]);

impl std::fmt::Debug for CacheScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheScope(..)")
    }
}

/// An answer that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the model reads.
    pub prompt: Prompt,
    /// How it answers.
    pub params: SamplingParams,
    /// Whose it is; `None` neither uses nor fills the prefix cache.
    pub scope: Option<CacheScope>,
}

impl Request {
    /// A request that shares no cached beginnings.
    pub fn new(prompt: Prompt, params: SamplingParams) -> Self {
        Self {
            prompt,
            params,
            scope: None,
        }
    }
}

/// How an embedding is made from the outputs of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
}

/// One candidate at one position of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token's number.
    pub token: u32,
    /// What it says; need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability at temperature 1, before penalties and constraints.
    pub logprob: f32,
}

/// The log-probabilities at one position of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionLogprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The likeliest ones, likeliest first.
    pub top: Vec<TokenLogprob>,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// New text: whole characters only. Empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Tokens generated: 0 for a step that read a piece of the prompt and for the model's end-of-turn
    /// token, which says nothing; else 1.
    pub tokens: u32,
    /// The numbers of these tokens; none where the engine only passes text on.
    pub ids: Vec<u32>,
    /// Log-probabilities of these tokens, where they were asked for.
    pub logprobs: Vec<PositionLogprobs>,
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

    /// Puts an answer in the queue. Gives it back at once; what is slow happens in [`Generation::step`].
    ///
    /// # Errors
    /// [`EngineError::Parameter`], [`EngineError::ContextTooLong`], [`EngineError::UnknownToken`],
    /// [`EngineError::QueueFull`].
    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError>;

    /// The embedding of each text, one after the other, each of length 1 (Euclidean) and of
    /// [`ModelInfo::embedding_width`] numbers, with the number of tokens read. Blocks.
    ///
    /// # Errors
    /// [`EngineError::ContextTooLong`], [`EngineError::EmptyPrompt`]; [`EngineError::Unsupported`] where the
    /// engine makes none.
    fn embed(
        &self,
        texts: &[String],
        pooling: Pooling,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError>;
}

/// An answer in the making. Dropping it cancels it, within one step of the model.
pub trait Generation {
    /// Waits for what comes next: a token, or nothing yet but a sign of life. Blocks for as long as the
    /// forward passes take that are before it. An owner that does not call it holds only its own answer
    /// back.
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
