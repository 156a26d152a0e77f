//! How many bad bundles a peer may show before we stop looking.
//!
//! A bad bundle costs as much to check as a good one and nothing to make. Each peer has a bucket of
//! failures that refills at a constant rate (token bucket, as in RFC 2697), and all peers together
//! have one, because peer ids cost nothing either.

use std::collections::BTreeMap;

use cocoon_protocol::ids::PeerId;
use cocoon_protocol::units::UnixMillis;

/// Most peers whose failures are remembered at once.
pub const MAX_TRACKED_PEERS: usize = 8_192;

/// Limits on failed verifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Failures that a peer may cause at once.
    pub failures_per_peer: u32,
    /// Failures that all peers together may cause at once.
    pub failures_in_total: u32,
    /// Time after which a peer may cause one more, milliseconds.
    pub peer_refill_ms: u64,
    /// Time after which all peers together may cause one more, milliseconds.
    pub total_refill_ms: u64,
}

impl Default for BudgetConfig {
    /// Five failures per peer and one more every minute; in total 200 and twenty more a second,
    /// about 1 % of a core at 0.6 ms each.
    fn default() -> Self {
        Self {
            failures_per_peer: 5,
            failures_in_total: 200,
            peer_refill_ms: 60_000,
            total_refill_ms: 50,
        }
    }
}

/// One bucket: how many failures count against it, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    failures: u32,
    since: UnixMillis,
}

impl Bucket {
    fn new(now: UnixMillis) -> Self {
        Self {
            failures: 0,
            since: now,
        }
    }

    /// Forgives what has been waited for, and keeps the remainder of the wait.
    fn settle(&mut self, now: UnixMillis, refill_ms: u64) {
        let waited = now.saturating_since(self.since);
        let Some(forgiven) = waited.checked_div(refill_ms) else {
            self.failures = 0;
            return;
        };
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        if forgiven >= self.failures {
            *self = Self::new(now);
        } else {
            self.failures = self.failures.saturating_sub(forgiven);
            self.since = self
                .since
                .saturating_add(refill_ms.saturating_mul(u64::from(forgiven)));
        }
    }
}

/// Failures by peer and in total.
#[derive(Debug)]
pub struct FailureBudget {
    config: BudgetConfig,
    peers: BTreeMap<PeerId, Bucket>,
    total: Option<Bucket>,
}

/// Too many failures. Nothing was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many failed verifications{}; the next one is looked at in {wait_ms} ms",
    if *.by_this_peer { " by this peer" } else { " in total" })]
pub struct Exhausted {
    /// Whether it was this peer, or all of them together.
    pub by_this_peer: bool,
    /// Milliseconds until one more is allowed.
    pub wait_ms: u64,
}

impl FailureBudget {
    /// Nobody has failed yet.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            total: None,
        }
    }

    /// Whether a bundle from `peer` may be looked at now.
    ///
    /// # Errors
    /// If the peer's failures, or everybody's, are used up.
    pub fn allow(&mut self, now: UnixMillis, peer: &PeerId) -> Result<(), Exhausted> {
        let config = self.config;
        if let Some(bucket) = self.peers.get_mut(peer) {
            bucket.settle(now, config.peer_refill_ms);
            if bucket.failures >= config.failures_per_peer {
                return Err(exhausted(now, bucket, config.peer_refill_ms, true));
            }
        }
        if let Some(bucket) = &mut self.total {
            bucket.settle(now, config.total_refill_ms);
            if bucket.failures >= config.failures_in_total {
                return Err(exhausted(now, bucket, config.total_refill_ms, false));
            }
        }
        Ok(())
    }

    /// A bundle from `peer` was refused.
    pub fn failed(&mut self, now: UnixMillis, peer: &PeerId) {
        let config = self.config;
        let total = self.total.get_or_insert(Bucket::new(now));
        total.settle(now, config.total_refill_ms);
        total.failures = total.failures.saturating_add(1);

        if !self.peers.contains_key(peer) && self.peers.len() >= MAX_TRACKED_PEERS {
            self.make_room(now);
        }
        let bucket = self.peers.entry(*peer).or_insert(Bucket::new(now));
        bucket.settle(now, config.peer_refill_ms);
        bucket.failures = bucket.failures.saturating_add(1);
    }

    /// How many peers' failures are remembered.
    #[must_use]
    pub fn tracked_peers(&self) -> usize {
        self.peers.len()
    }

    /// Forgets the forgiven; if nobody is, the peer with the fewest failures. Somebody who floods
    /// this with new ids is held by the total.
    fn make_room(&mut self, now: UnixMillis) {
        let refill = self.config.peer_refill_ms;
        self.peers.retain(|_, bucket| {
            bucket.settle(now, refill);
            bucket.failures > 0
        });
        if self.peers.len() >= MAX_TRACKED_PEERS {
            let mildest = self
                .peers
                .iter()
                .min_by_key(|(_, bucket)| (bucket.failures, bucket.since))
                .map(|(peer, _)| *peer);
            if let Some(mildest) = mildest {
                self.peers.remove(&mildest);
            }
        }
    }
}

