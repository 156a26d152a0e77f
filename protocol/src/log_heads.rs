//! That everybody is shown the same log.
//!
//! Signatures of k of n rebuilders say that a tree head is theirs, not that it is their only one. Rebuilders whose
//! keys were stolen could show one node a log with an image that nobody else ever sees. So nodes show one another the
//! heads that they meet, in gossip and in the proofs of adverts, and check that all of them are of one tree.
//!
//! **Heads.** A head whose signatures count, by the word of [`JudgeHead`], is either *proven*, of one tree with the
//! largest proven head, or *open*. The first head is proven by itself (trust on first use, or [`LogHeads::resume`]
//! with the largest of an earlier run). Every other one is open until somebody answers a question: which root has the
//! newer of the two trees at the size of the older? A consistency proof (RFC 6962, section 2.1.2) binds the answer to
//! the newer root, so it cannot be a lie: either it is the older head's root, and the open head is proven; or it is
//! another one, and the two signed heads with that answer are a [`SplitView`]. Two heads of one size with two roots are
//! one by themselves.
//!
//! **Alarm.** A split view convinces anybody who knows the rebuilders' keys, so it is passed on as it is, and one that
//! arrives is checked in the same way ([`is_split`]). After the first, nothing is believed any more: the alarm stays
//! until people have chosen new keys or another log.
//!
//! **Silence.** Nobody can be made to answer. A head that stays open after [`MAX_ASKS`] questions is reported as
//! [`HeadsOutput::Unproven`] and dropped; it was never adopted. Who shows it again begins anew.
//!
//! A proof whose checkpoint is not proven ([`LogHeads::is_proven`]) shows that rebuilders signed it, not that they showed
//! it to others.
//!
//! **Bounds.** The largest [`MAX_PROVEN_HEADS`] proven heads are kept, and at most [`MAX_OPEN_HEADS`] open ones, of
//! which [`MAX_OPEN_PER_PEER`] were first shown by one peer. Each has at most [`MAX_SOURCES`] peers to be asked.
//! A larger head replaces the smallest open one. The largest proven head is never forgotten.
//!
//! Gossip between clients of a log is described in Nordberg et al., "Gossiping in CT" (IETF draft, 2018); what is
//! different here is that answers are asked for at once, since a log of guest images is small.

use crate::ids::PeerId;
use crate::log::{Consistency, ConsistencyReply, ConsistencyRequest, LogNews, SplitView, TreeHead};
use crate::merkle::ConsistencyProof;
use crate::units::UnixMillis;
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// Most proven heads kept.
pub const MAX_PROVEN_HEADS: usize = 16;
/// Most open heads.
pub const MAX_OPEN_HEADS: usize = 16;
/// Most open heads that one peer was the first to show.
pub const MAX_OPEN_PER_PEER: usize = 2;
/// Most peers remembered for a head.
pub const MAX_SOURCES: usize = 4;
/// Most questions asked about a head.
pub const MAX_ASKS: u32 = 8;
/// A question without an answer by then is asked anew, in milliseconds.
pub const ANSWER_TIMEOUT_MS: u64 = 10_000;

/// Knows the log and its rebuilders' keys.
pub trait JudgeHead {
    /// What a signed checkpoint says, if it is of this log and enough rebuilders signed it.
    fn judge(&self, checkpoint: &[u8]) -> Option<TreeHead>;
}

/// What happened.
#[derive(Clone, Debug)]
pub enum HeadsInput {
    /// A peer showed news, or a checkpoint within a proof.
    News {
        /// Who.
        peer: PeerId,
        /// What.
        news: LogNews,
    },
    /// A peer answered a question. Whoever has the log may answer in its place.
    Answer {
        /// Who was asked.
        peer: PeerId,
        /// What was asked.
        request: ConsistencyRequest,
        /// The answer.
        reply: ConsistencyReply,
    },
    /// Time passed.
    Tick,
}

/// What to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadsOutput {
    /// Ask this peer; give its answer back as [`HeadsInput::Answer`].
    Ask {
        /// Whom.
        peer: PeerId,
        /// What.
        request: ConsistencyRequest,
    },
    /// Pass this on to all peers. Its signatures count.
    Forward(LogNews),
    /// This is the largest proven head now. Worth keeping on disk for [`LogHeads::resume`].
    Adopted(SignedHead),
    /// Nobody could show that this signed head is of the log.
    Unproven(SignedHead),
    /// The rebuilders' keys signed two logs. Comes once; see [`LogHeads::alarm`].
    Alarm(Box<SplitView>),
    /// A peer said something that no honest one says.
    Refused {
        /// Who.
        peer: PeerId,
        /// What is wrong.
        fault: HeadFault,
    },
}

