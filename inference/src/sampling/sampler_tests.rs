#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn params(temperature: f32) -> SamplingParams {
    SamplingParams {
        temperature,
        ..SamplingParams::greedy(100)
    }
}

fn choose(params: &SamplingParams, seed: u64, logits: &[f32], at: u64) -> u32 {
    Sampler::new(params, &[], seed, None)
        .choose(&mut logits.to_vec(), at)
        .unwrap()
        .token
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-20.0f32..20.0, 1..400)
}

/// Probabilities by the plain definition.
fn probabilities(logits: &[f32], temperature: f32) -> Vec<f64> {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|&x| f64::from(x) / f64::from(temperature))
        .collect();
    let top = scaled.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scaled.iter().map(|x| (x - top).exp()).sum();
    scaled.iter().map(|x| (x - top).exp() / sum).collect()
}

/// The tokens that top-k, min-p and top-p leave, by their plain definitions, with probabilities that sum to
/// 1. `slack` moves the borders of min-p and top-p by rounding errors.
fn left(logits: &[f32], params: &SamplingParams, slack: f64) -> BTreeMap<u32, f64> {
    let mut all: Vec<(u32, f64)> = (0u32..)
        .zip(probabilities(logits, params.temperature))
        .collect();
    all.sort_by(|a, b| {
        let (x, y) = (logits[a.0 as usize], logits[b.0 as usize]);
        y.total_cmp(&x).then(a.0.cmp(&b.0))
    });
    if params.top_k > 0 {
        all.truncate(params.top_k as usize);
    }
    let best = all[0].1;
    all.retain(|c| c.1 >= best * f64::from(params.min_p) * (1.0 - slack));
    let sum: f64 = all.iter().map(|c| c.1).sum();
    let mut held = 0.0;
    all.retain(|c| {
        let member = held < f64::from(params.top_p) * sum + slack || params.top_p == 1.0;
        held += c.1;
        member
    });
    let sum: f64 = all.iter().map(|c| c.1).sum();
    all.into_iter().map(|(t, p)| (t, p / sum)).collect()
}

