//! That a tree grew out of another: nothing was changed or taken out, leaves were only appended.

use super::{left_leaves, node_hash, root};
use crate::ids::Digest;

/// A consistency proof has at most a step more than a size has bits: the subtree where the old tree's edge runs.
pub const MAX_CONSISTENCY_STEPS: usize = 65;

/// The subtrees from which both roots can be computed. RFC 6962, section 2.1.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// Leaves of the older tree.
    pub from: u64,
    /// Leaves of the newer tree, no fewer.
    pub to: u64,
    /// Subtree hashes, lowest first; none if the older tree is empty or is the newer one.
    pub path: Vec<Digest>,
}

impl ConsistencyProof {
    /// The proof that these leaf hashes begin with their first `from`; `None` when there are fewer.
    #[must_use]
    pub fn make(from: u64, leaves: &[Digest]) -> Option<Self> {
        let mut old = usize::try_from(from).ok()?;
        if old > leaves.len() {
            return None;
        }
        let mut path = Vec::new();
        let mut rest = leaves;
        // Whether `rest` still begins where the tree begins: the verifier knows the old root itself.
        let mut whole = true;
        while old != 0 && old < rest.len() {
            let (left, right) = rest.split_at_checked(left_leaves(rest.len()))?;
            match old.checked_sub(left.len()) {
                None | Some(0) => {
                    path.push(root(right));
                    rest = left;
                }
                Some(beyond) => {
                    path.push(root(left));
                    rest = right;
                    old = beyond;
                    whole = false;
                }
            }
        }
        if !whole {
            path.push(root(rest));
        }
        path.reverse();
        Some(Self {
            from,
            to: u64::try_from(leaves.len()).ok()?,
            path,
        })
    }

    /// Whether the tree of root `newer` begins with the tree of root `older`. RFC 9162, section 2.1.4.2; an empty
    /// older tree, which that leaves out, is the beginning of every tree.
    #[must_use]
    pub fn joins(&self, older: Digest, newer: Digest) -> bool {
        if self.from > self.to || self.path.len() > MAX_CONSISTENCY_STEPS {
            return false;
        }
        if self.from == 0 {
            return self.path.is_empty() && older == super::empty_root();
        }
        if self.from == self.to {
            return self.path.is_empty() && older == newer;
        }
        // `at` and `last`: the last node of the older and of the newer tree, counted on the current level; first
        // the level of the largest perfect subtree that ends where the older tree ends.
        let shift = self.from.trailing_zeros();
        let mut at = self.from.saturating_sub(1).unbounded_shr(shift);
        let mut last = self.to.saturating_sub(1).unbounded_shr(shift);
        let mut steps = self.path.iter();
        // A perfect older tree is itself that subtree, and its root is not sent.
        let seed = if self.from.is_power_of_two() {
            older
        } else if let Some(first) = steps.next() {
            *first
        } else {
            return false;
        };
        let (mut old, mut new) = (seed, seed);
        for step in steps {
            if last == 0 {
                return false;
            }
            if at & 1 == 1 || at == last {
                old = node_hash(step, &old);
                new = node_hash(step, &new);
                // A node without a right sibling rises unchanged until it is somebody's right sibling.
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                new = node_hash(&new, step);
            }
            at >>= 1;
            last >>= 1;
        }
        last == 0 && old == older && new == newer
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use proptest::prelude::*;

    use super::super::tests::{digest, leaves};
    use super::super::{empty_root, leaf_hash};
    use super::*;

    #[test]
    fn paths_are_those_published_for_certificate_transparency() {
        let published: [(u64, usize, &[&str]); 4] = [
            (1, 1, &[]),
            (
                1,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                6,
                8,
                &[
                    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                5,
                &[
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ];
        let leaves = leaves();
        for (from, to, path) in published {
            let proof = ConsistencyProof::make(from, &leaves[..to]).unwrap();
            let path: Vec<_> = path.iter().map(|step| digest(step)).collect();
            assert_eq!(proof.path, path, "{from} to {to}");
        }
    }

    #[test]
    fn every_pair_of_sizes_is_joined_by_its_proof_and_by_no_other() {
        let leaves: Vec<_> = (0_u32..200).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let roots: Vec<_> = (0..=leaves.len()).map(|n| root(&leaves[..n])).collect();
        let stranger = leaf_hash(b"another");
        for to in 0..roots.len() {
            for from in 0..=to {
                let proof = ConsistencyProof::make(from as u64, &leaves[..to]).unwrap();
                assert!(proof.path.len() <= MAX_CONSISTENCY_STEPS);
                assert!(proof.joins(roots[from], roots[to]), "{from} to {to}");
                assert!(!proof.joins(stranger, roots[to]));
                // What must not pass is tried on fewer sizes, to save time; none of it depends on the size.
                if from == 0 || to > 66 {
                    continue;
                }
                assert!(!proof.joins(roots[from], stranger));
                // The neighbours' roots do not pass for these sizes.
                assert!(!proof.joins(roots[from - 1], roots[to]));
                assert!(!proof.joins(roots[from], roots[to - 1]));
                let mut longer = proof.clone();
                longer.path.push(stranger);
                assert!(!longer.joins(roots[from], roots[to]));
                let mut shorter = proof.clone();
                if shorter.path.pop().is_some() {
                    assert!(!shorter.joins(roots[from], roots[to]));
                }
                for step in 0..proof.path.len() {
                    let mut changed = proof.clone();
                    changed.path[step] = stranger;
                    assert!(!changed.joins(roots[from], roots[to]));
                }
            }
            assert_eq!(ConsistencyProof::make(to as u64 + 1, &leaves[..to]), None);
        }
    }

    #[test]
    fn an_empty_tree_is_the_beginning_of_every_tree_and_of_nothing_else() {
        let leaves = leaves();
        let proof = ConsistencyProof::make(0, &leaves).unwrap();
        assert!(proof.joins(empty_root(), root(&leaves)));
        assert!(!proof.joins(root(&leaves), root(&leaves)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// What an alarm rests on: a newer root and a path settle which older root is right.
        #[test]
        fn a_rewritten_tree_never_joins(
            size in 2_usize..120,
            changed in 0_usize..120,
            from in 1_usize..120,
        ) {
            let (changed, from) = (changed % size, 1 + from % size);
            let leaves: Vec<_> = (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect();
            let mut rewritten = leaves.clone();
            rewritten[changed] = leaf_hash(b"rewritten");
            let proof = ConsistencyProof::make(from as u64, &rewritten).unwrap();
            prop_assert!(proof.joins(root(&rewritten[..from]), root(&rewritten)));
            prop_assert_eq!(
                proof.joins(root(&leaves[..from]), root(&rewritten)),
                changed >= from
            );
        }

        #[test]
        fn invented_proofs_join_nothing(
            from in 1..u64::MAX,
            beyond in 1..u64::MAX,
            path in prop::collection::vec(any::<[u8; 32]>(), 0..70),
        ) {
            let path = path.into_iter().map(Digest::from_bytes).collect();
            let proof = ConsistencyProof { from, to: from.saturating_add(beyond), path };
            prop_assert!(!proof.joins(leaf_hash(b"older"), leaf_hash(b"newer")));
        }
    }
}
