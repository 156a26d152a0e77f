//! The real model's answers to the known questions, against the committed ones.
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

use std::sync::Mutex;

use cocoon_inference::canary::{MAX_ANSWER_TOKENS, PINS, QUESTIONS, Standing, ask, pins_of};
use cocoon_inference::{BurnEngine, CacheRoom, Engine, EngineOptions, SamplingParams, Target};

/// One model in memory at a time: two cores and their memory carry no more.
static ALONE: Mutex<()> = Mutex::new(());

fn engine(target: Target) -> Option<BurnEngine> {
    let Some(path) = support::model_path() else {
        let required = std::env::var_os("COCOON_REQUIRE_MODEL").is_some_and(|value| value == "1");
        assert!(
            !required,
            "COCOON_REQUIRE_MODEL=1, but the model is not there; run scripts/fetch-model.sh"
        );
        eprintln!(
            "\n\
             ##################################################################\n\
             ##  SKIPPED: {} is not there.\n\
             ##  The known answers of the real model were NOT tested. Run\n\
             ##  scripts/fetch-model.sh, and COCOON_REQUIRE_MODEL=1 to insist.\n\
             ##################################################################\n",
            support::MODEL
        );
        return None;
    };
    let options = EngineOptions {
        target,
        cache: CacheRoom::Tokens(1_024),
        ..EngineOptions::default()
    };
    Some(BurnEngine::load(&path, &options, &mut |_, _| {}).expect("the model loads"))
}

fn gives_the_pinned_answers(target: Target) {
    let _alone = ALONE.lock();
    let Some(engine) = engine(target) else { return };
    let model = engine.describe().digest;
    let canary = ask(&engine).unwrap();
    for answer in &canary.answers {
        eprintln!(
            "{} ({} tokens): {:?}",
            answer.question, answer.tokens, answer.text
        );
    }
    eprintln!("canary {}", canary.digest());
    assert_eq!(
        canary.check_known(model).unwrap(),
        Standing::Known("processor")
    );
    let pin = pins_of(model).next().unwrap();
    assert_eq!(canary.digest().to_string(), pin.digest);
    assert_eq!(pin.name, PINS[0].name);
    canary.check_pinned(pin.digest.parse().unwrap()).unwrap();
    assert!(
        canary
            .answers
            .iter()
            .all(|answer| (1..=MAX_ANSWER_TOKENS).contains(&answer.tokens))
    );
}

#[test]
fn one_thread_gives_the_pinned_answers() {
    gives_the_pinned_answers(Target::Processor { threads: 1 });
}

#[test]
fn two_threads_give_the_pinned_answers() {
    gives_the_pinned_answers(Target::Processor { threads: 2 });
}

/// Plain operations in f32, which are themselves held against numpy and `transformers`: the pinned answers are the
/// model's and not an accident of the kernels' rounding.
#[test]
fn plain_arithmetic_gives_the_pinned_answers() {
    gives_the_pinned_answers(Target::Reference);
}

/// What else is in the batch does not matter on a processor.
#[test]
fn a_busy_engine_gives_the_pinned_answers() {
    let _alone = ALONE.lock();
    let Some(engine) = engine(Target::Processor { threads: 2 }) else {
        return;
    };
    let busy = support::ask("Tell me a long story about a fox.");
    let prompt = engine.prepare(&busy).unwrap();
    let mut other = engine
        .start(cocoon_inference::Request::new(
            prompt,
            SamplingParams::greedy(400),
        ))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || while other.step().is_ok_and(|step| step.finish.is_none()) {});
        let canary = ask(&engine).unwrap();
        assert_eq!(
            canary.check_known(engine.describe().digest).unwrap(),
            Standing::Known("processor")
        );
    });
}

#[test]
fn questions_have_names_of_their_own() {
    let mut names = QUESTIONS.map(|question| question.name).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), QUESTIONS.len());
}