proptest! {
    #[test]
    fn temperature_zero_takes_the_likeliest_whatever_the_seed(logits in logits(), seed: u64, at: u64) {
        let params = SamplingParams { top_p: 0.5, top_k: 3, min_p: 0.1, ..params(0.0) };
        let token = choose(&params, seed, &logits, at) as usize;
        let top = logits.iter().copied().fold(f32::MIN, f32::max);
        prop_assert_eq!(logits[token], top);
        prop_assert!(logits[..token].iter().all(|&x| x < top));
    }

    #[test]
    fn the_choice_is_among_what_the_rules_leave(
        logits in logits(), temperature in 0.05f32..2.0,
        top_k in prop_oneof![Just(0u32), 1u32..500],
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.9],
        seed: u64,
    ) {
        let params = SamplingParams { top_k, top_p, min_p, ..params(temperature) };
        let allowed = left(&logits, &params, 1e-5);
        for at in 0..20 {
            prop_assert!(allowed.contains_key(&choose(&params, seed, &logits, at)));
        }
    }

    #[test]
    fn the_choice_depends_on_seed_and_position_alone(logits in logits(), seed: u64, at: u64) {
        let params = SamplingParams { top_p: 0.95, ..params(1.0) };
        let mut sampler = Sampler::new(&params, &[], seed, None);
        let first = sampler.choose(&mut logits.clone(), at).unwrap();
        sampler.choose(&mut logits.clone(), at.wrapping_add(1)).unwrap();
        sampler.accept(first.token).unwrap();
        prop_assert_eq!(first.token, choose(&params, seed, &logits, at));
        prop_assert_eq!(first, sampler.choose(&mut logits.clone(), at).unwrap());
    }

    #[test]
    fn any_logits_give_an_answer_or_a_typed_error(
        bits in proptest::collection::vec(any::<u32>(), 0..50),
        temperature in 0.0f32..2.0, top_p in 0.01f32..1.0, min_p in 0.0f32..0.9, top_k in 0u32..60,
        penalty in 0.0f32..2.0, prompt in proptest::collection::vec(0u32..60, 0..9),
    ) {
        let repetition_penalty = penalty.max(f32::MIN_POSITIVE);
        let params = SamplingParams { top_p, min_p, top_k, repetition_penalty, ..params(temperature) };
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let finite = !logits.is_empty() && logits.iter().all(|x| x.is_finite());
        match Sampler::new(&params, &prompt, 1, None).choose(&mut logits.clone(), 7) {
            Ok(choice) => prop_assert!(finite && (choice.token as usize) < logits.len()),
            Err(EngineError::NotFinite { position: 7 }) => prop_assert!(!finite),
            Err(EngineError::Constraint { .. }) => {
                // All logits near −3·10³⁸ and a penalty that doubles them.
                prop_assert!(finite && penalty > 1.0);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_raw_logits(
        logits in logits(), temperature in 0.0f32..2.0, count in 0u8..=20, bias in -100.0f32..100.0, seed: u64,
    ) {
        let params = SamplingParams {
            logprobs: Some(count),
            logit_bias: BTreeMap::from([(0, bias)]),
            frequency_penalty: 1.0,
            top_k: 5,
            ..params(temperature)
        };
        let mut sampler = Sampler::new(&params, &[], seed, None);
        sampler.resume(&[0, 0, 1]).unwrap();
        let choice = sampler.choose(&mut logits.clone(), 3).unwrap();
        let reported = choice.logprob.unwrap();
        let exact: Vec<f64> = probabilities(&logits, 1.0).iter().map(|p| p.ln()).collect();
        let close = |(token, got): (u32, f32)| (f64::from(got) - exact[token as usize]).abs() < 1e-4;
        prop_assert_eq!(reported.chosen.0, choice.token);
        prop_assert!(close(reported.chosen));
        prop_assert!(reported.top.iter().all(|&top| close(top)));
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(usize::from(count));
        prop_assert_eq!(reported.top.iter().map(|t| t.0).collect::<Vec<_>>(), order);
        let alone = log_probability(&logits, choice.token).unwrap();
        prop_assert!((alone - reported.chosen.1).abs() < 1e-6);
    }

    #[test]
    fn an_answer_resumed_in_the_middle_goes_on_the_same(
        rows in proptest::collection::vec(proptest::collection::vec(-3.0f32..3.0, 12), 2..12),
        prompt in proptest::collection::vec(0u32..12, 0..6),
        temperature in prop_oneof![Just(0.0f32), 0.1f32..2.0],
        repetition_penalty in 0.5f32..2.0, frequency_penalty in -2.0f32..2.0, presence_penalty in -2.0f32..2.0,
        seed: u64, cut in 0usize..12,
    ) {
        let params = SamplingParams {
            repetition_penalty, frequency_penalty, presence_penalty, top_p: 0.9, ..params(temperature)
        };
        let go_on = |sampler: &mut Sampler, from: usize| -> Vec<u32> {
            (prompt.len()..).zip(&rows).skip(from).map(|(at, row)| {
                let token = sampler.choose(&mut row.clone(), at as u64).unwrap().token;
                sampler.accept(token).unwrap();
                token
            }).collect()
        };
        let whole = go_on(&mut Sampler::new(&params, &prompt, seed, None), 0);
        let cut = cut % rows.len();
        let mut resumed = Sampler::new(&params, &prompt, seed, None);
        resumed.resume(&whole[..cut]).unwrap();
        prop_assert_eq!(go_on(&mut resumed, cut), &whole[cut..]);
    }
}

#[test]
fn frequencies_follow_the_probabilities_that_the_rules_leave() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 7919) % 101) as f32 / 20.0).collect();
    let rules = [
        params(0.8),
        SamplingParams {
            top_k: 5,
            ..params(0.8)
        },
        SamplingParams {
            top_p: 0.3,
            ..params(0.8)
        },
        SamplingParams {
            min_p: 0.5,
            ..params(1.5)
        },
        SamplingParams {
            top_k: 40,
            top_p: 0.6,
            min_p: 0.3,
            ..params(1.0)
        },
    ];
    for params in rules {
        let wanted = left(&logits, &params, 0.0);
        let n = 20_000u64;
        let mut sampler = Sampler::new(&params, &[], 42, None);
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for at in 0..n {
            let token = sampler.choose(&mut logits.clone(), at).unwrap().token;
            *counts.entry(token).or_default() += 1;
        }
        assert!(counts.keys().all(|t| wanted.contains_key(t)), "{params:?}");
        for (token, p) in wanted {
            let share = counts.get(&token).copied().unwrap_or(0) as f64 / n as f64;
            // Five standard deviations.
            let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!(
                (share - p).abs() < tolerance,
                "{share} for {p} with {params:?}"
            );
        }
    }
}

#[test]
fn the_nucleus_of_equal_logits_has_the_share_asked_for() {
    let logits = vec![1.0f32; 1000];
    let params = SamplingParams {
        top_p: 0.25,
        ..params(1.0)
    };
    // The lower numbers among equals: 250 of them, give or take one for rounding.
    let highest = (0..5000).map(|at| choose(&params, 3, &logits, at)).max();
    assert!((240..=250).contains(&highest.unwrap()), "{highest:?}");
}

#[test]
fn a_bias_of_100_forces_and_bans() {
    let logits = [3.0f32, 2.0, 1.0];
    for temperature in [0.0, 1.0] {
        let bias = |token, by| SamplingParams {
            logit_bias: BTreeMap::from([(token, by), (77, 5.0)]),
            ..params(temperature)
        };
        assert_eq!(choose(&bias(2, 100.0), 1, &logits, 1), 2);
        assert_ne!(choose(&bias(0, -100.0), 1, &logits, 1), 0);
    }
}

