//! What the scheduler needs of a model, and nothing more.

use crate::EngineError;

/// Tokens in one page of the key-value cache, the unit in which memory is given to answers and prompts'
/// beginnings are shared.
pub use crate::kernel::PAGE_TOKENS;

/// Which rows' outputs are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: a piece of a prompt that goes on.
    None,
    /// The last row's.
    Last,
    /// Every row's: for scoring, speculation and embeddings.
    All,
}

/// The new tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Their numbers; at least one.
    pub tokens: Vec<u32>,
    /// Tokens of the sequence that the cache already holds. These rows take the positions from here on.
    pub start: usize,
    /// The sequence's pages, in order; enough for `start + tokens.len()` tokens.
    pub pages: Vec<u32>,
    /// Whose outputs are wanted.
    pub wanted: Wanted,
}

/// One forward pass: new tokens of several sequences, of different lengths. No two of them write to the same page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// At least one.
    pub sequences: Vec<Rows>,
}

/// What a forward pass brought: one row of numbers per wanted row, in the order of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// Numbers in a row: the vocabulary's size for logits, the model's width for embeddings.
    pub width: usize,
    /// The rows, one after the other.
    pub values: Vec<f32>,
}

impl Outputs {
    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

/// The sizes that scheduling depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Most tokens of one sequence.
    pub context_tokens: usize,
    /// Pages of the cache, shared by all sequences.
    pub pages: usize,
}

/// A model with its cache.
pub trait Model: Send {
    /// The sizes.
    fn shape(&self) -> ModelShape;

    /// Computes the logits of the wanted rows and keeps keys and values of all rows in the pages. What a
    /// sequence's rows bring does not depend on the other sequences of the batch, nor on how its tokens are
    /// cut into batches, but for rounding where the device says so.
    ///
    /// # Errors
    /// [`EngineError::UnknownToken`], [`EngineError::EmptyPrompt`], [`EngineError::ContextTooLong`] and, for page numbers or
    /// tables that do not fit, [`EngineError::Inconsistent`]: nothing was computed then.
    fn forward(&mut self, batch: &Batch) -> Result<Outputs, EngineError>;

    /// As [`Self::forward`], with the last layer's normalised outputs instead of logits.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn hidden(&mut self, batch: &Batch) -> Result<Outputs, EngineError>;
}
