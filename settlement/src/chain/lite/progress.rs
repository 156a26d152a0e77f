//! What a long walk says while it goes on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A walk that takes longer says where it is, so often.
const EVERY: Duration = Duration::from_secs(2);

type Say = Box<dyn Fn(u32, u32) + Send + Sync>;

/// Tells a person how far a walk is; by default it tells the log.
pub struct Progress {
    say: Say,
    last: Mutex<Option<Instant>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::telling(|at, target| {
            tracing::info!(at, target, "checking the chain's key blocks");
        })
    }
}

impl Progress {
    /// `say` hears the block that is proved and the one that is wanted, at most every two seconds.
    pub fn telling(say: impl Fn(u32, u32) + Send + Sync + 'static) -> Self {
        Self {
            say: Box::new(say),
            last: Mutex::new(None),
        }
    }

    pub(super) fn heard(&self, at: u32, target: u32) {
        if at >= target {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *last {
            None => *last = Some(now),
            Some(before) if now.duration_since(before) >= EVERY => {
                *last = Some(now);
                (self.say)(at, target);
            }
            Some(_) => {}
        }
    }
}
