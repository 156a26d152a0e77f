//! Valid messages for tests: fixed ones, and proptest strategies that reach every bound.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use crate::Advert;
use crate::commitment::Salt;
use crate::evidence::{Attached, Beacon, Claims, EvidenceBundle, EvidenceReply, EvidenceRequest};
use crate::ids::{Digest, JobId, Keypair, OfferId, PeerId, PublicKey32, TonAddress};
use crate::job::{
    ClientFrame, FinishReason, JobError, JobErrorCode, JobRequest, LEAST_LOGPROB, MAX_CHOICES,
    MAX_FRAME_TOKENS, OpeningTerms, PositionLogprobs, TokenLogprob, Tokens, WorkerFrame,
};
use crate::negotiation::{Decline, Offer, QuoteReply, QuoteRequest, Refusal};
use crate::receipt::{Ending, Receipt, SignedReceipt};
use crate::session::MLKEM_KEY_BYTES;
use crate::terms::{MAX_TOKEN_PRICE, ModelTerms, Price};
use crate::units::{NanoTon, UnixMillis};
use crate::voucher::{SignedVoucher, Voucher};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn keypair(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

pub(crate) fn peer_of(seed: u8) -> PeerId {
    keypair(seed).public().to_peer_id()
}

/// A PeerId nobody has the key of, without the cost of making one: a SHA-256 multihash.
pub(crate) fn peer(seed: u8) -> PeerId {
    let mut bytes = vec![0x12, 32];
    bytes.extend([seed; 32]);
    PeerId::from_bytes(&bytes).unwrap()
}

pub(crate) fn address(seed: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [seed; 32],
    }
}

pub(crate) fn price(input: u64, output: u64) -> Price {
    Price {
        input: NanoTon::from_nano(input),
        output: NanoTon::from_nano(output),
    }
}

pub(crate) fn terms() -> ModelTerms {
    ModelTerms {
        id: "smollm2".to_owned(),
        digest: Digest::from_bytes([0x12; 32]),
        context_tokens: 2048,
        price: price(100, 500),
    }
}

/// An advert of `peer`, made at `issued`, with sequence 1, a minute's life and evidence 0x13….
pub(crate) fn advert(peer: PeerId, issued: u64) -> Advert {
    Advert {
        peer,
        sequence: 1,
        issued: UnixMillis::from_millis(issued),
        lifetime_ms: 60_000,
        models: vec![terms()],
        slots: 2,
        evidence: Digest::from_bytes([0x13; 32]),
        evidence_expires: UnixMillis::from_millis(issued + 3_600_000),
        payout: address(0xaa),
        ledger: address(0xbb),
        tcb_expires: UnixMillis::from_millis(issued + 86_400_000),
    }
}

pub(crate) fn offer(worker: PeerId, client: PeerId) -> Offer {
    Offer {
        id: OfferId::from_bytes([0x21; 16]),
        worker,
        client,
        model: "smollm2".to_owned(),
        model_digest: Digest::from_bytes([0x12; 32]),
        price: price(100, 500),
        credit_window: NanoTon::from_nano(20_000),
        expected_wait_ms: 0,
        expires: UnixMillis::from_millis(5_000),
        evidence: Digest::from_bytes([0x13; 32]),
        max_prompt_tokens: 100,
        max_output_tokens: 200,
        payout: address(0xaa),
    }
}

/// The salt of `golden/vectors.py`.
pub(crate) fn salt() -> Salt {
    Salt::from_bytes([0x5a; 32])
}

