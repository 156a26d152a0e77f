//! Signed notes: text, a blank line, and signature lines (`c2sp.org/signed-note`).
//!
//! ```text
//! <text, ending in a line feed>
//!
//! — <key name> <base64(key id: 4 bytes ‖ signature)>
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cocoon_protocol::log::MAX_CHECKPOINT_BYTES;

/// Most signature lines of a note, known keys or not.
pub const MAX_NOTE_SIGNATURES: usize = 16;
/// Longest name of a key, in bytes.
pub const MAX_KEY_NAME_BYTES: usize = 128;

/// Begins a signature line: an em dash and a space.
const SIGNATURE_PREFIX: &str = "— ";

/// A note whose signatures were not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key, such as `example.org/rebuilder`.
    pub name: String,
    /// With the name, which key and which kind of signature; see [`super::NoteVerifier::id`].
    pub key_id: [u8; 4],
    /// The signature; 64 bytes if it is Ed25519.
    pub signature: Vec<u8>,
}

/// Why something is no note.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Too long to be read.
    #[error("a note has at most {MAX_CHECKPOINT_BYTES} bytes, this has {got}")]
    TooLarge {
        /// Bytes it has.
        got: usize,
    },
    /// Not text.
    #[error("a note is UTF-8 text, this is not from byte {valid_up_to} on")]
    NotUtf8 {
        /// How many bytes are text.
        valid_up_to: usize,
    },
    /// A character that no note has.
    #[error("a note has no control characters but line feeds, this has U+{code:04X}")]
    ControlCharacter {
        /// Which.
        code: u32,
    },
    /// No blank line, or nothing before it.
    #[error("a note is text, a blank line and signatures; this has no text before a blank line")]
    NoText,
    /// Nobody signed.
    #[error("the note has no signature; a rebuilder adds one with `cocoon log sign`")]
    NoSignature,
    /// A line after the blank one that is no signature.
    #[error("line {line} after the note's blank line is no `— name base64` with a line feed")]
    SignatureLine {
        /// Counted from 1.
        line: usize,
    },
    /// More signatures than are looked at.
    #[error("a note has at most {MAX_NOTE_SIGNATURES} signatures; leave out those of strangers")]
    TooManySignatures,
}

/// Whether a key may be called so: not empty, not too long, no spaces, no plus sign, no control characters.
pub(super) fn is_key_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_KEY_NAME_BYTES
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

impl Note {
    /// A note without signatures, to be signed.
    ///
    /// # Errors
    /// If the text does not end in a line feed, is empty, too long or holds control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, NoteError> {
        let text = text.into();
        check_text(text.as_bytes())?;
        if !text.ends_with('\n') || text == "\n" {
            return Err(NoteError::NoText);
        }
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    /// Reads a note with at least one signature.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let note = Self::parse_unsigned(bytes)?;
        if note.signatures.is_empty() {
            return Err(NoteError::NoSignature);
        }
        Ok(note)
    }

    /// Reads a note that perhaps nobody signed yet: then it ends in the blank line.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn parse_unsigned(bytes: &[u8]) -> Result<Self, NoteError> {
        let whole = check_text(bytes)?;
        // The text may have blank lines; the last one is before the signatures.
        let (body, lines) = whole.rsplit_once("\n\n").ok_or(NoteError::NoText)?;
        if body.is_empty() {
            return Err(NoteError::NoText);
        }
        let mut signatures = Vec::new();
        for (at, line) in lines.split_inclusive('\n').enumerate() {
            if signatures.len() == MAX_NOTE_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let signature = read_signature(line).ok_or(NoteError::SignatureLine {
                line: at.saturating_add(1),
            })?;
            signatures.push(signature);
        }
        Ok(Self {
            text: format!("{body}\n"),
            signatures,
        })
    }

    /// What is signed: the text with its final line feed, without the blank line.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in their order.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature line, once.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`], or [`NoteError::TooLarge`] if nobody would read it then.
    pub fn add(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        if self.signatures.contains(&signature) {
            return Ok(());
        }
        if self.signatures.len() >= MAX_NOTE_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        self.signatures.push(signature);
        let got = self.to_string().len();
        if got > MAX_CHECKPOINT_BYTES {
            self.signatures.pop();
            return Err(NoteError::TooLarge { got });
        }
        Ok(())
    }
}

