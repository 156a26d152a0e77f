//! From wanting an answer to a chosen offer: candidates are drawn, asked, compared.

use std::collections::BTreeMap;

use cocoon_protocol::negotiation::{
    Candidate, NegotiationConfig, NegotiationInput, NegotiationOutput, Offer, QuoteRequest,
    Refusal, Wish, WorkerTerms, decode_offer,
};
use cocoon_protocol::wire::Verified;
use cocoon_protocol::{Keypair, NanoTon, Negotiation};

use crate::event::Event;
use crate::job::{End, FaultKind, Job, PlannedFault};
use crate::nodes::MODEL;
use crate::world::World;

impl World {
    /// Draws when a client's application will next want an answer, if that is before the end.
    pub(crate) fn arm_job(&mut self, client: usize) {
        let mean = self.scenario.clients.job_interval_ms;
        let at = self
            .queue
            .now()
            .saturating_add(self.chance.exponential(mean));
        if at < self.end {
            self.queue.schedule_at(at, Event::JobWanted { client });
        }
    }

    /// An application wants an answer from its client.
    pub(crate) fn on_job_wanted(&mut self, id: usize) {
        let now = self.queue.now();
        self.arm_job(id);
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        if client.process.down {
            return;
        }
        let clients = &self.scenario.clients;
        let prompt_tokens = tokens(self.chance.within(clients.prompt_tokens));
        let output_tokens = tokens(self.chance.within(clients.output_tokens));
        let most_output_tokens = tokens(clients.output_tokens[1]);
        let job = self.jobs.len();
        client.process.jobs.insert(job);
        let wish = Wish {
            client: client.peer,
            max_prompt_tokens: prompt_tokens,
            max_output_tokens: most_output_tokens,
        };
        self.open_jobs = self.open_jobs.saturating_add(1);
        let fault = self.plan_fault(output_tokens);
        let candidates = self.draw_candidates(id);
        let config = NegotiationConfig {
            wait_ms_per_milliton: self.scenario.clients.wait_ms_per_milliton,
            ..NegotiationConfig::default()
        };
        let (negotiation, outputs) =
            Negotiation::start(config, wish, now, candidates, self.chance.generator());
        let deadline = negotiation.deadline();
        self.jobs.push(Job {
            client: id,
            wanted: now,
            prompt_tokens,
            output_tokens,
            fault,
            negotiation: Some(negotiation),
            chosen: false,
            first_token: false,
            end: None,
        });
        if let Some(deadline) = deadline {
            self.queue
                .schedule_at(deadline, Event::NegotiationTick { job });
        }
        self.do_negotiation_outputs(job, outputs);
    }

    fn plan_fault(&mut self, output_tokens: u32) -> Option<PlannedFault> {
        let faults = &self.scenario.faults;
        let kinds = [
            (faults.worker_stops_permille, FaultKind::WorkerStops),
            (
                faults.client_stops_permille / 2,
                FaultKind::ClientStopsUnsigned,
            ),
            (
                faults.client_stops_permille.div_ceil(2),
                FaultKind::ClientStopsSigned,
            ),
            (
                faults.client_stops_paying_permille,
                FaultKind::ClientStopsPaying,
            ),
        ];
        let mut draw = self.chance.below(1000);
        let after_tokens = tokens(self.chance.within([1, u64::from(output_tokens)]));
        for (permille, kind) in kinds {
            if draw < permille {
                return Some(PlannedFault { kind, after_tokens });
            }
            draw = draw.saturating_sub(permille);
        }
        None
    }

    /// Draws whom to ask among the verified workers, in proportion to their slots; not those that
    /// this client is talking to, because a channel takes one job at a time.
    fn draw_candidates(&mut self, id: usize) -> Vec<Candidate> {
        let now = self.queue.now();
        let Some(client) = self.clients.get(id) else {
            return Vec::new();
        };
        let mut urn: BTreeMap<usize, (u64, Candidate)> = client
            .directory
            .serving(now, MODEL)
            .into_iter()
            .filter_map(|entry| {
                let worker = *self.worker_by_peer.get(&entry.advert.peer)?;
                let candidate = Candidate::of(entry, MODEL)?;
                let free = !client.busy_channels.contains(&worker);
                free.then_some((worker, (u64::from(entry.advert.slots), candidate)))
            })
            .collect();
        let mut drawn = Vec::new();
        for _ in 0..self.scenario.clients.ask {
            let all: u64 = urn.values().map(|(slots, _)| slots).sum();
            let mut ticket = self.chance.below(all);
            let mut winner = None;
            for (worker, (slots, _)) in &urn {
                if ticket < *slots {
                    winner = Some(*worker);
                    break;
                }
                ticket = ticket.saturating_sub(*slots);
            }
            if let Some((_, candidate)) = winner.and_then(|winner| urn.remove(&winner)) {
                drawn.push(candidate);
            }
        }
        drawn
    }

