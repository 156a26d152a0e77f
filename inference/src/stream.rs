//! From token bytes to text that can be sent: whole characters, nothing of a stop string.
//!
//! A byte-level token may end inside a character, and a stop string may begin in one token and end in
//! another. So two things are held back: the bytes of an incomplete character, and a tail of the text that
//! a stop string could begin with. The result does not depend on where the tokens' borders lie: the stop
//! string that is complete first wins, and among those that are complete at the same place the longest.
//!
//! What is held back is always shorter than the longest stop string (and than a character), and each token's
//! bytes are looked at together with that alone. So the work for one token depends on the stop strings, of
//! which there are few and short ones, and not on how long the answer has become.

/// The text of one answer as it grows.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that has begun.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What a piece of bytes brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) text: String,
    /// A stop string is complete; the answer ends before it.
    pub(crate) stopped: bool,
}

impl TextStream {
    /// `stops` holds no empty string.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            ..Self::default()
        }
    }

    /// Adds the bytes of a token.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Delta {
        self.partial.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.partial);
        self.partial = self.decode(&bytes);
        if let Some(start) = self.find_stop() {
            self.held.truncate(start);
            return Delta {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let kept = self.held.split_off(self.sendable());
        Delta {
            text: std::mem::replace(&mut self.held, kept),
            stopped: false,
        }
    }

    /// The rest, when the answer ends otherwise than by a stop string.
    pub(crate) fn finish(&mut self) -> String {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.held)
    }

    /// Appends the characters to the held text and gives back the bytes of an incomplete last one.
    fn decode(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    return Vec::new();
                }
                Err(error) => {
                    let (good, bad) = bytes.split_at(error.valid_up_to());
                    self.held
                        .push_str(std::str::from_utf8(good).unwrap_or_default());
                    let Some(wrong) = error.error_len() else {
                        return bad.to_vec();
                    };
                    // The model wrote what is not UTF-8; say so as the standard library does.
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    bytes = bad.get(wrong..).unwrap_or_default();
                }
            }
        }
    }

    /// Where the stop string begins that is complete first.
    fn find_stop(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter_map(|stop| {
                let start = self.held.find(stop.as_str())?;
                Some((start.saturating_add(stop.len()), start))
            })
            .min()
            .map(|(_, start)| start)
    }

    /// How much of the held text can no longer become part of a stop string.
    fn sendable(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..=self.held.len())
            .filter_map(|at| Some((at, self.held.get(at..)?)))
            .find(|(_, tail)| self.stops.iter().any(|stop| stop.starts_with(tail)))
            .map_or(self.held.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(
        stops: &[&str],
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (String, bool, Vec<String>) {
        let mut stream = TextStream::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut parts = vec![];
        for piece in pieces {
            let delta = stream.push(piece);
            parts.push(delta.text);
            if delta.stopped {
                return (parts.concat(), true, parts);
            }
        }
        parts.push(stream.finish());
        (parts.concat(), false, parts)
    }

    #[test]
    fn a_character_split_over_tokens_comes_whole() {
        let (_, _, parts) = run(&[], "a🦋b".as_bytes().chunks(1));
        assert_eq!(parts, ["a", "", "", "", "🦋", "b", ""]);
    }

    #[test]
    fn an_unfinished_character_becomes_a_replacement_at_the_end() {
        assert_eq!(run(&[], [&b"a\xf0\x9f"[..]]).0, "a\u{fffd}");
        assert_eq!(
            run(&[], [&b"a\xf0\x9f"[..], b"b\xff"]).0,
            "a\u{fffd}b\u{fffd}"
        );
    }

    #[test]
    fn a_stop_string_over_a_token_border_ends_the_text_before_it() {
        let (text, stopped, parts) = run(&["END"], [&b"one E"[..], b"N", b"D two"]);
        assert!(stopped);
        assert_eq!(text, "one ");
        assert_eq!(parts, ["one ", "", ""]);
    }

    #[test]
    fn text_that_only_began_like_a_stop_string_is_sent() {
        let (text, stopped, _) = run(&["END"], [&b"one E"[..], b"NT", b"E"]);
        assert!(!stopped);
        assert_eq!(text, "one ENTE");
    }

    #[test]
    fn the_stop_string_complete_first_wins() {
        assert_eq!(run(&["abcd", "c"], [&b"abcd"[..]]).0, "ab");
        assert_eq!(run(&["bc", "abc"], [&b"abcd"[..]]).0, "");
    }

    /// The definition: scan character by character for the first place where a stop string ends.
    fn plain(text: &str, stops: &[&str]) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let seen = &text[..at + c.len_utf8()];
            if let Some(stop) = stops
                .iter()
                .filter(|s| seen.ends_with(**s))
                .max_by_key(|s| s.len())
            {
                return (seen[..seen.len() - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_stop_string_of_several_byte_characters_is_found_over_any_borders() {
        let text = "né🦋é fin — après".as_bytes();
        for size in 1..text.len() {
            let (got, stopped, _) = run(&["é fin —"], text.chunks(size));
            assert_eq!((got.as_str(), stopped), ("né🦋", true), "{size}");
            // One that never comes, though it begins like the text.
            let (got, stopped, _) = run(&["é fin –"], text.chunks(size));
            assert_eq!((got.as_bytes(), stopped), (text, false), "{size}");
        }
    }

    #[test]
    fn a_stop_string_begins_inside_a_token_that_ends_a_character() {
        // The butterfly's last bytes come in one token with the beginning of the stop string.
        let (got, stopped, parts) =
            run(&["<end>"], [&b"a\xf0\x9f"[..], b"\xa6\x8b<e", b"nd> more"]);
        assert!(stopped);
        assert_eq!(got, "a🦋");
        assert_eq!(parts, ["a", "🦋", ""]);
    }

    #[test]
    fn byte_fallback_tokens_make_characters_and_stop_strings() {
        // A vocabulary without these characters spells them byte by byte, here with a broken one between.
        let bytes = "日本".bytes().chain([0xe6]).chain("語。終".bytes());
        let tokens: Vec<[u8; 1]> = bytes.map(|b| [b]).collect();
        let (got, stopped, parts) = run(&["。終"], tokens.iter().map(|t| &t[..]));
        assert!(stopped);
        assert_eq!(got, "日本\u{fffd}語");
        assert!(parts.iter().all(|part| part.chars().count() <= 1));
    }

    #[test]
    fn what_is_held_back_is_shorter_than_a_stop_string_however_long_the_answer() {
        // The longest stop strings that are allowed, and an answer that goes on beginning all of them.
        let (a, ab) = (
            "a".repeat(crate::MAX_STOP_BYTES - 1),
            "ab".repeat(crate::MAX_STOP_BYTES / 2 - 1),
        );
        let stops = vec![
            format!("{a}b"),
            format!("{a}c"),
            format!("{ab}aé"),
            format!("{ab}éa"),
        ];
        let mut stream = TextStream::new(stops.clone());
        let (mut said, mut sent) = (0, 0);
        for round in 0..20_000usize {
            // Runs of 254 times a, ab and single letters, in tokens of several lengths.
            let token = match round / 254 % 3 {
                0 => "a",
                1 => "ab",
                _ => "aa",
            };
            said += token.len();
            let delta = stream.push(token.as_bytes());
            if delta.stopped {
                assert!(delta.text.len() + crate::MAX_STOP_BYTES > said - sent - token.len());
                stream = TextStream::new(stops.clone());
                sent = said;
                continue;
            }
            sent += delta.text.len();
            assert_eq!(said - sent, stream.held.len());
            assert!(
                stream.held.len() < crate::MAX_STOP_BYTES,
                "{}",
                stream.held.len()
            );
            // No more is held than may still become a stop string.
            assert!(
                stream.held.is_empty() || stops.iter().any(|stop| stop.starts_with(&stream.held))
            );
        }
        assert!(said > 20_000);
    }

    proptest! {
        #[test]
        fn the_borders_of_tokens_do_not_matter(
            text in "[ab🦋é]{0,40}",
            stops in proptest::collection::vec("[ab🦋é]{1,4}", 0..4),
            sizes in proptest::collection::vec(1usize..6, 1..60),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut rest = text.as_bytes();
            let mut pieces = vec![];
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            let (got, stopped, _) = run(&stops, pieces);
            prop_assert_eq!((got, stopped), plain(&text, &stops));
        }

        #[test]
        fn any_bytes_become_what_the_standard_library_says(
            bytes in proptest::collection::vec(any::<u8>(), 0..60), size in 1usize..5,
        ) {
            let (got, _, _) = run(&[], bytes.chunks(size));
            prop_assert_eq!(got, String::from_utf8_lossy(&bytes));
        }
    }
}
