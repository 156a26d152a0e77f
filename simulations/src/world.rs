//! The whole network, and the loop that lets one event happen after the other.

use std::collections::BTreeMap;

use cocoon_protocol::negotiation::NegotiationInput;
use cocoon_protocol::{PeerId, UnixMillis};

use crate::books::Books;
use crate::event::{Event, ToClient, ToWorker};
use crate::job::{Job, Session};
use crate::link::Links;
use crate::nodes::{Client, Worker};
use crate::queue::EventQueue;
use crate::random::Chance;
use crate::report::{JobsReport, LeaseReport, MoneyReport, Report};
use crate::scenario::Scenario;
use crate::tally::Tally;
use crate::trace::Trace;
use crate::violation::{Side, Violation};

/// The instant at which every simulation begins, 2027-01-15 08:00 UTC. Any would do.
const START: UnixMillis = UnixMillis::from_millis(1_800_000_000_000);

/// How long after the end adverts and clocks go on for the jobs that are still open, in
/// milliseconds.
const MAX_OVERTIME_MS: u64 = 300_000;

/// Everything there is.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) queue: EventQueue<Event>,
    pub(crate) chance: Chance,
    pub(crate) links: Links,
    pub(crate) workers: Vec<Worker>,
    pub(crate) worker_by_peer: BTreeMap<PeerId, usize>,
    pub(crate) clients: Vec<Client>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) books: Books,
    pub(crate) tally: Tally,
    /// No new jobs from here on.
    pub(crate) end: UnixMillis,
    pub(crate) open_jobs: u64,
    pub(crate) open_worker_ends: u64,
    trace: Trace,
    seed: u64,
}

/// Runs a scenario to its end. The report depends on nothing but these two arguments.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    let mut world = World::new(scenario, seed);
    while let Some(event) = world.queue.pop() {
        let (kind, fields) = event.fingerprint();
        world.trace.record(world.queue.now(), kind, &fields);
        world.happen(event);
    }
    world.report()
}

