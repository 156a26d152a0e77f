//! Serving many answers from one model: what a forward pass is, and who is in the next one.
//!
//! ```text
//! front        the owner's end: start, embed, stats
//! thread       one thread owns the model: plan → forward → choose → hand out
//! ├ scheduler  who is in the next pass (no thread, no clock, no model); plan: its inputs and outputs
//! │ ├ clients  whose turn it is
//! │ ├ sequence one sequence: tokens, pages, what the cache holds of it
//! │ └ pages    the cache's pages: held, kept for prompts with the same beginning, free
//! ├ answer     one answer: sampler, text, limits → steps
//! ├ embedding  one embedding: pooling
//! ├ reader     the reader's end of an answer
//! └ stats      what the thread says of itself
//! ```
//!
//! Start at [`BatchEngine`].

mod answer;
mod clients;
mod embedding;
mod front;
mod model;
mod pages;
mod plan;
mod reader;
mod scheduler;
mod sequence;
#[cfg(test)]
mod simulation;
mod stats;
mod thread;
#[cfg(test)]
mod thread_tests;
#[cfg(test)]
mod toy;

pub use front::{BatchEngine, ServingOptions};
pub use model::{Batch, Model, ModelShape, Outputs, PAGE_TOKENS, Rows, Wanted};
pub use plan::Limits;
pub use reader::{BatchGeneration, MAX_UNREAD_STEPS};
pub use stats::ServingStats;
