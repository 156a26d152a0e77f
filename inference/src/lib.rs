//! Weights in, tokens out: language models on burn.
//!
//! This room knows nothing of networks, money or evidence, and has no async. One [`Engine`] serves one model:
//! it turns messages into a [`Prompt`] and a [`Request`] into a [`Generation`], which its owner asks for
//! steps. [`BurnEngine`] computes here; [`upstream`] speaks to another server on this machine.
//!
//! ```text
//! GGUF file, Hugging Face folder ─ checkpoint ─┬─ families on layers   weights, forward pass
//!                                              │    ├─ kernel          on the processor
//!                                              │    └─ burn tensors    on any other device
//!                                              ├─ vocabulary           text ⇄ tokens, counted by tokenizer
//!                                              └─ template             messages → text
//! serving: who is in the next pass → decoder → sampling → stream → Step
//! ```
//!
//! The model file may come from a stranger: it is checked against named limits before anything in it is
//! used, and what does not fit is an [`EngineError`].

mod burn_engine;
pub mod canary;
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
pub mod sealed;
pub mod serving;
pub mod store;
mod stream;
mod template;
mod tokenizer;
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
pub use tokenizer::{Recount, Tokenizer};
