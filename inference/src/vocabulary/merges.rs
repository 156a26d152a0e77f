//! Merges from scores: SentencePiece's vocabularies as byte-pair encoding.
//!
//! SentencePiece's BPE merges the two neighbours whose union has the highest score. That is byte-pair
//! encoding with a merge for every way to cut a token into two tokens, in the order of the scores; so
//! Hugging Face's converter has it (`generate_merges` in `transformers/convert_slow_tokenizer.py`), whose
//! order among equal scores is kept: the longer left part first.

use std::cmp::Reverse;

use tokenizers::models::bpe::{Merges, Vocab};

use super::MAX_MERGES;
use crate::gguf::GgufError;

/// Bytes of a token that is cut. The longest real ones have some 90; a longer one cannot be reached.
const MAX_TOKEN_BYTES: usize = 512;

/// All merges among `tokens`, which have these scores. `vocabulary` holds the tokens that may be parts.
pub(super) fn from_scores<'t>(
    tokens: impl Iterator<Item = (&'t str, f64)>,
    vocabulary: &Vocab,
) -> Result<Merges, GgufError> {
    let mut found = Vec::new();
    for (token, score) in tokens.filter(|(token, _)| token.len() <= MAX_TOKEN_BYTES) {
        for (at, _) in token.char_indices().skip(1) {
            let Some((left, right)) = token.split_at_checked(at) else {
                continue;
            };
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                found.push((Reverse(Score(score)), Reverse(left.len()), left, right));
            }
        }
        if found.len() > MAX_MERGES {
            return Err(GgufError::OverLimit {
                what: "merges",
                got: found.len() as u64,
                limit: MAX_MERGES as u64,
            });
        }
    }
    found.sort_by_key(|&(score, left_bytes, _, _)| (score, left_bytes));
    Ok(found
        .into_iter()
        .map(|(_, _, left, right)| (left.to_owned(), right.to_owned()))
        .collect())
}

/// Scores in their order. A file's NaN has a place in it too.
#[derive(Clone, Copy)]
struct Score(f64);

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_cut_into_two_tokens_is_a_merge_and_high_scores_come_first() {
        let tokens = [
            ("a", -9.0),
            ("b", -9.0),
            ("ab", -2.0),
            ("aba", -1.0),
            ("ba", -3.0),
        ];
        let vocabulary: Vocab = (0u32..)
            .zip(tokens)
            .map(|(id, (text, _))| (text.to_owned(), id))
            .collect();
        let got = from_scores(tokens.into_iter(), &vocabulary).unwrap();
        let wanted = [("ab", "a"), ("a", "ba"), ("a", "b"), ("b", "a")];
        assert_eq!(got, wanted.map(|(l, r)| (l.to_owned(), r.to_owned())));
    }
}
