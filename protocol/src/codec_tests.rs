//! Every codec: what was encoded decodes to the same, and nothing else decodes to it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use crate::advert::{self, Advert, MAX_ADVERT_BYTES, decode_advert};
use crate::evidence::{
    EvidenceBundle, EvidenceReply, EvidenceRequest, MAX_EVIDENCE_BYTES, MAX_QUOTE_BYTES,
};
use crate::ids::{Digest, Keypair, OfferId, PublicKey32};
use crate::job::{
    ClientFrame, FRAME_TOKENS, FinishReason, JobRequest, LEAST_LOGPROB, MAX_CHAT_BYTES,
    MAX_CHOICES, MAX_CLIENT_FRAME_BYTES, MAX_FRAME_TOKENS, MAX_LOGPROB_TOKEN_BYTES, MAX_TEXT_BYTES,
    MAX_TOKENS_BODY_BYTES, MAX_TOP_LOGPROBS, MAX_WORKER_FRAME_BYTES, OpeningTerms,
    PositionLogprobs, TokenLogprob, Tokens, WorkerFrame,
};
use crate::negotiation::{self, Decline, Offer, QuoteReply, QuoteRequest, decode_offer};
use crate::receipt::{Receipt, SignedReceipt};
use crate::release::{ReleaseRefusal, ReleaseReply};
use crate::samples::*;
use crate::units::NanoTon;
use crate::voucher::{Release, SignedRelease, Voucher, VoucherError};
use crate::wire::{Wire, WireError, decode, encode};
use ed25519_dalek::SigningKey;
use libp2p_core::SignedEnvelope;
use proptest::prelude::*;
use std::fmt::Debug;

pub(crate) fn survives<T: Wire + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    let mut unknown = bytes.clone();
    // Field 100, varint 1.
    unknown.extend([0xa0, 0x06, 0x01]);
    let refused = matches!(
        decode::<T>(&unknown),
        Err(WireError::NotCanonical { .. } | WireError::TooLarge { .. })
    );
    prop_assert!(refused, "an unknown field was let in");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_advert_survives_the_wire(value in any_advert()) { survives(&value)?; }

    #[test]
    fn an_offer_survives_the_wire(value in any_offer()) { survives(&value)?; }

    #[test]
    fn a_quote_request_survives_the_wire(value in any_request()) { survives(&value)?; }

    #[test]
    fn a_decline_survives_the_wire_and_is_no_request(value in any_decline()) {
        survives(&value)?;
        prop_assert!(QuoteRequest::decode(&value.encode()).is_err());
    }

    #[test]
    fn a_quote_request_is_no_decline(value in any_request()) {
        prop_assert!(Decline::decode(&value.encode()).is_err());
    }

    #[test]
    fn a_quote_reply_survives_the_wire(value in any_reply()) { survives(&value)?; }

    #[test]
    fn a_clients_frame_survives_the_wire(value in any_client_frame()) { survives(&value)?; }

    #[test]
    fn opening_terms_survive_the_wire(value in any_opening_terms()) { survives(&value)?; }

    #[test]
    fn a_workers_frame_survives_the_wire(value in any_worker_frame()) { survives(&value)?; }

    #[test]
    fn a_receipt_survives_the_wire(value in any_receipt()) { survives(&value)?; }

    #[test]
    fn a_signed_receipt_survives_the_wire(value in any_signed_receipt()) { survives(&value)?; }

    #[test]
    fn evidence_survives_the_wire(value in any_bundle()) { survives(&value)?; }

    #[test]
    fn a_request_for_evidence_survives_the_wire(value in any_evidence_request()) {
        survives(&value)?;
    }

    #[test]
    fn a_reply_with_evidence_survives_the_wire(value in any_evidence_reply()) {
        survives(&value)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_signed_advert_is_believed(advert in any_advert()) {
        let signed = advert.sign(&keypair(7)).unwrap();
        prop_assert_eq!(decode_advert(&signed).unwrap().into_inner(), advert);
    }

    #[test]
    fn a_signed_offer_is_believed(offer in any_offer()) {
        let signed = offer.sign(&keypair(7)).unwrap();
        prop_assert_eq!(decode_offer(&signed).unwrap().into_inner(), offer);
    }

    #[test]
    fn a_receipt_is_believed_until_any_byte_changes(
        receipt in any_receipt(),
        at: prop::sample::Index,
        change in 1_u8..,
    ) {
        let signed = receipt.sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
        prop_assert!(signed.verify().is_ok());
        let mut bytes = signed.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let believed = SignedReceipt::decode(&bytes).and_then(|signed| signed.verify());
        prop_assert!(believed.is_err());
    }
}

