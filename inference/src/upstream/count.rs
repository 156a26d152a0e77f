//! How many tokens an answer has, by the model file's own tokenizer, while it is still growing.
//!
//! A server says how many tokens it generated only at the end, and it is the operator's. So the text itself
//! is tokenised again, word by word: byte-level BPE never joins across the border before a space that stands
//! between two other characters, so what lies before the last such border will not change its tokens any
//! more. At the end both counts are known and **the smaller one is billed**. They differ for honest reasons:
//! the server counts the end-of-turn token and the tokens of a stop string, which are not in the text, and a
//! model that samples does not always spell a word with the fewest tokens. So more tokens than ours are
//! borne by the operator, up to [`most`]; fewer than ours beyond [`slack`] mean another tokenizer or text
//! that was not generated, and are an error. Until the end the running count stays behind by [`slack`], so
//! that nobody has paid more than the smaller count when it is known.

use super::tokens::Tokens;
use crate::EngineError;

/// Tokens by which the server's count may be below ours.
pub(super) const fn slack(ours: u32) -> u32 {
    // 50 is not 0.
    2u32.saturating_add(ours.wrapping_div(50))
}

/// The highest count of the server's that is believable for a text of `ours` tokens.
pub(super) const fn most(ours: u32) -> u32 {
    ours.saturating_mul(2).saturating_add(MOST_UNSEEN)
}

/// Tokens that need not show in the text at all: the end of turn, a stop string's.
const MOST_UNSEEN: u32 = 64;

/// Bytes of a text without a border that are still tokenised together at each step.
const LONGEST_WORD: usize = 4096;

/// The count of one answer.
pub(super) struct Counter {
    /// Tokens of the text before the last border.
    settled: u32,
    /// Text after it.
    tail: String,
    /// Tokens that the steps so far have reported.
    reported: u32,
}

/// Which way the two counts are too far apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miscount {
    pub(super) ours: u32,
    pub(super) theirs: u32,
}

impl Counter {
    pub(super) const fn new() -> Self {
        Self {
            settled: 0,
            tail: String::new(),
            reported: 0,
        }
    }

    /// Tokens of which it is certain that they were generated.
    pub(super) const fn settled(&self) -> u32 {
        self.settled
    }

    /// Adds text and gives back the tokens to report with it.
    pub(super) fn push(&mut self, text: &str, tokens: &dyn Tokens) -> Result<u32, EngineError> {
        self.tail.push_str(text);
        if let Some(border) = border(&self.tail) {
            let rest = self.tail.split_off(border);
            let word = std::mem::replace(&mut self.tail, rest);
            self.settle(&word, tokens)?;
        }
        let certain = self.settled.saturating_sub(slack(self.settled));
        Ok(self.report(certain))
    }

    /// The tokens to report with the last step, when the server counted `theirs` in all.
    pub(super) fn finish(
        &mut self,
        theirs: Option<u32>,
        tokens: &dyn Tokens,
    ) -> Result<Result<u32, Miscount>, EngineError> {
        let tail = std::mem::take(&mut self.tail);
        self.settle(&tail, tokens)?;
        let ours = self.settled;
        let theirs = theirs.unwrap_or(ours);
        if theirs < ours.saturating_sub(slack(ours)) || theirs > most(ours) {
            return Ok(Err(Miscount { ours, theirs }));
        }
        if theirs > ours.saturating_add(slack(ours)) {
            tracing::debug!(
                ours,
                theirs,
                "the server counted more tokens than the text has"
            );
        }
        Ok(Ok(self.report(ours.min(theirs))))
    }

    fn settle(&mut self, text: &str, tokens: &dyn Tokens) -> Result<(), EngineError> {
        let count = u32::try_from(tokens.encode(text)?.len()).unwrap_or(u32::MAX);
        self.settled = self.settled.saturating_add(count);
        Ok(())
    }

    fn report(&mut self, total: u32) -> u32 {
        let new = total.saturating_sub(self.reported);
        self.reported = self.reported.saturating_add(new);
        new
    }
}

/// Where the last space stands that has something else on either side.
fn border(text: &str) -> Option<usize> {
    let mut last = None;
    let mut before = None;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let after = characters.peek().map(|(_, c)| *c);
        let between = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
        if c == ' ' && between(before) && between(after) {
            last = Some(at);
        }
        before = Some(c);
    }
    // Scripts without spaces: cut somewhere, which costs a token at most, rather than tokenise all again.
    last.or_else(|| {
        let middle = text.len().div_ceil(2);
        (text.len() > LONGEST_WORD)
            .then(|| (middle..text.len()).find(|at| text.is_char_boundary(*at)))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use crate::upstream::tokens::tests::Words;
    use proptest::prelude::*;

    #[test]
    fn a_border_is_a_single_space_between_words() {
        assert_eq!(border("one two"), Some(3));
        assert_eq!(border("one two three"), Some(7));
        assert_eq!(border("one  two"), None);
        assert_eq!(border("one\n two"), None);
        assert_eq!(border("one "), None);
        assert_eq!(border(" one"), None);
        assert_eq!(border(""), None);
        let long = "語".repeat(LONGEST_WORD);
        assert!(border(&long).is_some_and(|at| long.is_char_boundary(at)));
    }

    #[test]
    fn the_smaller_count_is_billed() {
        for (theirs, billed) in [
            (None, 5),
            (Some(5), 5),
            (Some(6), 5),
            (Some(40), 5),
            (Some(4), 4),
            (Some(3), 3),
        ] {
            let mut counter = Counter::new();
            let early = counter.push("a b c d e", &Words).unwrap();
            let last = counter.finish(theirs, &Words).unwrap().unwrap();
            assert_eq!(early + last, billed, "{theirs:?}");
        }
    }

    #[test]
    fn counts_that_are_too_far_apart_are_told() {
        for theirs in [0, 2, 75, u32::MAX] {
            let mut counter = Counter::new();
            counter.push("a b c d e", &Words).unwrap();
            assert_eq!(
                counter.finish(Some(theirs), &Words).unwrap(),
                Err(Miscount { ours: 5, theirs })
            );
        }
    }

    proptest! {
        #[test]
        fn no_prefix_of_the_steps_reports_more_than_the_smaller_count(
            words in 0u32..400, below in 0u32..8, size in 1usize..9,
        ) {
            let text: String = (0..words).map(|n| format!("w{n} ")).collect();
            let text = text.trim_end();
            let theirs = words.saturating_sub(below.min(slack(words)));
            let mut counter = Counter::new();
            let mut sum = 0;
            for piece in text.as_bytes().chunks(size) {
                sum += counter.push(std::str::from_utf8(piece).unwrap(), &Words).unwrap();
                prop_assert!(sum <= theirs);
            }
            sum += counter.finish(Some(theirs), &Words).unwrap().unwrap();
            prop_assert_eq!(sum, theirs.min(words));
        }
    }
}
