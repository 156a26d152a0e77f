//! The engine actor with a model that waits to be told.

use crate::support::model::{BAD_REGEX, Gate, MODEL, NOT_EMBEDDED, Scripted, embedding};
use crate::support::{system, until};
use cocoon_actors::ask::{Address, ask};
use cocoon_actors::engine::{Embed, Engine, Generate, MAX_WAITING_STEPS, StartError, Started};
use cocoon_actors::job::embedding::decode;
use cocoon_actors::supervision::supervise;
use cocoon_inference::{
    CacheScope, Constraint, EngineError, Message, Pooling, Request, Role, SamplingParams,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const MANY: usize = 200;

struct Bench {
    engine: Address<Engine>,
    gate: Arc<Gate>,
    steps: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request>>>,
    embedded: Arc<Mutex<Vec<usize>>>,
}

fn bench(slots: u16, words: usize, allowed: usize) -> Bench {
    let (model, gate) = Scripted::gated(words, allowed);
    let (steps, dropped) = (Arc::clone(&model.steps), Arc::clone(&model.dropped));
    let (requests, embedded) = (Arc::clone(&model.requests), Arc::clone(&model.embedded));
    Bench {
        engine: supervise(Engine::new(Arc::new(model), slots)),
        gate,
        steps,
        dropped,
        requests,
        embedded,
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
        choices: 1,
        scope: None,
    }
}

fn embed(texts: &[&str], max_prompt_tokens: u32, most_tokens: u32) -> Embed {
    Embed {
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        pooling: Pooling::Last,
        most_tokens,
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
        let step = step.unwrap().step;
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
fn several_answers_take_one_slot_share_a_scope_and_have_seeds_that_follow_one_another() {
    system(async {
        let bench = bench(1, 3, usize::MAX);
        let scope = Some(CacheScope([7; 32]));
        for seed in [Some(u64::MAX), None] {
            bench.requests.lock().unwrap().clear();
            let mut generate = Generate {
                choices: 3,
                scope,
                ..generate(100)
            };
            generate.sampling.seed = seed;
            let mut started = ask(&bench.engine, generate).await.unwrap().unwrap();
            // The prompt is read, and charged, once.
            assert_eq!(started.prompt_tokens, 4);
            let (mut words, mut ends) = ([0; 3], [0; 3]);
            while let Some(said) = started.steps.recv().await {
                let said = said.unwrap();
                words[usize::from(said.choice)] += said.step.tokens;
                ends[usize::from(said.choice)] += u32::from(said.step.finish.is_some());
            }
            assert_eq!((words, ends), ([3; 3], [1; 3]));
            assert!(started.ended.await.is_err());
            let requests = bench.requests.lock().unwrap();
            let seeds: Vec<_> = requests
                .iter()
                .map(|request| request.params.seed.unwrap())
                .collect();
            let base = seed.unwrap_or(seeds[0]);
            let mut wanted = [0, 1, 2].map(|choice: u64| base.wrapping_add(choice));
            let mut got = seeds.clone();
            (wanted.sort_unstable(), got.sort_unstable());
            assert_eq!(got, wanted);
            assert_eq!(seeds[0], base);
            assert!(requests.iter().all(|request| request.scope == scope));
        }
        bench.start().await.unwrap();
    });
}

#[test]
fn the_other_answers_begin_when_the_first_has_read_the_prompt() {
    system(async {
        let bench = bench(1, MANY, 0);
        let generate = Generate {
            choices: 2,
            ..generate(100)
        };
        let mut started = ask(&bench.engine, generate).await.unwrap().unwrap();
        assert_eq!(bench.requests.lock().unwrap().len(), 1);
        bench.gate.allow(1);
        assert_eq!(started.steps.recv().await.unwrap().unwrap().choice, 0);
        let requests = Arc::clone(&bench.requests);
        until("the second answer", || requests.lock().unwrap().len() == 2).await;
        // A reader that goes away ends both, and the slot is free only then.
        drop(started.steps);
        bench.gate.open();
        assert!(started.ended.await.is_err());
        assert_eq!(bench.dropped.load(Ordering::SeqCst), 2);
        bench.start().await.unwrap();
    });
}

#[test]
fn a_format_that_makes_no_sense_is_refused_before_the_job_begins() {
    system(async {
        let bench = bench(1, 1, usize::MAX);
        let mut generate = generate(100);
        generate.sampling.constraint = Some(Constraint::Regex(BAD_REGEX.to_owned()));
        let refused = ask(&bench.engine, generate).await.unwrap().unwrap_err();
        assert!(matches!(
            refused,
            StartError::Engine(EngineError::Constraint { .. })
        ));
        bench.start().await.unwrap();
    });
}

#[test]
fn embeddings_are_an_answer_of_one_token_at_its_end() {
    system(async {
        let bench = bench(1, 1, usize::MAX);
        let texts = ["one", "two words"];
        let mut started = ask(&bench.engine, embed(&texts, 100, 100))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(started.prompt_tokens, 3);
        let (text, tokens) = all_steps(&mut started).await;
        assert_eq!(tokens, 1);
        let wanted = texts.map(|text| embedding(text, Pooling::Last, 3));
        assert_eq!(decode(&text, 2).unwrap(), wanted);
        assert!(started.ended.await.is_err());
        assert_eq!(*bench.embedded.lock().unwrap(), [2]);
        bench.start().await.unwrap();
    });
}

#[test]
fn texts_that_may_be_too_long_are_read_one_by_one_and_no_further_than_agreed() {
    system(async {
        let bench = bench(1, 1, usize::MAX);
        let texts = ["one", "two words", "three words more", "and yet more"];
        let refused = ask(&bench.engine, embed(&texts, 3, 100))
            .await
            .unwrap()
            .unwrap_err();
        let long = matches!(
            refused,
            StartError::TooLong {
                tokens: 6,
                limit: 3
            }
        );
        assert!(long, "{refused}");
        assert_eq!(*bench.embedded.lock().unwrap(), [1, 1, 1]);
        let mut started = ask(&bench.engine, embed(&texts, 9, 100))
            .await
            .unwrap()
            .unwrap();
        let (text, _) = all_steps(&mut started).await;
        assert_eq!(decode(&text, 4).unwrap().len(), 4);
        let refused = ask(&bench.engine, embed(&[NOT_EMBEDDED], 9, 9))
            .await
            .unwrap();
        assert!(matches!(
            refused.unwrap_err(),
            StartError::Engine(EngineError::Unsupported { .. })
        ));
        bench.start().await.unwrap();
    });
}

#[test]
fn debug_output_of_a_question_holds_no_content() {
    let text = format!("{:?}{:?}", generate(1), embed(&["planted-secret"], 1, 1));
    assert_eq!(text, "Generate(1 messages)Embed(1 texts)");
    assert!(!MODEL.is_empty());
}
