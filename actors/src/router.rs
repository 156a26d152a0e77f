//! The router actor: which few of the verified workers to ask for a job.
//!
//! Workers are sampled without replacement in proportion to their advertised *static* capacity
//! (slots): load is asked for by the request for quote, never gossiped, since ranking by gossiped
//! load is measurably worse than random at realistic staleness. It keeps the last explanations of
//! why a worker was chosen.

use crate::ask::{Ask, Named, Query};
use actix::prelude::*;
use cocoon_protocol::directory::Entry;
use cocoon_protocol::ids::{JobId, PeerId};
use cocoon_protocol::negotiation::ScoreLine;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::VecDeque;

/// Workers asked for a quote per job: three probes take most of the gain of asking all.
pub const PROBES: usize = 3;
/// Explanations kept for `why`.
pub const MAX_EXPLANATIONS: usize = 256;

/// See the module's doc.
pub struct Router {
    rng: StdRng,
    explanations: VecDeque<(JobId, Vec<ScoreLine>)>,
}

impl Router {
    /// A router that samples with this generator.
    #[must_use]
    pub fn new(rng: StdRng) -> Self {
        Self {
            rng,
            explanations: VecDeque::new(),
        }
    }
}

/// Samples up to `d` entries without replacement, each drawn with probability proportional to its
/// slots among those left.
fn sample(rng: &mut impl Rng, mut entries: Vec<Entry>, d: usize) -> Vec<Entry> {
    let mut chosen = Vec::new();
    while chosen.len() < d && !entries.is_empty() {
        let weight = |entry: &Entry| u64::from(entry.advert.slots.max(1));
        let total: u64 = entries.iter().map(weight).sum();
        let mut ticket = rng.random_range(0..total);
        let index = entries
            .iter()
            .position(|entry| {
                let won = ticket < weight(entry);
                ticket = ticket.saturating_sub(weight(entry));
                won
            })
            .unwrap_or(0);
        chosen.push(entries.swap_remove(index));
    }
    chosen
}

impl Named for Router {
    const NAME: &'static str = "router";
}
impl Actor for Router {
    type Context = Context<Self>;
}
impl Supervised for Router {}

impl Handler<crate::supervision::Stop> for Router {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// Picks whom to ask.
#[derive(Debug)]
pub struct Pick {
    /// The verified workers that serve the model.
    pub entries: Vec<Entry>,
    /// Workers that already failed this job.
    pub exclude: Vec<PeerId>,
}
impl Query for Pick {
    type Answer = Vec<Entry>;
}
impl Handler<Ask<Pick>> for Router {
    type Result = ();
    fn handle(&mut self, asked: Ask<Pick>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Pick {
            mut entries,
            exclude,
        } = query;
        entries.retain(|entry| !exclude.contains(&entry.advert.peer));
        reply.send(sample(&mut self.rng, entries, PROBES));
    }
}

/// Keeps why a job went where it went.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Explained(pub JobId, pub Vec<ScoreLine>);

impl Handler<Explained> for Router {
    type Result = ();
    fn handle(&mut self, Explained(job, lines): Explained, _: &mut Self::Context) {
        if self.explanations.len() >= MAX_EXPLANATIONS {
            self.explanations.pop_front();
        }
        self.explanations.push_back((job, lines));
    }
}

/// Why a job went where it went; `None` once forgotten.
#[derive(Debug)]
pub struct Why(pub JobId);
impl Query for Why {
    type Answer = Option<Vec<ScoreLine>>;
}
impl Handler<Ask<Why>> for Router {
    type Result = ();
    fn handle(&mut self, asked: Ask<Why>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        reply.send(
            self.explanations
                .iter()
                .rev()
                .find(|(job, _)| *job == query.0)
                .map(|(_, lines)| lines.clone()),
        );
    }
}
