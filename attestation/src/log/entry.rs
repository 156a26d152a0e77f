//! One line of the log: a guest image, and the source revision that it is built from.

use cocoon_protocol::Digest;
use cocoon_protocol::log::MAX_LOG_ENTRY_BYTES;
use cocoon_protocol::merkle;
use serde::{Deserialize, Serialize};

use crate::{Image, Measurement};

/// Longest name of an image in the log, in bytes.
pub const MAX_IMAGE_NAME_BYTES: usize = 128;
/// Longest source revision, in bytes.
pub const MAX_REVISION_BYTES: usize = 256;

/// What rebuilders vouch for. Its bytes are one line of JSON: these fields in this order, no spaces between them, the
/// measurements in lower-case hexadecimal. The leaf is a hash of exactly those bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The image. Names need not be unique: an image is admitted by its measurements.
    pub image: Image,
    /// From what it is built, in words that lead a rebuilder there, such as `git https://… <commit>`. May be empty.
    pub revision: String,
}

/// Why bytes are no entry, or an image cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Too long to be read.
    #[error("an entry has at most {MAX_LOG_ENTRY_BYTES} bytes, this has {got}")]
    TooLarge {
        /// Bytes it has.
        got: usize,
    },
    /// Not the JSON of an entry.
    #[error("not an entry of the log: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// Says what an entry says, in another spelling than the only one.
    #[error("an entry is written in one way only: fields in order, no spaces, lower-case digits")]
    NotCanonical,
    /// A name or revision with line breaks or other control characters, or too long, or no name.
    #[error(
        "the {field} of an image is up to {limit} bytes of text without control characters, and a name is not empty"
    )]
    Text {
        /// Which.
        field: &'static str,
        /// Bytes it may have.
        limit: usize,
    },
}

/// The JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    mrtd: Measurement,
    rtmr0: Measurement,
    rtmr1: Measurement,
    rtmr2: Measurement,
    revision: String,
}

impl Entry {
    /// An entry for the log.
    ///
    /// # Errors
    /// [`EntryError::Text`], or [`EntryError::TooLarge`] if its text needs too many escapes.
    pub fn new(image: Image, revision: impl Into<String>) -> Result<Self, EntryError> {
        let revision = revision.into();
        let text = |field, text: &str, limit, required| {
            let too_long = text.len() > limit || text.chars().any(char::is_control);
            if too_long || (required && text.is_empty()) {
                return Err(EntryError::Text { field, limit });
            }
            Ok(())
        };
        text("name", &image.name, MAX_IMAGE_NAME_BYTES, true)?;
        text("revision", &revision, MAX_REVISION_BYTES, false)?;
        let entry = Self { image, revision };
        let got = entry.encode().len();
        if got > MAX_LOG_ENTRY_BYTES {
            return Err(EntryError::TooLarge { got });
        }
        Ok(entry)
    }

    /// Its bytes, without a line feed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Image {
            name,
            mrtd,
            rtmr0,
            rtmr1,
            rtmr2,
        } = self.image.clone();
        let line = Line {
            name,
            mrtd,
            rtmr0,
            rtmr1,
            rtmr2,
            revision: self.revision.clone(),
        };
        // Strings always become JSON.
        serde_json::to_vec(&line).unwrap_or_default()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Why the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_LOG_ENTRY_BYTES {
            return Err(EntryError::TooLarge { got: bytes.len() });
        }
        let line: Line = serde_json::from_slice(bytes).map_err(|error| EntryError::Malformed {
            reason: error.to_string(),
        })?;
        let image = Image {
            name: line.name,
            mrtd: line.mrtd,
            rtmr0: line.rtmr0,
            rtmr1: line.rtmr1,
            rtmr2: line.rtmr2,
        };
        let entry = Self::new(image, line.revision)?;
        if entry.encode() != bytes {
            return Err(EntryError::NotCanonical);
        }
        Ok(entry)
    }

    /// Its leaf in the tree.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        merkle::leaf_hash(&self.encode())
    }

    /// What a quote must show: MRTD and RTMR0 to RTMR2.
    #[must_use]
    pub const fn registers(&self) -> [Measurement; 4] {
        let image = &self.image;
        [image.mrtd, image.rtmr0, image.rtmr1, image.rtmr2]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn image(name: &str) -> Image {
        Image {
            name: name.to_owned(),
            mrtd: Measurement::of(b"firmware"),
            rtmr0: Measurement::from_bytes([0xa0; 48]),
            rtmr1: Measurement::ZERO,
            rtmr2: Measurement::ZERO,
        }
    }

    #[test]
    fn an_entry_is_one_line_in_one_spelling() {
        let entry = Entry::new(image("guest 1 \"é\""), "git abc").unwrap();
        let bytes = entry.encode();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(
            text.starts_with("{\"name\":\"guest 1 \\\"é\\\"\",\"mrtd\":\""),
            "{text}"
        );
        assert!(text.ends_with(",\"revision\":\"git abc\"}"), "{text}");
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        for other in [
            text.replacen(":", ": ", 1),
            text.replace('é', "\\u00e9"),
            text.replace("a0a0", "A0A0"),
            format!("{text}\n"),
            format!(" {text}"),
        ] {
            assert_eq!(
                Entry::decode(other.as_bytes()),
                Err(EntryError::NotCanonical),
                "{other}"
            );
        }
        for malformed in [
            text.replace("}", ",\"more\":1}"),
            text.replace(",\"revision\":\"git abc\"", ""),
            text.replace("}", ",\"revision\":\"git abc\"}"),
            text.replacen("a0", "", 1),
            "[]".to_owned(),
        ] {
            let refused = Entry::decode(malformed.as_bytes());
            assert!(
                matches!(refused, Err(EntryError::Malformed { .. })),
                "{malformed}"
            );
        }
    }

    #[test]
    fn texts_have_bounds() {
        let refused = |name: &str, revision: &str| Entry::new(image(name), revision).unwrap_err();
        for error in [
            refused("", ""),
            refused("a\nb", ""),
            refused("a", "b\u{7f}"),
            refused(&"a".repeat(MAX_IMAGE_NAME_BYTES + 1), ""),
            refused("a", &"b".repeat(MAX_REVISION_BYTES + 1)),
        ] {
            assert!(matches!(error, EntryError::Text { .. }), "{error}");
        }
        // Every quote and backslash takes two bytes.
        let worst = refused(
            &"\"".repeat(MAX_IMAGE_NAME_BYTES),
            &"\\".repeat(MAX_REVISION_BYTES),
        );
        assert!(matches!(worst, EntryError::TooLarge { .. }), "{worst}");
        let largest = Entry::new(
            image(&"a".repeat(MAX_IMAGE_NAME_BYTES)),
            "b".repeat(MAX_REVISION_BYTES),
        );
        assert!(largest.is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_entry_survives_its_bytes(name in "\\PC{1,30}", revision in "\\PC{0,60}") {
            if let Ok(entry) = Entry::new(image(&name), revision) {
                prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
            }
        }
    }
}
