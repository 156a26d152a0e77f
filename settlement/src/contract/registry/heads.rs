//! The log that a node has seen, held against the one on chain.

use cocoon_protocol::Digest;
use cocoon_protocol::log::{ConsistencyRequest, TreeHead};

/// Under which a log stands in the registry: SHA-256 of its origin, the first line of its checkpoints.
pub fn log_key(origin: &str) -> Digest {
    Digest::sha256(origin.as_bytes())
}

/// What the registry's head says about the heads that a node has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgainstChain {
    /// One of the seen heads is the registry's.
    Same,
    /// One of the seen heads has the registry's size and another root: somebody was shown another log.
    Split {
        /// What this node was shown.
        seen: TreeHead,
        /// What everybody can read.
        on_chain: TreeHead,
    },
    /// The sizes differ. Whether one tree grew out of the other, a consistency proof must tell: the answer's
    /// `older_root` must be the root of the smaller head.
    Ask {
        /// The head with fewer entries.
        older: TreeHead,
        /// To whoever has the newer tree.
        request: ConsistencyRequest,
    },
    /// Nothing was seen yet, or the registry's log is empty.
    Nothing,
}

/// Compares the proven heads that a node has seen with the registry's head of the same log. A split is found whichever
/// of the heads shows it; else the largest one is asked about.
pub fn compare_heads(seen: &[TreeHead], on_chain: TreeHead) -> AgainstChain {
    let of_that_size = || seen.iter().filter(|head| head.size == on_chain.size);
    if let Some(other) = of_that_size().find(|head| head.root != on_chain.root) {
        return AgainstChain::Split {
            seen: *other,
            on_chain,
        };
    }
    if of_that_size().next().is_some() {
        return AgainstChain::Same;
    }
    let Some(largest) = seen.iter().max_by_key(|head| head.size) else {
        return AgainstChain::Nothing;
    };
    let (older, newer) = if largest.size < on_chain.size {
        (*largest, on_chain)
    } else {
        (on_chain, *largest)
    };
    // RFC 6962 has no proof from the empty tree, from which every tree grew.
    if older.size == 0 {
        return AgainstChain::Nothing;
    }
    AgainstChain::Ask {
        older,
        request: ConsistencyRequest {
            from: older.size,
            to: newer.size,
            root: newer.root,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use cocoon_protocol::log::ConsistencyReply;
    use cocoon_protocol::merkle;

    use super::*;

    fn leaves(count: u8) -> Vec<Digest> {
        (0..count).map(|n| merkle::leaf_hash(&[n])).collect()
    }

    fn head(leaves: &[Digest]) -> TreeHead {
        TreeHead {
            size: u64::try_from(leaves.len()).unwrap(),
            root: merkle::root(leaves),
        }
    }

    #[test]
    fn heads_of_one_size_agree_or_show_two_logs() {
        let log = leaves(7);
        let chain = head(&log[..5]);
        let seen: Vec<_> = (1..=7).map(|size| head(&log[..size])).collect();
        assert_eq!(compare_heads(&seen, chain), AgainstChain::Same);
        let mut forged = log.clone();
        forged[0] = merkle::leaf_hash(b"another image");
        let other = head(&forged[..5]);
        // Also when the true head was seen beside it.
        for seen in [vec![other], vec![chain, other, head(&log)]] {
            let split = AgainstChain::Split {
                seen: other,
                on_chain: chain,
            };
            assert_eq!(compare_heads(&seen, chain), split);
        }
    }

    #[test]
    fn heads_of_two_sizes_lead_to_a_question_whose_answer_tells() {
        let log = leaves(9);
        for (seen, on_chain) in [(4, 9), (9, 4)] {
            let check = compare_heads(
                &[head(&log[..2]), head(&log[..seen])],
                head(&log[..on_chain]),
            );
            let AgainstChain::Ask { older, request } = check else {
                panic!("{check:?}")
            };
            assert_eq!((request.from, request.to, older.size), (4, 9, 4));
            let ConsistencyReply::Found(found) = request.answer(&log) else {
                panic!("the log is there")
            };
            assert_eq!(found.older_root, older.root);
        }
        assert_eq!(compare_heads(&[], head(&log)), AgainstChain::Nothing);
    }
}
