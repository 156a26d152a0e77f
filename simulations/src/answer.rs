//! The client's end of a session: read, count, sign, end; and go elsewhere if the worker fails
//! before its first token.

use cocoon_protocol::{DirectoryInput, JobErrorCode, NanoTon, Offer, Outcome, Payer};

use crate::event::{Event, ToClient, ToWorker};
use crate::job::{ClientEnd, End, FaultKind, Session};
use crate::violation::{Side, Violation};
use crate::world::World;

impl World {
    /// Takes an offer up: handshake, then the job.
    pub(crate) fn open_session(&mut self, job: usize, offer: Offer) {
        let now = self.queue.now();
        let Some(wanted) = self.jobs.get_mut(job) else {
            return;
        };
        let Some(&worker) = self.worker_by_peer.get(&offer.worker) else {
            return;
        };
        let client = wanted.client;
        let (Some(client_node), Some(worker_node)) =
            (self.clients.get_mut(client), self.workers.get(worker))
        else {
            return;
        };
        if !wanted.chosen {
            wanted.chosen = true;
            self.tally
                .chosen_after_ms
                .add(now.saturating_since(wanted.wanted));
        }
        let Some(limit) = offer.worst_cost() else {
            return;
        };
        let base = self.books.signed(client, worker);
        let id = self.sessions.len();
        client_node.busy_channels.insert(worker);
        client_node.process.sessions.insert(id);
        self.sessions.push(Session {
            job,
            client,
            worker,
            client_incarnation: client_node.process.incarnation,
            worker_incarnation: worker_node.process.incarnation,
            client_end: ClientEnd {
                payer: Payer::new(offer.price, base, offer.credit_window, limit),
                prompt_tokens: 0,
                received: 0,
                last_heard: now,
                open: true,
            },
            worker_end: None,
            offer,
        });
        // Two messages of handshake before the job may be told.
        let there = self.stream_arrival(id, Side::Worker, now);
        let back = self.stream_arrival(id, Side::Client, there);
        let at = self.stream_arrival(id, Side::Worker, back);
        self.queue.schedule_at(
            at,
            Event::ToWorker {
                session: id,
                message: ToWorker::Job,
            },
        );
        if self
            .chance
            .happens(self.scenario.faults.job_sent_twice_permille)
        {
            // The same offer once more, as an impatient or a greedy client would.
            let again = self.stream_arrival(id, Side::Worker, at);
            self.queue
                .schedule_at(again, Event::JobAgain { session: id });
        }
        let patience = self.scenario.clients.patience_ms;
        self.queue
            .schedule(patience, Event::ClientImpatient { session: id });
    }

    /// A message from the worker has arrived.
    pub(crate) fn on_client_message(&mut self, id: usize, message: ToClient) {
        let now = self.queue.now();
        let Some(end) = self.live_client_end(id) else {
            return;
        };
        end.last_heard = now;
        match message {
            ToClient::Accepted { prompt_tokens } => {
                end.prompt_tokens = prompt_tokens;
                if let Err(error) = end.payer.on_accepted(prompt_tokens) {
                    let reason = error.to_string();
                    self.honest_step_refused(id, Side::Worker, reason);
                }
            }
            ToClient::Tokens(tokens) => self.on_tokens(id, tokens),
            ToClient::Finished => self.on_finished(id),
            ToClient::Failed(code) => self.on_failed(id, code),
        }
    }

    fn on_tokens(&mut self, id: usize, tokens: u32) {
        let now = self.queue.now();
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (client, worker) = (session.client, session.worker);
        let end = &mut session.client_end;
        let price = session.offer.price;
        let before = end.received;
        end.received = before.saturating_add(tokens);
        let mut cost = price.output.saturating_mul(u64::from(tokens));
        if before == 0 {
            cost = cost.saturating_add(price.input.saturating_mul(u64::from(end.prompt_tokens)));
        }
        self.books.tokens_received(client, worker, cost);
        if let Some(job) = self.jobs.get_mut(session.job)
            && !job.first_token
        {
            job.first_token = true;
            let after = now.saturating_since(job.wanted);
            self.tally.first_token_after_ms.add(after);
        }
        let due = match end.payer.on_tokens(tokens) {
            Ok(due) => due,
            Err(error) => {
                let reason = error.to_string();
                self.honest_step_refused(id, Side::Worker, reason);
                return;
            }
        };
        if self.planned_fault(id, FaultKind::ClientStopsUnsigned, before, tokens) {
            self.stop_client_of(id);
            return;
        }
        if let Some(total) = due {
            self.sign(id, total);
        }
        if self.planned_fault(id, FaultKind::ClientStopsSigned, before, tokens) {
            self.stop_client_of(id);
        }
    }