/// Arbitrary bytes, and a valid message with arbitrary bytes written over a part of it.
fn disturbed(valid: &[u8], noise: &[u8]) -> Vec<u8> {
    let Some((at, noise)) = noise.split_first_chunk::<2>() else {
        return valid.to_vec();
    };
    let at = usize::from(u16::from_be_bytes(*at)) % (valid.len() + 1);
    let mut bytes = valid.to_vec();
    let end = (at + noise.len().min(8)).min(bytes.len());
    bytes.splice(at..end, noise.iter().take(8).copied());
    bytes
}

/// No bytes panic, and what is let in has one spelling.
pub(crate) fn fuzz<T: Wire + PartialEq + Debug>(valid: &T) {
    let valid = encode(valid);
    bolero::check!()
        .with_iterations(1_500)
        .for_each(|noise: &[u8]| {
            for bytes in [noise.to_vec(), disturbed(&valid, noise)] {
                if let Ok(value) = decode::<T>(&bytes) {
                    assert_eq!(encode(&value), bytes);
                    assert_eq!(decode::<T>(&bytes).unwrap(), value);
                }
            }
        });
}

/// One value of a strategy; the same at every run.
fn one<T: Debug>(strategy: impl Strategy<Value = T>) -> T {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    strategy.new_tree(&mut runner).unwrap().current()
}

#[test]
fn any_bytes_may_come_as_an_advert() {
    fuzz::<Advert>(&advert(peer(1), 1));
}
#[test]
fn any_bytes_may_come_as_an_offer() {
    fuzz::<Offer>(&offer(peer(1), peer(2)));
}
#[test]
fn any_bytes_may_come_as_a_quote_request() {
    fuzz::<QuoteRequest>(&one(any_request()));
    fuzz::<Decline>(&one(any_decline()));
}
#[test]
fn any_bytes_may_come_as_a_quote_reply() {
    fuzz::<QuoteReply>(&QuoteReply::Offer(vec![1; 40]));
}
#[test]
fn any_bytes_may_come_as_a_clients_frame() {
    fuzz::<ClientFrame>(&ClientFrame::Voucher(
        Voucher {
            channel: address(3),
            cumulative: NanoTon::from_nano(7),
        }
        .sign(&SigningKey::from_bytes(&[1; 32]), 0),
    ));
    fuzz::<ClientFrame>(&one(
        any_client_frame().prop_filter("job", |frame| matches!(frame, ClientFrame::Job(_)))
    ));
    fuzz::<OpeningTerms>(&largest_terms());
}
#[test]
fn any_bytes_may_come_as_a_workers_frame() {
    for _ in 0..2 {
        fuzz::<WorkerFrame>(&one(any_worker_frame().prop_filter("end", |frame| {
            matches!(
                frame,
                WorkerFrame::Failed {
                    receipt: Some(_),
                    ..
                }
            )
        })));
    }
    fuzz::<WorkerFrame>(&WorkerFrame::Tokens(Tokens {
        choice: 3,
        finish: Some(FinishReason::Length),
        logprobs: vec![position(2, b"word"); 3],
        ..Tokens::of("some words", 3)
    }));
}
#[test]
fn any_bytes_may_come_as_a_release() {
    let release = Release {
        channel: address(3),
        cumulative: NanoTon::from_nano(7),
    };
    fuzz::<SignedRelease>(&release.sign(&SigningKey::from_bytes(&[1; 32]), 0));
    fuzz::<ReleaseReply>(&ReleaseReply::Refused(ReleaseRefusal::NotWorthIt));
}
#[test]
fn any_bytes_may_come_as_a_receipt() {
    fuzz::<Receipt>(&receipt());
    fuzz::<SignedReceipt>(&one(any_signed_receipt()));
}
#[test]
fn any_bytes_may_come_as_evidence() {
    fuzz::<EvidenceRequest>(&one(any_evidence_request()));
    fuzz::<EvidenceBundle>(&one(any_bundle()));
    fuzz::<EvidenceReply>(&EvidenceReply::NotFound);
}

