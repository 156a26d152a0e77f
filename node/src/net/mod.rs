//! The node's side of the mesh: one libp2p swarm in one task.
//!
//! ```text
//!   mesh actor ── SwarmCommand (bounded) ──▶ ┌──────────────┐ ◀──▶ QUIC, TCP+Noise+yamux
//!              ◀── SwarmNotice (bounded) ─── │  swarm task  │      gossipsub  kad  identify  ping
//!                                            └──────────────┘      evidence  offer  session
//! ```
//!
//! [`spawn`] starts the task and hands back the two ends of the port that is defined in
//! `cocoon_actors::port`. A bootstrap node is the same thing with nobody behind it who works or
//! buys. Nothing here knows what an advert, a quote or a session says; that is `protocol/`'s.
//!
//! **Why it cannot deadlock.** The task waits in one place only, for whichever is first of: a
//! command, room for a notice, an answer of the actors, a socket, the clock. When the actors do
//! not take their notices the task stops polling its *sockets* (so that strangers wait, by the
//! transports' own flow control) but goes on taking commands and keeping time. So an actor that
//! waits to give a command always gets through, and a question of ours is answered by its
//! deadline whatever else stands still. The task itself waits for no database and no actor.

pub mod addresses;
pub mod behaviour;
pub mod company;
mod errands;
mod events;
pub mod gossip;
pub mod limits;
pub mod metrics;
pub mod questions;
pub mod reach;
pub mod sessions;
mod swarm;

use crate::net::behaviour::NodeBehaviour;
use crate::net::limits::{NetLimits, millis, one_line};
use crate::net::metrics::NetMetrics;
use crate::net::swarm::SwarmTask;
use cocoon_actors::port::{MAX_SWARM_COMMANDS, MAX_SWARM_EVENTS, SwarmCommands, SwarmNotices};
use cocoon_protocol::domain::Network;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use prometheus_client::registry::Registry;
use std::net::{IpAddr, TcpListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Streams one TCP peer may hold open at once, over all protocols.
const MAX_YAMUX_STREAMS: usize = 256;
/// Streams one QUIC peer may hold open at once, over all protocols.
const MAX_QUIC_STREAMS: u32 = 256;
/// Bytes a QUIC peer may have in flight on one stream. A session carries text at reading speed.
const QUIC_STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes a QUIC peer may have in flight in all: what a hostile connection can make us hold.
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Inbound streams of a connection that negotiate their protocol at once.
const MAX_NEGOTIATING_STREAMS: usize = 64;

/// How a node takes part in the mesh.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's identity.
    pub keypair: Keypair,
    /// The network and trust domain, which are part of every protocol name.
    pub network: Network,
    /// Where to listen: `/ip4/…/tcp/…` and `/ip4/…/udp/…/quic-v1`.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach us, where a router stands in between.
    pub external: Vec<Multiaddr>,
    /// Whom to ask first; each ends in `/p2p/<peer id>`, so that nobody else can answer.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether others can dial us. Then we serve the DHT; a node behind a closed door only asks.
    pub reachable: bool,
    /// The bounds.
    pub limits: NetLimits,
}

impl NetConfig {
    /// A reachable node that listens at `listen` and knows nobody.
    #[must_use]
    pub fn new(keypair: Keypair, network: Network, listen: Vec<Multiaddr>) -> Self {
        Self {
            keypair,
            network,
            listen,
            external: Vec::new(),
            bootstrap: Vec::new(),
            reachable: true,
            limits: NetLimits::default(),
        }
    }
}

/// Why the swarm cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address is in use, not ours, or of no kind we speak.
    #[error("cannot listen at {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// A bootstrap address names no peer.
    #[error("bootstrap address {address} does not end in /p2p/<peer id>")]
    BootstrapWithoutPeer {
        /// The address.
        address: Multiaddr,
    },
    /// The network's id does not make a protocol name.
    #[error("{name} is not a protocol name")]
    ProtocolName {
        /// The name.
        name: String,
    },
    /// The system's resolver configuration cannot be read.
    #[error("cannot read the resolver's configuration")]
    Dns(#[source] std::io::Error),
    /// The Noise keys of the TCP transport cannot be made.
    #[error("cannot set up Noise: {0}")]
    Noise(String),
    /// gossipsub refuses its parameters.
    #[error("cannot set up gossip: {0}")]
    Gossip(String),
    /// Called outside of a tokio runtime.
    #[error("the swarm needs a tokio runtime")]
    NoRuntime,
}

/// Starts the swarm task on the current tokio runtime.
///
/// The task ends after [`Shutdown`](cocoon_actors::port::SwarmCommand::Shutdown), or when every
/// sender of commands is gone. It outlives the receiver of notices: with nobody to judge them,
/// adverts are not forwarded and questions and sessions are refused.
///
/// # Errors
/// See [`NetError`]; nothing is left running.
pub fn spawn(
    config: NetConfig,
    registry: &mut Registry,
) -> Result<(SwarmCommands, SwarmNotices, JoinHandle<()>), NetError> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| NetError::NoRuntime)?;
    let bootstrap = config
        .bootstrap
        .iter()
        .map(|address| match address.iter().last() {
            Some(Protocol::P2p(peer)) => Ok((peer, address.clone())),
            _ => Err(NetError::BootstrapWithoutPeer {
                address: address.clone(),
            }),
        })
        .collect::<Result<Vec<(PeerId, Multiaddr)>, NetError>>()?;
    let metrics = NetMetrics::register(registry);
    let mut swarm = build(&config, registry)?;
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }
    let mut listeners = Vec::new();
    for address in &config.listen {
        let refused = |error: &dyn std::fmt::Display| NetError::Listen {
            address: address.clone(),
            reason: one_line(error),
        };
        refuse_taken_port(address).map_err(|error| refused(&error))?;
        let listener = swarm.listen_on(address.clone());
        listeners.push(listener.map_err(|error| refused(&error))?);
    }
    for (peer, address) in &bootstrap {
        swarm.behaviour_mut().kad.add_address(peer, address.clone());
    }
    let (commands, inbox) = mpsc::channel(MAX_SWARM_COMMANDS);
    let (outlet, notices) = mpsc::channel(MAX_SWARM_EVENTS);
    let task = SwarmTask::new(swarm, &config, bootstrap, metrics, listeners, outlet)?;
    let handle = runtime.spawn(task.run(inbox));
    Ok((commands, notices, handle))
}

/// libp2p binds TCP ports with `SO_REUSEPORT`, so a second node on the same port would start and
/// get a share of the first one's connections. A plain bind tells the difference.
fn refuse_taken_port(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn build(config: &NetConfig, registry: &mut Registry) -> Result<Swarm<NodeBehaviour>, NetError> {
    let behaviour = NodeBehaviour::new(config, registry)?;
    let idle = millis(config.limits.idle_connection_ms);
    let swarm = SwarmBuilder::with_existing_identity(config.keypair.clone())
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            || {
                let mut yamux = yamux::Config::default();
                yamux.set_max_num_streams(MAX_YAMUX_STREAMS);
                yamux
            },
        )
        .map_err(|error| NetError::Noise(error.to_string()))?
        .with_quic_config(|mut quic| {
            quic.max_concurrent_stream_limit = MAX_QUIC_STREAMS;
            quic.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
            quic.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
            quic
        })
        .with_dns()
        .map_err(NetError::Dns)?
        .with_bandwidth_metrics(registry)
        .with_behaviour(|_| behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(idle)
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
                .with_smart_dial()
        })
        .build();
    Ok(swarm)
}
