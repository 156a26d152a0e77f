#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::ids::Digest;
use crate::merkle::{leaf_hash, root};
use crate::samples::peer;

/// Heads of these tests are signed if they begin with the word; then come size and root.
#[derive(Clone, Debug)]
struct Word;

impl JudgeHead for Word {
    fn judge(&self, checkpoint: &[u8]) -> Option<TreeHead> {
        let (size, root) = checkpoint.strip_prefix(b"signed ")?.split_first_chunk()?;
        Some(TreeHead {
            size: u64::from_be_bytes(*size),
            root: root.try_into().ok()?,
        })
    }
}

type Heads = LogHeads<Word>;

fn head(log: &[Digest], size: usize) -> Vec<u8> {
    let size_bytes = (size as u64).to_be_bytes();
    let root = root(&log[..size]);
    [b"signed ", &size_bytes[..], root.as_bytes()].concat()
}

fn log(size: u32) -> Vec<Digest> {
    (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

/// Another log from leaf `fork` on.
fn forked(size: u32, fork: u32) -> Vec<Digest> {
    let mut forked = log(fork);
    forked.extend((fork..size).map(|n| leaf_hash(&[n.to_le_bytes(), [7; 4]].concat())));
    forked
}

const NOW: UnixMillis = UnixMillis::from_millis(1_000);

fn later(asks: u64) -> UnixMillis {
    NOW.saturating_add(asks * ANSWER_TIMEOUT_MS)
}

fn show(heads: &mut Heads, who: u8, checkpoint: &[u8]) -> Vec<HeadsOutput> {
    let news = LogNews::Head(checkpoint.to_vec());
    heads.handle(
        NOW,
        HeadsInput::News {
            peer: peer(who),
            news,
        },
    )
}

fn answer(heads: &mut Heads, who: u8, from: u64, to: u64, log: &[Digest]) -> Vec<HeadsOutput> {
    reply(heads, who, &request(from, to, log), log)
}

fn reply(
    heads: &mut Heads,
    who: u8,
    request: &ConsistencyRequest,
    log: &[Digest],
) -> Vec<HeadsOutput> {
    // Like an answerer who does not look at the root.
    let to = usize::try_from(request.to).unwrap();
    let own = ConsistencyRequest {
        root: root(&log[..to]),
        ..*request
    };
    let answer = HeadsInput::Answer {
        peer: peer(who),
        request: *request,
        reply: own.answer(log),
    };
    heads.handle(NOW, answer)
}

fn request(from: u64, to: u64, log: &[Digest]) -> ConsistencyRequest {
    ConsistencyRequest {
        from,
        to,
        root: root(&log[..usize::try_from(to).unwrap()]),
    }
}

fn ask(who: u8, from: u64, to: u64, log: &[Digest]) -> HeadsOutput {
    HeadsOutput::Ask {
        peer: peer(who),
        request: request(from, to, log),
    }
}

fn size(heads: &Heads) -> u64 {
    heads.largest().unwrap().head().size
}

/// A node that believes in the head of this size.
fn at(log: &[Digest], size: usize) -> Heads {
    Heads::resume(Word, &head(log, size)).unwrap()
}

#[test]
fn the_first_signed_head_is_believed_and_passed_on() {
    let log = log(5);
    let mut heads = Heads::new(Word);
    assert_eq!(heads.news(), None);
    let outputs = show(&mut heads, 1, &head(&log, 5));
    let news = LogNews::Head(head(&log, 5));
    assert_eq!(outputs[0], HeadsOutput::Forward(news.clone()));
    assert!(matches!(&outputs[1], HeadsOutput::Adopted(head) if head.head().size == 5));
    assert_eq!(heads.news(), Some(news));
    // Shown again, by anybody, it is no news.
    assert_eq!(show(&mut heads, 2, &head(&log, 5)), []);
}

#[test]
fn a_head_without_signatures_is_refused_and_goes_nowhere() {
    let mut heads = Heads::new(Word);
    let outputs = show(&mut heads, 1, b"5 leaves, believe me");
    let fault = HeadFault::NotSigned;
    assert_eq!(
        outputs,
        [HeadsOutput::Refused {
            peer: peer(1),
            fault
        }]
    );
    assert!(heads.largest().is_none());
    assert!(Heads::resume(Word, b"unsigned").is_none());
}

#[test]
fn a_larger_head_is_passed_on_at_once_and_believed_when_its_tree_is_shown_to_have_grown() {
    let log = log(9);
    let mut heads = at(&log, 5);
    let outputs = show(&mut heads, 1, &head(&log, 9));
    let news = LogNews::Head(head(&log, 9));
    assert_eq!(outputs, [HeadsOutput::Forward(news), ask(1, 5, 9, &log)]);
    assert_eq!(size(&heads), 5);
    let newer = Word.judge(&head(&log, 9)).unwrap();
    assert!(!heads.is_proven(newer));
    assert_eq!(heads.next_tick(), Some(later(1)));
    let outputs = answer(&mut heads, 1, 5, 9, &log);
    assert!(matches!(&outputs[..], [HeadsOutput::Adopted(head)] if head.head().size == 9));
    assert_eq!(heads.next_tick(), None);
    assert!(heads.is_proven(newer));
    // And what it learnt it can tell.
    let asked = request(5, 9, &log);
    assert_eq!(heads.answer(&asked), asked.answer(&log));
    for other in [request(4, 9, &log), request(5, 9, &forked(9, 7))] {
        assert_eq!(heads.answer(&other), ConsistencyReply::NotFound);
    }
}

#[test]
fn two_heads_of_one_size_with_two_roots_are_an_alarm_that_stays() {
    let (log, other) = (log(5), forked(5, 3));
    let mut heads = at(&log, 5);
    let outputs = show(&mut heads, 1, &head(&other, 5));
    let split = SplitView {
        older: head(&log, 5),
        newer: head(&other, 5),
        consistency: None,
    };
    let news = LogNews::SplitView(split.clone());
    assert_eq!(
        outputs,
        [
            HeadsOutput::Forward(news.clone()),
            HeadsOutput::Alarm(Box::new(split.clone()))
        ]
    );
    assert_eq!(heads.alarm(), Some(&split));
    assert!(!heads.is_proven(Word.judge(&head(&log, 5)).unwrap()));
    // Nothing is believed from now on, and the largest head is not forgotten.
    assert_eq!(show(&mut heads, 2, &head(&log, 5)), []);
    assert_eq!(heads.handle(later(9), HeadsInput::Tick), []);
    assert_eq!(heads.alarm(), Some(&split));
    assert_eq!(heads.news(), Some(news));
    assert_eq!(size(&heads), 5);
}

#[test]
fn a_tree_that_did_not_grow_out_of_ours_is_an_alarm_whichever_is_larger() {
    // 4 is a perfect tree, whose root a consistency proof leaves out.
    for (ours, theirs) in [(4, 9), (5, 9), (9, 5), (9, 4)] {
        let (log, other) = (log(9), forked(9, 2));
        let mut heads = at(&log, ours);
        let outputs = show(&mut heads, 1, &head(&other, theirs));
        let (from, to) = (ours.min(theirs) as u64, ours.max(theirs) as u64);
        let larger = if ours > theirs { &log } else { &other };
        assert_eq!(outputs.last(), Some(&ask(1, from, to, larger)));
        let outputs = answer(&mut heads, 1, from, to, larger);
        let Some(HeadsOutput::Alarm(split)) = outputs.last() else {
            panic!("{ours} and {theirs}: {outputs:?}");
        };
        assert!(is_split(&Word, split));
        assert_eq!(heads.alarm(), Some(split.as_ref()));

        // The evidence convinces others, who have seen neither head.
        let mut elsewhere = at(&log, 1);
        let news = outputs[0].clone();
        let HeadsOutput::Forward(news) = news else {
            panic!("{news:?}");
        };
        let peer = peer(3);
        let outputs = elsewhere.handle(NOW, HeadsInput::News { peer, news });
        assert_eq!(outputs.last(), Some(&HeadsOutput::Alarm(split.clone())));
    }
}

#[test]
fn what_is_no_split_view_is_no_alarm() {
    let (log, other) = (log(9), forked(9, 2));
    let consistency = |leaves: &[Digest], from, to| {
        let ConsistencyReply::Found(found) = request(from, to, leaves).answer(leaves) else {
            panic!("no answer");
        };
        Some(found)
    };
    let split = |older: Vec<u8>, newer: Vec<u8>, consistency| SplitView {
        older,
        newer,
        consistency,
    };
    let genuine = split(head(&log, 5), head(&other, 9), consistency(&other, 5, 9));
    assert!(is_split(&Word, &genuine));
    let mut unsigned = genuine.clone();
    unsigned.older[0] ^= 1;
    let mut false_root = split(head(&log, 5), head(&log, 9), consistency(&log, 5, 9));
    false_root.consistency.as_mut().unwrap().older_root = root(&other[..5]);
    for made_up in [
        unsigned,
        false_root,
        // The same head twice, and one with the one it grew out of.
        split(head(&log, 5), head(&log, 5), None),
        split(head(&log, 5), head(&log, 9), None),
        split(head(&log, 5), head(&log, 9), consistency(&log, 5, 9)),
        // Two logs, but an answer about another size.
        split(head(&log, 5), head(&other, 9), consistency(&other, 4, 9)),
        split(head(&log, 9), head(&other, 5), consistency(&log, 5, 9)),
    ] {
        let mut heads = at(&log, 5);
        let (peer, fault) = (peer(1), HeadFault::FalseAlarm);
        let news = LogNews::SplitView(made_up);
        let outputs = heads.handle(NOW, HeadsInput::News { peer, news });
        assert_eq!(outputs, [HeadsOutput::Refused { peer, fault }]);
        assert!(heads.alarm().is_none());
    }
}

#[test]
fn a_false_proof_moves_the_question_to_the_next_peer() {
    let (log, other) = (log(9), forked(9, 2));
    let mut heads = at(&log, 5);
    show(&mut heads, 1, &head(&log, 9));
    show(&mut heads, 2, &head(&log, 9));
    // A proof of another tree does not lead to the signed root.
    let outputs = reply(&mut heads, 1, &request(5, 9, &log), &other);
    let (liar, fault) = (peer(1), HeadFault::FalseProof);
    let refused = HeadsOutput::Refused { peer: liar, fault };
    assert_eq!(outputs, [refused, ask(2, 5, 9, &log)]);
    answer(&mut heads, 2, 5, 9, &log);
    assert_eq!(size(&heads), 9);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let (log, other) = (log(9), forked(9, 2));
    let mut heads = at(&log, 5);
    show(&mut heads, 1, &head(&log, 9));
    assert_eq!(answer(&mut heads, 2, 5, 9, &log), []);
    assert_eq!(answer(&mut heads, 1, 4, 9, &log), []);
    assert_eq!(answer(&mut heads, 1, 5, 9, &other), []);
    assert_eq!(size(&heads), 5);
}

#[test]
fn a_head_that_nobody_proves_is_given_up_and_never_adopted() {
    let log = log(9);
    let mut heads = at(&log, 5);
    show(&mut heads, 1, &head(&log, 9));
    show(&mut heads, 2, &head(&log, 9));
    for asks in 1..u64::from(MAX_ASKS) {
        let who = if asks % 2 == 0 { 1 } else { 2 };
        assert_eq!(
            heads.handle(later(asks), HeadsInput::Tick),
            [ask(who, 5, 9, &log)]
        );
    }
    let outputs = heads.handle(later(MAX_ASKS.into()), HeadsInput::Tick);
    assert!(matches!(&outputs[..], [HeadsOutput::Unproven(head)] if head.head().size == 9));
    assert_eq!((size(&heads), heads.next_tick()), (5, None));
    // Who shows it again begins anew.
    assert_eq!(show(&mut heads, 3, &head(&log, 9))[1], ask(3, 5, 9, &log));
}

#[test]
fn a_head_that_was_proven_against_an_older_one_is_asked_about_again() {
    let (log, other) = (log(9), forked(9, 5));
    let mut heads = at(&log, 5);
    show(&mut heads, 1, &head(&log, 7));
    show(&mut heads, 2, &head(&other, 9));
    answer(&mut heads, 1, 5, 7, &log);
    // Both grew out of 5, in two directions.
    assert_eq!(answer(&mut heads, 2, 5, 9, &other), [ask(2, 7, 9, &other)]);
    answer(&mut heads, 2, 7, 9, &other);
    assert!(heads.alarm().is_some());
}

#[test]
fn no_peer_and_no_crowd_makes_it_keep_more_than_its_bounds() {
    let log = log(200);
    let mut heads = at(&log, 100);
    for size in 1..=200 {
        show(&mut heads, 1, &head(&log, size));
    }
    assert_eq!(heads.open.len(), MAX_OPEN_PER_PEER);
    for size in 1..=200 {
        show(&mut heads, u8::try_from(size).unwrap(), &head(&log, size));
        assert!(heads.open.len() <= MAX_OPEN_HEADS);
    }
    // The larger ones have driven the smaller ones out.
    assert!(heads.open.iter().all(|open| open.signed.head.size > 100));
    for who in 1..100 {
        show(&mut heads, who, &head(&log, 200));
    }
    assert!(
        heads
            .open
            .iter()
            .all(|open| open.sources.len() <= MAX_SOURCES)
    );
    // Smaller heads of the same tree are proven and then forgotten; the largest is not.
    let mut heads = at(&log, 200);
    for size in (1..200).rev() {
        show(&mut heads, 1, &head(&log, size));
        answer(&mut heads, 1, size as u64, 200, &log);
        assert!(heads.proven.len() <= MAX_PROVEN_HEADS);
        assert_eq!(heads.largest().unwrap().head().size, 200);
    }
    assert!(heads.open.is_empty());
}

/// Nodes in a line or a tree, each with a whole log to answer from.
struct Mesh {
    nodes: Vec<(Heads, Vec<Digest>)>,
    /// `parents[n]` is whom node n + 1 is connected with.
    parents: Vec<usize>,
    now: UnixMillis,
}

impl Mesh {
    fn neighbours(&self, of: usize) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|&n| {
                (n > of && self.parents[n - 1] == of) || (of > n && self.parents[of - 1] == n)
            })
            .collect()
    }

    fn settle(&mut self, start: Vec<(usize, HeadsInput)>) {
        let name = |n: usize| peer(u8::try_from(n).unwrap());
        let mut queue = VecDeque::from(start);
        while let Some((at, input)) = queue.pop_front() {
            for output in self.nodes[at].0.handle(self.now, input) {
                match output {
                    HeadsOutput::Ask { peer, request } => {
                        let asked = (0..self.nodes.len()).find(|&n| name(n) == peer).unwrap();
                        let (heads, log) = &self.nodes[asked];
                        let reply = match request.answer(log) {
                            ConsistencyReply::NotFound => heads.answer(&request),
                            found @ ConsistencyReply::Found(_) => found,
                        };
                        let answer = HeadsInput::Answer {
                            peer,
                            request,
                            reply,
                        };
                        queue.push_back((at, answer));
                    }
                    HeadsOutput::Forward(news) => {
                        if let LogNews::Head(head) = &news {
                            assert!(Word.judge(head).is_some());
                        }
                        for neighbour in self.neighbours(at) {
                            let peer = name(at);
                            let news = news.clone();
                            queue.push_back((neighbour, HeadsInput::News { peer, news }));
                        }
                    }
                    HeadsOutput::Alarm(split) => assert!(is_split(&Word, &split)),
                    HeadsOutput::Refused { fault, .. } => panic!("an honest node: {fault}"),
                    HeadsOutput::Adopted(_) | HeadsOutput::Unproven(_) => {}
                }
            }
        }
    }

    /// Everybody shows its neighbours what it has, and time passes.
    fn round(&mut self) {
        let mut start = Vec::new();
        for n in 0..self.nodes.len() {
            let Some(news) = self.nodes[n].0.news() else {
                continue;
            };
            let peer = peer(u8::try_from(n).unwrap());
            for neighbour in self.neighbours(n) {
                let news = news.clone();
                start.push((neighbour, HeadsInput::News { peer, news }));
            }
        }
        self.settle(start);
        self.now = self.now.saturating_add(ANSWER_TIMEOUT_MS);
        let tick = |n| (n, HeadsInput::Tick);
        self.settle((0..self.nodes.len()).map(tick).collect());
    }
}