#[test]
fn no_bytes_but_the_signed_ones_pass_as_a_signed_advert_or_offer() {
    let signed_advert = advert(peer_of(7), 1).sign(&keypair(7)).unwrap();
    let signed_offer = offer(peer_of(7), peer(2)).sign(&keypair(7)).unwrap();
    bolero::check!()
        .with_iterations(100)
        .for_each(|noise: &[u8]| {
            assert!(decode_advert(noise).is_err());
            assert!(decode_offer(noise).is_err());
            let bytes = disturbed(&signed_advert, noise);
            assert_eq!(decode_advert(&bytes).is_ok(), bytes == signed_advert);
            let bytes = disturbed(&signed_offer, noise);
            assert_eq!(decode_offer(&bytes).is_ok(), bytes == signed_offer);
        });
}

fn seal_as(key: &Keypair, domain: &str, payload_type: &[u8], payload: Vec<u8>) -> Vec<u8> {
    SignedEnvelope::new(key, domain.to_owned(), payload_type.to_vec(), payload)
        .unwrap()
        .into_protobuf_encoding()
}

#[test]
fn an_oversize_advert_is_refused_before_it_is_read() {
    assert_eq!(
        decode_advert(&vec![0; MAX_ADVERT_BYTES + 1]),
        Err(WireError::TooLarge {
            message: "Advert",
            limit: MAX_ADVERT_BYTES,
            got: MAX_ADVERT_BYTES + 1,
        })
    );
    let mut large = advert(peer_of(7), 1);
    large.models = vec![terms(); advert::MAX_ADVERT_MODELS + 1];
    assert!(matches!(
        large.sign(&keypair(7)),
        Err(WireError::TooLong {
            field: "models",
            got: 9,
            ..
        })
    ));
}

#[test]
fn the_largest_advert_fits_its_limit() {
    let mut largest = advert(peer_of(7), 1);
    let terms = crate::terms::ModelTerms {
        id: "m".repeat(advert::MAX_MODEL_ID_BYTES),
        context_tokens: u32::MAX,
        price: price(1_000_000_000, 1_000_000_000),
        ..terms()
    };
    largest.models = vec![terms; advert::MAX_ADVERT_MODELS];
    largest.sequence = u64::MAX;
    assert!(largest.sign(&keypair(7)).is_ok());
}

#[test]
fn an_advert_signed_by_another_peer_is_refused() {
    let stolen = advert(peer_of(7), 1);
    let refused = Err(WireError::OtherSigner {
        message: "Advert",
        signer: Box::new(peer_of(8)),
        named: Box::new(peer_of(7)),
    });
    assert_eq!(stolen.sign(&keypair(8)), refused);
    let forged = seal_as(
        &keypair(8),
        advert::ADVERT_DOMAIN,
        advert::ADVERT_PAYLOAD_TYPE,
        encode(&stolen),
    );
    assert_eq!(decode_advert(&forged).map(|_| Vec::new()), refused);
}

#[test]
fn a_signature_made_for_one_kind_of_message_counts_for_no_other() {
    let payload = encode(&offer(peer_of(7), peer(2)));
    let other_domain = seal_as(
        &keypair(7),
        advert::ADVERT_DOMAIN,
        negotiation::OFFER_PAYLOAD_TYPE,
        payload.clone(),
    );
    let other_type = seal_as(
        &keypair(7),
        negotiation::OFFER_DOMAIN,
        advert::ADVERT_PAYLOAD_TYPE,
        payload,
    );
    for bytes in [other_domain, other_type] {
        assert_eq!(
            decode_offer(&bytes),
            Err(WireError::BadSignature { message: "Offer" })
        );
    }
}

