#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use super::*;
use crate::samples::{any_price, price};
use proptest::prelude::*;
use std::collections::VecDeque;

fn nano(nano: u64) -> NanoTon {
    NanoTon::from_nano(nano)
}

#[test]
fn a_worker_stops_when_the_credit_window_is_exhausted() {
    let mut payee = Payee::new(price(10, 100), nano(5_000), nano(5_000), nano(1_000));
    assert_eq!(payee.sent(1), Err(MeteringError::NotAccepted));
    payee.on_accepted(20).unwrap();
    payee.sent(8).unwrap();
    assert_eq!(payee.owed(), nano(1_000));
    assert!(!payee.may_send(1));
    assert_eq!(
        payee.sent(1),
        Err(MeteringError::CreditExhausted {
            owed: nano(1_100),
            paid: nano(0),
            window: nano(1_000)
        })
    );
    let progress = payee.on_voucher(nano(5_300)).unwrap();
    assert_eq!(
        progress,
        Progress {
            added: nano(300),
            paid: nano(300),
            unpaid: nano(700)
        }
    );
    assert!(payee.may_send(3));
    assert!(!payee.may_send(4));
}

#[test]
fn a_voucher_with_no_larger_total_brings_nothing() {
    let mut payee = Payee::new(price(1, 1), nano(50), nano(50), nano(10));
    for total in [0, 49, 50] {
        assert_eq!(
            payee.on_voucher(nano(total)),
            Err(VoucherError::NotIncreasing {
                held: nano(50),
                offered: nano(total)
            })
        );
    }
    assert_eq!(payee.cumulative(), nano(50));
}

#[test]
fn a_job_without_an_answer_is_free() {
    let mut payer = Payer::new(price(1_000, 1), nano(7), nano(10), nano(1_000_000));
    payer.on_accepted(500).unwrap();
    assert_eq!(payer.on_tokens(0), Ok(None));
    assert_eq!(payer.on_end(), None);
    assert_eq!(payer.cumulative(), nano(7));
}

#[test]
fn a_client_signs_for_nothing_beyond_the_offer() {
    let mut payer = Payer::new(price(0, 100), nano(0), nano(200), nano(1_000));
    payer.on_accepted(1).unwrap();
    assert_eq!(payer.on_tokens(10), Ok(Some(nano(1_000))));
    assert_eq!(
        payer.on_tokens(1),
        Err(MeteringError::OverLimit {
            owed: nano(1_100),
            limit: nano(1_000)
        })
    );
    assert_eq!(payer.on_end(), None);
    assert_eq!(payer.cumulative(), nano(1_000));
}

#[test]
fn the_prompt_is_counted_once() {
    let mut payer = Payer::new(price(1, 1), nano(0), nano(1), nano(1));
    payer.on_accepted(1).unwrap();
    assert_eq!(payer.on_accepted(1), Err(MeteringError::AcceptedTwice));
}

/// What a stranger may make a payee or payer do.
#[derive(Clone, Debug)]
enum Step {
    Accept(u32),
    Send(u32),
    Voucher(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any::<u32>().prop_map(Step::Accept),
        1 => (0..2_000_u32).prop_map(Step::Accept),
        4 => prop_oneof![0..100_u32, any::<u32>()].prop_map(Step::Send),
        4 => prop_oneof![0..1_000_000_u64, any::<u64>()].prop_map(Step::Voucher),
    ]
}

