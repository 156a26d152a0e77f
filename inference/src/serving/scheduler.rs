//! Who is in the next forward pass.
//!
//! No thread, no clock, no model: the owner submits sequences, asks for a [`Plan`], lets the model compute
//! it, and says what came out.
//!
//! **Continuous batching** (Yu et al., *Orca*, 2022). Each pass holds the last token of every sequence that
//! answers, and pieces of the prompts of those that are still read (Agrawal et al., *Sarathi-Serve*, 2024),
//! as long as the pass's budget of tokens lasts. So a long prompt keeps no answer waiting for longer than one pass.
//!
//! **Memory.** A sequence begins when the pages for its tokens and one more can be had; the answer's pages
//! come one by one. When none is left, a sequence gives its pages up and reads its tokens again later: first
//! one that does not run (its reader pauses), else the youngest of the client that runs most. The owner
//! keeps the sampler's state, so the answer goes on as if nothing had happened. What a sequence can ever
//! need is limited to what there is when it is submitted.
//!
//! **Fairness.** Turns go round the clients (see [`super::clients`]). The sequence whose turn it is waits
//! until there is room and nobody overtakes it. If nothing of its client runs, another client that runs
//! several gives its youngest up for it.
//!
//! **Why everything ends.** The oldest running sequence never gives its pages up for another, is read when
//! the round comes to it and then is in every pass, so it ends. Each end makes room, and each admission
//! moves the round on.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::clients::{Clients, SequenceId};
use super::pages::{Identity, Pages};
use super::plan::{Counters, Entry, Limits, Outcome, Plan, Ticket, Wish, capacity, limit};
use super::sequence::{Sequence, State, Work, pages_for};
use super::{ModelShape, PAGE_TOKENS, Rows, Wanted};
use crate::EngineError;
use crate::sampling::Lookup;

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    /// Most tokens of one sequence: what the model's context and the whole cache hold.
    capacity: usize,
    pages: Pages,
    sequences: BTreeMap<SequenceId, Sequence>,
    clients: Clients,
    /// Sequences that hold pages and do not run.
    idle: BTreeSet<SequenceId>,
    next: u64,
    counters: Counters,
}

