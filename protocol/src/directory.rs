//! Who exists, and whom we have verified.
//!
//! **Adverts.** A worker says it exists by a signed [`Advert`] with a sequence number and a lifetime.
//! The newest sequence of a peer counts; what is no newer is a duplicate, also for a while after the
//! peer was removed, so that nobody brings it back with old bytes. What comes from the future, or
//! contradicts itself, is refused ([`Directory::judge`]). An entry ends with its advert.
//!
//! **Evidence.** An advert names its evidence by digest. The directory asks its owner to fetch and
//! verify it, once for each digest and again before the verdict ends; failures are retried
//! after a pause that doubles. Until the first verdict an entry is [`Standing::Fetching`]; after it,
//! the standing is the newest verdict about *this* digest, also while it is being renewed. An
//! advert with another digest begins anew.
//!
//! **Failures.** A peer that failed a job is left out of [`Directory::serving`] for a pause that
//! doubles with each failure, and removed at the last. Failures are forgotten after a quiet while.
//!
//! **Bounds.** At most [`DirectoryConfig::max_workers`] entries, as many removed peers, and
//! [`DirectoryConfig::max_fetches`] examinations at a time. A newcomer to a full directory replaces
//! a rejected worker, or else one that is not verified yet; in each class the one whose advert ends
//! first. It never replaces a verified one: then the newcomer is left out. So a flood of made-up
//! identities costs at most the unverified places.
//!
//! Freshness by sequence and lifetime follows libp2p's peer records (libp2p RFC 0003) and
//! DNS-like expiry; that static facts only are kept here, and load is asked for, is explained in
//! [`crate::negotiation`].

mod entry;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod tests;

pub use crate::advert::{Advert, Verified};
pub use entry::{Entry, Standing};

use crate::ids::{Digest, PeerId};
use crate::units::UnixMillis;
use entry::Verdict;
use std::collections::BTreeMap;

/// Default of [`DirectoryConfig::max_workers`].
pub const MAX_WORKERS: usize = 4096;
/// Longest text of a rejection that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 256;

/// Bounds and pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// Most workers kept.
    pub max_workers: usize,
    /// Longest lifetime of an advert, in milliseconds.
    pub max_lifetime_ms: u64,
    /// How far ahead of ours another's clock may be, in milliseconds.
    pub max_skew_ms: u64,
    /// Most examinations of evidence at a time.
    pub max_fetches: usize,
    /// An examination without a result by then has failed, in milliseconds.
    pub fetch_timeout_ms: u64,
    /// Pause before the first retry, and before a failed peer is served again; it doubles each
    /// time. In milliseconds.
    pub first_pause_ms: u64,
    /// Longest such pause, in milliseconds.
    pub longest_pause_ms: u64,
    /// How long before its end a verdict is renewed, in milliseconds.
    pub renew_before_ms: u64,
    /// At so many failures a peer is removed.
    pub max_failures: u32,
    /// Failures are forgotten so long after the last one, in milliseconds.
    pub failure_memory_ms: u64,
}

impl Default for DirectoryConfig {
    /// Adverts of two minutes (with longer ones more of the entries are dead after a mass failure),
    /// clocks within ten seconds, renewal a minute ahead.
    fn default() -> Self {
        Self {
            max_workers: MAX_WORKERS,
            max_lifetime_ms: 120_000,
            max_skew_ms: 10_000,
            max_fetches: 16,
            fetch_timeout_ms: 15_000,
            first_pause_ms: 1_000,
            longest_pause_ms: 60_000,
            renew_before_ms: 60_000,
            max_failures: 3,
            failure_memory_ms: 300_000,
        }
    }
}

