//! The keys of signed notes, as text:
//!
//! ```text
//! <name>+<key id, 8 hexadecimal digits>+<base64(01 ‖ public key)>
//! PRIVATE+KEY+<name>+<key id>+<base64(01 ‖ seed)>
//! ```
//!
//! These are the forms of Go's `golang.org/x/mod/sumdb/note`, which the tools of the field read. 01 is plain Ed25519
//! (RFC 8032); the key id is the first four bytes of `SHA-256(name ‖ 0A ‖ 01 ‖ public key)`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::note::{NoteSignature, is_key_name};

/// Signature type of plain Ed25519.
const ED25519: u8 = 1;
/// Begins a secret key.
const SECRET_PREFIX: &str = "PRIVATE+KEY+";

/// Somebody's public key, and the name it signs under.
#[derive(Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    key: VerifyingKey,
}

/// A secret key; its `Debug` shows the public one.
#[derive(Clone)]
pub struct NoteSigner {
    name: String,
    key: SigningKey,
}

/// Why text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Other parts, or others than they should be.
    #[error("a {kind} key is written as `{form}`")]
    Form {
        /// Public or secret.
        kind: &'static str,
        /// How it is written.
        form: &'static str,
    },
    /// No name for a key.
    #[error(
        "{name:?} cannot name a key: up to 128 bytes without spaces and plus signs, such as example.org/rebuilder"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A kind of signature that this log does not use.
    #[error(
        "the key of {name} has signature type {found:#04x}; rebuilders sign with Ed25519, 0x01"
    )]
    Type {
        /// Whose.
        name: String,
        /// The type.
        found: u8,
    },
    /// Not a point of the curve, or one that anybody can sign for.
    #[error("the key of {name} is no Ed25519 public key")]
    NotAKey {
        /// Whose.
        name: String,
    },
    /// Mistyped, or put together from parts of two keys.
    #[error("the key of {name} says id {said}, but its id is {is}")]
    Id {
        /// Whose.
        name: String,
        /// What stands there.
        said: String,
        /// What it should be.
        is: String,
    },
}

impl KeyError {
    const fn public() -> Self {
        Self::Form {
            kind: "public",
            form: "name+id+base64",
        }
    }

    const fn secret() -> Self {
        Self::Form {
            kind: "secret",
            form: "PRIVATE+KEY+name+id+base64",
        }
    }
}

fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name.as_bytes())
        .chain_update([b'\n', ED25519])
        .chain_update(key.as_bytes())
        .finalize();
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
    [a, b, c, d]
}

/// The name, id and 32 bytes in `name+id+base64(01 ‖ bytes)`.
fn parts(text: &str, wrong: KeyError) -> Result<(String, String, [u8; 32]), KeyError> {
    // Base64 may hold further plus signs, names may not.
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong);
    };
    if !is_key_name(name) {
        let name = name.chars().take(64).collect();
        return Err(KeyError::Name { name });
    }
    let name = name.to_owned();
    let bytes = STANDARD.decode(key).map_err(|_| wrong.clone())?;
    match bytes.split_first() {
        Some((&ED25519, key)) => match key.try_into() {
            Ok(key) => Ok((name, id.to_owned(), key)),
            Err(_) => Err(wrong),
        },
        Some((&found, _)) => Err(KeyError::Type { name, found }),
        None => Err(wrong),
    }
}

impl NoteVerifier {
    /// A key that signs under this name.
    ///
    /// # Errors
    /// [`KeyError::Name`] or [`KeyError::NotAKey`].
    pub fn new(name: &str, key: &[u8; 32]) -> Result<Self, KeyError> {
        let name = name.to_owned();
        if !is_key_name(&name) {
            return Err(KeyError::Name { name });
        }
        match VerifyingKey::from_bytes(key) {
            Ok(key) if !key.is_weak() => Ok(Self { name, key }),
            _ => Err(KeyError::NotAKey { name }),
        }
    }

    /// The name it signs under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// With the name, what a signature line says of its key.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, &self.key)
    }

    /// The bare key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether a signature line says that it is by this key. Another id under the same name is another key.
    #[must_use]
    pub fn made(&self, signature: &NoteSignature) -> bool {
        signature.name == self.name && signature.key_id == self.id()
    }

    /// Whether the signature is over this text, strictly (RFC 8032, section 5.1.7, without keys and points of small
    /// order).
    #[must_use]
    pub fn verifies(&self, text: &str, signature: &NoteSignature) -> bool {
        Signature::from_slice(&signature.signature)
            .is_ok_and(|signature| self.key.verify_strict(text.as_bytes(), &signature).is_ok())
    }
}

