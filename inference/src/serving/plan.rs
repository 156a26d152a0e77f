//! What goes into the scheduler and what comes out: limits, wishes, plans, outcomes.

use super::clients::{Client, SequenceId};
use super::sequence::Work;
use super::{Batch, ModelShape, PAGE_TOKENS, Wanted};
use crate::sampling::MAX_DRAFT;
use crate::{CacheScope, EngineError};

/// How much is done at once, and how much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in one forward pass. More make reading prompts cheaper and each step longer.
    pub max_batch_tokens: usize,
    /// Tokens of one prompt in one forward pass.
    pub prefill_chunk: usize,
    /// Sequences that run at once. Fewer than `max_batch_tokens`, so that prompts are read even when all
    /// answer.
    pub max_sequences: usize,
    /// Sequences that may wait or pause beside those that run.
    pub max_waiting: usize,
    /// Pages that sequences may keep while their readers do not read. Those above it are given up, from the
    /// youngest on.
    pub max_paused_pages: usize,
    /// Tokens of an answer that are guessed and read at once: see [`crate::sampling::Lookup`]. 0 guesses
    /// none, [`MAX_DRAFT`] is the most.
    pub speculation: usize,
}

impl Limits {
    /// Limits for a cache of this many pages: what a processor with a handful of cores serves well.
    pub fn for_pages(pages: usize) -> Self {
        Self {
            max_batch_tokens: 512,
            prefill_chunk: 256,
            max_sequences: 32,
            max_waiting: 256,
            max_paused_pages: pages / 2,
            speculation: 0,
        }
    }

    /// # Errors
    /// [`EngineError::Inconsistent`] when nothing could run, or no prompt be read beside full answers.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let rules = [
            (
                "sequences and tokens of a batch",
                self.max_sequences,
                self.max_batch_tokens,
            ),
            ("tokens of a prefill chunk", 0, self.prefill_chunk),
            ("sequences that run", 0, self.max_sequences),
            (
                "guesses and their limit",
                self.speculation,
                MAX_DRAFT.saturating_add(1),
            ),
        ];
        match rules.into_iter().find(|(_, less, more)| less >= more) {
            None => Ok(()),
            Some((what, left, right)) => Err(EngineError::Inconsistent { what, left, right }),
        }
    }

    /// Sequences there may be at all.
    pub(crate) fn all_sequences(&self) -> usize {
        self.max_sequences.saturating_add(self.max_waiting)
    }
}

/// What is submitted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) tokens: Vec<u32>,
    pub(crate) work: Work,
    /// Most tokens of an answer. Means nothing for an embedding.
    pub(crate) max_tokens: usize,
    pub(crate) scope: Option<CacheScope>,
    pub(crate) client: Client,
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: SequenceId,
    /// Most tokens of the answer: what was wished, or fewer where context or cache end.
    pub(crate) max_tokens: usize,
}

/// One sequence's part in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: SequenceId,
    /// Tokens the cache held before.
    pub(crate) start: usize,
    /// Tokens that are read, guesses included.
    pub(crate) rows: usize,
    /// How many of the rows, the last ones, are guesses.
    pub(crate) guesses: usize,
    /// Whether something is to come out.
    pub(crate) wanted: Wanted,
}

/// Rows for one call of the model, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) batch: Batch,
    /// As many as the batch has sequences, in the same order.
    pub(crate) entries: Vec<Entry>,
}

/// One step: at least one of the parts holds something.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// For [`super::Model::forward`].
    pub(crate) answers: Part,
    /// For [`super::Model::hidden`].
    pub(crate) embeddings: Part,
}

/// What a pass brought for one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its rows were read, and nothing came out yet.
    Read,
    /// These tokens came out: all but the last were guessed right.
    Grew(Vec<u32>),
    /// It is over.
    Ended,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) steps: u64,
    /// Tokens read other than those just chosen.
    pub(crate) prefilled: u64,
    /// Tokens chosen.
    pub(crate) decoded: u64,
    /// Tokens that need not be read because a page with them was kept.
    pub(crate) prefix_hits: u64,
    /// Times that a sequence gave up what it had computed.
    pub(crate) preemptions: u64,
    /// Tokens guessed, and how many of them right.
    pub(crate) guessed: u64,
    pub(crate) guessed_right: u64,
}

impl Plan {
    /// Tokens in all.
    pub(crate) fn rows(&self) -> usize {
        let entries = self.answers.entries.iter().chain(&self.embeddings.entries);
        entries.map(|entry| entry.rows).sum()
    }
}

/// Most tokens of one sequence.
pub(crate) fn capacity(shape: ModelShape) -> usize {
    let cache = shape.pages.saturating_mul(PAGE_TOKENS);
    cache.min(shape.context_tokens)
}

/// Most tokens of this sequence.
///
/// # Errors
/// [`EngineError::EmptyPrompt`], and [`EngineError::ContextTooLong`] for a prompt that leaves no room for an
/// answer, or tokens of an embedding that do not fit.
pub(crate) fn limit(capacity: usize, wish: &Wish) -> Result<usize, EngineError> {
    let prompt = wish.tokens.len();
    let (least, most) = match wish.work {
        Work::Answer => (
            prompt.saturating_add(1),
            prompt.saturating_add(wish.max_tokens),
        ),
        Work::Embedding(_) => (prompt, prompt),
    };
    match prompt {
        0 => Err(EngineError::EmptyPrompt),
        _ if least > capacity => Err(EngineError::ContextTooLong {
            prompt,
            limit: capacity,
        }),
        _ => Ok(most.min(capacity)),
    }
}
