//! The engine actor: runs jobs, a bounded number at once.
//!
//! A step of the model takes tens of milliseconds, so each answer has a thread of its own that waits
//! for it, and speaks through its job's bounded channel. A reader that pauses (its credit window is empty)
//! pauses the model; a reader that goes away ends it within one step.

use crate::ask::{Ask, Named, Query};
use crate::job::chat::EMBEDDING_OUTPUT_TOKENS;
use crate::job::embedding::{self, EmbeddingError};
use actix::prelude::*;
use cocoon_inference::sampling::seed_of_choice;
use cocoon_inference::{
    CacheScope, Engine as Model, EngineError, FinishReason, Generation, Message as ChatMessage,
    Pooling, Request, SamplingParams, Step,
};
use cocoon_protocol::Digest;
use cocoon_protocol::job::MAX_TEXT_BYTES;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::debug;

/// Steps that may wait for a generation's reader before the model pauses.
pub const MAX_WAITING_STEPS: usize = 16;
/// Pause before an answer beside others of its job tries again to get into the engine's queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// See the module's doc.
pub struct Engine {
    model: Arc<dyn Model>,
    limit: u16,
    slots: Arc<Semaphore>,
}

impl Engine {
    /// An engine actor that runs at most `slots` generations at once.
    #[must_use]
    pub fn new(model: Arc<dyn Model>, slots: u16) -> Self {
        Self {
            model,
            limit: slots,
            slots: Arc::new(Semaphore::new(usize::from(slots))),
        }
    }
}

impl Named for Engine {
    const NAME: &'static str = "engine";
}
impl Actor for Engine {
    type Context = Context<Self>;
}
impl Supervised for Engine {}

impl Handler<crate::supervision::Stop> for Engine {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// A step of one of a job's answers.
#[derive(Debug)]
pub struct Said {
    /// Which answer, counted from 0.
    pub choice: u8,
    /// What came.
    pub step: Step,
}

/// A job that the engine has begun.
#[derive(Debug)]
pub struct Started {
    /// Tokens that were read: of the prompt, template included, or of all texts.
    pub prompt_tokens: u32,
    /// Digest of the tokenizer that counted, where the engine has one.
    pub tokenizer: Option<Digest>,
    /// The steps. Each answer's end with one that has a finish reason; an error ends all. Dropping
    /// this ends them.
    pub steps: mpsc::Receiver<Result<Said, EngineError>>,
    /// Errs once all of it has ended and its slot is free. Nothing is ever sent.
    pub ended: oneshot::Receiver<Infallible>,
}

type Steps = mpsc::Sender<Result<Said, EngineError>>;

/// Why a generation did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Every slot is taken.
    #[error("all {slots} slots of the engine are busy")]
    Busy {
        /// Slots of the engine.
        slots: u16,
    },
    /// The prompt has more tokens than were agreed.
    #[error("the prompt has {tokens} tokens; {limit} were agreed")]
    TooLong {
        /// Tokens of the prompt.
        tokens: u32,
        /// The offer's limit.
        limit: u32,
    },
    /// The engine refused the request.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The embeddings do not fit into an answer.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
}

/// Begins the answers to a conversation.
pub struct Generate {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// How to sample.
    pub sampling: SamplingParams,
    /// Most prompt tokens the offer allows.
    pub max_prompt_tokens: u32,
    /// Answers that are wanted, at least 1. All of a job's answers take one slot together.
    pub choices: u8,
    /// Whose cached prompt beginnings may be used.
    pub scope: Option<CacheScope>,
}

/// Sizes only, never content.
impl std::fmt::Debug for Generate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generate({} messages)", self.messages.len())
    }
}

impl Query for Generate {
    type Answer = Result<Started, StartError>;
}
impl Handler<Ask<Generate>> for Engine {
    type Result = ();
    fn handle(&mut self, asked: Ask<Generate>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return reply.send(Err(StartError::Busy { slots: self.limit }));
        };
        let model = Arc::clone(&self.model);
        // Tokenising a long prompt and compiling a schema are work too, so the thread begins with them.
        tokio::task::spawn_blocking(move || match prepare(model.as_ref(), query) {
            Err(error) => {
                drop(slot);
                reply.send(Err(error));
            }
            Ok(prepared) => {
                let (steps, received) = mpsc::channel(MAX_WAITING_STEPS);
                let (ending, ended) = oneshot::channel();
                reply.send(Ok(Started {
                    prompt_tokens: prepared.prompt_tokens,
                    tokenizer: model.describe().tokenizer,
                    steps: received,
                    ended,
                }));
                let held = Arc::new(Held {
                    slot: Some(slot),
                    _ending: ending,
                });
                generate(&model, prepared, &steps, &held);
            }
        });
    }
}

/// What a job has for as long as any of its answers is being made. The slot is free before the end is told.
struct Held {
    slot: Option<OwnedSemaphorePermit>,
    _ending: oneshot::Sender<Infallible>,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.slot.take());
    }
}

/// A job whose first answer is in the engine's queue.
struct Prepared {
    prompt_tokens: u32,
    first: Box<dyn Generation + Send>,
    /// The requests for the other answers.
    others: Vec<Request>,
}

