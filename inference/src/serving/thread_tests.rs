//! The thread with the toy model. Where it matters what happens between two passes, the test lets the
//! passes through one by one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::toy::{END, Letters, Toy, answer, hidden_after, letter, logits_after, prompt};
use super::{
    Batch, BatchEngine, BatchGeneration, Limits, MAX_UNREAD_STEPS, PAGE_TOKENS, ServingOptions,
};
use crate::{
    CacheScope, Constraint, EngineError, FinishReason, Generation, Pooling, Prompt, Request,
    SamplingParams, Step,
};

const PAGES: usize = 64;
const CONTEXT: usize = 400;

fn limits() -> Limits {
    Limits {
        max_batch_tokens: 64,
        prefill_chunk: 32,
        max_sequences: 8,
        max_waiting: 8,
        max_paused_pages: 32,
        speculation: 0,
    }
}

fn serve(toy: Toy, limits: Limits) -> BatchEngine {
    let options = ServingOptions {
        limits,
        choosers: 1,
    };
    BatchEngine::new(Box::new(toy), Arc::new(Letters), options).unwrap()
}

fn request(prompt: &[u32], params: SamplingParams) -> Request {
    let tokens = prompt.to_vec();
    Request::new(Prompt { tokens }, params)
}

fn greedy(prompt: &[u32], max_tokens: u32) -> Request {
    request(prompt, SamplingParams::greedy(max_tokens))
}

/// The text of an answer of its own.
fn text(prompt: &[u32], max_tokens: usize) -> String {
    let tokens = answer(prompt, max_tokens);
    tokens
        .into_iter()
        .filter(|t| *t != END)
        .map(letter)
        .collect()
}

/// The next step that is more than a sign of life.
fn next(generation: &mut BatchGeneration) -> Result<Step, EngineError> {
    loop {
        let step = generation.step()?;
        if step.tokens > 0 || step.finish.is_some() {
            return Ok(step);
        }
    }
}

fn read(mut generation: BatchGeneration) -> Result<(String, Vec<Step>), EngineError> {
    let mut steps: Vec<Step> = vec![];
    while steps.last().is_none_or(|step| step.finish.is_none()) {
        steps.push(next(&mut generation)?);
    }
    assert!(matches!(generation.step(), Err(EngineError::Finished)));
    Ok((steps.iter().map(|step| step.text.as_str()).collect(), steps))
}

/// A toy that shows each batch and waits for leave to compute it.
struct Gate {
    batches: Receiver<Batch>,
    leave: Sender<()>,
}

/// Take the engine first and the gate second: a gate that is dropped lets everything through, and so an
/// engine that is dropped after it can end.
fn gated(limits: Limits) -> (BatchEngine, Gate) {
    let mut toy = Toy::new(PAGES, CONTEXT);
    let (show, batches) = channel();
    let (leave, wait) = channel();
    toy.watch = Box::new(move |batch| {
        // When the test no longer watches, everything runs.
        let _ = show.send(batch.clone());
        let _ = wait.recv();
        Ok(())
    });
    (serve(toy, limits), Gate { batches, leave })
}

impl Gate {
    /// The batch of the pass that waits now.
    fn see(&self) -> Batch {
        self.batches.recv().unwrap()
    }

    fn pass(&self) {
        self.leave.send(()).unwrap();
    }
}

#[test]
fn an_answer_is_the_models_and_ends_as_asked() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let long = prompt(20, 30);
    let (got, steps) = read(engine.start(greedy(&long, 30)).unwrap()).unwrap();
    assert_eq!(got, text(&long, 30));
    assert_eq!(steps.len(), 30);
    assert_eq!(steps[29].finish, Some(FinishReason::Length));

    let ends = (1..)
        .map(|n| prompt(n, 5))
        .find(|prompt| answer(prompt, 50).len() == 6)
        .unwrap();
    let (got, steps) = read(engine.start(greedy(&ends, 50)).unwrap()).unwrap();
    assert_eq!(got, text(&ends, 50));
    let last = steps.last().unwrap();
    assert_eq!((last.tokens, last.finish), (0, Some(FinishReason::Stop)));
    assert_eq!(engine.stats().running, 0);
    assert_eq!(engine.stats().pages_free, PAGES);
}

