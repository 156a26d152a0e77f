//! A vault's decisions: who gets the key of a sealed model, and who is refused for what.
//!
//! The vault is the owner's node; the guest is a stranger until its evidence has been judged. A claim
//! runs through the states
//!
//! ```text
//!   Hello ─► Reply(nonce)
//!   Claim ─► Examine ─► Judged ─► Record(released) + Release ─► Delivered ─► Record, Reply(released)
//!      └────────┴──────────┴─► Record(refused) + Reply(refused)      Lost ─► Record, Reply(refused)
//! ```
//!
//! Rules, each with a test in `tests/vault.rs`:
//!
//! * A nonce is drawn for one peer and one model, counts once and for a minute. A peer has one at a
//!   time and gets none for a while after it has claimed, so it claims at that rate at most.
//! * Nothing is released but on a verdict that accepts, still stands, was given under the vault's own
//!   root and is about this peer, this model and this evidence. The verifier has checked these things;
//!   here they are looked at once more, because a key cannot be taken back.
//! * Every release is recorded *before* the key leaves, and every refusal is recorded, up to a number
//!   per minute; how many were left out is recorded too. So strangers cannot fill the owner's disk.
//! * Memory is bounded by [`MAX_NONCES`], [`MAX_REMEMBERED_PEERS`] and
//!   [`VaultConfig::examinations`], whatever strangers do.
//!
//! No clock, no network and no randomness here: the caller draws nonces, fetches and judges evidence,
//! opens sessions, and never shows this machine a key.

mod record;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::vault::{Nonce, VaultReply};

pub use self::record::{Event, Record};
pub use self::refusal::Refusal;
use crate::{Check, Trust, Verdict};

/// Nonces remembered at once. For one more the oldest is forgotten, so that a flood has to go on in
/// order to do harm.
pub const MAX_NONCES: usize = 4_096;
/// Peers whose last claim is remembered; for one more the one that claimed first is forgotten.
pub const MAX_REMEMBERED_PEERS: usize = 4_096;
/// Longest explanation in a record, characters; some of them come from strangers' nodes.
pub const MAX_DETAIL_CHARS: usize = 300;

const MINUTE_MS: u64 = 60_000;

/// What a vault holds and how patient it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// The root under which evidence must have been judged.
    pub trust: Trust,
    /// Digests of the plain weights that there are keys for.
    pub models: BTreeSet<Digest>,
    /// Life of a nonce, milliseconds.
    pub nonce_lifetime_ms: u32,
    /// Pause between two claims of one peer, milliseconds.
    pub again_after_ms: u32,
    /// Claims that are examined or delivered at once.
    pub examinations: usize,
    /// Longest time that one takes, milliseconds; then its place is given to another.
    pub examination_ms: u64,
    /// Refusals that are recorded each minute.
    pub refusals_per_minute: u32,
}

impl VaultConfig {
    /// The defaults, for these models.
    #[must_use]
    pub fn new(trust: Trust, models: BTreeSet<Digest>) -> Self {
        Self {
            trust,
            models,
            nonce_lifetime_ms: 60_000,
            again_after_ms: 10_000,
            examinations: 16,
            examination_ms: 60_000,
            refusals_per_minute: 120,
        }
    }
}

/// The caller's number of a request; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask(pub u64);

/// What happens to a vault.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer asks for a nonce.
    Hello {
        /// The request.
        ask: Ask,
        /// Who, as libp2p authenticated it.
        peer: PeerId,
        /// Whose key it will want.
        model: Digest,
        /// Fresh random bytes, for it to have.
        nonce: Nonce,
    },
    /// A peer asks for a key.
    Claim {
        /// The request.
        ask: Ask,
        /// Who, as libp2p authenticated it.
        peer: PeerId,
        /// What it shows.
        nonce: Nonce,
        /// Whose key.
        model: Digest,
        /// Its evidence, by digest.
        evidence: Digest,
    },
    /// What came of an [`Output::Examine`].
    Judged {
        /// Of which.
        ask: Ask,
        /// What was found.
        finding: Finding,
    },
    /// An [`Output::Release`] was done: the guest has confirmed the key.
    Delivered {
        /// Which.
        ask: Ask,
    },
    /// It was not, or nobody knows.
    Lost {
        /// Which.
        ask: Ask,
        /// Why.
        reason: String,
    },
    /// The record before an [`Output::Release`] could not be written, so it was not done.
    Unrecorded {
        /// Which.
        ask: Ask,
    },
}

