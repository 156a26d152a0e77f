//! The protocols of a node, put together.

use crate::net::limits::{NetLimits, millis};
use crate::net::questions::{self, QuestionCodec, protocol_part};
use crate::net::{NetConfig, NetError, gossip, sessions};
use cocoon_actors::port::Question;
use cocoon_protocol::domain::Network;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, StreamProtocol, identify, kad, ping, request_response as rr};
use prometheus_client::registry::Registry;
use std::time::Duration;

/// A Kademlia request or answer, in bytes: twenty peers with eight addresses each fit twice.
const MAX_KAD_PACKET_BYTES: usize = 16 * 1024;
const KAD_QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything a node speaks. The limits come first: they are asked before any other behaviour
/// spends memory on a connection.
#[derive(NetworkBehaviour)]
pub struct NodeBehaviour {
    /// Bounds on connections.
    pub limits: connection_limits::Behaviour,
    /// Who the other end is and where it listens.
    pub identify: identify::Behaviour,
    /// Round trips.
    pub ping: ping::Behaviour,
    /// Peer routing. No records: what nodes say about themselves is gossiped and signed.
    pub kad: kad::Behaviour<MemoryStore>,
    /// Adverts.
    pub gossip: gossip::Gossip,
    /// Evidence by request.
    pub evidence: rr::Behaviour<QuestionCodec>,
    /// Offers by request.
    pub offers: rr::Behaviour<QuestionCodec>,
    /// Collateral by request.
    pub collateral: rr::Behaviour<QuestionCodec>,
    /// Consistency of the log by request.
    pub log: rr::Behaviour<QuestionCodec>,
    /// Keys of sealed models, asked for.
    pub vaults: rr::Behaviour<QuestionCodec>,
    /// Channels to be closed together.
    pub releases: rr::Behaviour<QuestionCodec>,
    /// Session streams.
    pub sessions: sessions::Behaviour,
}

impl NodeBehaviour {
    /// The behaviours of a node as configured.
    pub fn new(config: &NetConfig, registry: &mut Registry) -> Result<Self, NetError> {
        let (network, limits) = (&config.network, &config.limits);
        let local = config.keypair.public().to_peer_id();
        Ok(Self {
            limits: connection_limits::Behaviour::new(connection_bounds(limits)),
            identify: identify::Behaviour::new(
                identify::Config::new(protocol_version(network), config.keypair.public())
                    .with_agent_version(concat!("cocoon/", env!("CARGO_PKG_VERSION")).to_owned())
                    .with_push_listen_addr_updates(true)
                    // Addresses of strangers are ours to judge; see `addresses`.
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(PING_INTERVAL)
                    .with_timeout(PING_TIMEOUT),
            ),
            kad: kademlia(
                network,
                local,
                config.reachable && !config.listen.is_empty(),
            )?,
            gossip: gossip::build(network, limits, registry).map_err(NetError::Gossip)?,
            evidence: question(network, Question::Evidence, limits)?,
            offers: question(network, Question::Offer, limits)?,
            collateral: question(network, Question::Collateral, limits)?,
            log: question(network, Question::Log, limits)?,
            vaults: question(network, Question::Vault, limits)?,
            releases: question(network, Question::Release, limits)?,
            sessions: sessions::Behaviour::new(protocol(network, "session")?, limits),
        })
    }

    /// The request-response behaviour of a question.
    pub fn question(&mut self, question: Question) -> &mut rr::Behaviour<QuestionCodec> {
        match question {
            Question::Evidence => &mut self.evidence,
            Question::Offer => &mut self.offers,
            Question::Collateral => &mut self.collateral,
            Question::Log => &mut self.log,
            Question::Vault => &mut self.vaults,
            Question::Release => &mut self.releases,
        }
    }
}

/// What identify says we speak: two networks or trust domains never look alike.
#[must_use]
pub fn protocol_version(network: &Network) -> String {
    network.protocol("node")
}

/// A protocol of this network and trust domain.
pub fn protocol(network: &Network, name: &str) -> Result<StreamProtocol, NetError> {
    let name = network.protocol(name);
    StreamProtocol::try_from_owned(name.clone()).map_err(|_| NetError::ProtocolName { name })
}

fn question(
    network: &Network,
    question: Question,
    limits: &NetLimits,
) -> Result<rr::Behaviour<QuestionCodec>, NetError> {
    let protocol = protocol(network, protocol_part(question))?;
    Ok(questions::behaviour(question, protocol, limits))
}

fn connection_bounds(limits: &NetLimits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_inbound))
        .with_max_pending_outgoing(Some(limits.pending_outbound))
        .with_max_established_incoming(Some(limits.established_inbound))
        .with_max_established_outgoing(Some(limits.established_outbound))
        .with_max_established(Some(
            limits
                .established_inbound
                .saturating_add(limits.established_outbound),
        ))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
}

fn kademlia(
    network: &Network,
    local: PeerId,
    server: bool,
) -> Result<kad::Behaviour<MemoryStore>, NetError> {
    let mut config = kad::Config::new(protocol(network, "kad")?);
    config
        .set_query_timeout(KAD_QUERY_TIMEOUT)
        .set_max_packet_size(MAX_KAD_PACKET_BYTES)
        // A record put to us becomes an event, which we ignore: the store stays empty.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    let nothing = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    let store = MemoryStore::with_config(local, nothing);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    // Said outright: left alone, a node stays a client until an external address is confirmed,
    // which on loopback or without other nodes' help never happens.
    kad.set_mode(Some(if server {
        kad::Mode::Server
    } else {
        kad::Mode::Client
    }));
    Ok(kad)
}

/// The bound on an answer as a duration, for all question protocols.
#[must_use]
pub const fn answer_limit(limits: &NetLimits) -> Duration {
    millis(limits.answer_ms)
}
