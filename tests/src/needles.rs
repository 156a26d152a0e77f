//! Looks for many byte strings at once.
//!
//! The tests compile without optimisation and read gigabytes of memory, so the search skips: it looks
//! at two bytes and, if they occur in none of the strings, goes on as far as the shortest of them is
//! long (Wu and Manber, "A fast algorithm for multi-pattern searching", TR-94-17, 1994, with blocks of
//! two bytes).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Shorter ones would be found by chance.
pub const SHORTEST_SECRET: usize = 24;
const BLOCK: usize = 2;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Needles {
    list: Vec<(String, Vec<u8>)>,
    shortest: usize,
    longest: usize,
    /// By the last two bytes of the window: how far the window may go on.
    skips: Vec<u8>,
}

impl Needles {
    /// Secrets, in every spelling in which a program might leave them behind.
    #[must_use]
    pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut list = Vec::new();
        for (name, secret) in secrets {
            assert!(
                secret.len() >= SHORTEST_SECRET,
                "{name} is too short: {secret:?}"
            );
            for (spelling, bytes) in spellings(secret) {
                list.push((format!("{name}, {spelling}"), bytes));
            }
        }
        Self::new(list)
    }

    /// These bytes, as they are.
    #[must_use]
    pub fn new(list: Vec<(String, Vec<u8>)>) -> Self {
        let lengths = list.iter().map(|(_, bytes)| bytes.len());
        let shortest = lengths.clone().min().expect("something to look for");
        let longest = lengths.max().expect("something to look for");
        assert!(shortest >= BLOCK);
        let furthest = u8::try_from(shortest - BLOCK + 1).unwrap_or(u8::MAX);
        let mut skips = vec![furthest; 1 << 16];
        for (_, bytes) in &list {
            for (start, block) in bytes[..shortest].windows(BLOCK).enumerate() {
                let rest = u8::try_from(shortest - BLOCK - start).unwrap_or(u8::MAX);
                let skip = &mut skips[block_of(block)];
                *skip = (*skip).min(rest);
            }
        }
        Self {
            list,
            shortest,
            longest,
            skips,
        }
    }

    /// Bytes by which two pieces of a whole must overlap, so that nothing is missed between them.
    #[must_use]
    pub const fn overlap(&self) -> usize {
        self.longest - 1
    }

    /// The names of those that are in there.
    #[must_use]
    pub fn find(&self, haystack: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut end = self.shortest;
        while end <= haystack.len() {
            let skip = self.skips[block_of(&haystack[end - BLOCK..end])];
            if skip > 0 {
                end += usize::from(skip);
                continue;
            }
            let start = end - self.shortest;
            for (name, bytes) in &self.list {
                if haystack[start..].starts_with(bytes) {
                    found.insert(name.as_str());
                }
            }
            end += 1;
        }
        found
    }
}

fn block_of(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// A secret as text, hexadecimal, base64 at each of the three offsets, UTF-16, and as the list of
/// numbers that Rust's `{:?}` makes of bytes.
fn spellings(secret: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let mut all = vec![
        ("as it is".to_owned(), bytes.to_vec()),
        ("hexadecimal".to_owned(), hex::encode(bytes).into_bytes()),
        (
            "HEXADECIMAL".to_owned(),
            hex::encode_upper(bytes).into_bytes(),
        ),
        (
            "UTF-16".to_owned(),
            secret.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ),
        (
            "a list of numbers".to_owned(),
            numbers.join(", ").into_bytes(),
        ),
        (
            "a dense list of numbers".to_owned(),
            numbers.join(",").into_bytes(),
        ),
    ];
    for offset in 0..3 {
        for (name, engine) in [
            ("base64", &STANDARD_NO_PAD),
            ("base64url", &URL_SAFE_NO_PAD),
        ] {
            let mut shifted = vec![0; offset];
            shifted.extend(bytes);
            let text = engine.encode(&shifted).into_bytes();
            // Characters that hold bits of a neighbour are not the secret's alone.
            let first = (offset * 8).div_ceil(6);
            let last = shifted.len() * 8 / 6;
            all.push((
                format!("{name} at offset {offset}"),
                text[first..last].to_vec(),
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of at least twenty-four bytes";

    #[test]
    fn a_secret_is_found_wherever_it_lies_and_only_whole() {
        let needles = Needles::of_secrets([("it", SECRET)]);
        for before in 0..80 {
            let mut haystack = vec![b'a'; before];
            haystack.extend(SECRET.as_bytes());
            assert_eq!(needles.find(&haystack), BTreeSet::from(["it, as it is"]));
            haystack.pop();
            assert!(needles.find(&haystack).is_empty());
        }
        assert!(needles.find(b"").is_empty());
    }

    #[test]
    fn one_that_lies_across_two_pieces_is_found_in_one_of_them() {
        let needles = Needles::of_secrets([("it", SECRET)]);
        let text = format!("{}{SECRET}{}", "x".repeat(50), "y".repeat(50));
        for cut in 0..text.len() {
            let back = cut.saturating_sub(needles.overlap());
            let (first, second) = (&text.as_bytes()[..cut], &text.as_bytes()[back..]);
            assert!(
                !needles.find(first).is_empty() || !needles.find(second).is_empty(),
                "{cut}"
            );
        }
    }

    #[test]
    fn every_spelling_is_found_in_what_a_program_would_write() {
        let needles = Needles::of_secrets([("it", SECRET), ("other", &SECRET.to_uppercase())]);
        let around = |offset: usize| format!("{}{SECRET} and more", "?".repeat(offset));
        let written = [
            (hex::encode(SECRET), "hexadecimal"),
            (format!("{:?}", around(1).as_bytes()), "a list of numbers"),
            (
                String::from_utf8(SECRET.encode_utf16().flat_map(u16::to_le_bytes).collect())
                    .unwrap(),
                "UTF-16",
            ),
        ];
        for (text, spelling) in written {
            assert_eq!(
                needles.find(text.as_bytes()),
                BTreeSet::from([format!("it, {spelling}").as_str()])
            );
        }
        for offset in 0..9 {
            let text = base64::engine::general_purpose::STANDARD.encode(around(offset));
            let name = format!("it, base64 at offset {}", offset % 3);
            assert!(
                needles.find(text.as_bytes()).contains(name.as_str()),
                "{offset}"
            );
        }
    }

    #[test]
    fn it_finds_what_a_plain_search_finds() {
        let needles = ["abab", "babb", "aab", "bbbbbbb"]
            .map(|text| (text.to_owned(), text.as_bytes().to_vec()));
        let search = Needles::new(needles.to_vec());
        for number in 0..1_u32 << 14 {
            let haystack: Vec<u8> = (0..14)
                .map(|bit| b'a' + u8::from(number >> bit & 1 == 1))
                .collect();
            let plain: BTreeSet<_> = needles
                .iter()
                .filter(|(_, bytes)| haystack.windows(bytes.len()).any(|window| window == bytes))
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(search.find(&haystack), plain);
        }
    }
}
