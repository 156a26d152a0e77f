//! The scheduler and the toy model against answers made one after the other.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::clients::{Client, SequenceId};
use super::plan::{Entry, Limits, Outcome, Part, Plan, Wish};
use super::scheduler::Scheduler;
use super::sequence::Work;
use super::toy::{END, Toy, answer, highest, prompt};
use super::{Model, PAGE_TOKENS, Wanted};
use crate::{CacheScope, EngineError};

const LIMITS: Limits = Limits {
    max_batch_tokens: 64,
    prefill_chunk: 32,
    max_sequences: 8,
    max_waiting: 64,
    max_paused_pages: 8,
    speculation: 0,
};

/// One answer as its reader sees it.
#[derive(Debug, Clone)]
struct Answer {
    prompt: Vec<u32>,
    max_tokens: usize,
    got: Vec<u32>,
    ended: bool,
}

/// Scheduler, model and sampler, stepped by the test.
struct Room {
    scheduler: Scheduler,
    model: Toy,
    answers: BTreeMap<SequenceId, Answer>,
}

impl Room {
    fn new(pages: usize, limits: Limits) -> Self {
        let model = Toy::new(pages, 400);
        Self {
            scheduler: Scheduler::new(model.shape(), limits).unwrap(),
            model,
            answers: BTreeMap::new(),
        }
    }

    fn submit(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        scope: Option<u8>,
    ) -> Result<SequenceId, EngineError> {
        let scope = scope.map(|scope| CacheScope([scope; 32]));
        let ticket = self.scheduler.submit(Wish {
            tokens: prompt.to_vec(),
            work: Work::Answer,
            max_tokens,
            scope,
            client: Client::from(scope),
        })?;
        let answer = Answer {
            prompt: prompt.to_vec(),
            max_tokens: ticket.max_tokens,
            got: vec![],
            ended: false,
        };
        self.answers.insert(ticket.id, answer);
        Ok(ticket.id)
    }

    /// Plans and computes one pass.
    fn step(&mut self) -> Option<Plan> {
        let plan = self.scheduler.plan()?;
        self.compute(&plan.answers);
        assert!(plan.embeddings.entries.is_empty());
        Some(plan)
    }

    fn compute(&mut self, part: &Part) {
        let outputs = self.model.forward(&part.batch).unwrap();
        let mut rows = outputs.rows();
        for (entry, asked) in part.entries.iter().zip(&part.batch.sequences) {
            let wanted = match entry.wanted {
                Wanted::None => 0,
                Wanted::Last => 1,
                Wanted::All => entry.rows,
            };
            let rows: Vec<&[f32]> = rows.by_ref().take(wanted).collect();
            let outcome = self.choose(entry, &asked.tokens, &rows);
            self.scheduler.complete(entry, outcome);
        }
        assert!(rows.next().is_none());
    }

    /// Greedy, with the guesses checked.
    fn choose(&mut self, entry: &Entry, tokens: &[u32], rows: &[&[f32]]) -> Outcome {
        if rows.is_empty() {
            return Outcome::Read;
        }
        let answer = self.answers.get_mut(&entry.id).unwrap();
        let guesses = &tokens[tokens.len() - entry.guesses..];
        let mut new = vec![];
        for (at, row) in rows.iter().enumerate() {
            let token = highest(row);
            answer.got.push(token);
            new.push(token);
            if token == END || answer.got.len() == answer.max_tokens {
                answer.ended = true;
                return Outcome::Ended;
            }
            if guesses.get(at) != Some(&token) {
                break;
            }
        }
        Outcome::Grew(new)
    }

    fn run(&mut self) -> usize {
        let mut steps = 0;
        while self.step().is_some() {
            steps += 1;
            assert!(steps < 100_000, "nothing ends");
        }
        steps
    }

    /// Every answer so far is that of a run of its own.
    fn check_answers(&self) {
        for Answer {
            prompt,
            max_tokens,
            got,
            ended,
        } in self.answers.values()
        {
            let wanted = answer(prompt, *max_tokens);
            if *ended {
                assert_eq!(got, &wanted);
            } else {
                assert!(wanted.starts_with(got), "{got:?} of {wanted:?}");
            }
        }
    }

    /// After the end of all, nothing is held.
    fn check_empty(&self) {
        assert_eq!(self.scheduler.census(), [0, 0, 0]);
        assert_eq!(self.scheduler.pages().held(), 0);
    }
}

