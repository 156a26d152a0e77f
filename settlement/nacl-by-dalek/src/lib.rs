//! The crate `nacl` is LGPL, so programs that link it cannot be handed out under this project's licences. tonlib-core
//! calls two functions of it; here they are, by ed25519-dalek. `[patch.crates-io]` in the workspace puts this crate in
//! its place. Written against tonlib-core's calls alone.

#![forbid(unsafe_code)]

/// Ed25519 signatures (RFC 8032).
pub mod sign {
    use ed25519_dalek::{Signer, SigningKey};

    /// A key and its public half, in the layout of NaCl's `crypto_sign_keypair`.
    pub struct Keypair {
        /// 32 bytes of seed, then the 32 bytes of [`pkey`](Self::pkey).
        pub skey: [u8; 64],
        /// The public key.
        pub pkey: [u8; 32],
    }

    /// Why a key cannot sign.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Error {
        /// In words.
        pub message: String,
    }

    /// The key pair of a 32-byte seed. A seed of another length is cut, or filled with zeros.
    #[must_use]
    pub fn generate_keypair(seed: &[u8]) -> Keypair {
        let mut exact = [0; 32];
        for (to, from) in exact.iter_mut().zip(seed) {
            *to = *from;
        }
        let key = SigningKey::from_bytes(&exact);
        Keypair {
            skey: key.to_keypair_bytes(),
            pkey: key.verifying_key().to_bytes(),
        }
    }

    /// The 64-byte signature of `message` under a key in the layout of [`Keypair::skey`].
    ///
    /// # Errors
    /// The bytes are no such key.
    pub fn signature(message: &[u8], skey: &[u8]) -> Result<Vec<u8>, Error> {
        let key = <&[u8; 64]>::try_from(skey)
            .ok()
            .and_then(|bytes| SigningKey::from_keypair_bytes(bytes).ok())
            .ok_or_else(|| Error {
                message: "not 64 bytes of seed and public key".to_owned(),
            })?;
        Ok(key.sign(message).to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::sign::{generate_keypair, signature};

    /// RFC 8032, 7.1, test 1: seed, public key, signature of the empty message (first bytes).
    #[test]
    fn keys_and_signatures_are_those_of_rfc_8032() {
        const SEED: [u8; 32] = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let pair = generate_keypair(&SEED);
        assert!(pair.pkey.starts_with(&[0xd7, 0x5a, 0x98, 0x01]));
        let signed = signature(b"", &pair.skey).unwrap();
        assert!(signed.starts_with(&[0xe5, 0x56, 0x43, 0x00]) && signed.len() == 64);
        assert!(signature(b"", &SEED).is_err());
    }
}
