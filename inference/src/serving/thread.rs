//! One thread owns the model and serves all answers.
//!
//! It loops: take what has been submitted, drop what nobody reads any more, plan, let the model compute,
//! choose tokens, hand them out. It never waits for a reader, and sleeps while there is nothing to do.
//!
//! **When something breaks.** An error of the model ends the answers that were in that pass, each with the
//! error. A panic ends the thread, and with it all answers with [`EngineError::Stopped`]; nothing else in
//! the process is touched.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::answer::{Answer, Words};
use super::clients::{Client, SequenceId};
use super::embedding::Pool;
use super::plan::{Entry, Limits, Outcome, Part, Wish, capacity, limit};
use super::reader::{self, BatchGeneration};
use super::scheduler::Scheduler;
use super::sequence::Work;
use super::stats::{Board, ServingStats};
use super::{Model, ModelShape, Outputs, Wanted};
use crate::sampling::{Grammars, Sampler, TokenBytes};
use crate::stream::TextStream;
use crate::{EngineError, Pooling, Request, Step};

/// Logits in one pass from which on it pays to choose tokens on several threads.
const MANY_LOGITS: usize = 1 << 19;
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
struct Seats {
    limits: Limits,
    taken: AtomicUsize,
}

/// One of them. It is given back when the sequence is over, before its reader hears of it.
#[derive(Debug)]
struct Seat(Arc<Seats>);

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

/// What the thread is asked for.
struct Submission {
    wish: Wish,
    active: Active,
}

/// A sequence of the scheduler, with what the scheduler need not know.
struct Active {
    product: Product,
    seat: Seat,
    paused: bool,
}

enum Product {
    Answer(Box<Answer>),
    Embedding(Pool, EmbeddingWriter),
}

type EmbeddingResult = Result<Vec<f32>, EngineError>;

struct EmbeddingWriter {
    result: SyncSender<EmbeddingResult>,
    gone: Arc<AtomicBool>,
}

/// An embedding that is waited for. Dropping it cancels it.
struct EmbeddingReader {
    result: Receiver<EmbeddingResult>,
    gone: Arc<AtomicBool>,
}

impl Drop for EmbeddingReader {
    fn drop(&mut self) {
        // The thread looks before its next pass; while it sleeps there is nothing to cancel.
        self.gone.store(true, Ordering::SeqCst);
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
        let server = Server {
            model,
            words: Words::new(Arc::clone(&vocabulary)),
            scheduler,
            active: BTreeMap::new(),
            submissions,
            choosers: options.choosers.max(1),
            stop: Arc::clone(&stop),
            board: Arc::clone(&board),
        };
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
        let mut under_way = std::collections::VecDeque::new();
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
            let (sender, result) = sync_channel(1);
            let gone = Arc::new(AtomicBool::new(false));
            let writer = EmbeddingWriter {
                result: sender,
                gone: Arc::clone(&gone),
            };
            let pool = Pool::new(pooling, wish.tokens.len());
            self.submit(wish, Product::Embedding(pool, writer), seat)?;
            under_way.push_back(EmbeddingReader { result, gone });
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
        let active = Active {
            product,
            seat,
            paused: false,
        };
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

fn wait_for_first(
    under_way: &mut std::collections::VecDeque<EmbeddingReader>,
) -> Option<EmbeddingResult> {
    let first = under_way.pop_front()?;
    Some(first.result.recv().unwrap_or(Err(EngineError::Stopped)))
}

impl Active {
    fn is_gone(&self) -> bool {
        match &self.product {
            Product::Answer(answer) => answer.writer.is_gone(),
            Product::Embedding(_, writer) => writer.gone.load(Ordering::SeqCst),
        }
    }

    /// Ends it with an error.
    fn fail(self, error: EngineError) {
        drop(self.seat);
        match self.product {
            Product::Answer(answer) => answer.writer.send(Err(error)),
            Product::Embedding(_, writer) => {
                let _ = writer.result.try_send(Err(error));
            }
        }
    }
}

/// What one sequence's rows are turned into, on any thread.
struct Job<'a> {
    entry: Entry,
    active: Active,
    guesses: &'a [u32],
    rows: Vec<&'a mut [f32]>,
    outcome: Outcome,
    steps: Vec<Result<Step, EngineError>>,
    embedding: Option<EmbeddingResult>,
}

impl Job<'_> {
    fn run(&mut self, words: &Words) {
        let Entry {
            start,
            rows,
            guesses,
            ..
        } = self.entry;
        let outputs = self.rows.drain(..);
        match &mut self.active.product {
            Product::Answer(_) if outputs.len() == 0 => {}
            Product::Answer(answer) => {
                let first = start.saturating_add(rows).saturating_sub(guesses);
                self.outcome =
                    answer.take(self.guesses, outputs, first as u64, words, &mut self.steps);
            }
            Product::Embedding(pool, _) => {
                self.embedding = pool.take(start, rows, outputs.map(|row| &*row));
                if self.embedding.is_some() {
                    self.outcome = Outcome::Ended;
                }
            }
        }
    }
}

/// The thread's own.
struct Server {
    model: Box<dyn Model>,
    words: Words,
    scheduler: Scheduler,
    active: BTreeMap<SequenceId, Active>,
    submissions: Receiver<Submission>,
    choosers: usize,
    stop: Arc<AtomicBool>,
    board: Arc<Board>,
}

