//! The directory actor: who exists, and whom we have verified.
//!
//! Owns `protocol`'s [`directory::Directory`]; turns its outputs into messages to the attestor.

use crate::ask::{Address, Ask, AskError, Named, Query, ask};
use crate::attestor::{Attestor, Examine, Examined};
use crate::clock;
use crate::metrics::Metrics;
use crate::port::Judgement;
use actix::prelude::*;
use cocoon_protocol::advert::{Advert, Verified};
use cocoon_protocol::directory::{
    self, Acceptance, DirectoryConfig, DirectoryInput, DirectoryOutput, Entry, Standing,
};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use std::time::Duration;
use tracing::{debug, info};

/// How often the state machine looks at its clocks.
const TICK: Duration = Duration::from_millis(250);

/// See the module's doc.
pub struct Directory {
    machine: directory::Directory,
    /// `None` for a node that relays adverts and verifies nobody (a bootstrap node).
    attestor: Option<Address<Attestor>>,
    metrics: Metrics,
}

impl Directory {
    /// A directory actor; with an attestor, it has every worker's evidence examined.
    #[must_use]
    pub fn new(
        config: DirectoryConfig,
        attestor: Option<Address<Attestor>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            machine: directory::Directory::new(config),
            attestor,
            metrics,
        }
    }

    fn drive(&mut self, input: DirectoryInput, context: &mut Context<Self>) {
        let now = clock::now();
        for output in self.machine.handle(now, input) {
            match output {
                DirectoryOutput::FetchEvidence { peer, evidence } => {
                    let (Some(attestor), Some(entry)) = (&self.attestor, self.machine.entry(&peer))
                    else {
                        continue;
                    };
                    let (attestor, advert) = (attestor.clone(), entry.advert.clone());
                    let examining = async move { ask(&attestor, Examine { advert }).await };
                    context.spawn(examining.into_actor(self).map(
                        move |examined, actor: &mut Self, context| {
                            actor.examined(peer, evidence, examined, context);
                        },
                    ));
                }
                DirectoryOutput::Joined { peer } => info!(%peer, "worker joined"),
                DirectoryOutput::Verified { peer } => info!(%peer, "worker verified"),
                DirectoryOutput::Left { peer } => info!(%peer, "worker left"),
            }
        }
        self.count_verified(now);
    }

    fn examined(
        &mut self,
        peer: PeerId,
        evidence: Digest,
        examined: Result<Examined, AskError>,
        context: &mut Context<Self>,
    ) {
        let input = match examined {
            Ok(Examined::Accepted { until }) => DirectoryInput::EvidenceAccepted {
                peer,
                evidence,
                valid_until: until,
            },
            Ok(Examined::Refused { reason }) => DirectoryInput::EvidenceRejected {
                peer,
                evidence,
                reason,
            },
            // The state machine asks again after its own timeout.
            Ok(Examined::Busy) => {
                return debug!(%peer, %evidence, "too many examinations under way");
            }
            Err(error) => return debug!(%peer, %evidence, %error, "evidence not examined now"),
        };
        self.drive(input, context);
    }

    fn count_verified(&self, now: UnixMillis) {
        let verified = self
            .machine
            .workers(now)
            .filter(|entry| matches!(entry.standing, Standing::Verified { .. }))
            .count();
        self.metrics
            .verified_workers
            .set(i64::try_from(verified).unwrap_or(i64::MAX));
    }
}

impl Named for Directory {
    const NAME: &'static str = "directory";
}
impl Actor for Directory {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |actor, context| {
            actor.drive(DirectoryInput::Tick, context);
        });
    }
}
impl Supervised for Directory {}

impl Handler<crate::supervision::Stop> for Directory {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// An advert whose signature was checked: keep it, and say what gossip should do with it.
#[derive(Debug)]
pub struct Judge {
    /// The advert.
    pub advert: Verified<Advert>,
}
impl Query for Judge {
    type Answer = Judgement;
}
impl Handler<Ask<Judge>> for Directory {
    type Result = ();
    fn handle(&mut self, asked: Ask<Judge>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let judgement = match self.machine.judge(clock::now(), &query.advert) {
            Acceptance::Fresh => {
                self.drive(DirectoryInput::Advert(query.advert), context);
                Judgement::Accept
            }
            Acceptance::Duplicate => Judgement::Ignore,
            Acceptance::Invalid(reason) => {
                debug!(peer = %query.advert.peer, ?reason, "advert refused");
                Judgement::Reject
            }
        };
        reply.send(judgement);
    }
}

/// A job failed because of this peer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PeerFailed(pub PeerId);

impl Handler<PeerFailed> for Directory {
    type Result = ();
    fn handle(&mut self, PeerFailed(peer): PeerFailed, context: &mut Self::Context) {
        self.drive(DirectoryInput::PeerFailed { peer }, context);
    }
}

/// Every worker that is known, verified or not.
#[derive(Debug)]
pub struct ListWorkers;
impl Query for ListWorkers {
    type Answer = Vec<Entry>;
}
impl Handler<Ask<ListWorkers>> for Directory {
    type Result = ();
    fn handle(&mut self, asked: Ask<ListWorkers>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(self.machine.workers(clock::now()).cloned().collect());
    }
}

/// The verified workers that serve a model.
#[derive(Debug)]
pub struct Serving {
    /// The model's id.
    pub model: String,
}
impl Query for Serving {
    type Answer = Vec<Entry>;
}
impl Handler<Ask<Serving>> for Directory {
    type Result = ();
    fn handle(&mut self, asked: Ask<Serving>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        reply.send(
            self.machine
                .serving(clock::now(), &query.model)
                .into_iter()
                .cloned()
                .collect(),
        );
    }
}