/// The receipt of `golden/vectors.py`.
pub(crate) fn receipt() -> Receipt {
    Receipt {
        job: JobId::from_bytes([0x11; 16]),
        worker: peer_of(7),
        client: peer_of(8),
        model: "smollm2".to_owned(),
        model_digest: Digest::from_bytes([0x12; 32]),
        evidence: Digest::from_bytes([0x13; 32]),
        request_commitment: salt().request(b"{}"),
        response_commitment: salt().response(&["Hello", "Bonjour"]),
        prompt_tokens: 40,
        output_tokens: 300,
        price: price(100, 500),
        amount: NanoTon::from_nano(154_000),
        channel: address(0xcc),
        cumulative: NanoTon::from_nano(1_000_154_000),
        ending: Ending::Length,
        started: UnixMillis::from_millis(1_700_000_000_000),
        ended: UnixMillis::from_millis(1_700_000_001_234),
        receipt_key: PublicKey32::from_bytes([0; 32]),
        tokens_commitment: Some(salt().tokens(&[vec![1, 70_000], vec![3]])),
        tokenizer: Some(Digest::from_bytes([0x14; 32])),
    }
}

pub(crate) fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

pub(crate) fn any_peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; 32]>().prop_map(|hash| {
        let mut bytes = vec![0x12, 32];
        bytes.extend(hash);
        PeerId::from_bytes(&bytes).unwrap()
    })
}

fn any_address() -> impl Strategy<Value = TonAddress> {
    (any::<i8>(), any::<[u8; 32]>()).prop_map(|(workchain, hash)| TonAddress { workchain, hash })
}

fn any_nano() -> impl Strategy<Value = NanoTon> {
    any::<u64>().prop_map(NanoTon::from_nano)
}

fn any_millis() -> impl Strategy<Value = UnixMillis> {
    any::<u64>().prop_map(UnixMillis::from_millis)
}

pub(crate) fn any_price() -> impl Strategy<Value = Price> {
    let nano = || 0..=MAX_TOKEN_PRICE.nano();
    (nano(), nano()).prop_map(|(input, output)| price(input, output))
}

fn any_name() -> impl Strategy<Value = String> {
    "\\PC{1,24}"
}

fn any_terms() -> impl Strategy<Value = ModelTerms> {
    (any_name(), any_digest(), 1..=u32::MAX, any_price()).prop_map(
        |(id, digest, context_tokens, price)| ModelTerms {
            id,
            digest,
            context_tokens,
            price,
        },
    )
}

/// Adverts of the peer with key seed 7.
pub(crate) fn any_advert() -> impl Strategy<Value = Advert> {
    (
        (any::<u64>(), any_millis(), any::<u32>(), 1..=u16::MAX),
        vec(any_terms(), 1..=6),
        (any_digest(), any_millis(), any_address(), any_address()),
    )
        .prop_map(|(numbers, models, rest)| Advert {
            peer: peer_of(7),
            sequence: numbers.0,
            issued: numbers.1,
            lifetime_ms: numbers.2,
            models,
            slots: numbers.3,
            evidence: rest.0,
            evidence_expires: rest.1,
            payout: rest.2,
            ledger: rest.3,
            tcb_expires: rest.1,
        })
}

/// Offers of the peer with key seed 7.
pub(crate) fn any_offer() -> impl Strategy<Value = Offer> {
    (
        (any::<[u8; 16]>(), any_peer(), any_name(), any_digest()),
        (any_price(), any_nano(), any::<u32>(), any_millis()),
        (any_digest(), any::<u32>(), any::<u32>(), any_address()),
    )
        .prop_map(|(who, terms, rest)| Offer {
            id: OfferId::from_bytes(who.0),
            worker: peer_of(7),
            client: who.1,
            model: who.2,
            model_digest: who.3,
            price: terms.0,
            credit_window: terms.1,
            expected_wait_ms: terms.2,
            expires: terms.3,
            evidence: rest.0,
            max_prompt_tokens: rest.1,
            max_output_tokens: rest.2,
            payout: rest.3,
        })
}

pub(crate) fn any_decline() -> impl Strategy<Value = Decline> {
    any::<[u8; 16]>().prop_map(|id| Decline {
        offer: OfferId::from_bytes(id),
    })
}

pub(crate) fn any_request() -> impl Strategy<Value = QuoteRequest> {
    (
        any::<[u8; 16]>(),
        any_name(),
        any_digest(),
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(id, model, model_digest, prompt, output)| QuoteRequest {
            offer_request: OfferId::from_bytes(id),
            model,
            model_digest,
            max_prompt_tokens: prompt,
            max_output_tokens: output,
        })
}

