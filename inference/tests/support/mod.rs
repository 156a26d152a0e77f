//! What the tests of this room share: where the real model lies, and a tiny model made on the spot.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod tiny;

use std::path::PathBuf;

use cocoon_inference::{Engine, FinishReason, Generation, Message, Request, Role, SamplingParams};

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
