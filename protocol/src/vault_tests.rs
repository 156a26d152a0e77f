//! The vault's messages: what was encoded decodes to the same, nothing else decodes to it, and no
//! key is printed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::samples::any_digest;
use crate::wire::{decode, encode};
use proptest::prelude::*;
use std::fmt::Debug;

fn any_nonce() -> impl Strategy<Value = Nonce> {
    any::<[u8; 32]>().prop_map(Nonce::from_bytes)
}

fn any_request() -> impl Strategy<Value = VaultRequest> {
    prop_oneof![
        any_digest().prop_map(|model| VaultRequest::Hello { model }),
        (any_nonce(), any_digest(), any_digest()).prop_map(|(nonce, model, evidence)| {
            VaultRequest::Claim {
                nonce,
                model,
                evidence,
            }
        }),
    ]
}

fn any_reply() -> impl Strategy<Value = VaultReply> {
    prop_oneof![
        (any_nonce(), 1..=MAX_NONCE_LIFETIME_MS)
            .prop_map(|(nonce, lifetime_ms)| VaultReply::Nonce { nonce, lifetime_ms }),
        Just(VaultReply::Released),
        (
            prop::sample::select(VaultRefusal::ALL.to_vec()),
            "[a-z_0-9]{0,64}",
            0..=MAX_AGAIN_AFTER_MS
        )
            .prop_map(|(reason, factor, again_after_ms)| VaultReply::Refused {
                reason,
                factor,
                again_after_ms
            }),
    ]
}

fn any_release() -> impl Strategy<Value = KeyRelease> {
    (any_nonce(), any_digest(), any::<[u8; 32]>()).prop_map(|(nonce, model, key)| KeyRelease {
        nonce,
        model,
        key: ContentKey::from_bytes(key),
    })
}

fn any_header() -> impl Strategy<Value = SealedHeader> {
    (
        (
            any_digest(),
            any_digest(),
            any::<[u8; 16]>(),
            any::<[u8; 32]>(),
        ),
        (1..=1_u64 << 36, 12_u32..=24, "\\PC{1,32}"),
    )
        .prop_map(|(names, (plain_bytes, power, name))| SealedHeader {
            model: names.0,
            plain_bytes,
            chunk_bytes: 1 << power,
            key_id: names.2,
            salt: names.3,
            name,
            chunks: names.1,
        })
}