/// What an examination found.
#[derive(Clone, Debug)]
pub enum Finding {
    /// The evidence was not to be had, or is none.
    NoEvidence(String),
    /// Nobody looked: the peer, or all together, have failed too often.
    NotExamined(String),
    /// The verifier's answer.
    Verdict(Box<Verdict>),
}

/// What a vault has its caller do, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Append to the owner's log. If this fails and an [`Output::Release`] follows, it must not be
    /// done; say [`Input::Unrecorded`].
    Record(Box<Record>),
    /// Answer the request.
    Reply {
        /// Which.
        ask: Ask,
        /// What.
        reply: VaultReply,
    },
    /// Fetch this evidence from the peer and judge it for this model, then say [`Input::Judged`].
    Examine {
        /// For which request.
        ask: Ask,
        /// Whose.
        peer: PeerId,
        /// What it must claim.
        model: Digest,
        /// Which.
        evidence: Digest,
    },
    /// Open a session to these claims' keys and send the key of their model, with this nonce; then
    /// say [`Input::Delivered`] or [`Input::Lost`].
    Release {
        /// For which request.
        ask: Ask,
        /// To be sent with the key.
        nonce: Nonce,
        /// Whom, what, and the keys to talk to.
        claims: Box<Claims>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    peer: PeerId,
    model: Digest,
    until: UnixMillis,
    used: bool,
}

/// A claim whose nonce was in order.
#[derive(Clone, Copy, Debug)]
struct Open {
    peer: PeerId,
    model: Digest,
    evidence: Digest,
    nonce: Nonce,
    begun: UnixMillis,
    released: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Vault {
    config: VaultConfig,
    nonces: BTreeMap<Nonce, Issued>,
    claimed: BTreeMap<PeerId, UnixMillis>,
    open: BTreeMap<Ask, Open>,
    /// The minute, and the refusals in it.
    refusals: (u64, u32),
}

impl Vault {
    /// A vault that has released nothing yet.
    #[must_use]
    pub fn new(config: VaultConfig) -> Self {
        Self {
            config,
            nonces: BTreeMap::new(),
            claimed: BTreeMap::new(),
            open: BTreeMap::new(),
            refusals: (0, 0),
        }
    }

    /// What is remembered: nonces, peers, open claims.
    #[must_use]
    pub fn memory(&self) -> (usize, usize, usize) {
        (self.nonces.len(), self.claimed.len(), self.open.len())
    }

    /// Takes one input.
    #[must_use]
    pub fn handle(&mut self, now: UnixMillis, input: Input) -> Vec<Output> {
        self.forget(now);
        let mut out = Vec::new();
        match input {
            Input::Hello {
                ask,
                peer,
                model,
                nonce,
            } => self.hello(now, ask, peer, model, nonce, &mut out),
            Input::Claim {
                ask,
                peer,
                nonce,
                model,
                evidence,
            } => self.claim(now, ask, peer, nonce, model, evidence, &mut out),
            Input::Judged { ask, finding } => self.judged(now, ask, finding, &mut out),
            Input::Delivered { ask } => self.delivered(now, ask, &mut out),
            Input::Lost { ask, reason } => {
                self.lost(now, ask, Refusal::NotDelivered(reason), &mut out)
            }
            Input::Unrecorded { ask } => self.lost(now, ask, Refusal::CannotRecord, &mut out),
        }
        out
    }

    fn hello(
        &mut self,
        now: UnixMillis,
        ask: Ask,
        peer: PeerId,
        model: Digest,
        nonce: Nonce,
        out: &mut Vec<Output>,
    ) {
        if let Err(refusal) = self.may_have_nonce(now, &peer, &model) {
            return self.refuse(now, ask, peer, model, None, &refusal, out);
        }
        // One at a time. A used one stays, to be known when it is replayed.
        self.nonces
            .retain(|_, issued| issued.peer != peer || issued.used);
        if self.nonces.len() >= MAX_NONCES {
            let oldest = self.nonces.iter().min_by_key(|(_, issued)| issued.until);
            if let Some(oldest) = oldest.map(|(nonce, _)| *nonce) {
                self.nonces.remove(&oldest);
            }
        }
        let lifetime_ms = self.config.nonce_lifetime_ms;
        let issued = Issued {
            peer,
            model,
            until: now.saturating_add(u64::from(lifetime_ms)),
            used: false,
        };
        self.nonces.insert(nonce, issued);
        let reply = VaultReply::Nonce { nonce, lifetime_ms };
        out.push(Output::Reply { ask, reply });
    }

