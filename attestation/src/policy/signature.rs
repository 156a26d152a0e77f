//! Signatures over policy files, in files of their own.
//!
//! A signature is a [signed note](https://c2sp.org/signed-note) beside the policy. Its text names the
//! policy's SHA-256, so the policy stays a file that people edit, and any tool for notes can check
//! the signatures:
//!
//! ```text
//! cocoon.policy/2
//! sha256 9f86d081…
//!
//! — release.example/policy 3r2…
//! ```
//!
//! Keys are written as Go's `golang.org/x/mod/sumdb/note` writes them. Only Ed25519 (type 1).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_protocol::ids::Digest;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Longest signature file, bytes.
pub const MAX_NOTE_BYTES: usize = 8 * 1024;
/// Most signatures in one file.
pub const MAX_SIGNATURES: usize = 16;
/// Longest name of a key, bytes.
pub const MAX_NAME_BYTES: usize = 128;

const FORMAT: &str = "cocoon.policy/2";
/// Ed25519, in keys and in what a key's hash is taken over.
const ED25519: u8 = 1;
const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `name+hash+key`.
    #[error("a key is written `name+hash+base64`; this one is not")]
    Shape,
    /// A name that a note could not hold.
    #[error(
        "a key's name has 1 to {MAX_NAME_BYTES} bytes, without white space, `+` and control characters"
    )]
    Name,
    /// Not Ed25519.
    #[error("the key is not an Ed25519 key")]
    Kind,
    /// The hash in it is another key's.
    #[error("the key's hash does not belong to its name and its bytes: a typing mistake?")]
    Hash,
}

/// Why a policy is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file is no signed note.
    #[error("the signature is no signed note: {0}")]
    Note(&'static str),
    /// The note is about something else.
    #[error("the signature is not about a policy of this version")]
    Subject,
    /// The note is about another policy.
    #[error("the signature is for a policy with SHA-256 {signed}; this one has {found}")]
    OtherPolicy {
        /// What was signed.
        signed: String,
        /// What is here.
        found: Digest,
    },
    /// None of the keys signed it.
    #[error("none of the given keys has signed it; it bears signatures of {}", .names.join(", "))]
    NoKnownKey {
        /// Who has, as far as the note says.
        names: Vec<String>,
    },
    /// One of the keys is said to have signed it, and has not.
    #[error("the signature of {name} is wrong")]
    Wrong {
        /// Whose.
        name: String,
    },
}

/// Checks signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyKey {
    name: String,
    hash: [u8; 4],
    key: VerifyingKey,
}

/// Makes signatures. `Debug` shows no secret.
#[derive(Clone)]
pub struct PolicySigner {
    name: String,
    key: SigningKey,
}

impl PolicyKey {
    /// The name in it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(name: &str, key: VerifyingKey) -> Result<Self, KeyError> {
        let is_name = !name.is_empty()
            && name.len() <= MAX_NAME_BYTES
            && !name
                .chars()
                .any(|letter| letter == '+' || letter.is_whitespace() || letter.is_control());
        if !is_name {
            return Err(KeyError::Name);
        }
        let digest = Sha256::new()
            .chain_update(name.as_bytes())
            .chain_update([b'\n', ED25519])
            .chain_update(key.as_bytes())
            .finalize();
        let hash = digest.first_chunk::<4>().copied().unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            hash,
            key,
        })
    }
}

impl FromStr for PolicyKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, hash, bytes) = parts(text.trim())?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Kind)?;
        let key = Self::new(name, key)?;
        if key.key.is_weak() {
            return Err(KeyError::Kind);
        }
        if hash != key.hash {
            return Err(KeyError::Hash);
        }
        Ok(key)
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = [&[ED25519][..], self.key.as_bytes()].concat();
        let hash = hex::encode(self.hash);
        write!(formatter, "{}+{hash}+{}", self.name, BASE64.encode(typed))
    }
}

impl PolicySigner {
    /// The signer of a name and 32 secret bytes.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn new(name: &str, secret: [u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(&secret);
        PolicyKey::new(name, key.verifying_key())?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// What checks its signatures.
    ///
    /// # Errors
    /// None: the name was checked when the signer was made.
    pub fn public(&self) -> Result<PolicyKey, KeyError> {
        PolicyKey::new(&self.name, self.key.verifying_key())
    }

    /// The secret as text, for a file that only its owner reads.
    ///
    /// # Errors
    /// As [`PolicySigner::public`].
    pub fn to_secret_text(&self) -> Result<String, KeyError> {
        let public = self.public()?;
        let typed = [&[ED25519][..], &self.key.to_bytes()].concat();
        let hash = hex::encode(public.hash);
        Ok(format!(
            "{PRIVATE}{}+{hash}+{}",
            self.name,
            BASE64.encode(typed)
        ))
    }

    /// The signature file of a policy.
    ///
    /// # Errors
    /// As [`PolicySigner::public`].
    pub fn sign(&self, policy: &[u8]) -> Result<String, KeyError> {
        let text = subject(policy);
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let line = [&self.public()?.hash[..], &signature].concat();
        Ok(format!(
            "{text}\n\u{2014} {} {}\n",
            self.name,
            BASE64.encode(line)
        ))
    }
}

impl fmt::Debug for PolicySigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PolicySigner({:?}, …)", self.name)
    }
}

impl FromStr for PolicySigner {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().strip_prefix(PRIVATE).ok_or(KeyError::Shape)?;
        let (name, hash, secret) = parts(text)?;
        let signer = Self::new(name, secret)?;
        if hash != signer.public()?.hash {
            return Err(KeyError::Hash);
        }
        Ok(signer)
    }
}

