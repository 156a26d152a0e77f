//! The texts of control tokens, found fast however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Control tokens by text. Gemma 3 has some 6 000, and a person may write a text of nothing but `<`, so
/// looking for one costs a look-up for each *length* that occurs, of which there are few.
#[derive(Debug, Default)]
pub(crate) struct Markers {
    by_text: BTreeMap<Box<str>, u32>,
    /// Lengths in bytes that occur, greatest first.
    lengths: Vec<usize>,
    first_bytes: BTreeSet<u8>,
}

impl Markers {
    pub(crate) fn new(by_text: impl IntoIterator<Item = (String, u32)>) -> Self {
        let by_text: BTreeMap<Box<str>, u32> = by_text
            .into_iter()
            .filter(|(text, _)| !text.is_empty())
            .map(|(text, id)| (text.into(), id))
            .collect();
        let lengths: BTreeSet<usize> = by_text.keys().map(|text| text.len()).collect();
        Self {
            lengths: lengths.into_iter().rev().collect(),
            first_bytes: by_text.keys().filter_map(|t| t.bytes().next()).collect(),
            by_text,
        }
    }

    /// All texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.by_text.keys().map(|text| &**text)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_text.len()
    }

    /// The longest control token that the text begins with.
    pub(crate) fn at_start(&self, text: &str) -> Option<(&str, u32)> {
        if !self.may_begin(text) {
            return None;
        }
        self.lengths
            .iter()
            .filter_map(|&length| text.get(..length))
            .find_map(|start| self.by_text.get_key_value(start))
            .map(|(text, id)| (&**text, *id))
    }

    /// Whether some control token begins with all of this text and could be completed by what follows it.
    pub(crate) fn continues(&self, text: &str) -> bool {
        self.may_begin(text)
            && self
                .by_text
                .range::<str, _>((Bound::Included(text), Bound::Unbounded))
                .next()
                .is_some_and(|(marker, _)| marker.starts_with(text))
    }

    fn may_begin(&self, text: &str) -> bool {
        text.bytes()
            .next()
            .is_some_and(|first| self.first_bytes.contains(&first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_found_and_beginnings_are_seen() {
        let markers = Markers::new(
            [("<a>", 1), ("<a>>", 2), ("é", 3), ("", 4)].map(|(t, i)| (t.to_owned(), i)),
        );
        assert_eq!(markers.len(), 3);
        assert_eq!(markers.at_start("<a>> b"), Some(("<a>>", 2)));
        assert_eq!(markers.at_start("<a> b"), Some(("<a>", 1)));
        assert_eq!(markers.at_start("é"), Some(("é", 3)));
        assert_eq!(markers.at_start("<b"), None);
        assert!(markers.continues("<a"));
        assert!(markers.continues("<a>>"));
        assert!(!markers.continues("<a>>>"));
        assert!(!markers.continues("<b"));
        assert!(!markers.continues("<a b"));
    }
}
