//! Twenty-four words that make a wallet's key, TON's way.
//!
//! The words are drawn from the list of BIP-39, but nothing else is of BIP-39: words are drawn at random until their
//! entropy, `HMAC-SHA512(words, password)`, passes a test ("basic seed"), so that one draw in 256 holds and a mistyped word
//! is noticed. The key's seed is PBKDF2 over that entropy. Words that ask for a password pass a second test ("password
//! seed") without it. Scheme and constants: `@ton/crypto`, `mnemonic.ts`.

use hmac::{Hmac, Mac};
use sha2::Sha512;
use tonlib_core::wallet::mnemonic::WORDLIST_EN_SET;
use zeroize::{Zeroize, Zeroizing};

/// Words of a mnemonic.
pub const WORDS: usize = 24;
/// Words in the list.
const LIST: usize = 2048;
/// Longest text that is looked at, bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Draws before giving up. One of 256 draws holds; with a password one of 65,536.
const MAX_DRAWS: u32 = 4_000_000;
const ITERATIONS: u32 = 100_000;

/// A key as words, with its password. Printed by nothing but [`Mnemonic::reveal`], and wiped when dropped.
#[derive(Clone)]
pub struct Mnemonic {
    /// In small letters, one space between.
    words: Zeroizing<String>,
    password: Zeroizing<String>,
}

/// Why words make no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MnemonicError {
    #[error("{0} words, where a TON wallet has {WORDS}")]
    Count(usize),
    /// The word itself is not said: it may be one letter away from a secret.
    #[error("word {0} is not in the list")]
    Unknown(usize),
    #[error("these words were made with a password; give it too")]
    PasswordNeeded,
    #[error("these words were made without a password, or with another one, or a word is wrong")]
    NotValid,
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

impl std::fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mnemonic(…)")
    }
}

impl Mnemonic {
    /// New words. Takes a second or so, and minutes with a password on a slow machine.
    pub fn generate(password: Option<&str>) -> Result<Self, MnemonicError> {
        let list = list();
        for _ in 0..MAX_DRAWS {
            let mut bits = Zeroizing::new([0u16; WORDS]);
            for index in bits.iter_mut() {
                let mut bytes = [0; 2];
                getrandom::fill(&mut bytes).map_err(|_| MnemonicError::NoRandomness)?;
                // 2048 divides 2^16: every word is as likely as any other.
                *index = u16::from_le_bytes(bytes) % 2048;
                bytes.zeroize();
            }
            let mut words = Zeroizing::new(String::with_capacity(MAX_TEXT_BYTES));
            for index in bits.iter() {
                if !words.is_empty() {
                    words.push(' ');
                }
                words.push_str(list.get(usize::from(*index)).copied().unwrap_or_default());
            }
            let drawn = Self {
                words,
                password: Zeroizing::new(password.unwrap_or_default().to_owned()),
            };
            if drawn.check().is_ok() {
                return Ok(drawn);
            }
        }
        Err(MnemonicError::NotValid)
    }

    /// From words in any case with any spaces between.
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, MnemonicError> {
        let text = text.get(..MAX_TEXT_BYTES).unwrap_or(text);
        let count = text.split_whitespace().count();
        if count != WORDS {
            return Err(MnemonicError::Count(count));
        }
        let mut words = Zeroizing::new(String::with_capacity(MAX_TEXT_BYTES));
        for (at, word) in text.split_whitespace().enumerate() {
            let word = Zeroizing::new(word.to_lowercase());
            if !WORDLIST_EN_SET.contains_key(word.as_str()) {
                return Err(MnemonicError::Unknown(at.saturating_add(1)));
            }
            if at > 0 {
                words.push(' ');
            }
            words.push_str(&word);
        }
        let read = Self {
            words,
            password: Zeroizing::new(password.unwrap_or_default().to_owned()),
        };
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), MnemonicError> {
        let bare = self.entropy("");
        if self.password.is_empty() {
            return match is_basic_seed(&bare) {
                true => Ok(()),
                false if is_password_seed(&bare) => Err(MnemonicError::PasswordNeeded),
                false => Err(MnemonicError::NotValid),
            };
        }
        let asks = is_password_seed(&bare) && !is_basic_seed(&bare);
        if asks && is_basic_seed(&self.entropy(&self.password)) {
            Ok(())
        } else {
            Err(MnemonicError::NotValid)
        }
    }

