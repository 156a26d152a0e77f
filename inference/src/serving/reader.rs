//! The two ends between the serving thread and whoever reads an answer.
//!
//! The thread never waits for a reader. Steps go through a channel with room for what one pass can bring
//! beyond [`MAX_UNREAD_STEPS`]; when that many lie unread, the thread pauses the answer, and goes on with it
//! when half of them are read. A reader that goes away leaves a mark, which the thread sees before its next pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use crate::sampling::MAX_DRAFT;
use crate::{EngineError, Generation, Step};

/// Steps of one answer that may lie unread before it pauses.
pub const MAX_UNREAD_STEPS: usize = 16;
/// It goes on when no more than this many lie unread.
const RESUME_AT_STEPS: usize = MAX_UNREAD_STEPS / 2;
/// A reader that waits gets a step with nothing in it after this long, so that it can look around.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

/// What both ends know.
#[derive(Debug, Default)]
struct Between {
    unread: AtomicUsize,
    gone: AtomicBool,
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Writer {
    steps: SyncSender<Result<Step, EngineError>>,
    between: Arc<Between>,
}

/// An answer of a [`super::BatchEngine`].
#[derive(Debug)]
pub struct BatchGeneration {
    steps: Receiver<Result<Step, EngineError>>,
    between: Arc<Between>,
    thread: Thread,
    over: bool,
}

/// Both ends; `thread` is the writer's.
pub(crate) fn channel(thread: Thread) -> (Writer, BatchGeneration) {
    // A pass brings a token for each guess and one more; an error may follow.
    let room = MAX_UNREAD_STEPS.saturating_add(MAX_DRAFT).saturating_add(2);
    let (sender, receiver) = sync_channel(room);
    let between = Arc::new(Between::default());
    let writer = Writer {
        steps: sender,
        between: Arc::clone(&between),
    };
    let generation = BatchGeneration {
        steps: receiver,
        between,
        thread,
        over: false,
    };
    (writer, generation)
}

impl Writer {
    /// Hands a step over. Never waits.
    pub(crate) fn send(&self, step: Result<Step, EngineError>) {
        self.between.unread.fetch_add(1, Ordering::SeqCst);
        let full = self.steps.try_send(step).is_err();
        debug_assert!(!full || self.is_gone(), "a paused answer brings no steps");
    }

    /// Whether nobody will read any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.between.gone.load(Ordering::SeqCst)
    }

    /// Whether the answer is to pause.
    pub(crate) fn is_full(&self) -> bool {
        self.between.unread.load(Ordering::SeqCst) >= MAX_UNREAD_STEPS
    }

    /// Whether a paused answer is to go on.
    pub(crate) fn has_room(&self) -> bool {
        self.between.unread.load(Ordering::SeqCst) <= RESUME_AT_STEPS
    }
}

impl Generation for BatchGeneration {
    fn step(&mut self) -> Result<Step, EngineError> {
        if self.over {
            return Err(EngineError::Finished);
        }
        let step = match self.steps.recv_timeout(SIGN_OF_LIFE) {
            Ok(step) => step,
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Step {
                    text: String::new(),
                    tokens: 0,
                    ids: Vec::new(),
                    logprobs: Vec::new(),
                    finish: None,
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.over = true;
                return Err(EngineError::Stopped);
            }
        };
        let before = self.between.unread.fetch_sub(1, Ordering::SeqCst);
        if before == RESUME_AT_STEPS.saturating_add(1) {
            self.thread.unpark();
        }
        self.over = !matches!(step, Ok(Step { finish: None, .. }));
        step
    }
}

impl Drop for BatchGeneration {
    fn drop(&mut self) {
        self.between.gone.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}
