//! What the tests of this room share: where the real model lies, and a tiny model made on the spot.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod tiny;

use std::path::PathBuf;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::serving::{Batch, Model, Rows, Wanted};
use cocoon_inference::{
    BurnEngine, CacheRoom, Decoder, Engine, EngineError, EngineOptions, FinishReason, Generation,
    Message, Request, Role, SamplingParams, Target,
};

/// The file that `scripts/fetch-model.sh` puts there.
pub const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Where `scripts/fetch-model.sh` puts the model.
pub fn model_path() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("COCOON_MODELS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon").join("models"))
    })?;
    Some(directory.join(MODEL)).filter(|path| path.is_file())
}

/// Options for small models: one thread, a small cache.
pub fn small() -> EngineOptions {
    EngineOptions {
        target: Target::Processor { threads: 1 },
        cache: CacheRoom::Tokens(4_096),
        ..EngineOptions::default()
    }
}

/// The engine of a GGUF file's bytes.
pub fn engine_of(bytes: Vec<u8>) -> Result<BurnEngine, EngineError> {
    let checkpoint = Checkpoint::from_gguf_bytes("tiny", bytes)?;
    BurnEngine::from_checkpoint(&checkpoint, &small(), "tiny")
}

/// Natural logarithms of the probabilities of the answer's tokens, each after the prompt and the answer's
/// tokens before it. The prompt is read at once and the answer token by token.
pub fn score(model: &mut Decoder, prompt: &[u32], answer: &[u32]) -> Vec<f32> {
    let pages: Vec<u32> = (0..model.shape().pages as u32).collect();
    let mut forward = |tokens: &[u32], start: usize| {
        let rows = Rows {
            tokens: tokens.to_vec(),
            start,
            pages: pages.clone(),
            wanted: Wanted::Last,
        };
        let batch = Batch {
            sequences: vec![rows],
        };
        model.forward(&batch).expect("a forward pass").values
    };
    let mut logits = forward(prompt, 0);
    let mut scores = vec![];
    for (i, &token) in answer.iter().enumerate() {
        scores.push(log_prob(&logits, token));
        if i + 1 < answer.len() {
            logits = forward(&[token], prompt.len() + i);
        }
    }
    scores
}

/// The log-probability of a token.
pub fn log_prob(logits: &[f32], token: u32) -> f32 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    (f64::from(logits[token as usize] - highest) - sum.ln()) as f32
}

/// One user message.
pub fn ask(question: &str) -> Vec<Message> {
    vec![Message {
        role: Role::User,
        content: question.to_owned(),
    }]
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// The text of each step that generated a token.
    pub pieces: Vec<String>,
    pub tokens: u32,
    pub prompt_steps: usize,
    pub finish: FinishReason,
}

/// Steps a generation to its end.
pub fn run(mut generation: Box<dyn Generation + Send>) -> Answer {
    let (mut pieces, mut tokens, mut prompt_steps) = (vec![], 0, 0);
    loop {
        let step = generation.step().expect("a step");
        tokens += step.tokens;
        match (step.tokens, step.finish) {
            (0, None) => prompt_steps += 1,
            _ => pieces.push(step.text),
        }
        if let Some(finish) = step.finish {
            return Answer {
                text: pieces.concat(),
                pieces,
                tokens,
                prompt_steps,
                finish,
            };
        }
    }
}

/// Answers one question.
pub fn answer(engine: &dyn Engine, question: &str, params: SamplingParams) -> Answer {
    let prompt = engine.prepare(&ask(question)).expect("a prompt");
    run(engine
        .start(Request::new(prompt, params))
        .expect("a generation"))
}
