//! What can go wrong with a job, and how `OpenAI`'s clients expect to hear about it.

use cocoon_protocol::ids::PeerId;

use super::SubmissionError;

/// Why a job was not, or not fully, answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Nobody verified serves the model.
    #[error("no worker serves the model `{model}`; served now: {}", list(.available))]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What is served.
        available: Vec<String>,
    },
    /// Workers are known, none of them has evidence that verifies.
    #[error("no verified worker yet ({seen} seen, none verified); see `cocoon status`")]
    NoVerifiedWorker {
        /// Workers seen, whatever their standing.
        seen: u32,
    },
    /// Every verified worker refused an offer.
    #[error("all {asked} workers asked for an offer are busy; try again")]
    AllWorkersBusy {
        /// Workers asked.
        asked: u32,
        /// A sensible pause, milliseconds.
        retry_after_ms: u32,
    },
    /// The worker disappeared, and the job could not move (text had been sent, or nobody else).
    #[error("worker {peer} was lost after {tokens_received} tokens; only those were paid for")]
    WorkerLost {
        /// Who.
        peer: PeerId,
        /// Tokens that arrived, and were paid.
        tokens_received: u32,
    },
    /// The worker answered with a typed failure of its own.
    #[error("worker {peer} failed the job: {reason}")]
    WorkerFailed {
        /// Who.
        peer: PeerId,
        /// Its error code, in words. Holds no content.
        reason: String,
    },
    /// The conversation does not fit.
    #[error("the conversation has {prompt_tokens} tokens, `{model}` takes {limit_tokens}")]
    ContextTooLong {
        /// The model.
        model: String,
        /// Counted (or, before a worker has counted, at least this many).
        prompt_tokens: u32,
        /// The limit.
        limit_tokens: u32,
    },
    /// The request itself is wrong.
    #[error("{message}")]
    BadRequest {
        /// The field, if one is to blame.
        field: Option<String>,
        /// What is wrong with it. Of a schema or a grammar that a worker refused it may quote some, so it
        /// is for the asker and not for a log.
        message: String,
    },
    /// No channel, or not enough in it, or the chain does not answer.
    #[error("payment failed: {reason}")]
    PaymentFailed {
        /// What to know and do, for example how much is missing in which account.
        reason: String,
    },
    /// Too many jobs at once on this node.
    #[error("{limit} jobs are running on this gateway, its limit; try again")]
    Overloaded {
        /// The limit that was hit.
        limit: u32,
    },
    /// The job took too long.
    #[error("no answer within {after_ms} ms")]
    TimedOut {
        /// How long it was given.
        after_ms: u64,
    },
    /// The node is going down.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// A bug or a broken disk here.
    #[error("internal error: {reason}")]
    Internal {
        /// For the log and the bug report. Holds no content.
        reason: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl From<SubmissionError> for GatewayError {
    fn from(error: SubmissionError) -> Self {
        Self::BadRequest {
            message: format!("`{}` {}", error.field, error.message),
            field: Some(error.field),
        }
    }
}

impl GatewayError {
    /// The HTTP status, if nothing of the answer has been sent.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::BadRequest { .. } | Self::ContextTooLong { .. } => 400,
            Self::PaymentFailed { .. } => 402,
            Self::UnknownModel { .. } => 404,
            Self::Overloaded { .. } => 429,
            Self::Internal { .. } => 500,
            Self::WorkerLost { .. } | Self::WorkerFailed { .. } => 502,
            Self::NoVerifiedWorker { .. } | Self::AllWorkersBusy { .. } | Self::ShuttingDown => 503,
            Self::TimedOut { .. } => 504,
        }
    }

    /// `error.type` of the body.
    #[must_use]
    pub const fn openai_type(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } | Self::ContextTooLong { .. } | Self::UnknownModel { .. } => {
                "invalid_request_error"
            }
            Self::PaymentFailed { .. } => "insufficient_quota",
            Self::Overloaded { .. } => "rate_limit_error",
            _ => "server_error",
        }
    }

    /// `error.code` of the body: stable, for programs.
    #[must_use]
    pub const fn openai_code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "model_not_found",
            Self::NoVerifiedWorker { .. } => "no_verified_worker",
            Self::AllWorkersBusy { .. } => "all_workers_busy",
            Self::WorkerLost { .. } => "worker_lost",
            Self::WorkerFailed { .. } => "worker_failed",
            Self::ContextTooLong { .. } => "context_length_exceeded",
            Self::BadRequest { .. } => "invalid_value",
            Self::PaymentFailed { .. } => "payment_failed",
            Self::Overloaded { .. } => "too_many_jobs",
            Self::TimedOut { .. } => "timed_out",
            Self::ShuttingDown => "shutting_down",
            Self::Internal { .. } => "internal_error",
        }
    }

    /// `error.param` of the body.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::BadRequest { field, .. } => field.as_deref(),
            Self::UnknownModel { .. } => Some("model"),
            Self::ContextTooLong { .. } => Some("messages"),
            _ => None,
        }
    }

    /// Seconds for `Retry-After`, where trying again helps.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::AllWorkersBusy { retry_after_ms, .. } => {
                Some(retry_after_ms.div_ceil(1000).max(1))
            }
            Self::Overloaded { .. } => Some(1),
            Self::NoVerifiedWorker { .. } => Some(5),
            _ => None,
        }
    }
}