impl DirectoryConfig {
    /// The pause after the `count`th failure in a row.
    fn pause_ms(&self, count: u32) -> u64 {
        let doublings = count.saturating_sub(1).min(63);
        self.first_pause_ms
            .saturating_mul(1_u64 << doublings)
            .min(self.longest_pause_ms)
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum DirectoryInput {
    /// An advert arrived.
    Advert(Verified<Advert>),
    /// Evidence was fetched and accepted.
    EvidenceAccepted {
        /// Whose.
        peer: PeerId,
        /// Which.
        evidence: Digest,
        /// Until when the verdict counts.
        valid_until: UnixMillis,
    },
    /// Evidence could not be fetched, or was refused.
    EvidenceRejected {
        /// Whose.
        peer: PeerId,
        /// Which.
        evidence: Digest,
        /// Why, for people.
        reason: String,
    },
    /// A peer failed at something it had promised.
    PeerFailed {
        /// Who.
        peer: PeerId,
    },
    /// Time passed.
    Tick,
}

/// What to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryOutput {
    /// Fetch this evidence and verify it; answer with [`DirectoryInput::EvidenceAccepted`] or
    /// [`DirectoryInput::EvidenceRejected`]. No answer is a failure after a while.
    FetchEvidence {
        /// From whom.
        peer: PeerId,
        /// Which.
        evidence: Digest,
    },
    /// A worker is new.
    Joined {
        /// Who.
        peer: PeerId,
    },
    /// A worker that was not verified now is.
    Verified {
        /// Who.
        peer: PeerId,
    },
    /// A worker was removed.
    Left {
        /// Who.
        peer: PeerId,
    },
}

/// What gossip should do with an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// News: keep it and pass it on.
    Fresh,
    /// Nothing new, or over already: drop it, nobody is to blame.
    Duplicate,
    /// No honest node passes this on.
    Invalid(AdvertFault),
}

/// What is wrong with an advert that is properly signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertFault {
    /// It wants to live longer than allowed, or not at all.
    #[error("lifetime of {lifetime_ms} ms, allowed are 1 to {limit_ms} ms")]
    Lifetime {
        /// What it wants.
        lifetime_ms: u64,
        /// What is allowed.
        limit_ms: u64,
    },
    /// It was made in the future.
    #[error("made {ahead_ms} ms ahead of this clock, allowed are {limit_ms} ms")]
    FromTheFuture {
        /// By how much.
        ahead_ms: u64,
        /// What is allowed.
        limit_ms: u64,
    },
    /// Its evidence had ended when it was made.
    #[error("names evidence that had ended when it was made")]
    EndedEvidence,
    /// Two of its models have one name.
    #[error("names a model twice")]
    RepeatedModel,
}

/// Why an old advert of a removed peer does not bring it back.
#[derive(Clone, Copy, Debug)]
struct Departed {
    sequence: u64,
    /// Taken over if it comes back with a newer advert.
    paused_until: UnixMillis,
    /// By then every advert it had signed has ended.
    until: UnixMillis,
}