fn exhausted(now: UnixMillis, bucket: &Bucket, refill_ms: u64, by_this_peer: bool) -> Exhausted {
    let waited = now.saturating_since(bucket.since);
    Exhausted {
        by_this_peer,
        wait_ms: refill_ms.saturating_sub(waited),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use cocoon_protocol::ids::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> PeerId {
        Keypair::ed25519_from_bytes([number; 32])
            .unwrap()
            .public()
            .to_peer_id()
    }

    fn at(ms: u64) -> UnixMillis {
        UnixMillis::from_millis(ms)
    }

    fn config() -> BudgetConfig {
        BudgetConfig {
            failures_per_peer: 2,
            failures_in_total: 3,
            peer_refill_ms: 1_000,
            total_refill_ms: 100,
        }
    }

    #[test]
    fn a_peer_that_fails_too_often_has_to_wait() {
        let mut budget = FailureBudget::new(config());
        for _ in 0..2 {
            budget.allow(at(0), &peer(1)).unwrap();
            budget.failed(at(0), &peer(1));
        }
        let refused = budget.allow(at(400), &peer(1)).unwrap_err();
        assert_eq!(
            refused,
            Exhausted {
                by_this_peer: true,
                wait_ms: 600
            }
        );
        assert!(budget.allow(at(400), &peer(2)).is_ok());
        assert!(budget.allow(at(1_000), &peer(1)).is_ok());
    }

    #[test]
    fn many_new_peers_run_into_the_total() {
        let mut budget = FailureBudget::new(config());
        for number in 1..=3 {
            budget.failed(at(0), &peer(number));
        }
        let refused = budget.allow(at(50), &peer(9)).unwrap_err();
        assert_eq!(
            refused,
            Exhausted {
                by_this_peer: false,
                wait_ms: 50
            }
        );
        assert!(budget.allow(at(100), &peer(9)).is_ok());
    }

    /// Made once: deriving keys is most of what the property would cost.
    fn peers() -> [PeerId; 4] {
        static PEERS: std::sync::OnceLock<[PeerId; 4]> = std::sync::OnceLock::new();
        *PEERS.get_or_init(|| [1, 2, 3, 4].map(peer))
    }

    proptest! {
        #[test]
        fn no_peer_fails_more_often_than_its_bucket_and_the_refill_allow(
            steps in prop::collection::vec((0..4_usize, 0..700_u64), 1..200)
        ) {
            let config = config();
            let peers = peers();
            let mut budget = FailureBudget::new(config);
            let mut now = 0;
            let mut failures = std::collections::BTreeMap::new();
            for (number, wait) in steps {
                now += wait;
                let peer = peers[number];
                if budget.allow(at(now), &peer).is_ok() {
                    budget.failed(at(now), &peer);
                    *failures.entry(peer).or_insert(0_u64) += 1;
                }
                let most = u64::from(config.failures_per_peer) + now / config.peer_refill_ms;
                prop_assert!(failures.values().all(|count| *count <= most));
                let total: u64 = failures.values().sum();
                prop_assert!(
                    total <= u64::from(config.failures_in_total) + now / config.total_refill_ms
                );
            }
        }
    }
}
