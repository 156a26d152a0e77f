//! ML-KEM-768 (FIPS 203): the shared secret that becomes `psk2`.

use ml_kem::{
    B32, Ciphertext, EncapsulateDeterministic, Encoded, EncodedSizeUser, KemCore, MlKem768,
    kem::Decapsulate,
};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::{MLKEM_CIPHERTEXT_BYTES, MLKEM_KEY_BYTES, SessionError};

type DecapsulationKey = <MlKem768 as KemCore>::DecapsulationKey;
type EncapsulationKey = <MlKem768 as KemCore>::EncapsulationKey;

/// 32 bytes both ends know after encapsulation.
pub(super) type SharedSecret = Zeroizing<[u8; 32]>;

/// A decapsulation key; `ml-kem` wipes it when dropped.
pub(super) struct KemSecret(DecapsulationKey);

fn draw(rng: &mut (impl CryptoRng + ?Sized)) -> B32 {
    let mut bytes = Zeroizing::new([0u8; 32]);
    rng.fill_bytes(bytes.as_mut_slice());
    B32::from(*bytes)
}

fn shared(mut secret: B32) -> SharedSecret {
    let mut out = Zeroizing::new([0u8; 32]);
    out.copy_from_slice(secret.as_slice());
    secret.as_mut_slice().zeroize();
    out
}

impl KemSecret {
    /// `ML-KEM.KeyGen` (FIPS 203, section 7.1).
    pub(super) fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut d = draw(rng);
        let mut z = draw(rng);
        let (secret, _) = MlKem768::generate_deterministic(&d, &z);
        d.as_mut_slice().zeroize();
        z.as_mut_slice().zeroize();
        Self(secret)
    }

    /// The public key, [`MLKEM_KEY_BYTES`] long.
    pub(super) fn public(&self) -> Vec<u8> {
        self.0.encapsulation_key().as_bytes().to_vec()
    }

    /// `ML-KEM.Decaps` (section 7.3). A changed ciphertext gives another secret, not an error
    /// (implicit rejection); `None` only for a wrong length.
    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Option<SharedSecret> {
        let ciphertext = Ciphertext::<MlKem768>::try_from(ciphertext).ok()?;
        self.0.decapsulate(&ciphertext).ok().map(shared)
    }
}

/// `ML-KEM.Encaps` (section 7.2) with both of its input checks: length, and the modulus check,
/// which is that decoding and encoding again gives the same bytes.
pub(super) fn encapsulate(
    public: &[u8],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<(Vec<u8>, SharedSecret), SessionError> {
    debug_assert_eq!(MLKEM_KEY_BYTES, size_of::<Encoded<EncapsulationKey>>());
    let encoded = Encoded::<EncapsulationKey>::try_from(public)
        .map_err(|_| SessionError::KemKeyLength { got: public.len() })?;
    let key = EncapsulationKey::from_bytes(&encoded);
    if key.as_bytes() != encoded {
        return Err(SessionError::KemKeyInvalid);
    }
    let mut message = draw(rng);
    let result = key.encapsulate_deterministic(&message);
    message.as_mut_slice().zeroize();
    let (ciphertext, secret) = result.map_err(|()| SessionError::KemKeyInvalid)?;
    debug_assert_eq!(ciphertext.len(), MLKEM_CIPHERTEXT_BYTES);
    Ok((ciphertext.to_vec(), shared(secret)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn both_ends_get_the_same_secret() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let secret = KemSecret::generate(&mut rng);
        let (ciphertext, ours) = encapsulate(&secret.public(), &mut rng).unwrap();
        assert_eq!(ciphertext.len(), MLKEM_CIPHERTEXT_BYTES);
        assert_eq!(secret.decapsulate(&ciphertext).unwrap(), ours);
    }

    #[test]
    fn a_changed_ciphertext_gives_another_secret() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let secret = KemSecret::generate(&mut rng);
        let (mut ciphertext, ours) = encapsulate(&secret.public(), &mut rng).unwrap();
        ciphertext[500] ^= 1;
        assert_ne!(secret.decapsulate(&ciphertext).unwrap(), ours);
        assert!(secret.decapsulate(&ciphertext[1..]).is_none());
    }

    #[test]
    fn keys_of_another_length_or_outside_the_field_are_refused() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let mut public = KemSecret::generate(&mut rng).public();
        for len in [0, 1, MLKEM_KEY_BYTES - 1] {
            assert_eq!(
                encapsulate(&public[..len], &mut rng).unwrap_err(),
                SessionError::KemKeyLength { got: len }
            );
        }
        // The first coefficient becomes 4095, above the modulus 3329.
        public[0] = 0xff;
        public[1] |= 0x0f;
        assert_eq!(
            encapsulate(&public, &mut rng).unwrap_err(),
            SessionError::KemKeyInvalid
        );
    }
}
