//! What the measured command line says.

use crate::error::InitError;

const MODEL: &str = "cocoon.model=";
/// Hexadecimal digits of a SHA-256.
const ROOT_DIGITS: usize = 64;

/// A dm-verity volume: data, then its hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelVolume {
    /// Root hash, hexadecimal.
    pub(crate) root: String,
    /// Where the hash tree begins, bytes.
    pub(crate) hash_offset: u64,
}

/// The model's volume, if the command line names one.
pub(crate) fn model_volume(line: &str) -> Result<Option<ModelVolume>, InitError> {
    let Some(text) = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(MODEL))
    else {
        return Ok(None);
    };
    let wrong = || InitError::Volume(text.to_owned());
    let (root, offset) = text.split_once(':').ok_or_else(wrong)?;
    let is_hash = root.len() == ROOT_DIGITS && root.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hash {
        return Err(wrong());
    }
    Ok(Some(ModelVolume {
        root: root.to_owned(),
        hash_offset: offset.parse().map_err(|_| wrong())?,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_model_is_named_by_root_hash_and_offset() {
        let root = "ab".repeat(32);
        let line = format!("console=ttyS0 cocoon.model={root}:4096 quiet\n");
        assert_eq!(
            model_volume(&line).unwrap(),
            Some(ModelVolume {
                root,
                hash_offset: 4096
            })
        );
        assert_eq!(model_volume("console=ttyS0").unwrap(), None);
    }

    #[test]
    fn what_is_no_hash_never_reaches_a_program() {
        for bad in [
            "cocoon.model=",
            "cocoon.model=ab:1",
            &format!("cocoon.model={}", "ab".repeat(32)),
            &format!("cocoon.model={}:-1", "ab".repeat(32)),
            &format!("cocoon.model=--{}:1", "ab".repeat(31)),
        ] {
            assert!(model_volume(bad).is_err(), "{bad}");
        }
    }
}