pub(crate) fn any_reply() -> impl Strategy<Value = QuoteReply> {
    prop_oneof![
        vec(any::<u8>(), 1..=300).prop_map(QuoteReply::Offer),
        any::<u32>()
            .prop_map(|limit_tokens| QuoteReply::Refused(Refusal::TooLong { limit_tokens })),
        Just(QuoteReply::Refused(Refusal::UnknownModel)),
        Just(QuoteReply::Refused(Refusal::NoFreeSlot)),
        Just(QuoteReply::Refused(Refusal::Draining)),
        Just(QuoteReply::Refused(Refusal::Busy)),
    ]
}

fn any_signature() -> impl Strategy<Value = [u8; 64]> {
    (any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(low, high)| [low, high].concat().try_into().unwrap())
}

fn any_voucher() -> impl Strategy<Value = SignedVoucher> {
    (any_address(), any_nano(), any_signature()).prop_map(|(channel, cumulative, signature)| {
        SignedVoucher {
            voucher: Voucher {
                channel,
                cumulative,
            },
            signature,
        }
    })
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Stop),
        Just(Ending::Length),
        Just(Ending::Cancelled),
        Just(Ending::ClientLost),
        Just(Ending::PaymentStalled),
        Just(Ending::EngineFailed),
        Just(Ending::ShutDown),
    ]
}

pub(crate) fn any_receipt() -> impl Strategy<Value = Receipt> {
    (
        (any::<[u8; 16]>(), any_peer(), any_peer(), any_name()),
        (any_digest(), any_digest(), any_digest(), any_digest()),
        (any::<u32>(), any::<u32>(), any_price(), any_nano()),
        (any_address(), any_nano(), any_ending()),
        (any_millis(), any_millis(), any::<[u8; 32]>()),
        [(); 2].map(|()| proptest::option::of(any_digest())),
    )
        .prop_map(|(who, digests, counts, pay, rest, counted)| Receipt {
            job: JobId::from_bytes(who.0),
            worker: who.1,
            client: who.2,
            model: who.3,
            model_digest: digests.0,
            evidence: digests.1,
            request_commitment: digests.2,
            response_commitment: digests.3,
            prompt_tokens: counts.0,
            output_tokens: counts.1,
            price: counts.2,
            amount: counts.3,
            channel: pay.0,
            cumulative: pay.1,
            ending: pay.2,
            started: rest.0,
            ended: rest.1,
            receipt_key: PublicKey32::from_bytes(rest.2),
            tokens_commitment: counted[0],
            tokenizer: counted[1],
        })
}

pub(crate) fn any_signed_receipt() -> impl Strategy<Value = SignedReceipt> {
    (vec(any::<u8>(), 1..=400), any_signature())
        .prop_map(|(receipt, signature)| SignedReceipt { receipt, signature })
}

pub(crate) fn any_opening_terms() -> impl Strategy<Value = OpeningTerms> {
    (any_address(), any::<[u8; 32]>(), any::<u32>(), any::<u32>()).prop_map(
        |(client, client_key, nonce, close_delay_s)| OpeningTerms {
            client,
            client_key: PublicKey32::from_bytes(client_key),
            nonce,
            close_delay_s,
        },
    )
}

pub(crate) fn any_client_frame() -> impl Strategy<Value = ClientFrame> {
    let job = (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any_address(),
        "\\PC{1,200}",
        any::<[u8; 32]>(),
        proptest::option::of(any_opening_terms()),
    );
    prop_oneof![
        job.prop_map(
            |(job, offer, channel, chat, salt, terms)| ClientFrame::Job(JobRequest {
                job: JobId::from_bytes(job),
                offer: OfferId::from_bytes(offer),
                channel,
                chat: chat.into_bytes(),
                salt: Salt::from_bytes(salt),
                terms,
            })
        ),
        any_voucher().prop_map(ClientFrame::Voucher),
        Just(ClientFrame::Cancel),
        Just(ClientFrame::Done),
    ]
}