    fn may_have_nonce(
        &self,
        now: UnixMillis,
        peer: &PeerId,
        model: &Digest,
    ) -> Result<(), Refusal> {
        if !self.config.models.contains(model) {
            return Err(Refusal::UnknownModel);
        }
        if let Some(at) = self.claimed.get(peer) {
            let since = now.millis().saturating_sub(at.millis());
            let wait = u64::from(self.config.again_after_ms).saturating_sub(since);
            if wait > 0 {
                return Err(Refusal::TooSoon {
                    wait_ms: u32::try_from(wait).unwrap_or(u32::MAX),
                });
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn claim(
        &mut self,
        now: UnixMillis,
        ask: Ask,
        peer: PeerId,
        nonce: Nonce,
        model: Digest,
        evidence: Digest,
        out: &mut Vec<Output>,
    ) {
        if let Err(refusal) = self.may_claim(now, &peer, &nonce, &model) {
            return self.refuse(now, ask, peer, model, Some(evidence), &refusal, out);
        }
        if let Some(issued) = self.nonces.get_mut(&nonce) {
            issued.used = true;
        }
        if self.claimed.len() >= MAX_REMEMBERED_PEERS && !self.claimed.contains_key(&peer) {
            let first = self.claimed.iter().min_by_key(|(_, at)| **at);
            if let Some(first) = first.map(|(peer, _)| *peer) {
                self.claimed.remove(&first);
            }
        }
        self.claimed.insert(peer, now);
        let open = Open {
            peer,
            model,
            evidence,
            nonce,
            begun: now,
            released: false,
        };
        self.open.insert(ask, open);
        out.push(Output::Examine {
            ask,
            peer,
            model,
            evidence,
        });
    }

    fn may_claim(
        &self,
        now: UnixMillis,
        peer: &PeerId,
        nonce: &Nonce,
        model: &Digest,
    ) -> Result<(), Refusal> {
        let issued = self.nonces.get(nonce).ok_or(Refusal::NonceUnknown)?;
        if issued.peer != *peer {
            return Err(Refusal::NonceOfAnotherPeer);
        }
        if issued.model != *model {
            return Err(Refusal::NonceOfAnotherModel);
        }
        if issued.used {
            return Err(Refusal::NonceUsed);
        }
        if now >= issued.until {
            let since_ms = now.millis().saturating_sub(issued.until.millis());
            return Err(Refusal::NonceOver { since_ms });
        }
        let limit = self.config.examinations;
        if self.open.len() >= limit {
            // The nonce is not used up: the peer may come again with it.
            return Err(Refusal::Busy { limit });
        }
        Ok(())
    }

    fn judged(&mut self, now: UnixMillis, ask: Ask, finding: Finding, out: &mut Vec<Output>) {
        let Some(open) = self.open.get(&ask).copied().filter(|open| !open.released) else {
            return;
        };
        let verdict = match self.look_at(now, &open, finding) {
            Ok(verdict) => verdict,
            Err(refusal) => {
                self.open.remove(&ask);
                let (peer, model) = (open.peer, open.model);
                return self.refuse(now, ask, peer, model, Some(open.evidence), &refusal, out);
            }
        };
        self.open.insert(
            ask,
            Open {
                released: true,
                ..open
            },
        );
        let record = Record {
            platform_id: Some(verdict.platform_id.clone()),
            epoch: Some(verdict.claims.epoch),
            config: Some(verdict.claims.config),
            ..Record::of(
                now,
                Event::Released,
                &open.peer,
                open.model,
                Some(open.evidence),
            )
        };
        out.push(Output::Record(Box::new(record)));
        out.push(Output::Release {
            ask,
            nonce: open.nonce,
            claims: Box::new(verdict.claims),
        });
    }

    /// Whether a finding is a verdict to release on. What the verifier has checked is checked again.
    fn look_at(&self, now: UnixMillis, open: &Open, finding: Finding) -> Result<Verdict, Refusal> {
        let verdict = match finding {
            Finding::NoEvidence(reason) => return Err(Refusal::NoEvidence(reason)),
            Finding::NotExamined(reason) => return Err(Refusal::NotExamined(reason)),
            Finding::Verdict(verdict) => *verdict,
        };
        let wrong = |check: Check, reason: &str| Refusal::Evidence {
            factor: check.name(),
            reason: reason.to_owned(),
        };
        if !verdict.accepted() {
            return Err(verdict.first_failure().map_or_else(
                || wrong(Check::SignatureChain, "a required factor was skipped"),
                |failed| Refusal::Evidence {
                    factor: failed.name,
                    reason: failed.reason.clone(),
                },
            ));
        }
        if verdict.trust != self.config.trust {
            return Err(wrong(Check::RootPinned, "judged under another root"));
        }
        if verdict.claims.peer != open.peer {
            return Err(wrong(Check::PeerId, "the claims name another peer"));
        }
        if verdict.claims.model != open.model {
            return Err(wrong(Check::ModelDigest, "the claims name another model"));
        }
        let evidence = verdict.claims.digest();
        if evidence != open.evidence || verdict.evidence != open.evidence {
            return Err(wrong(
                Check::AdvertisedEvidence,
                "other evidence than was claimed",
            ));
        }
        if !verdict.is_valid_at(now) {
            return Err(wrong(Check::Epoch, "the evidence is over"));
        }
        Ok(verdict)
    }

    fn delivered(&mut self, now: UnixMillis, ask: Ask, out: &mut Vec<Output>) {
        let Some(open) = self.take_released(ask) else {
            return;
        };
        let record = Record::of(
            now,
            Event::Delivered,
            &open.peer,
            open.model,
            Some(open.evidence),
        );
        out.push(Output::Record(Box::new(record)));
        out.push(Output::Reply {
            ask,
            reply: VaultReply::Released,
        });
    }

    fn lost(&mut self, now: UnixMillis, ask: Ask, why: Refusal, out: &mut Vec<Output>) {
        let Some(open) = self.take_released(ask) else {
            return;
        };
        // Never left out: a record says that this key was released.
        let record = Record {
            reason: Some(why.label()),
            detail: Some(shortened(&why.to_string())),
            ..Record::of(
                now,
                Event::NotDelivered,
                &open.peer,
                open.model,
                Some(open.evidence),
            )
        };
        out.push(Output::Record(Box::new(record)));
        out.push(self.refused(ask, &why));
    }

    fn take_released(&mut self, ask: Ask) -> Option<Open> {
        if !self.open.get(&ask)?.released {
            return None;
        }
        self.open.remove(&ask)
    }

    #[allow(clippy::too_many_arguments)]
    fn refuse(
        &mut self,
        now: UnixMillis,
        ask: Ask,
        peer: PeerId,
        model: Digest,
        evidence: Option<Digest>,
        refusal: &Refusal,
        out: &mut Vec<Output>,
    ) {
        let minute = now.millis() / MINUTE_MS;
        if self.refusals.0 != minute {
            let left_out = self
                .refusals
                .1
                .saturating_sub(self.config.refusals_per_minute);
            if left_out > 0 {
                out.push(Output::Record(Box::new(Record::left_out(now, left_out))));
            }
            self.refusals = (minute, 0);
        }
        self.refusals.1 = self.refusals.1.saturating_add(1);
        if self.refusals.1 <= self.config.refusals_per_minute {
            let factor = refusal.factor();
            let record = Record {
                reason: Some(refusal.label()),
                factor: (!factor.is_empty()).then_some(factor),
                detail: Some(shortened(&refusal.to_string())),
                ..Record::of(now, Event::Refused, &peer, model, evidence)
            };
            out.push(Output::Record(Box::new(record)));
        }
        out.push(self.refused(ask, refusal));
    }

    fn refused(&self, ask: Ask, refusal: &Refusal) -> Output {
        let again_after_ms = match refusal {
            Refusal::TooSoon { wait_ms } => *wait_ms,
            _ => self.config.again_after_ms,
        };
        Output::Reply {
            ask,
            reply: VaultReply::Refused {
                reason: refusal.told(),
                factor: refusal.factor().to_owned(),
                again_after_ms,
            },
        }
    }

    /// Drops what no longer matters.
    fn forget(&mut self, now: UnixMillis) {
        let lifetime = u64::from(self.config.nonce_lifetime_ms);
        // A used or late nonce is known as such for one life more.
        self.nonces
            .retain(|_, issued| now < issued.until.saturating_add(lifetime));
        let pause = u64::from(self.config.again_after_ms);
        self.claimed.retain(|_, at| now < at.saturating_add(pause));
        let patience = self.config.examination_ms;
        self.open
            .retain(|_, open| now < open.begun.saturating_add(patience));
    }
}

/// One line, no longer than a record may hold.
fn shortened(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL_CHARS)
        .collect()
}
