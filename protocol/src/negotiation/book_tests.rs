#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use super::*;
use crate::ids::{OfferId, PeerId};
use crate::samples::{address, peer, terms};
use crate::units::{NanoTon, UnixMillis};
use crate::{Digest, ModelTerms};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(millis: u64) -> UnixMillis {
    UnixMillis::from_millis(millis)
}

fn id(seed: u8) -> OfferId {
    OfferId::from_bytes([seed; 16])
}

fn book(slots: u16) -> OfferBook {
    OfferBook::new(OfferBookConfig {
        slots,
        offer_lifetime_ms: 1_000,
        ..OfferBookConfig::default()
    })
}

fn request(seed: u8) -> QuoteRequest {
    QuoteRequest {
        offer_request: id(seed),
        model: "smollm2".to_owned(),
        model_digest: Digest::from_bytes([0x12; 32]),
        max_prompt_tokens: 100,
        max_output_tokens: 200,
    }
}

fn worker_terms(models: &[ModelTerms]) -> WorkerTerms<'_> {
    WorkerTerms {
        worker: peer(9),
        models,
        evidence: Digest::from_bytes([0x13; 32]),
        payout: address(0xaa),
        credit_window: NanoTon::from_nano(1),
        expected_wait_ms: 0,
    }
}

fn quote(book: &mut OfferBook, now: u64, seed: u8, client: PeerId) -> Result<Offer, Refusal> {
    let models = [terms()];
    book.quote(at(now), &request(seed), client, &worker_terms(&models))
}

#[test]
fn a_declined_offer_frees_its_slot_at_once_and_only_its_client_can_decline_it() {
    let mut book = book(1);
    quote(&mut book, 0, 1, peer(1)).unwrap();
    assert!(!book.decline(at(1), id(1), peer(2)), "another client's");
    assert!(!book.decline(at(1), id(2), peer(1)), "never made");
    assert_eq!(quote(&mut book, 1, 2, peer(2)), Err(Refusal::NoFreeSlot));
    assert!(book.decline(at(1), id(1), peer(1)));
    assert!(!book.decline(at(1), id(1), peer(1)), "once");
    assert!(quote(&mut book, 1, 3, peer(2)).is_ok());
    assert_eq!(
        book.redeem(at(1), id(1), peer(1)),
        Err(RedeemError::AlreadyRedeemed { offer: id(1) })
    );
    // A lease is not an offer any more.
    book.redeem(at(1), id(3), peer(2)).unwrap();
    assert!(!book.decline(at(1), id(3), peer(2)));
}

#[test]
fn an_offer_binds_until_it_expires_and_not_after() {
    let mut book = book(1);
    let offer = quote(&mut book, 0, 1, peer(1)).unwrap();
    assert_eq!(offer.expires, at(1_000));
    assert_eq!(quote(&mut book, 999, 2, peer(2)), Err(Refusal::NoFreeSlot));
    assert_eq!(
        book.redeem(at(1_000), id(1), peer(1)),
        Err(RedeemError::Expired {
            offer: id(1),
            late_ms: 0
        })
    );
    let other = quote(&mut book, 1_000, 2, peer(2)).unwrap();
    assert_eq!(book.redeem(at(1_999), id(2), peer(2)).unwrap().offer, other);
}

#[test]
fn an_offer_is_redeemed_once_and_by_whom_it_was_made_to() {
    let mut book = book(2);
    quote(&mut book, 0, 1, peer(1)).unwrap();
    assert_eq!(
        book.redeem(at(1), id(1), peer(2)),
        Err(RedeemError::OtherClient {
            offer: id(1),
            client: peer(2)
        })
    );
    let lease = book.redeem(at(1), id(1), peer(1)).unwrap();
    let again = Err(RedeemError::AlreadyRedeemed { offer: id(1) });
    assert_eq!(book.redeem(at(1), id(1), peer(1)), again);
    assert!(book.release(lease.id));
    assert!(!book.release(lease.id));
    assert_eq!(book.redeem(at(1), id(1), peer(1)), again);
    assert_eq!(
        book.redeem(at(1), id(7), peer(1)),
        Err(RedeemError::Unknown { offer: id(7) })
    );
}

#[test]
fn asking_again_gives_the_same_offer_and_takes_no_second_slot() {
    let mut book = book(1);
    let offer = quote(&mut book, 0, 1, peer(1)).unwrap();
    assert_eq!(quote(&mut book, 500, 1, peer(1)), Ok(offer));
    assert_eq!(quote(&mut book, 500, 1, peer(2)), Err(Refusal::Busy));
}

