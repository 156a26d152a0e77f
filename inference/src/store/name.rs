//! Names of models in the store: one plain file name each, so that no name leads anywhere else.

use std::fmt;

use super::StoreError;

/// Bytes of a name.
pub const MAX_NAME_BYTES: usize = 96;

/// A model's name: letters, digits, `.`, `_`, `-` and `+`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ModelName(String);

impl ModelName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`StoreError::Name`].
    pub fn new(name: &str) -> Result<Self, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        let good = name.len() <= MAX_NAME_BYTES
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(plain)
            // What would be taken for another file of the store.
            && ![".toml", ".gguf", ".part"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(StoreError::Name {
                name: name.chars().take(MAX_NAME_BYTES).collect(),
            })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether this is a file name that a download may have: no folder, nothing hidden, nothing odd.
pub(super) fn plain_file_name(name: &str) -> bool {
    name.len() <= 2 * MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_plain_file_names() {
        for good in ["SmolLM2-135M-Instruct.Q4_1", "a", "7B", "x+y"] {
            assert_eq!(ModelName::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "a\\b",
            ".hidden",
            "-flag",
            "a b",
            "a\0",
            "ä",
            "x.toml",
            "x.gguf",
            "x.GGUF",
            "x\n",
            "a:b",
            "~",
            &long,
        ] {
            assert!(
                matches!(ModelName::new(bad), Err(StoreError::Name { .. })),
                "{bad:?}"
            );
        }
    }
}
