//! Every bound of the swarm, with its name, and the gate that keeps one peer's questions from
//! using up everybody's share.

use libp2p::PeerId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Commands taken from the queue in one go. One command per turn of the loop caps a busy node at
/// the loop's rate; all of them at once would starve the sockets.
pub const MAX_COMMANDS_PER_TURN: usize = 64;
/// Addresses of one peer that we keep.
pub const MAX_ADDRESSES_PER_PEER: usize = 8;
/// Kademlia look-ups for single peers that run at once; each costs a few round trips to others.
pub const MAX_SEARCHES: usize = 16;
/// Peers waiting to be reached, and things waiting for them in all.
pub const MAX_ERRANDS: usize = 256;
/// Peers whose question allowance is remembered.
pub const MAX_ALLOWANCES: usize = 4096;
/// Bytes of one request on any question protocol.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// Bytes of an evidence reply.
pub const MAX_EVIDENCE_REPLY_BYTES: usize = cocoon_protocol::evidence::MAX_EVIDENCE_BYTES;
/// Bytes of a collateral reply.
pub const MAX_COLLATERAL_REPLY_BYTES: usize =
    cocoon_protocol::collateral::MAX_COLLATERAL_REPLY_BYTES;
/// Bytes of an answer about the log.
pub const MAX_LOG_REPLY_BYTES: usize = cocoon_protocol::log::MAX_CONSISTENCY_REPLY_BYTES;
/// Bytes of an offer reply.
pub const MAX_OFFER_REPLY_BYTES: usize = 4 * 1024;
/// Bytes of the answer to a release.
pub const MAX_RELEASE_REPLY_BYTES: usize = cocoon_protocol::release::MAX_RELEASE_REPLY_BYTES;
/// Bytes of a vault's reply.
pub const MAX_VAULT_REPLY_BYTES: usize = cocoon_protocol::vault::MAX_VAULT_REPLY_BYTES;
/// Characters of a transport's error that are kept for a person to read.
pub const MAX_REASON_CHARS: usize = 300;

/// The bounds that a deployment may want to change. The defaults suit a worker at home: a few
/// hundred connections, well under 1 GiB even when every one of them is hostile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// Connections with one peer. Two, because both ends may dial at the same moment; one more
    /// for the overlap while an address changes.
    pub connections_per_peer: u32,
    /// Inbound connections whose handshake is not finished.
    pub pending_inbound: u32,
    /// Outbound connections whose handshake is not finished.
    pub pending_outbound: u32,
    /// Established inbound connections.
    pub established_inbound: u32,
    /// Established outbound connections: strangers cannot use these up, so that an eclipse needs
    /// more than dialling us often.
    pub established_outbound: u32,
    /// Sessions one peer may hold open to us at once.
    pub sessions_per_peer: usize,
    /// Sessions open to us in all.
    pub sessions: usize,
    /// Questions of one peer that we work on at once.
    pub questions_per_peer: usize,
    /// Questions we work on at once.
    pub questions: usize,
    /// Questions one peer may ask per second, in the long run.
    pub questions_per_second: u32,
    /// Questions one peer may ask at once after a quiet time.
    pub question_burst: u32,
    /// Our own questions waiting for an answer.
    pub asks: usize,
    /// Milliseconds to find and dial a peer.
    pub reach_ms: u64,
    /// Milliseconds for an answer once the peer is reached, and for our answer to a peer.
    pub answer_ms: u64,
    /// Milliseconds to negotiate a session stream once the peer is reached.
    pub open_session_ms: u64,
    /// Milliseconds an unused connection stays open. Connections of the gossip are in use.
    pub idle_connection_ms: u64,
    /// Peers behind one address before gossip scores them down; loopback is exempt.
    pub peers_per_ip: u16,
    /// Peers to stay connected to; with fewer, the node looks for more. Zero never looks, and
    /// serves tests that lay out a network by hand.
    pub wanted_peers: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections_per_peer: 3,
            pending_inbound: 64,
            pending_outbound: 64,
            established_inbound: 256,
            established_outbound: 128,
            sessions_per_peer: 8,
            sessions: 256,
            questions_per_peer: 8,
            questions: 128,
            questions_per_second: 8,
            question_burst: 32,
            asks: 256,
            reach_ms: 10_000,
            answer_ms: 10_000,
            open_session_ms: 10_000,
            idle_connection_ms: 60_000,
            peers_per_ip: 16,
            wanted_peers: 12,
        }
    }
}

/// Why a question of a peer is not worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer asks faster than its allowance.
    TooFast,
    /// The peer has too many questions in work.
    TooManyOfPeer,
    /// All peers together have too many in work.
    TooMany,
}

/// Milli-questions: a token bucket needs fractions, and integers make it exact.
const MILLI: u64 = 1000;

#[derive(Clone, Copy, Debug)]
struct Allowance {
    milli: u64,
    counted: Instant,
    in_work: usize,
}

/// A token bucket and a concurrency bound per peer, and a bound on the sum.
///
/// An allowance outlives the peer's connection until the bucket is full again; otherwise a peer
/// would refill it by dialling anew.
#[derive(Debug)]
pub struct QuestionGate {
    peers: BTreeMap<PeerId, Allowance>,
    in_work: usize,
    per_peer: usize,
    total: usize,
    per_second: u64,
    burst_milli: u64,
}

impl QuestionGate {
    /// A gate with the given bounds and every bucket full.
    #[must_use]
    pub fn new(limits: &NetLimits) -> Self {
        Self {
            peers: BTreeMap::new(),
            in_work: 0,
            per_peer: limits.questions_per_peer,
            total: limits.questions,
            per_second: u64::from(limits.questions_per_second),
            burst_milli: u64::from(limits.question_burst).saturating_mul(MILLI),
        }
    }

