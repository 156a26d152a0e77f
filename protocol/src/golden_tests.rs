//! What is signed and hashed, byte for byte. The expected values were computed by
//! `golden/vectors.py`, which shares no code with this crate: Python's `struct` and `hashlib`,
//! Ed25519 of the `cryptography` package, and Protobuf written by hand.
#![allow(clippy::unwrap_used)]

use crate::evidence::{Beacon, Claims};
use crate::ids::Digest;
use crate::samples::{address, peer_of, receipt};
use crate::units::NanoTon;
use crate::voucher::{Release, Voucher};
use ed25519_dalek::SigningKey;

#[test]
fn a_voucher_signs_the_56_bytes_that_the_contract_checks() {
    let voucher = Voucher {
        channel: address(0xcc),
        cumulative: NanoTon::from_nano(1_500_000_000),
    };
    // "vch1" ‖ -239 ‖ 02 ‖ cc… ‖ 1 500 000 000 as 15 bytes
    assert_eq!(
        hex::encode(voucher.signed_bytes(-239)),
        "76636831ffffff1102cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\
         000000000000000000000059682f00"
    );
    let signed = voucher.sign(&SigningKey::from_bytes(&[1; 32]), -239);
    assert_eq!(
        hex::encode(signed.signature),
        "a668e290a2d345b80dbc2565254fe48bdcf1d15a1633f3335ca4f0c32115aece\
         d04797c245a22df026885838fe04517f39180f871ca4bce7bab7ab04c1276708"
    );
    // The same bytes under another tag.
    let release = Release {
        channel: voucher.channel,
        cumulative: voucher.cumulative,
    }
    .sign(&SigningKey::from_bytes(&[1; 32]), -239);
    assert_eq!(
        hex::encode(release.signature),
        "c717287147720e350aad13e1ca03d464c28dd1506fb1c5d2a0e53417585e7c2a\
         351240faef155257414c8c93514f592335b8ee61d61ba8a6de75a51616b5a805"
    );
}

#[test]
fn report_data_is_what_the_specification_says() {
    let claims = Claims {
        noise_key: [1; 32],
        mlkem_key: vec![2; 1184],
        receipt_key: [3; 32],
        peer: peer_of(7),
        model: Digest::from_bytes([4; 32]),
        config: Digest::from_bytes([5; 32]),
        gpu_evidence: Digest::ZERO,
        beacon: Beacon {
            seqno: 0x0102_0304,
            hash: Digest::from_bytes([6; 32]),
        },
        epoch: 489_000,
        canary: Digest::from_bytes([8; 32]),
    };
    assert_eq!(
        hex::encode(claims.report_data()),
        "7c10e6104e713197a4ec4ef1ea109c6e6eb3a80d95fd9a664e9d530cc1a86640\
         bcece185b1e5c699c7e23a1a0f813219ff21f3c2c444b2087610acdf05dd486e"
    );
    assert_eq!(
        claims.digest().to_string(),
        "10314db5bbd780965a96a3cb68931122d30de59ca9173928f5a33d18e88beeb6"
    );
}

#[test]
fn commitments_are_what_the_specification_says() {
    let receipt = receipt();
    let tokens = receipt.tokens_commitment.unwrap();
    for (commitment, wanted) in [
        (
            receipt.request_commitment,
            "3edbda1e31d8e08ff55999302809167743865d9a7bfddf6da95299e02f480516",
        ),
        (
            receipt.response_commitment,
            "a24d0e1a3695ff50fc8a8650d83887670e80847339009466ba626acfe074eb28",
        ),
        (
            tokens,
            "24576a0e55b8c47b7e9d8cb2c159806706b64fac26f5d880a3184c9b45c5b03b",
        ),
    ] {
        assert_eq!(commitment.to_string(), wanted);
    }
}

#[test]
fn a_receipt_has_the_signature_and_the_leaf_that_others_compute() {
    let signed = receipt().sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
    assert_eq!(
        Digest::sha256(&signed.receipt).to_string(),
        "af50d7bfefc17b6feedef0f0dcdd311c8964a509c862443910c01c48d2975c79"
    );
    assert_eq!(
        hex::encode(signed.signature),
        "6df66a69b176ebc3589d2e594376124b2ccf49b2d2a00a9102d248afe493b2d9\
         3ae6ce0c7462771ff0740849b80099e2ce71010f5dccf8c7ceb671efc2863401"
    );
    assert_eq!(
        signed.leaf().to_string(),
        "059db0b04841969af85c17f83e41ddfff2370b6154319137b421a4a3581e005a"
    );
}
