#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::samples::{address, peer, price, terms};
use crate::units::{NanoTon, UnixMillis};
use crate::{Digest, PeerId, Verified};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

fn at(millis: u64) -> UnixMillis {
    UnixMillis::from_millis(millis)
}

fn candidate(seed: u8) -> Candidate {
    Candidate {
        peer: peer(seed),
        evidence: Digest::from_bytes([0x13; 32]),
        payout: address(seed),
        terms: terms(),
    }
}

fn start(seeds: &[u8]) -> (Negotiation, Vec<NegotiationOutput>) {
    Negotiation::start(
        NegotiationConfig {
            patience_ms: 1_000,
            wait_ms_per_milliton: 1_000_000,
        },
        Wish {
            client: peer(200),
            max_prompt_tokens: 100,
            max_output_tokens: 200,
        },
        at(0),
        seeds.iter().map(|seed| candidate(*seed)).collect(),
        &mut ChaCha12Rng::seed_from_u64(1),
    )
}

/// The offer that an honest worker makes on this request.
fn honest(asked: &[NegotiationOutput], seed: u8, wait_ms: u32) -> Offer {
    let request = asked
        .iter()
        .find_map(|output| match output {
            NegotiationOutput::Ask { peer: to, request } if *to == peer(seed) => Some(request),
            _ => None,
        })
        .unwrap();
    Offer {
        id: request.offer_request,
        worker: peer(seed),
        client: peer(200),
        model: request.model.clone(),
        model_digest: request.model_digest,
        price: price(100, 500),
        credit_window: NanoTon::from_nano(20_000),
        expected_wait_ms: wait_ms,
        expires: at(3_000),
        evidence: Digest::from_bytes([0x13; 32]),
        max_prompt_tokens: request.max_prompt_tokens,
        max_output_tokens: request.max_output_tokens,
        payout: address(seed),
    }
}

fn reply(offer: Offer) -> NegotiationInput {
    NegotiationInput::Reply {
        peer: offer.worker,
        reply: Ok(Verified::after_the_check(offer)),
    }
}

fn verdict(negotiation: &Negotiation, peer: PeerId) -> LineVerdict {
    negotiation
        .explain()
        .iter()
        .find(|line| line.peer == peer)
        .unwrap()
        .verdict
}

#[test]
fn the_best_of_wait_and_price_is_chosen_and_explained() {
    let (mut negotiation, asked) = start(&[1, 2, 3]);
    assert_eq!(asked.len(), 3);
    // The whole job costs 110,000 nanoTON; λ is one millisecond per nanoTON.
    let dear = honest(&asked, 1, 0);
    let mut cheap = honest(&asked, 2, 10_000);
    cheap.price = price(50, 250);
    assert_eq!(negotiation.handle(at(10), reply(dear.clone())), []);
    assert_eq!(negotiation.handle(at(20), reply(cheap.clone())), []);
    let refused = NegotiationInput::Reply {
        peer: peer(3),
        reply: Err(Refusal::NoFreeSlot),
    };
    assert_eq!(
        negotiation.handle(at(30), refused),
        [NegotiationOutput::Chosen(cheap.clone())]
    );
    let lines = negotiation.explain();
    assert_eq!(
        lines[0],
        ScoreLine {
            peer: peer(2),
            wait_ms: Some(10_000),
            cost: Some(NanoTon::from_nano(55_000)),
            score: Some(65_000),
            verdict: LineVerdict::Chosen
        }
    );
    assert_eq!(lines[1].score, Some(110_000));
    assert_eq!(lines[1].verdict, LineVerdict::Standby);
    assert_eq!(lines[2].verdict, LineVerdict::Refused(Refusal::NoFreeSlot));

    assert_eq!(negotiation.next_best(at(40)), Some(dear));
    assert_eq!(verdict(&negotiation, peer(2)), LineVerdict::Lost);
    assert_eq!(negotiation.next_best(at(50)), None);
}

#[test]
fn an_offer_that_is_not_what_was_asked_for_is_never_chosen() {
    type Change = (fn(&mut Offer), Mismatch);
    let changes: [Change; 8] = [
        (|offer| offer.client = peer(201), Mismatch::Client),
        (
            |offer| offer.id = crate::OfferId::from_bytes([0; 16]),
            Mismatch::Request,
        ),
        (|offer| offer.model_digest = Digest::ZERO, Mismatch::Model),
        (|offer| offer.evidence = Digest::ZERO, Mismatch::Evidence),
        (|offer| offer.max_output_tokens = 1, Mismatch::Size),
        (|offer| offer.payout = address(99), Mismatch::Payout),
        (
            |offer| offer.price = price(1, 501),
            Mismatch::Dearer {
                advertised: price(100, 500),
                offered: price(1, 501),
            },
        ),
        (
            |offer| offer.credit_window = NanoTon::from_nano(17_999),
            Mismatch::Window {
                window: NanoTon::from_nano(17_999),
                least: NanoTon::from_nano(18_000),
            },
        ),
    ];
    for (change, mismatch) in changes {
        let (mut negotiation, asked) = start(&[1]);
        let mut offer = honest(&asked, 1, 0);
        change(&mut offer);
        assert_eq!(
            negotiation.handle(at(10), reply(offer)),
            [NegotiationOutput::Exhausted {
                refusals: vec![(peer(1), LineVerdict::Mismatch(mismatch))]
            }]
        );
    }
}

