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
//! Keys and notes are those of [`crate::log`].

use cocoon_protocol::ids::Digest;

use crate::log::{Note, NoteError, NoteSigner, NoteVerifier};

/// First line of what is signed.
const FORMAT: &str = "cocoon.policy/2";

/// Why a policy is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file is no signed note.
    #[error("the signature is no signed note: {0}")]
    Note(#[from] NoteError),
    /// The note is about something else.
    #[error("the note is not about a policy of this version")]
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
    #[error("the signature of {name} is not by that key over this policy")]
    Wrong {
        /// Whose.
        name: String,
    },
}

/// The signature file of a policy, with the signatures that `existing`, if any, bears already.
///
/// # Errors
/// If `existing` is no signature of this policy, or has no room for one more.
pub fn sign(
    policy: &[u8],
    signer: &NoteSigner,
    existing: Option<&[u8]>,
) -> Result<String, SignatureError> {
    let mut note = match existing {
        Some(bytes) => Note::parse(bytes)?,
        None => Note::new(subject(policy))?,
    };
    about(policy, &note)?;
    note.add(signer.sign(note.text()))?;
    Ok(note.to_string())
}

/// Checks that one of `keys` has signed `policy`, and says which.
///
/// # Errors
/// [`SignatureError`]. Signatures by other keys are passed over, as the format asks.
pub fn verify<'k>(
    policy: &[u8],
    note: &[u8],
    keys: &'k [NoteVerifier],
) -> Result<&'k NoteVerifier, SignatureError> {
    let note = Note::parse(note)?;
    about(policy, &note)?;
    for signature in note.signatures() {
        let Some(key) = keys.iter().find(|key| key.made(signature)) else {
            continue;
        };
        if key.verifies(note.text(), signature) {
            return Ok(key);
        }
        let name = key.name().to_owned();
        return Err(SignatureError::Wrong { name });
    }
    let names = note.signatures().iter();
    Err(SignatureError::NoKnownKey {
        names: names.map(|signature| signature.name.clone()).collect(),
    })
}

fn subject(policy: &[u8]) -> String {
    format!("{FORMAT}\nsha256 {}\n", Digest::sha256(policy))
}

fn about(policy: &[u8], note: &Note) -> Result<(), SignatureError> {
    if note.text() == subject(policy) {
        return Ok(());
    }
    match note.text().lines().collect::<Vec<_>>().as_slice() {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn signer(number: u8) -> NoteSigner {
        NoteSigner::new("release.example/policy", &[number; 32]).unwrap()
    }

    #[test]
    fn a_signed_policy_is_taken_from_its_key_and_no_other() {
        let note = sign(b"version = 2", &signer(1), None).unwrap();
        let (key, other) = (signer(1).verifier(), signer(2).verifier());
        let keys = [other.clone(), key.clone()];
        let note = note.as_bytes();
        assert_eq!(verify(b"version = 2", note, &keys), Ok(&key));
        assert!(matches!(
            verify(b"version = 3", note, &keys),
            Err(SignatureError::OtherPolicy { .. })
        ));
        assert!(matches!(
            verify(b"version = 2", note, &[other]),
            Err(SignatureError::NoKnownKey { .. })
        ));
    }

    #[test]
    fn a_second_signature_stands_beside_the_first_and_only_under_the_same_policy() {
        let second = NoteSigner::new("other.example/policy", &[2; 32]).unwrap();
        let one = sign(b"policy", &signer(1), None).unwrap();
        let both = sign(b"policy", &second, Some(one.as_bytes())).unwrap();
        for key in [signer(1).verifier(), second.verifier()] {
            let keys = [key];
            assert!(verify(b"policy", both.as_bytes(), &keys).is_ok());
        }
        assert!(sign(b"another", &second, Some(one.as_bytes())).is_err());
    }

    #[test]
    fn a_note_about_something_else_is_no_signature_of_a_policy() {
        let mut note = Note::new("example.org/guest-images\n1\nAAAA\n").unwrap();
        note.add(signer(1).sign(note.text())).unwrap();
        let keys = [signer(1).verifier()];
        assert_eq!(
            verify(b"policy", note.to_string().as_bytes(), &keys),
            Err(SignatureError::Subject)
        );
    }
}