#[test]
fn a_worker_says_why_it_makes_no_offer() {
    let mut book = book(10);
    let models = [terms()];
    let mut refused = |request: &QuoteRequest| {
        book.quote(at(0), request, peer(1), &worker_terms(&models))
            .unwrap_err()
    };
    let mut other_model = request(1);
    other_model.model_digest = Digest::ZERO;
    assert_eq!(refused(&other_model), Refusal::UnknownModel);
    let mut long = request(1);
    long.max_output_tokens = 1_949;
    assert_eq!(
        refused(&long),
        Refusal::TooLong {
            limit_tokens: 2_048
        }
    );
    long.max_output_tokens = u32::MAX;
    assert_eq!(
        refused(&long),
        Refusal::TooLong {
            limit_tokens: 2_048
        }
    );
    for seed in 1..=4 {
        quote(&mut book, 0, seed, peer(1)).unwrap();
    }
    assert_eq!(quote(&mut book, 0, 5, peer(1)), Err(Refusal::Busy));
    assert!(quote(&mut book, 0, 5, peer(2)).is_ok());
    book.drain();
    assert_eq!(quote(&mut book, 0, 6, peer(3)), Err(Refusal::Draining));
    assert!(book.redeem(at(0), id(5), peer(2)).is_ok());
}

#[test]
fn an_offers_window_is_never_so_small_that_the_job_would_stall() {
    let offer = quote(&mut book(1), 0, 1, peer(1)).unwrap();
    // 100 prompt tokens at 100, 16 tokens at 500.
    assert_eq!(offer.credit_window, NanoTon::from_nano(18_000));
}

#[derive(Clone, Debug)]
enum Step {
    Quote { id: u8, client: u8 },
    Redeem { id: u8, client: u8 },
    Release(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..30_u8, 0..4_u8).prop_map(|(id, client)| Step::Quote { id, client }),
        (0..30_u8, 0..4_u8).prop_map(|(id, client)| Step::Redeem { id, client }),
        (0..8_usize).prop_map(Step::Release),
        (0..800_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn slots_are_never_promised_or_leased_twice_and_expired_offers_never_redeemed(
        slots in 0..5_u16,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut book = book(slots);
        let mut now = 0;
        let mut made: BTreeMap<u8, Offer> = BTreeMap::new();
        let mut redeemed = Vec::new();
        let mut live = Vec::new();
        for step in steps {
            match step {
                Step::Quote { id, client } => {
                    if let Ok(offer) = quote(&mut book, now, id, peer(client)) {
                        prop_assert!(offer.expires > at(now));
                        prop_assert_eq!(offer.client, peer(client));
                        made.insert(id, offer);
                    }
                }
                Step::Redeem { id: seed, client } => {
                    let due = made.get(&seed).is_some_and(|offer| {
                        offer.client == peer(client) && offer.expires > at(now)
                    }) && !redeemed.contains(&seed);
                    let result = book.redeem(at(now), id(seed), peer(client));
                    // Binding: it succeeds exactly when it must.
                    prop_assert_eq!(result.is_ok(), due, "{:?}", result);
                    if let Ok(lease) = result {
                        redeemed.push(seed);
                        prop_assert!(!live.contains(&lease.id));
                        live.push(lease.id);
                    }
                }
                Step::Release(index) => {
                    if index < live.len() {
                        prop_assert!(book.release(live.remove(index)));
                    }
                }
                Step::Wait(millis) => now += millis,
            }
            prop_assert_eq!(book.leased(), live.len());
            prop_assert!(book.leased() + book.open_offers() <= usize::from(slots));
        }
    }
}

#[test]
fn the_book_forgets_old_offers() {
    let mut book = book(1);
    let models = [terms()];
    let last = u64::try_from(MAX_REMEMBERED_OFFERS).unwrap() + 10;
    let name = |n: u64| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        OfferId::from_bytes(bytes)
    };
    for n in 0..=last {
        let mut request = request(0);
        request.offer_request = name(n);
        let now = at(n * 1_000);
        book.quote(now, &request, peer(1), &worker_terms(&models))
            .unwrap();
    }
    let now = at((last + 1) * 1_000);
    assert_eq!(
        book.redeem(now, name(0), peer(1)),
        Err(RedeemError::Unknown { offer: name(0) })
    );
    assert!(matches!(
        book.redeem(now, name(last), peer(1)),
        Err(RedeemError::Expired { .. })
    ));
}
