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
mod engine;
mod error;
pub mod gguf;
mod llama;
mod sampler;
mod stream;
mod template;
mod vocabulary;

pub use burn_engine::{BurnEngine, PREFILL_CHUNK_TOKENS};
pub use engine::{
    Engine, FinishReason, Generation, MAX_STOP_BYTES, MAX_STOPS, MAX_TEMPERATURE, Message,
    ModelInfo, Prompt, Role, SamplingParams, Step,
};
pub use error::EngineError;
