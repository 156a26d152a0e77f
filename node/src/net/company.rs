//! Staying in company: keep a connection to the bootstrap nodes while they are there, and enough
//! other peers that the node does not need them.
//!
//! The bootstrap node is only where a node first asks around. A node that has fewer peers than it
//! wants walks the DHT towards itself and dials whom it hears of; gossip then runs over those
//! connections, and the loss of every bootstrap node changes nothing for the nodes that are in.
//! All waits double up to a bound, so a dead bootstrap costs one dial a minute. No IO here.

use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};

const FIRST_REDIAL: Duration = Duration::from_secs(1);
const LAST_REDIAL: Duration = Duration::from_secs(60);
const FIRST_LOOKUP: Duration = Duration::from_millis(500);
const LAST_LOOKUP: Duration = Duration::from_secs(30);
/// Even in good company the DHT is walked now and then, so that routes stay fresh.
const IDLE_LOOKUP: Duration = Duration::from_secs(300);
/// Peers dialled from the routing table in one go.
pub const MAX_DIALS_PER_LOOKUP: usize = 8;

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial a bootstrap node.
    DialBootstrap(PeerId, Multiaddr),
    /// Walk the DHT towards ourselves, and dial up to this many peers of the routing table that
    /// are not connected.
    Lookup {
        /// How many to dial.
        dial: usize,
    },
}

#[derive(Debug)]
struct Bootstrap {
    peer: PeerId,
    address: Multiaddr,
    connected: bool,
    wait: Duration,
    due: Instant,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Company {
    bootstrap: Vec<Bootstrap>,
    wanted: usize,
    lookup_wait: Duration,
    lookup_due: Instant,
}

impl Company {
    /// Wants `wanted` peers; zero never looks for any. Everything is due at once.
    #[must_use]
    pub fn new(now: Instant, bootstrap: Vec<(PeerId, Multiaddr)>, wanted: usize) -> Self {
        Self {
            bootstrap: bootstrap
                .into_iter()
                .map(|(peer, address)| Bootstrap {
                    peer,
                    address,
                    connected: false,
                    wait: FIRST_REDIAL,
                    due: now,
                })
                .collect(),
            wanted,
            lookup_wait: FIRST_LOOKUP,
            lookup_due: now,
        }
    }

    /// First connection to a peer.
    pub fn connected(&mut self, now: Instant, peer: PeerId) {
        for bootstrap in self.bootstrap.iter_mut().filter(|b| b.peer == peer) {
            bootstrap.connected = true;
            bootstrap.wait = FIRST_REDIAL;
        }
        // Somebody new to ask: soon, but not before identify has told us where it listens.
        self.look_soon(now);
    }

    /// Last connection to a peer is gone.
    pub fn disconnected(&mut self, now: Instant, peer: PeerId) {
        for bootstrap in self.bootstrap.iter_mut().filter(|b| b.peer == peer) {
            bootstrap.connected = false;
            bootstrap.due = later(now, bootstrap.wait);
        }
        self.look_soon(now);
    }

    /// What is due.
    pub fn tick(&mut self, now: Instant, peers: usize) -> Vec<Action> {
        let mut actions = Vec::new();
        for bootstrap in &mut self.bootstrap {
            if !bootstrap.connected && bootstrap.due <= now {
                bootstrap.due = later(now, bootstrap.wait);
                bootstrap.wait = bootstrap.wait.saturating_mul(2).min(LAST_REDIAL);
                actions.push(Action::DialBootstrap(
                    bootstrap.peer,
                    bootstrap.address.clone(),
                ));
            }
        }
        if self.wanted > 0 && self.lookup_due <= now {
            let missing = self.wanted.saturating_sub(peers);
            let wait = if missing == 0 {
                IDLE_LOOKUP
            } else {
                self.lookup_wait
            };
            self.lookup_due = later(now, wait);
            self.lookup_wait = self.lookup_wait.saturating_mul(2).min(LAST_LOOKUP);
            actions.push(Action::Lookup {
                dial: missing.min(MAX_DIALS_PER_LOOKUP),
            });
        }
        actions
    }

    fn look_soon(&mut self, now: Instant) {
        self.lookup_wait = FIRST_LOOKUP;
        self.lookup_due = self.lookup_due.min(later(now, FIRST_LOOKUP));
    }
}

fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn dials(actions: &[Action]) -> usize {
        actions
            .iter()
            .filter(|a| matches!(a, Action::DialBootstrap(..)))
            .count()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_dead_bootstrap_is_dialled_ever_more_rarely_but_never_forgotten() {
        let (start, address) = (Instant::now(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        let mut company = Company::new(start, vec![(PeerId::random(), address)], 0);
        let at: Vec<u64> = (0..400)
            .filter(|s| dials(&company.tick(start + seconds(*s), 0)) == 1)
            .collect();
        assert_eq!(at, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]);
    }

    #[test]
    fn a_lost_bootstrap_is_dialled_again_and_a_held_one_is_not() {
        let (start, peer) = (Instant::now(), PeerId::random());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let mut company = Company::new(start, vec![(peer, address.clone())], 0);
        assert_eq!(
            company.tick(start, 0),
            [Action::DialBootstrap(peer, address)]
        );
        company.connected(start, peer);
        assert_eq!(dials(&company.tick(start + seconds(100), 1)), 0);
        company.disconnected(start + seconds(100), peer);
        assert_eq!(dials(&company.tick(start + seconds(100), 0)), 0);
        assert_eq!(dials(&company.tick(start + seconds(101), 0)), 1);
    }

    #[test]
    fn a_lonely_node_looks_often_at_first_and_a_node_in_company_rarely() {
        let start = Instant::now();
        let mut company = Company::new(start, vec![], 5);
        let mut lookups = |peers, from: u64, to: u64| {
            (from..to)
                .filter(|s| !company.tick(start + seconds(*s), peers).is_empty())
                .count()
        };
        assert_eq!(lookups(2, 0, 31), 6, "at 0 1 2 4 8 16 s");
        assert!(lookups(2, 31, 331) <= 11, "then every 30 s");
        assert!(lookups(5, 331, 931) <= 3, "then every 5 minutes");
    }

    #[test]
    fn a_lookup_dials_only_as_many_as_are_missing() {
        let start = Instant::now();
        let mut company = Company::new(start, vec![], 12);
        assert_eq!(company.tick(start, 10), [Action::Lookup { dial: 2 }]);
        company.connected(start, PeerId::random());
        let soon = start + FIRST_LOOKUP;
        assert_eq!(
            company.tick(soon, 0),
            [Action::Lookup {
                dial: MAX_DIALS_PER_LOOKUP
            }]
        );
    }
}