impl NoteSigner {
    /// The key of this seed (RFC 8032, section 5.1.5), under this name.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let name = name.to_owned();
        if !is_key_name(&name) {
            return Err(KeyError::Name { name });
        }
        let key = SigningKey::from_bytes(seed);
        Ok(Self { name, key })
    }

    /// Its public key.
    #[must_use]
    pub fn verifier(&self) -> NoteVerifier {
        NoteVerifier {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// The signature line for this text.
    #[must_use]
    pub fn sign(&self, text: &str) -> NoteSignature {
        NoteSignature {
            name: self.name.clone(),
            key_id: self.verifier().id(),
            signature: self.key.sign(text.as_bytes()).to_vec(),
        }
    }

    /// The secret, as text for a file that only its owner reads.
    #[must_use]
    pub fn reveal(&self) -> String {
        let id = hex::encode(self.verifier().id());
        let key = [&[ED25519], &self.key.to_bytes()[..]].concat();
        format!("{SECRET_PREFIX}{}+{id}+{}", self.name, STANDARD.encode(key))
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ED25519], &self.key.as_bytes()[..]].concat());
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.id()))
    }
}

impl fmt::Debug for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteVerifier({self})")
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({}, …)", self.verifier())
    }
}

fn check_id(verifier: &NoteVerifier, said: String) -> Result<(), KeyError> {
    let is = hex::encode(verifier.id());
    if said == is {
        return Ok(());
    }
    let name = verifier.name.clone();
    let said = said.chars().take(16).collect();
    Err(KeyError::Id { name, said, is })
}

impl FromStr for NoteVerifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, key) = parts(text, KeyError::public())?;
        let verifier = Self::new(&name, &key)?;
        check_id(&verifier, id)?;
        Ok(verifier)
    }
}

impl FromStr for NoteSigner {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text
            .strip_prefix(SECRET_PREFIX)
            .ok_or_else(KeyError::secret)?;
        let (name, id, seed) = parts(text, KeyError::secret())?;
        let signer = Self::new(&name, &seed)?;
        check_id(&signer.verifier(), id)?;
        Ok(signer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::Note;

    /// From the documentation and tests of Go's package.
    const GO_PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_SECRET: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const GO_NOTE: &str = "\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";

    #[test]
    fn keys_and_signatures_are_those_of_gos_implementation() {
        let verifier: NoteVerifier = GO_PUBLIC.parse().unwrap();
        assert_eq!(verifier.to_string(), GO_PUBLIC);
        let signer: NoteSigner = GO_SECRET.parse().unwrap();
        assert_eq!(signer.reveal(), GO_SECRET);
        assert_eq!(signer.verifier(), verifier);
        let note: Note = GO_NOTE.parse().unwrap();
        let [signature] = note.signatures() else {
            panic!("{note:?}");
        };
        assert!(verifier.made(signature) && verifier.verifies(note.text(), signature));
        assert_eq!(&signer.sign(note.text()), signature);
        assert!(!verifier.verifies("another text\n", signature));
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<NoteVerifier>().unwrap_err().to_string();
        for (text, reason) in [
            ("PeterNeumann", "name+id+base64"),
            ("PeterNeumann+c74f20a3+AR", "name+id+base64"),
            ("PeterNeumann+c74f20a3+ARpc", "name+id+base64"),
            ("+c74f20a3+ARpc", "cannot name a key"),
            (&GO_PUBLIC.replace("c74f", "c74e"), "its id is c74f20a3"),
            (&GO_PUBLIC.replace("Peter", "Piter"), "its id is"),
            (&GO_PUBLIC.replace("+ARpc", "+BBpc"), "0x04"),
            // The neutral point, for which anybody can sign.
            (
                &format!(
                    "a+00000000+{}",
                    STANDARD.encode([&[1, 1][..], &[0; 31]].concat())
                ),
                "no Ed25519 public key",
            ),
        ] {
            let refused = refused(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        assert!(GO_PUBLIC.parse::<NoteSigner>().is_err());
        assert!(NoteSigner::new("a b", &[1; 32]).is_err());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let signer: NoteSigner = GO_SECRET.parse().unwrap();
        assert_eq!(format!("{signer:?}"), format!("NoteSigner({GO_PUBLIC}, …)"));
    }
}
