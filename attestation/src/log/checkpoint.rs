//! The text of a checkpoint (`c2sp.org/tlog-checkpoint`): a log's name, size and root, a line each.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cocoon_protocol::Digest;
use cocoon_protocol::log::TreeHead;
use cocoon_protocol::merkle;

use super::note::is_key_name;

/// What rebuilders sign: `origin`, the decimal size and the root in base64, each with a line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, such as `example.org/guest-images`.
    pub origin: String,
    /// Leaves and their root.
    pub head: TreeHead,
}

/// Why text is no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Other lines than the three.
    #[error("a checkpoint has the three lines origin, size and root; this has {got}")]
    Lines {
        /// How many it has.
        got: usize,
    },
    /// The specification recommends names of this form; this log insists.
    #[error(
        "the origin {origin:?} is no name of a log: up to 128 bytes without spaces and plus signs"
    )]
    Origin {
        /// The first line.
        origin: String,
    },
    /// Not a number, or not in its only spelling.
    #[error("the size is a decimal number without leading zeros, not {size:?}")]
    Size {
        /// The second line.
        size: String,
    },
    /// Not 32 bytes in base64.
    #[error("the root is 32 bytes in base64")]
    Root,
    /// A tree without leaves has one root only.
    #[error("the root of an empty log is that of RFC 6962, SHA-256 of nothing")]
    EmptyRoot,
}

impl Checkpoint {
    /// The checkpoint of a log.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] or [`CheckpointError::EmptyRoot`].
    pub fn new(origin: &str, head: TreeHead) -> Result<Self, CheckpointError> {
        let origin = origin.to_owned();
        if !is_key_name(&origin) {
            return Err(CheckpointError::Origin { origin });
        }
        if head.size == 0 && head.root != merkle::empty_root() {
            return Err(CheckpointError::EmptyRoot);
        }
        Ok(Self { origin, head })
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = STANDARD.encode(self.head.root.as_bytes());
        writeln!(f, "{}\n{}\n{root}", self.origin, self.head.size)
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split_inclusive('\n');
        let mut line = || lines.next().and_then(|line| line.strip_suffix('\n'));
        // Extension lines, which the specification allows and advises against, are not of this log.
        let (Some(origin), Some(size), Some(root), None) = (line(), line(), line(), lines.next())
        else {
            return Err(CheckpointError::Lines {
                got: text.lines().count(),
            });
        };
        let number: Option<u64> = size.parse().ok();
        // `parse` takes "+5" and "05" too.
        let size = number
            .filter(|number| number.to_string() == size)
            .ok_or_else(|| CheckpointError::Size {
                size: size.chars().take(32).collect(),
            })?;
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|root| Digest::try_from(root.as_slice()).ok())
            .ok_or(CheckpointError::Root)?;
        Self::new(origin, TreeHead { size, root })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
";

    #[test]
    fn the_example_of_the_specification_is_read_and_written_back() {
        let checkpoint: Checkpoint = EXAMPLE.parse().unwrap();
        assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
        assert_eq!(checkpoint.head.size, 20_852_163);
        assert_eq!(checkpoint.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_the_reason() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let lines = |got| CheckpointError::Lines { got };
        let size = |size: &str| CheckpointError::Size {
            size: size.to_owned(),
        };
        for (text, error) in [
            (String::new(), lines(0)),
            (format!("log\n5\n{root}"), lines(3)),
            (format!("log\n5\n{root}\nextension\n"), lines(4)),
            (format!("log\n5\n{root}\n\n"), lines(4)),
            (format!("log\n05\n{root}\n"), size("05")),
            (format!("log\n+5\n{root}\n"), size("+5")),
            (format!("log\n\n{root}\n"), size("")),
            (
                format!("log\n18446744073709551616\n{root}\n"),
                size("18446744073709551616"),
            ),
            (format!("log\n5\n{}\n", &root[4..]), CheckpointError::Root),
            (
                format!("log\n5\n{}\n", root.trim_end_matches('=')),
                CheckpointError::Root,
            ),
            (format!("log\n0\n{root}\n"), CheckpointError::EmptyRoot),
            (
                format!("a log\n5\n{root}\n"),
                CheckpointError::Origin {
                    origin: "a log".to_owned(),
                },
            ),
        ] {
            assert_eq!(text.parse::<Checkpoint>(), Err(error), "{text:?}");
        }
    }
}