proptest! {
    #[test]
    fn a_payee_is_never_more_than_one_window_ahead_and_its_total_never_falls(
        price in prop_oneof![
            any_price(),
            (0..50_u64, 0..50_u64).prop_map(|(input, output)| price(input, output)),
        ],
        base in prop_oneof![0..10_000_u64, any::<u64>()],
        window in prop_oneof![0..10_000_u64, any::<u64>()],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut payee = Payee::new(price, nano(base), nano(base), nano(window));
        for step in steps {
            let before = payee.clone();
            match step {
                Step::Accept(tokens) => { let _ = payee.on_accepted(tokens); }
                Step::Send(tokens) => {
                    let may = payee.may_send(tokens);
                    prop_assert_eq!(payee.sent(tokens).is_ok(), may);
                }
                Step::Voucher(total) => {
                    let result = payee.on_voucher(nano(total));
                    prop_assert_eq!(result.is_ok(), nano(total) > before.cumulative());
                }
            }
            prop_assert!(payee.unpaid() <= nano(window));
            prop_assert!(payee.cumulative() >= before.cumulative());
            prop_assert!(payee.owed() >= before.owed());
        }
    }

    #[test]
    fn a_payer_never_signs_more_than_is_owed_or_offered_and_its_total_never_falls(
        price in prop_oneof![
            any_price(),
            (0..50_u64, 0..50_u64).prop_map(|(input, output)| price(input, output)),
        ],
        base in prop_oneof![0..10_000_u64, any::<u64>()],
        window in prop_oneof![0..10_000_u64, any::<u64>()],
        limit in prop_oneof![0..100_000_u64, any::<u64>()],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut payer = Payer::new(price, nano(base), nano(window), nano(limit));
        let (mut prompt, mut received) = (None, 0_u128);
        let mut total = nano(base);
        for step in steps.iter().map(Some).chain([None]) {
            let signed = match step {
                Some(Step::Accept(tokens)) => {
                    if payer.on_accepted(*tokens).is_ok() {
                        prompt = Some(*tokens);
                    }
                    None
                }
                Some(Step::Send(tokens)) => match payer.on_tokens(*tokens) {
                    Ok(signed) => {
                        received += u128::from(*tokens);
                        signed
                    }
                    Err(_) => None,
                },
                Some(Step::Voucher(_)) => None,
                None => payer.on_end(),
            };
            if let Some(signed) = signed {
                prop_assert!(signed > total);
                total = signed;
            }
            prop_assert_eq!(payer.cumulative(), total);
            // The cost, computed independently and in wider numbers.
            let cost = if received == 0 { 0 } else {
                u128::from(price.input.nano()) * u128::from(prompt.unwrap_or(0))
                    + u128::from(price.output.nano()) * received
            };
            let paid = u128::from(total.nano()) - u128::from(base);
            prop_assert!(paid <= cost);
            prop_assert!(paid <= u128::from(limit));
        }
        // At the end everything that was counted is signed.
        prop_assert_eq!(payer.signed(), payer.owed());
    }

    /// Both ends of one job over a network that delays but does not lose.
    #[test]
    fn with_an_honest_worker_and_client_every_job_ends_fully_paid(
        price in (0..1_000_u64, 0..1_000_u64).prop_map(|(input, output)| price(input, output)),
        prompt in 0..500_u32,
        tokens in 0..400_u32,
        extra_window in 0..100_000_u64,
        base in 0..1_000_000_u64,
        order in prop::collection::vec(any::<bool>(), 0..2_000),
    ) {
        let window = least_window(&price, prompt).unwrap().saturating_add(nano(extra_window));
        let limit = price.cost(prompt, tokens).unwrap();
        let mut payer = Payer::new(price, nano(base), window, limit);
        let mut payee = Payee::new(price, nano(base), nano(base), window);
        payer.on_accepted(prompt).unwrap();
        payee.on_accepted(prompt).unwrap();
        let (mut frames, mut vouchers) = (VecDeque::new(), VecDeque::new());
        let mut left = tokens;
        let mut order = order.into_iter().chain(std::iter::repeat(true));
        loop {
            let frame = left.min(FRAME_TOKENS);
            if left > 0 && payee.may_send(frame) && order.next() == Some(true) {
                payee.sent(frame).unwrap();
                left -= frame;
                frames.push_back(frame);
            } else if !frames.is_empty() && order.next() == Some(true) {
                let frame = frames.pop_front().unwrap();
                vouchers.extend(payer.on_tokens(frame).unwrap());
            } else if let Some(total) = vouchers.pop_front() {
                payee.on_voucher(total).unwrap();
            } else if left == 0 && frames.is_empty() {
                break;
            } else {
                prop_assert!(
                    !frames.is_empty() || payee.may_send(frame),
                    "stalled with {} tokens left", left
                );
            }
        }
        if let Some(total) = payer.on_end() {
            payee.on_voucher(total).unwrap();
        }
        prop_assert_eq!(payee.unpaid(), NanoTon::ZERO);
        prop_assert_eq!(payee.paid(), payee.owed());
        let cost = if tokens == 0 { NanoTon::ZERO } else { limit };
        prop_assert_eq!(payer.signed(), cost);
    }
}