#[test]
fn a_tampered_receipt_is_refused() {
    let signed = receipt().sign(&SigningKey::from_bytes(&[9; 32])).unwrap();
    let mut cheaper = signed.verify().unwrap().into_inner();
    cheaper.amount = NanoTon::from_nano(1);
    let tampered = SignedReceipt {
        receipt: cheaper.encode(),
        ..signed.clone()
    };
    let bad = Err(WireError::BadSignature { message: "Receipt" });
    assert_eq!(tampered.verify(), bad);
    // Another key than the one named.
    let mut renamed = signed.verify().unwrap().into_inner();
    renamed.receipt_key =
        PublicKey32::from_bytes(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
    let renamed = SignedReceipt {
        receipt: renamed.encode(),
        ..signed
    };
    assert_eq!(renamed.verify(), bad);
}

#[test]
fn a_voucher_for_less_for_another_channel_or_by_another_key_is_refused() {
    let key = SigningKey::from_bytes(&[1; 32]);
    let client = PublicKey32::from_bytes(key.verifying_key().to_bytes());
    let voucher = Voucher {
        channel: address(1),
        cumulative: NanoTon::from_nano(100),
    };
    let signed = voucher.sign(&key, -239);
    let held = NanoTon::from_nano;
    assert_eq!(
        signed.check(address(1), held(60), client, -239),
        Ok(NanoTon::from_nano(40))
    );
    for total in [100, 101] {
        assert_eq!(
            signed.check(address(1), held(total), client, -239),
            Err(VoucherError::NotIncreasing {
                held: held(total),
                offered: held(100)
            })
        );
    }
    assert_eq!(
        signed.check(address(2), held(0), client, -239),
        Err(VoucherError::OtherChannel {
            found: address(1),
            wanted: address(2)
        })
    );
    let bad = Err(VoucherError::BadSignature {
        channel: address(1),
        cumulative: held(100),
    });
    let other_key = voucher.sign(&SigningKey::from_bytes(&[2; 32]), -239);
    assert_eq!(other_key.check(address(1), held(0), client, -239), bad);
    assert_eq!(
        signed.check(address(1), held(0), client, -3),
        bad,
        "a voucher of one network counts on another"
    );
}

#[test]
fn fields_are_refused_with_their_name_and_numbers() {
    let mut dear = offer(peer(1), peer(2));
    dear.price.output = NanoTon::from_nano(NanoTon::PER_TON + 1);
    assert_eq!(
        decode::<Offer>(&encode(&dear)),
        Err(WireError::OutOfRange {
            message: "Offer",
            field: "price",
            value: 1_000_000_001,
            low: 0,
            high: 1_000_000_000,
        })
    );
    assert_eq!(
        QuoteRequest::decode(&[]),
        Err(WireError::Missing {
            message: "QuoteRequest",
            field: "offer_request"
        })
    );
    // Field 1, two bytes.
    assert_eq!(
        EvidenceRequest::decode(&[0x0a, 2, 1, 2]),
        Err(WireError::Length {
            message: "EvidenceRequest",
            field: "evidence",
            expected: 32,
            got: 2
        })
    );
    // Refused (field 2) with reason 77.
    assert_eq!(
        QuoteReply::decode(&[0x12, 2, 0x08, 77]),
        Err(WireError::UnknownValue {
            message: "Refusal",
            field: "reason",
            value: 77
        })
    );
    let mut bundle = one(any_bundle());
    bundle.quote = vec![0; MAX_QUOTE_BYTES + 1];
    assert_eq!(
        EvidenceBundle::decode(&bundle.encode()),
        Err(WireError::TooLong {
            message: "EvidenceBundle",
            field: "quote",
            limit: MAX_QUOTE_BYTES,
            got: MAX_QUOTE_BYTES + 1
        })
    );
    assert!(matches!(
        EvidenceReply::decode(&vec![0; MAX_EVIDENCE_BYTES + 1]),
        Err(WireError::TooLarge { .. })
    ));
    assert!(matches!(
        WorkerFrame::decode(b"\xff\xff\xff"),
        Err(WireError::Malformed { .. })
    ));
}

/// In the wire's longest form.
fn largest_terms() -> OpeningTerms {
    OpeningTerms {
        client: address(3),
        client_key: PublicKey32::from_bytes([4; 32]),
        nonce: u32::MAX,
        close_delay_s: u32::MAX,
    }
}

#[test]
fn opening_terms_have_one_length_of_key_and_a_wallet() {
    let terms = largest_terms();
    assert!(encode(&terms).len() <= OpeningTerms::MAX_BYTES);
    let mut short = terms.to_proto();
    short.client_key.pop();
    assert!(OpeningTerms::from_proto(short).is_err());
    let mut homeless = terms.to_proto();
    homeless.client = None;
    assert!(OpeningTerms::from_proto(homeless).is_err());
}

#[test]
fn a_chat_request_is_text_of_bounded_size() {
    let job = |chat: Vec<u8>| {
        ClientFrame::Job(JobRequest {
            job: crate::ids::JobId::from_bytes([1; 16]),
            offer: OfferId::from_bytes([2; 16]),
            channel: address(3),
            chat,
            salt: crate::samples::salt(),
            terms: Some(largest_terms()),
        })
        .encode()
    };
    let largest = job(vec![b'a'; MAX_CHAT_BYTES]);
    assert!(largest.len() <= MAX_CLIENT_FRAME_BYTES);
    assert!(ClientFrame::decode(&largest).is_ok());
    assert!(matches!(
        ClientFrame::decode(&job(vec![b'a'; MAX_CHAT_BYTES + 1])),
        Err(WireError::TooLong { field: "chat", .. })
    ));
    assert_eq!(
        ClientFrame::decode(&job(vec![b'a', 0xff])),
        Err(WireError::NotUtf8 {
            message: "JobRequest",
            field: "chat",
            valid_up_to: 1
        })
    );
}

fn position(top: usize, token: &[u8]) -> PositionLogprobs {
    PositionLogprobs {
        chosen: TokenLogprob::new(token.to_vec(), -0.5),
        top: vec![TokenLogprob::new(token.to_vec(), -1.5); top],
    }
}

#[test]
fn tokens_of_one_answer_are_spelled_as_they_were_before_there_could_be_more() {
    let frame = WorkerFrame::Tokens(Tokens::of("hi", 2)).encode();
    assert_eq!(hex::encode(frame), "12060a0268691002");
    let more = Tokens {
        choice: 1,
        finish: Some(FinishReason::Stop),
        logprobs: vec![position(1, b"h")],
        ..Tokens::of("hi", 2)
    };
    // Field 5 holds the chosen token (field 1) and one alternative (field 2), each with a float.
    assert_eq!(
        hex::encode(WorkerFrame::Tokens(more).encode()),
        "12200a0268691002180120012a140a080a016815000000bf12080a0168150000c0bf"
    );
}

#[test]
fn the_largest_body_of_tokens_fits_its_frame() {
    let largest = position(MAX_TOP_LOGPROBS, &[b'x'; MAX_LOGPROB_TOKEN_BYTES]);
    let room = MAX_TOKENS_BODY_BYTES - largest.most_bytes();
    assert!(
        room > MAX_LOGPROB_TOKEN_BYTES,
        "not even one token's text fits"
    );
    let tokens = Tokens {
        choice: MAX_CHOICES - 1,
        finish: Some(FinishReason::Length),
        logprobs: vec![largest],
        ..Tokens::of("t".repeat(room.min(MAX_TEXT_BYTES)), MAX_FRAME_TOKENS)
    };
    let frame = WorkerFrame::Tokens(tokens);
    let bytes = frame.encode();
    assert!(bytes.len() <= MAX_WORKER_FRAME_BYTES, "{}", bytes.len());
    assert_eq!(WorkerFrame::decode(&bytes).unwrap(), frame);
    // What `most_bytes` says is no less than what it takes, for tokens of every length.
    for length in [0, 1, 100, 127, 128, 300, MAX_LOGPROB_TOKEN_BYTES] {
        for top in [0, 1, MAX_TOP_LOGPROBS] {
            let position = position(top, &vec![b'x'; length]);
            let bytes = |count: usize| {
                let logprobs = vec![position.clone(); count];
                let tokens = Tokens {
                    logprobs,
                    ..Tokens::of("", 1)
                };
                encode(&WorkerFrame::Tokens(tokens)).len()
            };
            assert!(bytes(2) - bytes(1) <= position.most_bytes() + 2);
        }
    }
    let usual = position(MAX_TOP_LOGPROBS, b" usual");
    let frame = usize::try_from(FRAME_TOKENS).unwrap() * usual.most_bytes();
    assert!(
        frame < MAX_TOKENS_BODY_BYTES,
        "usual tokens need more frames"
    );
}

#[test]
fn tokens_beyond_a_bound_are_refused_by_name() {
    type Spoil = fn(&mut Tokens);
    let spoil: [(&str, Spoil); 11] = [
        ("tokens.ids", |t| t.ids = vec![1; 3]),
        ("tokens.ids", |t| t.ids = vec![1]),
        ("tokens.text", |t| t.text = "x".repeat(MAX_TEXT_BYTES + 1)),
        ("tokens.tokens", |t| t.tokens = MAX_FRAME_TOKENS + 1),
        ("tokens.choice", |t| t.choice = MAX_CHOICES),
        ("tokens.finish", |t| {
            t.finish = Some(FinishReason::Cancelled)
        }),
        ("tokens.logprobs", |t| {
            t.logprobs = vec![position(0, b""); 65];
        }),
        ("tokens.logprobs.top", |t| {
            t.logprobs = vec![position(MAX_TOP_LOGPROBS + 1, b"")];
        }),
        ("tokens.logprobs.token", |t| {
            t.logprobs = vec![position(0, b"")];
            t.logprobs[0].chosen.token = vec![0; MAX_LOGPROB_TOKEN_BYTES + 1];
        }),
        ("tokens.logprobs.logprob", |t| {
            t.logprobs = vec![position(1, b"")];
            t.logprobs[0].top[0].logprob = f32::NAN;
        }),
        ("tokens.logprobs.logprob", |t| {
            t.logprobs = vec![position(0, b"")];
            t.logprobs[0].chosen.logprob = 0.1;
        }),
    ];
    for (name, spoil) in spoil {
        let mut tokens = Tokens::of("hi", 2);
        spoil(&mut tokens);
        let refused = WorkerFrame::decode(&encode(&WorkerFrame::Tokens(tokens))).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("WorkerFrame.{name} ")), "{text}");
    }
}