    /// Signs a total and sends it, unless this is where the client stops paying.
    fn sign(&mut self, id: usize, total: NanoTon) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        if self.stopped_paying(session) {
            return;
        }
        self.books
            .voucher_signed(session.client, session.worker, total);
        self.send_to_worker(id, ToWorker::Voucher(total));
    }

    fn stopped_paying(&self, session: &Session) -> bool {
        let fault = self.jobs.get(session.job).and_then(|job| job.fault);
        fault.is_some_and(|fault| {
            fault.kind == FaultKind::ClientStopsPaying
                && session.client_end.received >= fault.after_tokens
        })
    }

    /// Signs for everything that arrived.
    fn settle(&mut self, id: usize) {
        if let Some(total) = self.live_client_end(id).and_then(|end| end.payer.on_end()) {
            self.sign(id, total);
        }
    }

    fn on_finished(&mut self, id: usize) {
        self.settle(id);
        if self
            .sessions
            .get(id)
            .is_some_and(|session| !self.stopped_paying(session))
        {
            self.send_to_worker(id, ToWorker::Done);
        }
        self.end_session(id);
        self.end_job_of(id, End::Outcome(Outcome::Completed));
    }

    fn on_failed(&mut self, id: usize, code: JobErrorCode) {
        // The worker has closed the session: a voucher would not arrive any more.
        self.blame_worker(id);
        self.end_session(id);
        let received = self
            .sessions
            .get(id)
            .map_or(0, |session| session.client_end.received);
        if received > 0 {
            self.end_job_of(id, End::Outcome(Outcome::PaymentStalled));
        } else {
            self.try_next(id, End::Outcome(Outcome::Rejected(code)));
        }
    }

    /// The client's stream broke.
    pub(crate) fn on_worker_gone(&mut self, id: usize) {
        let Some(end) = self.live_client_end(id) else {
            return;
        };
        let received = end.received;
        self.blame_worker(id);
        self.end_session(id);
        let lost = End::Outcome(Outcome::WorkerLost);
        if received > 0 {
            self.end_job_of(id, lost);
        } else {
            self.try_next(id, lost);
        }
    }

    /// The client looks at how long it has heard nothing.
    pub(crate) fn on_client_impatient(&mut self, id: usize) {
        let patience = self.scenario.clients.patience_ms;
        let now = self.queue.now();
        let Some(end) = self.live_client_end(id) else {
            return;
        };
        let until = end.last_heard.saturating_add(patience);
        if now < until {
            self.queue
                .schedule_at(until, Event::ClientImpatient { session: id });
            return;
        }
        self.settle(id);
        self.send_to_worker(id, ToWorker::Cancel);
        self.blame_worker(id);
        self.end_session(id);
        self.end_job_of(id, End::Outcome(Outcome::TimedOut));
    }

    /// The channel is free again.
    fn end_session(&mut self, id: usize) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.client_end.open = false;
        if let Some(client) = self.clients.get_mut(session.client) {
            client.busy_channels.remove(&session.worker);
            client.process.sessions.remove(&id);
        }
    }

    /// The client thinks less of a worker that failed it.
    fn blame_worker(&mut self, id: usize) {
        if let Some(session) = self.sessions.get(id) {
            let (client, peer) = (session.client, session.offer.worker);
            self.feed_directory(client, DirectoryInput::PeerFailed { peer });
        }
    }

    fn end_job_of(&mut self, id: usize, how: End) {
        if let Some(job) = self.sessions.get(id).map(|session| session.job) {
            self.end_job(job, how);
        }
    }

    /// Ends a job for its client, once.
    pub(crate) fn end_job(&mut self, id: usize, how: End) {
        let now = self.queue.now();
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if let Some(first) = job.end {
            self.books.violations.push(Violation::TwoOutcomes {
                job: id,
                side: Side::Client,
                first: first.label(),
                second: how.label(),
            });
            return;
        }
        job.end = Some(how);
        job.negotiation = None;
        self.tally
            .client_ended(how, now.saturating_since(job.wanted));
        self.open_jobs = self.open_jobs.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(job.client) {
            client.process.jobs.remove(&id);
        }
    }

    fn live_client_end(&mut self, id: usize) -> Option<&mut ClientEnd> {
        let session = self.sessions.get_mut(id)?;
        let client = self.clients.get(session.client)?;
        let there = client.process.is(session.client_incarnation);
        (there && session.client_end.open).then_some(&mut session.client_end)
    }
}
