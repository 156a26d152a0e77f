//! What the serving thread says of itself, for its owner. Numbers only, never content.

use std::sync::{Mutex, PoisonError};

use super::scheduler::Scheduler;

/// The state after the last pass, and counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServingStats {
    /// Sequences in the passes.
    pub running: usize,
    /// Sequences that wait for a place, for memory or for their client's turn.
    pub waiting: usize,
    /// Sequences whose readers do not read.
    pub paused: usize,
    /// Pages with nothing in them.
    pub pages_free: usize,
    /// Pages that sequences hold.
    pub pages_held: usize,
    /// Pages kept for prompts with the same beginning, available when they are needed.
    pub pages_kept: usize,
    /// Forward passes.
    pub steps: u64,
    /// Tokens of prompts that were read, those of sequences that gave up their pages again.
    pub tokens_prefilled: u64,
    /// Tokens of answers.
    pub tokens_decoded: u64,
    /// Tokens of prompts that need not be read because a page with them was kept.
    pub prefix_hit_tokens: u64,
    /// Times that a sequence gave up its pages.
    pub preemptions: u64,
    /// Tokens that were guessed.
    pub tokens_guessed: u64,
    /// Those of them that were right.
    pub tokens_guessed_right: u64,
}

impl ServingStats {
    pub(crate) fn of(scheduler: &Scheduler) -> Self {
        let [running, waiting, paused] = scheduler.census();
        let counters = scheduler.counters();
        let pages = scheduler.pages();
        Self {
            running,
            waiting,
            paused,
            pages_free: pages.free(),
            pages_held: pages.held(),
            pages_kept: pages.kept(),
            steps: counters.steps,
            tokens_prefilled: counters.prefilled,
            tokens_decoded: counters.decoded,
            prefix_hit_tokens: counters.prefix_hits,
            preemptions: counters.preemptions,
            tokens_guessed: counters.guessed,
            tokens_guessed_right: counters.guessed_right,
        }
    }
}

/// Where the thread writes once a pass and its owner reads, all numbers of the same moment.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<ServingStats>);

impl Board {
    pub(crate) fn write(&self, stats: ServingStats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    pub(crate) fn read(&self) -> ServingStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