#[test]
fn one_token_can_be_asked_for() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let prompt = prompt(1, 1);
    let (got, steps) = read(engine.start(greedy(&prompt, 1)).unwrap()).unwrap();
    assert_eq!((got, steps.len()), (text(&prompt, 1), 1));
}

#[test]
fn the_context_ends_an_answer() {
    let engine = serve(Toy::new(PAGES, 40), limits());
    let prompt = prompt(30, 20);
    let (got, steps) = read(engine.start(greedy(&prompt, 20)).unwrap()).unwrap();
    assert_eq!((got, steps.len()), (text(&prompt, 10), 10));
    assert_eq!(steps[9].finish, Some(FinishReason::Length));
    let refused = engine.start(greedy(&[1; 40], 1));
    assert!(matches!(
        refused,
        Err(EngineError::ContextTooLong {
            prompt: 40,
            limit: 40
        })
    ));
}

#[test]
fn what_the_vocabulary_lacks_or_the_rules_forbid_is_refused() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    assert!(matches!(
        engine.start(greedy(&[1, 99], 1)),
        Err(EngineError::UnknownToken { token: 99, .. })
    ));
    assert!(matches!(
        engine.start(greedy(&[], 1)),
        Err(EngineError::EmptyPrompt)
    ));
    assert!(matches!(
        engine.start(greedy(&[1], 0)),
        Err(EngineError::Parameter {
            name: "max_tokens",
            ..
        })
    ));
    assert_eq!(engine.stats().waiting, 0);
}

#[test]
fn a_stop_string_over_token_borders_ends_the_answer_before_it() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let prompt = prompt(20, 30);
    let whole = text(&prompt, 30);
    let stop = whole[10..13].to_owned();
    let before = whole.find(&stop).unwrap();
    let params = SamplingParams {
        stop: vec![stop],
        ..SamplingParams::greedy(30)
    };
    let (got, steps) = read(engine.start(request(&prompt, params)).unwrap()).unwrap();
    assert_eq!(got, whole[..before]);
    assert_eq!(steps.len(), before + 3);
    assert_eq!(steps.last().unwrap().finish, Some(FinishReason::Stop));
}

#[test]
fn log_probabilities_come_with_each_token() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let prompt = prompt(20, 10);
    let params = SamplingParams {
        logprobs: Some(3),
        ..SamplingParams::greedy(10)
    };
    let (_, steps) = read(engine.start(request(&prompt, params)).unwrap()).unwrap();
    let mut tokens = prompt;
    for step in steps {
        let [position] = &step.logprobs[..] else {
            panic!("one token, one position");
        };
        assert_eq!(position.top.len(), 3);
        // Greedy takes the likeliest.
        assert_eq!(position.chosen, position.top[0]);
        let logits = logits_after(&tokens);
        let sum: f32 = logits.iter().map(|x| x.exp()).sum();
        let token = position.chosen.token;
        let wanted = logits[token as usize] - sum.ln();
        assert!((position.chosen.logprob - wanted).abs() < 1e-5);
        assert_eq!(position.chosen.bytes, letter(token).to_string().as_bytes());
        tokens.push(token);
    }
}