/// What no honest node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// A checkpoint of another log, or without enough signatures.
    #[error("shows a checkpoint that is not signed by enough rebuilders of this log")]
    NotSigned,
    /// A consistency proof that does not lead to the newer root.
    #[error("sends a consistency proof that does not lead to the newer root")]
    FalseProof,
    /// A split view that is none.
    #[error("shows a split view that is none")]
    FalseAlarm,
}

/// A head whose signatures counted. Only [`LogHeads`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    head: TreeHead,
    checkpoint: Vec<u8>,
}

impl SignedHead {
    /// Size and root.
    #[must_use]
    pub const fn head(&self) -> TreeHead {
        self.head
    }

    /// The signed text.
    #[must_use]
    pub fn checkpoint(&self) -> &[u8] {
        &self.checkpoint
    }
}

/// Whether this is a split view: both checkpoints signed, and not of one tree.
#[must_use]
pub fn is_split(judge: &impl JudgeHead, split: &SplitView) -> bool {
    let (Some(older), Some(newer)) = (judge.judge(&split.older), judge.judge(&split.newer)) else {
        return false;
    };
    match &split.consistency {
        None => older.size == newer.size && older.root != newer.root,
        Some(Consistency { older_root, path }) => {
            let proof = ConsistencyProof {
                from: older.size,
                to: newer.size,
                path: path.clone(),
            };
            older.root != *older_root && proof.joins(*older_root, newer.root)
        }
    }
}

#[derive(Clone, Debug)]
struct Proven {
    signed: SignedHead,
    sources: Vec<PeerId>,
    /// Out of which smaller head it was seen to grow, for [`LogHeads::answer`].
    grown: Option<(u64, Consistency)>,
}

#[derive(Clone, Debug)]
struct Open {
    signed: SignedHead,
    /// The first is who showed it first.
    sources: Vec<PeerId>,
    asked: Asked,
    asks: u32,
}

/// The last question about an open head.
#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: PeerId,
    request: ConsistencyRequest,
    until: UnixMillis,
}

/// See the module's doc.
#[derive(Clone, Debug)]
pub struct LogHeads<J> {
    judge: J,
    /// By size; the last is the largest.
    proven: BTreeMap<u64, Proven>,
    open: Vec<Open>,
    alarm: Option<Box<SplitView>>,
}

impl<J: JudgeHead> LogHeads<J> {
    /// Without any head: the first one that is signed is believed.
    #[must_use]
    pub const fn new(judge: J) -> Self {
        Self {
            judge,
            proven: BTreeMap::new(),
            open: Vec::new(),
            alarm: None,
        }
    }

    /// With the largest head of an earlier run, or one that came with the release. `None` if its signatures do not
    /// count (any more).
    #[must_use]
    pub fn resume(judge: J, checkpoint: &[u8]) -> Option<Self> {
        let head = judge.judge(checkpoint)?;
        let mut heads = Self::new(judge);
        let signed = SignedHead {
            head,
            checkpoint: checkpoint.to_vec(),
        };
        heads.keep(signed, Vec::new(), None);
        Some(heads)
    }

    /// With the split view of an earlier run: the alarm stays.
    #[must_use]
    pub fn alarmed(judge: J, split: SplitView) -> Self {
        Self {
            alarm: Some(Box::new(split)),
            ..Self::new(judge)
        }
    }

    /// The largest proven head.
    #[must_use]
    pub fn largest(&self) -> Option<&SignedHead> {
        self.proven
            .values()
            .next_back()
            .map(|proven| &proven.signed)
    }

    /// Whether this head, of a proof for instance, is known to be of the log that everybody is shown. `false` for one that
    /// is still open, was never shown or is long forgotten: show it as [`HeadsInput::News`] and ask again later.
    #[must_use]
    pub fn is_proven(&self, head: TreeHead) -> bool {
        let same = |proven: &Proven| proven.signed.head == head;
        self.alarm.is_none() && self.proven.get(&head.size).is_some_and(same)
    }

    /// The evidence that there are two logs, from the moment it was seen, for good.
    #[must_use]
    pub fn alarm(&self) -> Option<&SplitView> {
        self.alarm.as_deref()
    }

    /// What to show a peer that has just come, and everybody from time to time.
    #[must_use]
    pub fn news(&self) -> Option<LogNews> {
        match &self.alarm {
            Some(split) => Some(LogNews::SplitView(split.as_ref().clone())),
            None => Some(LogNews::Head(self.largest()?.checkpoint.clone())),
        }
    }

