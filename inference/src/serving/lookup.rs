//! Guessing the next tokens from the text itself, for speculative decoding.
//!
//! Where the last tokens stand earlier in prompt or answer, what came after them then may come again: often
//! so in summaries, code and quotations. The guesses are read together with the last token in one pass,
//! and those that the sampler would not have chosen are thrown away, so that the answer is what it would
//! have been. After Saxena, *Prompt Lookup Decoding* (2023).

/// Tokens that must be the same before a guess is made, longest first.
const MATCHES: [usize; 2] = [3, 2];
/// How far back is looked. Bounds the time for one guess.
const MAX_LOOK_BACK: usize = 16_384;

/// At most `most` tokens that may come next; none where nothing fits. The latest match counts.
pub(crate) fn guess(tokens: &[u32], most: usize) -> &[u32] {
    let tokens = tokens
        .split_at_checked(tokens.len().saturating_sub(MAX_LOOK_BACK))
        .map_or(tokens, |(_, near)| near);
    for length in MATCHES {
        let Some((before, last)) = tokens.split_at_checked(tokens.len().saturating_sub(length))
        else {
            continue;
        };
        if last.len() < length {
            continue;
        }
        // A match may overlap the end, but must have something after it.
        let starts = (0..before.len()).rev();
        let found = starts
            .map(|start| tokens.get(start..).unwrap_or_default())
            .find(|rest| rest.starts_with(last));
        if let Some(after) = found.and_then(|rest| rest.get(length..)) {
            return after.get(..most.min(after.len())).unwrap_or_default();
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_latest_longest_match_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 2), [4, 5]);
        // The longer match wins over the later one.
        assert_eq!(guess(&[1, 2, 3, 4, 9, 2, 3, 7, 1, 2, 3], 1), [4]);
        assert_eq!(guess(&[2, 3, 8, 2, 3, 7, 5, 2, 3], 1), [7]);
        assert_eq!(guess(&[7, 7, 7, 7], 4), [7]);
    }

    #[test]
    fn nothing_is_guessed_where_nothing_fits() {
        assert_eq!(guess(&[1, 2, 3, 4], 4), [] as [u32; 0]);
        assert_eq!(guess(&[], 4), [] as [u32; 0]);
        assert_eq!(guess(&[1], 4), [] as [u32; 0]);
        assert_eq!(guess(&[1, 2, 3, 1, 2], 0), [] as [u32; 0]);
    }
}
