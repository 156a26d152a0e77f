//! Serving many answers from one model: what a forward pass is, and who is in the next one.
//!
//! ```text
//! thread     one thread owns the model: plan → forward → choose → hand out
//! ├ scheduler  who is in the next pass (no thread, no clock, no model)
//! │ ├ clients    whose turn it is
//! │ ├ sequence   one sequence: tokens, pages, what the cache holds of it
//! │ ├ pages      the cache's pages: held, kept for prompts with the same beginning, free
//! │ └ lookup     guesses for speculative decoding
//! ├ answer     one answer: sampler, text, limits → steps
//! ├ embedding  one embedding: pooling
//! ├ handle     the reader's end
//! └ stats      what the thread says of itself
//! ```

mod clients;
mod lookup;
mod model;
mod pages;
mod scheduler;
mod sequence;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod toy;

pub use model::{Batch, Model, ModelShape, Outputs, PAGE_TOKENS, Rows, Wanted};
pub use scheduler::Limits;