/// See the module's doc.
#[derive(Clone, Debug)]
pub struct Directory {
    config: DirectoryConfig,
    entries: BTreeMap<PeerId, Entry>,
    departed: BTreeMap<PeerId, Departed>,
    fetching: usize,
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub const fn new(config: DirectoryConfig) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            departed: BTreeMap::new(),
            fetching: 0,
        }
    }

    /// What gossip should do with this advert, before [`DirectoryInput::Advert`] keeps it. Does not
    /// depend on whether there is room: an advert we cannot keep is still passed on.
    #[must_use]
    pub fn judge(&self, now: UnixMillis, advert: &Verified<Advert>) -> Acceptance {
        if let Err(fault) = self.check(now, advert) {
            return Acceptance::Invalid(fault);
        }
        let known = match (
            self.entries.get(&advert.peer),
            self.departed.get(&advert.peer),
        ) {
            (Some(entry), _) => Some(entry.advert.sequence),
            (None, Some(departed)) => Some(departed.sequence),
            (None, None) => None,
        };
        if advert.ends() <= now || known.is_some_and(|known| advert.sequence <= known) {
            return Acceptance::Duplicate;
        }
        Acceptance::Fresh
    }

    fn check(&self, now: UnixMillis, advert: &Advert) -> Result<(), AdvertFault> {
        let lifetime_ms = u64::from(advert.lifetime_ms);
        let limit_ms = self.config.max_lifetime_ms;
        if lifetime_ms == 0 || lifetime_ms > limit_ms {
            return Err(AdvertFault::Lifetime {
                lifetime_ms,
                limit_ms,
            });
        }
        let ahead_ms = advert.issued.saturating_since(now);
        if ahead_ms > self.config.max_skew_ms {
            return Err(AdvertFault::FromTheFuture {
                ahead_ms,
                limit_ms: self.config.max_skew_ms,
            });
        }
        if advert.evidence_expires <= advert.issued {
            return Err(AdvertFault::EndedEvidence);
        }
        let mut rest = advert.models.as_slice();
        while let Some((model, others)) = rest.split_first() {
            if others.iter().any(|other| other.id == model.id) {
                return Err(AdvertFault::RepeatedModel);
            }
            rest = others;
        }
        Ok(())
    }

    /// Takes an input.
    pub fn handle(&mut self, now: UnixMillis, input: DirectoryInput) -> Vec<DirectoryOutput> {
        let mut outputs = Vec::new();
        match input {
            DirectoryInput::Advert(advert) => self.on_advert(now, advert, &mut outputs),
            DirectoryInput::EvidenceAccepted {
                peer,
                evidence,
                valid_until,
            } => self.on_verdict(now, peer, evidence, Ok(valid_until), &mut outputs),
            DirectoryInput::EvidenceRejected {
                peer,
                evidence,
                reason,
            } => self.on_verdict(now, peer, evidence, Err(reason), &mut outputs),
            DirectoryInput::PeerFailed { peer } => self.on_failure(now, peer, &mut outputs),
            DirectoryInput::Tick => self.on_tick(now, &mut outputs),
        }
        outputs
    }

    /// Everybody whose advert still counts, by PeerId.
    pub fn workers(&self, now: UnixMillis) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(move |entry| entry.advert.ends() > now)
    }

    /// The verified workers that serve a model and did not just fail, by PeerId.
    #[must_use]
    pub fn serving(&self, now: UnixMillis, model: &str) -> Vec<&Entry> {
        self.workers(now)
            .filter(|entry| entry.is_verified(now) && entry.paused_until <= now)
            .filter(|entry| entry.advert.model(model).is_some())
            .collect()
    }

    /// What is known of one peer.
    #[must_use]
    pub fn entry(&self, peer: &PeerId) -> Option<&Entry> {
        self.entries.get(peer)
    }

    /// Entries kept, over or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the next [`DirectoryInput::Tick`] changes something; earlier ones do no harm.
    #[must_use]
    pub fn next_tick(&self) -> Option<UnixMillis> {
        let room = self.fetching < self.config.max_fetches;
        self.entries
            .values()
            .map(|entry| entry.next_event(&self.config, room))
            .chain(self.departed.values().map(|departed| departed.until))
            .min()
    }

    fn on_advert(
        &mut self,
        now: UnixMillis,
        advert: Verified<Advert>,
        outputs: &mut Vec<DirectoryOutput>,
    ) {
        if self.judge(now, &advert) != Acceptance::Fresh {
            return;
        }
        let advert = advert.into_inner();
        let peer = advert.peer;
        if let Some(entry) = self.entries.get_mut(&peer) {
            if entry.renew_advert(now, advert) {
                self.fetching = self.fetching.saturating_sub(1);
            }
        } else {
            if !self.make_room(now, outputs) {
                return;
            }
            let mut entry = Entry::new(now, advert);
            if let Some(departed) = self.departed.remove(&peer) {
                entry.paused_until = departed.paused_until;
            }
            self.entries.insert(peer, entry);
            outputs.push(DirectoryOutput::Joined { peer });
        }
        self.fetch_if_due(now, peer, outputs);
    }

    /// Room for a newcomer, made by the rule of the module's doc if need be.
    fn make_room(&mut self, now: UnixMillis, outputs: &mut Vec<DirectoryOutput>) -> bool {
        if self.entries.len() < self.config.max_workers {
            return true;
        }
        let replaced = self
            .entries
            .values()
            .filter_map(|entry| {
                let class = match entry.standing {
                    Standing::Rejected { .. } => 0,
                    Standing::Unverified | Standing::Fetching { .. } => 1,
                    Standing::Verified { .. } => return None,
                };
                Some((class, entry.advert.ends(), entry.advert.peer))
            })
            .min();
        let Some((_, _, peer)) = replaced else {
            return false;
        };
        self.remove(now, peer, outputs);
        true
    }

    fn on_verdict(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        evidence: Digest,
        verdict: Verdict,
        outputs: &mut Vec<DirectoryOutput>,
    ) {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return;
        };
        // About evidence that a newer advert has replaced.
        if entry.advert.evidence != evidence {
            return;
        }
        if entry.end_fetch() {
            self.fetching = self.fetching.saturating_sub(1);
        }
        let was_verified = entry.is_verified(now);
        entry.judge(now, verdict, &self.config);
        if !was_verified && entry.is_verified(now) {
            outputs.push(DirectoryOutput::Verified { peer });
        }
        self.fetch_all_due(now, outputs);
    }

    fn on_failure(&mut self, now: UnixMillis, peer: PeerId, outputs: &mut Vec<DirectoryOutput>) {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return;
        };
        entry.fail(now, &self.config);
        if entry.failures >= self.config.max_failures {
            self.remove(now, peer, outputs);
        }
    }

    fn on_tick(&mut self, now: UnixMillis, outputs: &mut Vec<DirectoryOutput>) {
        self.departed.retain(|_, departed| departed.until > now);
        let over: Vec<PeerId> = self
            .entries
            .values()
            .filter(|entry| entry.advert.ends() <= now)
            .map(|entry| entry.advert.peer)
            .collect();
        for peer in over {
            self.remove(now, peer, outputs);
        }
        for entry in self.entries.values_mut() {
            if entry.pass_time(now, &self.config) {
                self.fetching = self.fetching.saturating_sub(1);
            }
        }
        self.fetch_all_due(now, outputs);
    }

    fn remove(&mut self, now: UnixMillis, peer: PeerId, outputs: &mut Vec<DirectoryOutput>) {
        let Some(entry) = self.entries.remove(&peer) else {
            return;
        };
        if entry.is_being_fetched() {
            self.fetching = self.fetching.saturating_sub(1);
        }
        while self.departed.len() >= self.config.max_workers.max(1) {
            let first = self
                .departed
                .iter()
                .min_by_key(|(_, departed)| departed.until)
                .map(|(peer, _)| *peer);
            if let Some(first) = first {
                self.departed.remove(&first);
            }
        }
        let departed = Departed {
            sequence: entry.advert.sequence,
            paused_until: entry.paused_until,
            until: now
                .saturating_add(self.config.max_skew_ms)
                .saturating_add(self.config.max_lifetime_ms),
        };
        self.departed.insert(peer, departed);
        outputs.push(DirectoryOutput::Left { peer });
    }

    fn fetch_if_due(&mut self, now: UnixMillis, peer: PeerId, outputs: &mut Vec<DirectoryOutput>) {
        if self.fetching >= self.config.max_fetches {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&peer)
            && entry.begin_fetch_if_due(now)
        {
            self.fetching = self.fetching.saturating_add(1);
            outputs.push(DirectoryOutput::FetchEvidence {
                peer,
                evidence: entry.advert.evidence,
            });
        }
    }

    /// Begins the fetches that are due, the longest due first.
    fn fetch_all_due(&mut self, now: UnixMillis, outputs: &mut Vec<DirectoryOutput>) {
        if self.fetching >= self.config.max_fetches {
            return;
        }
        let mut due: Vec<(UnixMillis, PeerId)> = self
            .entries
            .values()
            .filter_map(|entry| entry.due(now).map(|since| (since, entry.advert.peer)))
            .collect();
        due.sort_unstable();
        for (_, peer) in due {
            self.fetch_if_due(now, peer, outputs);
        }
    }
}
