//! Weights in, tokens out: language models on burn.
//!
//! This room knows nothing of networks, money or evidence, and has no async. One [`Engine`] holds the
//! weights of one model; it turns messages into a [`Prompt`] and a prompt into a [`Generation`], which is
//! stepped by whoever owns a thread for it. Generations share the weights and own their key-value cache.
//!
//! ```text
//! GGUF file ─ gguf ─┬─ llama      weights and forward pass (burn)
//!                   ├─ vocabulary text ⇄ tokens, control tokens kept out of user text
//!                   └─ template   messages → text
//! forward pass → sampler → stream (whole characters, stop strings) → Step
//! ```
//!
//! The model file may come from a stranger: it is checked against named limits before anything in it is
//! used, and what does not fit is an [`EngineError`].

mod burn_engine;
pub mod checkpoint;
mod decoder;
pub mod device_ceiling;
mod engine;
mod error;
mod families;
pub mod gguf;
pub mod kernel;
mod layers;
mod replay;
pub mod sampling;
pub mod serving;
pub mod store;
mod stream;
mod template;
pub mod upstream;
mod vocabulary;

pub use burn_engine::{BurnEngine, EngineOptions, MAX_EMBEDDED_TEXTS};
pub use decoder::{CacheRoom, Decoder, Target};
pub use engine::{
    CacheScope, Constraint, Engine, FinishReason, Generation, MAX_CONSTRAINT_BYTES, MAX_LOGIT_BIAS,
    MAX_STOP_BYTES, MAX_STOPS, MAX_TEMPERATURE, MAX_TOP_LOGPROBS, Message, ModelInfo, Pooling,
    PositionLogprobs, Prompt, Request, Role, SamplingParams, Step, TokenLogprob,
};
pub use error::EngineError;
pub use layers::profile;