#[test]
fn a_constraint_holds_and_ends_the_answer() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let params = SamplingParams {
        constraint: Some(Constraint::Regex("(bc){3}".to_owned())),
        ..SamplingParams::greedy(30)
    };
    let (got, steps) = read(engine.start(request(&prompt(9, 5), params)).unwrap()).unwrap();
    assert_eq!(got, "bcbcbc");
    assert_eq!(steps.len(), 6);
    assert_eq!(steps[5].finish, Some(FinishReason::Stop));
    let params = SamplingParams {
        constraint: Some(Constraint::Regex("(".to_owned())),
        ..SamplingParams::greedy(30)
    };
    let refused = engine.start(request(&[1], params));
    assert!(matches!(refused, Err(EngineError::Constraint { .. })));
}

#[test]
fn many_answers_at_once_are_those_of_runs_of_their_own() {
    for speculation in [0, 4] {
        let limits = Limits {
            max_waiting: 40,
            speculation,
            ..limits()
        };
        // Too little memory for eight at once.
        let engine = serve(Toy::new(24, CONTEXT), limits);
        let prompts: Vec<_> = (0..40).map(|at| prompt(5 + at * 2, 80)).collect();
        let under_way: Vec<_> = prompts
            .iter()
            .map(|prompt| engine.start(greedy(prompt, 80)).unwrap())
            .collect();
        let readers: Vec<_> = under_way
            .into_iter()
            .map(|generation| std::thread::spawn(|| read(generation).unwrap().0))
            .collect();
        for (reader, prompt) in readers.into_iter().zip(&prompts) {
            assert_eq!(reader.join().unwrap(), text(prompt, 80));
        }
        let stats = engine.stats();
        assert!(stats.preemptions > 0);
        assert_eq!(stats.tokens_guessed_right > 0, speculation > 0);
        assert_eq!(stats.pages_free, 24);
    }
}

#[test]
fn a_sampled_answer_goes_on_the_same_after_it_gave_way() {
    let params = |seed| SamplingParams {
        temperature: 1.0,
        frequency_penalty: 0.5,
        seed: Some(seed),
        logit_bias: [(END, -100.0)].into(),
        ..SamplingParams::greedy(100)
    };
    let run = |pages, speculation| {
        let engine = serve(
            Toy::new(pages, CONTEXT),
            Limits {
                speculation,
                ..limits()
            },
        );
        let under_way: Vec<_> = (0..4)
            .map(|seed| engine.start(request(&[1, 2, 3], params(seed))).unwrap())
            .collect();
        let readers: Vec<_> = under_way
            .into_iter()
            .map(|generation| std::thread::spawn(|| read(generation).unwrap().0))
            .collect();
        let texts: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        (texts, engine.stats().preemptions)
    };
    let (roomy, none) = run(64, 0);
    assert_eq!(none, 0);
    let (tight, some) = run(9, 0);
    assert!(some > 0);
    assert_eq!(roomy, tight);
    assert_eq!(roomy, run(9, 4).0);
    assert_ne!(roomy[0], roomy[1]);
}

#[test]
fn a_dropped_answer_is_in_no_pass_but_the_one_under_way() {
    let (engine, gate) = gated(limits());
    let goes = engine.start(greedy(&prompt(20, 50), 50)).unwrap();
    assert_eq!(gate.see().sequences.len(), 1);
    let stays = engine.start(greedy(&prompt(21, 50), 50)).unwrap();
    gate.pass();
    assert_eq!(gate.see().sequences.len(), 2);
    drop(goes);
    gate.pass();
    let batch = gate.see();
    assert_eq!(batch.sequences.len(), 1);
    assert_eq!(batch.sequences[0].start, 21);
    drop(gate);
    let prompt = prompt(21, 50);
    assert_eq!(read(stays).unwrap().0, text(&prompt, 50));
}

