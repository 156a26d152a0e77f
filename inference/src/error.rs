//! What can go wrong in this room.

use crate::gguf::GgufError;

/// Why a model could not be loaded, or an answer not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model file is damaged, hostile, or lacks what the model needs.
    #[error("model file: {0}")]
    File(#[from] GgufError),
    /// The file is in order but asks for something this engine does not compute.
    #[error("the model's {feature} is {found:?}, which this engine does not support")]
    Unsupported {
        /// What the file asks for.
        feature: &'static str,
        /// What was found.
        found: String,
    },
    /// The numbers of the file contradict one another.
    #[error("the model's {what} do not fit together: {left} and {right}")]
    Inconsistent {
        /// Which numbers.
        what: &'static str,
        /// One of them.
        left: usize,
        /// The other.
        right: usize,
    },
    /// All weights together are more than this engine takes.
    #[error("the model has more than {limit} weights")]
    TooManyWeights {
        /// The limit.
        limit: usize,
    },
    /// The tokenizer could not be built from the file, or refused a text.
    #[error("tokenizer: {0}")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The chat template does not parse, failed, or computed or wrote too much.
    #[error("chat template: {0}")]
    Template(#[from] minijinja::Error),
    /// A conversation without a message.
    #[error("there are no messages")]
    EmptyMessages,
    /// A conversation with more text than any context can hold.
    #[error("the messages have {bytes} bytes, the limit is {limit}")]
    TooMuchText {
        /// Bytes of all messages.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, the model's context is {limit}")]
    ContextTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of prompt and answer together.
        limit: usize,
    },
    /// A prompt holds a token number that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The number.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A sampling parameter is out of range.
    #[error("{name} must be {wanted}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// No randomness could be had for a request without a seed.
    #[error("no randomness: {0}")]
    Entropy(getrandom::Error),
    /// The model computed something that is not a number.
    #[error("the model computed no finite numbers after {position} tokens")]
    NotFinite {
        /// Tokens of context it had.
        position: usize,
    },
    /// The tensor library gave back something else than was asked for.
    #[error("tensor library: {0}")]
    Tensor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More answers wait than the engine's queue holds.
    #[error("{waiting} answers wait already; try again later or elsewhere")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The engine's thread has ended; nothing more will come from it.
    #[error("the engine has stopped")]
    Stopped,
    /// A value of the checkpoint's configuration.
    #[error("the model's configuration: {key} must be {wanted}")]
    Config {
        /// The key.
        key: String,
        /// What its value must be.
        wanted: &'static str,
    },
    /// A tensor has other dimensions than the configuration asks for.
    #[error("tensor {tensor:?} has dimensions {got:?}, the model needs {wanted:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// Dimensions in the file, slowest first.
        got: Vec<usize>,
        /// Dimensions the model needs, slowest first.
        wanted: Vec<usize>,
    },
    /// A weight whose part in the computation is not known: computing without it would give wrong answers.
    #[error("the model has a tensor {0:?} that this engine does not know what to do with")]
    UnknownTensor(String),
    /// The weights cannot be laid out for the processor.
    #[error("weights: {0}")]
    Kernel(#[from] crate::kernel::KernelError),
    /// [`crate::Generation::step`] was called after the last step.
    #[error("the generation has ended")]
    Finished,
    /// What an answer is to look like is malformed, not supported, impossible, or too costly to follow.
    #[error("the answer's format: {message}")]
    Constraint {
        /// What is wrong, in the words of the library that compiles it.
        message: String,
    },
    /// The model's files are damaged, hostile, incomplete, or of a kind that is not read.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// A sealed model could not be opened.
    #[error(transparent)]
    Sealed(Box<crate::sealed::SealedError>),
    /// A server on this machine could not be used, or did not answer as it should.
    #[error(transparent)]
    Upstream(#[from] crate::upstream::UpstreamError),
    /// A forward pass failed, and with it all answers that were in it.
    #[error("a forward pass failed: {0}")]
    Pass(#[source] std::sync::Arc<EngineError>),
    /// The engine's thread could not be started.
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<crate::sealed::SealedError> for EngineError {
    fn from(error: crate::sealed::SealedError) -> Self {
        Self::Sealed(Box::new(error))
    }
}
