//! Session streams: plain byte streams between two peers, for the Noise sessions above.
//!
//! This is a small behaviour of our own, in the place where `libp2p-stream` 0.5.0-alpha would be.
//! That crate hands inbound streams over through a channel of one place and *drops* the next one
//! when the reader is not there at that instant, so two jobs that arrive together lose one of
//! them, after its opener was told that the stream is open. It also keeps a sender for every
//! connection that ever was, loses a dial that is asked for while another is, and has no bound per
//! peer. Here inbound streams travel as swarm events, which wait when the node is busy, and are
//! counted until they are dropped.

use crate::net::limits::{NetLimits, millis};
use cocoon_actors::port::{PortError, SessionStream};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// Inbound streams of one connection that wait for the swarm to take them; more are reset.
const MAX_UNREPORTED: usize = 8;
/// Streams of one connection that wait to be negotiated; more are refused.
const MAX_UNOPENED: usize = 64;

/// Where an opened stream goes. Dropped unanswered it says that the connection closed.
pub struct OpenReply {
    peer: PeerId,
    protocol: StreamProtocol,
    limit: Duration,
    reply: Option<oneshot::Sender<Result<SessionStream, PortError>>>,
}

impl OpenReply {
    fn send(mut self, result: Result<SessionStream, PortError>) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits any more: a stream is closed by being dropped here.
            let _ = reply.send(result);
        }
    }

    fn fail(self, error: &StreamUpgradeError<Infallible>) {
        let peer = self.peer;
        let error = match error {
            StreamUpgradeError::Timeout => PortError::TimedOut {
                peer,
                limit_ms: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX),
            },
            StreamUpgradeError::NegotiationFailed => PortError::Unsupported {
                peer,
                protocol: self.protocol.to_string(),
            },
            StreamUpgradeError::Io(error) => PortError::NoAnswer {
                peer,
                reason: crate::net::limits::one_line(error),
            },
            StreamUpgradeError::Apply(never) => match *never {},
        };
        self.send(Err(error));
    }
}

impl Drop for OpenReply {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(PortError::NoAnswer {
                peer: self.peer,
                reason: "the connection closed".into(),
            }));
        }
    }
}

impl std::fmt::Debug for OpenReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenReply")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What the behaviour tells the swarm task.
pub enum Event {
    /// A peer opened a session to us.
    Inbound {
        /// Who.
        peer: PeerId,
        /// The stream, counted against the peer until it is dropped.
        stream: SessionStream,
    },
    /// A peer opened a session over its bound; the stream is reset.
    Refused {
        /// Who.
        peer: PeerId,
    },
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inbound { peer, .. } => f.debug_tuple("Inbound").field(peer).finish(),
            Self::Refused { peer } => f.debug_tuple("Refused").field(peer).finish(),
        }
    }
}

/// An inbound stream and its places in the counts, given back when it is dropped.
struct Counted {
    stream: Stream,
    _places: [Arc<()>; 2],
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Counts the inbound sessions that are alive. A clone of an `Arc` is a place; other threads only
/// ever give places back, so a count read here is never too small.
struct Places {
    per_peer: BTreeMap<PeerId, Arc<()>>,
    all: Arc<()>,
    peer_bound: usize,
    bound: usize,
}

impl Places {
    fn new(limits: &NetLimits) -> Self {
        Self {
            per_peer: BTreeMap::new(),
            all: Arc::new(()),
            peer_bound: limits.sessions_per_peer,
            bound: limits.sessions,
        }
    }

