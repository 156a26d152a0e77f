//! The keys an enclave makes in its own memory and never writes anywhere.

use std::fmt;

use noise_protocol::{DH, U8Array};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{
    NOISE_KEY_BYTES,
    dh::{DhKey, StrictX25519},
    kem::KemSecret,
};

/// An X25519 Noise static key and an ML-KEM-768 decapsulation key. Their public halves go into the
/// evidence; the secrets are wiped when this is dropped.
pub struct EnclaveSecrets {
    noise: DhKey,
    noise_public: [u8; NOISE_KEY_BYTES],
    kem: KemSecret,
    kem_public: Vec<u8>,
}

impl EnclaveSecrets {
    /// Draws both keys from `rng`.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let noise = draw_key(rng);
        let kem = KemSecret::generate(rng);
        Self {
            noise_public: StrictX25519::pubkey(&noise),
            noise,
            kem_public: kem.public(),
            kem,
        }
    }

    /// The X25519 public key.
    pub fn noise_key(&self) -> &[u8; NOISE_KEY_BYTES] {
        &self.noise_public
    }

    /// The ML-KEM-768 encapsulation key, [`super::MLKEM_KEY_BYTES`] long.
    pub fn mlkem_key(&self) -> &[u8] {
        &self.kem_public
    }

    pub(super) fn noise_secret(&self) -> DhKey {
        U8Array::clone(&self.noise)
    }

    pub(super) fn kem(&self) -> &KemSecret {
        &self.kem
    }
}

impl fmt::Debug for EnclaveSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnclaveSecrets").finish_non_exhaustive()
    }
}

/// An X25519 secret from `rng`; clamping happens where it is used.
pub(super) fn draw_key(rng: &mut (impl CryptoRng + ?Sized)) -> DhKey {
    let mut bytes = Zeroizing::new([0u8; NOISE_KEY_BYTES]);
    rng.fill_bytes(bytes.as_mut_slice());
    DhKey::from(bytes)
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_keys_and_another_seed_others() {
        let keys = |seed| {
            let secrets = EnclaveSecrets::generate(&mut ChaCha12Rng::seed_from_u64(seed));
            (*secrets.noise_key(), secrets.mlkem_key().to_vec())
        };
        assert_eq!(keys(1), keys(1));
        assert_ne!(keys(1).0, keys(2).0);
        assert_ne!(keys(1).1, keys(2).1);
    }

    #[test]
    fn debug_output_shows_no_key() {
        let secrets = EnclaveSecrets::generate(&mut ChaCha12Rng::seed_from_u64(1));
        assert_eq!(format!("{secrets:?}"), "EnclaveSecrets { .. }");
    }
}
