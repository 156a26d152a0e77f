//! The engine actor with a model that waits to be told.

use crate::support::model::{Gate, MODEL, Scripted};
use crate::support::{system, until};
use cocoon_actors::ask::{Address, ask};
use cocoon_actors::engine::{Engine, Generate, MAX_WAITING_STEPS, StartError, Started};
use cocoon_actors::supervision::supervise;
use cocoon_inference::{Message, Role, SamplingParams};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MANY: usize = 200;

struct Bench {
    engine: Address<Engine>,
    gate: Arc<Gate>,
    steps: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

fn bench(slots: u16, words: usize, allowed: usize) -> Bench {
    let (model, gate) = Scripted::gated(words, allowed);
    let (steps, dropped) = (Arc::clone(&model.steps), Arc::clone(&model.dropped));
    Bench {
        engine: supervise(Engine::new(Arc::new(model), slots)),
        gate,
        steps,
        dropped,
    }
}

fn generate(max_prompt_tokens: u32) -> Generate {
    Generate {
        messages: vec![Message {
            role: Role::User,
            content: "four words of prompt".to_owned(),
        }],
        sampling: SamplingParams::greedy(1_000),
        max_prompt_tokens,
    }
}

impl Drop for Bench {
    /// A step that waits at the gate would keep the runtime from ending.
    fn drop(&mut self) {
        self.gate.open();
    }
}

impl Bench {
    async fn start(&self) -> Result<Started, StartError> {
        ask(&self.engine, generate(100)).await.unwrap()
    }
}

async fn all_steps(started: &mut Started) -> (String, u32) {
    let (mut text, mut tokens) = (String::new(), 0);
    while let Some(step) = started.steps.recv().await {
        let step = step.unwrap();
        text.push_str(&step.text);
        tokens += step.tokens;
    }
    (text, tokens)
}

#[test]
fn a_generation_arrives_step_by_step_and_ends() {
    system(async {
        let bench = bench(1, 20, usize::MAX);
        let mut started = bench.start().await.unwrap();
        assert_eq!(started.prompt_tokens, 4);
        assert_eq!(all_steps(&mut started).await, (Scripted::answer(20), 20));
        assert!(started.ended.await.is_err());
        assert_eq!(bench.dropped.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn one_more_than_the_slots_is_refused_and_a_slot_comes_free_with_the_end() {
    system(async {
        let bench = bench(2, 1, 0);
        let mut first = bench.start().await.unwrap();
        let _second = bench.start().await.unwrap();
        let refused = bench.start().await.unwrap_err();
        assert!(matches!(refused, StartError::Busy { slots: 2 }));
        assert_eq!(refused.to_string(), "all 2 slots of the engine are busy");
        // Two steps for each: a word, and the end.
        bench.gate.allow(4);
        all_steps(&mut first).await;
        assert!(first.ended.await.is_err());
        bench.start().await.unwrap();
    });
}

#[test]
fn a_refused_prompt_keeps_no_slot() {
    system(async {
        let bench = bench(1, 1, usize::MAX);
        for _ in 0..3 {
            let refused = ask(&bench.engine, generate(3)).await.unwrap().unwrap_err();
            assert!(matches!(
                refused,
                StartError::TooLong {
                    tokens: 4,
                    limit: 3
                }
            ));
        }
        let mut started = bench.start().await.unwrap();
        assert_eq!(all_steps(&mut started).await.1, 1);
    });
}

#[test]
fn a_reader_that_goes_away_ends_the_generation_within_one_step() {
    system(async {
        let bench = bench(1, MANY, 0);
        let Started {
            mut steps, ended, ..
        } = bench.start().await.unwrap();
        bench.gate.allow(3);
        for _ in 0..3 {
            steps.recv().await.unwrap().unwrap();
        }
        drop(steps);
        // At most the one step that was under way.
        bench.gate.allow(1);
        assert!(ended.await.is_err());
        let computed = bench.steps.load(Ordering::SeqCst);
        assert!((3..=4).contains(&computed), "{computed} steps");
        assert_eq!(bench.dropped.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn an_asker_that_goes_away_before_the_answer_ends_it_too() {
    system(async {
        let bench = bench(1, MANY, usize::MAX);
        {
            let mut asking = Box::pin(ask(&bench.engine, generate(100)));
            assert!(futures::poll!(asking.as_mut()).is_pending());
        }
        let (dropped, steps) = (Arc::clone(&bench.dropped), Arc::clone(&bench.steps));
        // Either the question was never taken up, or its generation found nobody there.
        loop {
            match bench.start().await {
                Ok(started) => {
                    drop(started.steps);
                    assert!(started.ended.await.is_err());
                    break;
                }
                Err(StartError::Busy { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        assert!(steps.load(Ordering::SeqCst) <= 2 * (MAX_WAITING_STEPS + 2));
    });
}

#[test]
fn a_reader_that_pauses_pauses_the_model() {
    system(async {
        let bench = bench(1, MANY, usize::MAX);
        let mut started = bench.start().await.unwrap();
        let steps = Arc::clone(&bench.steps);
        // What fits into the queue, and the one that waits in front of it.
        until("a full queue", || {
            started.steps.len() == MAX_WAITING_STEPS
                && steps.load(Ordering::SeqCst) == MAX_WAITING_STEPS + 1
        })
        .await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(steps.load(Ordering::SeqCst), MAX_WAITING_STEPS + 1);
        let (text, _) = all_steps(&mut started).await;
        assert_eq!(text, Scripted::answer(MANY));
    });
}

#[test]
fn debug_output_of_a_question_holds_no_content() {
    let text = format!("{:?}", generate(1));
    assert_eq!(text, "Generate(1 messages)");
    assert!(!MODEL.is_empty());
}
