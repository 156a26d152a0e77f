//! The Merkle tree hash of Certificate Transparency (RFC 6962, section 2.1; proofs as in RFC 9162, section 2.1.3).
//!
//! ```text
//! MTH({})     = SHA-256()
//! MTH({d})    = SHA-256(0x00 ‖ d)
//! MTH(D[0:n]) = SHA-256(0x01 ‖ MTH(D[0:k]) ‖ MTH(D[k:n]))      k: the largest power of two below n
//! ```
//!
//! The prefixes keep a leaf from being passed off as a node. Two logs are such trees: a worker's receipts, over which
//! every settlement batch commits the root of **all** leaves so far, and the log of guest images ([`crate::log`]). Both
//! only grow, and the number of leaves is part of what is committed or signed. To extend a tree nobody re-reads old
//! leaves: the [`Frontier`] keeps the roots of the perfect subtrees, one per set bit of the size. An
//! [`InclusionProof`] leads from a leaf to a root, a [`ConsistencyProof`] from a root to that of the grown tree.

use crate::ids::Digest;
use sha2::{Digest as _, Sha256};

mod consistency;

pub use consistency::{ConsistencyProof, MAX_CONSISTENCY_STEPS};

/// An inclusion proof never has more steps than a size has bits.
pub const MAX_PROOF_STEPS: usize = 64;

/// The hash of a leaf's bytes.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Digest {
    hash(&[&[0x00], data])
}

/// The hash of two neighbouring subtrees.
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    hash(&[
        &[0x01],
        left.as_bytes().as_slice(),
        right.as_bytes().as_slice(),
    ])
}

/// The root over no leaves at all: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Digest {
    hash(&[])
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    Digest::from_bytes(hash.finalize().into())
}

/// The right edge of a growing tree: enough to append leaves and to tell the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect subtrees the leaves make up, largest (leftmost) first; one for each set bit of `size`.
    peaks: Vec<Digest>,
}

impl Frontier {
    /// A tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a stored frontier together again; `None` when the number of peaks does not fit the size.
    #[must_use]
    pub fn from_parts(size: u64, peaks: Vec<Digest>) -> Option<Self> {
        let wanted = usize::try_from(size.count_ones()).ok()?;
        (peaks.len() == wanted).then_some(Self { size, peaks })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The stored form, with [`Frontier::size`].
    #[must_use]
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Appends a leaf by its [`leaf_hash`]. At 2⁶⁴ − 1 leaves, which nothing reaches, the tree stays as it is.
    pub fn push(&mut self, leaf: Digest) {
        let Some(size) = self.size.checked_add(1) else {
            return;
        };
        let mut node = leaf;
        // Each trailing one bit of the old size is a perfect subtree that the new leaf completes to twice its size.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.peaks.push(node);
        self.size = size;
        debug_assert_eq!(
            u32::try_from(self.peaks.len()).ok(),
            Some(self.size.count_ones()),
            "one peak for each set bit"
        );
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.peaks
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }
}

impl FromIterator<Digest> for Frontier {
    fn from_iter<I: IntoIterator<Item = Digest>>(leaves: I) -> Self {
        let mut frontier = Self::new();
        for leaf in leaves {
            frontier.push(leaf);
        }
        frontier
    }
}

/// The root over these leaf hashes.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    leaves.iter().copied().collect::<Frontier>().root()
}

/// The way from a leaf to the root: the sibling subtrees from the leaf upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// The leaf's place, from 0.
    pub index: u64,
    /// The number of leaves of the tree whose root this leads to.
    pub size: u64,
    /// Sibling hashes, lowest first.
    pub path: Vec<Digest>,
}

impl InclusionProof {
    /// The proof for leaf `index` of these leaf hashes; `None` when there is no such leaf.
    #[must_use]
    pub fn make(index: u64, leaves: &[Digest]) -> Option<Self> {
        let at = usize::try_from(index).ok()?;
        if at >= leaves.len() {
            return None;
        }
        let mut path = Vec::new();
        let (mut at, mut rest) = (at, leaves);
        while rest.len() > 1 {
            let (left, right) = rest.split_at_checked(left_leaves(rest.len()))?;
            let sibling;
            (rest, sibling) = match at.checked_sub(left.len()) {
                None => (left, right),
                Some(below) => {
                    at = below;
                    (right, left)
                }
            };
            path.push(root(sibling));
        }
        path.reverse();
        Some(Self {
            index,
            size: u64::try_from(leaves.len()).ok()?,
            path,
        })
    }

    /// Whether this proof leads from `leaf` (a [`leaf_hash`]) to `root`. RFC 9162, section 2.1.3.2.
    #[must_use]
    pub fn leads(&self, leaf: Digest, root: Digest) -> bool {
        if self.index >= self.size || self.path.len() > MAX_PROOF_STEPS {
            return false;
        }
        let mut node = leaf;
        // `at` and `last`: the places of our node and of the tree's last node, counted on the current level.
        let mut at = self.index;
        let mut last = self.size.saturating_sub(1);
        for sibling in &self.path {
            if last == 0 {
                return false;
            }
            if at & 1 == 1 || at == last {
                node = node_hash(sibling, &node);
                // A node without a right sibling rises unchanged until it is somebody's right sibling.
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                node = node_hash(&node, sibling);
            }
            at >>= 1;
            last >>= 1;
        }
        last == 0 && node == root
    }
}

