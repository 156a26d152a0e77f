//! The network between two nodes.
//!
//! A **datagram** (a gossiped advert) is lost with some chance. A **stream** (requests, offers, a
//! session) loses nothing while both ends live: what the network drops arrives one retransmission
//! later, and what was sent after it waits, as on any reliable transport.

use std::collections::BTreeMap;

use cocoon_protocol::units::UnixMillis;
use serde::Deserialize;

use crate::random::{Chance, Range};

/// How links behave.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// One-way delay between two nodes, drawn once per pair, in milliseconds.
    pub latency_ms: Range,
    /// Mean of an exponential addition to each message's delay, in milliseconds.
    pub jitter_ms: u64,
    /// Of a thousand packets, how many are dropped. At most 900.
    pub loss_permille: u64,
    /// How long a stream takes to notice a lost packet and send it again, in milliseconds.
    pub retransmit_ms: u64,
}

/// All links of a network.
#[derive(Debug)]
pub struct Links {
    config: LinkConfig,
    latency: BTreeMap<(usize, usize), u64>,
    /// When the last message of each stream and sender arrives; nothing overtakes it.
    last_arrival: BTreeMap<(usize, usize), UnixMillis>,
}

impl Links {
    /// Links with these properties.
    pub fn new(config: LinkConfig) -> Self {
        Self {
            config,
            latency: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
        }
    }

    /// When a datagram arrives, or `None` if it is lost.
    pub fn datagram(
        &mut self,
        now: UnixMillis,
        from: usize,
        to: usize,
        chance: &mut Chance,
    ) -> Option<UnixMillis> {
        let delay = self.delay(from, to, chance);
        let lost = chance.happens(self.config.loss_permille);
        (!lost).then(|| now.saturating_add(delay))
    }

    /// When a message arrives whose order with others does not matter: a request or its reply.
    pub fn request(
        &mut self,
        now: UnixMillis,
        from: usize,
        to: usize,
        chance: &mut Chance,
    ) -> UnixMillis {
        let mut delay = self.delay(from, to, chance);
        while chance.happens(self.config.loss_permille) {
            delay = delay.saturating_add(self.config.retransmit_ms);
        }
        now.saturating_add(delay)
    }

    /// When a message on a stream between two nodes arrives: after everything that was sent before
    /// it on the same stream in the same direction.
    pub fn stream(
        &mut self,
        now: UnixMillis,
        stream: usize,
        from: usize,
        to: usize,
        chance: &mut Chance,
    ) -> UnixMillis {
        let arrival = self.request(now, from, to, chance);
        let last = self.last_arrival.entry((stream, from)).or_default();
        *last = (*last).max(arrival);
        *last
    }

    fn delay(&mut self, from: usize, to: usize, chance: &mut Chance) -> u64 {
        let pair = (from.min(to), from.max(to));
        let range = self.config.latency_ms;
        let latency = *self
            .latency
            .entry(pair)
            .or_insert_with(|| chance.within(range));
        latency.saturating_add(chance.exponential(self.config.jitter_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(loss_permille: u64) -> Links {
        Links::new(LinkConfig {
            latency_ms: [10, 50],
            jitter_ms: 20,
            loss_permille,
            retransmit_ms: 200,
        })
    }

    #[test]
    fn a_stream_delivers_everything_in_order() {
        let mut chance = Chance::from_seed(1);
        let mut links = links(300);
        let mut last = UnixMillis::default();
        for at in 0..500 {
            let sent = UnixMillis::from_millis(at);
            let arrival = links.stream(sent, 7, 0, 1, &mut chance);
            assert!(arrival >= last);
            assert!(arrival.saturating_since(sent) >= 10);
            last = arrival;
        }
    }

    #[test]
    fn datagrams_are_lost_as_often_as_asked() {
        let mut chance = Chance::from_seed(2);
        let mut links = links(300);
        let now = UnixMillis::default();
        let lost = (0..10_000)
            .filter(|_| links.datagram(now, 0, 1, &mut chance).is_none())
            .count();
        assert!((2_800..3_200).contains(&lost), "{lost}");
    }
}
