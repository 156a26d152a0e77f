//! A model that is served: the owner's end of the thread.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::answer::{Answer, Words};
use super::clients::Client;
use super::embedding::{self, EmbeddingReader, EmbeddingResult, Pool};
use super::plan::{Limits, Wish, capacity, limit};
use super::reader::{self, BatchGeneration};
use super::scheduler::Scheduler;
use super::sequence::Work;
use super::stats::{Board, ServingStats};
use super::thread::{Active, Product, Server, Submission};
use super::{Model, ModelShape};
use crate::sampling::{Grammars, Sampler, TokenBytes};
use crate::stream::TextStream;
use crate::{EngineError, Pooling, Request};

/// Threads that choose tokens, unless said otherwise.
const MAX_CHOOSERS: usize = 8;

/// How a model is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingOptions {
    /// How much is done at once, and how much waits.
    pub limits: Limits,
    /// Threads that choose tokens from the logits of a large pass.
    pub choosers: usize,
}

impl ServingOptions {
    /// What suits a model with this many pages.
    pub fn for_pages(pages: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            limits: Limits::for_pages(pages),
            choosers: cores.min(MAX_CHOOSERS),
        }
    }
}

/// A model that is served. Dropping it stops the thread, after the pass that is being computed.
pub struct BatchEngine {
    inbox: SyncSender<Submission>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    board: Arc<Board>,
    seats: Arc<Seats>,
    grammars: Grammars,
    shape: ModelShape,
}

/// Sequences there may be at once, and how many there are.
#[derive(Debug)]
pub(crate) struct Seats {
    limits: Limits,
    taken: AtomicUsize,
}

/// One of them. It is given back when the sequence is over, before its reader hears of it.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