    fn entropy(&self, password: &str) -> Zeroizing<[u8; 64]> {
        // A key of any length is fine for HMAC.
        let Ok(mut mac) = Hmac::<Sha512>::new_from_slice(self.words.as_bytes()) else {
            return Zeroizing::new([0; 64]);
        };
        mac.update(password.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// The Ed25519 seed. Takes 100,000 rounds of HMAC.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        let stretched = stretch(
            &self.entropy(&self.password),
            b"TON default seed",
            ITERATIONS,
        );
        let mut seed = Zeroizing::new([0; 32]);
        for (to, from) in seed.iter_mut().zip(stretched.iter()) {
            *to = *from;
        }
        seed
    }

    /// The words, for the one person who is to write them down.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.words
    }
}

/// The list in its own order.
fn list() -> Vec<&'static str> {
    let mut list: Vec<&'static str> = WORDLIST_EN_SET.keys().copied().collect();
    list.sort_unstable();
    list.truncate(LIST);
    list
}

fn stretch(entropy: &[u8; 64], salt: &[u8], rounds: u32) -> Zeroizing<[u8; 64]> {
    let mut out = Zeroizing::new([0; 64]);
    pbkdf2::pbkdf2_hmac::<Sha512>(entropy, salt, rounds, out.as_mut_slice());
    out
}

fn is_basic_seed(entropy: &[u8; 64]) -> bool {
    stretch(entropy, b"TON seed version", ITERATIONS / 256).first() == Some(&0)
}

fn is_password_seed(entropy: &[u8; 64]) -> bool {
    stretch(entropy, b"TON fast seed version", 1).first() == Some(&1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Words, password, seed: by `mnemonicNew` and `mnemonicToPrivateKey` of `@ton/crypto` 3.3.0; the first is the test
    /// vector of its repository.
    const INDEPENDENT: [(&str, &str, &str); 3] = [
        (
            "dose ice enrich trigger test dove century still betray gas diet dune use other base gym mad law immense village world example praise game",
            "",
            "119dcf2840a3d56521d260b2f125eedc0d4f3795b9e627269a4b5a6dca8257bd",
        ),
        (
            "behave want proof hello engage share about illness adjust bunker unfold panic limb crime inspire sing income slab coffee metal tiny salad tree dinner",
            "",
            "85f94f9f8faf02ad132af4c55e2fa44e5effe8968780729d2e03385d6b88e383",
        ),
        (
            "duty caution fine myth control diet dentist stove theme glad wine stuff blast young dragon tonight area knife right tone ahead puzzle change gold",
            "correct horse",
            "eccd2fd257a89f40e50e936b9a95d9e0c84b20d845fc619d469b1e8977a1049e",
        ),
    ];

    #[test]
    fn words_make_the_keys_of_an_independent_implementation() {
        for (words, password, seed) in INDEPENDENT {
            let password = (!password.is_empty()).then_some(password);
            let read = Mnemonic::parse(words, password).unwrap();
            assert_eq!(hex::encode(read.seed().as_slice()), seed);
        }
    }

    #[test]
    fn words_that_make_no_key_are_refused_without_being_repeated() {
        let (words, _, _) = INDEPENDENT[0];
        let (locked, _, _) = INDEPENDENT[2];
        let untidy = words.to_uppercase().replace(' ', "  \n");
        assert_eq!(
            Mnemonic::parse(&untidy, None).unwrap().reveal(),
            words,
            "case and spaces do not matter"
        );
        for (text, password, error) in [
            ("dose ice", None, MnemonicError::Count(2)),
            (
                &words.replace("ice", "icy"),
                None,
                MnemonicError::Unknown(2),
            ),
            (&words.replace("ice", "gas"), None, MnemonicError::NotValid),
            (words, Some("x"), MnemonicError::NotValid),
            (locked, None, MnemonicError::PasswordNeeded),
            (locked, Some("wrong"), MnemonicError::NotValid),
        ] {
            assert_eq!(Mnemonic::parse(text, password).unwrap_err(), error);
        }
        assert!(!MnemonicError::Unknown(2).to_string().contains("icy"));
        let debug = format!("{:?}", Mnemonic::parse(words, None).unwrap());
        assert!(!debug.contains("dose"), "{debug}");
    }

    #[test]
    fn new_words_are_words_that_can_be_read_again() {
        let made = Mnemonic::generate(None).unwrap();
        let read = Mnemonic::parse(made.reveal(), None).unwrap();
        assert_eq!(made.reveal(), read.reveal());
        assert_eq!(list().len(), LIST);
        assert_eq!(
            (list().first(), list().last()),
            (Some(&"abandon"), Some(&"zoo"))
        );
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = Mnemonic::parse(&String::from_utf8_lossy(bytes), None);
        });
    }
}