fn any_candidate() -> impl Strategy<Value = TokenLogprob> {
    (vec(any::<u8>(), 0..=12), LEAST_LOGPROB..=0.0)
        .prop_map(|(token, logprob)| TokenLogprob { token, logprob })
}

pub(crate) fn any_position() -> impl Strategy<Value = PositionLogprobs> {
    (any_candidate(), vec(any_candidate(), 0..=4))
        .prop_map(|(chosen, top)| PositionLogprobs { chosen, top })
}

pub(crate) fn any_tokens() -> impl Strategy<Value = Tokens> {
    let finish = proptest::option::of(prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length)
    ]);
    (
        "\\PC{0,100}",
        0..=MAX_FRAME_TOKENS,
        0..MAX_CHOICES,
        finish,
        vec(any_position(), 0..=4),
        proptest::option::of(any::<u32>()),
    )
        .prop_map(|(text, tokens, choice, finish, logprobs, id)| Tokens {
            text,
            tokens,
            choice,
            finish,
            logprobs,
            ids: id.map_or(Vec::new(), |id| vec![id; tokens as usize]),
        })
}

pub(crate) fn any_worker_frame() -> impl Strategy<Value = WorkerFrame> {
    let finish = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::Cancelled),
    ];
    let error = (proptest::sample::select(JobErrorCode::ALL), "\\PC{0,100}")
        .prop_map(|(code, message)| JobError::new(code, message));
    prop_oneof![
        (any::<u32>(), any_nano()).prop_map(|(prompt_tokens, paid_so_far)| {
            WorkerFrame::Accepted {
                prompt_tokens,
                paid_so_far,
            }
        }),
        any_tokens().prop_map(WorkerFrame::Tokens),
        (finish, any_signed_receipt())
            .prop_map(|(finish, receipt)| WorkerFrame::Finished { finish, receipt }),
        (error, proptest::option::of(any_signed_receipt()))
            .prop_map(|(error, receipt)| WorkerFrame::Failed { error, receipt }),
    ]
}

pub(crate) fn any_claims() -> impl Strategy<Value = Claims> {
    (
        (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 32]>()),
        (any_peer(), any_digest(), any_digest(), any_digest()),
        (any::<u32>(), any_digest(), any::<u64>()),
    )
        .prop_map(|(keys, who, when)| Claims {
            noise_key: keys.0,
            mlkem_key: keys
                .1
                .iter()
                .copied()
                .cycle()
                .take(MLKEM_KEY_BYTES)
                .collect(),
            receipt_key: keys.2,
            peer: who.0,
            model: who.1,
            config: who.2,
            gpu_evidence: who.3,
            beacon: Beacon {
                seqno: when.0,
                hash: when.1,
            },
            epoch: when.2,
            canary: when.1,
        })
}

pub(crate) fn any_bundle() -> impl Strategy<Value = EvidenceBundle> {
    (
        vec(any::<u8>(), 1..=500),
        vec(any::<u8>(), 0..=500),
        any_claims(),
        [(); 3].map(|()| vec(any::<u8>(), 0..=50)),
    )
        .prop_map(
            |(quote, collateral_json, claims, [event_log, gpu_evidence, image_proof])| {
                EvidenceBundle {
                    quote,
                    collateral_json,
                    claims,
                    attached: Attached {
                        event_log,
                        gpu_evidence,
                        image_proof,
                    },
                }
            },
        )
}

pub(crate) fn any_evidence_request() -> impl Strategy<Value = EvidenceRequest> {
    any_digest().prop_map(|evidence| EvidenceRequest { evidence })
}

pub(crate) fn any_evidence_reply() -> impl Strategy<Value = EvidenceReply> {
    prop_oneof![
        any_bundle().prop_map(EvidenceReply::Bundle),
        Just(EvidenceReply::NotFound),
    ]
}
