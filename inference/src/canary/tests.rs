#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::engine::{FinishReason, Generation, ModelInfo, Pooling, Prompt, Step};

/// Says what it was told to, one word a step, and remembers what it was asked.
struct Scripted {
    info: ModelInfo,
    answers: Vec<&'static str>,
    fails_at: Option<usize>,
    ends: bool,
    asked: Mutex<Vec<(String, SamplingParams)>>,
}

fn scripted(answers: &[&'static str]) -> Scripted {
    Scripted {
        info: ModelInfo {
            id: "scripted".to_owned(),
            digest: Digest::sha256(b"scripted"),
            tokenizer: None,
            context_tokens: 1_024,
            weights_bytes: 0,
            bytes_per_token: 0,
            weights_per_token: 0,
            cache_bytes_per_token: 0,
            cache_tokens: 1_024,
            embedding_width: 1,
            runs_on: "a script".to_owned(),
        },
        answers: answers.to_vec(),
        fails_at: None,
        ends: true,
        asked: Mutex::default(),
    }
}

impl Engine for Scripted {
    fn describe(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].role, Role::User);
        let at = QUESTIONS
            .iter()
            .position(|question| question.text == messages[0].content)
            .unwrap();
        Ok(Prompt {
            tokens: vec![u32::try_from(at).unwrap()],
        })
    }

    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        let at = usize::try_from(request.prompt.tokens[0]).unwrap();
        if self.fails_at == Some(at) {
            return Err(EngineError::QueueFull { waiting: 7 });
        }
        let mut asked = self.asked.lock().unwrap();
        asked.push((QUESTIONS[at].name.to_owned(), request.params));
        let words = self.answers[at].split_inclusive(' ').rev();
        Ok(Box::new(Words {
            left: words.map(str::to_owned).collect(),
            ends: self.ends,
        }))
    }

    fn embed(&self, _: &[String], _: Pooling) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        Err(EngineError::EmptyPrompt)
    }
}

struct Words {
    left: Vec<String>,
    ends: bool,
}

impl Generation for Words {
    fn step(&mut self) -> Result<Step, EngineError> {
        let word = self.left.pop();
        Ok(Step {
            tokens: u32::from(word.is_some()),
            finish: (word.is_none() && self.ends).then_some(FinishReason::Stop),
            text: word.unwrap_or_default(),
            logprobs: Vec::new(),
            ids: Vec::new(),
        })
    }
}

const SAID: [&str; QUESTIONS.len()] = ["héllo", "", "a\nb", "🦊"];

fn pin(device: &'static str, answers: [&'static str; QUESTIONS.len()]) -> Pin {
    Pin {
        name: "scripted",
        model: "",
        device,
        digest: "",
        answers,
    }
}

#[test]
fn the_digest_is_what_another_implementation_computes() {
    // Python: hashlib.sha256(b"cocoon/canary/v1\0" + b"".join(struct.pack("<I", len(a)) + a for a in answers))
    let canary = ask(&scripted(&SAID)).unwrap();
    assert_eq!(
        canary.digest().to_string(),
        "5e01f948ef33c1367fefc4a4baeb875a2f7b37bc0943acbea4122b224450cde6"
    );
}

#[test]
fn every_question_is_asked_once_in_order_greedily_and_briefly() {
    let engine = scripted(&["one two three", "b", "c", "d"]);
    let canary = ask(&engine).unwrap();
    let asked = engine.asked.lock().unwrap();
    let names: Vec<_> = asked.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, QUESTIONS.map(|question| question.name));
    assert!(
        asked
            .iter()
            .all(|(_, params)| *params == SamplingParams::greedy(MAX_ANSWER_TOKENS))
    );
    assert_eq!(canary.answers[0].text, "one two three");
    assert_eq!(canary.answers[0].tokens, 3);
}