#[test]
fn one_answer_is_the_models() {
    let mut room = Room::new(16, LIMITS);
    room.submit(&prompt(40, 50), 50, Some(1)).unwrap();
    room.run();
    room.check_answers();
    room.check_empty();
}

#[test]
fn identical_prompts_read_and_hold_their_beginning_once() {
    let mut room = Room::new(64, LIMITS);
    let prompt = prompt(5 * PAGE_TOKENS + 3, 20);
    let ids: Vec<_> = (0..6)
        .map(|_| room.submit(&prompt, 20, Some(1)).unwrap())
        .collect();
    while room.answers.values().any(|answer| answer.got.is_empty()) {
        room.step().unwrap();
    }
    assert_eq!(ids.len(), 6);
    // The five pages once; of its own, each has the one with the prompt's end and one for the answer.
    assert!(
        room.scheduler.pages().held() <= 5 + 6 * 2,
        "{}",
        room.scheduler.pages().held()
    );
    let read = room.scheduler.counters().prefilled as usize;
    assert_eq!(read, prompt.len() + 5 * 3);
    room.run();
    room.check_answers();
    room.check_empty();
}

#[test]
fn the_last_token_of_a_known_prompt_is_read_for_what_comes_after_it() {
    let mut room = Room::new(64, LIMITS);
    let prompt = prompt(2 * PAGE_TOKENS, 5);
    for read in [2 * PAGE_TOKENS, 3 * PAGE_TOKENS] {
        room.submit(&prompt, 5, Some(1)).unwrap();
        room.run();
        assert_eq!(room.scheduler.counters().prefilled as usize, read);
    }
    room.check_answers();
    room.check_empty();
}

#[test]
fn scopes_never_share_and_no_scope_shares_nothing() {
    let mut room = Room::new(64, LIMITS);
    let prompt = prompt(5 * PAGE_TOKENS + 3, 5);
    let mut reads = vec![];
    for scope in [Some(1), Some(2), None, None, Some(1)] {
        let before = room.scheduler.counters().prefilled as usize;
        room.submit(&prompt, 5, scope).unwrap();
        room.run();
        reads.push(room.scheduler.counters().prefilled as usize - before);
    }
    let all = prompt.len();
    assert_eq!(reads, [all, all, all, all, 3]);
    assert_eq!(room.scheduler.counters().prefix_hits as usize, all - 3);
}

#[test]
fn a_long_prompt_is_read_in_pieces_while_others_answer_in_every_step() {
    let mut room = Room::new(64, LIMITS);
    let talker = room.submit(&prompt(3, 60), 60, Some(1)).unwrap();
    room.step().unwrap();
    let long = room.submit(&prompt(300, 3), 3, Some(2)).unwrap();
    let mut pieces = 0;
    while room.answers[&long].got.is_empty() {
        let before = room.answers[&talker].got.len();
        let plan = room.step().unwrap();
        pieces += usize::from(plan.answers.entries.iter().any(|entry| entry.id == long));
        assert_eq!(
            room.answers[&talker].got.len(),
            before + 1,
            "a token in every step"
        );
    }
    assert_eq!(pieces, 300usize.div_ceil(32));
    room.run();
    room.check_answers();
}

#[test]
fn who_gives_way_for_want_of_memory_goes_on_with_the_same_answer() {
    // Two answers of up to eight pages each and nine pages in all.
    let mut room = Room::new(9, LIMITS);
    for (length, scope) in [(20, None), (21, None)] {
        room.submit(&prompt(length, 100), 100, scope).unwrap();
    }
    room.run();
    assert!(room.scheduler.counters().preemptions > 0);
    assert!(room.answers.values().all(|answer| answer.got.len() == 100));
    room.check_answers();
    room.check_empty();
}

#[test]
fn cancelling_frees_the_pages_at_once_and_the_next_step_is_without_it() {
    let mut room = Room::new(16, LIMITS);
    let stays = room.submit(&prompt(30, 50), 50, None).unwrap();
    let goes = room.submit(&prompt(31, 50), 50, None).unwrap();
    room.step().unwrap();
    let held = room.scheduler.pages().held();
    room.scheduler.cancel(goes);
    assert!(room.scheduler.pages().held() < held);
    let plan = room.step().unwrap();
    assert!(plan.answers.entries.iter().all(|entry| entry.id == stays));
}

