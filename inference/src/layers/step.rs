//! One forward pass, as the layers see it.

use burn::tensor::{Int, Tensor};

use super::activations::int_tensor;
use super::fixed::Fixed;
use super::place::Place;
use crate::EngineError;
use crate::kernel::Sequence;
use crate::serving::{Batch, ModelShape, PAGE_TOKENS, Wanted};

/// A batch, checked and laid out: the rows of all sequences one below the other.
pub(crate) struct Step<'b> {
    /// The token of each row.
    pub(crate) tokens: Vec<usize>,
    /// Its position in its sequence.
    pub(crate) positions: Vec<usize>,
    /// Which rows belong together.
    pub(crate) sequences: Vec<Sequence<'b>>,
    /// Rows whose outputs are wanted.
    pub(crate) wanted: Vec<usize>,
    /// The cache's slot of each row, on the device, where there is one.
    pub(crate) slots: Option<Tensor<1, Int>>,
    /// Everything on the device instead, in shapes that do not change.
    pub(crate) fixed: Option<Fixed>,
}

impl<'b> Step<'b> {
    /// # Errors
    /// As [`crate::serving::Model::forward`].
    pub(crate) fn new(
        batch: &'b Batch,
        shape: ModelShape,
        place: &Place,
    ) -> Result<Self, EngineError> {
        let mut step = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            sequences: Vec::with_capacity(batch.sequences.len()),
            wanted: Vec::new(),
            slots: None,
            fixed: None,
        };
        let mut slots = Vec::new();
        for rows in &batch.sequences {
            let first = step.tokens.len();
            if rows.tokens.is_empty() {
                return Err(EngineError::EmptyPrompt);
            }
            let end = rows.start.saturating_add(rows.tokens.len());
            if end > shape.context_tokens {
                return Err(EngineError::ContextTooLong {
                    prompt: end,
                    limit: shape.context_tokens,
                });
            }
            let pages = end.div_ceil(PAGE_TOKENS);
            if rows.pages.len() < pages {
                return Err(EngineError::Inconsistent {
                    what: "pages of a sequence and its tokens",
                    left: rows.pages.len(),
                    right: pages,
                });
            }
            if let Some(&page) = rows
                .pages
                .iter()
                .find(|&&page| page as usize >= shape.pages)
            {
                return Err(EngineError::Inconsistent {
                    what: "page's number and number of pages",
                    left: page as usize,
                    right: shape.pages,
                });
            }
            for (position, &token) in (rows.start..end).zip(&rows.tokens) {
                if token as usize >= shape.vocabulary {
                    return Err(EngineError::UnknownToken {
                        token,
                        vocabulary: shape.vocabulary,
                    });
                }
                step.tokens.push(token as usize);
                step.positions.push(position);
                slots.push(slot(&rows.pages, position));
            }
            let last = step.tokens.len();
            match rows.wanted {
                Wanted::None => {}
                Wanted::Last => step.wanted.extend(last.checked_sub(1)),
                Wanted::All => step.wanted.extend(first..last),
            }
            step.sequences.push(Sequence {
                rows: first..last,
                start: rows.start,
                pages: &rows.pages,
            });
        }
        if step.sequences.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Place::Device { device, .. } = place {
            step.slots = Some(int_tensor(&slots, device));
        }
        Ok(step)
    }

    /// The step that these inputs on the device describe. All rows' outputs are wanted.
    pub(crate) fn fixed(inputs: Fixed) -> Self {
        Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            sequences: Vec::new(),
            wanted: Vec::new(),
            slots: Some(inputs.slots.clone()),
            fixed: Some(inputs),
        }
    }
}

/// Where the cache holds a position of a sequence. The table has a page for it: [`Step::new`] saw to that.
pub(crate) fn slot(pages: &[u32], position: usize) -> usize {
    let page = pages.get(position / PAGE_TOKENS).copied().unwrap_or(0);
    (page as usize)
        .saturating_mul(PAGE_TOKENS)
        .saturating_add(position % PAGE_TOKENS)
}