    /// The answer to a peer's question, from the proofs by which heads were adopted. Whoever has the whole log
    /// answers more: [`ConsistencyRequest::answer`].
    #[must_use]
    pub fn answer(&self, request: &ConsistencyRequest) -> ConsistencyReply {
        let newer = self
            .proven
            .get(&request.to)
            .filter(|newer| newer.signed.head.root == request.root);
        match newer.and_then(|newer| newer.grown.as_ref()) {
            Some((from, grown)) if *from == request.from => ConsistencyReply::Found(grown.clone()),
            _ => ConsistencyReply::NotFound,
        }
    }

    /// When the next [`HeadsInput::Tick`] changes something; earlier ones do no harm.
    #[must_use]
    pub fn next_tick(&self) -> Option<UnixMillis> {
        self.open.iter().map(|open| open.asked.until).min()
    }

    /// Takes an input.
    pub fn handle(&mut self, now: UnixMillis, input: HeadsInput) -> Vec<HeadsOutput> {
        let mut outputs = Vec::new();
        if self.alarm.is_some() {
            return outputs;
        }
        match input {
            HeadsInput::News {
                peer,
                news: LogNews::Head(checkpoint),
            } => self.on_head(now, peer, checkpoint, &mut outputs),
            HeadsInput::News {
                peer,
                news: LogNews::SplitView(split),
            } => {
                if is_split(&self.judge, &split) {
                    self.raise(split, &mut outputs);
                } else {
                    let fault = HeadFault::FalseAlarm;
                    outputs.push(HeadsOutput::Refused { peer, fault });
                }
            }
            HeadsInput::Answer {
                peer,
                request,
                reply,
            } => self.on_answer(now, peer, request, reply, &mut outputs),
            HeadsInput::Tick => self.on_tick(now, &mut outputs),
        }
        outputs
    }

    fn on_head(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        checkpoint: Vec<u8>,
        outputs: &mut Vec<HeadsOutput>,
    ) {
        // The very bytes that were judged before: no need to check signatures again.
        if self.known().any(|known| known.checkpoint == checkpoint) {
            self.add_source(peer, &checkpoint);
            return;
        }
        let Some(head) = self.judge.judge(&checkpoint) else {
            let fault = HeadFault::NotSigned;
            outputs.push(HeadsOutput::Refused { peer, fault });
            return;
        };
        // Every tree grows out of the empty one.
        if head.size == 0 {
            return;
        }
        let same_size = |known: &&SignedHead| known.head.size == head.size;
        let known = self.known().find(same_size).cloned();
        if let Some(known) = known {
            if known.head.root == head.root {
                self.add_source(peer, &known.checkpoint);
            } else {
                let split = SplitView {
                    older: known.checkpoint,
                    newer: checkpoint,
                    consistency: None,
                };
                self.raise(split, outputs);
            }
            return;
        }
        let signed = SignedHead { head, checkpoint };
        let news = self.known().all(|known| known.head.size < head.size);
        let forward = HeadsOutput::Forward(LogNews::Head(signed.checkpoint.clone()));
        if self.proven.is_empty() {
            outputs.push(forward);
            outputs.push(HeadsOutput::Adopted(signed.clone()));
            self.keep(signed, vec![peer], None);
            return;
        }
        let from_peer = |open: &&Open| open.sources.first() == Some(&peer);
        if self.open.iter().filter(from_peer).count() >= MAX_OPEN_PER_PEER || !self.make_room(head)
        {
            return;
        }
        if news {
            outputs.push(forward);
        }
        self.ask(now, signed, vec![peer], 0, outputs);
    }

    /// Room for an open head, made by the rule of the module's doc if need be.
    fn make_room(&mut self, newcomer: TreeHead) -> bool {
        if self.open.len() < MAX_OPEN_HEADS {
            return true;
        }
        let sizes = self.open.iter().map(|open| open.signed.head.size);
        match sizes.enumerate().min_by_key(|(_, size)| *size) {
            Some((at, size)) if size < newcomer.size => {
                self.open.swap_remove(at);
                true
            }
            _ => false,
        }
    }