impl Server {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            self.look_around();
            match self.scheduler.plan() {
                Some(plan) => {
                    self.pass(&plan.answers, Work::Answer);
                    self.pass(&plan.embeddings, Work::Embedding(Pooling::Mean));
                }
                None => {
                    self.board.write(ServingStats::of(&self.scheduler));
                    // Whoever changes anything unparks, before this too.
                    thread::park();
                }
            }
        }
    }

    /// Takes what was submitted, drops what nobody waits for, and lets those go on whose readers have read.
    fn look_around(&mut self) {
        while let Ok(Submission { wish, mut active }) = self.submissions.try_recv() {
            match self.scheduler.submit(wish) {
                Err(error) => active.fail(error),
                Ok(ticket) => {
                    if let Product::Answer(answer) = &mut active.product {
                        answer.left = ticket.max_tokens;
                    }
                    self.active.insert(ticket.id, active);
                }
            }
        }
        let scheduler = &mut self.scheduler;
        self.active.retain(|id, active| {
            let gone = active.is_gone();
            if gone {
                scheduler.cancel(*id);
            } else if let Product::Answer(answer) = &active.product
                && active.paused
                && answer.writer.has_room()
            {
                active.paused = false;
                scheduler.resume(*id);
            }
            !gone
        });
    }

    /// Computes one part of a plan and hands out what it brings.
    fn pass(&mut self, part: &Part, work: Work) {
        if part.entries.is_empty() {
            return;
        }
        let outputs = match work {
            Work::Answer => self.model.forward(&part.batch),
            Work::Embedding(_) => self.model.hidden(&part.batch),
        };
        let outputs = outputs.and_then(|outputs| check_rows(part, outputs));
        let Outputs { width, mut values } = match outputs {
            Ok(outputs) => outputs,
            Err(error) => return self.fail(part, error),
        };
        let mut rows = values.chunks_exact_mut(width.max(1));
        let mut jobs = Vec::with_capacity(part.entries.len());
        for (entry, asked) in part.entries.iter().zip(&part.batch.sequences) {
            let rows = rows.by_ref().take(wanted_rows(entry)).collect();
            let Some(active) = self.active.remove(&entry.id) else {
                continue;
            };
            let known = entry.rows.saturating_sub(entry.guesses);
            jobs.push(Job {
                entry: *entry,
                active,
                guesses: asked.tokens.get(known..).unwrap_or_default(),
                rows,
                outcome: Outcome::Read,
                steps: Vec::new(),
                embedding: None,
            });
        }
        self.choose(&mut jobs, values_len(part, width));
        self.hand_out(jobs);
    }

    /// Runs the jobs, on several threads if there is much to do.
    fn choose(&self, jobs: &mut [Job<'_>], logits: usize) {
        let words = &self.words;
        let run = |jobs: &mut [Job<'_>]| jobs.iter_mut().for_each(|job| job.run(words));
        if self.choosers < 2 || jobs.len() < 2 || logits < MANY_LOGITS {
            return run(jobs);
        }
        let share = jobs.len().div_ceil(self.choosers);
        let (own, others) = jobs.split_at_mut(share);
        thread::scope(|scope| {
            for jobs in others.chunks_mut(share) {
                scope.spawn(move || run(jobs));
            }
            run(own);
        });
    }

    /// Tells the scheduler first and the readers last, so that whoever hears that something is over finds
    /// its memory and its place free.
    fn hand_out(&mut self, jobs: Vec<Job<'_>>) {
        let mut letters = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Job {
                entry,
                active,
                outcome,
                steps,
                embedding,
                ..
            } = job;
            let over = outcome == Outcome::Ended;
            self.scheduler.complete(&entry, outcome);
            let Active {
                product,
                seat,
                paused,
            } = active;
            let seat = (!over).then_some(seat);
            letters.push((entry.id, product, seat, paused, steps, embedding));
        }
        self.board.write(ServingStats::of(&self.scheduler));
        for (id, product, seat, mut paused, steps, embedding) in letters {
            match &product {
                Product::Answer(answer) => {
                    steps.into_iter().for_each(|step| answer.writer.send(step));
                    if seat.is_some() && answer.writer.is_full() {
                        paused = true;
                        self.scheduler.pause(id);
                    }
                }
                Product::Embedding(_, writer) => {
                    if let Some(embedding) = embedding {
                        let _ = writer.result.try_send(embedding);
                    }
                }
            }
            if let Some(seat) = seat {
                let active = Active {
                    product,
                    seat,
                    paused,
                };
                self.active.insert(id, active);
            }
        }
    }

    /// Ends all answers of a part with what the model said.
    fn fail(&mut self, part: &Part, error: EngineError) {
        tracing::error!(%error, sequences = part.entries.len(), "a forward pass failed");
        let error = Arc::new(error);
        for entry in &part.entries {
            self.scheduler.cancel(entry.id);
        }
        self.board.write(ServingStats::of(&self.scheduler));
        for entry in &part.entries {
            if let Some(active) = self.active.remove(&entry.id) {
                active.fail(EngineError::Pass(Arc::clone(&error)));
            }
        }
    }
}

fn wanted_rows(entry: &Entry) -> usize {
    match entry.wanted {
        Wanted::None => 0,
        Wanted::Last => 1,
        Wanted::All => entry.rows,
    }
}

fn values_len(part: &Part, width: usize) -> usize {
    let rows: usize = part.entries.iter().map(wanted_rows).sum();
    rows.saturating_mul(width)
}

/// The model must have brought what was asked for.
fn check_rows(part: &Part, outputs: Outputs) -> Result<Outputs, EngineError> {
    let wanted = values_len(part, outputs.width);
    if outputs.values.len() == wanted {
        Ok(outputs)
    } else {
        Err(EngineError::Inconsistent {
            what: "outputs and wanted rows",
            left: outputs.values.len(),
            right: wanted,
        })
    }
}
