#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::codec_tests::{fuzz, survives};
use crate::merkle::leaf_hash;
use crate::samples::any_digest;

fn any_proof() -> impl Strategy<Value = ImageProof> {
    (
        vec(any::<u8>(), 1..=MAX_LOG_ENTRY_BYTES),
        any::<u64>(),
        vec(any_digest(), 0..=MAX_PROOF_STEPS),
        vec(any::<u8>(), 1..=MAX_CHECKPOINT_BYTES),
    )
        .prop_map(|(entry, index, path, checkpoint)| ImageProof {
            entry,
            index,
            path,
            checkpoint,
        })
}

fn any_consistency() -> impl Strategy<Value = Consistency> {
    (any_digest(), vec(any_digest(), 0..=MAX_CONSISTENCY_STEPS))
        .prop_map(|(older_root, path)| Consistency { older_root, path })
}

fn any_news() -> impl Strategy<Value = LogNews> {
    let note = || vec(any::<u8>(), 1..=MAX_CHECKPOINT_BYTES);
    let split = (note(), note(), option::of(any_consistency()));
    prop_oneof![
        note().prop_map(LogNews::Head),
        split.prop_map(|(older, newer, consistency)| LogNews::SplitView(SplitView {
            older,
            newer,
            consistency,
        })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_proof_survives_the_wire(value in any_proof()) { survives(&value)?; }

    #[test]
    fn news_survives_the_wire(value in any_news()) { survives(&value)?; }

    #[test]
    fn a_question_survives_the_wire(from in 1..u64::MAX, more in 1..u64::MAX) {
        let root = leaf_hash(b"root");
        survives(&ConsistencyRequest { from, to: from.saturating_add(more), root })?;
    }

    #[test]
    fn an_answer_survives_the_wire(value in any_consistency()) {
        survives(&ConsistencyReply::Found(value))?;
    }
}

/// As large as the bounds of the fields allow.
fn largest_proof() -> ImageProof {
    ImageProof {
        entry: vec![b'e'; MAX_LOG_ENTRY_BYTES],
        index: u64::MAX,
        path: vec![leaf_hash(b"step"); MAX_PROOF_STEPS],
        checkpoint: vec![b'c'; MAX_CHECKPOINT_BYTES],
    }
}

fn largest_consistency() -> Consistency {
    Consistency {
        older_root: leaf_hash(b"root"),
        path: vec![leaf_hash(b"step"); MAX_CONSISTENCY_STEPS],
    }
}

fn largest_news() -> LogNews {
    LogNews::SplitView(SplitView {
        older: vec![b'o'; MAX_CHECKPOINT_BYTES],
        newer: vec![b'n'; MAX_CHECKPOINT_BYTES],
        consistency: Some(largest_consistency()),
    })
}

#[test]
fn the_largest_messages_fit_their_limits() {
    assert!(ImageProof::decode(&largest_proof().encode()).is_ok());
    assert!(LogNews::decode(&largest_news().encode()).is_ok());
    let reply = ConsistencyReply::Found(largest_consistency());
    assert!(ConsistencyReply::decode(&reply.encode()).is_ok());
    let request = ConsistencyRequest {
        from: u64::MAX - 1,
        to: u64::MAX,
        root: leaf_hash(b"root"),
    };
    assert!(ConsistencyRequest::decode(&request.encode()).is_ok());
}

#[test]
fn what_is_beyond_a_bound_is_refused_by_name() {
    let refused = |proof: ImageProof| ImageProof::decode(&proof.encode()).unwrap_err();
    let long = refused(ImageProof {
        path: vec![leaf_hash(b"step"); MAX_PROOF_STEPS + 1],
        ..largest_proof()
    });
    assert!(
        matches!(long, WireError::TooLong { field: "path", .. }),
        "{long}"
    );
    let empty = refused(ImageProof {
        entry: Vec::new(),
        ..largest_proof()
    });
    assert!(
        matches!(empty, WireError::Missing { field: "entry", .. }),
        "{empty}"
    );
    for (from, to, field) in [(0, 5, "from"), (5, 5, "to"), (6, 5, "to")] {
        let root = leaf_hash(b"root");
        let request = ConsistencyRequest { from, to, root };
        let refused = ConsistencyRequest::decode(&request.encode()).unwrap_err();
        assert!(
            refused.to_string().contains(&format!(".{field} ")),
            "{refused}"
        );
    }
}

#[test]
fn any_bytes_may_come_as_a_proof() {
    fuzz::<ImageProof>(&largest_proof());
}
#[test]
fn any_bytes_may_come_as_news() {
    fuzz::<LogNews>(&LogNews::Head(b"note".to_vec()));
    fuzz::<LogNews>(&largest_news());
}
#[test]
fn any_bytes_may_come_as_a_question_or_an_answer() {
    fuzz::<ConsistencyRequest>(&ConsistencyRequest {
        from: 5,
        to: 9,
        root: leaf_hash(b"root"),
    });
    fuzz::<ConsistencyReply>(&ConsistencyReply::Found(largest_consistency()));
    fuzz::<ConsistencyReply>(&ConsistencyReply::NotFound);
}

#[test]
fn whoever_has_the_log_answers_what_its_sizes_allow() {
    let leaves: Vec<_> = (0_u8..9).map(|n| leaf_hash(&[n])).collect();
    let whole = merkle::root(&leaves);
    let request = |from, to, root| ConsistencyRequest { from, to, root };
    let ConsistencyReply::Found(found) = request(5, 9, whole).answer(&leaves) else {
        panic!("the log has both trees");
    };
    assert_eq!(found.older_root, merkle::root(&leaves[..5]));
    let proof = ConsistencyProof {
        from: 5,
        to: 9,
        path: found.path,
    };
    assert!(proof.joins(found.older_root, whole));
    for refused in [
        request(5, 10, whole),
        // A tree of the same size that is another one.
        request(5, 9, leaf_hash(b"another")),
        // Nonsense that never came over the wire.
        request(9, 5, merkle::root(&leaves[..5])),
    ] {
        assert_eq!(refused.answer(&leaves), ConsistencyReply::NotFound);
    }
}