#[test]
fn no_engines_number_makes_a_log_probability_that_nobody_may_send() {
    for (said, told) in [
        (-0.25, -0.25),
        (1e-7, 0.0),
        (f32::NEG_INFINITY, LEAST_LOGPROB),
        (f32::NAN, LEAST_LOGPROB),
        (f32::INFINITY, 0.0),
    ] {
        let candidate = TokenLogprob::new(vec![0; 10_000], said);
        assert_eq!(candidate.logprob, told);
        assert_eq!(candidate.token.len(), MAX_LOGPROB_TOKEN_BYTES);
    }
}

#[test]
fn debug_output_of_frames_holds_no_content() {
    let job = ClientFrame::Job(JobRequest {
        job: crate::ids::JobId::from_bytes([1; 16]),
        offer: OfferId::from_bytes([2; 16]),
        channel: address(3),
        chat: b"planted-secret".to_vec(),
        salt: crate::Salt::from_bytes([4; 32]),
        terms: None,
    });
    let tokens = WorkerFrame::Tokens(Tokens::of("planted-secret", 3));
    assert!(!format!("{job:?}{tokens:?}").contains("planted"));
    assert_eq!(format!("{tokens:?}"), "Tokens(3 tokens, 14 bytes)");
    let likely = WorkerFrame::Tokens(Tokens {
        choice: 2,
        finish: Some(FinishReason::Stop),
        logprobs: vec![position(2, b"planted-secret")],
        ..Tokens::default()
    });
    assert_eq!(
        format!("{likely:?}{:?}", position(1, b"planted-secret")),
        "Tokens(0 tokens, 0 bytes, 1 positions, choice 2, Stop)PositionLogprobs(1 alternatives)"
    );
    assert_eq!(
        format!("{:?}", position(1, b"abc").chosen),
        "TokenLogprob(3 bytes)"
    );
}

#[test]
fn evidence_is_named_by_every_claim() {
    let claims = one(any_claims());
    let mut others = vec![claims.clone(); 10];
    others[0].noise_key[0] ^= 1;
    others[1].mlkem_key[0] ^= 1;
    others[2].receipt_key[0] ^= 1;
    others[3].peer = peer(0xfe);
    others[4].model = Digest::sha256(b"other");
    others[5].config = Digest::sha256(b"other");
    others[6].gpu_evidence = Digest::sha256(b"other");
    others[7].beacon.seqno ^= 1;
    others[8].epoch ^= 1;
    others[9].canary = Digest::sha256(b"other");
    for other in others {
        assert_ne!(other.digest(), claims.digest());
    }
}
