//! The real model against an independent implementation (`reference/reference.py`, numpy).
//!
//! Runs where `scripts/fetch-model.sh` has put the model; elsewhere it says loudly that it did not run, and
//! with `COCOON_REQUIRE_MODEL=1` fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::sync::OnceLock;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::{
    BurnEngine, CacheRoom, Decoder, Engine, EngineOptions, FinishReason, SamplingParams, Target,
};
use serde::Deserialize;
use support::{answer, ask, model_path, score};

/// Largest difference of two log-probabilities, in nats. Both sides compute in f32 but add in different
/// orders; measured differences are some fifty times smaller, and the closest decision compared has a
/// margin ten times larger.
const TOLERANCE: f32 = 1e-3;
/// The same with activations of 8 bits, for the token that is furthest off, and on the average.
const ROUNDED_TOLERANCE: f32 = 0.5;
const ROUNDED_MEAN: f32 = 0.08;

#[derive(Deserialize)]
struct Reference {
    model_sha256: String,
    end_token: u32,
    answers: Vec<ReferenceAnswer>,
    texts: Vec<ReferenceText>,
}

#[derive(Deserialize)]
struct ReferenceAnswer {
    question: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
    smallest_margin: f32,
}

#[derive(Deserialize)]
struct ReferenceText {
    text: String,
    tokens: Vec<u32>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("fixtures/greedy.json")).expect("the fixture")
}

/// The model, loaded once, or `None` with a banner.
fn engine() -> Option<&'static BurnEngine> {
    static ENGINE: OnceLock<Option<BurnEngine>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        let path = model_path()?;
        let options = EngineOptions {
            target: Target::Reference,
            cache: CacheRoom::Tokens(1_024),
            ..EngineOptions::default()
        };
        Some(BurnEngine::load(&path, &options, &mut |_, _| {}).expect("the model loads"))
    });
    if engine.is_none() {
        let required = std::env::var_os("COCOON_REQUIRE_MODEL").is_some_and(|value| value == "1");
        assert!(
            !required,
            "COCOON_REQUIRE_MODEL=1, but the model is not there; run scripts/fetch-model.sh"
        );
        eprintln!(
            "\n\
             ##################################################################\n\
             ##  SKIPPED: {} is not there.\n\
             ##  The real model was NOT tested. Run scripts/fetch-model.sh\n\
             ##  (or set COCOON_MODELS), and COCOON_REQUIRE_MODEL=1 to insist.\n\
             ##################################################################\n",
            support::MODEL
        );
    }
    engine.as_ref()
}

#[test]
fn the_fixture_is_of_this_model() {
    let Some(engine) = engine() else { return };
    assert_eq!(
        engine.describe().digest.to_string(),
        reference().model_sha256
    );
}

#[test]
fn prompts_are_tokenised_as_by_the_reference() {
    let Some(engine) = engine() else { return };
    for wanted in reference().answers {
        let prompt = engine.prepare(&ask(&wanted.question)).unwrap();
        assert_eq!(prompt.tokens, wanted.prompt_tokens, "{}", wanted.question);
    }
}

#[test]
fn any_user_text_is_tokenised_as_by_the_reference() {
    let Some(engine) = engine() else { return };
    for ReferenceText { text, tokens } in reference().texts {
        assert_eq!(
            engine.prepare(&ask(&text)).unwrap().tokens,
            tokens,
            "{text:?}"
        );
    }
}

#[test]
fn greedy_answers_are_those_of_the_reference() {
    let Some(engine) = engine() else { return };
    let Reference {
        end_token, answers, ..
    } = reference();
    for wanted in answers {
        let ended = wanted.tokens.last() == Some(&end_token);
        let said = wanted.tokens.len() - usize::from(ended);
        let free = answer(
            engine,
            &wanted.question,
            SamplingParams::greedy(wanted.tokens.len() as u32),
        );
        assert_eq!(free.tokens as usize, said, "{}", wanted.question);
        let finish = if ended {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        assert_eq!(free.finish, finish, "{}", wanted.question);
        // A step gives text and not token numbers; equal bytes are as good.
        assert_eq!(
            free.text,
            engine.text(&wanted.tokens),
            "{}",
            wanted.question
        );
    }
}

#[test]
fn no_decision_of_the_reference_is_too_close_to_be_compared() {
    for wanted in reference().answers {
        assert!(wanted.smallest_margin > 10.0 * TOLERANCE);
    }
}

/// Burn's plain operations in f32 against numpy's f32.
#[test]
fn log_probabilities_are_those_of_the_reference() {
    let Some(mut model) = decoder(&Target::Reference) else {
        return;
    };
    for wanted in reference().answers {
        let got = score(&mut model, &wanted.prompt_tokens, &wanted.tokens);
        let worst = furthest(&got, &wanted.log_probs);
        eprintln!("{}: largest difference {worst:.2e}", wanted.question);
        assert!(worst < TOLERANCE, "{}: {worst}", wanted.question);
    }
}

/// The processor's kernels, which round activations to 8 bits, against the same.
#[test]
fn eight_bit_activations_stay_near_the_reference() {
    let Some(mut model) = decoder(&Target::Processor { threads: 2 }) else {
        return;
    };
    let (mut sum, mut count) = (0.0, 0.0);
    for wanted in reference().answers {
        let got = score(&mut model, &wanted.prompt_tokens, &wanted.tokens);
        let worst = furthest(&got, &wanted.log_probs);
        eprintln!("{}: largest difference {worst:.2e}", wanted.question);
        assert!(worst < ROUNDED_TOLERANCE, "{}: {worst}", wanted.question);
        sum += got
            .iter()
            .zip(&wanted.log_probs)
            .map(|(a, b)| (a - b).abs())
            .sum::<f32>();
        count += got.len() as f32;
    }
    eprintln!("mean difference {:.2e}", sum / count);
    assert!(sum / count < ROUNDED_MEAN, "{}", sum / count);
}

fn furthest(got: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(got.len(), wanted.len());
    let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

/// The model without its server, or `None` where [`engine`] says why.
fn decoder(target: &Target) -> Option<Decoder> {
    let path = model_path()?;
    let checkpoint = Checkpoint::open(&path, &mut |_, _| {}).expect("the checkpoint opens");
    Some(Decoder::load(&checkpoint, target, CacheRoom::Tokens(1_024)).expect("the model loads"))
}

#[test]
fn a_stop_string_ends_the_real_answer() {
    let Some(engine) = engine() else { return };
    let params = SamplingParams {
        stop: vec!["capital of".into()],
        ..SamplingParams::greedy(24)
    };
    let answer = answer(engine, "What is the capital of France?", params);
    assert_eq!(
        (answer.text.as_str(), answer.finish),
        ("The ", FinishReason::Stop)
    );
}

#[test]
fn characters_of_many_tokens_come_whole() {
    let Some(engine) = engine() else { return };
    for question in [
        "Say hello with many emojis 😀🎉",
        "How do you write thank you in Korean?",
    ] {
        let answer = answer(engine, question, SamplingParams::greedy(30));
        assert!(
            answer.pieces.iter().any(String::is_empty),
            "every character took one token"
        );
        assert!(
            answer.text.chars().any(|c| c.len_utf8() > 2),
            "{}",
            answer.text
        );
        // Only the limit may cut a character, the last one.
        let whole = answer.text.strip_suffix('\u{fffd}').unwrap_or(&answer.text);
        assert!(!whole.contains('\u{fffd}'), "{}", answer.text);
    }
}
