//! A model that says what a test wants, when the test wants it.

use cocoon_inference::{
    Constraint, Engine, EngineError, FinishReason, Generation, Message, ModelInfo, Pooling,
    PositionLogprobs, Prompt, Request, Step, TokenLogprob,
};
use cocoon_protocol::Digest;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

pub const MODEL: &str = "scripted";
pub const CONTEXT_TOKENS: u32 = 512;

pub fn digest() -> Digest {
    Digest::sha256(b"scripted weights")
}

/// A regular expression that it cannot follow.
pub const BAD_REGEX: &str = "[";
/// A text of which it makes no embedding.
pub const NOT_EMBEDDED: &str = "no embedding of this";

/// Says `words` words of one token each, with its seed before them if it is given one. A prompt has a token
/// for each of its words, and so has a text to embed.
pub struct Scripted {
    info: ModelInfo,
    words: usize,
    gate: Arc<Gate>,
    /// Steps computed, over all generations.
    pub steps: Arc<AtomicUsize>,
    /// Generations that were dropped.
    pub dropped: Arc<AtomicUsize>,
    /// What it was asked for.
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Texts in each call for embeddings.
    pub embedded: Arc<Mutex<Vec<usize>>>,
    width: usize,
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
                tokenizer: Some(tokenizer()),
                runs_on: String::new(),
            },
            words,
            gate: Arc::clone(&gate),
            steps: Arc::default(),
            dropped: Arc::default(),
            requests: Arc::default(),
            embedded: Arc::default(),
            width: 3,
        };
        (scripted, gate)
    }

    /// A model whose embeddings have so many numbers.
    pub fn embedding_in(width: usize) -> Self {
        Self {
            width,
            ..Self::of(0)
        }
    }

    /// What it says.
    pub fn answer(words: usize) -> String {
        (0..words).map(word).collect()
    }
}

/// What its receipts call its tokenizer.
pub fn tokenizer() -> Digest {
    Digest::from_bytes([0x70; 32])
}

/// The embedding of a text: as its words, its length, and the pooling say.
pub fn embedding(text: &str, pooling: Pooling, width: usize) -> Vec<f32> {
    let words = u16::try_from(text.split_whitespace().count()).unwrap();
    let sign = if pooling == Pooling::Mean { 1.0 } else { -1.0 };
    let mut numbers = vec![f32::from(words) * sign; width];
    numbers[0] = f32::from(u16::try_from(text.len()).unwrap());
    numbers
}

/// The log-probabilities of a word.
pub fn likely(word: &str, top: u8) -> PositionLogprobs {
    let candidate = |text: String, logprob| TokenLogprob {
        token: 1,
        bytes: text.into_bytes(),
        logprob,
    };
    PositionLogprobs {
        chosen: candidate(word.to_owned(), -0.5),
        top: (0..top)
            .map(|at| candidate(format!("other{at}"), -1.0 - f32::from(at)))
            .collect(),
    }
}

pub fn word(number: usize) -> String {
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

    fn embed(
        &self,
        texts: &[String],
        pooling: Pooling,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        self.embedded.lock().unwrap().push(texts.len());
        if texts.iter().any(|text| text == NOT_EMBEDDED) {
            return Err(EngineError::Unsupported {
                feature: "embeddings",
                found: "nothing".to_owned(),
            });
        }
        let words = texts.iter().map(|text| text.split_whitespace().count());
        let tokens = u32::try_from(words.sum::<usize>()).unwrap();
        let numbers = texts
            .iter()
            .map(|text| embedding(text, pooling, self.width));
        Ok((numbers.collect(), tokens))
    }

    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        self.requests.lock().unwrap().push(request.clone());
        let params = request.params;
        if params.constraint == Some(Constraint::Regex(BAD_REGEX.to_owned())) {
            return Err(EngineError::Constraint {
                message: "unclosed character class".to_owned(),
            });
        }
        Ok(Box::new(Saying {
            before: params.seed.map_or(String::new(), |seed| format!("{seed}.")),
            top: params.logprobs,
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
    before: String,
    top: Option<u8>,
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
                ids: Vec::new(),
                logprobs: Vec::new(),
                finish: Some(FinishReason::Stop),
            });
        }
        let text = format!("{}{}", self.before, word(self.said));
        // The number of the word. Without a vocabulary it is as good as any.
        let id = u32::try_from(self.said).unwrap();
        let logprobs = self.top.map(|top| likely(&text, top));
        self.said += 1;
        Ok(Step {
            text,
            tokens: 1,
            ids: vec![id],
            logprobs: logprobs.into_iter().collect(),
            finish: (self.said == self.limit).then_some(FinishReason::Length),
        })
    }
}

impl Drop for Saying {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
