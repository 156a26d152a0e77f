//! Writes that are on their way to the disk, and one thread that waits for them.
//!
//! Who decides about vouchers does so one by one, in order; if it waited for the disk each time, every voucher would cost a
//! sync. So it only [submits](super::WorkerLedger::submit_voucher) them, and the [`Acknowledger`] waits and answers: while
//! the disk works for the first, others are decided and written, and the next sync is for all of them.

use std::sync::mpsc::{SyncSender, sync_channel};

use tracing::error;

use super::LedgerError;
use crate::store::{MAX_UNDURABLE, Store, Ticket};

/// What a write has come to, sealed until the write is on the disk: only
/// [`WorkerLedger::durable`](super::WorkerLedger::durable) and [`ClientLedger::durable`](super::ClientLedger::durable) open
/// it, and they wait first. So no voucher is acknowledged and no signature leaves before that.
#[derive(Debug)]
#[must_use = "nothing is durable before `durable` has returned"]
pub struct Undurable<T> {
    ticket: Ticket,
    value: Result<T, LedgerError>,
}

impl<T> Undurable<T> {
    pub(super) fn new(ticket: Ticket, value: Result<T, LedgerError>) -> Self {
        Self { ticket, value }
    }

    pub(super) fn open(self, store: &impl Store) -> Result<T, LedgerError> {
        store.wait(self.ticket)?;
        self.value
    }
}

type Errand = Box<dyn FnOnce() + Send>;

/// A thread that waits for the disk and answers, in the order of submission. The first that waits leads a sync for all that
/// was submitted by then; for those behind it the wait is over at once.
#[derive(Debug)]
pub struct Acknowledger {
    errands: Option<SyncSender<Errand>>,
}

impl Acknowledger {
    /// Starts the thread. It ends when this is dropped and every answer was given. Where the system has no more threads,
    /// whoever gives something to [run](Self::run) waits himself: slower, and as safe.
    #[must_use]
    pub fn start() -> Self {
        let most = usize::try_from(MAX_UNDURABLE).unwrap_or(usize::MAX);
        let (errands, waiting) = sync_channel::<Errand>(most);
        let started = std::thread::Builder::new()
            .name("ledger-acks".to_owned())
            .spawn(move || {
                while let Ok(errand) = waiting.recv() {
                    errand();
                }
            });
        if let Err(failure) = &started {
            error!(error = %failure, "no thread to wait for the disk; each voucher waits for its own sync");
        }
        Self {
            errands: started.is_ok().then_some(errands),
        }
    }

    /// Has `wait_and_answer` run, after all that were given before. Waits while [`MAX_UNDURABLE`] are under way.
    pub fn run(&self, wait_and_answer: impl FnOnce() + Send + 'static) {
        let errand: Errand = Box::new(wait_and_answer);
        match &self.errands {
            // Refused where the thread is gone, because somebody's answer has panicked.
            Some(errands) => {
                if let Err(left) = errands.send(errand) {
                    (left.0)();
                }
            }
            None => errand(),
        }
    }
}
