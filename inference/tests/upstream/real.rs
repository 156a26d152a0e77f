//! llama.cpp's server from PyPI's `xllamacpp`, which `scripts/fetch-upstream.sh` installs. Elsewhere this
//! says loudly that it did not run, and with `COCOON_REQUIRE_UPSTREAM=1` fails.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cocoon_inference::upstream::{
    Flavour, LocalModel, LoopbackUrl, Patience, UpstreamConfig, UpstreamEngine, UpstreamError,
};
use cocoon_inference::{
    Constraint, Engine, EngineError, FinishReason, Pooling, Request, SamplingParams, canary,
};

use super::fake::tiny_model;
use crate::support::{answer, ask, model_path};

/// A server that ends with its owner: its standard input closes.
struct Server {
    process: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("COCOON_TEST_UPSTREAM").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon").join("upstream"))
    })?;
    Some(directory.join("bin").join("python")).filter(|path| path.is_file())
}

/// Starts a server, or says why not.
fn server(arguments: &[&str]) -> Option<(Server, LocalModel)> {
    let (Some(python), Some(model)) = (python(), model_path()) else {
        let required =
            std::env::var_os("COCOON_REQUIRE_UPSTREAM").is_some_and(|value| value == "1");
        assert!(
            !required,
            "COCOON_REQUIRE_UPSTREAM=1, but the server or the model is not there; run \
             scripts/fetch-upstream.sh and scripts/fetch-model.sh"
        );
        eprintln!(
            "\n\
             ##################################################################\n\
             ##  SKIPPED: no upstream server (or no model) is installed.\n\
             ##  A real server was NOT tested. Run scripts/fetch-upstream.sh and\n\
             ##  scripts/fetch-model.sh, and COCOON_REQUIRE_UPSTREAM=1 to insist.\n\
             ##################################################################\n"
        );
        return None;
    };
    let mut process = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/reference/serve.py"))
        .arg(&model)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python starts");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = lines
        .find_map(|line| line.ok().filter(|line| line.starts_with("http://")))
        .expect("the server says where it listens");
    let server = Server {
        process,
        url: format!("{address}/v1"),
    };
    Some((server, LocalModel::open(&model, &mut |_, _| {}).unwrap()))
}

fn config(server: &Server) -> UpstreamConfig {
    UpstreamConfig {
        url: LoopbackUrl::parse(&server.url).unwrap(),
        model: "upstream-test".to_owned(),
        key: None,
        patience: Patience {
            connect: Duration::from_secs(60),
            silence: Duration::from_secs(300),
        },
    }
}

