//! How vocabularies write bytes.

/// Code points of GPT-2's byte alphabet end below this.
const ALPHABET: usize = 0x144;

/// GPT-2's byte alphabet, backwards: visible Latin-1 characters stand for themselves, the 68 other bytes
/// for the characters from U+0100 on, in order.
pub(super) struct ByteAlphabet([Option<u8>; ALPHABET]);

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut bytes = [None; ALPHABET];
        for (c, b) in pairs() {
            if let Some(slot) = bytes.get_mut(c as usize) {
                *slot = Some(b);
            }
        }
        Self(bytes)
    }

    /// A token's bytes. A token with a character outside the alphabet stands for its own text.
    pub(super) fn bytes(&self, token: &str) -> Box<[u8]> {
        token
            .chars()
            .map(|c| self.0.get(c as usize).copied().flatten())
            .collect::<Option<Box<[u8]>>>()
            .unwrap_or_else(|| token.as_bytes().into())
    }
}

/// Every byte with its character.
pub(super) fn pairs() -> impl Iterator<Item = (char, u8)> {
    let visible = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=255u8).filter(visible).map(|b| (char::from(b), b));
    let others = ('\u{100}'..).zip((0..=255u8).filter(move |b| !visible(b)));
    themselves.chain(others)
}

/// What SentencePiece writes for a space.
pub(super) const SPACE: char = '\u{2581}';

/// The byte of a SentencePiece token that stands for one: `<0x0A>`.
pub(super) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_has_every_byte_once_and_ends_where_it_should() {
        let mut bytes: Vec<u8> = pairs().map(|(_, b)| b).collect();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=255));
        assert_eq!(pairs().map(|(c, _)| c as usize).max(), Some(ALPHABET - 1));
        assert_eq!(&*ByteAlphabet::new().bytes("Ġhi"), b" hi");
        assert_eq!(&*ByteAlphabet::new().bytes("中"), "中".as_bytes());
    }

    #[test]
    fn fallback_bytes_are_read() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        assert_eq!(fallback_byte("<0xff>"), Some(255));
        for none in ["<0x0>", "<0x+1>", "<0x100>", "0x0A", "<0xé>"] {
            assert_eq!(fallback_byte(none), None, "{none}");
        }
    }
}