    fn do_negotiation_outputs(&mut self, job: usize, outputs: Vec<NegotiationOutput>) {
        let now = self.queue.now();
        for output in outputs {
            match output {
                NegotiationOutput::Ask { peer, request } => {
                    let Some(client) = self.jobs.get(job).map(|job| job.client) else {
                        continue;
                    };
                    let Some(&worker) = self.worker_by_peer.get(&peer) else {
                        continue;
                    };
                    let from = self.client_node(client);
                    let at = self.links.request(now, from, worker, &mut self.chance);
                    self.queue.schedule_at(
                        at,
                        Event::QuoteAsked {
                            job,
                            worker,
                            request,
                        },
                    );
                }
                NegotiationOutput::Chosen(offer) => self.take_offer(job, offer, End::Unplaced),
                NegotiationOutput::Exhausted { .. } => self.end_job(job, End::Unplaced),
            }
        }
    }

    /// Opens a session for an offer, or for the next best if its channel was taken meanwhile.
    fn take_offer(&mut self, job: usize, offer: Offer, otherwise: End) {
        let now = self.queue.now();
        let mut next = Some(offer);
        while let Some(offer) = next {
            let client = self
                .jobs
                .get(job)
                .and_then(|job| self.clients.get(job.client));
            let worker = self.worker_by_peer.get(&offer.worker);
            let busy = client
                .zip(worker)
                .is_some_and(|(client, worker)| client.busy_channels.contains(worker));
            if !busy {
                self.open_session(job, offer);
                return;
            }
            let negotiation = self
                .jobs
                .get_mut(job)
                .and_then(|job| job.negotiation.as_mut());
            next = negotiation.and_then(|negotiation| negotiation.next_best(now));
        }
        self.end_job(job, otherwise);
    }

    /// The chosen worker failed before its first token: the next best, or the end.
    pub(crate) fn try_next(&mut self, session: usize, otherwise: End) {
        let now = self.queue.now();
        let Some(id) = self.sessions.get(session).map(|session| session.job) else {
            return;
        };
        let negotiation = self
            .jobs
            .get_mut(id)
            .and_then(|job| job.negotiation.as_mut());
        match negotiation.and_then(|negotiation| negotiation.next_best(now)) {
            Some(offer) => self.take_offer(id, offer, otherwise),
            None => self.end_job(id, otherwise),
        }
    }

    /// A request for quote reaches a worker.
    pub(crate) fn on_quote_asked(&mut self, id: usize, worker: usize, request: &QuoteRequest) {
        let now = self.queue.now();
        let Some(client_index) = self.jobs.get(id).map(|job| job.client) else {
            return;
        };
        let (Some(node), Some(client)) =
            (self.workers.get_mut(worker), self.clients.get(client_index))
        else {
            return;
        };
        let reply = if node.process.down {
            None
        } else {
            let window_tokens = tokens(self.scenario.workers.credit_window_tokens);
            let window = node
                .terms
                .price
                .cost(request.max_prompt_tokens, window_tokens);
            let wait_ms = node.prompt_ms(request.max_prompt_tokens);
            let models = [node.terms.clone()];
            let terms = WorkerTerms {
                worker: node.peer,
                models: &models,
                evidence: node.evidence,
                payout: node.payout,
                credit_window: window.unwrap_or(NanoTon::ZERO),
                expected_wait_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX),
            };
            match node.book.quote(now, request, client.peer, &terms) {
                Err(refusal) => {
                    self.tally.refused(refusal_label(refusal));
                    Some(Err(refusal))
                }
                Ok(offer) => match signed(&offer, &node.key) {
                    Ok(offer) => {
                        self.tally.offered = self.tally.offered.saturating_add(1);
                        Some(Ok(Box::new(offer)))
                    }
                    Err(reason) => {
                        self.refused_by_codec(reason);
                        None
                    }
                },
            }
        };
        let to = self.client_node(client_index);
        let at = self.links.request(now, worker, to, &mut self.chance);
        self.queue.schedule_at(
            at,
            Event::QuoteAnswered {
                job: id,
                worker,
                reply,
            },
        );
    }

    /// The answer reaches the client.
    pub(crate) fn on_quote_answered(
        &mut self,
        id: usize,
        worker: usize,
        reply: Option<Result<Box<Verified<Offer>>, Refusal>>,
    ) {
        let Some(peer) = self.workers.get(worker).map(|worker| worker.peer) else {
            return;
        };
        let input = match reply {
            Some(reply) => NegotiationInput::Reply {
                peer,
                reply: reply.map(|offer| *offer),
            },
            None => NegotiationInput::Failed { peer },
        };
        self.feed_negotiation(id, input);
    }

    /// Gives a job's negotiation an input and does what it wants.
    pub(crate) fn feed_negotiation(&mut self, id: usize, input: NegotiationInput) {
        let now = self.queue.now();
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let Some(negotiation) = job.negotiation.as_mut() else {
            return;
        };
        let outputs = negotiation.handle(now, input);
        self.do_negotiation_outputs(id, outputs);
    }
}

/// An offer as the client gets it: signed, sent, checked.
fn signed(offer: &Offer, key: &Keypair) -> Result<Verified<Offer>, String> {
    let bytes = offer.sign(key).map_err(|error| error.to_string())?;
    decode_offer(&bytes).map_err(|error| error.to_string())
}

fn refusal_label(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownModel => "unknown_model",
        Refusal::NoFreeSlot => "no_free_slot",
        Refusal::TooLong { .. } => "too_long",
        Refusal::Draining => "draining",
        Refusal::Busy => "busy",
    }
}

fn tokens(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
