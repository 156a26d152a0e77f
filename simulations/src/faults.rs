//! Processes that die and start again, and what the other end notices of it.

use crate::event::Event;
use crate::job::{End, FaultKind};
use crate::violation::Side;
use crate::world::World;

impl World {
    /// Whether this job's fault is of this kind and these tokens are the ones that set it off.
    pub(crate) fn planned_fault(
        &self,
        session: usize,
        kind: FaultKind,
        before: u32,
        tokens: u32,
    ) -> bool {
        let fault = self
            .sessions
            .get(session)
            .and_then(|session| self.jobs.get(session.job))
            .and_then(|job| job.fault);
        let after = before.saturating_add(tokens);
        fault.is_some_and(|fault| {
            fault.kind == kind && before < fault.after_tokens && fault.after_tokens <= after
        })
    }

    pub(crate) fn stop_worker_of(&mut self, session: usize) {
        if let Some(session) = self.sessions.get(session) {
            let (worker, incarnation) = (session.worker, session.worker_incarnation);
            self.queue.schedule(
                0,
                Event::WorkerStops {
                    worker,
                    incarnation,
                },
            );
        }
    }

    pub(crate) fn stop_client_of(&mut self, session: usize) {
        if let Some(session) = self.sessions.get(session) {
            let (client, incarnation) = (session.client, session.client_incarnation);
            self.queue.schedule(
                0,
                Event::ClientStops {
                    client,
                    incarnation,
                },
            );
        }
    }

    /// A worker's process dies: its leases, its open offers and its sessions with it; its vouchers
    /// are on disk.
    pub(crate) fn on_worker_stops(&mut self, worker: usize, incarnation: u64) {
        let Some(node) = self.workers.get_mut(worker) else {
            return;
        };
        if !node.process.is(incarnation) {
            return;
        }
        node.process.down = true;
        node.process.incarnation = incarnation.saturating_add(1);
        let sessions = std::mem::take(&mut node.process.sessions);
        for session in sessions {
            self.end_worker(session, End::Stopped);
            self.tell_client_worker_gone(session);
        }
        self.queue.schedule(
            self.scenario.faults.restart_ms,
            Event::WorkerStarts { worker },
        );
    }

    /// A worker's process starts: a new enclave, so new keys, new evidence and a new advert.
    pub(crate) fn on_worker_starts(&mut self, worker: usize) {
        let now = self.queue.now();
        let Some(node) = self.workers.get_mut(worker) else {
            return;
        };
        node.start(&mut self.chance, now, &self.scenario.workers);
        let incarnation = node.process.incarnation;
        self.queue.schedule(
            0,
            Event::AdvertDue {
                worker,
                incarnation,
            },
        );
    }

    /// A client's process dies: its jobs and its directory with it; what it signed is on disk.
    pub(crate) fn on_client_stops(&mut self, client: usize, incarnation: u64) {
        let Some(node) = self.clients.get_mut(client) else {
            return;
        };
        if !node.process.is(incarnation) {
            return;
        }
        node.process.down = true;
        node.process.incarnation = incarnation.saturating_add(1);
        let sessions = std::mem::take(&mut node.process.sessions);
        let jobs = std::mem::take(&mut node.process.jobs);
        for job in jobs {
            self.end_job(job, End::Stopped);
        }
        for session in sessions {
            let at = self.stream_arrival(session, Side::Worker, self.queue.now());
            self.queue.schedule_at(at, Event::ClientGone { session });
        }
        self.queue.schedule(
            self.scenario.faults.restart_ms,
            Event::ClientStarts { client },
        );
    }

    /// A client's process starts and knows nobody.
    pub(crate) fn on_client_starts(&mut self, client: usize) {
        let Some(node) = self.clients.get_mut(client) else {
            return;
        };
        node.start();
    }

    /// The client's end of a stream breaks, after everything that is still on its way.
    pub(crate) fn tell_client_worker_gone(&mut self, session: usize) {
        let at = self.stream_arrival(session, Side::Client, self.queue.now());
        self.queue.schedule_at(at, Event::WorkerGone { session });
    }
}
