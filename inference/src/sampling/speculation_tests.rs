#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
use proptest::prelude::*;

use super::*;
use crate::SamplingParams;

const VOCABULARY: u32 = 24;
const END: u32 = 0;

/// A model whose logits are a hash of the last two tokens, so that its answers repeat.
fn model(context: &[u32], salt: u64) -> Vec<f32> {
    let seed = context
        .iter()
        .rev()
        .take(2)
        .fold(salt, |h, &t| mix(h ^ u64::from(t)));
    (0..VOCABULARY)
        .map(|t| (mix(seed ^ (u64::from(t) << 32)) % 1000) as f32 / 100.0)
        .collect()
}

/// SplitMix64's finaliser.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn plain(prompt: &[u32], params: &SamplingParams, salt: u64, seed: u64) -> Vec<Choice> {
    let mut sampler = Sampler::new(params, prompt, seed, None);
    let mut context = prompt.to_vec();
    let mut answer = vec![];
    while answer.len() < params.max_tokens as usize {
        let choice = sampler
            .choose(&mut model(&context, salt), context.len() as u64)
            .unwrap();
        sampler.accept(choice.token).unwrap();
        context.push(choice.token);
        answer.push(choice);
        if context.last() == Some(&END) {
            break;
        }
    }
    answer
}

/// The same by guessing ahead. Gives the number of passes too.
fn speculative(
    prompt: &[u32],
    params: &SamplingParams,
    salt: u64,
    seed: u64,
    mut propose: impl FnMut(&Lookup, usize) -> Vec<u32>,
) -> (Vec<Choice>, usize) {
    let mut sampler = Sampler::new(params, prompt, seed, None);
    let mut lookup = Lookup::new(prompt);
    let mut context = prompt.to_vec();
    let mut answer: Vec<Choice> = vec![];
    let mut passes = 0;
    while answer.len() < params.max_tokens as usize {
        let room = params.max_tokens as usize - answer.len() - 1;
        let proposed = propose(&lookup, room.min(5));
        let mut rows: Vec<Vec<f32>> = (0..=proposed.len())
            .map(|i| model(&[&context[..], &proposed[..i]].concat(), salt))
            .collect();
        let rows = rows.iter_mut().map(Vec::as_mut_slice);
        let at = context.len() as u64;
        let verified = verify(&mut sampler, &proposed, rows, at, |t| t == END).unwrap();
        passes += 1;
        assert!(verified.right <= proposed.len());
        assert!(!verified.choices.is_empty());
        for choice in verified.choices {
            lookup.push(choice.token);
            context.push(choice.token);
            answer.push(choice);
        }
        if context.last() == Some(&END) {
            break;
        }
    }
    (answer, passes)
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0f32), 0.05f32..2.0];
    let rules = (temperature, 0u32..30, 0.1f32..=1.0, 0.0f32..0.5);
    let penalties = (
        prop_oneof![Just(1.0f32), 0.5f32..2.0],
        prop_oneof![Just(0.0f32), -2.0f32..2.0],
        prop_oneof![Just(0.0f32), -2.0f32..2.0],
    );
    (rules, penalties, proptest::option::of(0u8..4)).prop_map(|(rules, penalties, logprobs)| {
        SamplingParams {
            temperature: rules.0,
            top_k: rules.1,
            top_p: rules.2,
            min_p: rules.3,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            logprobs,
            ..SamplingParams::greedy(40)
        }
    })
}

proptest! {
    #[test]
    fn guessing_ahead_changes_nothing_in_an_answer(
        prompt in proptest::collection::vec(0..VOCABULARY, 1..20), params in params(), salt: u64, seed: u64,
    ) {
        let wanted = plain(&prompt, &params, salt, seed);
        let (got, _) = speculative(&prompt, &params, salt, seed, |lookup, room| {
            lookup.propose(room).to_vec()
        });
        prop_assert_eq!(&got, &wanted);
        // Nor do guesses out of nowhere.
        let mut dice = seed;
        let (got, _) = speculative(&prompt, &params, salt, seed, |_, room| {
            dice = mix(dice);
            (0..dice % (room as u64 + 1)).map(|i| (mix(dice ^ i) % u64::from(VOCABULARY)) as u32).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn right_guesses_are_all_kept(
        prompt in proptest::collection::vec(0..VOCABULARY, 1..20), params in params(), salt: u64, seed: u64,
    ) {
        let wanted = plain(&prompt, &params, salt, seed);
        let mut done = 0;
        let (got, passes) = speculative(&prompt, &params, salt, seed, |_, room| {
            let guess = wanted[done..].iter().take(room).map(|c| c.token).collect::<Vec<_>>();
            done += guess.len() + 1;
            guess
        });
        prop_assert_eq!(&got, &wanted);
        prop_assert!(passes <= wanted.len().div_ceil(6) + 1);
    }

    #[test]
    fn a_proposal_is_what_followed_the_longest_run_last_time(
        tokens in proptest::collection::vec(0u32..3, 0..40), count in 0usize..20,
    ) {
        let lookup = Lookup::new(&tokens);
        let wanted = (SHORTEST_RUN..=LONGEST_RUN).rev().find_map(|length| {
            let suffix = tokens.len().checked_sub(length).map(|from| &tokens[from..])?;
            let at = tokens.windows(length + 1).rposition(|w| w[..length] == *suffix)?;
            let rest = &tokens[at + length..];
            Some(rest[..rest.len().min(count).min(MAX_DRAFT)].to_vec())
        });
        prop_assert_eq!(lookup.propose(count), wanted.unwrap_or_default());
    }
}

#[test]
fn a_repeating_text_is_guessed() {
    let lookup = Lookup::new(&[1, 2, 3, 4, 5, 1, 2, 3]);
    assert_eq!(lookup.propose(3), [4, 5, 1]);
    assert!(lookup.propose(0).is_empty());
    assert!(Lookup::new(&[1, 2, 3]).propose(8).is_empty());
}

#[test]
fn nothing_is_chosen_after_the_end_of_the_turn() {
    let mut sampler = Sampler::new(&SamplingParams::greedy(9), &[1], 0, None);
    let mut rows = [[1.0f32, 0.0]; 3];
    let rows = rows.iter_mut().map(|row| &mut row[..]);
    let verified = verify(&mut sampler, &[END, END], rows, 1, |t| t == END).unwrap();
    assert_eq!((verified.choices.len(), verified.right), (1, 1));
}