impl World {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut chance = Chance::from_seed(seed);
        let (workers, faults) = (&scenario.workers, &scenario.faults);
        let workers: Vec<Worker> = (0..workers.count)
            .map(|_| Worker::draw(&mut chance, START, workers, faults))
            .collect();
        let clients: Vec<Client> = (0..scenario.clients.count)
            .map(|_| Client::draw(&mut chance))
            .collect();
        let mut queue = EventQueue::new(START);
        for worker in 0..workers.len() {
            let within = [0, scenario.workers.advert_interval_ms];
            let due = Event::AdvertDue {
                worker,
                incarnation: 0,
            };
            queue.schedule(chance.within(within), due);
        }
        let mut world = Self {
            scenario: scenario.clone(),
            queue,
            links: Links::new(scenario.link.clone()),
            worker_by_peer: workers
                .iter()
                .enumerate()
                .map(|(index, worker)| (worker.peer, index))
                .collect(),
            workers,
            clients,
            jobs: Vec::new(),
            sessions: Vec::new(),
            books: Books::default(),
            tally: Tally::default(),
            end: START.saturating_add(scenario.duration_ms),
            open_jobs: 0,
            open_worker_ends: 0,
            trace: Trace::default(),
            seed,
            chance,
        };
        for client in 0..world.clients.len() {
            world.arm_job(client);
        }
        world
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::AdvertDue {
                worker,
                incarnation,
            } => self.on_advert_due(worker, incarnation),
            Event::AdvertArrives { client, advert } => self.on_advert_arrives(client, &advert),
            Event::EvidenceExamined {
                client,
                incarnation,
                worker,
                evidence,
                good,
            } => {
                self.on_evidence_examined(client, incarnation, worker, evidence, good);
            }
            Event::DirectoryTick {
                client,
                incarnation,
            } => {
                self.on_directory_tick(client, incarnation);
            }
            Event::JobWanted { client } => self.on_job_wanted(client),
            Event::QuoteAsked {
                job,
                worker,
                request,
            } => {
                self.on_quote_asked(job, worker, &request);
            }
            Event::QuoteAnswered { job, worker, reply } => {
                self.on_quote_answered(job, worker, reply);
            }
            Event::NegotiationTick { job } => self.feed_negotiation(job, NegotiationInput::Tick),
            Event::ToWorker { session, message } => self.on_worker_message(session, message),
            Event::JobAgain { session } => self.on_job_again(session),
            Event::ToClient { session, message } => self.on_client_message(session, message),
            Event::Generated { session, tokens } => self.on_generated(session, tokens),
            Event::WorkerImpatient { session, wait } => self.on_worker_impatient(session, wait),
            Event::ClientImpatient { session } => self.on_client_impatient(session),
            Event::ClientGone { session } => self.on_client_gone(session),
            Event::WorkerGone { session } => self.on_worker_gone(session),
            Event::WorkerStops {
                worker,
                incarnation,
            } => self.on_worker_stops(worker, incarnation),
            Event::WorkerStarts { worker } => self.on_worker_starts(worker),
            Event::ClientStops {
                client,
                incarnation,
            } => self.on_client_stops(client, incarnation),
            Event::ClientStarts { client } => self.on_client_starts(client),
        }
    }

    /// Whether anything still goes on that needs adverts and clocks. Bounded, so that a job which
    /// never ends is reported and does not keep the simulation going.
    pub(crate) fn is_busy(&self) -> bool {
        let now = self.queue.now();
        let open = self.open_jobs > 0 || self.open_worker_ends > 0;
        now < self.end || (open && now < self.end.saturating_add(MAX_OVERTIME_MS))
    }

    /// A client's place in the network, after all workers.
    pub(crate) fn client_node(&self, client: usize) -> usize {
        self.workers.len().saturating_add(client)
    }

    /// When something sent to one side of a session at `now` arrives there.
    pub(crate) fn stream_arrival(&mut self, id: usize, to: Side, now: UnixMillis) -> UnixMillis {
        let Some(session) = self.sessions.get(id) else {
            return now;
        };
        let (client, worker) = (self.client_node(session.client), session.worker);
        let (from, to) = match to {
            Side::Client => (worker, client),
            Side::Worker => (client, worker),
        };
        self.links.stream(now, id, from, to, &mut self.chance)
    }

    pub(crate) fn send_to_worker(&mut self, session: usize, message: ToWorker) {
        let at = self.stream_arrival(session, Side::Worker, self.queue.now());
        self.queue
            .schedule_at(at, Event::ToWorker { session, message });
    }

    pub(crate) fn send_to_client(&mut self, session: usize, message: ToClient) {
        let at = self.stream_arrival(session, Side::Client, self.queue.now());
        self.queue
            .schedule_at(at, Event::ToClient { session, message });
    }

    /// A state machine refused what an honest node gave it.
    pub(crate) fn honest_step_refused(&mut self, session: usize, side: Side, reason: String) {
        if let Some(session) = self.sessions.get(session) {
            let job = session.job;
            self.books
                .violations
                .push(Violation::HonestStepRefused { job, side, reason });
        }
    }

    /// A codec refused what an honest node said.
    pub(crate) fn refused_by_codec(&mut self, reason: String) {
        self.books
            .violations
            .push(Violation::HonestMessageRefused { reason });
    }

    fn report(mut self) -> Report {
        for (job, wanted) in self.jobs.iter().enumerate() {
            if wanted.end.is_none() {
                self.books.violations.push(Violation::NoOutcome {
                    job,
                    side: Side::Client,
                });
            }
        }
        for session in &self.sessions {
            if session
                .worker_end
                .as_ref()
                .is_some_and(|end| end.end.is_none())
            {
                let (job, side) = (session.job, Side::Worker);
                self.books
                    .violations
                    .push(Violation::NoOutcome { job, side });
            }
        }
        let mut left = 0u64;
        for (worker, node) in self.workers.iter().enumerate() {
            // The auditor's count and the book's must agree.
            let count = node.leased.len().max(node.book.leased());
            if count > 0 {
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                left = left.saturating_add(count);
                self.books.violations.push(Violation::LeaseLeft {
                    worker,
                    left: count,
                });
            }
        }
        let totals = self.books.close();
        let tally = self.tally;
        Report {
            scenario: self.scenario.name,
            seed: self.seed,
            virtual_ms: self.queue.now().saturating_since(START),
            events: self.trace.events(),
            trace: self.trace.hash(),
            directory: tally.directory_report(),
            jobs: JobsReport {
                wanted: u64::try_from(self.jobs.len()).unwrap_or(u64::MAX),
                client_outcomes: tally.client_outcomes,
                worker_outcomes: tally.worker_outcomes,
                chosen_after_ms: tally.chosen_after_ms.distribution(),
                first_token_after_ms: tally.first_token_after_ms.distribution(),
                completed_after_ms: tally.completed_after_ms.distribution(),
            },
            leases: LeaseReport {
                slots: self
                    .workers
                    .iter()
                    .map(|worker| u64::from(worker.slots))
                    .sum(),
                offered: tally.offered,
                refused: tally.refused,
                granted: tally.leases_granted,
                redeem_failed: tally.redeem_failed,
                released: tally.leases_released,
                died: tally.leases_died,
                left,
            },
            money: MoneyReport {
                channels: totals.channels,
                vouchers: totals.vouchers,
                signed: totals.signed,
                held: totals.held,
                undelivered: totals.undelivered,
                received_cost: totals.received,
                sent_cost: totals.sent,
                max_exposure: tally.max_exposure,
                largest_window: tally.largest_window,
                exposure_permille_of_window: tally.exposure_permille.distribution(),
            },
            violations: self.books.violations,
        }
    }
}