impl Scheduler {
    /// # Errors
    /// [`EngineError::Inconsistent`] for limits with which nothing could run.
    pub(crate) fn new(shape: ModelShape, limits: Limits) -> Result<Self, EngineError> {
        limits.check()?;
        let pages = Pages::new(shape.pages);
        Ok(Self {
            limits,
            capacity: capacity(shape),
            pages,
            sequences: BTreeMap::new(),
            clients: Clients::default(),
            idle: BTreeSet::new(),
            next: 0,
            counters: Counters::default(),
        })
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Sequences that run, wait, and pause.
    pub(crate) fn census(&self) -> [usize; 3] {
        let [running, waiting] = [self.clients.running(), self.clients.waiting()];
        let rest = self.sequences.len().saturating_sub(running);
        [running, waiting, rest.saturating_sub(waiting)]
    }

    /// Puts a sequence in its client's queue.
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`], [`EngineError::ContextTooLong`], [`EngineError::QueueFull`].
    pub(crate) fn submit(&mut self, wish: Wish) -> Result<Ticket, EngineError> {
        let limit = limit(self.capacity, &wish)?;
        let prompt = wish.tokens.len();
        if self.sequences.len() >= self.limits.all_sequences() {
            return Err(EngineError::QueueFull {
                waiting: self.limits.max_waiting,
            });
        }
        let id = SequenceId(self.next);
        self.next = self.next.saturating_add(1);
        let Wish {
            tokens,
            work,
            scope,
            client,
            ..
        } = wish;
        // A mean needs the outputs of all tokens, so those of an embedding are all read.
        let scope = if work == Work::Answer { scope } else { None };
        let mut sequence = Sequence::new(id, client, scope, work, tokens, limit);
        if self.limits.speculation > 0 && work == Work::Answer {
            sequence.lookup = Some(Lookup::new(&sequence.tokens));
        }
        self.sequences.insert(id, sequence);
        self.clients.wait(client, id);
        Ok(Ticket {
            id,
            max_tokens: limit.saturating_sub(prompt),
        })
    }

    /// Ends a sequence. Its pages are available at once.
    pub(crate) fn cancel(&mut self, id: SequenceId) {
        if let Some(mut sequence) = self.sequences.remove(&id) {
            sequence.release(&mut self.pages);
            self.clients.leave(sequence.client, id);
            self.idle.remove(&id);
        }
    }

    /// Leaves a sequence out until [`Self::resume`].
    pub(crate) fn pause(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        sequence.state = State::Paused;
        self.clients.leave(sequence.client, id);
        if !sequence.table.is_empty() {
            self.idle.insert(id);
        }
        while self.paused_pages() > self.limits.max_paused_pages {
            let Some(youngest) = self.youngest_paused() else {
                break;
            };
            self.give_up(youngest);
        }
    }

    /// Lets a paused sequence go on, at its place by arrival.
    pub(crate) fn resume(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id)
            && sequence.state == State::Paused
        {
            sequence.state = State::Waiting;
            self.clients.wait(sequence.client, id);
        }
    }

    /// The next pass; `None` when nothing is to be done until something is submitted or resumed.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        if self.secure_next_tokens() {
            self.admit();
        }
        let mut plan = Plan::default();
        let mut budget = self.limits.max_batch_tokens;
        let mut guessing = Vec::new();
        for id in self.clients.by_age() {
            if self.sequences.get(&id).is_some_and(|s| s.unread() == 1) {
                self.enter(&mut plan, id, 1);
                guessing.push(id);
                budget = budget.saturating_sub(1);
            }
        }
        self.read_prompts(&mut plan, budget);
        let read: usize = plan.rows();
        self.guess(&mut plan, self.limits.max_batch_tokens.saturating_sub(read));
        if plan.rows() == 0 {
            debug_assert_eq!(
                self.clients.waiting(),
                0,
                "when nothing runs, the next is admitted"
            );
            return None;
        }
        debug_assert!(plan.rows() <= self.limits.max_batch_tokens);
        self.check_writers(&plan);
        self.counters.steps = self.counters.steps.saturating_add(1);
        Some(plan)
    }

    /// Says what a pass brought for one sequence. Nothing happens if the sequence was cancelled meanwhile.
    pub(crate) fn complete(&mut self, entry: &Entry, outcome: Outcome) {
        let Some(sequence) = self.sequences.get_mut(&entry.id) else {
            return;
        };
        let known = entry.rows.saturating_sub(entry.guesses);
        let mut computed = entry.start.saturating_add(known);
        let mut decoded = 0;
        let mut ended = false;
        match outcome {
            Outcome::Read => debug_assert_eq!(entry.guesses, 0),
            Outcome::Grew(tokens) => {
                debug_assert!((1..=entry.guesses.saturating_add(1)).contains(&tokens.len()));
                debug_assert_eq!(entry.wanted == Wanted::None, tokens.is_empty());
                decoded = tokens.len();
                // The last one has not been read; those before it have, as guesses.
                computed = computed.saturating_add(decoded.saturating_sub(1));
                sequence.grow(&tokens);
                debug_assert!(sequence.tokens.len() <= sequence.limit);
            }
            Outcome::Ended => ended = true,
        }
        let counters = &mut self.counters;
        add(&mut counters.decoded, decoded);
        add(&mut counters.guessed, entry.guesses);
        add(&mut counters.guessed_right, decoded.saturating_sub(1));
        // Its pages may have been given up since the plan; then what was computed is gone.
        if sequence.computed == entry.start && !sequence.table.is_empty() {
            sequence.advance(computed, &mut self.pages);
        }
        if ended {
            self.cancel(entry.id);
        }
    }

    /// Sees to it that all running sequences have room for the tokens they have, the oldest first. Whether
    /// nobody had to give up for that.
    fn secure_next_tokens(&mut self) -> bool {
        let mut enough = true;
        for id in self.clients.by_age() {
            while let Some(sequence) = self.sequences.get_mut(&id)
                && sequence.state == State::Running
                && sequence.missing(sequence.tokens.len()) > 0
            {
                if let Some(lease) = self.pages.take() {
                    sequence.table.push(lease);
                    continue;
                }
                enough = false;
                let victim = self.idle.last().copied();
                let Some(victim) = victim.or_else(|| self.clients.youngest_of_busiest()) else {
                    break;
                };
                self.give_up(victim);
            }
        }
        enough
    }

    /// Begins as many sequences as there is room for, in turn.
    fn admit(&mut self) {
        while let Some(id) = self.clients.next() {
            if !self.make_room(id) {
                return;
            }
            let Some(sequence) = self.sequences.get_mut(&id) else {
                return;
            };
            let skipped = sequence.skip_known(&mut self.pages);
            add(&mut self.counters.prefix_hits, skipped);
            while sequence.missing(sequence.tokens_to_begin()) > 0 {
                let lease = self.pages.take();
                debug_assert!(lease.is_some(), "room was made");
                sequence.table.extend(lease);
            }
            sequence.state = State::Running;
            self.idle.remove(&id);
            self.clients.admit(sequence.client, id);
        }
    }

    /// Makes a place and pages available for a waiting sequence, if that may be.
    fn make_room(&mut self, id: SequenceId) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(&id) else {
                return false;
            };
            let places = self.clients.running() < self.limits.max_sequences;
            let memory = sequence.price(&self.pages) <= self.pages.available();
            if places && memory {
                return true;
            }
            let idle = self.idle.iter().rev().find(|idle| **idle != id);
            let idle = idle.filter(|_| !memory).copied();
            match idle.or_else(|| self.clients.surplus_for(sequence.client)) {
                Some(victim) => self.give_up(victim),
                None => return false,
            }
        }
    }

    /// Takes a sequence's pages and, if it runs, its place.
    fn give_up(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if sequence.computed > 0 {
            self.counters.preemptions = self.counters.preemptions.saturating_add(1);
        }
        sequence.release(&mut self.pages);
        self.idle.remove(&id);
        if sequence.state == State::Running {
            sequence.state = State::Waiting;
            self.clients.wait(sequence.client, id);
        }
    }

    /// Adds pieces of prompts to the plan, in turn.
    fn read_prompts(&mut self, plan: &mut Plan, mut budget: usize) {
        // Pages that other sequences of this pass fill: who needs the same waits for them instead.
        let mut coming: HashSet<Identity> = HashSet::new();
        for (client, id) in self.clients.by_turn() {
            let Some(sequence) = self.sequences.get_mut(&id) else {
                continue;
            };
            if budget == 0 || sequence.unread() <= 1 {
                continue;
            }
            let skipped = sequence.skip_known(&mut self.pages);
            add(&mut self.counters.prefix_hits, skipped);
            let next = sequence.next_identity();
            if next.is_some_and(|next| coming.contains(&next)) {
                continue;
            }
            let most = budget.min(self.limits.prefill_chunk);
            let rows = piece(sequence.computed, sequence.unread(), most);
            let end = sequence.computed.saturating_add(rows);
            for page in sequence.computed / PAGE_TOKENS..end / PAGE_TOKENS {
                coming.extend(sequence.identity(page));
            }
            budget = budget.saturating_sub(rows);
            add(&mut self.counters.prefilled, rows);
            self.clients.read(client);
            self.enter(plan, id, rows);
        }
    }

    /// Adds rows of a sequence to the plan.
    fn enter(&mut self, plan: &mut Plan, id: SequenceId, rows: usize) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let start = sequence.computed;
        let end = start.saturating_add(rows);
        let tokens = sequence.tokens.get(start..end).unwrap_or_default();
        let pages = sequence.table.iter().take(pages_for(end));
        let wanted = sequence.wanted(rows);
        let part = match sequence.work {
            Work::Answer => &mut plan.answers,
            Work::Embedding(_) => &mut plan.embeddings,
        };
        debug_assert_eq!(tokens.len(), rows);
        part.batch.sequences.push(Rows {
            tokens: tokens.to_vec(),
            start,
            pages: pages.map(|lease| lease.page()).collect(),
            wanted,
        });
        part.entries.push(Entry {
            id,
            start,
            rows,
            guesses: 0,
            wanted,
        });
    }

    /// Adds guesses to the rows of sequences that answer, as far as budget and free pages go.
    fn guess(&mut self, plan: &mut Plan, mut budget: usize) {
        let part = &mut plan.answers;
        for (rows, entry) in part.batch.sequences.iter_mut().zip(&mut part.entries) {
            let Some(sequence) = self.sequences.get_mut(&entry.id) else {
                continue;
            };
            let length = sequence.tokens.len();
            // After n right guesses, n + 1 tokens come out.
            let left = sequence.limit.saturating_sub(length).saturating_sub(1);
            let most = self.limits.speculation.min(left).min(budget);
            if entry.rows != 1 || entry.wanted != Wanted::Last || most == 0 {
                continue;
            }
            let Some(lookup) = &sequence.lookup else {
                continue;
            };
            let guesses = lookup.propose(most);
            let mut end = length.saturating_add(guesses.len());
            while sequence.missing(end) > 0 {
                match self.pages.take() {
                    Some(lease) => sequence.table.push(lease),
                    None => end = sequence.table.len().saturating_mul(PAGE_TOKENS),
                }
            }
            let guesses = guesses
                .get(..end.saturating_sub(length))
                .unwrap_or_default();
            if guesses.is_empty() {
                continue;
            }
            rows.tokens.extend_from_slice(guesses);
            rows.wanted = Wanted::All;
            let table = sequence.table.iter().take(pages_for(end));
            rows.pages = table.map(|lease| lease.page()).collect();
            entry.rows = rows.tokens.len();
            entry.guesses = guesses.len();
            entry.wanted = Wanted::All;
            budget = budget.saturating_sub(guesses.len());
        }
    }

    fn paused(&self) -> impl DoubleEndedIterator<Item = &Sequence> {
        let idle = self.idle.iter().filter_map(|id| self.sequences.get(id));
        idle.filter(|sequence| sequence.state == State::Paused)
    }

    fn paused_pages(&self) -> usize {
        self.paused().map(|sequence| sequence.table.len()).sum()
    }

    fn youngest_paused(&self) -> Option<SequenceId> {
        self.paused().next_back().map(|sequence| sequence.id)
    }

    /// Every page that is written to in this pass is held by its writer alone.
    fn check_writers(&self, plan: &Plan) {
        if !cfg!(debug_assertions) {
            return;
        }
        for entry in plan.answers.entries.iter().chain(&plan.embeddings.entries) {
            let Some(sequence) = self.sequences.get(&entry.id) else {
                continue;
            };
            debug_assert_eq!(sequence.state, State::Running);
            let end = entry.start.saturating_add(entry.rows);
            let written = entry.start / PAGE_TOKENS..pages_for(end);
            debug_assert!(pages_for(end) <= sequence.table.len());
            for lease in sequence.table.get(written).unwrap_or_default() {
                debug_assert!(self.pages.writable(lease), "a page has one writer");
            }
        }
    }
}

/// How many of the unread tokens are read now: at most `most`, and up to the end of a page where the prompt
/// goes on, so that others with the same beginning can go on from there.
fn piece(computed: usize, unread: usize, most: usize) -> usize {
    if unread <= most {
        return unread;
    }
    let end = computed.saturating_add(most);
    let over = end % PAGE_TOKENS;
    if over < most {
        most.saturating_sub(over)
    } else {
        most
    }
}

fn add(counter: &mut u64, count: usize) {
    *counter = counter.saturating_add(count as u64);
}