/// How many of `len` ≥ 2 leaves the left subtree has: the largest power of two below `len`.
fn left_leaves(len: usize) -> usize {
    len.next_power_of_two() >> 1
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use proptest::prelude::*;

    use super::*;

    /// The inputs, roots and paths published with the reference implementation of Certificate Transparency.
    const INPUTS: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    pub(super) fn leaves() -> Vec<Digest> {
        let data = INPUTS.map(|input| hex::decode(input).unwrap());
        data.iter().map(|data| leaf_hash(data)).collect()
    }

    pub(super) fn digest(hex: &str) -> Digest {
        hex.parse().unwrap()
    }

    #[test]
    fn roots_are_those_published_for_certificate_transparency() {
        assert_eq!(
            empty_root(),
            digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
        assert_eq!(root(&[]), empty_root());
        let mut frontier = Frontier::new();
        for (at, wanted) in ROOTS.iter().enumerate() {
            frontier.push(leaves()[at]);
            assert_eq!(frontier.root(), digest(wanted), "{} leaves", at + 1);
            assert_eq!(root(&leaves()[..=at]), digest(wanted));
        }
    }

    #[test]
    fn paths_are_those_published_for_certificate_transparency() {
        let published: [(u64, usize, &[&str]); 4] = [
            (
                0,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                5,
                8,
                &[
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                3,
                &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
            ),
            (
                1,
                5,
                &[
                    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ];
        for (index, size, path) in published {
            let proof = InclusionProof::make(index, &leaves()[..size]).unwrap();
            let path: Vec<_> = path.iter().map(|step| digest(step)).collect();
            assert_eq!(proof.path, path, "leaf {index} of {size}");
        }
    }

    #[test]
    fn a_leaf_is_not_a_node() {
        let (left, right) = (leaf_hash(b"a"), leaf_hash(b"b"));
        let joined = [left.as_bytes().as_slice(), right.as_bytes().as_slice()].concat();
        assert_ne!(leaf_hash(&joined), node_hash(&left, &right));
    }

    #[test]
    fn every_proof_of_every_small_tree_leads_to_its_root_and_to_no_other() {
        let leaves: Vec<_> = (0_u8..33).map(|n| leaf_hash(&[n])).collect();
        for size in 1..=leaves.len() {
            let tree = &leaves[..size];
            let wanted = root(tree);
            for (index, leaf) in tree.iter().enumerate() {
                let proof = InclusionProof::make(index as u64, tree).unwrap();
                assert!(proof.leads(*leaf, wanted), "{index} of {size}");
                assert!(!proof.leads(leaf_hash(b"another"), wanted));
                assert!(!proof.leads(*leaf, leaf_hash(b"another")));
                for other in 0..size as u64 + 2 {
                    let moved = InclusionProof {
                        index: other,
                        ..proof.clone()
                    };
                    assert_eq!(moved.leads(*leaf, wanted), other == index as u64);
                }
                let mut longer = proof.clone();
                longer.path.push(wanted);
                assert!(!longer.leads(*leaf, wanted));
                let mut shorter = proof;
                if shorter.path.pop().is_some() {
                    assert!(!shorter.leads(*leaf, wanted));
                }
            }
            assert_eq!(InclusionProof::make(size as u64, tree), None);
        }
    }

    /// The recursive definition, word for word.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                node_hash(&by_definition(&leaves[..k]), &by_definition(&leaves[k..]))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_frontier_agrees_with_the_definition(size in 0_u32..150, cut in 0_u32..150) {
            let leaves: Vec<_> = (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect();
            prop_assert_eq!(root(&leaves), by_definition(&leaves));
            // Storing and reloading in the middle changes nothing.
            let cut = cut.min(size) as usize;
            let first: Frontier = leaves[..cut].iter().copied().collect();
            let mut again = Frontier::from_parts(first.size(), first.peaks().to_vec()).unwrap();
            for leaf in &leaves[cut..] {
                again.push(*leaf);
            }
            prop_assert_eq!(again.root(), by_definition(&leaves));
        }

        #[test]
        fn invented_proofs_lead_nowhere(
            index in any::<u64>(),
            size in any::<u64>(),
            path in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
        ) {
            let path = path.into_iter().map(Digest::from_bytes).collect();
            let proof = InclusionProof { index, size, path };
            prop_assert!(!proof.leads(leaf_hash(b"x"), leaf_hash(b"root")));
        }
    }

    #[test]
    fn a_frontier_with_the_wrong_number_of_peaks_is_refused() {
        assert_eq!(Frontier::from_parts(3, vec![leaf_hash(b"a")]), None);
    }
}