fn survives<T: Wire + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(bytes.len() <= T::MAX_BYTES);
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    // Field 100, varint 1.
    let unknown = [bytes.as_slice(), &[0xa0, 0x06, 0x01]].concat();
    prop_assert!(
        decode::<T>(&unknown).is_err(),
        "an unknown field was let in"
    );
    for cut in 0..bytes.len() {
        if let Ok(other) = decode::<T>(&bytes[..cut]) {
            prop_assert_ne!(&other, value);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_request_survives_the_wire(value in any_request()) { survives(&value)?; }

    #[test]
    fn a_reply_survives_the_wire(value in any_reply()) { survives(&value)?; }

    #[test]
    fn a_release_survives_the_wire(value in any_release()) {
        survives(&value)?;
        prop_assert_eq!(KeyRelease::decode(value.encode().to_vec()).unwrap(), value);
    }

    #[test]
    fn a_header_survives_the_wire_and_its_chunks_add_up(value in any_header()) {
        survives(&value)?;
        let last = value.count() - 1;
        let full = last * u64::from(value.chunk_bytes);
        prop_assert_eq!(full + value.chunk_length(last), value.plain_bytes);
        prop_assert!(value.chunk_length(last) > 0);
        prop_assert_eq!(value.chunk_length(value.count()), 0);
    }
}

/// No bytes panic, and what is let in has one spelling.
fn fuzz<T: Wire + PartialEq + Debug>(valid: &T) {
    let valid = encode(valid);
    bolero::check!()
        .with_iterations(3_000)
        .with_type::<(u16, Vec<u8>)>()
        .for_each(|(at, noise)| {
            let at = usize::from(*at) % (valid.len() + 1);
            let mut disturbed = valid.clone();
            let end = (at + noise.len().min(8)).min(disturbed.len());
            disturbed.splice(at..end, noise.iter().take(8).copied());
            for bytes in [noise, &disturbed] {
                if let Ok(value) = decode::<T>(bytes) {
                    assert_eq!(&encode(&value), bytes);
                }
            }
        });
}

fn header() -> SealedHeader {
    SealedHeader {
        model: Digest::sha256(b"weights"),
        plain_bytes: 3 << 20,
        chunk_bytes: 1 << 20,
        key_id: [3; 16],
        salt: [4; 32],
        name: "a model".to_owned(),
        chunks: Digest::sha256(b"chunks"),
    }
}

fn release() -> KeyRelease {
    KeyRelease {
        nonce: Nonce::from_bytes([1; 32]),
        model: Digest::sha256(b"weights"),
        key: ContentKey::from_bytes([0xab; 32]),
    }
}

#[test]
fn any_bytes_may_come_as_a_request() {
    fuzz(&VaultRequest::Claim {
        nonce: Nonce::from_bytes([1; 32]),
        model: Digest::sha256(b"weights"),
        evidence: Digest::sha256(b"evidence"),
    });
}

#[test]
fn any_bytes_may_come_as_a_reply() {
    fuzz(&VaultReply::Refused {
        reason: VaultRefusal::Evidence,
        factor: "mrtd".to_owned(),
        again_after_ms: 10_000,
    });
}

#[test]
fn any_bytes_may_come_as_a_release() {
    fuzz(&release());
}

#[test]
fn any_bytes_may_come_as_a_header() {
    fuzz(&header());
}

#[test]
fn a_header_out_of_bounds_is_refused_by_field() {
    let refused = |change: fn(&mut SealedHeader), field: &str| {
        let mut header = header();
        change(&mut header);
        let error = SealedHeader::decode(&header.encode())
            .unwrap_err()
            .to_string();
        assert!(error.contains(field), "{error}");
    };
    refused(|h| h.plain_bytes = 0, "plain_bytes");
    refused(|h| h.plain_bytes = MAX_PLAIN_BYTES + 1, "plain_bytes");
    refused(|h| h.chunk_bytes = 0, "chunk_bytes");
    refused(|h| h.chunk_bytes = (1 << 20) + 1, "chunk_bytes");
    refused(|h| h.chunk_bytes = MAX_CHUNK_BYTES * 2, "chunk_bytes");
    refused(|h| h.name = "n".repeat(MAX_SEALED_NAME_BYTES + 1), "name");
    refused(|h| h.name.clear(), "name");
    refused(
        |h| {
            h.plain_bytes = MAX_PLAIN_BYTES;
            h.chunk_bytes = MIN_CHUNK_BYTES;
        },
        "plain_bytes / chunk_bytes",
    );
}

#[test]
fn the_largest_messages_fit_their_limits() {
    let header = SealedHeader {
        plain_bytes: MAX_PLAIN_BYTES,
        chunk_bytes: MAX_CHUNK_BYTES,
        name: "n".repeat(MAX_SEALED_NAME_BYTES),
        ..header()
    };
    assert_eq!(SealedHeader::decode(&header.encode()).unwrap(), header);
    let reply = VaultReply::Refused {
        reason: VaultRefusal::CannotRecord,
        factor: "f".repeat(MAX_FACTOR_BYTES),
        again_after_ms: MAX_AGAIN_AFTER_MS,
    };
    assert_eq!(VaultReply::decode(&reply.encode()).unwrap(), reply);
}

#[test]
fn a_key_is_never_printed() {
    let release = release();
    let printed = format!("{release:?} {:?}", release.key);
    assert!(
        !printed.contains("171") && !printed.contains("ab, ab"),
        "{printed}"
    );
    assert!(printed.contains("ContentKey(…)"));
}
