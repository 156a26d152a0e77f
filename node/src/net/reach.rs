//! Getting to a peer that is not connected: dial what we know, else look it up in the DHT and
//! dial what was found, else say why not. A state machine without IO; the swarm task feeds it.
//!
//! Errands (a question, a session to open) wait here until the peer is connected, so the
//! protocols' own behaviours are only ever asked about connected peers and each failure has one
//! place where it gets its reason.

use libp2p::{Multiaddr, PeerId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the swarm task must do next for a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<E> {
    /// Wait: something is under way.
    Wait,
    /// Dial with the addresses that are known anyway, plus these.
    Dial(Vec<Multiaddr>),
    /// Look the peer up in the DHT.
    Search,
    /// Tell those who wait that it will not be.
    GiveUp(Failed<E>),
}

/// Errands that cannot be run, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed<E> {
    /// The peer that was not reached.
    pub peer: PeerId,
    /// Why, for a person.
    pub reason: String,
    /// What was to be done there.
    pub errands: Vec<E>,
}

#[derive(Debug)]
enum Stage {
    DialKnown,
    Search { dial_said: String },
    DialFound,
}

#[derive(Debug)]
struct Attempt<E> {
    stage: Stage,
    deadline: Instant,
    errands: Vec<E>,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Reaching<E> {
    attempts: BTreeMap<PeerId, Attempt<E>>,
    waiting: usize,
    bound: usize,
    limit: Duration,
}

impl<E> Reaching<E> {
    /// At most `bound` errands wait, each at most `limit` long.
    #[must_use]
    pub fn new(bound: usize, limit: Duration) -> Self {
        Self {
            attempts: BTreeMap::new(),
            waiting: 0,
            bound,
            limit,
        }
    }

    /// An errand for a peer that is not connected. Gives it back when too many wait already.
    pub fn want(&mut self, now: Instant, peer: PeerId, errand: E) -> Result<Step<E>, E> {
        if self.waiting >= self.bound {
            return Err(errand);
        }
        self.waiting = self.waiting.saturating_add(1);
        if let Some(attempt) = self.attempts.get_mut(&peer) {
            attempt.errands.push(errand);
            return Ok(Step::Wait);
        }
        self.attempts.insert(
            peer,
            Attempt {
                stage: Stage::DialKnown,
                deadline: now.checked_add(self.limit).unwrap_or(now),
                errands: vec![errand],
            },
        );
        Ok(Step::Dial(Vec::new()))
    }

    /// A dial to `peer` failed.
    pub fn dial_failed(&mut self, peer: PeerId, reason: String) -> Step<E> {
        let Some(attempt) = self.attempts.get_mut(&peer) else {
            return Step::Wait;
        };
        match &attempt.stage {
            Stage::DialKnown => {
                attempt.stage = Stage::Search { dial_said: reason };
                Step::Search
            }
            // A stray dial (gossip, Kademlia) failed while the look-up runs.
            Stage::Search { .. } => Step::Wait,
            Stage::DialFound => Step::GiveUp(self.fail(peer, reason)),
        }
    }

    /// The look-up of `peer` ended with these addresses of it.
    pub fn searched(&mut self, peer: PeerId, found: Vec<Multiaddr>) -> Step<E> {
        let Some(attempt) = self.attempts.get_mut(&peer) else {
            return Step::Wait;
        };
        let Stage::Search { dial_said } = &attempt.stage else {
            return Step::Wait;
        };
        if found.is_empty() {
            let reason = format!("{dial_said}; the DHT knows no address of it");
            return Step::GiveUp(self.fail(peer, reason));
        }
        attempt.stage = Stage::DialFound;
        Step::Dial(found)
    }

    /// `peer` is connected: these errands can run.
    pub fn connected(&mut self, peer: &PeerId) -> Vec<E> {
        let errands = self
            .attempts
            .remove(peer)
            .map_or_else(Vec::new, |attempt| attempt.errands);
        self.waiting = self.waiting.saturating_sub(errands.len());
        errands
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: Instant) -> Vec<Failed<E>> {
        let late: Vec<PeerId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.deadline <= now)
            .map(|(peer, _)| *peer)
            .collect();
        let limit_ms = self.limit.as_millis();
        late.into_iter()
            .map(|peer| self.fail(peer, format!("not reached within {limit_ms} ms")))
            .collect()
    }

    /// Gives up everything.
    pub fn abandon(&mut self) -> Vec<E> {
        self.waiting = 0;
        std::mem::take(&mut self.attempts)
            .into_values()
            .flat_map(|attempt| attempt.errands)
            .collect()
    }

    fn fail(&mut self, peer: PeerId, reason: String) -> Failed<E> {
        Failed {
            peer,
            reason,
            errands: self.connected(&peer),
        }
    }
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

    const LIMIT: Duration = Duration::from_secs(10);

    fn start() -> (Reaching<u32>, PeerId, Instant) {
        (Reaching::new(3, LIMIT), PeerId::random(), Instant::now())
    }

    #[test]
    fn a_peer_is_dialled_once_for_many_errands_which_run_in_order() {
        let (mut reaching, peer, now) = start();
        assert_eq!(reaching.want(now, peer, 1), Ok(Step::Dial(vec![])));
        assert_eq!(reaching.want(now, peer, 2), Ok(Step::Wait));
        assert_eq!(reaching.connected(&peer), vec![1, 2]);
        assert!(reaching.connected(&peer).is_empty());
    }

    #[test]
    fn a_failed_dial_leads_to_a_search_and_a_second_dial_then_to_an_error() {
        let (mut reaching, peer, now) = start();
        reaching.want(now, peer, 1).unwrap();
        assert_eq!(reaching.dial_failed(peer, "no".into()), Step::Search);
        assert_eq!(reaching.dial_failed(peer, "stray".into()), Step::Wait);
        let found: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        assert_eq!(reaching.searched(peer, found.clone()), Step::Dial(found));
        let failed = Failed {
            peer,
            reason: "refused".to_owned(),
            errands: vec![1],
        };
        let step = reaching.dial_failed(peer, "refused".into());
        assert_eq!(step, Step::GiveUp(failed));
    }

    #[test]
    fn a_search_that_finds_nothing_tells_what_the_dial_said() {
        let (mut reaching, peer, now) = start();
        reaching.want(now, peer, 1).unwrap();
        reaching.dial_failed(peer, "no addresses".into());
        let Step::GiveUp(failed) = reaching.searched(peer, vec![]) else {
            panic!("nothing was found");
        };
        assert!(
            failed.reason.starts_with("no addresses;"),
            "{}",
            failed.reason
        );
    }

    #[test]
    fn errands_are_bounded_and_the_bound_is_freed_by_every_end() {
        let (mut reaching, peer, now) = start();
        for errand in 0..3 {
            reaching.want(now, PeerId::random(), errand).unwrap();
        }
        assert_eq!(reaching.want(now, peer, 9), Err(9));
        assert!(reaching.expire(now + LIMIT / 2).is_empty());
        assert_eq!(reaching.expire(now + LIMIT).len(), 3);
        reaching.want(now, peer, 9).unwrap();
        assert_eq!(reaching.abandon(), vec![9]);
        assert_eq!(reaching.waiting, 0);
    }
}