impl Seats {
    fn take(self: &Arc<Self>) -> Result<Seat, EngineError> {
        let all = self.limits.all_sequences();
        let more = |taken: usize| (taken < all).then(|| taken.saturating_add(1));
        match self
            .taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
        {
            Ok(_) => Ok(Seat(Arc::clone(self))),
            Err(_) => Err(EngineError::QueueFull {
                waiting: self.limits.max_waiting,
            }),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BatchEngine {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`EngineError::Inconsistent`] for limits with which nothing could run, [`EngineError::Thread`].
    pub fn new(
        model: Box<dyn Model>,
        vocabulary: Arc<dyn TokenBytes + Send + Sync>,
        options: ServingOptions,
    ) -> Result<Self, EngineError> {
        let shape = model.shape();
        let limits = options.limits;
        let scheduler = Scheduler::new(shape, limits)?;
        // Whoever submits has a seat, so this much room is always enough.
        let (inbox, submissions) = sync_channel(limits.all_sequences());
        let stop = Arc::new(AtomicBool::new(false));
        let board = Arc::new(Board::default());
        board.write(ServingStats::of(&scheduler));
        let server = Server::new(
            model,
            Words::new(Arc::clone(&vocabulary)),
            scheduler,
            submissions,
            options.choosers,
            Arc::clone(&stop),
            Arc::clone(&board),
        );
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || server.run())
            .map_err(EngineError::Thread)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            stop,
            board,
            seats: Arc::new(Seats {
                limits,
                taken: AtomicUsize::new(0),
            }),
            grammars: Grammars::new(vocabulary),
            shape,
        })
    }

    /// The state after the last pass.
    pub fn stats(&self) -> ServingStats {
        self.board.read()
    }

    /// Most tokens of prompt and answer together: what context and cache hold.
    pub fn capacity(&self) -> usize {
        capacity(self.shape)
    }

    /// Puts an answer in the queue.
    ///
    /// # Errors
    /// [`EngineError::Parameter`], [`EngineError::EmptyPrompt`], [`EngineError::ContextTooLong`],
    /// [`EngineError::UnknownToken`], [`EngineError::Constraint`], [`EngineError::QueueFull`],
    /// [`EngineError::Stopped`].
    pub fn start(&self, request: Request) -> Result<BatchGeneration, EngineError> {
        let Request {
            prompt,
            params,
            scope,
        } = request;
        params.check()?;
        let wish = Wish {
            tokens: prompt.tokens,
            work: Work::Answer,
            max_tokens: usize::try_from(params.max_tokens).unwrap_or(usize::MAX),
            scope,
            client: Client::from(scope),
        };
        self.check(&wish)?;
        let seat = self.seats.take()?;
        let seed = match params.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(EngineError::Entropy)?,
        };
        let constraint = params.constraint.as_ref();
        let constraint = constraint.map(|c| self.grammars.compile(c)).transpose()?;
        let thread = self.thread.as_ref().ok_or(EngineError::Stopped)?.thread();
        let (writer, generation) = reader::channel(thread.clone());
        let answer = Answer {
            sampler: Sampler::new(&params, &wish.tokens, seed, constraint),
            stream: TextStream::new(params.stop),
            writer,
            left: wish.max_tokens,
        };
        self.submit(wish, Product::Answer(Box::new(answer)), seat)?;
        Ok(generation)
    }

    /// The embedding of each text, of length 1. Texts are read at once as far as there is room for them.
    /// Blocks.
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`], [`EngineError::ContextTooLong`], [`EngineError::UnknownToken`],
    /// [`EngineError::QueueFull`], [`EngineError::Stopped`].
    pub fn embed(
        &self,
        texts: &[Vec<u32>],
        pooling: Pooling,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let wishes = texts.iter().map(|tokens| Wish {
            tokens: tokens.clone(),
            work: Work::Embedding(pooling),
            max_tokens: 0,
            scope: None,
            client: Client::from(None),
        });
        // None is begun if one of them cannot be.
        wishes.clone().try_for_each(|wish| self.check(&wish))?;
        let mut embeddings = Vec::with_capacity(texts.len());
        let mut under_way = VecDeque::new();
        for wish in wishes {
            // As many as can run at once; what others have in the queue must not be crowded out.
            if under_way.len() >= self.seats.limits.max_sequences {
                embeddings.extend(wait_for_first(&mut under_way).transpose()?);
            }
            let seat = loop {
                match self.seats.take() {
                    Ok(seat) => break seat,
                    Err(full) => match wait_for_first(&mut under_way) {
                        Some(embedding) => embeddings.push(embedding?),
                        None => return Err(full),
                    },
                }
            };
            let (writer, reader) = embedding::channel();
            let pool = Pool::new(pooling, wish.tokens.len());
            self.submit(wish, Product::Embedding(pool, writer), seat)?;
            under_way.push_back(reader);
        }
        while let Some(embedding) = wait_for_first(&mut under_way) {
            embeddings.push(embedding?);
        }
        Ok(embeddings)
    }

    fn check(&self, wish: &Wish) -> Result<(), EngineError> {
        limit(self.capacity(), wish)?;
        let vocabulary = self.shape.vocabulary;
        let known = |token: u32| usize::try_from(token).is_ok_and(|token| token < vocabulary);
        match wish.tokens.iter().find(|token| !known(**token)) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }

    fn submit(&self, wish: Wish, product: Product, seat: Seat) -> Result<(), EngineError> {
        let active = Active::new(product, seat);
        match self.inbox.try_send(Submission { wish, active }) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => return Err(EngineError::Stopped),
            Err(TrySendError::Full(_)) => {
                debug_assert!(false, "whoever has a seat finds room");
                return Err(EngineError::QueueFull {
                    waiting: self.seats.limits.max_waiting,
                });
            }
        }
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        Ok(())
    }
}

impl Drop for BatchEngine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has said what it had to say if it panicked.
            let _ = thread.join();
        }
    }
}

fn wait_for_first(under_way: &mut VecDeque<EmbeddingReader>) -> Option<EmbeddingResult> {
    let first = under_way.pop_front()?;
    Some(first.wait())
}