/// Checks that one of `keys` has signed `policy`, and says which.
///
/// # Errors
/// [`SignatureError`]. Signatures by other keys are passed over, as the format asks.
pub fn verify<'k>(
    policy: &[u8],
    note: &str,
    keys: &'k [PolicyKey],
) -> Result<&'k PolicyKey, SignatureError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(SignatureError::Note("it is too long"));
    }
    let (text, signatures) = note
        .rsplit_once("\n\n")
        .ok_or(SignatureError::Note("it has no blank line"))?;
    let text = format!("{text}\n");
    check_subject(policy, &text)?;
    let signatures = signatures
        .strip_suffix('\n')
        .ok_or(SignatureError::Note("its last line does not end"))?;
    let mut names = Vec::new();
    for line in signatures.split('\n') {
        if names.len() >= MAX_SIGNATURES {
            return Err(SignatureError::Note("it has too many signatures"));
        }
        let (name, hash, signature) = signature_line(line)?;
        names.push(name.to_owned());
        let Some(key) = keys.iter().find(|key| key.name == name && key.hash == hash) else {
            continue;
        };
        let signature = Signature::from_bytes(&signature);
        return match key.key.verify_strict(text.as_bytes(), &signature) {
            Ok(()) => Ok(key),
            Err(_) => Err(SignatureError::Wrong {
                name: name.to_owned(),
            }),
        };
    }
    Err(SignatureError::NoKnownKey { names })
}

fn subject(policy: &[u8]) -> String {
    format!("{FORMAT}\nsha256 {}\n", Digest::sha256(policy))
}

fn check_subject(policy: &[u8], text: &str) -> Result<(), SignatureError> {
    if text == subject(policy) {
        return Ok(());
    }
    match text.lines().collect::<Vec<_>>().as_slice() {
        [FORMAT, digest] => Err(SignatureError::OtherPolicy {
            signed: digest
                .strip_prefix("sha256 ")
                .ok_or(SignatureError::Subject)?
                .to_owned(),
            found: Digest::sha256(policy),
        }),
        _ => Err(SignatureError::Subject),
    }
}

/// `— name base64(hash ‖ signature)`.
fn signature_line(line: &str) -> Result<(&str, [u8; 4], [u8; 64]), SignatureError> {
    let bad = SignatureError::Note("a signature's line is not `— name base64`");
    let Some((name, encoded)) = line
        .strip_prefix("\u{2014} ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return Err(bad);
    };
    let bytes = BASE64.decode(encoded).map_err(|_| bad.clone())?;
    let (hash, signature) = bytes.split_first_chunk::<4>().ok_or_else(|| bad.clone())?;
    let signature = signature.try_into().map_err(|_| bad)?;
    Ok((name, *hash, signature))
}

/// `name+hash+base64(type ‖ 32 bytes)`.
fn parts(text: &str) -> Result<(&str, [u8; 4], [u8; 32]), KeyError> {
    let (name, rest) = text.split_once('+').ok_or(KeyError::Shape)?;
    // Base64 has `+` too, so the key is all that follows the hash.
    let (hash, encoded) = rest.split_once('+').ok_or(KeyError::Shape)?;
    let mut short = [0; 4];
    hex::decode_to_slice(hash, &mut short).map_err(|_| KeyError::Shape)?;
    let typed = BASE64.decode(encoded).map_err(|_| KeyError::Shape)?;
    match typed.split_first() {
        Some((&ED25519, bytes)) => {
            let bytes = bytes.try_into().map_err(|_| KeyError::Kind)?;
            Ok((name, short, bytes))
        }
        _ => Err(KeyError::Kind),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn signer(number: u8) -> PolicySigner {
        PolicySigner::new("release.example/policy", [number; 32]).unwrap()
    }

    #[test]
    fn a_signed_policy_is_taken_from_its_key_and_no_other() {
        let note = signer(1).sign(b"version = 2").unwrap();
        let key = signer(1).public().unwrap();
        let other = signer(2).public().unwrap();
        let keys = [other.clone(), key.clone()];
        assert_eq!(verify(b"version = 2", &note, &keys), Ok(&key));
        assert!(matches!(
            verify(b"version = 3", &note, &keys),
            Err(SignatureError::OtherPolicy { .. })
        ));
        assert!(matches!(
            verify(b"version = 2", &note, &[other]),
            Err(SignatureError::NoKnownKey { .. })
        ));
    }

    #[test]
    fn keys_survive_their_own_text() {
        let key = signer(3).public().unwrap();
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let secret = signer(3).to_secret_text().unwrap();
        let again: PolicySigner = secret.parse().unwrap();
        assert_eq!(again.public().unwrap(), key);
        assert!(!format!("{again:?}").contains(&secret));
    }

    /// The key of the documentation of Go's `sumdb/note`, so that the format is theirs and not ours.
    #[test]
    fn a_key_that_go_wrote_is_read() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: PolicyKey = text.parse().unwrap();
        assert_eq!(key.name(), "PeterNeumann");
        assert_eq!(key.to_string(), text);
    }

    /// The note of the same documentation.
    #[test]
    fn a_signature_that_go_wrote_is_right() {
        let text = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n";
        let key: PolicyKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
            .parse()
            .unwrap();
        let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let (name, hash, signature) = signature_line(line).unwrap();
        assert_eq!((name, hash), (key.name.as_str(), key.hash));
        let signature = Signature::from_bytes(&signature);
        assert!(key.key.verify_strict(text.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn a_key_with_a_letter_changed_is_noticed() {
        let text = signer(4).public().unwrap().to_string();
        let wrong = text.replace("release", "rebase");
        assert_eq!(wrong.parse::<PolicyKey>(), Err(KeyError::Hash));
    }
}
