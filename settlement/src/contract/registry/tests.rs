//! Changes and rules survive the way into cells and back; strangers' cells do no harm.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, PublicKey32};
use proptest::prelude::*;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};

use super::{Change, Governance, MAX_SIGNERS, decode};
use crate::contract::OpenerNotice;

fn governance() -> impl Strategy<Value = Governance> {
    let keys = proptest::collection::btree_set(any::<[u8; 32]>(), 2..=MAX_SIGNERS);
    (keys, 2..=10_u8, 3600..=7_776_000_u32).prop_filter_map("sound", |(keys, threshold, delay)| {
        let keys: Vec<_> = keys.into_iter().map(PublicKey32::from_bytes).collect();
        Governance::new(threshold, delay, &keys).ok()
    })
}

fn change() -> impl Strategy<Value = Change> {
    let digest = || any::<[u8; 32]>().prop_map(Digest::from_bytes);
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=127));
    prop_oneof![
        (digest(), any::<u64>(), digest()).prop_map(|(origin, size, root)| Change::Log {
            origin,
            head: TreeHead { size, root },
        }),
        (digest(), any::<u8>()).prop_map(|(digest, status)| Change::Model { digest, status }),
        (any::<u32>(), value).prop_map(|(id, value)| {
            let value = value.map(|bytes| {
                let mut cell = CellBuilder::new();
                let bits = u16::try_from(bytes.len() * 8).unwrap();
                cell.store_raw(&bytes, bits).unwrap();
                cell.build().unwrap()
            });
            Change::Parameter { id, value }
        }),
        governance().prop_map(Change::Governance),
    ]
}

proptest! {
    #[test]
    fn a_change_is_read_as_it_was_written(change in change()) {
        prop_assert_eq!(Change::decode(&change.to_cell().unwrap()).unwrap(), change);
    }

    #[test]
    fn a_new_registry_has_the_rules_that_its_address_follows_from(rules in governance()) {
        let data = rules.state_init().unwrap().data.unwrap();
        let (seqno, found, pending, tables) = decode(&data).unwrap();
        prop_assert_eq!((seqno, found), (0, rules));
        prop_assert!(pending.is_empty() && tables == super::Tables::default());
    }
}

#[test]
fn strangers_cells_are_read_or_refused() {
    bolero::check!()
        .with_type::<Vec<u8>>()
        .for_each(|bytes: &Vec<u8>| {
            let _ = OpenerNotice::decode(bytes);
            // Rarely a bag of cells; so the bytes as one cell too, with and without a reference.
            let mut cells: Vec<Cell> = Boc::decode(bytes).into_iter().collect();
            let bits = u16::try_from(bytes.len().min(127) * 8).unwrap();
            for reference in [false, true] {
                let mut cell = CellBuilder::new();
                let stored = cell.store_raw(bytes, bits);
                if reference {
                    cell.store_reference(Cell::default()).unwrap();
                    cell.store_reference(Cell::default()).unwrap();
                }
                if stored.is_ok() {
                    cells.push(cell.build().unwrap());
                }
            }
            for cell in cells {
                let _ = Change::decode(&cell);
                let _ = decode(&cell);
            }
        });
}