#[test]
fn an_offer_of_one_worker_does_not_pass_as_anothers() {
    let (mut negotiation, asked) = start(&[1, 2]);
    let stolen = NegotiationInput::Reply {
        peer: peer(2),
        reply: Ok(Verified::after_the_check(honest(&asked, 1, 0))),
    };
    negotiation.handle(at(10), stolen);
    assert_eq!(
        verdict(&negotiation, peer(2)),
        LineVerdict::Mismatch(Mismatch::Worker)
    );
}

#[test]
fn patience_ends_with_the_offers_there_are() {
    let (mut negotiation, asked) = start(&[1, 2]);
    let offer = honest(&asked, 2, 0);
    assert_eq!(negotiation.handle(at(10), reply(offer.clone())), []);
    assert_eq!(negotiation.deadline(), Some(at(1_000)));
    assert_eq!(negotiation.handle(at(999), NegotiationInput::Tick), []);
    assert_eq!(
        negotiation.handle(at(1_000), NegotiationInput::Tick),
        [NegotiationOutput::Chosen(offer)]
    );
    assert_eq!(negotiation.deadline(), None);
    // A late answer stands by.
    let late = honest(&asked, 1, 0);
    assert_eq!(negotiation.handle(at(1_100), reply(late.clone())), []);
    assert_eq!(negotiation.next_best(at(1_200)), Some(late));
}

#[test]
fn an_offer_past_expiry_is_not_fallen_back_on() {
    let (mut negotiation, asked) = start(&[1, 2]);
    negotiation.handle(at(10), reply(honest(&asked, 1, 0)));
    negotiation.handle(at(10), reply(honest(&asked, 2, 5)));
    assert_eq!(negotiation.next_best(at(3_000)), None);
    assert_eq!(verdict(&negotiation, peer(2)), LineVerdict::Expired);
}

#[test]
fn without_candidates_there_is_an_answer_at_once() {
    let (negotiation, outputs) = start(&[]);
    assert_eq!(outputs, [NegotiationOutput::Exhausted { refusals: vec![] }]);
    assert_eq!(negotiation.deadline(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Honest(u8, u32),
    Expired(u8),
    Refused(u8),
    Failed(u8),
    Tick,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..7_u8, 0..5_000_u32).prop_map(|(seed, wait)| Step::Honest(seed, wait)),
        1 => (0..7_u8).prop_map(Step::Expired),
        1 => (0..7_u8).prop_map(Step::Refused),
        1 => (0..7_u8).prop_map(Step::Failed),
        1 => Just(Step::Tick),
        1 => (0..400_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn exactly_one_result_comes_out_and_it_is_the_least_score(
        count in 0..20_u8,
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let seeds: Vec<u8> = (0..count).collect();
        let (mut negotiation, mut outputs) = start(&seeds);
        let asked = outputs.clone();
        let known = |seed: u8| usize::from(seed) < seeds.len().min(MAX_CANDIDATES);
        prop_assert_eq!(
            asked.iter().filter(|output| matches!(output, NegotiationOutput::Ask { .. })).count(),
            seeds.len().min(MAX_CANDIDATES)
        );
        let mut now = 0;
        for step in steps.into_iter().chain([Step::Wait(1_000), Step::Tick]) {
            let input = match step {
                Step::Honest(seed, wait) if known(seed) => reply(honest(&asked, seed, wait)),
                Step::Expired(seed) if known(seed) => {
                    let mut offer = honest(&asked, seed, 0);
                    offer.expires = at(now);
                    reply(offer)
                }
                Step::Refused(seed) => NegotiationInput::Reply {
                    peer: peer(seed),
                    reply: Err(Refusal::Busy),
                },
                Step::Failed(seed) => NegotiationInput::Failed { peer: peer(seed) },
                Step::Wait(millis) => {
                    now += millis;
                    continue;
                }
                _ => NegotiationInput::Tick,
            };
            let new = negotiation.handle(at(now), input);
            if let Some(NegotiationOutput::Chosen(chosen)) = new.first() {
                prop_assert!(chosen.expires > at(now));
                let best = negotiation.explain().iter()
                    .filter(|line| line.verdict == LineVerdict::Standby)
                    .filter_map(|line| line.score)
                    .min();
                let score = negotiation.explain().iter()
                    .find(|line| line.verdict == LineVerdict::Chosen)
                    .and_then(|line| line.score);
                prop_assert!(best.is_none_or(|best| score <= Some(best)));
            }
            outputs.extend(new);
        }
        let results = outputs.iter()
            .filter(|output| !matches!(output, NegotiationOutput::Ask { .. }))
            .count();
        prop_assert_eq!(results, 1);
        // Falling back ends: each worker gets at most one more chance.
        for _ in 0..=MAX_CANDIDATES {
            if negotiation.next_best(at(now)).is_none() {
                return Ok(());
            }
        }
        prop_assert!(false, "falling back does not end");
    }
}
