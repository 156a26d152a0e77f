//! A wallet's key as a file keeps it: `v5r1:` and 64 hexadecimal digits. Digits alone are a version 4 wallet's, as files
//! were written before there was a choice.

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::{Mnemonic, Wallet, WalletVersion};
use crate::chain::ChainError;

/// A key and which contract it opens. `Debug` shows no key, and the memory is wiped when it is dropped.
#[derive(Clone)]
pub struct WalletKey {
    pub version: WalletVersion,
    pub key: SigningKey,
}

impl std::fmt::Debug for WalletKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WalletKey({}, …)", self.version)
    }
}

impl WalletKey {
    /// A new one of the newest version.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self {
            version: WalletVersion::V5R1,
            key: SigningKey::from_bytes(&seed),
        })
    }

    /// The key that words make.
    #[must_use]
    pub fn of_words(words: &Mnemonic, version: WalletVersion) -> Self {
        Self {
            version,
            key: SigningKey::from_bytes(&words.seed()),
        }
    }

    /// Reads a key file's text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (version, digits) = match text.split_once(':') {
            Some((version, digits)) => (version.parse().ok()?, digits),
            None => (WalletVersion::V4R2, text),
        };
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, seed.as_mut_slice()).ok()?;
        Some(Self {
            version,
            key: SigningKey::from_bytes(&seed),
        })
    }

    /// A key file's text.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(self.key.as_bytes()));
        Zeroizing::new(format!("{}:{}", self.version, digits.as_str()))
    }

    /// The wallet on the network with this global id.
    pub fn wallet(&self, global_id: i32) -> Result<Wallet, ChainError> {
        Wallet::of_version(self.version, self.key.clone(), global_id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_old_files_mean_version_4() {
        let made = WalletKey::generate().unwrap();
        assert_eq!(made.version, WalletVersion::V5R1);
        let read = WalletKey::parse(&made.to_text()).unwrap();
        assert_eq!(read.key, made.key);
        assert_eq!(read.version, made.version);
        let old = WalletKey::parse(&"05".repeat(32)).unwrap();
        assert_eq!(old.version, WalletVersion::V4R2);
        assert_eq!(old.key.as_bytes(), &[5; 32]);
        for bad in ["", "v5r1:", "v9:00", &"zz".repeat(32), &"05".repeat(31)] {
            assert!(WalletKey::parse(bad).is_none(), "{bad}");
        }
        let digits = hex::encode(made.key.as_bytes());
        assert!(!format!("{made:?}").contains(&digits));
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = WalletKey::parse(&String::from_utf8_lossy(bytes));
        });
    }
}
