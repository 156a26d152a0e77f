//! Errands of the actors at other peers: a question to ask, a session to open. A connected peer is
//! asked at once; any other is reached first, which is [`Reaching`](crate::net::reach::Reaching)'s
//! business.

use crate::net::behaviour::answer_limit;
use crate::net::limits::{MAX_ERRANDS, MAX_SEARCHES, one_line};
use crate::net::reach::{Failed, Step};
use crate::net::swarm::SwarmTask;
use cocoon_actors::port::{PortError, Question, SessionStream};
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What our own deadline for an answer leaves to the protocol's, which has the better reason.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// Where the answer to a question of ours goes.
type AskReply = oneshot::Sender<Result<Vec<u8>, PortError>>;

/// Something to do at a peer once it is connected.
pub(super) enum Errand {
    Ask {
        question: Question,
        request: Vec<u8>,
        reply: AskReply,
    },
    Session {
        reply: SessionReply,
    },
}

/// Where an opened session goes.
type SessionReply = oneshot::Sender<Result<SessionStream, PortError>>;

impl Errand {
    pub(super) fn fail(self, error: PortError) {
        match self {
            Self::Ask { reply, .. } => drop(reply.send(Err(error))),
            Self::Session { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// A question of ours on its way.
pub(super) struct PendingAsk {
    pub(super) peer: PeerId,
    pub(super) reply: AskReply,
    pub(super) deadline: Instant,
}

/// The question's place in the key of the pending ones: request ids are per behaviour.
pub(super) const fn rank(question: Question) -> u8 {
    match question {
        Question::Evidence => 0,
        Question::Offer => 1,
        Question::Collateral => 2,
        Question::Log => 3,
        Question::Vault => 4,
        Question::Release => 5,
    }
}

impl SwarmTask {
    pub(super) fn send_to(&mut self, now: Instant, peer: PeerId, errand: Errand) {
        if peer == *self.swarm.local_peer_id() {
            errand.fail(PortError::Unreachable {
                peer,
                reason: "this is the node itself".into(),
            });
            return;
        }
        if self.swarm.is_connected(&peer) {
            self.run_errand(now, peer, errand);
            return;
        }
        match self.reaching.want(now, peer, errand) {
            Ok(step) => self.take_step(peer, step),
            Err(errand) => errand.fail(PortError::Full { limit: MAX_ERRANDS }),
        }
    }

    pub(super) fn run_errand(&mut self, now: Instant, peer: PeerId, errand: Errand) {
        match errand {
            Errand::Ask {
                question,
                request,
                reply,
            } => {
                let id = self
                    .swarm
                    .behaviour_mut()
                    .question(question)
                    .send_request(&peer, request);
                let limit = answer_limit(&self.limits).saturating_add(ANSWER_SLACK);
                let ask = PendingAsk {
                    peer,
                    reply,
                    deadline: now.checked_add(limit).unwrap_or(now),
                };
                self.asks.insert((rank(question), id), ask);
            }
            Errand::Session { reply } => self.swarm.behaviour_mut().sessions.open(peer, reply),
        }
    }

    fn take_step(&mut self, peer: PeerId, step: Step<Errand>) {
        match step {
            Step::Wait => {}
            Step::Dial(addresses) => {
                let dial = DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(addresses)
                    .extend_addresses_through_behaviour()
                    .build();
                match self.swarm.dial(dial) {
                    // A dial for somebody else's reason is under way; its end is ours too.
                    Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
                    Err(error) => self.dial_failed(peer, &error),
                }
            }
            Step::Search => {
                if self.searches.len() < MAX_SEARCHES {
                    let id = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
                    self.searches.insert(id, peer);
                } else {
                    self.searched(peer, Vec::new());
                }
            }
            Step::GiveUp(failed) => give_up(failed),
        }
    }

    pub(super) fn dial_failed(&mut self, peer: PeerId, error: &DialError) {
        let step = self.reaching.dial_failed(peer, one_line(error));
        self.take_step(peer, step);
    }

    pub(super) fn searched(&mut self, peer: PeerId, found: Vec<Multiaddr>) {
        let step = self.reaching.searched(peer, found);
        self.take_step(peer, step);
    }
}

pub(super) fn give_up(failed: Failed<Errand>) {
    for errand in failed.errands {
        errand.fail(PortError::Unreachable {
            peer: failed.peer,
            reason: failed.reason.clone(),
        });
    }
}
