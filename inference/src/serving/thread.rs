//! One thread owns the model and serves all answers.
//!
//! It loops: take what has been submitted, drop what nobody reads any more, plan, let the model compute,
//! choose tokens, hand them out. It never waits for a reader, and sleeps while there is nothing to do.
//!
//! **When something breaks.** An error of the model ends the answers that were in that pass, each with the
//! error. A panic ends the thread, and with it all answers with [`EngineError::Stopped`]; nothing else in
//! the process is touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;

use super::answer::{Answer, Words};
use super::clients::SequenceId;
use super::embedding::{EmbeddingResult, EmbeddingWriter, Pool};
use super::front::Seat;
use super::plan::{Entry, Outcome, Part, Wish};
use super::scheduler::Scheduler;
use super::sequence::Work;
use super::stats::{Board, ServingStats};
use super::{Model, Outputs, Wanted};
use crate::{EngineError, Pooling, Step};

/// Logits in one pass from which on it pays to choose tokens on several threads.
const MANY_LOGITS: usize = 1 << 19;

/// What the thread is asked for.
pub(crate) struct Submission {
    pub(crate) wish: Wish,
    pub(crate) active: Active,
}

/// A sequence of the scheduler, with what the scheduler need not know.
pub(crate) struct Active {
    product: Product,
    seat: Seat,
    paused: bool,
}

/// What is made for a sequence.
pub(crate) enum Product {
    Answer(Box<Answer>),
    Embedding(Pool, EmbeddingWriter),
}

impl Active {
    pub(crate) fn new(product: Product, seat: Seat) -> Self {
        Self {
            product,
            seat,
            paused: false,
        }
    }

    fn is_gone(&self) -> bool {
        match &self.product {
            Product::Answer(answer) => answer.writer.is_gone(),
            Product::Embedding(_, writer) => writer.is_gone(),
        }
    }

    /// Ends it with an error.
    fn fail(self, error: EngineError) {
        drop(self.seat);
        match self.product {
            Product::Answer(answer) => answer.writer.send(Err(error)),
            Product::Embedding(_, writer) => writer.send(Err(error)),
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
pub(crate) struct Server {
    /// Dropped first: when the thread breaks, nothing more is taken before anybody hears of it.
    submissions: Receiver<Submission>,
    active: BTreeMap<SequenceId, Active>,
    model: Box<dyn Model>,
    words: Words,
    scheduler: Scheduler,
    choosers: usize,
    stop: Arc<AtomicBool>,
    board: Arc<Board>,
}

impl Server {
    pub(crate) fn new(
        model: Box<dyn Model>,
        words: Words,
        scheduler: Scheduler,
        submissions: Receiver<Submission>,
        choosers: usize,
        stop: Arc<AtomicBool>,
        board: Arc<Board>,
    ) -> Self {
        Self {
            model,
            words,
            scheduler,
            active: BTreeMap::new(),
            submissions,
            choosers: choosers.max(1),
            stop,
            board,
        }
    }

    pub(crate) fn run(mut self) {
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
                        writer.send(embedding);
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