    fn take(&mut self, peer: PeerId) -> Option<[Arc<()>; 2]> {
        let taken = |count: &Arc<()>| Arc::strong_count(count).saturating_sub(1);
        self.per_peer.retain(|_, count| taken(count) > 0);
        if taken(&self.all) >= self.bound {
            return None;
        }
        let of_peer = self.per_peer.entry(peer).or_default();
        if taken(of_peer) >= self.peer_bound {
            return None;
        }
        Some([Arc::clone(of_peer), Arc::clone(&self.all)])
    }
}

/// See the module's doc.
pub struct Behaviour {
    protocol: StreamProtocol,
    open_limit: Duration,
    places: Places,
    queue: VecDeque<ToSwarm<Event, OpenReply>>,
}

impl Behaviour {
    /// Sessions under the given protocol name.
    #[must_use]
    pub fn new(protocol: StreamProtocol, limits: &NetLimits) -> Self {
        Self {
            protocol,
            open_limit: millis(limits.open_session_ms),
            places: Places::new(limits),
            queue: VecDeque::new(),
        }
    }

    /// Opens a session to a *connected* peer; for any other the reply says so. The bound on
    /// commands bounds this queue: it is drained whenever the swarm is polled.
    pub fn open(&mut self, peer: PeerId, reply: oneshot::Sender<Result<SessionStream, PortError>>) {
        if self.queue.len() >= crate::net::limits::MAX_ERRANDS {
            let _ = reply.send(Err(PortError::Full {
                limit: crate::net::limits::MAX_ERRANDS,
            }));
            return;
        }
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::Any,
            event: OpenReply {
                peer,
                protocol: self.protocol.clone(),
                limit: self.open_limit,
                reply: Some(reply),
            },
        });
    }

    fn handler(&self) -> Handler {
        Handler {
            protocol: self.protocol.clone(),
            open_limit: self.open_limit,
            inbound: VecDeque::new(),
            refused: 0,
            outbound: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let event = match event {
            FromHandler::Inbound(stream) => match self.places.take(peer) {
                Some(places) => Event::Inbound {
                    peer,
                    stream: Box::new(Counted {
                        stream,
                        _places: places,
                    }),
                },
                None => Event::Refused { peer },
            },
            FromHandler::Refused => Event::Refused { peer },
        };
        self.queue.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a connection tells the behaviour.
#[derive(Debug)]
pub enum FromHandler {
    /// An inbound stream.
    Inbound(Stream),
    /// An inbound stream was reset because too many waited.
    Refused,
}

/// The sessions of one connection.
pub struct Handler {
    protocol: StreamProtocol,
    open_limit: Duration,
    inbound: VecDeque<Stream>,
    refused: usize,
    outbound: VecDeque<OpenReply>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenReply;
    type ToBehaviour = FromHandler;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpenReply, FromHandler>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(
                FromHandler::Inbound(stream),
            ));
        }
        if let Some(rest) = self.refused.checked_sub(1) {
            self.refused = rest;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(
                FromHandler::Refused,
            ));
        }
        if let Some(reply) = self.outbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), reply)
                    .with_timeout(self.open_limit),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, reply: OpenReply) {
        if self.outbound.len() < MAX_UNOPENED {
            self.outbound.push_back(reply);
        } else {
            reply.send(Err(PortError::Full {
                limit: MAX_UNOPENED,
            }));
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), OpenReply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                info: (),
            }) => {
                if self.inbound.len() < MAX_UNREPORTED {
                    self.inbound.push_back(stream);
                } else {
                    self.refused = self.refused.saturating_add(1);
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => reply.send(Ok(Box::new(stream))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                reply.fail(&error);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_bounded_per_peer_and_in_all_and_come_back() {
        let mut places = Places::new(&NetLimits {
            sessions_per_peer: 2,
            sessions: 3,
            ..NetLimits::default()
        });
        let (a, b) = (PeerId::random(), PeerId::random());
        let first = places.take(a).unwrap();
        let _second = places.take(a).unwrap();
        assert!(places.take(a).is_none(), "two per peer");
        let third = places.take(b).unwrap();
        assert!(places.take(b).is_none(), "three in all");
        drop(first);
        assert!(places.take(b).is_some());
        drop(third);
        assert!(places.take(a).is_some());
        assert_eq!(places.per_peer.len(), 1, "nothing is kept for the idle");
    }
}
