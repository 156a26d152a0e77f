#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::testing::{address, at, peer, ton};

const CONFIG: FirstContactConfig = FirstContactConfig {
    per_client: NanoTon::from_nano(30),
    total: NanoTon::from_nano(100),
    forget_ms: 1_000,
};

fn contact(channel: u8, client: u8, since: u64) -> FirstContact {
    FirstContact {
        channel: address(channel),
        client: peer(client),
        since: at(since),
    }
}

#[test]
fn a_newcomer_has_its_limit_and_counts_until_its_channel_is_there_however_much_it_signs() {
    let mut book = FirstContactBook::new(CONFIG);
    book.admit(at(1), contact(1, 1, 1), ton(20)).unwrap();
    assert!(book.settle(at(2), &address(1), ton(20), ton(15)));
    assert_eq!((book.outstanding(), book.given()), (ton(15), ton(15)));
    let refused = book.admit(at(3), contact(2, 1, 3), ton(16));
    assert_eq!(
        refused,
        Err(FirstContactError::Client {
            unpaid: ton(31),
            limit: ton(30)
        })
    );
    book.confirm(&address(1));
    assert_eq!((book.outstanding(), book.lost()), (ton(0), ton(0)));
    book.admit(at(3), contact(2, 1, 3), ton(30)).unwrap();
    // It appears while the job runs: what the job costs is paid as ever.
    book.confirm(&address(2));
    assert!(!book.settle(at(4), &address(2), ton(30), ton(30)));
    assert_eq!((book.outstanding(), book.given()), (ton(0), ton(15)));
}

#[test]
fn no_limit_no_credit() {
    for config in [
        FirstContactConfig {
            per_client: ton(0),
            ..CONFIG
        },
        FirstContactConfig {
            total: ton(0),
            ..CONFIG
        },
    ] {
        let mut book = FirstContactBook::new(config);
        let refused = book.admit(at(1), contact(1, 1, 1), ton(0));
        assert_eq!(refused, Err(FirstContactError::Off));
    }
}

#[test]
fn what_never_appears_is_written_off_once_and_gets_no_more() {
    let mut book = FirstContactBook::new(CONFIG);
    book.admit(at(1), contact(1, 1, 1), ton(10)).unwrap();
    // A job that runs is not written off under its feet.
    book.forget(at(5_000));
    assert_eq!(book.outstanding(), ton(10));
    book.settle(at(5_000), &address(1), ton(10), ton(7));
    book.forget(at(5_999));
    assert_eq!((book.outstanding(), book.lost()), (ton(7), ton(0)));
    book.forget(at(6_000));
    assert_eq!((book.outstanding(), book.lost()), (ton(0), ton(7)));
    book.forget(at(9_000));
    assert_eq!(book.lost(), ton(7));
    let refused = book.admit(at(9_000), contact(1, 1, 1), ton(1));
    assert_eq!(refused, Err(FirstContactError::Overdue));
}

#[test]
fn after_a_restart_what_was_signed_counts_on() {
    let mut book = FirstContactBook::new(CONFIG);
    book.resume(at(500), contact(1, 1, 1), ton(25));
    book.resume(at(500), contact(2, 2, 1), ton(0));
    book.resume(at(2_001), contact(3, 3, 1), ton(9));
    assert_eq!(book.outstanding(), ton(25));
    assert_eq!(book.channels().collect::<Vec<_>>(), [address(1)]);
    assert!(book.admit(at(501), contact(1, 1, 1), ton(6)).is_err());
    book.admit(at(501), contact(1, 1, 1), ton(5)).unwrap();
}

#[test]
fn so_many_channels_and_no_more() {
    let mut book = FirstContactBook::new(FirstContactConfig {
        total: ton(u64::MAX),
        ..CONFIG
    });
    let mut contact = contact(1, 1, 1);
    for number in 0..MAX_FIRST_CONTACTS {
        contact.channel.hash[..8].copy_from_slice(&(number as u64).to_be_bytes());
        contact.client = peer(u8::try_from(number % 200).unwrap());
        book.admit(at(1), contact, ton(1)).unwrap();
    }
    book.admit(at(1), contact, ton(1)).unwrap();
    contact.channel = address(77);
    let refused = book.admit(at(1), contact, ton(1));
    assert_eq!(refused, Err(FirstContactError::Full));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Client, channel, worst case, cost as a part of 255.
    Job(u8, u8, u64, u8),
    Confirm(u8),
    Pass(u64),
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..40, 0_u8..60, 0_u64..40, any::<u8>())
            .prop_map(|(client, channel, needed, part)| Step::Job(client, channel, needed, part)),
        1 => (0_u8..60).prop_map(Step::Confirm),
        2 => (0_u64..700).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever strangers do, under however many names and channels, what they had in any stretch of `forget_ms` on
    /// channels that have not appeared is within the limit; and everything given is outstanding, confirmed or lost.
    #[test]
    fn strangers_never_have_more_than_the_limit_unpaid(
        steps in proptest::collection::vec(any_step(), 1..300)
    ) {
        let mut book = FirstContactBook::new(CONFIG);
        let mut now = 1;
        // As the ledger has it: who named the channel, since when, and what was signed there.
        let mut ledger: BTreeMap<u8, (u8, u64, u64)> = BTreeMap::new();
        // As an outsider counts: when, on which channel, how much.
        let mut had: Vec<(u64, u8, u8, u64)> = Vec::new();
        let mut confirmed = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Job(client, channel, needed, part) => {
                    if confirmed.contains(&channel) {
                        continue; // a job like any other
                    }
                    let since = ledger.get(&channel).map_or(now, |known| known.1);
                    let told = contact(channel, client, since);
                    if book.admit(at(now), told, ton(needed)).is_ok() {
                        // All of it signed for, which is worth nothing.
                        let cost = needed * u64::from(part) / 255;
                        prop_assert!(book.settle(at(now), &address(channel), ton(needed), ton(cost)));
                        let entry = ledger.entry(channel).or_insert((client, since, 0));
                        entry.0 = client;
                        entry.2 += cost;
                        had.push((now, client, channel, cost));
                    }
                }
                Step::Confirm(channel) => {
                    confirmed.insert(channel);
                    book.confirm(&address(channel));
                }
                Step::Pass(ms) => now += ms,
                Step::Restart => {
                    book = FirstContactBook::new(CONFIG);
                    for (channel, (client, since, held)) in &ledger {
                        if !confirmed.contains(channel) {
                            book.resume(at(now), contact(*channel, *client, *since), ton(*held));
                        }
                    }
                }
            }
            let recent = had.iter().filter(|(when, _, channel, _)| {
                now - when < CONFIG.forget_ms && !confirmed.contains(channel)
            });
            let all: u64 = recent.map(|(_, _, _, cost)| cost).sum();
            prop_assert!(all <= CONFIG.total.nano(), "{all} in one stretch");
        }
    }
}