fn mesh() -> impl Strategy<Value = Vec<usize>> {
    (2..8_usize).prop_flat_map(|nodes| (1..nodes).map(|n| 0..n).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_honest_log_never_raises_an_alarm_and_everybody_gets_to_its_largest_head(
        parents in mesh(),
        shown in prop::collection::vec((0..8_usize, 1..40_usize), 1..12),
    ) {
        let log = log(40);
        let nodes = vec![(Heads::new(Word), log.clone()); parents.len() + 1];
        let mut mesh = Mesh { nodes, parents, now: NOW };
        let mut largest = 0;
        for (at, size) in shown {
            let at = at % mesh.nodes.len();
            let (peer, news) = (peer(u8::try_from(at).unwrap()), LogNews::Head(head(&log, size)));
            mesh.settle(vec![(at, HeadsInput::News { peer, news })]);
            largest = largest.max(size as u64);
        }
        for _ in 0..mesh.nodes.len() {
            mesh.round();
        }
        for (heads, _) in &mesh.nodes {
            prop_assert!(heads.alarm().is_none());
            prop_assert_eq!(super::tests::size(heads), largest);
        }
    }

    #[test]
    fn a_log_that_shows_two_branches_to_connected_nodes_always_raises_the_alarm_everywhere(
        parents in mesh(),
        fork in 0..20_u32,
        branches in prop::collection::vec(any::<bool>(), 8),
        shown in prop::collection::vec((0..8_usize, 1..40_usize), 0..8),
        last in (0..20_usize, 0..20_usize),
    ) {
        let logs = [log(40), forked(40, fork)];
        let mut branches = branches;
        branches[0] = false;
        branches[1] = true;
        let nodes = (0..=parents.len())
            .map(|n| (Heads::new(Word), logs[usize::from(branches[n])].clone()))
            .collect();
        let mut mesh = Mesh { nodes, parents, now: NOW };
        // Each node is shown its own branch only; nodes 0 and 1 get to see beyond the fork.
        let beyond = |more: usize| fork as usize + 1 + more;
        let shown = shown.into_iter().chain([(0, beyond(last.0)), (1, beyond(last.1))]);
        for (at, size) in shown {
            let at = at % mesh.nodes.len();
            let checkpoint = head(&mesh.nodes[at].1, size);
            let (peer, news) = (peer(u8::try_from(at).unwrap()), LogNews::Head(checkpoint));
            mesh.settle(vec![(at, HeadsInput::News { peer, news })]);
        }
        for _ in 0..mesh.nodes.len() {
            mesh.round();
        }
        for (heads, _) in &mesh.nodes {
            prop_assert!(heads.alarm().is_some());
        }
    }
}