/// One test, because starting a server is what takes time.
#[test]
fn a_real_server_answers_counts_and_stops_as_the_engine_promises() {
    let Some((mut server, local)) = server(&[]) else {
        return;
    };
    let digest = local.digest;
    let engine = UpstreamEngine::connect(config(&server), local).unwrap();
    let about = engine.describe();
    assert_eq!(engine.flavour(), Flavour::LlamaCpp);
    assert_eq!((about.digest, about.context_tokens), (digest, 1024));
    assert!(server.url.starts_with(&about.runs_on));

    // The template is ours, so the model knows that it is asked.
    let question = "Tell me about cats.";
    let free = answer(&engine, question, SamplingParams::greedy(24));
    assert!(free.text.contains("Cats"), "{}", free.text);
    assert!(free.pieces.len() > 4, "the answer is streamed");
    assert!((1..=24).contains(&free.tokens));
    assert_eq!(free, answer(&engine, question, SamplingParams::greedy(24)));

    // Counts agree over a longer answer with every kind of character, and the limit is kept.
    let long = answer(
        &engine,
        "Say hello with many emojis 😀🎉, then in Korean.",
        SamplingParams {
            temperature: 1.0,
            seed: Some(7),
            ..SamplingParams::greedy(60)
        },
    );
    assert!(long.tokens > 0 && long.tokens <= 60);
    let (_, cut) = (
        long,
        answer(
            &engine,
            "Count from one to fifty.",
            SamplingParams::greedy(10),
        ),
    );
    assert_eq!((cut.tokens, cut.finish), (10, FinishReason::Length));

    // The known questions are answered, and the same every time. What is said is its own: it rounds otherwise.
    let canary = canary::ask(&engine).unwrap();
    assert_eq!(canary, canary::ask(&engine).unwrap());
    assert!(canary.answers.iter().all(|answer| !answer.text.is_empty()));

    // Parameters arrive: a seed repeats an answer, another seed changes it.
    let warm = |seed| SamplingParams {
        temperature: 1.2,
        top_k: 100,
        top_p: 0.98,
        min_p: 0.01,
        repetition_penalty: 1.05,
        frequency_penalty: 0.1,
        presence_penalty: 0.1,
        seed: Some(seed),
        ..SamplingParams::greedy(24)
    };
    let story = "Tell a story about a fox.";
    let first = answer(&engine, story, warm(1)).text;
    assert_eq!(first, answer(&engine, story, warm(1)).text);
    assert_ne!(first, answer(&engine, story, warm(2)).text);

    // A token that is forbidden does not come.
    let mut generation = engine
        .start(Request::new(
            engine.prepare(&ask(question)).unwrap(),
            SamplingParams {
                logprobs: Some(3),
                ..SamplingParams::greedy(4)
            },
        ))
        .unwrap();
    let step = generation.step().unwrap();
    let position = &step.logprobs[0];
    assert_eq!(String::from_utf8_lossy(&position.chosen.bytes), step.text);
    assert_eq!(position.top.len(), 3);
    assert_eq!(position.top[0].token, position.chosen.token);
    assert!(position.chosen.logprob <= 0.0 && position.chosen.logprob > -5.0);
    let forbidden = position.chosen.token;
    drop(generation);
    let other = answer(
        &engine,
        question,
        SamplingParams {
            logit_bias: [(forbidden, -100.0)].into(),
            ..SamplingParams::greedy(4)
        },
    );
    assert!(!other.text.starts_with(&step.text), "{}", other.text);

    // Stop strings, and a schema.
    let stopped = answer(
        &engine,
        question,
        SamplingParams {
            stop: vec!["intelligent".to_owned()],
            ..SamplingParams::greedy(40)
        },
    );
    assert_eq!(stopped.finish, FinishReason::Stop);
    assert!(!stopped.text.contains("intelligent") && free.text.starts_with(&stopped.text));
    let schema = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":20}},"required":["city"],
        "additionalProperties":false}"#;
    let json = answer(
        &engine,
        question,
        SamplingParams {
            constraint: Some(Constraint::JsonSchema(schema.to_owned())),
            ..SamplingParams::greedy(60)
        },
    );
    let value: serde_json::Value = serde_json::from_str(&json.text).expect(&json.text);
    assert!(value["city"].is_string(), "{value}");

    // Two answers at once, and one that is dropped makes room.
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| answer(&engine, question, SamplingParams::greedy(24)).text))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        together.iter().all(|text| text.contains("Cats")),
        "{together:?}"
    );

    // What the server refuses comes with its words.
    assert!(matches!(
        engine.embed(&["a".to_owned()], Pooling::Mean),
        Err(EngineError::Upstream(UpstreamError::Refused {
            status: 501,
            ..
        }))
    ));

    // Another model's file is noticed before the first answer.
    let other = UpstreamEngine::connect(config(&server), tiny_model()).map(|_| ());
    assert!(matches!(
        other,
        Err(EngineError::Upstream(UpstreamError::OtherVocabulary { .. }))
    ));

    // The server dies in the middle of an answer.
    let prompt = engine
        .prepare(&ask("Count from one to two hundred."))
        .unwrap();
    let mut generation = engine
        .start(Request::new(prompt.clone(), SamplingParams::greedy(900)))
        .unwrap();
    generation.step().unwrap();
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let error = loop {
        match generation.step() {
            Ok(step) => assert_eq!(step.finish, None),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, EngineError::Upstream(UpstreamError::Cut { .. })),
        "{error:?}"
    );
    let next = engine
        .start(Request::new(prompt, SamplingParams::greedy(9)))
        .unwrap()
        .step();
    assert!(
        matches!(
            next,
            Err(EngineError::Upstream(UpstreamError::Unreachable { .. }))
        ),
        "{next:?}"
    );
}

#[test]
fn a_real_server_embeds_texts_nearer_to_their_likes() {
    let Some((server, local)) = server(&["--embeddings"]) else {
        return;
    };
    let engine = UpstreamEngine::connect(config(&server), local).unwrap();
    let texts = [
        "The cat sat on the mat.",
        "The cat sat on a mat.",
        "Interest rates rose by a quarter of a percent.",
    ]
    .map(str::to_owned);
    let (embeddings, tokens) = engine.embed(&texts, Pooling::Mean).unwrap();
    assert_eq!(embeddings.len(), 3);
    assert!(
        embeddings
            .iter()
            .all(|e| e.len() == engine.describe().embedding_width as usize)
    );
    let near = |a: usize, b: usize| -> f32 {
        embeddings[a]
            .iter()
            .zip(&embeddings[b])
            .map(|(x, y)| x * y)
            .sum()
    };
    assert!((near(0, 0) - 1.0).abs() < 1e-4);
    assert!(near(0, 1) > near(0, 2), "{} {}", near(0, 1), near(0, 2));
    assert!((15..45).contains(&tokens), "{tokens}");
}
