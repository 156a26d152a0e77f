//! Virtual time: a queue of events ordered by when they happen and, among those of one instant, by
//! when they were scheduled. That second key is what makes a run repeat exactly.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use cocoon_protocol::units::UnixMillis;

/// Events that have not happened yet, and the present.
#[derive(Debug)]
pub struct EventQueue<E> {
    now: UnixMillis,
    next_sequence: u64,
    waiting: BinaryHeap<Reverse<Waiting<E>>>,
}

#[derive(Debug)]
struct Waiting<E> {
    at: UnixMillis,
    sequence: u64,
    event: E,
}

impl<E> EventQueue<E> {
    /// An empty queue whose present is `start`.
    pub fn new(start: UnixMillis) -> Self {
        Self {
            now: start,
            next_sequence: 0,
            waiting: BinaryHeap::new(),
        }
    }

    /// The instant of the event taken last.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Lets `event` happen `delay_ms` from now.
    pub fn schedule(&mut self, delay_ms: u64, event: E) {
        self.schedule_at(self.now.saturating_add(delay_ms), event);
    }

    /// Lets `event` happen at `at`, or now if that has passed: time never runs backwards.
    pub fn schedule_at(&mut self, at: UnixMillis, event: E) {
        let sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.saturating_add(1);
        self.waiting.push(Reverse(Waiting {
            at: at.max(self.now),
            sequence,
            event,
        }));
    }

    /// Moves the present to the next event and takes it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(next) = self.waiting.pop()?;
        debug_assert!(next.at >= self.now, "time never runs backwards");
        self.now = next.at;
        Some(next.event)
    }

    /// How many events are waiting.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<E> Waiting<E> {
    fn key(&self) -> (UnixMillis, u64) {
        (self.at, self.sequence)
    }
}

impl<E> PartialEq for Waiting<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<E> Eq for Waiting<E> {}
impl<E> PartialOrd for Waiting<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Waiting<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_scheduled() {
        let mut queue = EventQueue::new(UnixMillis::from_millis(1000));
        queue.schedule(20, "c");
        queue.schedule(10, "a");
        queue.schedule(10, "b");
        queue.schedule(20, "d");
        let mut seen = Vec::new();
        while let Some(event) = queue.pop() {
            seen.push((queue.now().millis(), event));
        }
        assert_eq!(seen, [(1010, "a"), (1010, "b"), (1020, "c"), (1020, "d")]);
    }

    #[test]
    fn what_is_scheduled_for_the_past_happens_now() {
        let mut queue = EventQueue::new(UnixMillis::from_millis(1000));
        queue.schedule_at(UnixMillis::from_millis(5), ());
        assert_eq!(queue.pop(), Some(()));
        assert_eq!(queue.now(), UnixMillis::from_millis(1000));
    }
}