#[test]
fn a_wrong_answer_is_named_with_what_it_should_have_been() {
    let model = Digest::sha256(b"scripted");
    let canary = ask(&scripted(&["a", "b", "x", "y"])).unwrap();
    let good = pin("processor", ["a", "b", "c", "d"]);
    match canary.check_pins(model, &[&good]) {
        Err(CanaryError::Answer {
            question,
            expected,
            got,
            ..
        }) => {
            assert_eq!(
                (question, expected.as_str(), got.as_str()),
                ("code", "c", "x")
            );
        }
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn one_of_several_devices_is_enough_and_the_nearest_is_compared() {
    let model = Digest::sha256(b"scripted");
    let canary = ask(&scripted(&["a", "b", "c", "d"])).unwrap();
    let first = pin("processor", ["x", "b", "c", "d"]);
    let second = pin("card", ["a", "b", "c", "d"]);
    let third = pin("other card", ["a", "b", "c", "e"]);
    assert_eq!(
        canary.check_pins(model, &[&first, &second]).unwrap(),
        Standing::Known("card")
    );
    match canary.check_pins(model, &[&first, &third]) {
        Err(CanaryError::Answer { question, .. }) => assert_eq!(question, "sum"),
        other => unreachable!("{other:?}"),
    }
    assert_eq!(canary.check_pins(model, &[]).unwrap(), Standing::Unknown);
}

#[test]
fn a_model_that_nobody_knows_is_unknown_and_not_wrong() {
    let canary = ask(&scripted(&SAID)).unwrap();
    let unknown = Digest::sha256(b"scripted");
    assert_eq!(canary.check_known(unknown).unwrap(), Standing::Unknown);
}

#[test]
fn a_pinned_digest_that_differs_lists_each_answer() {
    let canary = ask(&scripted(&SAID)).unwrap();
    canary.check_pinned(canary.digest()).unwrap();
    let said = canary.check_pinned(Digest::ZERO).unwrap_err().to_string();
    assert!(said.contains(&Digest::ZERO.to_string()), "{said}");
    assert!(said.contains(&canary.digest().to_string()), "{said}");
    for answer in &canary.answers {
        let listed = format!("{} {}", answer.question, answer.digest());
        assert!(said.contains(&listed), "{said}");
    }
}

#[test]
fn a_question_that_is_not_answered_is_named() {
    let engine = Scripted {
        fails_at: Some(1),
        ..scripted(&SAID)
    };
    let said = ask(&engine).unwrap_err().to_string();
    assert!(
        said.contains("`unicode`") && said.contains("7 answers wait"),
        "{said}"
    );
}

#[test]
fn an_engine_that_never_ends_is_left() {
    let engine = Scripted {
        ends: false,
        ..scripted(&SAID)
    };
    assert!(matches!(
        ask(&engine),
        Err(CanaryError::Engine {
            question: "short",
            ..
        })
    ));
}

#[test]
fn every_pin_is_of_a_model_and_its_digest_is_that_of_its_answers() {
    for pin in PINS {
        assert_eq!(pin.digest, pin.computed().to_string(), "{}", pin.name);
        let model: Digest = pin.model.parse().unwrap();
        assert!(pins_of(model).any(|found| found == pin));
    }
}

#[test]
fn the_default_model_is_known() {
    let model = crate::store::DEFAULT_DIGEST.parse().unwrap();
    assert!(pins_of(model).next().is_some());
}

proptest! {
    #[test]
    fn no_letter_moves_from_one_answer_to_the_next_unseen(text in "[ab🦊]{1,12}", at in 0usize..12, other in 0usize..12) {
        let cut = |at: usize| {
            let at = text.char_indices().map(|(i, _)| i).nth(at).unwrap_or(text.len());
            let (head, tail) = text.split_at(at);
            (head.len(), digest_of([head, tail].into_iter()))
        };
        let ((one, first), (two, second)) = (cut(at), cut(other));
        prop_assert_eq!(one == two, first == second);
    }
}