    /// Lets one question of `peer` in, or says why not. Every `Ok` is paired with one
    /// [`QuestionGate::leave`].
    pub fn enter(&mut self, now: Instant, peer: PeerId) -> Result<(), Refusal> {
        if self.in_work >= self.total {
            return Err(Refusal::TooMany);
        }
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_ALLOWANCES {
            self.forget_rested(now);
            if self.peers.len() >= MAX_ALLOWANCES {
                return Err(Refusal::TooMany);
            }
        }
        let (per_second, burst) = (self.per_second, self.burst_milli);
        let allowance = self.peers.entry(peer).or_insert(Allowance {
            milli: burst,
            counted: now,
            in_work: 0,
        });
        refill(allowance, now, per_second, burst);
        if allowance.in_work >= self.per_peer {
            return Err(Refusal::TooManyOfPeer);
        }
        let Some(rest) = allowance.milli.checked_sub(MILLI) else {
            return Err(Refusal::TooFast);
        };
        allowance.milli = rest;
        allowance.in_work = allowance.in_work.saturating_add(1);
        self.in_work = self.in_work.saturating_add(1);
        Ok(())
    }

    /// A question of `peer` that was let in is answered, refused or given up.
    pub fn leave(&mut self, peer: PeerId) {
        self.in_work = self.in_work.saturating_sub(1);
        if let Some(allowance) = self.peers.get_mut(&peer) {
            allowance.in_work = allowance.in_work.saturating_sub(1);
        }
    }

    /// Drops the allowances that are full again: forgetting them changes nothing.
    pub fn forget_rested(&mut self, now: Instant) {
        let (per_second, burst) = (self.per_second, self.burst_milli);
        self.peers.retain(|_, allowance| {
            refill(allowance, now, per_second, burst);
            allowance.in_work > 0 || allowance.milli < burst
        });
    }
}

fn refill(allowance: &mut Allowance, now: Instant, per_second: u64, burst: u64) {
    let passed = now.saturating_duration_since(allowance.counted).as_millis();
    // One question per second is one milli-question per millisecond.
    let earned = u64::try_from(passed)
        .unwrap_or(u64::MAX)
        .saturating_mul(per_second);
    allowance.milli = allowance.milli.saturating_add(earned).min(burst);
    allowance.counted = now;
}

/// A transport's error in one bounded line.
#[must_use]
pub fn one_line(error: &dyn std::fmt::Display) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(MAX_REASON_CHARS)
        .collect()
}

/// A bound in milliseconds as a duration.
#[must_use]
pub const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
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

    fn gate(per_peer: usize, total: usize, per_second: u32, burst: u32) -> QuestionGate {
        QuestionGate::new(&NetLimits {
            questions_per_peer: per_peer,
            questions: total,
            questions_per_second: per_second,
            question_burst: burst,
            ..NetLimits::default()
        })
    }

    #[test]
    fn a_peer_gets_its_burst_then_its_rate() {
        let (mut gate, peer, start) = (gate(100, 100, 2, 3), PeerId::random(), Instant::now());
        for _ in 0..3 {
            gate.enter(start, peer).unwrap();
            gate.leave(peer);
        }
        assert_eq!(gate.enter(start, peer), Err(Refusal::TooFast));
        assert_eq!(gate.enter(start + millis(499), peer), Err(Refusal::TooFast));
        gate.enter(start + millis(500), peer).unwrap();
        assert_eq!(gate.enter(start + millis(501), peer), Err(Refusal::TooFast));
    }

    #[test]
    fn one_peer_cannot_take_the_places_of_others() {
        let (mut gate, start) = (gate(2, 3, 1, 100), Instant::now());
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        gate.enter(start, a).unwrap();
        gate.enter(start, a).unwrap();
        assert_eq!(gate.enter(start, a), Err(Refusal::TooManyOfPeer));
        gate.enter(start, b).unwrap();
        assert_eq!(gate.enter(start, c), Err(Refusal::TooMany));
        gate.leave(a);
        gate.enter(start, c).unwrap();
    }

    #[test]
    fn dialling_anew_does_not_refill_an_allowance_but_rest_does() {
        let (mut gate, peer, start) = (gate(9, 9, 1, 1), PeerId::random(), Instant::now());
        gate.enter(start, peer).unwrap();
        gate.leave(peer);
        gate.forget_rested(start);
        assert_eq!(gate.enter(start, peer), Err(Refusal::TooFast));
        gate.forget_rested(start + millis(1000));
        assert!(gate.peers.is_empty(), "a full bucket is forgotten");
        gate.enter(start + millis(1000), peer).unwrap();
    }

    #[test]
    fn the_number_of_remembered_peers_is_bounded() {
        let (mut gate, start) = (gate(1, 10, 1, 10), Instant::now());
        for _ in 0..MAX_ALLOWANCES {
            let peer = PeerId::random();
            gate.enter(start, peer).unwrap();
            gate.leave(peer);
        }
        assert_eq!(gate.enter(start, PeerId::random()), Err(Refusal::TooMany));
        assert_eq!(gate.peers.len(), MAX_ALLOWANCES);
        gate.enter(start + millis(1000), PeerId::random()).unwrap();
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(one_line(&" a\n  b\tc "), "a b c");
        assert_eq!(
            one_line(&"é".repeat(5000)).chars().count(),
            MAX_REASON_CHARS
        );
    }
}
