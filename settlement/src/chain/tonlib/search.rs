//! The time of a block, found by looking up blocks by time.
//!
//! A lookup by a time answers the first block that is not before it (where blocks share a second: one of those, or the next).
//! So a block's time is the latest whose lookup does not answer a later block. The search goes down from the newest block's
//! time in steps that double, and then halves what is left: about twice the logarithm of the block's age in seconds.

/// What a lookup answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The block that is looked for, or an older one.
    AtOrBefore,
    /// A later one.
    After,
    /// No block: the time is before all that can be shown.
    Nothing,
}

/// Where a search stands. `next` and `saw` take turns.
#[derive(Debug)]
pub(super) struct Search {
    /// The block is not after this, and whether a lookup here showed it.
    low: Option<(u32, bool)>,
    /// The block is before this.
    high: u32,
    /// How far the next step down goes.
    step: u32,
    asked: u32,
}

impl Search {
    /// For a block that is no later than a block of this time, seconds since 1970.
    pub(super) fn below(newest: u32) -> Self {
        Self {
            low: None,
            high: newest.saturating_add(1),
            step: 1,
            asked: newest,
        }
    }

    /// The time to look up, or `None` at the end.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.asked = match self.low {
            None => self.high.saturating_sub(self.step),
            Some((low, _)) if self.high.saturating_sub(low) <= 1 => return None,
            Some((low, _)) => low.midpoint(self.high),
        };
        Some(self.asked)
    }

    pub(super) fn saw(&mut self, seen: Seen) {
        match seen {
            Seen::AtOrBefore => self.low = Some((self.asked, true)),
            Seen::Nothing => self.low = Some((self.asked, false)),
            Seen::After => {
                self.high = self.asked;
                self.step = self.step.saturating_mul(2);
                if self.asked == 0 {
                    self.low = Some((0, false));
                }
            }
        }
    }

    /// The block's time, once `next` has come to its end.
    pub(super) fn found(&self) -> Option<u32> {
        self.low.and_then(|(at, shown)| shown.then_some(at))
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

    use super::*;

    /// As liteservers answer. The first block has no neighbour before it, so it is never answered.
    fn look_up(times: &[u32], unix: u32, wanted: usize) -> Seen {
        match times.iter().position(|time| *time >= unix).unwrap() {
            0 => Seen::Nothing,
            found if found <= wanted => Seen::AtOrBefore,
            _ => Seen::After,
        }
    }

    proptest! {
        #[test]
        fn every_blocks_time_is_found(
            first in 0u32..2_000_000_000,
            gaps in prop::collection::vec(prop_oneof![0u32..3, 0u32..100_000], 2..40),
            wanted: prop::sample::Index,
        ) {
            let mut times = vec![first];
            times.extend(gaps.iter().scan(first, |at, gap| { *at += gap; Some(*at) }));
            let wanted = wanted.index(times.len() - 1) + 1;
            // A block of the first one's second cannot be told from it.
            prop_assume!(times[wanted] > times[0]);
            let mut search = Search::below(*times.last().unwrap());
            let mut lookups = 0;
            while let Some(unix) = search.next() {
                lookups += 1;
                prop_assert!(lookups <= 66);
                search.saw(look_up(&times, unix, wanted));
            }
            prop_assert_eq!(search.found(), Some(times[wanted]));
        }

        #[test]
        fn a_search_ends_whatever_is_answered(newest: u32, answers in prop::collection::vec(0u8..3, 80)) {
            let mut search = Search::below(newest);
            let mut lookups = 0;
            while search.next().is_some() {
                search.saw([Seen::AtOrBefore, Seen::After, Seen::Nothing][usize::from(answers[lookups])]);
                lookups += 1;
                prop_assert!(lookups <= 66);
            }
        }
    }
}