#[test]
fn who_does_not_read_holds_back_only_its_own_answer() {
    let mut toy = Toy::new(PAGES, CONTEXT);
    let sizes = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&sizes);
    toy.watch = Box::new(move |batch| {
        let starts = batch.sequences.iter().map(|rows| rows.start);
        log.lock().unwrap().push(starts.collect::<Vec<_>>());
        Ok(())
    });
    let engine = serve(toy, limits());
    let [slow, fast] = [prompt(200, 60), prompt(3, 100)];
    let mut unread = engine.start(greedy(&slow, 60)).unwrap();
    let (got, _) = read(engine.start(greedy(&fast, 100)).unwrap()).unwrap();
    assert_eq!(got, text(&fast, 100));
    // The slow one's prompt alone takes it past the fast one's last position.
    let passes = sizes.lock().unwrap().clone();
    let slow_passes = passes
        .iter()
        .flatten()
        .filter(|start| **start >= 200)
        .count();
    assert_eq!(
        slow_passes,
        MAX_UNREAD_STEPS - 1,
        "and the pass that read the prompt's end"
    );
    assert_eq!(engine.stats().paused, 1);
    let mut got = String::new();
    loop {
        let step = next(&mut unread).unwrap();
        got.push_str(&step.text);
        if step.finish.is_some() {
            break;
        }
    }
    assert_eq!(got, text(&slow, 60));
    assert_eq!(engine.stats().preemptions, 0);
}

#[test]
fn a_prompt_of_the_same_client_is_not_read_again() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let prompt = prompt(5 * PAGE_TOKENS + 3, 5);
    let mut hits = vec![];
    for scope in [1, 2, 1] {
        let request = Request {
            scope: Some(CacheScope([scope; 32])),
            ..greedy(&prompt, 5)
        };
        let (got, _) = read(engine.start(request).unwrap()).unwrap();
        assert_eq!(got, text(&prompt, 5));
        hits.push(engine.stats().prefix_hit_tokens as usize);
    }
    assert_eq!(hits, [0, 0, 5 * PAGE_TOKENS]);
}

#[test]
fn a_full_queue_says_so_and_takes_more_when_one_is_over() {
    let (engine, gate) = gated(Limits {
        max_sequences: 1,
        max_waiting: 1,
        ..limits()
    });
    let prompt = prompt(3, 1);
    let first = engine.start(greedy(&prompt, 1)).unwrap();
    let _second = engine.start(greedy(&prompt, 1)).unwrap();
    let third = engine.start(greedy(&prompt, 1));
    assert!(matches!(third, Err(EngineError::QueueFull { waiting: 1 })));
    gate.see();
    gate.pass();
    read(first).unwrap();
    assert!(engine.start(greedy(&prompt, 1)).is_ok());
}

#[test]
fn an_error_of_the_model_ends_the_answers_in_that_pass_and_no_others() {
    let mut toy = Toy::new(PAGES, CONTEXT);
    let mut passes = 0;
    toy.watch = Box::new(move |_| {
        passes += 1;
        match passes {
            2 => Err(EngineError::UnknownToken {
                token: 7,
                vocabulary: 7,
            }),
            _ => Ok(()),
        }
    });
    let engine = serve(toy, limits());
    let prompt = prompt(20, 10);
    let mut broken = engine.start(greedy(&prompt, 10)).unwrap();
    assert!(next(&mut broken).is_ok());
    let error = next(&mut broken).unwrap_err();
    assert!(
        matches!(&error, EngineError::Pass(inner) if matches!(**inner, EngineError::UnknownToken { .. })),
        "{error}"
    );
    assert!(matches!(broken.step(), Err(EngineError::Finished)));
    let (got, _) = read(engine.start(greedy(&prompt, 10)).unwrap()).unwrap();
    assert_eq!(got, text(&prompt, 10));
    assert_eq!(engine.stats().pages_free, PAGES);
}

#[test]
fn a_panic_of_the_model_stops_the_engine_and_nothing_else() {
    let mut toy = Toy::new(PAGES, CONTEXT);
    toy.watch = Box::new(|_| panic!("as the test wants it"));
    let engine = serve(toy, limits());
    let mut broken = engine.start(greedy(&[1, 2], 10)).unwrap();
    assert!(matches!(next(&mut broken), Err(EngineError::Stopped)));
    assert!(matches!(
        engine.start(greedy(&[1, 2], 10)),
        Err(EngineError::Stopped)
    ));
    assert!(matches!(
        engine.embed(&[vec![1]], Pooling::Last),
        Err(EngineError::Stopped)
    ));
}