fn check_text(bytes: &[u8]) -> Result<&str, NoteError> {
    if bytes.len() > MAX_CHECKPOINT_BYTES {
        return Err(NoteError::TooLarge { got: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| NoteError::NotUtf8 {
        valid_up_to: error.valid_up_to(),
    })?;
    match text.chars().find(|c| *c < ' ' && *c != '\n') {
        Some(c) => Err(NoteError::ControlCharacter { code: c.into() }),
        None => Ok(text),
    }
}

fn read_signature(line: &str) -> Option<NoteSignature> {
    let line = line.strip_suffix('\n')?.strip_prefix(SIGNATURE_PREFIX)?;
    let (name, signature) = line.split_once(' ')?;
    // Refuses other alphabets, missing padding and bits that nobody reads, so a signature has one spelling.
    let bytes = STANDARD.decode(signature).ok()?;
    let (key_id, signature) = bytes.split_first_chunk()?;
    (is_key_name(name) && !signature.is_empty()).then(|| NoteSignature {
        name: name.to_owned(),
        key_id: *key_id,
        signature: signature.to_vec(),
    })
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id[..], &self.signature].concat();
        let signature = STANDARD.encode(bytes);
        write!(f, "{SIGNATURE_PREFIX}{} {signature}", self.name)
    }
}

/// Its bytes, as they are read by [`Note::parse`].
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        Self::parse(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
";

    #[test]
    fn the_example_of_the_specification_is_read_and_written_back() {
        let note: Note = EXAMPLE.parse().unwrap();
        assert!(note.text().ends_with("ed è subito sera.\n"));
        let [signature] = note.signatures() else {
            panic!("{note:?}");
        };
        assert_eq!(signature.name, "quasimodo.example/salvatore");
        assert_eq!(signature.key_id, [0x36, 0x7b, 0xa0, 0x4b]);
        assert_eq!(signature.signature.len(), 64);
        assert_eq!(note.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_note_is_refused_with_the_reason() {
        let line = |line| NoteError::SignatureLine { line };
        let many = "text\n\n".to_owned() + &"— a AAAAAAA=\n".repeat(MAX_NOTE_SIGNATURES + 1);
        for (text, error) in [
            ("", NoteError::NoText),
            ("text\n", NoteError::NoText),
            ("\n\n— a AAAAAAA=\n", NoteError::NoText),
            ("text\n\n", NoteError::NoSignature),
            ("text\n\n— a AAAAAAA=", line(1)),
            ("text\n\n- a AAAAAAA=\n", line(1)),
            ("text\n\n— a AAAAAAA=\n\u{2014} b\n", line(2)),
            ("text\n\n— a+b AAAAAAA=\n", line(1)),
            ("text\n\n— a\u{a0}b AAAAAAA=\n", line(1)),
            ("text\n\n—  AAAAAAA=\n", line(1)),
            // Only a key id; no padding; bits that nobody reads; another alphabet.
            ("text\n\n— a AAAAAA==\n", line(1)),
            ("text\n\n— a AAAAAAA\n", line(1)),
            ("text\n\n— a AAAAAAB=\n", line(1)),
            ("text\n\n— a __8AAAA=\n", line(1)),
            (
                "te\txt\n\n— a AAAAAAA=\n",
                NoteError::ControlCharacter { code: 9 },
            ),
            (
                "text\r\n\n— a AAAAAAA=\n",
                NoteError::ControlCharacter { code: 13 },
            ),
            (many.as_str(), NoteError::TooManySignatures),
        ] {
            assert_eq!(text.parse::<Note>(), Err(error), "{text:?}");
        }
        assert_eq!(
            Note::parse(b"te\xffxt\n\n"),
            Err(NoteError::NotUtf8 { valid_up_to: 2 })
        );
        let large = vec![b'a'; MAX_CHECKPOINT_BYTES + 1];
        let got = large.len();
        assert_eq!(Note::parse(&large), Err(NoteError::TooLarge { got }));
    }

    #[test]
    fn a_note_nobody_signed_is_one_only_where_that_is_asked_for() {
        let note = Note::new("text\n").unwrap();
        assert_eq!(note.to_string(), "text\n\n");
        assert_eq!(Note::parse_unsigned(b"text\n\n"), Ok(note));
        for text in ["", "\n", "text"] {
            assert_eq!(Note::new(text), Err(NoteError::NoText));
        }
    }

    #[test]
    fn a_signature_is_added_once_and_not_beyond_what_is_read() {
        let mut note = Note::new("text\n").unwrap();
        let signature = |length| NoteSignature {
            name: "a".to_owned(),
            key_id: [0; 4],
            signature: vec![1; length],
        };
        note.add(signature(64)).unwrap();
        note.add(signature(64)).unwrap();
        assert_eq!(note.signatures().len(), 1);
        let large = note.add(signature(MAX_CHECKPOINT_BYTES));
        assert!(
            matches!(large, Err(NoteError::TooLarge { .. })),
            "{large:?}"
        );
        for length in 1..MAX_NOTE_SIGNATURES {
            note.add(signature(length)).unwrap();
        }
        assert_eq!(note.add(signature(99)), Err(NoteError::TooManySignatures));
        assert_eq!(Note::parse(note.to_string().as_bytes()), Ok(note));
    }
}
