//! gossipsub, set up for few, small, self-signed messages on two topics: adverts, and news of the log.
//!
//! - `ValidationMode::Anonymous`: libp2p would check its own signature on every *copy* of a
//!   message, before it knows that it has seen it. Adverts carry their signer's signature, which
//!   the directory checks once per message id (measured: a third less CPU).
//! - `validate_messages`: nothing is forwarded before the directory's judgement.
//! - The message id is the hash of the bytes, so a copy is a copy whoever sends it.
//! - Scores follow gossipsub v1.1 (P1…P7 of its specification), without P3: it punishes honest
//!   peers on topics as quiet as ours.

use crate::net::limits::NetLimits;
use cocoon_actors::port::Topic;
use cocoon_protocol::advert::MAX_ADVERT_BYTES;
use cocoon_protocol::domain::Network;
use cocoon_protocol::log::MAX_LOG_NEWS_BYTES;
use libp2p::gossipsub::{
    Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, Message, MessageAuthenticity,
    MessageId, MetricsConfig, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams,
    ValidationMode, WhitelistSubscriptionFilter, score_parameter_decay,
};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// gossipsub that takes subscriptions to our own topics only, so strangers cannot make us keep
/// lists of theirs.
pub type Gossip = Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// Bytes of a message id: 160 bits of SHA-256.
pub const MESSAGE_ID_BYTES: usize = 20;
/// Bytes that frame a message in gossip: topic and field headers.
const MESSAGE_OVERHEAD_BYTES: usize = 256;
/// Bytes of one gossip frame. gossipsub 0.50.1 applies this bound to everything it has buffered,
/// not to one frame, and reads 8 KiB at a time; a bound near the message's own would therefore
/// cut off honest peers whenever several messages arrive back to back.
const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Message ids in one IHAVE or IWANT, so that both fit a frame many times over.
const MAX_IDS_PER_CONTROL: usize = 100;
/// Messages waiting for one peer. A peer that cannot keep up loses gossip, not our memory.
pub const MAX_QUEUE_PER_PEER: usize = 256;
/// A peer that lost this many messages between two heartbeats is disconnected.
pub const SLOW_PEER_LOSSES: usize = MAX_QUEUE_PER_PEER / 2;

/// The topics of a network.
#[derive(Clone, Debug)]
pub struct Topics {
    adverts: IdentTopic,
    log: IdentTopic,
}

impl Topics {
    /// Both.
    pub const ALL: [Topic; 2] = [Topic::Adverts, Topic::Log];

    /// Named by network and trust domain.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        Self {
            adverts: IdentTopic::new(network.topic("adverts")),
            log: IdentTopic::new(network.topic("log")),
        }
    }

    /// As gossipsub knows it.
    #[must_use]
    pub const fn ident(&self, topic: Topic) -> &IdentTopic {
        match topic {
            Topic::Adverts => &self.adverts,
            Topic::Log => &self.log,
        }
    }

    /// Which one a message is of.
    #[must_use]
    pub fn named(&self, hash: &TopicHash) -> Option<Topic> {
        Self::ALL
            .into_iter()
            .find(|topic| self.ident(*topic).hash() == *hash)
    }
}

/// Most bytes of a message of this topic.
#[must_use]
pub const fn topic_limit(topic: Topic) -> usize {
    match topic {
        Topic::Adverts => MAX_ADVERT_BYTES,
        Topic::Log => MAX_LOG_NEWS_BYTES,
    }
}

/// The id under which gossip knows these bytes.
#[must_use]
pub fn message_id(data: &[u8]) -> MessageId {
    MessageId(
        Sha256::digest(data)
            .into_iter()
            .take(MESSAGE_ID_BYTES)
            .collect(),
    )
}

