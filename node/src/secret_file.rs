//! Tokens that guard this node: generated, never a default; in files that only their owner reads;
//! never printed by `{:?}`.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Entropy of a token, bytes.
const TOKEN_BYTES: usize = 32;
/// Largest token file that is read, bytes.
const MAX_TOKEN_FILE_BYTES: u64 = 1024;

/// A bearer token.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The disk said no.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold a token.
    #[error("{path} holds no token; delete it and a new one is made at the next start")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(getrandom::Error),
}

impl Token {
    /// Reads the token in `path`; makes one, mode 600, if there is no such file.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretFileError> {
        match Self::load(path) {
            Err(SecretFileError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Self::create(path)
            }
            other => other,
        }
    }

    /// Reads the token in `path`.
    pub fn load(path: &Path) -> Result<Self, SecretFileError> {
        let io = |source| SecretFileError::Io {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretFileError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(MAX_TOKEN_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(io)?;
        let text = text.trim();
        if text.len() < TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretFileError::Malformed {
                path: path.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes one in a new file, mode 600; an existing file is left alone.
    pub fn create(path: &Path) -> Result<Self, SecretFileError> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(SecretFileError::Entropy)?;
        Self::store(path, hex::encode(bytes))
    }

    /// Puts a secret of another form, of at least 32 printable characters, into a new file, mode 600.
    pub fn store(path: &Path, token: String) -> Result<Self, SecretFileError> {
        let io = |source| SecretFileError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        writeln!(file, "{token}").map_err(io)?;
        file.sync_all().map_err(io)?;
        Ok(Self(token))
    }

    /// True if `given` is this token. Compares hashes, so that timing tells nothing of the token.
    #[must_use]
    pub fn matches(&self, given: &str) -> bool {
        Sha256::digest(self.0.as_bytes()) == Sha256::digest(given.as_bytes())
    }

    /// The token itself, for the one header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/admin-token");
        let made = Token::load_or_create(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let read = Token::load_or_create(&path).unwrap();
        assert!(read.matches(made.reveal()));
        assert!(!read.matches(""));
        let other = Token::load_or_create(&directory.path().join("other")).unwrap();
        assert!(!read.matches(other.reveal()));
        assert!(!format!("{read:?}").contains(read.reveal()));
    }

    #[test]
    fn a_token_that_others_can_read_is_refused_with_the_command_that_helps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin-token");
        Token::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Token::load_or_create(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 644") && error.contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_token_file_is_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin-token");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        drop(file.unwrap());
        assert!(matches!(
            Token::load_or_create(&path),
            Err(SecretFileError::Malformed { .. })
        ));
    }
}