#[test]
fn penalties_work_in_greedy_mode_too() {
    let params = SamplingParams {
        presence_penalty: 2.0,
        ..params(0.0)
    };
    let mut sampler = Sampler::new(&params, &[0], 0, None);
    let row = [3.0f32, 2.0, 1.5];
    let mut answer = vec![];
    for at in 1..4 {
        let token = sampler.choose(&mut row.clone(), at).unwrap().token;
        sampler.accept(token).unwrap();
        answer.push(token);
    }
    // 3, 2, 1.5; then 1, 2, 1.5; then 1, 0, 1.5.
    assert_eq!(answer, [0, 1, 2]);
}

#[test]
fn a_higher_temperature_flattens() {
    let logits = [2.0f32, 0.0, 0.0, 0.0];
    let hits = |temperature| {
        (0..2_000)
            .filter(|&at| choose(&params(temperature), 7, &logits, at) == 0)
            .count()
    };
    assert!(hits(0.3) > hits(1.0) && hits(1.0) > hits(2.0));
}

#[test]
fn a_temperature_next_to_zero_is_greedy() {
    let logits = [1.0f32, 2.0, 2.0 - 1e-6];
    for at in 0..50 {
        assert_eq!(choose(&params(f32::MIN_POSITIVE), 7, &logits, at), 1);
    }
}

#[test]
fn seeds_differ() {
    let logits = vec![0.0f32; 1000];
    let draw = |seed| {
        (0..8)
            .map(|at| choose(&params(1.0), seed, &logits, at))
            .collect::<Vec<_>>()
    };
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1), draw(1));
}

#[test]
fn memory_is_kept_from_token_to_token() {
    let params = SamplingParams {
        top_p: 0.9,
        top_k: 50,
        ..params(1.0)
    };
    let mut sampler = Sampler::new(&params, &[], 1, None);
    let row: Vec<f32> = (0..10_000)
        .map(|i| ((i * 7919) % 1009) as f32 / 90.0)
        .collect();
    let capacities = |s: &Sampler| (s.sums.capacity(), s.candidates.capacity());
    sampler.choose(&mut row.clone(), 0).unwrap();
    let first = capacities(&sampler);
    for at in 1..100 {
        sampler.choose(&mut row.clone(), at).unwrap();
    }
    assert_eq!(capacities(&sampler), first);
}

/// `cargo test -p cocoon-inference how_long -- --ignored --nocapture`
#[test]
#[ignore = "prints timings"]
fn how_long_a_choice_takes_of_150_000() {
    let row: Vec<f32> = (0..151_936u64)
        .map(|i| {
            let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            // Close to normal: the sum of four uniform numbers.
            let part = |s: u32| ((x.wrapping_mul(2 * u64::from(s) + 1) >> 3) % 997) as f32 / 997.0;
            (part(1) + part(2) + part(5) + part(9) - 2.0) * 8.0
        })
        .collect();
    let flat = vec![0.0f32; row.len()];
    let cases = [
        ("greedy", params(0.0), &row),
        ("temperature", params(0.8), &row),
        (
            "temperature, 5 log-probabilities",
            SamplingParams {
                logprobs: Some(5),
                ..params(0.8)
            },
            &row,
        ),
        (
            "top-k 40",
            SamplingParams {
                top_k: 40,
                ..params(0.8)
            },
            &row,
        ),
        (
            "top-k 40, top-p 0.95",
            SamplingParams {
                top_k: 40,
                top_p: 0.95,
                ..params(0.8)
            },
            &row,
        ),
        (
            "min-p 0.05",
            SamplingParams {
                min_p: 0.05,
                ..params(0.8)
            },
            &row,
        ),
        (
            "top-p 0.95",
            SamplingParams {
                top_p: 0.95,
                ..params(0.8)
            },
            &row,
        ),
        (
            "top-p 0.95 of equal logits",
            SamplingParams {
                top_p: 0.95,
                ..params(0.8)
            },
            &flat,
        ),
        (
            "greedy, penalties over 8 000 tokens",
            SamplingParams {
                repetition_penalty: 1.1,
                ..params(0.0)
            },
            &row,
        ),
    ];
    for (name, params, row) in cases {
        let prompt: Vec<u32> = (0..8_000).map(|i| i * 17).collect();
        let mut sampler = Sampler::new(&params, &prompt, 1, None);
        let mut logits = row.clone();
        let rounds = 200u32;
        let mut spent = std::time::Duration::MAX;
        for at in 0..rounds {
            logits.copy_from_slice(row);
            let start = std::time::Instant::now();
            let choice = sampler.choose(&mut logits, u64::from(at)).unwrap();
            spent = spent.min(start.elapsed());
            std::hint::black_box(choice);
        }
        println!("{name:40} {:8.1} µs", spent.as_secs_f64() * 1e6);
    }
}
