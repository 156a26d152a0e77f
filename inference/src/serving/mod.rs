//! Serving many answers from one model: what a forward pass is, and who is in the next one.

mod model;

pub use model::{Batch, Model, ModelShape, Outputs, PAGE_TOKENS, Rows, Wanted};
