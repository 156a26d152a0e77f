//! Receipts that were changed, and receipts that were made up.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use crate::receipt::{MAX_SIGNED_RECEIPT_BYTES, Receipt, SignedReceipt};
use crate::samples::{any_receipt, receipt};
use crate::{Digest, PublicKey32};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn signed() -> SignedReceipt {
    receipt().sign(&SigningKey::from_bytes(&[9; 32])).unwrap()
}

/// What anybody makes of these bytes: a receipt under a good signature, or none.
fn accepted(bytes: &[u8]) -> Option<Receipt> {
    let signed = SignedReceipt::decode(bytes).ok()?;
    Some(signed.verify().ok()?.into_inner())
}

#[test]
fn none_of_ten_thousand_flipped_bits_is_accepted() {
    let bytes = signed().encode();
    assert_eq!(accepted(&bytes).map(|it| it.job), Some(receipt().job));
    // Every bit once, and then as many as the seed likes: two of a kind are a different receipt too.
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(accepted(&changed), None, "bit {bit}");
    }
    let mut rng = StdRng::seed_from_u64(0xc0c0);
    for _ in 0..10_000 {
        let mut changed = bytes.clone();
        let at = rng.random_range(0..changed.len());
        changed[at] ^= 1_u8 << rng.random_range(0..8_u32);
        if rng.random_bool(0.5) {
            let cut = rng.random_range(0..changed.len());
            changed.truncate(cut);
        }
        assert_eq!(accepted(&changed), None);
    }
}

#[test]
fn no_field_can_be_changed_under_the_signature() {
    type Change = fn(&mut Receipt);
    let other = Digest::from_bytes([0xee; 32]);
    let changes: [Change; 15] = [
        |r| r.job = crate::JobId::from_bytes([0xee; 16]),
        |r| std::mem::swap(&mut r.worker, &mut r.client),
        |r| r.model.push('x'),
        |r| r.model_digest = Digest::from_bytes([0xee; 32]),
        |r| r.evidence = Digest::from_bytes([0xee; 32]),
        |r| r.request_commitment = Digest::from_bytes([0xee; 32]),
        |r| r.response_commitment = Digest::from_bytes([0xee; 32]),
        |r| r.prompt_tokens += 1,
        |r| r.output_tokens += 1,
        |r| r.amount = crate::NanoTon::from_nano(1),
        |r| r.ending = crate::Ending::Stop,
        |r| r.receipt_key = PublicKey32::from_bytes([9; 32]),
        |r| r.tokens_commitment = Some(Digest::from_bytes([0xee; 32])),
        |r| r.tokens_commitment = None,
        |r| r.tokenizer = None,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let signed = signed();
        let mut receipt = Receipt::decode(&signed.receipt).unwrap();
        assert_ne!(receipt.evidence, other);
        change(&mut receipt);
        let changed = SignedReceipt {
            receipt: receipt.encode(),
            ..signed
        };
        assert_eq!(accepted(&changed.encode()), None, "change {at}");
    }
}

#[test]
fn a_signature_over_another_version_is_none() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let good = signed();
    let older = [b"cocoon/receipt/v1\0", good.receipt.as_slice()].concat();
    let changed = SignedReceipt {
        signature: ed25519_dalek::Signer::sign(&key, &older).to_bytes(),
        ..good
    };
    assert_eq!(accepted(&changed.encode()), None);
}

proptest! {
    #[test]
    fn whatever_is_signed_is_read_back(receipt in any_receipt()) {
        let signed = receipt.sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
        let bytes = signed.encode();
        prop_assert!(bytes.len() <= MAX_SIGNED_RECEIPT_BYTES);
        prop_assert!(accepted(&bytes).is_some());
    }
}
