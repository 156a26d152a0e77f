//! Threads that share one piece of work and wait for the next.
//!
//! A piece of work has as many parts as there are threads. Parts are claimed, not assigned: a worker that the
//! operating system keeps from running claims nothing, and the caller does its part instead of waiting for it.
//! Workers look for work for a short time after the last piece, because the next one of a forward pass comes
//! within microseconds; then they park, because on a shared machine a spinning thread takes the processor
//! from the one it waits for.

use std::{
    any::Any,
    cell::UnsafeCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a worker looks for the next piece before it parks.
const SPIN: Duration = Duration::from_micros(50);
/// Looks between two readings of the clock.
const LOOKS: u32 = 32;
/// Most threads of one pool.
pub const MAX_THREADS: usize = 512;

type Work<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Threads for [`Pool::run`]; the caller is one of them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: usize,
    /// One caller at a time; holds nothing, so that poison means nothing.
    turn: Mutex<()>,
}

struct Shared {
    ticket: AtomicU64,
    /// Written by the caller while no part is claimable or running, read by whoever claimed a part.
    work: UnsafeCell<Option<Work<'static>>>,
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleeping: Vec<AtomicBool>,
    stop: AtomicBool,
}

// SAFETY: `work` is the only field that is not Sync by itself. It is written only between pieces, when every
// part of the last is done and none of the next can be claimed; the ticket's release and acquire order the two.
unsafe impl Sync for Shared {}

/// Piece number, number of parts, next part to claim.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Ticket {
    fn new(piece: u64, parts: usize) -> Self {
        Self(piece << 32 | (parts as u64) << 16)
    }
    fn piece(self) -> u64 {
        self.0 >> 32
    }
    fn parts(self) -> usize {
        (self.0 >> 16 & 0xffff) as usize
    }
    fn next(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

fn ignore_poison<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Claims a part and does it. False when there is none to claim.
    fn help(&self) -> bool {
        let mut seen = self.ticket.load(Ordering::Acquire);
        loop {
            let ticket = Ticket(seen);
            let (part, parts) = (ticket.next(), ticket.parts());
            if part >= parts {
                return false;
            }
            match self.ticket.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    // SAFETY: the part claimed belongs to the piece whose ticket was read, and is not done;
                    // until it is, the caller of that piece neither returns nor writes `work`.
                    let work = unsafe { *self.work.get() };
                    if let Some(work) = work
                        && let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(part, parts)))
                    {
                        ignore_poison(&self.panic).get_or_insert(payload);
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
    }

    fn worker(&self, sleeping: &AtomicBool) {
        loop {
            let mut since = Instant::now();
            let mut looks = 0u32;
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                if self.help() {
                    since = Instant::now();
                    looks = 0;
                }
                std::hint::spin_loop();
                looks += 1;
                if looks.is_multiple_of(LOOKS) && since.elapsed() > SPIN {
                    break;
                }
            }
            // Either the caller sees that this thread sleeps, or this thread sees the caller's ticket:
            // both write first and then read, in one order for all.
            sleeping.store(true, Ordering::SeqCst);
            let ticket = Ticket(self.ticket.load(Ordering::SeqCst));
            if ticket.next() >= ticket.parts() && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            sleeping.store(false, Ordering::SeqCst);
        }
    }
}

impl Pool {
    /// A pool of `threads`, the caller's included; at least 1, at most [`MAX_THREADS`].
    /// If the operating system gives fewer, it is a smaller pool.
    pub(super) fn new(threads: usize) -> Self {
        let wanted = threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleeping: (1..wanted).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let workers: Vec<_> = (0..wanted - 1)
            .map_while(|i| {
                let shared = shared.clone();
                thread::Builder::new()
                    .name(format!("compute-{}", i + 1))
                    .spawn(move || {
                        if let Some(sleeping) = shared.sleeping.get(i) {
                            shared.worker(sleeping);
                        }
                    })
                    .ok()
            })
            .collect();
        Self {
            threads: workers.len() + 1,
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Threads, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work(part, parts)` once for every part and returns when all are done.
    ///
    /// Called while another piece runs (by another thread, or from within a piece), the caller does all of
    /// its piece alone. A panic in any part is raised here after all parts have ended.
    pub(super) fn run(&self, work: Work<'_>) {
        let Some(_turn) = self.turn() else {
            return work(0, 1);
        };
        let parts = self.threads;
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. No part is claimable before the ticket below and none runs after
        // the wait below, which nothing between can skip: parts catch their panics.
        let work: Work<'static> = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: this thread holds the turn, so every part of earlier pieces is done.
        unsafe { *shared.work.get() = Some(work) };
        shared.done.store(0, Ordering::Relaxed);
        let piece = Ticket(shared.ticket.load(Ordering::Relaxed)).piece() + 1;
        let ticket = Ticket::new(piece & 0xffff_ffff, parts);
        shared.ticket.store(ticket.0, Ordering::SeqCst);
        for (worker, sleeping) in self.workers.iter().zip(&shared.sleeping) {
            if sleeping.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        while shared.help() {}
        let mut looks = 0u32;
        while shared.done.load(Ordering::Acquire) != parts {
            // A worker that was interrupted within its part may want this thread's processor.
            looks += 1;
            if looks > 2000 {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let payload = ignore_poison(&shared.panic).take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.threads == 1 {
            return None;
        }
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(std::sync::TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panics were caught and raised where they belong.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            while !pool
                .shared
                .sleeping
                .iter()
                .all(|s| s.load(Ordering::SeqCst))
            {
                thread::yield_now();
            }
            let names = Mutex::new(std::collections::HashSet::new());
            let barrier = std::sync::Barrier::new(3);
            pool.run(&|_, _| {
                // Nobody passes before three threads are here, so that no thread can do two parts.
                barrier.wait();
                ignore_poison(&names).insert(thread::current().id());
            });
            assert_eq!(ignore_poison(&names).len(), 3);
        }
    }
}
