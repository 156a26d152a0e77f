//! The shapes of answers: `chat.completion`, its chunks, log-probabilities, the models list.
//!
//! One extension: the object `cocoon` on a whole answer, and on the chunk of a stream that carries
//! `finish_reason`. It names the job, the worker and the receipt and says what the answer cost.
//! `OpenAI`'s SDKs keep unknown fields, so `completion.cocoon["cost_nanoton"]` works in Python.

use cocoon_actors::gateway_port::{
    Completion, Finish, PositionLogprobs, ServedModel, TokenLogprob, Usage,
};
use cocoon_protocol::ids::JobId;
use serde::Serialize;
use std::borrow::Cow;

/// The id of an answer; `GET /v1/receipts/{id}` takes it too.
#[must_use]
pub fn completion_id(job: JobId) -> String {
    format!("{COMPLETION_PREFIX}{job}")
}

/// What [`completion_id`] puts before the job's name.
pub const COMPLETION_PREFIX: &str = "chatcmpl-";

/// What all parts of an answer say.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// `chatcmpl-` and the job's name.
    pub id: String,
    /// `chat.completion` or `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that was asked for.
    pub model: String,
}

/// A whole answer.
#[derive(Debug, Serialize)]
pub struct Whole<'a> {
    /// Id, time, model.
    #[serde(flatten)]
    pub head: &'a Head,
    /// As many as were asked for.
    pub choices: Vec<WholeChoice<'a>>,
    /// Token counts.
    pub usage: UsageReply,
    /// Who, and for how much.
    pub cocoon: Extension,
}

/// One choice of a whole answer.
#[derive(Debug, Serialize)]
pub struct WholeChoice<'a> {
    /// Counted from 0.
    pub index: u8,
    /// The answer.
    pub message: AssistantMessage<'a>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Null unless asked for.
    pub logprobs: Option<Logprobs<'a>>,
    /// Absent unless asked for; null where the worker's engine has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Option<&'a [u32]>>,
}

/// What the model said.
#[derive(Debug, Serialize)]
pub struct AssistantMessage<'a> {
    /// `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: &'a str,
    /// Always null; SDKs expect the field.
    pub refusal: Option<()>,
}

/// One chunk of a stream.
#[derive(Debug, Serialize)]
pub struct Chunk<'a> {
    /// Id, time, model.
    #[serde(flatten)]
    pub head: &'a Head,
    /// One, or none in the chunk that carries the usage.
    pub choices: Vec<ChunkChoice<'a>>,
    /// Absent unless asked for; then null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<UsageReply>>,
    /// On the chunk with a `finish_reason` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cocoon: Option<Extension>,
}

/// The one choice of a chunk.
#[derive(Debug, Serialize)]
pub struct ChunkChoice<'a> {
    /// Counted from 0.
    pub index: u8,
    /// What is new.
    pub delta: Delta<'a>,
    /// Null until the end.
    pub finish_reason: Option<FinishReason>,
    /// Of the tokens in this chunk; null unless asked for.
    pub logprobs: Option<Logprobs<'a>>,
    /// The numbers of the tokens in this chunk; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
}

/// The log-probabilities of an answer, or of a chunk of it.
#[derive(Debug, Serialize)]
pub struct Logprobs<'a> {
    /// For each token in turn.
    pub content: Vec<PositionReply<'a>>,
    /// Always null; SDKs expect the field.
    pub refusal: Option<()>,
}

impl<'a> Logprobs<'a> {
    /// Of these positions.
    #[must_use]
    pub fn of(positions: &'a [PositionLogprobs]) -> Self {
        let position = |position: &'a PositionLogprobs| PositionReply {
            chosen: CandidateReply::of(&position.chosen),
            top_logprobs: position.top.iter().map(CandidateReply::of).collect(),
        };
        Self {
            content: positions.iter().map(position).collect(),
            refusal: None,
        }
    }
}

/// The log-probabilities at one position.
#[derive(Debug, Serialize)]
pub struct PositionReply<'a> {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: CandidateReply<'a>,
    /// The likeliest ones.
    pub top_logprobs: Vec<CandidateReply<'a>>,
}

/// A token and how likely it was.
#[derive(Debug, Serialize)]
pub struct CandidateReply<'a> {
    /// What it says; what is not UTF-8 is replaced, since a token need not be whole characters.
    pub token: Cow<'a, str>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// What it says, exactly.
    pub bytes: &'a [u8],
}

impl<'a> CandidateReply<'a> {
    fn of(candidate: &'a TokenLogprob) -> Self {
        Self {
            token: String::from_utf8_lossy(&candidate.token),
            logprob: candidate.logprob,
            bytes: &candidate.token,
        }
    }
}

/// What is new in a chunk.
#[derive(Debug, Default, Serialize)]
pub struct Delta<'a> {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model, or a stop string, ended it.
    Stop,
    /// `max_tokens` or the context ended it.
    Length,
}

impl From<Finish> for FinishReason {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
        }
    }
}

/// Token counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UsageReply {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
}

impl From<Usage> for UsageReply {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
        }
    }
}

/// The extension object `cocoon`.
#[derive(Clone, Debug, Serialize)]
pub struct Extension {
    /// The job's name, hexadecimal.
    pub job: String,
    /// Peer id of the worker that served it.
    pub worker: String,
    /// For `GET /v1/receipts/{id}` and `cocoon verify`.
    pub receipt: String,
    /// What was paid, nanoTON, in decimal digits: a string, since JSON numbers lose digits.
    pub cost_nanoton: String,
}

impl Extension {
    /// What a finished job tells.
    #[must_use]
    pub fn new(job: JobId, completion: &Completion) -> Self {
        Self {
            job: job.to_string(),
            worker: completion.worker.to_string(),
            receipt: completion.receipt.clone(),
            cost_nanoton: completion.cost.nano().to_string(),
        }
    }
}

/// `GET /v1/models`.
#[derive(Debug, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// What verified workers serve now.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize)]
pub struct Model {
    /// The name to ask for.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When this node first saw it, seconds since 1970.
    pub created: u64,
    /// `cocoon`: nobody in particular.
    pub owned_by: &'static str,
    /// What the mesh says of it.
    pub cocoon: ModelExtension,
}

/// The extension object `cocoon` of a model.
#[derive(Debug, Serialize)]
pub struct ModelExtension {
    digest: String,
    context_tokens: u32,
    workers: u32,
    price_input_nanoton: String,
    price_output_nanoton: String,
}

impl From<ServedModel> for Model {
    fn from(model: ServedModel) -> Self {
        Self {
            id: model.id,
            object: "model",
            created: model.first_seen_unix,
            owned_by: "cocoon",
            cocoon: ModelExtension {
                digest: model.digest,
                context_tokens: model.context_tokens,
                workers: model.workers,
                price_input_nanoton: model.price_input.nano().to_string(),
                price_output_nanoton: model.price_output.nano().to_string(),
            },
        }
    }
}
