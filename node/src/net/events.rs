//! What the sockets say, and what the swarm task makes of it.

use crate::net::addresses::{Reach, believable, reach};
use crate::net::behaviour::NodeBehaviourEvent;
use crate::net::errands::rank;
use crate::net::gossip::{SLOW_PEER_LOSSES, topic_limit};
use crate::net::limits::{MAX_ADDRESSES_PER_PEER, Refusal, one_line};
use crate::net::sessions;
use crate::net::swarm::SwarmTask;
use cocoon_actors::port::{GossipId, Judgement, PortError, Question, SwarmNotice};
use libp2p::core::ConnectedPoint;
use libp2p::metrics::Recorder;
use libp2p::request_response::{self as rr, OutboundFailure};
use libp2p::swarm::{ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, gossipsub, identify, kad, ping};
use std::time::Instant;
use tracing::{debug, info, warn};

impl SwarmTask {
    pub(super) fn on_event(&mut self, now: Instant, event: SwarmEvent<NodeBehaviourEvent>) {
        self.metrics.libp2p.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(now, event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                endpoint,
                num_established,
                ..
            } => self.on_connected(now, peer_id, &endpoint, num_established.get() == 1),
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established,
                endpoint,
                cause,
                ..
            } => {
                if endpoint.is_listener() {
                    self.callers.remove(&peer_id);
                }
                if num_established > 0 {
                    return;
                }
                let cause = cause.map_or_else(|| "closed".to_owned(), |cause| one_line(&cause));
                debug!(peer = %peer_id, cause, "disconnected");
                self.peers.remove(&peer_id);
                self.count_peers();
                self.company.disconnected(now, peer_id);
                self.notify(SwarmNotice::Disconnected { peer: peer_id });
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                debug!(%peer, error = %one_line(&error), "dial failed");
                if !self.swarm.is_connected(&peer) {
                    self.dial_failed(peer, &error);
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                debug!(error = %one_line(&error), "inbound connection failed");
                self.metrics.refuse(match error {
                    ListenError::Denied { .. } => "connection: limit",
                    _ => "connection: handshake",
                });
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                let local = *self.swarm.local_peer_id();
                match address.with_p2p(local) {
                    Ok(address) => {
                        info!(%address, "listening");
                        self.notify(SwarmNotice::Listening {
                            address: address.to_string(),
                        });
                    }
                    Err(address) => warn!(%address, "listening under another identity"),
                }
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "listener"),
            SwarmEvent::ListenerClosed {
                addresses,
                reason: Err(error),
                ..
            } => warn!(?addresses, %error, "listener closed"),
            _ => {}
        }
    }

    fn on_connected(&mut self, now: Instant, peer: PeerId, endpoint: &ConnectedPoint, first: bool) {
        if self.is_stopping() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        if endpoint.is_listener() && !self.callers.insert(peer) {
            // Nobody dials a peer to which it is connected: the connection we hold is dead at the other
            // end, whose process was killed and is back. Gossip tells its topics on a peer's first
            // connection only, so with the dead one still there the newcomer would never learn ours.
            // All go, and it dials again.
            debug!(%peer, "called again over a connection that it has lost");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let how_near = reach(endpoint.get_remote_address()).unwrap_or(Reach::Public);
        self.peers
            .entry(peer)
            .and_modify(|nearest| *nearest = how_near.min(*nearest))
            .or_insert(how_near);
        if first {
            debug!(%peer, address = %endpoint.get_remote_address(), "connected");
            self.count_peers();
            self.company.connected(now, peer);
            self.notify(SwarmNotice::Connected { peer });
        }
        for errand in self.reaching.connected(&peer) {
            self.run_errand(now, peer, errand);
        }
    }

    fn count_peers(&self) {
        let peers = i64::try_from(self.peers.len()).unwrap_or(i64::MAX);
        self.metrics.peers.set(peers);
    }

    fn on_behaviour(&mut self, now: Instant, event: NodeBehaviourEvent) {
        match event {
            NodeBehaviourEvent::Gossip(event) => {
                self.metrics.libp2p.record(&event);
                self.on_gossip(event);
            }
            NodeBehaviourEvent::Evidence(event) => self.on_question(now, Question::Evidence, event),
            NodeBehaviourEvent::Offers(event) => self.on_question(now, Question::Offer, event),
            NodeBehaviourEvent::Collateral(event) => {
                self.on_question(now, Question::Collateral, event);
            }
            NodeBehaviourEvent::Log(event) => self.on_question(now, Question::Log, event),
            NodeBehaviourEvent::Vaults(event) => self.on_question(now, Question::Vault, event),
            NodeBehaviourEvent::Releases(event) => self.on_question(now, Question::Release, event),
            NodeBehaviourEvent::Sessions(sessions::Event::Inbound { peer, stream }) => {
                self.notify(SwarmNotice::Session { peer, stream });
            }
            NodeBehaviourEvent::Sessions(sessions::Event::Refused { peer }) => {
                debug!(%peer, "session over the limit");
                self.metrics.refuse("session: limit");
            }
            NodeBehaviourEvent::Kad(event) => {
                self.metrics.libp2p.record(&event);
                self.on_kad(event);
            }
            NodeBehaviourEvent::Identify(event) => {
                self.metrics.libp2p.record(&event);
                if let identify::Event::Received { peer_id, info, .. } = event {
                    self.on_identified(peer_id, info);
                }
            }
            NodeBehaviourEvent::Ping(event) => {
                self.metrics.libp2p.record(&event);
                if let ping::Event {
                    peer,
                    result: Ok(round_trip),
                    ..
                } = event
                {
                    let millis = round_trip.as_secs_f64() * 1000.0;
                    self.notify_if_room(SwarmNotice::RoundTrip { peer, millis });
                }
            }
            NodeBehaviourEvent::Limits(never) => match never {},
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source: relay,
                message_id,
                message,
            } => {
                let Some(topic) = self.topics.named(&message.topic) else {
                    // Not subscribed to, so it cannot come; nobody would judge it.
                    self.judge(&message_id, &relay, Judgement::Ignore);
                    return;
                };
                if message.data.len() > topic_limit(topic) {
                    // Within the frame's bound, over the message's.
                    self.metrics.refuse("gossip: too large");
                    self.judge(&message_id, &relay, Judgement::Reject);
                    return;
                }
                self.notify(SwarmNotice::Gossip {
                    topic,
                    message: GossipId(message_id.0),
                    relay,
                    bytes: message.data,
                });
            }
            gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            } => {
                let lost = failed_messages
                    .priority
                    .saturating_add(failed_messages.non_priority);
                debug!(peer = %peer_id, lost, "slow peer");
                if lost >= SLOW_PEER_LOSSES {
                    self.metrics.refuse("connection: slow peer");
                    let _ = self.swarm.disconnect_peer_id(peer_id);
                }
            }
            gossipsub::Event::GossipsubNotSupported { peer_id } => {
                debug!(peer = %peer_id, "does not speak this network's gossip");
            }
            _ => {}
        }
    }

    fn on_question(
        &mut self,
        now: Instant,
        question: Question,
        event: rr::Event<Vec<u8>, Vec<u8>>,
    ) {
        match event {
            rr::Event::Message {
                peer,
                message:
                    rr::Message::Request {
                        request, channel, ..
                    },
                ..
            } => match self.gate.enter(now, peer) {
                Ok(()) => self.hand_over(peer, question, request, channel),
                // Dropping the channel refuses.
                Err(refusal) => {
                    debug!(%peer, ?question, ?refusal, "question refused");
                    self.metrics.refuse(match refusal {
                        Refusal::TooFast => "question: too fast",
                        Refusal::TooManyOfPeer => "question: too many of one peer",
                        Refusal::TooMany => "question: too many",
                    });
                }
            },
            rr::Event::Message {
                message:
                    rr::Message::Response {
                        request_id,
                        response,
                    },
                ..
            } => {
                if let Some(ask) = self.asks.remove(&(rank(question), request_id)) {
                    let _ = ask.reply.send(Ok(response));
                }
            }
            rr::Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                if let Some(ask) = self.asks.remove(&(rank(question), request_id)) {
                    let error = self.ask_error(peer, question, &error);
                    let _ = ask.reply.send(Err(error));
                }
            }
            rr::Event::InboundFailure { peer, error, .. } => {
                debug!(%peer, ?question, error = %one_line(&error), "question failed");
                self.metrics.refuse("question: broken");
            }
            rr::Event::ResponseSent { .. } => {}
        }
    }

    fn ask_error(&self, peer: PeerId, question: Question, error: &OutboundFailure) -> PortError {
        match error {
            OutboundFailure::DialFailure => PortError::Unreachable {
                peer,
                reason: one_line(error),
            },
            OutboundFailure::Timeout => PortError::TimedOut {
                peer,
                limit_ms: self.limits.answer_ms,
            },
            OutboundFailure::UnsupportedProtocols => PortError::Unsupported {
                peer,
                protocol: self
                    .protocols
                    .get(usize::from(rank(question)))
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            },
            OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => PortError::NoAnswer {
                peer,
                reason: one_line(error),
            },
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::GetClosestPeers(result),
            step,
            ..
        } = event
        else {
            return;
        };
        if !step.last {
            return;
        }
        let Some(peer) = self.searches.remove(&id) else {
            return;
        };
        let (Ok(kad::GetClosestPeersOk { peers, .. })
        | Err(kad::GetClosestPeersError::Timeout { peers, .. })) = result;
        let found: Vec<Multiaddr> = peers
            .into_iter()
            .find(|known| known.peer_id == peer)
            .map(|known| known.addrs)
            .unwrap_or_default()
            .into_iter()
            .take(MAX_ADDRESSES_PER_PEER)
            .collect();
        self.searched(peer, found);
    }

    /// Remembers where a peer of our network listens, if it serves the DHT.
    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if info.protocol_version != self.version {
            debug!(%peer, theirs = %one_line(&info.protocol_version), "of another network");
            return;
        }
        if !info.protocols.contains(&self.kad_protocol) {
            return;
        }
        let Some(&told_over) = self.peers.get(&peer) else {
            return;
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        let known = kad
            .kbucket(peer)
            .and_then(|bucket| {
                bucket
                    .iter()
                    .find(|entry| *entry.node.key.preimage() == peer)
                    .map(|entry| entry.node.value.len())
            })
            .unwrap_or(0);
        for address in info
            .listen_addrs
            .into_iter()
            .filter(|address| believable(address, told_over))
            .take(MAX_ADDRESSES_PER_PEER.saturating_sub(known))
        {
            kad.add_address(&peer, address);
        }
    }
}
