//! The engine actor: runs generations, a bounded number at once.
//!
//! A step of the model takes tens of milliseconds of CPU, so each generation has a thread of its
//! own and speaks through a bounded channel. A reader that pauses (its credit window is empty)
//! pauses the model; a reader that goes away ends it within one step.

use crate::ask::{Ask, Named, Query};
use actix::prelude::*;
use cocoon_inference::{
    Engine as Model, EngineError, Message as ChatMessage, Prompt, Request, SamplingParams, Step,
};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

/// Steps that may wait for a generation's reader before the model pauses.
pub const MAX_WAITING_STEPS: usize = 16;

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

/// A generation that has begun.
#[derive(Debug)]
pub struct Started {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// The steps, ending with one that has a finish reason, or with an error. Dropping this ends
    /// the generation.
    pub steps: mpsc::Receiver<Result<Step, EngineError>>,
    /// Errs once the generation has ended and its slot is free. Nothing is ever sent.
    pub ended: oneshot::Receiver<Infallible>,
}

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
    /// The engine refused the messages.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Begins a generation.
pub struct Generate {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// How to sample.
    pub sampling: SamplingParams,
    /// Most prompt tokens the offer allows.
    pub max_prompt_tokens: u32,
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
        // Tokenising a long prompt is work too, so the thread begins with it.
        tokio::task::spawn_blocking(move || match prepare(model.as_ref(), &query) {
            Err(error) => {
                drop(slot);
                reply.send(Err(error));
            }
            Ok((prompt, prompt_tokens)) => {
                let (sender, steps) = mpsc::channel(MAX_WAITING_STEPS);
                let (_ending, ended) = oneshot::channel();
                reply.send(Ok(Started {
                    prompt_tokens,
                    steps,
                    ended,
                }));
                generate(model.as_ref(), prompt, query.sampling, &sender);
                drop(slot);
            }
        });
    }
}

fn prepare(model: &dyn Model, query: &Generate) -> Result<(Prompt, u32), StartError> {
    let prompt = model.prepare(&query.messages)?;
    let tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
    if tokens > query.max_prompt_tokens {
        return Err(StartError::TooLong {
            tokens,
            limit: query.max_prompt_tokens,
        });
    }
    Ok((prompt, tokens))
}

fn generate(
    model: &dyn Model,
    prompt: Prompt,
    sampling: SamplingParams,
    steps: &mpsc::Sender<Result<Step, EngineError>>,
) {
    let mut generation = match model.start(Request::new(prompt, sampling)) {
        Ok(generation) => generation,
        Err(error) => {
            let _ = steps.blocking_send(Err(error));
            return;
        }
    };
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
        if steps.blocking_send(step).is_err() || last {
            return;
        }
    }
}
