//! X25519 that refuses low-order points.
//!
//! Noise allows an all-zero shared secret and neither `noise-protocol` nor `snow` rejects one. With
//! it an attacker who cannot decrypt anything could still fix what `es` or `ee` contribute, so we
//! reject it, as RFC 7748, section 6.1 recommends.

use noise_protocol::{DH, U8Array};
use noise_rust_crypto::{X25519, sensitive::Sensitive};

/// X25519 in which a shared secret of zeros is an error.
pub(super) enum StrictX25519 {}

pub(super) type DhKey = Sensitive<[u8; 32]>;

impl DH for StrictX25519 {
    type Key = DhKey;
    type Pubkey = [u8; 32];
    type Output = Sensitive<[u8; 32]>;

    fn name() -> &'static str {
        "25519"
    }

    /// Never called: the handshake always gets its ephemeral from the caller's generator. Drawing
    /// one from the operating system here would end determinism without anybody noticing.
    fn genkey() -> DhKey {
        unreachable!("ephemeral keys come from the caller's generator")
    }

    fn pubkey(key: &DhKey) -> [u8; 32] {
        X25519::pubkey(key)
    }

    fn dh(key: &DhKey, public: &[u8; 32]) -> Result<Self::Output, ()> {
        let shared = X25519::dh(key, public)?;
        // Every byte is looked at, whatever the earlier ones hold.
        let any = shared.as_slice().iter().fold(0u8, |any, byte| any | byte);
        if any == 0 { Err(()) } else { Ok(shared) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn agrees_with_the_first_vector_of_rfc_7748_section_5_2() {
        let bytes = |text: &str| {
            let mut bytes = [0u8; 32];
            hex::decode_to_slice(text, &mut bytes).unwrap();
            bytes
        };
        let scalar = bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let wanted = bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        let shared = StrictX25519::dh(&DhKey::from_slice(&scalar), &point).unwrap();
        assert_eq!(shared.as_slice(), wanted);
    }

    #[test]
    fn low_order_points_are_refused() {
        let key = DhKey::from_slice(&[9; 32]);
        let mut one = [0u8; 32];
        if let Some(first) = one.first_mut() {
            *first = 1;
        }
        // p - 1, p and p + 1, little-endian: of order 2, 4 and 1 after reduction.
        let near_p = |first: u8| {
            let mut point = [0xffu8; 32];
            if let Some(byte) = point.first_mut() {
                *byte = first;
            }
            if let Some(byte) = point.last_mut() {
                *byte = 0x7f;
            }
            point
        };
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let mut eight = [0u8; 32];
        hex::decode_to_slice(order_8, &mut eight).unwrap();
        for point in [
            [0u8; 32],
            one,
            near_p(0xec),
            near_p(0xed),
            near_p(0xee),
            eight,
        ] {
            assert!(StrictX25519::dh(&key, &point).is_err(), "{point:02x?}");
        }
    }
}
