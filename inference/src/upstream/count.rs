//! How many tokens an answer has, by the model file's own tokenizer, while it is still growing.
//!
//! A server says how many tokens it generated only at the end, and it is the operator's. So the text itself
//! is tokenised again, word by word: byte-level BPE never joins across the border before a space that stands
//! between two other characters, so what lies before the last such border will not change its tokens any
//! more. At the end both counts are known and **the smaller one is billed**. They differ for honest reasons:
//! the server counts the end-of-turn token and the tokens of a stop string, which are not in the text, and a
//! model that samples does not always spell a word with the fewest tokens. So more tokens than ours are
//! borne by the operator, up to [`most`]; fewer than ours beyond [`slack`] mean another tokenizer or text
//! that was not generated, and are an error.
//!
//! Until the end each piece of text is reported as one token, which it is at least, and the words that are
//! certain as what they have, less [`slack`] and one more: the piece that ends the answer is reported as one
//! token even where the slack of the whole text has swallowed it. A server that breaks its text into more pieces than it counts
//! tokens is an error too.

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

    /// Tokens that were surely generated: those reported, and those of the words that are complete.
    pub(super) fn generated(&self) -> u32 {
        self.settled.max(self.reported)
    }

    /// Adds text and gives back the tokens to report with it: at least one, if there is any text.
    pub(super) fn push(&mut self, text: &str, tokens: &dyn Tokens) -> Result<u32, EngineError> {
        if text.is_empty() {
            return Ok(0);
        }
        self.tail.push_str(text);
        if let Some(border) = border(&self.tail) {
            let rest = self.tail.split_off(border);
            let word = std::mem::replace(&mut self.tail, rest);
            self.settle(&word, tokens)?;
        }
        let certain = self
            .settled
            .saturating_sub(slack(self.settled).saturating_add(1));
        Ok(self.report(certain.max(self.reported.saturating_add(1))))
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
        let theirs = theirs.unwrap_or(ours.max(self.reported));
        let least = ours.saturating_sub(slack(ours)).max(self.reported);
        if !(least..=most(ours)).contains(&theirs) {
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

    #[test]
    fn a_text_in_more_pieces_than_tokens_is_told() {
        let mut counter = Counter::new();
        for piece in ["w", "o", "r", "d"] {
            counter.push(piece, &Words).unwrap();
        }
        assert_eq!(
            counter.finish(Some(1), &Words).unwrap(),
            Err(Miscount { ours: 1, theirs: 1 })
        );
    }

    proptest! {
        #[test]
        fn token_by_token_every_piece_is_one_and_the_sum_is_the_count(words in 1u32..400) {
            let mut counter = Counter::new();
            let mut sum = 0;
            for n in 0..words {
                let tokens = counter.push(&format!(" w{n}"), &Words).unwrap();
                prop_assert_eq!(tokens, 1);
                sum += tokens;
            }
            sum += counter.finish(Some(words + 1), &Words).unwrap().unwrap();
            prop_assert_eq!(sum, words);
        }

        #[test]
        fn in_large_pieces_no_step_reports_more_than_the_smaller_count(
            words in 40u32..400, below in 0u32..8, size in 20usize..90,
        ) {
            in_pieces(words, below, size)?;
        }
    }

    /// 50 words are where the slack grows, and their fifth piece of 47 bytes is one letter.
    #[test]
    fn a_last_piece_of_one_letter_is_not_one_token_too_many() {
        in_pieces(50, 3, 47).unwrap();
    }

    fn in_pieces(words: u32, below: u32, size: usize) -> Result<(), TestCaseError> {
        let text: String = (0..words).map(|n| format!("w{n} ")).collect();
        let text = text.trim_end();
        let theirs = words.saturating_sub(below.min(slack(words)));
        let mut counter = Counter::new();
        let mut sum = 0;
        for piece in text.as_bytes().chunks(size) {
            sum += counter
                .push(std::str::from_utf8(piece).unwrap(), &Words)
                .unwrap();
            prop_assert!(sum <= theirs);
        }
        sum += counter.finish(Some(theirs), &Words).unwrap().unwrap();
        prop_assert_eq!(sum, theirs.min(words));
        Ok(())
    }
}
