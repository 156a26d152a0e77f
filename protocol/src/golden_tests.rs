//! What is signed and hashed, byte for byte. The expected values were computed by
//! `golden/vectors.py`, which shares no code with this crate: Python's `struct` and `hashlib`,
//! Ed25519 of the `cryptography` package, and Protobuf written by hand.
#![allow(clippy::unwrap_used)]

use crate::evidence::{Beacon, Claims};
use crate::ids::Digest;
use crate::samples::{address, peer_of, receipt};
use crate::units::NanoTon;
use crate::voucher::Voucher;
use ed25519_dalek::SigningKey;

#[test]
fn a_voucher_signs_the_56_bytes_that_the_contract_checks() {
    let voucher = Voucher {
        channel: address(0xcc),
        cumulative: NanoTon::from_nano(1_500_000_000),
    };
    // "vch1" ‖ -239 ‖ 01 ‖ cc… ‖ 1 500 000 000 as 15 bytes
    assert_eq!(
        hex::encode(voucher.signed_bytes(-239)),
        "76636831ffffff1101cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\
         000000000000000000000059682f00"
    );
    let signed = voucher.sign(&SigningKey::from_bytes(&[1; 32]), -239);
    assert_eq!(
        hex::encode(signed.signature),
        "186b51e2e3018292356a31f9a6a91f2709b81ff3515834ab2361cdce2c9386c2\
         cfa1ef43b53379640630a563f859c7a789ea440a2dafac8b8989cdd40a8b4d01"
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
fn a_receipt_has_the_signature_and_the_leaf_that_others_compute() {
    let signed = receipt().sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
    assert_eq!(
        Digest::sha256(&signed.receipt).to_string(),
        "504d4e972d96f0c759dffc2e9d2c52ddac7b6e920a1d55516778cf14d9892035"
    );
    assert_eq!(
        hex::encode(signed.signature),
        "1073bda033dec6c68ec189308a7f99c339b01080ad54be201248277e4af000cc\
         b3e0ee71dc777d7e06e237e7f0ee58defd5700f53e0c12872e5127ee0699f10d"
    );
    assert_eq!(
        signed.leaf().to_string(),
        "b3c1e9804c7c3b9629206a107302be7632e71c8921a8a4a8a31ce3bd1d480fe4"
    );
}