#[test]
fn cancelling_between_plan_and_outcome_is_harmless() {
    let mut room = Room::new(16, LIMITS);
    let id = room.submit(&prompt(30, 50), 50, Some(1)).unwrap();
    let plan = room.scheduler.plan().unwrap();
    room.scheduler.cancel(id);
    room.compute(&plan.answers);
    room.check_empty();
}

#[test]
fn a_pause_holds_back_only_that_answer_and_keeps_its_pages() {
    let mut room = Room::new(32, LIMITS);
    let slow = room.submit(&prompt(30, 40), 40, None).unwrap();
    let fast = room.submit(&prompt(31, 40), 40, None).unwrap();
    room.step().unwrap();
    room.step().unwrap();
    let before = room.answers[&slow].got.len();
    room.scheduler.pause(slow);
    room.run();
    assert!(room.answers[&fast].ended);
    assert_eq!(room.answers[&slow].got.len(), before);
    assert!(room.scheduler.pages().held() > 0);
    room.scheduler.resume(slow);
    room.run();
    assert_eq!(room.scheduler.counters().preemptions, 0);
    assert!(room.answers[&slow].ended);
    room.check_answers();
    room.check_empty();
}

#[test]
fn paused_answers_are_the_first_to_give_up_their_pages() {
    let mut room = Room::new(9, LIMITS);
    let paused = room.submit(&prompt(40, 30), 30, None).unwrap();
    room.step().unwrap();
    room.step().unwrap();
    room.scheduler.pause(paused);
    // Needs all pages but one.
    let big = room.submit(&prompt(100, 20), 20, None).unwrap();
    room.run();
    assert!(room.answers[&big].ended);
    assert_eq!(room.scheduler.counters().preemptions, 1);
    room.scheduler.resume(paused);
    room.run();
    room.check_answers();
    room.check_empty();
}

#[test]
fn paused_answers_keep_no_more_pages_than_the_limit() {
    let mut room = Room::new(64, LIMITS);
    let ids: Vec<_> = (40..44)
        .map(|length| room.submit(&prompt(length, 30), 30, None).unwrap())
        .collect();
    while room.answers.values().any(|answer| answer.got.is_empty()) {
        room.step().unwrap();
    }
    for id in ids {
        room.scheduler.pause(id);
        assert!(room.scheduler.pages().held() <= 64);
    }
    assert!(room.scheduler.pages().held() <= LIMITS.max_paused_pages);
}

#[test]
fn a_hundred_prompts_of_one_client_do_not_starve_anothers_one() {
    let limits = Limits {
        max_waiting: 200,
        ..LIMITS
    };
    let mut room = Room::new(32, limits);
    for salt in 0..100 {
        let mut prompt = prompt(30, 60);
        prompt[0] = salt % 23 + 1;
        room.submit(&prompt, 60, Some(1)).unwrap();
    }
    for _ in 0..5 {
        room.step().unwrap();
    }
    let late = room.submit(&prompt(20, 10), 10, Some(2)).unwrap();
    let mut steps = 0;
    while !room.answers[&late].ended {
        room.step().unwrap();
        steps += 1;
    }
    assert!(
        steps <= 12,
        "{steps} steps for a prompt of 20 and an answer of 10"
    );
    room.run();
    room.check_answers();
    room.check_empty();
}

#[test]
fn what_can_never_fit_is_refused_or_cut() {
    let mut room = Room::new(4, LIMITS);
    let too_long = room.submit(&vec![1; 64], 5, None);
    assert!(matches!(
        too_long,
        Err(EngineError::ContextTooLong {
            prompt: 64,
            limit: 64
        })
    ));
    assert!(matches!(
        room.submit(&[], 5, None),
        Err(EngineError::EmptyPrompt)
    ));
    let cut = room.submit(&prompt(60, 4), 50, None).unwrap();
    assert_eq!(room.answers[&cut].max_tokens, 4);
    room.run();
    room.check_answers();
    room.check_empty();
}

#[test]
fn a_full_queue_says_so() {
    let limits = Limits {
        max_sequences: 1,
        max_waiting: 1,
        ..LIMITS
    };
    let mut room = Room::new(4, limits);
    room.submit(&[1], 5, None).unwrap();
    room.submit(&[1], 5, None).unwrap();
    let third = room.submit(&[1], 5, None);
    assert!(matches!(third, Err(EngineError::QueueFull { waiting: 1 })));
    room.run();
    room.submit(&[1], 5, None).unwrap();
}