/// Builds gossipsub, subscribed to both topics.
pub fn build(
    network: &Network,
    limits: &NetLimits,
    registry: &mut Registry,
) -> Result<Gossip, String> {
    let topics = Topics::of(network);
    let mut config = ConfigBuilder::default();
    config
        .protocol_id_prefix(network.protocol("gossip"))
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message: &Message| message_id(&message.data))
        .max_transmit_size(MAX_FRAME_BYTES)
        .max_publish_messages(64)
        .max_control_messages_sent(MAX_IDS_PER_CONTROL)
        .connection_handler_queue_len(MAX_QUEUE_PER_PEER)
        .flood_publish(false)
        // Four copies instead of seven; lost ones come back by IHAVE within a heartbeat.
        .mesh_n(4)
        .mesh_n_low(3)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .heartbeat_initial_delay(Duration::from_millis(200))
        .heartbeat_interval(Duration::from_secs(1))
        // Longer than an advert lives in the mesh; a replay later is an old sequence number.
        .duplicate_cache_time(Duration::from_secs(120));
    for topic in Topics::ALL {
        config.max_transmit_size_for_topic(
            topic_limit(topic).saturating_add(MESSAGE_OVERHEAD_BYTES),
            topics.ident(topic).hash(),
        );
    }
    let config = config.build().map_err(|error| error.to_string())?;
    let mut gossip = Behaviour::new_with_subscription_filter(
        MessageAuthenticity::Anonymous,
        config,
        WhitelistSubscriptionFilter(HashSet::from(
            Topics::ALL.map(|topic| topics.ident(topic).hash()),
        )),
    )?
    .with_metrics(
        registry.sub_registry_with_prefix("gossipsub"),
        MetricsConfig::default(),
    );
    let scored = Topics::ALL.map(|topic| topics.ident(topic).hash());
    gossip.with_peer_score(score(&scored, limits), thresholds())?;
    for topic in Topics::ALL {
        gossip
            .subscribe(topics.ident(topic))
            .map_err(|error| error.to_string())?;
    }
    Ok(gossip)
}

fn score(topics: &[TopicHash], limits: &NetLimits) -> PeerScoreParams {
    let each = TopicScoreParams {
        topic_weight: 1.0,
        // P1, P2: a little credit for staying and for bringing news, at most 1 + 5.
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(10),
        time_in_mesh_cap: 100.0,
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(300)),
        first_message_deliveries_cap: 10.0,
        // P3, P3b: off, see above.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // P4: the square of the invalid messages of the last minutes; the fourth passes the
        // graylist threshold, and it is forgiven after ten quiet minutes.
        invalid_message_deliveries_weight: -6.0,
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: topics
            .iter()
            .map(|topic| (topic.clone(), each.clone()))
            .collect(),
        topic_score_cap: 10.0,
        app_specific_weight: 0.0,
        // P6: many identities behind one address.
        ip_colocation_factor_weight: -5.0,
        ip_colocation_factor_threshold: f64::from(limits.peers_per_ip.max(1)),
        ip_colocation_factor_whitelist: HashSet::from([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]),
        // P7: broken promises and early grafts.
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 0.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(60)),
        ..PeerScoreParams::default()
    }
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -50.0,
        graylist_threshold: -80.0,
        accept_px_threshold: 10.0,
        opportunistic_graft_threshold: 1.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_score_parameters_are_valid_and_the_fourth_invalid_message_graylists() {
        let topic = IdentTopic::new("t").hash();
        let params = score(&[topic.clone()], &NetLimits::default());
        params.validate().unwrap();
        thresholds().validate().unwrap();
        let adverts = params.topics.get(&topic).unwrap();
        let after = |invalid: f64| adverts.invalid_message_deliveries_weight * invalid * invalid;
        let best = 6.0;
        assert!(
            after(1.0) > thresholds().gossip_threshold,
            "one is forgiven"
        );
        assert!(after(4.0) + best < thresholds().graylist_threshold);
    }

    #[test]
    fn a_message_id_depends_on_every_byte() {
        assert_eq!(message_id(b"a").0.len(), MESSAGE_ID_BYTES);
        assert_ne!(message_id(b"a"), message_id(b"b"));
    }
}