#[test]
fn an_engine_that_goes_away_ends_its_answers() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let mut unread = engine.start(greedy(&prompt(20, 60), 60)).unwrap();
    assert!(next(&mut unread).is_ok());
    drop(engine);
    let end = std::iter::repeat_with(|| next(&mut unread)).find(Result::is_err);
    assert!(matches!(end, Some(Err(EngineError::Stopped))));
}

fn unit(rows: &[Vec<f32>]) -> Vec<f32> {
    let sum = |at: usize| rows.iter().map(|row| f64::from(row[at])).sum::<f64>();
    let sums: Vec<f64> = (0..rows[0].len()).map(sum).collect();
    let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    sums.iter().map(|x| (x / length) as f32).collect()
}

#[test]
fn embeddings_are_pooled_and_served_beside_answers() {
    let engine = serve(Toy::new(PAGES, CONTEXT), limits());
    let talk = prompt(30, 100);
    let talker = engine.start(greedy(&talk, 100)).unwrap();
    let reader = std::thread::spawn(|| read(talker).unwrap().0);
    // More than run at once, some longer than a piece.
    let texts: Vec<_> = (1..30).map(|at| prompt(at * 5, 1)).collect();
    for pooling in [Pooling::Mean, Pooling::Last] {
        let got = engine.embed(&texts, pooling).unwrap();
        assert_eq!(got.len(), texts.len());
        for (got, text) in got.iter().zip(&texts) {
            let first = match pooling {
                Pooling::Mean => 1,
                Pooling::Last => text.len(),
            };
            let rows: Vec<_> = (first..=text.len())
                .map(|to| hidden_after(&text[..to]))
                .collect();
            assert_eq!(*got, unit(&rows));
        }
    }
    assert_eq!(reader.join().unwrap(), text(&talk, 100));
    assert_eq!(engine.stats().pages_free, PAGES);
    assert!(matches!(
        engine.embed(&[vec![1], vec![]], Pooling::Mean),
        Err(EngineError::EmptyPrompt)
    ));
}

#[test]
fn choosing_on_several_threads_changes_nothing() {
    // Enough logits for that: the toy's rows are widened.
    struct Wide(Toy);
    impl super::Model for Wide {
        fn shape(&self) -> super::ModelShape {
            super::ModelShape {
                vocabulary: 1 << 18,
                ..self.0.shape()
            }
        }
        fn forward(&mut self, batch: &Batch) -> Result<super::Outputs, EngineError> {
            let narrow = self.0.forward(batch)?;
            let mut values = Vec::new();
            for row in narrow.rows() {
                values.extend_from_slice(row);
                values.resize(values.len() + (1 << 18) - row.len(), -9.0);
            }
            Ok(super::Outputs {
                width: 1 << 18,
                values,
            })
        }
        fn hidden(&mut self, batch: &Batch) -> Result<super::Outputs, EngineError> {
            self.0.hidden(batch)
        }
    }
    let options = ServingOptions {
        limits: limits(),
        choosers: 3,
    };
    let wide = Box::new(Wide(Toy::new(PAGES, CONTEXT)));
    let engine = BatchEngine::new(wide, Arc::new(Letters), options).unwrap();
    let prompts: Vec<_> = (0..5).map(|at| prompt(5 + at, 12)).collect();
    let under_way: Vec<_> = prompts
        .iter()
        .map(|prompt| engine.start(greedy(prompt, 12)).unwrap())
        .collect();
    for (generation, prompt) in under_way.into_iter().zip(&prompts) {
        assert_eq!(read(generation).unwrap().0, text(prompt, 12));
    }
}
