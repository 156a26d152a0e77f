//! Salted commitments: how a receipt holds on to what was asked and answered and shows nothing of it.
//!
//! ```text
//! request   SHA-256("cocoon/request/v2"  00 ‖ salt ‖ chat)
//! response  SHA-256("cocoon/response/v2" 00 ‖ salt ‖ n ‖ len text₁ ‖ text₁ ‖ … ‖ len textₙ ‖ textₙ)
//! tokens    SHA-256("cocoon/tokens/v2"   00 ‖ salt ‖ n ‖ count₁ ‖ ids of answer₁ ‖ … ‖ countₙ ‖ ids of answerₙ)
//! ```
//!
//! `n`, every length (bytes), every count and every token's number is an unsigned 32-bit little-endian
//! integer. The lengths are there so that no two lists of answers have the same bytes: a text may hold any
//! character, a zero byte too.
//!
//! The salt is 32 random bytes that the client draws for each attempt at a job and sends inside the session.
//! It never stands in a receipt. Without it a commitment cannot be told from random bytes, however short or
//! guessable the text; with it anybody can open all three. This is the textbook construction in the random
//! oracle model: hiding by the salt's 256 bits, binding by SHA-256's collision resistance.

use crate::ids::{Digest, IdError};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

const REQUEST_DOMAIN: &[u8] = b"cocoon/request/v2\0";
const RESPONSE_DOMAIN: &[u8] = b"cocoon/response/v2\0";
const TOKENS_DOMAIN: &[u8] = b"cocoon/tokens/v2\0";

/// What hides the content of a receipt's commitments. Written as 64 hexadecimal digits where its owner gives
/// it away; its `Debug` shows nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; Self::LENGTH]);

impl Salt {
    /// Bytes of one.
    pub const LENGTH: usize = 32;

    /// From its bytes, which must be random.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Its hexadecimal digits, to be given to whoever may open the commitments.
    #[must_use]
    pub fn reveal(&self) -> String {
        hex::encode(self.0)
    }

    /// Commits to what was asked: `JobRequest::chat`.
    #[must_use]
    pub fn request(&self, chat: &[u8]) -> Digest {
        let mut hash = self.begin(REQUEST_DOMAIN);
        hash.update(chat);
        finish(hash)
    }

    /// Commits to the texts of the answers, in order.
    #[must_use]
    pub fn response<T: AsRef<str>>(&self, answers: &[T]) -> Digest {
        let mut hash = self.begin(RESPONSE_DOMAIN);
        number(&mut hash, answers.len());
        for answer in answers {
            number(&mut hash, answer.as_ref().len());
            hash.update(answer.as_ref());
        }
        finish(hash)
    }

    /// Commits to the numbers of the answers' tokens, in order.
    #[must_use]
    pub fn tokens<T: AsRef<[u32]>>(&self, answers: &[T]) -> Digest {
        let mut hash = self.begin(TOKENS_DOMAIN);
        number(&mut hash, answers.len());
        for answer in answers {
            number(&mut hash, answer.as_ref().len());
            for id in answer.as_ref() {
                hash.update(id.to_le_bytes());
            }
        }
        finish(hash)
    }

    /// What a receipt over `output_tokens` tokens must say of them: a commitment where each has a number, and
    /// nothing where one has none (an engine that only passes text on, or embeddings).
    #[must_use]
    pub fn counted_tokens<T: AsRef<[u32]>>(
        &self,
        answers: &[T],
        output_tokens: u32,
    ) -> Option<Digest> {
        let known = answers
            .iter()
            .map(|answer| answer.as_ref().len())
            .fold(0, usize::saturating_add);
        (u32::try_from(known) == Ok(output_tokens)).then(|| self.tokens(answers))
    }

    fn begin(&self, domain: &[u8]) -> Sha256 {
        Sha256::new().chain_update(domain).chain_update(self.0)
    }
}

/// No text and no list of a job is as long as 2³².
fn number(hash: &mut Sha256, value: usize) {
    hash.update(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn finish(hash: Sha256) -> Digest {
    Digest::from_bytes(hash.finalize().into())
}

/// Shows nothing: whoever has it can open the receipt.
impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

impl FromStr for Salt {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let kind = "a salt";
        let bytes = hex::decode(text).map_err(|_| IdError::Form {
            kind,
            form: "hexadecimal",
        })?;
        let got = bytes.len();
        bytes.try_into().map(Self).map_err(|_| IdError::Length {
            kind,
            expected: Self::LENGTH,
            got,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_salt() -> impl Strategy<Value = Salt> {
        any::<[u8; 32]>().prop_map(Salt::from_bytes)
    }

    proptest! {
        #[test]
        fn no_two_lists_of_answers_share_a_commitment(
            salt in any_salt(),
            one in vec("[a\0]{0,3}", 0..4),
            other in vec("[a\0]{0,3}", 0..4),
        ) {
            prop_assert_eq!(salt.response(&one) == salt.response(&other), one == other);
            let ids = |texts: &[String]| -> Vec<Vec<u32>> {
                texts.iter().map(|text| text.bytes().map(u32::from).collect()).collect()
            };
            prop_assert_eq!(salt.tokens(&ids(&one)) == salt.tokens(&ids(&other)), one == other);
        }

        #[test]
        fn another_salt_or_another_kind_makes_another_commitment(
            salt in any_salt(),
            bit in 0..256_usize,
            text in "\\PC{0,40}",
        ) {
            let mut bytes = *salt.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let other = Salt::from_bytes(bytes);
            let ids = [text.bytes().map(u32::from).collect::<Vec<_>>()];
            let all = |salt: Salt| {
                [salt.request(text.as_bytes()), salt.response(&[&text]), salt.tokens(&ids)]
            };
            let (mine, theirs) = (all(salt), all(other));
            for (at, one) in mine.iter().enumerate() {
                prop_assert!(!theirs.contains(one));
                prop_assert!(!mine[at + 1..].contains(one));
            }
        }

        #[test]
        fn a_changed_token_is_seen(
            salt in any_salt(),
            mut ids in vec(vec(any::<u32>(), 1..20), 1..4),
            at in any::<prop::sample::Index>(),
            bit in 0..32_u32,
        ) {
            let before = salt.tokens(&ids);
            let answer = at.index(ids.len());
            let position = at.index(ids[answer].len());
            ids[answer][position] ^= 1 << bit;
            prop_assert_ne!(salt.tokens(&ids), before);
        }
    }

    #[test]
    fn tokens_are_committed_to_only_where_each_has_a_number() {
        let salt = Salt::from_bytes([1; 32]);
        let ids = [vec![1, 2], vec![3]];
        assert_eq!(salt.counted_tokens(&ids, 3), Some(salt.tokens(&ids)));
        assert_eq!(salt.counted_tokens(&ids, 4), None);
        assert_eq!(salt.counted_tokens(&ids, 2), None);
        let none: [Vec<u32>; 1] = [vec![]];
        assert_eq!(salt.counted_tokens(&none, 0), Some(salt.tokens(&none)));
    }

    #[test]
    fn a_salt_is_read_from_its_digits_and_debug_output_hides_it() {
        let salt = Salt::from_bytes([0xab; 32]);
        assert_eq!(salt.reveal().parse(), Ok(salt));
        assert_eq!(format!("{salt:?}"), "Salt(..)");
        for bad in ["", "zz", "abab", &"ab".repeat(33)] {
            assert!(bad.parse::<Salt>().is_err(), "{bad}");
        }
    }
}