fn prepare(model: &dyn Model, query: Generate) -> Result<Prepared, StartError> {
    let prompt = model.prepare(&query.messages)?;
    let prompt_tokens = within(prompt.tokens.len(), query.max_prompt_tokens)?;
    let request = |choice: u8, base: Option<u64>| Request {
        prompt: prompt.clone(),
        params: SamplingParams {
            seed: base.map(|base| seed_of_choice(base, u32::from(choice))),
            ..query.sampling.clone()
        },
        scope: query.scope,
    };
    // Several answers without a seed must differ all the same.
    let several = query.choices > 1;
    let base = query.sampling.seed.or_else(|| several.then(rand::random));
    let first = model.start(request(0, base))?;
    Ok(Prepared {
        prompt_tokens,
        first,
        others: (1..query.choices)
            .map(|choice| request(choice, base))
            .collect(),
    })
}

fn within(tokens: usize, limit: u32) -> Result<u32, StartError> {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    if tokens > limit {
        return Err(StartError::TooLong { tokens, limit });
    }
    Ok(tokens)
}

/// Runs the first answer on this thread, and the others, once it has read the prompt, on theirs: they find it
/// in the cache.
fn generate(model: &Arc<dyn Model>, prepared: Prepared, steps: &Steps, held: &Arc<Held>) {
    let mut others = Some(prepared.others);
    run(0, prepared.first, steps, |step| {
        let has_read = step.tokens > 0 || step.finish.is_some();
        for (choice, request) in (1..).zip(others.take_if(|_| has_read).into_iter().flatten()) {
            let (model, steps, held) = (Arc::clone(model), steps.clone(), Arc::clone(held));
            tokio::task::spawn_blocking(move || {
                match start_patiently(model.as_ref(), &request, &steps) {
                    Ok(Some(generation)) => run(choice, generation, &steps, |_| {}),
                    Ok(None) => {}
                    Err(error) => {
                        let _ = steps.blocking_send(Err(error));
                    }
                }
                drop(held);
            });
        }
    });
}

/// The engine's queue may be full of others' answers, and the first answer is on its way already. `None` when
/// the reader has gone meanwhile.
fn start_patiently(
    model: &dyn Model,
    request: &Request,
    steps: &Steps,
) -> Result<Option<Box<dyn Generation + Send>>, EngineError> {
    while !steps.is_closed() {
        match model.start(request.clone()) {
            Err(EngineError::QueueFull { .. }) => std::thread::sleep(QUEUE_PAUSE),
            started => return started.map(Some),
        }
    }
    Ok(None)
}

fn run(
    choice: u8,
    mut generation: Box<dyn Generation + Send>,
    steps: &Steps,
    mut on_step: impl FnMut(&Step),
) {
    loop {
        if steps.is_closed() {
            debug!("generation cancelled");
            return;
        }
        let step = generation.step();
        let last = match &step {
            Ok(step) => step.finish.is_some(),
            Err(_) => true,
        };
        if let Ok(step) = &step {
            on_step(step);
        }
        let said = step.map(|step| Said { choice, step });
        if steps.blocking_send(said).is_err() || last {
            return;
        }
    }
}

/// Computes the embeddings of texts. The answer's steps are [`embedding::encode`]'s text in pieces, and the
/// last of them has the one token that they count as.
pub struct Embed {
    /// The texts.
    pub texts: Vec<String>,
    /// How.
    pub pooling: Pooling,
    /// No fewer tokens than all texts can have.
    pub most_tokens: u32,
    /// Most tokens the offer allows.
    pub max_prompt_tokens: u32,
}

/// Sizes only, never content.
impl std::fmt::Debug for Embed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embed({} texts)", self.texts.len())
    }
}

impl Query for Embed {
    type Answer = Result<Started, StartError>;
}
impl Handler<Ask<Embed>> for Engine {
    type Result = ();
    fn handle(&mut self, asked: Ask<Embed>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return reply.send(Err(StartError::Busy { slots: self.limit }));
        };
        let model = Arc::clone(&self.model);
        tokio::task::spawn_blocking(move || {
            let embedded = embed(model.as_ref(), &query);
            // The engine has done its part; the pieces wait in memory for their reader.
            drop(slot);
            match embedded {
                Err(error) => reply.send(Err(error)),
                Ok((text, prompt_tokens)) => {
                    let (steps, received) = mpsc::channel(MAX_WAITING_STEPS);
                    let (_ending, ended) = oneshot::channel();
                    reply.send(Ok(Started {
                        prompt_tokens,
                        tokenizer: model.describe().tokenizer,
                        steps: received,
                        ended,
                    }));
                    say(&text, &steps);
                }
            }
        });
    }
}

fn embed(model: &dyn Model, query: &Embed) -> Result<(String, u32), StartError> {
    let (embeddings, tokens) = if query.most_tokens <= query.max_prompt_tokens {
        model.embed(&query.texts, query.pooling)?
    } else {
        // Too many tokens are known only afterwards: at most one text is read in vain.
        let (mut all, mut tokens) = (Vec::new(), 0_u32);
        for text in &query.texts {
            let (mut one, read) = model.embed(std::slice::from_ref(text), query.pooling)?;
            tokens = tokens.saturating_add(read);
            within(tokens as usize, query.max_prompt_tokens)?;
            all.append(&mut one);
        }
        (all, tokens)
    };
    within(tokens as usize, query.max_prompt_tokens)?;
    Ok((embedding::encode(&embeddings)?, tokens))
}

fn say(text: &str, steps: &Steps) {
    let mut rest = text;
    loop {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(MAX_TEXT_BYTES));
        let last = more.is_empty();
        let step = Step {
            text: piece.to_owned(),
            tokens: if last { EMBEDDING_OUTPUT_TOKENS } else { 0 },
            // The one token that they are paid as is none of the vocabulary.
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: last.then_some(FinishReason::Stop),
        };
        if steps.blocking_send(Ok(Said { choice: 0, step })).is_err() || last {
            return;
        }
        rest = more;
    }
}
