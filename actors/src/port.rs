//! The port between the actors and the libp2p swarm.
//!
//! The swarm lives in one task of its own (in `node/`); the mesh actor speaks to it through two
//! bounded channels of these types and nothing else. That keeps libp2p out of every actor, and
//! lets a test put two meshes back to back without a socket.

use cocoon_protocol::ids::PeerId;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// Commands waiting for the swarm task; a full queue is an error for the sender, never a wait
/// without bound.
pub const MAX_SWARM_COMMANDS: usize = 256;
/// Events waiting for the mesh actor. When it is full the swarm task stops reading from peers.
pub const MAX_SWARM_EVENTS: usize = 256;

/// A byte stream to one peer: a libp2p stream in a node, an in-memory pipe in a unit test.
pub type SessionStream = Box<dyn SessionIo>;

/// What a session needs of its stream.
pub trait SessionIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> SessionIo for T {}

/// Identifies a gossip message between its arrival and its judgement. Opaque to the actors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipId(pub Vec<u8>);

/// What to do with a gossip message that arrived: gossipsub forwards nothing before this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Valid and new: forward it.
    Accept,
    /// Valid but of no use (a duplicate, an older sequence): drop it, no penalty.
    Ignore,
    /// Invalid: drop it and lower the score of the peer that relayed it.
    Reject,
}

/// Why a request or a dial gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No address of the peer is known, or none of them answered.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// The peer asked for.
        peer: PeerId,
        /// What the transport said.
        reason: String,
    },
    /// The peer was reached and did not answer in time.
    #[error("{peer} did not answer within {limit_ms} ms")]
    TimedOut {
        /// The peer asked.
        peer: PeerId,
        /// The limit that passed.
        limit_ms: u64,
    },
    /// The peer speaks no common protocol (another network, trust domain or version).
    #[error("{peer} does not speak {protocol}")]
    Unsupported {
        /// The peer asked.
        peer: PeerId,
        /// The protocol wanted.
        protocol: String,
    },
    /// The peer was reached and closed the exchange without a valid answer: it refused, its limits
    /// for us are used up, or what it sent was not an answer.
    #[error("{peer} gave no answer: {reason}")]
    NoAnswer {
        /// The peer asked.
        peer: PeerId,
        /// What the stream said.
        reason: String,
    },
    /// What we were about to send is over its protocol's limit; nothing was sent.
    #[error("{bytes} bytes to send, {limit} allowed")]
    TooLarge {
        /// Bytes offered.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No connected peer takes part in the gossip (yet); publish again later.
    #[error("no connected peer takes part in the gossip")]
    NobodyListens,
    /// The node's own queue to the swarm is full.
    #[error("the swarm's queue is full ({limit} commands)")]
    Full {
        /// The queue's bound.
        limit: usize,
    },
    /// The swarm is shutting down.
    #[error("the swarm has stopped")]
    Stopped,
}

/// The request-response protocols of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `EvidenceRequest` → `EvidenceReply`.
    Evidence,
    /// `QuoteRequest` → `QuoteReply`.
    Offer,
    /// `CollateralRequest` → `CollateralReply`.
    Collateral,
    /// `ConsistencyRequest` → `ConsistencyReply`.
    Log,
    /// `VaultRequest` → `VaultReply`.
    Vault,
    /// `SignedRelease` → `ReleaseReply`.
    Release,
}

/// What is gossiped to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Signed adverts of workers.
    Adverts,
    /// News of the transparency log: signed heads, or the proof that there are two logs.
    Log,
}

/// What the actors ask of the swarm.
pub enum SwarmCommand {
    /// Publish to everybody.
    Publish {
        /// Under which topic.
        topic: Topic,
        /// The message, signed by its own rules.
        bytes: Vec<u8>,
        /// Answered once it is on its way to the first peers, or with why it is not.
        /// The swarm does not mind when nobody waits for it.
        reply: oneshot::Sender<Result<(), PortError>>,
    },
    /// The verdict on a gossip message; exactly one per [`SwarmNotice::Gossip`].
    Judge {
        /// The message.
        message: GossipId,
        /// The peer that relayed it to us.
        relay: PeerId,
        /// The verdict.
        judgement: Judgement,
    },
    /// Ask a peer a question and wait for its answer.
    Ask {
        /// Whom.
        peer: PeerId,
        /// Which protocol.
        question: Question,
        /// The encoded request.
        request: Vec<u8>,
        /// Where the encoded reply goes.
        reply: oneshot::Sender<Result<Vec<u8>, PortError>>,
    },
    /// Open a session stream, dialling the peer if need be.
    OpenSession {
        /// Whom.
        peer: PeerId,
        /// Where the stream goes.
        reply: oneshot::Sender<Result<SessionStream, PortError>>,
    },
    /// Close every connection and end the task.
    Shutdown {
        /// Answered when the last connection is closed.
        done: oneshot::Sender<()>,
    },
}

/// What the swarm tells the actors.
pub enum SwarmNotice {
    /// Gossip arrived and waits for its [`SwarmCommand::Judge`].
    Gossip {
        /// Under which topic.
        topic: Topic,
        /// The message.
        message: GossipId,
        /// The peer that relayed it to us.
        relay: PeerId,
        /// The message, at most the topic's limit.
        bytes: Vec<u8>,
    },
    /// A peer asks us.
    Asked {
        /// Who.
        peer: PeerId,
        /// Which protocol.
        question: Question,
        /// The encoded request.
        request: Vec<u8>,
        /// The encoded reply; dropping it refuses the request.
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// A peer opened a session stream to us.
    Session {
        /// Who.
        peer: PeerId,
        /// The stream.
        stream: SessionStream,
    },
    /// First connection to a peer.
    Connected {
        /// Who.
        peer: PeerId,
    },
    /// Last connection to a peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A measured round trip to a connected peer.
    RoundTrip {
        /// To whom.
        peer: PeerId,
        /// Milliseconds, fractional.
        millis: f64,
    },
    /// We listen at this address (a multiaddr with our peer id).
    Listening {
        /// The multiaddr.
        address: String,
    },
}

/// The actors' end of the port.
pub type SwarmCommands = mpsc::Sender<SwarmCommand>;
/// The actors' end for notices.
pub type SwarmNotices = mpsc::Receiver<SwarmNotice>;
