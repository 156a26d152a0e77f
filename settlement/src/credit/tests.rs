#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::testing::{at, peer, ton};

const CONFIG: CreditConfig = CreditConfig {
    per_client: NanoTon::from_nano(30),
    strangers: NanoTon::from_nano(100),
    forget_ms: 1_000,
};

#[test]
fn a_stranger_that_never_pays_gets_the_limit_under_however_many_names() {
    let mut book = CreditBook::new(CONFIG);
    let mut taken = 0;
    for name in 0..200 {
        if book.reserve(at(1), peer(name), ton(10), ton(0)).is_ok() {
            book.settle(at(2), peer(name), ton(10), ton(10), ton(0));
            taken += 10;
        }
    }
    assert_eq!(taken, 100);
    let refused = book.reserve(at(3), peer(201), ton(10), ton(0));
    assert_eq!(
        refused,
        Err(CreditError::Strangers {
            unpaid: ton(110),
            limit: ton(100)
        })
    );
    // Who has paid before is served all the same, also by an earlier process.
    book.reserve(at(3), peer(202), ton(10), ton(10)).unwrap();
    // And after a while strangers are, too.
    book.reserve(at(1_002), peer(203), ton(10), ton(0)).unwrap();
}

#[test]
fn three_windows_above_the_limits_are_given_and_not_a_fourth() {
    let mut book = CreditBook::new(CONFIG);
    for _ in 0..LEAST_WINDOWS {
        book.reserve(at(1), peer(1), ton(500), ton(0)).unwrap();
    }
    for name in [1, 2] {
        let refused = book.reserve(at(1), peer(name), ton(500), ton(0));
        assert!(refused.is_err());
    }
    book.settle(at(1), peer(1), ton(500), ton(400), ton(400));
    book.reserve(at(1), peer(2), ton(500), ton(0)).unwrap();
}

#[test]
fn a_debt_counts_against_its_client_until_it_is_paid() {
    let mut book = CreditBook::new(CONFIG);
    let client = peer(1);
    for _ in 0..2 {
        book.reserve(at(1), client, ton(10), ton(0)).unwrap();
        book.settle(at(1), client, ton(10), ton(10), ton(0));
    }
    book.reserve(at(1), client, ton(10), ton(0)).unwrap();
    let refused = book.reserve(at(1), client, ton(10), ton(0));
    assert_eq!(
        refused,
        Err(CreditError::Client {
            unpaid: ton(40),
            limit: ton(30)
        })
    );
    // The third job pays for itself and for the other two.
    book.settle(at(1), client, ton(10), ton(50), ton(70));
    assert_eq!(book.unpaid(), ton(0));
    book.reserve(at(1), client, ton(30), ton(70)).unwrap();
    assert_eq!((book.unpaid(), book.strangers_unpaid()), (ton(30), ton(0)));
}

#[test]
fn running_jobs_count_as_if_they_were_never_paid() {
    let mut book = CreditBook::new(CONFIG);
    for name in 0..10 {
        book.reserve(at(1), peer(name), ton(10), ton(0)).unwrap();
    }
    assert!(book.reserve(at(1), peer(10), ton(1), ton(0)).is_err());
    book.settle(at(1), peer(3), ton(10), ton(7), ton(7));
    book.reserve(at(1), peer(10), ton(10), ton(0)).unwrap();
}

#[test]
fn doubt_takes_up_to_its_limit_and_ends_with_a_verified_head() {
    let mut doubt = Doubt::new(ton(100));
    doubt.admit(false, ton(60)).unwrap();
    assert_eq!(
        doubt.admit(false, ton(41)),
        Err(DoubtExhausted {
            taken: ton(60),
            limit: ton(100),
            needed: ton(41)
        })
    );
    doubt.admit(false, ton(40)).unwrap();
    doubt.admit(true, ton(1_000)).unwrap();
    assert_eq!(doubt.taken(), ton(0));
    let mut none = Doubt::new(ton(0));
    assert!(none.admit(false, ton(1)).is_err());
    none.admit(true, ton(1)).unwrap();
}

proptest! {
    /// Hostile clients take what they get and pay what they like. What those keep that have paid less than they took is
    /// never more than the limit; nobody else keeps more than it has paid, nor more than one client may.
    #[test]
    fn whatever_clients_do_the_worker_loses_no_more_than_it_allowed(
        jobs in proptest::collection::vec((0_u8..40, 1_u64..30, 0_u64..40, 0_u64..40), 1..300)
    ) {
        let mut book = CreditBook::new(CreditConfig { forget_ms: u64::MAX, ..CONFIG });
        // By client: all that it had, all that it paid, as an outsider counts.
        let mut had: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        for (name, window, pays, served) in jobs {
            let known = had.get(&name).map_or(0, |(_, paid)| *paid);
            if book.reserve(at(1), peer(name), ton(window), ton(known)).is_err() {
                continue;
            }
            // Served never more than a window ahead of what was paid.
            let cost = served.min(pays + window);
            book.settle(at(1), peer(name), ton(window), ton(cost), ton(pays));
            let (cost_all, paid_all) = had.entry(name).or_default();
            *cost_all += cost;
            *paid_all += pays;
            let mut strangers = 0;
            for (cost, paid) in had.values() {
                let loss = cost.saturating_sub(*paid);
                prop_assert!(loss <= CONFIG.per_client.nano().max(LEAST_WINDOWS * 30));
                if loss > *paid {
                    strangers += loss;
                }
            }
            prop_assert!(strangers <= CONFIG.strangers.nano(), "{strangers}");
        }
    }
}
