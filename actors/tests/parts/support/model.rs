//! A model that says what a test wants, when the test wants it.

use cocoon_inference::{
    Engine, EngineError, FinishReason, Generation, Message, ModelInfo, Pooling, Prompt, Request,
    Step,
};
use cocoon_protocol::Digest;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

pub const MODEL: &str = "scripted";
pub const CONTEXT_TOKENS: u32 = 512;

pub fn digest() -> Digest {
    Digest::sha256(b"scripted weights")
}

/// Says `words` words of one token each. A prompt has a token for each of its words.
pub struct Scripted {
    info: ModelInfo,
    words: usize,
    gate: Arc<Gate>,
    /// Steps computed, over all generations.
    pub steps: Arc<AtomicUsize>,
    /// Generations that were dropped.
    pub dropped: Arc<AtomicUsize>,
}

/// How many more steps may be computed.
pub struct Gate {
    allowed: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// Lets so many more steps through.
    pub fn allow(&self, steps: usize) {
        *self.allowed.lock().unwrap() += steps;
        self.changed.notify_all();
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        *self.allowed.lock().unwrap() = usize::MAX;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut allowed = self.allowed.lock().unwrap();
        while *allowed == 0 {
            allowed = self.changed.wait(allowed).unwrap();
        }
        *allowed -= 1;
    }
}

impl Scripted {
    /// A model that computes whenever it is asked to.
    pub fn of(words: usize) -> Self {
        Self::gated(words, usize::MAX).0
    }

    /// A model that computes `allowed` steps, and then as many as the gate lets through.
    pub fn gated(words: usize, allowed: usize) -> (Self, Arc<Gate>) {
        let gate = Arc::new(Gate {
            allowed: Mutex::new(allowed),
            changed: Condvar::new(),
        });
        let scripted = Self {
            info: ModelInfo {
                id: MODEL.to_owned(),
                digest: digest(),
                context_tokens: CONTEXT_TOKENS,
                weights_bytes: 0,
                bytes_per_token: 0,
                weights_per_token: 0,
                cache_bytes_per_token: 0,
                cache_tokens: 0,
                embedding_width: 0,
                runs_on: String::new(),
            },
            words,
            gate: Arc::clone(&gate),
            steps: Arc::default(),
            dropped: Arc::default(),
        };
        (scripted, gate)
    }

    /// What it says.
    pub fn answer(words: usize) -> String {
        (0..words).map(word).collect()
    }
}

fn word(number: usize) -> String {
    format!("word{number} ")
}

impl Engine for Scripted {
    fn describe(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        let words = messages
            .iter()
            .flat_map(|message| message.content.split_whitespace());
        Ok(Prompt {
            tokens: words.map(|_| 1).collect(),
        })
    }

    fn embed(&self, _: &[String], _: Pooling) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        unreachable!("no test asks for one")
    }

    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        let params = request.params;
        Ok(Box::new(Saying {
            said: 0,
            words: self.words,
            limit: usize::try_from(params.max_tokens).unwrap(),
            gate: Arc::clone(&self.gate),
            steps: Arc::clone(&self.steps),
            dropped: Arc::clone(&self.dropped),
        }))
    }
}

struct Saying {
    said: usize,
    words: usize,
    limit: usize,
    gate: Arc<Gate>,
    steps: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Generation for Saying {
    fn step(&mut self) -> Result<Step, EngineError> {
        self.gate.pass();
        self.steps.fetch_add(1, Ordering::SeqCst);
        if self.said == self.words {
            // The end of the turn: no text, no token.
            return Ok(Step {
                text: String::new(),
                tokens: 0,
                logprobs: Vec::new(),
                finish: Some(FinishReason::Stop),
            });
        }
        let text = word(self.said);
        self.said += 1;
        Ok(Step {
            text,
            tokens: 1,
            logprobs: Vec::new(),
            finish: (self.said == self.limit).then_some(FinishReason::Length),
        })
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
