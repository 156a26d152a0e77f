//! Who runs on which machine: each hour, so many worker identities per platform and one per GPU.
//!
//! Whoever extracts one platform's key can make any number of workers of it ("TEE.fail"). What is
//! left is that all of them show the same platform id, which its PCK certificate fixes: the census
//! counts them, and one key is worth as many identities as one machine.
//!
//! An identity is a peer id and an hour ([`Claims::epoch`]). A worker that restarts with the peer id
//! on its disk, or renews its keys, is the same identity. One that comes back under a new peer id
//! has to wait for the next hour, unless the policy's `workers_per_platform` leaves room.
//!
//! Only what was authenticated is counted: [`Census::record`] is called with accepted verdicts.
//!
//! [`Claims::epoch`]: cocoon_protocol::evidence::Claims::epoch

use std::collections::{BTreeMap, BTreeSet};

use cocoon_protocol::ids::PeerId;

/// Most pieces of hardware remembered, over all hours that still count.
pub const MAX_COUNTED: usize = 32_768;

/// What may not be shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hardware {
    /// A machine, by the hexadecimal PPID of its PCK certificate.
    Platform(String),
    /// A GPU, by the hexadecimal SHA-256 of the key of its boot ROM.
    Gpu(String),
}

/// Why an identity has no place on a piece of hardware.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Others are there.
    #[error("{taken} of {places} places are taken in this hour")]
    Taken {
        /// How many identities are there.
        taken: usize,
        /// How many there may be.
        places: usize,
        /// One of them.
        by: PeerId,
    },
    /// No more hardware can be remembered, so nobody new can be told apart.
    #[error("{MAX_COUNTED} pieces of hardware are known already, and no more can be remembered")]
    Full,
}

/// See the module's doc.
#[derive(Clone, Debug, Default)]
pub struct Census {
    seen: BTreeMap<(u64, Hardware), BTreeSet<PeerId>>,
}

impl Census {
    /// Nobody was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `peer` has, or could have, one of `places` on `hardware` in the hour `epoch`; gives
    /// how many others are there.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn place(
        &self,
        epoch: u64,
        hardware: &Hardware,
        peer: &PeerId,
        places: usize,
    ) -> Result<usize, NoPlace> {
        let Some(there) = self.seen.get(&(epoch, hardware.clone())) else {
            return if self.seen.len() < MAX_COUNTED {
                Ok(0)
            } else {
                Err(NoPlace::Full)
            };
        };
        if there.contains(peer) {
            return Ok(there.len().saturating_sub(1));
        }
        match there.first() {
            Some(by) if there.len() >= places => Err(NoPlace::Taken {
                taken: there.len(),
                places,
                by: *by,
            }),
            _ => Ok(there.len()),
        }
    }

    /// `peer` was accepted on `hardware` in the hour `epoch`. Somebody without a place is not
    /// counted, so that no list grows beyond `places`.
    pub fn record(&mut self, epoch: u64, hardware: Hardware, peer: PeerId, places: usize) {
        if self.place(epoch, &hardware, &peer, places).is_ok() {
            self.seen.entry((epoch, hardware)).or_default().insert(peer);
        }
    }

    /// Forgets the hours before `first`, whose evidence nobody takes any more.
    pub fn forget_before(&mut self, first: u64) {
        self.seen.retain(|(epoch, _), _| *epoch >= first);
    }

    /// How many pieces of hardware are remembered, each once an hour.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
    use cocoon_protocol::ids::Keypair;
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> PeerId {
        Keypair::ed25519_from_bytes([number; 32])
            .unwrap()
            .public()
            .to_peer_id()
    }

    fn machine(name: &str) -> Hardware {
        Hardware::Platform(name.to_owned())
    }

    #[test]
    fn a_restarted_worker_keeps_its_place_and_a_second_one_finds_none_until_the_next_hour() {
        let mut census = Census::new();
        census.record(10, machine("m"), peer(1), 1);
        assert_eq!(census.place(10, &machine("m"), &peer(1), 1), Ok(0));
        let by = peer(1);
        let (taken, places) = (1, 1);
        assert_eq!(
            census.place(10, &machine("m"), &peer(2), 1),
            Err(NoPlace::Taken { taken, places, by })
        );
        assert_eq!(census.place(11, &machine("m"), &peer(2), 1), Ok(0));
        assert_eq!(census.place(10, &machine("n"), &peer(2), 1), Ok(0));
        assert_eq!(
            census.place(10, &Hardware::Gpu("m".to_owned()), &peer(2), 1),
            Ok(0)
        );
    }

    #[test]
    fn hours_that_are_over_are_forgotten() {
        let mut census = Census::new();
        census.record(10, machine("m"), peer(1), 1);
        census.forget_before(10);
        assert_eq!(census.len(), 1);
        census.forget_before(11);
        assert!(census.is_empty());
    }

    #[test]
    fn a_full_census_turns_new_machines_away_and_knows_the_old_ones() {
        let mut census = Census::new();
        for number in 0..MAX_COUNTED {
            census.record(1, machine(&number.to_string()), peer(1), 1);
        }
        let one_more = machine("one more");
        assert_eq!(census.place(1, &one_more, &peer(1), 1), Err(NoPlace::Full));
        census.record(1, one_more, peer(1), 1);
        assert_eq!(census.len(), MAX_COUNTED);
        assert_eq!(census.place(1, &machine("7"), &peer(1), 1), Ok(0));
    }

    proptest! {
        #[test]
        fn no_machine_ever_holds_more_identities_than_places(
            places in 1..4_usize,
            steps in prop::collection::vec((0..3_u64, 0..3_u8, 0..6_usize), 1..100),
        ) {
            let peers: Vec<_> = (0..6).map(peer).collect();
            let mut census = Census::new();
            let mut model: BTreeMap<(u64, u8), BTreeSet<PeerId>> = BTreeMap::new();
            for (epoch, number, who) in steps {
                let hardware = machine(&number.to_string());
                let who = peers.get(who).copied().unwrap();
                let there = model.entry((epoch, number)).or_default();
                let may = there.contains(&who) || there.len() < places;
                prop_assert_eq!(census.place(epoch, &hardware, &who, places).is_ok(), may);
                census.record(epoch, hardware, who, places);
                if may {
                    there.insert(who);
                }
                prop_assert!(there.len() <= places);
            }
        }
    }
}