    fn on_answer(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        request: ConsistencyRequest,
        reply: ConsistencyReply,
        outputs: &mut Vec<HeadsOutput>,
    ) {
        let was_asked = |open: &Open| open.asked.peer == peer && open.asked.request == request;
        // Somebody who does not know is as good as one who is silent: the next is asked at the timeout, and by then
        // he may know more.
        let (Some(at), ConsistencyReply::Found(found)) =
            (self.open.iter().position(was_asked), reply)
        else {
            return;
        };
        let mut open = self.open.swap_remove(at);
        let size = open.signed.head.size;
        let other = if size == request.from {
            request.to
        } else {
            request.from
        };
        let Some(proven) = self.proven.get(&other) else {
            // Forgotten while the question was under way.
            self.ask(now, open.signed, open.sources, open.asks, outputs);
            return;
        };
        let (older, newer) = if size < other {
            (&open.signed, &proven.signed)
        } else {
            (&proven.signed, &open.signed)
        };
        let proof = ConsistencyProof {
            from: request.from,
            to: request.to,
            path: found.path.clone(),
        };
        if !proof.joins(found.older_root, newer.head.root) {
            outputs.push(HeadsOutput::Refused {
                peer,
                fault: HeadFault::FalseProof,
            });
            open.sources.retain(|source| *source != peer);
            self.ask(now, open.signed, open.sources, open.asks, outputs);
            return;
        }
        if found.older_root != older.head.root {
            let split = SplitView {
                older: older.checkpoint.clone(),
                newer: newer.checkpoint.clone(),
                consistency: Some(found),
            };
            self.raise(split, outputs);
            return;
        }
        let largest = self.largest().map_or(0, |largest| largest.head.size);
        if size > other && other < largest {
            // Both it and the largest head grew out of `other`, perhaps in two directions.
            self.ask(now, open.signed, open.sources, 0, outputs);
            return;
        }
        if size > largest {
            outputs.push(HeadsOutput::Adopted(open.signed.clone()));
            self.keep(open.signed, open.sources, Some((other, found)));
        } else {
            self.keep(open.signed, open.sources, None);
        }
    }

    fn on_tick(&mut self, now: UnixMillis, outputs: &mut Vec<HeadsOutput>) {
        let late: Vec<Open> = self
            .open
            .extract_if(.., |open| open.asked.until <= now)
            .collect();
        for open in late {
            self.ask(now, open.signed, open.sources, open.asks, outputs);
        }
    }

    /// Puts a head among the open ones with its next question, or gives it up. Those are asked in turn who showed the
    /// larger of the two heads, since they should have its tree.
    fn ask(
        &mut self,
        now: UnixMillis,
        signed: SignedHead,
        sources: Vec<PeerId>,
        asks: u32,
        outputs: &mut Vec<HeadsOutput>,
    ) {
        let size = signed.head.size;
        let Some(largest) = self.proven.values().next_back() else {
            return;
        };
        let other = largest.signed.head.size;
        let newer = if size < other {
            largest.signed.head
        } else {
            signed.head
        };
        let of_largest: &[PeerId] = if size < other { &largest.sources } else { &[] };
        let candidates: Vec<PeerId> = of_largest.iter().chain(&sources).copied().collect();
        let turn = usize::try_from(asks).unwrap_or(usize::MAX);
        let peer = turn
            .checked_rem(candidates.len())
            .and_then(|turn| candidates.get(turn))
            .filter(|_| asks < MAX_ASKS);
        let Some(peer) = peer.copied() else {
            outputs.push(HeadsOutput::Unproven(signed));
            return;
        };
        let request = ConsistencyRequest {
            from: size.min(other),
            to: newer.size,
            root: newer.root,
        };
        self.open.push(Open {
            signed,
            sources,
            asked: Asked {
                peer,
                request,
                until: now.saturating_add(ANSWER_TIMEOUT_MS),
            },
            asks: asks.saturating_add(1),
        });
        outputs.push(HeadsOutput::Ask { peer, request });
    }

    fn keep(
        &mut self,
        signed: SignedHead,
        sources: Vec<PeerId>,
        grown: Option<(u64, Consistency)>,
    ) {
        let proven = Proven {
            signed,
            sources,
            grown,
        };
        self.proven.insert(proven.signed.head.size, proven);
        if self.proven.len() > MAX_PROVEN_HEADS {
            self.proven.pop_first();
        }
    }

    fn raise(&mut self, split: SplitView, outputs: &mut Vec<HeadsOutput>) {
        debug_assert!(is_split(&self.judge, &split), "an alarm is always evidence");
        self.open.clear();
        outputs.push(HeadsOutput::Forward(LogNews::SplitView(split.clone())));
        let split = Box::new(split);
        outputs.push(HeadsOutput::Alarm(split.clone()));
        self.alarm = Some(split);
    }

    fn known(&self) -> impl Iterator<Item = &SignedHead> {
        let proven = self.proven.values().map(|proven| &proven.signed);
        proven.chain(self.open.iter().map(|open| &open.signed))
    }

    fn add_source(&mut self, peer: PeerId, checkpoint: &[u8]) {
        let proven = self
            .proven
            .values_mut()
            .map(|proven| (&proven.signed, &mut proven.sources));
        let open = self
            .open
            .iter_mut()
            .map(|open| (&open.signed, &mut open.sources));
        for (signed, sources) in proven.chain(open) {
            if signed.checkpoint == checkpoint
                && sources.len() < MAX_SOURCES
                && !sources.contains(&peer)
            {
                sources.push(peer);
            }
        }
    }
}
