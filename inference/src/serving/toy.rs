//! A model whose outputs are a function of what it finds in its cache, for tests.
//!
//! Each slot of a page holds a token and a hash of all tokens up to it, made from the slot before. A wrong
//! page, a wrong order, a page written by two: the hashes no longer fit together, and the model says so or
//! answers something else than [`answer`], which has no cache at all.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::HashSet;

use super::{Batch, Model, ModelShape, Outputs, PAGE_TOKENS, Rows, Wanted};
use crate::EngineError;
use crate::sampling::TokenBytes;

/// Tokens of the toy's vocabulary.
pub(crate) const VOCABULARY: usize = 24;
/// The token that ends an answer.
pub(crate) const END: u32 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    token: u32,
    hash: u64,
}

/// See the module's doc.
pub(crate) struct Toy {
    shape: ModelShape,
    slots: Vec<Option<Slot>>,
    /// Called before each pass with the batch.
    pub(crate) watch: Box<dyn FnMut(&Batch) -> Result<(), EngineError> + Send>,
}

/// SplitMix64 (Steele et al., 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash_after(before: u64, token: u32, position: usize) -> u64 {
    mix(before ^ mix(u64::from(token) ^ ((position as u64) << 32)))
}

/// Three times of four a function of the last two tokens, so that texts repeat themselves and guesses come
/// true; else of everything.
fn logits(hash: u64, last: u32, before_last: u32) -> Vec<f32> {
    let from = if hash.is_multiple_of(4) {
        hash
    } else {
        mix(u64::from(last) << 32 | u64::from(before_last))
    };
    let of = |token| (mix(from ^ mix(token)) >> 40) as f32 / (1u64 << 24) as f32;
    (0..VOCABULARY as u64).map(of).collect()
}

/// The place of the highest number.
pub(crate) fn highest(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    u32::try_from(best.unwrap().0).unwrap()
}

/// The logits after these tokens, without a cache.
pub(crate) fn logits_after(tokens: &[u32]) -> Vec<f32> {
    let indexed = tokens.iter().enumerate();
    let hash = indexed.fold(0, |hash, (at, token)| hash_after(hash, *token, at));
    let at = |back| tokens.len().checked_sub(back).map_or(END, |at| tokens[at]);
    logits(hash, at(1), at(2))
}

/// The likeliest answer to a prompt, the ending token included, by the definition.
pub(crate) fn answer(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        let next = highest(&logits_after(&tokens));
        tokens.push(next);
        if next == END {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

impl Toy {
    pub(crate) fn new(pages: usize, context_tokens: usize) -> Self {
        Self {
            shape: ModelShape {
                vocabulary: VOCABULARY,
                context_tokens,
                pages,
            },
            slots: vec![None; pages * PAGE_TOKENS],
            watch: Box::new(|_| Ok(())),
        }
    }

    fn slot(&mut self, rows: &Rows, position: usize) -> &mut Option<Slot> {
        let page = rows.pages[position / PAGE_TOKENS] as usize;
        &mut self.slots[page * PAGE_TOKENS + position % PAGE_TOKENS]
    }

    /// Writes one row and gives back its hash, after looking at all before it.
    fn row(&mut self, rows: &Rows, row: usize) -> (u64, u32) {
        let position = rows.start + row;
        let mut hash = 0;
        let mut last = END;
        for at in 0..position {
            let slot = self.slot(rows, at).expect("nothing was written here");
            hash = hash_after(hash, slot.token, at);
            assert_eq!(slot.hash, hash, "this page belongs to another sequence");
            last = slot.token;
        }
        let token = rows.tokens[row];
        hash = hash_after(hash, token, position);
        *self.slot(rows, position) = Some(Slot { token, hash });
        (hash, last)
    }

    fn run(
        &mut self,
        batch: &Batch,
        of: impl Fn(u64, u32, u32) -> Vec<f32>,
    ) -> Result<Outputs, EngineError> {
        (self.watch)(batch)?;
        assert!(!batch.sequences.is_empty());
        let mut written = HashSet::new();
        let mut out = Outputs {
            width: 0,
            values: vec![],
        };
        for rows in &batch.sequences {
            assert!(!rows.tokens.is_empty());
            let end = rows.start + rows.tokens.len();
            assert!(end <= self.shape.context_tokens);
            assert_eq!(rows.pages.len(), end.div_ceil(PAGE_TOKENS));
            for page in &rows.pages[rows.start / PAGE_TOKENS..] {
                assert!(written.insert(*page), "two sequences write to one page");
            }
        }
        for rows in &batch.sequences {
            for page in &rows.pages[..rows.start / PAGE_TOKENS] {
                assert!(
                    !written.contains(page),
                    "a page is read while it is written"
                );
            }
        }
        for rows in &batch.sequences {
            let first = match rows.wanted {
                Wanted::None => rows.tokens.len(),
                Wanted::Last => rows.tokens.len() - 1,
                Wanted::All => 0,
            };
            for row in 0..rows.tokens.len() {
                let (hash, last) = self.row(rows, row);
                if row >= first {
                    let values = of(hash, rows.tokens[row], last);
                    out.width = values.len();
                    out.values.extend(values);
                }
            }
        }
        Ok(out)
    }
}

/// What the toy's last layer would put out for a token.
pub(crate) fn hidden_after(tokens: &[u32]) -> Vec<f32> {
    let indexed = tokens.iter().enumerate();
    let hash = indexed.fold(0, |hash, (at, token)| hash_after(hash, *token, at));
    hidden(hash)
}

fn hidden(hash: u64) -> Vec<f32> {
    let part = |at: u32| ((hash >> (at * 16)) & 0xffff) as f32 / 65_536.0 - 0.5;
    (0..4).map(part).collect()
}

/// What the toy's tokens say: a letter each, but for the one that ends.
pub(crate) struct Letters;

/// The token's letter.
pub(crate) fn letter(token: u32) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz"[token as usize])
}

impl TokenBytes for Letters {
    fn len(&self) -> usize {
        VOCABULARY
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        let letters = b"abcdefghijklmnopqrstuvwxyz";
        (token != END).then(|| &letters[token as usize..=token as usize])
    }

    fn end_tokens(&self) -> Vec<u32> {
        vec![END]
    }
}

/// A prompt of this length whose answer is that long, not counting the token that ends it.
pub(crate) fn prompt(length: usize, wanted_answer: usize) -> Vec<u32> {
    (0..100_000u64)
        .map(|salt| {
            let token = |at: u64| (mix(salt << 32 | at) % 23) as u32 + 1;
            (0..length as u64).map(token).collect::<Vec<_>>()
        })
        .find(|prompt| {
            answer(prompt, wanted_answer)
                .iter()
                .filter(|t| **t != END)
                .count()
                == wanted_answer
        })
        .unwrap()
}

impl Model for Toy {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn forward(&mut self, batch: &Batch) -> Result<Outputs, EngineError> {
        self.run(batch, logits)
    }

    fn hidden(&mut self, batch: &Batch) -> Result<Outputs, EngineError> {
        self.run(batch, |hash, _, _| hidden(hash))
    }
}