#[test]
fn limits_with_which_nothing_runs_are_refused() {
    for limits in [
        Limits {
            max_sequences: 0,
            ..LIMITS
        },
        Limits {
            prefill_chunk: 0,
            ..LIMITS
        },
        Limits {
            max_batch_tokens: 8,
            ..LIMITS
        },
    ] {
        assert!(Scheduler::new(Toy::new(4, 64).shape(), limits).is_err());
    }
}

#[test]
fn guesses_save_steps_and_change_nothing() {
    let text = prompt(20, 200);
    let mut plain = Room::new(32, LIMITS);
    plain.submit(&text, 200, None).unwrap();
    let slow = plain.run();
    let limits = Limits {
        speculation: 4,
        ..LIMITS
    };
    let mut room = Room::new(32, limits);
    room.submit(&text, 200, None).unwrap();
    let fast = room.run();
    room.check_answers();
    room.check_empty();
    assert!(room.scheduler.counters().guessed_right > 0);
    assert!(fast < slow, "{fast} steps instead of {slow}");
}

/// What happens between two steps.
#[derive(Debug, Clone)]
enum Event {
    Submit {
        stem: usize,
        stem_length: usize,
        own: Vec<u32>,
        max_tokens: usize,
        scope: Option<u8>,
    },
    Cancel(usize),
    Pause(usize),
    Resume(usize),
    Steps(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let submit = (
        0usize..3,
        0usize..90,
        proptest::collection::vec(1u32..24, 1..40),
        1usize..60,
        proptest::option::weighted(0.8, 1u8..4),
    )
        .prop_map(
            |(stem, stem_length, own, max_tokens, scope)| Event::Submit {
                stem,
                stem_length,
                own,
                max_tokens,
                scope,
            },
        );
    prop_oneof![
        4 => submit,
        1 => any::<usize>().prop_map(Event::Cancel),
        2 => any::<usize>().prop_map(Event::Pause),
        1 => any::<usize>().prop_map(Event::Resume),
        4 => (1usize..12).prop_map(Event::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// The toy checks the pages, the scheduler's assertions the counts; here: the answers are right, all
    /// end in bounded time, and nothing is left over.
    #[test]
    fn whatever_happens_each_answer_is_that_of_a_run_of_its_own(
        events in proptest::collection::vec(event(), 1..50),
        pages in 9usize..40,
        max_sequences in 1usize..9,
        max_batch_tokens in 9usize..80,
        prefill_chunk in 1usize..50,
        speculation in 0usize..5,
        max_paused_pages in 0usize..20,
    ) {
        let limits = Limits {
            max_batch_tokens, prefill_chunk, max_sequences, max_waiting: 40, max_paused_pages, speculation,
        };
        let mut room = Room::new(pages, limits);
        let mut work = 0;
        let pick = |room: &Room, which: usize| room.answers.keys().nth(which % room.answers.len().max(1)).copied();
        for event in events {
            match event {
                Event::Submit { stem, stem_length, own, max_tokens, scope } => {
                    let stem = (0..stem_length).map(|at| ((at * 7 + stem * 5) % 23) as u32 + 1);
                    let prompt: Vec<u32> = stem.chain(own).collect();
                    work += prompt.len() + max_tokens;
                    let _ = room.submit(&prompt, max_tokens, scope);
                }
                Event::Cancel(which) => if let Some(id) = pick(&room, which) {
                    room.scheduler.cancel(id);
                },
                Event::Pause(which) => if let Some(id) = pick(&room, which) {
                    room.scheduler.pause(id);
                },
                Event::Resume(which) => if let Some(id) = pick(&room, which) {
                    room.scheduler.resume(id);
                },
                Event::Steps(count) => for _ in 0..count {
                    room.step();
                },
            }
        }
        let ids: Vec<_> = room.answers.keys().copied().collect();
        for id in ids {
            room.scheduler.resume(id);
        }
        let steps = room.run();
        // One token a step and everything read anew once for each page it grows by.
        prop_assert!(steps <= 8 * work + 8, "{steps} steps for {work} tokens");
        room.check_answers();
        room.check_empty();
        prop_assert_eq!(room.scheduler.pages().available(), pages);
    }
}
