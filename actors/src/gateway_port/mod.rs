//! The port between HTTP (in `node/`) and the actors of a node.
//!
//! HTTP hands a [`JobSubmission`] to a [`Gateway`] and gets a [`JobHandle`]: a bounded queue of
//! [`JobEvent`]s that ends with exactly one terminal event. Dropping the handle cancels the job;
//! nothing else has to be called. Neither side knows the other's machinery: no axum here, no actor
//! there.
//!
//! What goes wrong is a [`GatewayError`]. It carries the data a person needs and knows how
//! `OpenAI`'s clients expect to hear about it (status, `type`, `code`, `param`), so that every
//! front end tells the same story.
//!
//! Every role of node also offers a [`NodeView`]: what `cocoon status`, `/health` and the receipts
//! endpoint read.

mod error;
mod funds;
mod job;
mod submission;
mod view;

pub use cocoon_inference::{
    MAX_CONSTRAINT_BYTES, MAX_LOGIT_BIAS, MAX_STOP_BYTES, MAX_STOPS, MAX_TOP_LOGPROBS, Pooling,
};
pub use cocoon_protocol::job::{MAX_CHOICES, PositionLogprobs, TokenLogprob};
pub use error::GatewayError;
pub use funds::{
    EarningChannel, EarningFunds, EarningTotals, Funds, LockState, LockedChannel, LockedTotals,
    MAX_EARNING_CHANNELS, MAX_RECLAIMED, PayingFunds, Reclaimed,
};
pub use job::{
    Cancelled, Completion, Delta, Finish, JobEvent, JobEvents, JobHandle, MAX_JOB_EVENTS, Usage,
    job_channel,
};
pub use submission::{
    AnswerFormat, ChatMessage, EmbeddingWish, JobSubmission, MAX_EMBEDDED_TEXTS, MAX_MESSAGES,
    MAX_MODEL_NAME_BYTES, MAX_SUBMISSION_BYTES, Role, SubmissionError,
};
pub use view::{
    AdminCommand, BeaconReference, ChainServer, ChainStatus, ChannelStatus, LogStatus,
    MAX_ATTESTATIONS, NodeStatus, NodeView, Opening, RECEIPT_FORMAT, ReceiptDocument, ReceiptKey,
    SettlementStatus, WorkerAttestation, WorkerStanding, WorkerStatus,
};

use cocoon_protocol::units::NanoTon;

/// A model that verified workers serve now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// Its id.
    pub id: String,
    /// Digest of its weights, hexadecimal.
    pub digest: String,
    /// Longest context any of them offers, tokens.
    pub context_tokens: u32,
    /// Verified workers that serve it.
    pub workers: u32,
    /// Cheapest price of a prompt token among them.
    pub price_input: NanoTon,
    /// Cheapest price of a generated token among them.
    pub price_output: NanoTon,
    /// When this node first saw it, seconds since 1970.
    pub first_seen_unix: u64,
}

/// What HTTP needs of a client node's gateway actor.
#[async_trait::async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// Starts a job. Returns as soon as the job has a name; what happens to it are events. A full
    /// mailbox is [`GatewayError::Overloaded`].
    async fn submit(&self, submission: JobSubmission) -> Result<JobHandle, GatewayError>;

    /// The models that could be answered right now, sorted by id.
    async fn models(&self) -> Result<Vec<ServedModel>, GatewayError>;
}
