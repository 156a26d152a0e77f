//! The worker's end of a session: redeem, generate, send as far as the credit window goes, take
//! vouchers, end.

use cocoon_protocol::job::FRAME_TOKENS;
use cocoon_protocol::negotiation::RedeemError;
use cocoon_protocol::{JobErrorCode, NanoTon, Outcome, Payee};

use crate::event::{Event, ToClient, ToWorker};
use crate::job::{End, FaultKind, WorkerEnd};
use crate::violation::{Side, Violation};
use crate::world::World;

impl World {
    /// A message from the client has arrived.
    pub(crate) fn on_worker_message(&mut self, id: usize, message: ToWorker) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let (client, worker) = (session.client, session.worker);
        let there = self
            .workers
            .get(worker)
            .is_some_and(|node| node.process.is(session.worker_incarnation));
        let ended = session
            .worker_end
            .as_ref()
            .is_some_and(|end| end.end.is_some());
        if !there || ended {
            // The stream is closed: what arrives now is lost.
            match message {
                ToWorker::Voucher(total) => self.books.voucher_lost(client, worker, total),
                ToWorker::Job if !there => self.tell_client_worker_gone(id),
                ToWorker::Job | ToWorker::Cancel | ToWorker::Done => {}
            }
            return;
        }
        match message {
            ToWorker::Job => self.on_job(id),
            ToWorker::Voucher(total) => self.on_voucher(id, total),
            ToWorker::Cancel => self.end_worker(id, End::Outcome(Outcome::Cancelled)),
            ToWorker::Done => {
                let unpaid = self
                    .worker_end(id)
                    .is_some_and(|end| end.payee.unpaid() > NanoTon::ZERO);
                let outcome = if unpaid {
                    Outcome::PaymentStalled
                } else {
                    Outcome::Completed
                };
                self.end_worker(id, End::Outcome(outcome));
            }
        }
    }

    fn on_job(&mut self, id: usize) {
        let now = self.queue.now();
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(job) = self.jobs.get(session.job) else {
            return;
        };
        let (Some(worker), Some(client)) = (
            self.workers.get_mut(session.worker),
            self.clients.get(session.client),
        ) else {
            return;
        };
        let offer = session.offer.id;
        let lease = match worker.book.redeem(now, offer, client.peer) {
            Ok(lease) => lease,
            Err(error) => {
                let (label, code) = redeem_failure(&error);
                self.tally.redeem_failed(label);
                self.send_to_client(id, ToClient::Failed(code));
                return;
            }
        };
        // The auditor's own count, which knows nothing of the book's.
        self.tally.leases_granted = self.tally.leases_granted.saturating_add(1);
        if !worker.ever_leased.insert(offer) {
            let violation = Violation::DoubleLease {
                job: session.job,
                worker: session.worker,
            };
            self.books.violations.push(violation);
        }
        worker.leased.insert(offer);
        let live = u64::try_from(worker.leased.len()).unwrap_or(u64::MAX);
        let slots = u64::from(worker.slots);
        if live > slots {
            let violation = Violation::TooManyLeases {
                worker: session.worker,
                live,
                slots,
            };
            self.books.violations.push(violation);
        }

        let base = self.books.held(session.client, session.worker);
        let offer = &session.offer;
        let mut payee = Payee::new(offer.price, base, base, offer.credit_window);
        if let Err(error) = payee.on_accepted(job.prompt_tokens) {
            self.books.violations.push(Violation::HonestStepRefused {
                job: session.job,
                side: Side::Worker,
                reason: error.to_string(),
            });
        }
        self.tally.largest_window = self.tally.largest_window.max(offer.credit_window);
        session.worker_end = Some(WorkerEnd {
            payee,
            lease: Some(lease),
            prompt_tokens: job.prompt_tokens,
            base,
            held: base,
            in_hand: 0,
            sent: 0,
            to_make: job.output_tokens,
            finished: false,
            wait: 0,
            waiting: false,
            worst_exposure: NanoTon::ZERO,
            end: None,
        });
        let prompt_tokens = job.prompt_tokens;
        let reading_ms = worker.prompt_ms(prompt_tokens);
        worker.process.sessions.insert(id);
        self.open_worker_ends = self.open_worker_ends.saturating_add(1);
        self.send_to_client(id, ToClient::Accepted { prompt_tokens });
        self.generate(id, reading_ms);
    }

    /// The client tries to redeem its offer once more: it must not get a second slot for it.
    pub(crate) fn on_job_again(&mut self, id: usize) {
        let now = self.queue.now();
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let (Some(worker), Some(client)) = (
            self.workers.get_mut(session.worker),
            self.clients.get(session.client),
        ) else {
            return;
        };
        if worker.process.down {
            return;
        }
        match worker.book.redeem(now, session.offer.id, client.peer) {
            Err(error) => self.tally.redeem_failed(redeem_failure(&error).0),
            Ok(_) => {
                let (job, worker) = (session.job, session.worker);
                self.books
                    .violations
                    .push(Violation::DoubleLease { job, worker });
            }
        }
    }

    /// Lets the engine make the next frame; `first_ms` goes before it.
    fn generate(&mut self, id: usize, first_ms: u64) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (Some(end), Some(worker)) = (&mut session.worker_end, self.workers.get(session.worker))
        else {
            return;
        };
        let tokens = end.to_make.min(FRAME_TOKENS);
        end.to_make = end.to_make.saturating_sub(tokens);
        let ms = first_ms.saturating_add(worker.tokens_ms(tokens));
        self.queue.schedule(
            ms,
            Event::Generated {
                session: id,
                tokens,
            },
        );
    }

    /// The engine has made a frame.
    pub(crate) fn on_generated(&mut self, id: usize, tokens: u32) {
        let Some(end) = self.live_worker_end(id) else {
            return;
        };
        end.in_hand = end.in_hand.saturating_add(tokens);
        self.send_what_may_be_sent(id);
    }

    /// Sends what is in hand if the window allows it, and goes on, waits or finishes.
    fn send_what_may_be_sent(&mut self, id: usize) {
        let Some(end) = self.live_worker_end(id) else {
            return;
        };
        if end.in_hand > 0 {
            let tokens = end.in_hand;
            if !end.payee.may_send(tokens) {
                self.wait_for_client(id);
                return;
            }
            if let Err(error) = end.payee.sent(tokens) {
                let reason = error.to_string();
                self.honest_step_refused(id, Side::Worker, reason);
                return;
            }
            let before = end.sent;
            end.in_hand = 0;
            end.waiting = false;
            end.sent = before.saturating_add(tokens);
            self.audit_sent(id, before, tokens);
            self.send_to_client(id, ToClient::Tokens(tokens));
            if self.planned_fault(id, FaultKind::WorkerStops, before, tokens) {
                self.stop_worker_of(id);
                return;
            }
        }
        let Some(end) = self.live_worker_end(id) else {
            return;
        };
        if end.to_make > 0 {
            self.generate(id, 0);
        } else if !end.finished {
            end.finished = true;
            self.send_to_client(id, ToClient::Finished);
            // The engine is free; only the last voucher is missing.
            self.give_lease_back(id);
            self.wait_for_client(id);
        }
    }

    /// Checks the credit window with arithmetic of its own.
    fn audit_sent(&mut self, id: usize, before: u32, tokens: u32) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(end) = &mut session.worker_end else {
            return;
        };
        let price = session.offer.price;
        let mut added = price.output.saturating_mul(u64::from(tokens));
        if before == 0 {
            added = added.saturating_add(price.input.saturating_mul(u64::from(end.prompt_tokens)));
        }
        let sent = u64::from(end.sent);
        let prompt = price.input.saturating_mul(u64::from(end.prompt_tokens));
        let earned = price.output.saturating_mul(sent).saturating_add(prompt);
        let paid = end.held.saturating_sub(end.base);
        let exposure = earned.saturating_sub(paid);
        end.worst_exposure = end.worst_exposure.max(exposure);
        let window = session.offer.credit_window;
        if exposure > window {
            let job = session.job;
            let violation = Violation::ExposureAboveWindow {
                job,
                exposure,
                window,
            };
            self.books.violations.push(violation);
        }
        self.books
            .tokens_sent(session.client, session.worker, added);
    }

    fn on_voucher(&mut self, id: usize, total: NanoTon) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (client, worker) = (session.client, session.worker);
        let Some(end) = &mut session.worker_end else {
            return;
        };
        if let Err(error) = end.payee.on_voucher(total) {
            let reason = error.to_string();
            self.books.voucher_lost(client, worker, total);
            self.honest_step_refused(id, Side::Client, reason);
            return;
        }
        end.held = total;
        self.books.voucher_held(client, worker, total);
        if end.waiting {
            // A sign of life: the wait begins again, or ends.
            self.send_what_may_be_sent(id);
        }
    }

    /// Starts a wait for a voucher or the client's last word.
    fn wait_for_client(&mut self, id: usize) {
        let patience = self.scenario.faults.worker_patience_ms;
        let Some(end) = self.live_worker_end(id) else {
            return;
        };
        end.waiting = true;
        end.wait = end.wait.saturating_add(1);
        let wait = end.wait;
        self.queue
            .schedule(patience, Event::WorkerImpatient { session: id, wait });
    }

    /// The worker has waited long enough.
    pub(crate) fn on_worker_impatient(&mut self, id: usize, wait: u64) {
        let Some(end) = self.live_worker_end(id) else {
            return;
        };
        if !end.waiting || end.wait != wait {
            return;
        }
        let unpaid = end.payee.unpaid() > NanoTon::ZERO;
        let outcome = if unpaid {
            Outcome::PaymentStalled
        } else {
            Outcome::ClientLost
        };
        if !end.finished {
            self.send_to_client(id, ToClient::Failed(JobErrorCode::CreditExhausted));
        }
        self.end_worker(id, End::Outcome(outcome));
    }

    /// The worker's stream broke.
    pub(crate) fn on_client_gone(&mut self, id: usize) {
        if self.live_worker_end(id).is_some() {
            self.end_worker(id, End::Outcome(Outcome::ClientLost));
        }
    }

    /// Ends a session for its worker, once.
    pub(crate) fn end_worker(&mut self, id: usize, how: End) {
        self.give_lease_back(id);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (job, window) = (session.job, session.offer.credit_window);
        let Some(end) = &mut session.worker_end else {
            return;
        };
        if let Some(first) = end.end {
            self.books.violations.push(Violation::TwoOutcomes {
                job,
                side: Side::Worker,
                first: first.label(),
                second: how.label(),
            });
            return;
        }
        end.end = Some(how);
        self.tally.worker_ended(how, end.worst_exposure, window);
        self.open_worker_ends = self.open_worker_ends.saturating_sub(1);
        if let Some(worker) = self.workers.get_mut(session.worker) {
            worker.process.sessions.remove(&id);
        }
    }

    fn give_lease_back(&mut self, id: usize) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(lease) = session.worker_end.as_mut().and_then(|end| end.lease.take()) else {
            return;
        };
        let Some(worker) = self.workers.get_mut(session.worker) else {
            return;
        };
        worker.leased.remove(&session.offer.id);
        if worker.process.is(session.worker_incarnation) {
            worker.book.release(lease.id);
            self.tally.leases_released = self.tally.leases_released.saturating_add(1);
        } else {
            // Its book died with the process.
            self.tally.leases_died = self.tally.leases_died.saturating_add(1);
        }
    }

    fn worker_end(&self, id: usize) -> Option<&WorkerEnd> {
        self.sessions.get(id)?.worker_end.as_ref()
    }

    fn live_worker_end(&mut self, id: usize) -> Option<&mut WorkerEnd> {
        let end = self.sessions.get_mut(id)?.worker_end.as_mut()?;
        end.end.is_none().then_some(end)
    }
}

fn redeem_failure(error: &RedeemError) -> (&'static str, JobErrorCode) {
    match error {
        RedeemError::Unknown { .. } => ("unknown", JobErrorCode::OfferUnknown),
        RedeemError::Expired { .. } => ("expired", JobErrorCode::OfferExpired),
        RedeemError::OtherClient { .. } => ("other_client", JobErrorCode::OfferUnknown),
        RedeemError::AlreadyRedeemed { .. } => ("already_redeemed", JobErrorCode::OfferUnknown),
    }
}
