//! Several tokens from one forward pass: guessing ahead by looking up, and checking the guess.
//!
//! **The guess** (prompt look-up decoding, Saxena 2023): where the last few tokens stood before, in the prompt
//! or in the answer, what followed them then may follow again. Summaries, code and quotations repeat; it costs
//! no second model. [`Lookup`] remembers for each short run of tokens where it stood last.
//!
//! **The check**: one forward pass over the guessed tokens gives the logits after each of them. [`verify`] lets
//! the sampler choose at each position and goes on while its choice is the guessed token. The first different
//! choice is kept too, since its logits followed nothing but tokens that were chosen. A sampler's choice is a
//! function of logits, position, seed and the tokens before it, so the answer is the very same as without
//! guessing, whatever the temperature: speculation changes how many passes an answer takes and nothing else.
//! (With an engine whose logits depend in their last bits on how many rows a pass has, the same holds up to
//! those.)

use std::collections::HashMap;

use super::{Choice, Sampler};
use crate::EngineError;

/// Most tokens guessed at once.
pub const MAX_DRAFT: usize = 16;
/// Tokens in the longest run that is looked up, tried first.
const LONGEST_RUN: usize = 4;
/// Tokens in the shortest run. A single token says too little about what follows it.
const SHORTEST_RUN: usize = 2;

/// The tokens of a prompt and its answer so far, and where their runs stood last.
///
/// Takes some 100 bytes for each token. [`Self::push`] and [`Self::propose`] take the same time however long
/// the text is.
#[derive(Debug, Clone, Default)]
pub struct Lookup {
    tokens: Vec<u32>,
    /// For a run of tokens: where the token after its last occurrence stands.
    after: HashMap<Run, usize>,
}

/// A run of tokens; shorter ones begin with zeros and differ in their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Run {
    length: u8,
    tokens: [u32; LONGEST_RUN],
}

impl Lookup {
    /// Remembers a prompt.
    pub fn new(prompt: &[u32]) -> Self {
        let mut lookup = Self::default();
        for &token in prompt {
            lookup.push(token);
        }
        lookup
    }

    /// Remembers the next token.
    pub fn push(&mut self, token: u32) {
        // The runs that end before this token are followed by it.
        let here = self.tokens.len();
        for length in SHORTEST_RUN..=LONGEST_RUN {
            if let Some(run) = self.last_run(length) {
                self.after.insert(run, here);
            }
        }
        self.tokens.push(token);
    }

    /// What may follow: up to `count` and up to [`MAX_DRAFT`] tokens, those that followed the longest run
    /// that has stood before when it stood there last. Often none.
    pub fn propose(&self, count: usize) -> &[u32] {
        let followed = (SHORTEST_RUN..=LONGEST_RUN)
            .rev()
            .find_map(|length| self.after.get(&self.last_run(length)?));
        let rest = followed
            .and_then(|&at| self.tokens.get(at..))
            .unwrap_or_default();
        let count = count.min(MAX_DRAFT).min(rest.len());
        rest.get(..count).unwrap_or_default()
    }

    /// The run of the last `length` tokens.
    fn last_run(&self, length: usize) -> Option<Run> {
        let start = self.tokens.len().checked_sub(length)?;
        let mut tokens = [0; LONGEST_RUN];
        for (slot, &token) in tokens
            .iter_mut()
            .rev()
            .zip(self.tokens.get(start..)?.iter().rev())
        {
            *slot = token;
        }
        let length = u8::try_from(length).ok()?;
        Some(Run { length, tokens })
    }
}

/// What a check has brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The answer's next tokens, all of them chosen and accepted by the sampler: as many of the guessed ones
    /// as were right, and the one after them.
    pub choices: Vec<Choice>,
    /// How many guessed tokens were right. The cache holds the keys and values of this many of them; those
    /// of the others are to be written over.
    pub right: usize,
}

/// Checks guessed tokens. `rows` are the logits after the last token of the answer so far and after each
/// guessed token, `proposed.len() + 1` rows; with none guessed this is an ordinary step. `position` is that of
/// the first token to choose, counted from the prompt's beginning. `ends` knows the tokens that end the turn:
/// nothing is chosen after one.
///
/// # Errors
/// As [`Sampler::choose`]. The answer is over then.
pub fn verify<'a>(
    sampler: &mut Sampler,
    proposed: &[u32],
    rows: impl IntoIterator<Item = &'a mut [f32]>,
    position: u64,
    ends: impl Fn(u32) -> bool,
) -> Result<Verified, EngineError> {
    let mut verified = Verified {
        choices: Vec::new(),
        right: 0,
    };
    let mut guesses = proposed.iter();
    for (row, position) in rows.into_iter().zip(position..) {
        let choice = sampler.choose(row, position)?;
        let token = choice.token;
        sampler.accept(token)?;
        verified.choices.push(choice);
        if guesses.next() != Some(&token) {
            break;
        }
        verified.right = verified.right.saturating_add(1);
        if ends(token) {
            break;
        }
    }
    Ok(verified)
}

#[cfg(test)]
#[path = "speculation_tests.rs"]
mod tests;
