//! Keys from a seed, and signatures whose nonces follow RFC 6979.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use sha2::{Digest as _, Sha256};

use crate::SimulatorError;

/// A P-256 key that signs deterministically. The X.509 builder's own keys take random nonces,
/// which would make every run's certificates different.
#[derive(Clone)]
pub(crate) struct SeededKey {
    key: SigningKey,
    /// Uncompressed SEC1 point: `04 ‖ x ‖ y`.
    point: [u8; 65],
}

impl SeededKey {
    /// SHA-256 in counter mode over domain, seed and label, until it is a valid scalar.
    pub(crate) fn derive(seed: &[u8; 32], label: &str) -> Result<Self, SimulatorError> {
        for counter in 0..=u8::MAX {
            let scalar = Sha256::new()
                .chain_update(b"cocoon-tdx-simulator/v1\0")
                .chain_update(seed)
                .chain_update([counter])
                .chain_update(label.as_bytes())
                .finalize();
            let Ok(key) = SigningKey::from_slice(&scalar) else {
                continue;
            };
            let encoded = key.verifying_key().to_sec1_point(false);
            let point = encoded
                .as_bytes()
                .try_into()
                .map_err(|_| SimulatorError::Size {
                    what: "P-256 point",
                })?;
            return Ok(Self { key, point });
        }
        Err(SimulatorError::Key {
            label: label.to_owned(),
        })
    }

    /// `r ‖ s`, as DCAP structures carry signatures.
    pub(crate) fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature = self.key.sign(message);
        signature.to_bytes().into()
    }

    /// `x ‖ y`, as quotes carry the attestation key.
    pub(crate) fn raw_point(&self) -> [u8; 64] {
        let mut raw = [0; 64];
        for (to, from) in raw.iter_mut().zip(self.point.iter().skip(1)) {
            *to = *from;
        }
        raw
    }
}

impl PublicKeyData for SeededKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SeededKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.key.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_seed_and_label_give_the_same_key_and_signature() {
        let one = SeededKey::derive(&[1; 32], "root").unwrap();
        let two = SeededKey::derive(&[1; 32], "root").unwrap();
        assert_eq!(one.raw_point(), two.raw_point());
        assert_eq!(one.sign_raw(b"message"), two.sign_raw(b"message"));
    }

    #[test]
    fn another_seed_or_label_gives_another_key() {
        let root = SeededKey::derive(&[1; 32], "root").unwrap();
        assert_ne!(
            root.raw_point(),
            SeededKey::derive(&[2; 32], "root").unwrap().raw_point()
        );
        assert_ne!(
            root.raw_point(),
            SeededKey::derive(&[1; 32], "tcb").unwrap().raw_point()
        );
    }
}
