//! The tools for people: audits of tampered leaves, checks of damaged disks, repairs, backups, and the way out after an old
//! copy was restored. All on a ledger that two real contracts and a client have filled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cocoon_protocol::{Digest, NanoTon};

use super::check::check;
use super::crash_world::{Life, Medium, Who, World, now};
use super::leaves::{LeavesError, LeavesReader, publish};
use super::testing::{at, ton};
use super::worker_records::Head;
use super::*;
use crate::audit::{AuditError, AuditReport, audit};
use crate::devnet::GLOBAL_ID;
use crate::settler::{LedgerView, Settler, SettlerInput, Standing};
use crate::store::fault::{Fate, Faults};
use crate::store::{MemoryStore, RocksReader, RocksStore, Store, WriteBatch, load};

/// A worker and a client after four jobs on two channels, three batches and everything claimed.
fn story() -> (World, Life) {
    let disk = || Medium::Memory(Arc::new(MemoryStore::new(SCHEMA)));
    let disks = BTreeMap::from([(Who::Worker, disk()), (Who::Client, disk())]);
    let mut world = World::new(disks);
    let calm = || Faults::new(None, Fate::Lost);
    let mut life = Life::new(&world, calm(), calm());
    world.live(&mut life).unwrap();
    (world, life)
}

fn published(world: &World, life: &Life) -> Vec<u8> {
    let mut leaves = Vec::new();
    publish(&life.worker, world.ledger_address(), &mut leaves).unwrap();
    leaves
}

fn audited(world: &World, leaves: &[u8]) -> Result<AuditReport, AuditError> {
    now(audit(&world.chain, world.ledger_address(), leaves, |_| {}))
}

/// The published file, taken apart and put together again with a change.
fn rewritten(leaves: &[u8], change: impl FnOnce(&mut Vec<Leaf>)) -> Vec<u8> {
    let mut reader = LeavesReader::new(leaves).unwrap();
    let mut all = Vec::new();
    while let Some(leaf) = reader.next_leaf().unwrap() {
        all.push(leaf);
    }
    change(&mut all);
    let mut out = leaves[..17 + 33].to_vec();
    let mut tree = cocoon_protocol::merkle::Frontier::new();
    for leaf in &all {
        tree.push(leaf.hash());
        out.push(1);
        out.extend(channel_key(&leaf.channel));
        out.extend(leaf.total.nano().to_be_bytes());
        out.extend(leaf.credited.nano().to_be_bytes());
        out.extend((leaf.bytes.len() as u32).to_be_bytes());
        out.extend(&leaf.bytes);
    }
    out.push(0);
    out.extend((all.len() as u64).to_be_bytes());
    out.extend(tree.root().as_bytes());
    out
}

fn names(report: &AuditReport) -> BTreeSet<&'static str> {
    report.findings.iter().map(|finding| finding.name).collect()
}

#[test]
fn an_audit_finds_what_was_changed_in_the_leaves() {
    let (world, life) = story();
    let leaves = published(&world, &life);
    let honest = audited(&world, &leaves).unwrap();
    assert!(honest.is_clean(), "{:?}", honest.findings);
    assert!(honest.receipts >= 4 && honest.commits >= 2, "{honest:?}");
    assert_eq!(honest.claimed, honest.credited);
    assert_eq!(rewritten(&leaves, |_| {}), leaves);

    type Tamper<'a> = &'a dyn Fn(&mut Vec<Leaf>);
    let cases: [(&str, Tamper<'_>, &[&str]); 5] = [
        (
            "a leaf is left out",
            &|all| drop(all.remove(1)),
            &["leaves_missing", "root"],
        ),
        (
            "the last leaf is left out",
            &|all| drop(all.pop()),
            &["leaves_missing"],
        ),
        ("two leaves change places", &|all| all.swap(0, 1), &["root"]),
        (
            "a receipt's byte",
            &|all| *all[0].bytes.last_mut().unwrap() ^= 1,
            &["leaf", "root"],
        ),
        (
            "a credit is made larger",
            &|all| all[0].credited = all[0].credited.saturating_add(ton(1)),
            &["total"],
        ),
    ];
    for (name, change, wanted) in cases {
        let report = audited(&world, &rewritten(&leaves, change)).unwrap();
        let found = names(&report);
        for wanted in wanted {
            assert!(found.contains(wanted), "{name}: {found:?}");
        }
    }
    // Without money behind it: the channels have paid more than a log that credits less.
    let report = audited(
        &world,
        &rewritten(&leaves, |all| {
            for leaf in all.iter_mut() {
                leaf.total = NanoTon::ZERO;
                leaf.credited = NanoTon::ZERO;
            }
        }),
    );
    assert!(names(&report.unwrap()).contains("overclaimed"));
}

#[test]
fn leaves_that_are_cut_short_or_anothers_are_no_audit() {
    let (world, life) = story();
    let leaves = published(&world, &life);
    for cut in [0, 10, 40, 60, leaves.len() / 2, leaves.len() - 1] {
        assert!(
            matches!(
                audited(&world, &leaves[..cut]),
                Err(AuditError::Leaves(
                    LeavesError::Magic | LeavesError::Damaged(_)
                ))
            ),
            "cut at {cut}"
        );
    }
    let mut wrong_root = leaves.clone();
    *wrong_root.last_mut().unwrap() ^= 1;
    assert!(matches!(
        audited(&world, &wrong_root),
        Err(AuditError::Leaves(LeavesError::End { .. }))
    ));
    let mut anothers = leaves;
    anothers[20] ^= 1;
    assert!(matches!(
        audited(&world, &anothers),
        Err(AuditError::OtherLedger { .. })
    ));
}

#[test]
fn no_bytes_are_too_strange_for_the_reader_of_leaves() {
    bolero::check!()
        .with_type()
        .cloned()
        .for_each(|bytes: Vec<u8>| {
            let mut file = b"cocoon/leaves/v1\n".to_vec();
            file.extend(bytes);
            if let Ok(mut reader) = LeavesReader::new(&file[..]) {
                while let Ok(Some(leaf)) = reader.next_leaf() {
                    let _ = leaf.claim();
                }
            }
        });
}

/// The worker's disk, by itself.
fn disk_of(world: &World, who: Who) -> Arc<MemoryStore> {
    match &world.disks[&who] {
        Medium::Memory(store) => store.clone(),
        Medium::Directory(_) => panic!("stories are in memory"),
    }
}

fn copied(from: &MemoryStore) -> MemoryStore {
    let to = MemoryStore::new(SCHEMA);
    copy(from, &to).unwrap();
    to
}

fn change(store: &MemoryStore, change: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    change(&mut batch);
    store.commit(batch).unwrap();
}

fn found(store: &impl Store) -> BTreeSet<&'static str> {
    let report = check(store, Some(GLOBAL_ID)).unwrap();
    report.findings.iter().map(|finding| finding.name).collect()
}

#[test]
fn a_check_names_each_kind_of_damage() {
    let (world, life) = story();
    drop(life);
    let worker = disk_of(&world, Who::Worker);
    let client = disk_of(&world, Who::Client);
    assert_eq!(found(&worker), BTreeSet::new());
    assert_eq!(found(&client), BTreeSet::new());
    let entry: Entry = load(&worker, &1_u64.to_be_bytes()).unwrap().unwrap();
    let channel: WorkerChannel = load(&worker, &channel_key(&entry.channel))
        .unwrap()
        .unwrap();
    let batch: Batch = load(&worker, &2_u32.to_be_bytes()).unwrap().unwrap();
    let head: Head = load(&worker, &Head::KEY).unwrap().unwrap();

    type Change<'a> = &'a dyn Fn(&mut WriteBatch);
    let cases: [(&str, Change<'_>); 11] = [
        ("damaged_record", &|out| {
            out.put_raw(WORKER_ENTRIES, 1_u64.to_be_bytes().to_vec(), vec![1; 40]);
        }),
        ("log_gap", &|out| {
            out.delete(WORKER_ENTRIES, 1_u64.to_be_bytes().to_vec());
        }),
        ("entry_credit", &|out| {
            out.put(&Entry {
                credited: entry.credited.saturating_add(ton(1)),
                ..entry.clone()
            });
        }),
        ("entry_receipt", &|out| {
            out.put(&Entry {
                content: EntryContent::Receipt(vec![1, 2, 3]),
                ..entry.clone()
            });
        }),
        ("batch_root", &|out| {
            let leaves = (0..batch.jobs()).map(|n| Digest::sha256(&n.to_be_bytes()));
            out.put(&Batch {
                tree: leaves.collect(),
                ..batch.clone()
            });
        }),
        ("batch_gap", &|out| {
            out.delete(WORKER_BATCHES, 1_u32.to_be_bytes().to_vec());
        }),
        ("channel_covered", &|out| {
            out.put(&WorkerChannel {
                covered: None,
                ..channel.clone()
            });
        }),
        ("channel_order", &|out| {
            out.put(&WorkerChannel {
                held: None,
                ..channel.clone()
            });
        }),
        ("channel_claimed", &|out| {
            out.put(&WorkerChannel {
                claimed: ton(1),
                ..channel.clone()
            });
        }),
        ("head_entries", &|out| {
            out.put(&Head {
                entries: head.entries + 1,
                ..head
            });
        }),
        ("open_job_index", &|out| {
            out.delete(JOBS, vec![b'w'; 17]);
            let mut key = vec![b'w'];
            key.extend(entry.job.as_bytes());
            out.delete(JOBS, key.clone());
            out.put(&super::jobs::OpenJob::of(&super::jobs::JobRecord {
                side: Side::Worker,
                job: entry.job,
                peer: channel.client,
                channel: channel.address,
                opened: at(1),
                end: None,
            }));
        }),
    ];
    for (name, damage) in cases {
        let copy = copied(&worker);
        change(&copy, damage);
        let found = found(&copy);
        assert!(found.contains(name), "{name}: {found:?}");
    }
    for (name, column) in [
        ("by_worker_index", CLIENT_BY_WORKER),
        ("by_leaf_index", CLIENT_RECEIPTS_BY_LEAF),
        ("by_age_index", CLIENT_EVIDENCE_BY_AGE),
    ] {
        let copy = copied(&client);
        let (key, _) = copy.scan(column, &[], &[], 1).unwrap().remove(0);
        change(&copy, |out| out.delete(column, key));
        assert!(found(&copy).contains(name), "{name}");
        // Indexes are made anew, and then nothing is wrong.
        let repaired = MemoryStore::new(SCHEMA);
        let report = salvage(&copy, &repaired).unwrap();
        assert_eq!(report.lost, 0, "{name}");
        assert_eq!(found(&repaired), BTreeSet::new(), "{name}");
    }
}

#[test]
fn a_repair_makes_counters_and_indexes_anew_and_never_makes_up_money() {
    let (world, life) = story();
    drop(life);
    let worker = disk_of(&world, Who::Worker);
    // The head is lost altogether.
    let copy = copied(&worker);
    change(&copy, |out| {
        out.put_raw(WORKER_HEAD, b"head".to_vec(), vec![9; 30])
    });
    let repaired = MemoryStore::new(SCHEMA);
    let report = salvage(&copy, &repaired).unwrap();
    assert_eq!((report.lost, report.rewound.len()), (0, 0));
    assert_eq!(found(&repaired), BTreeSet::new());
    assert_eq!(contents(&repaired).unwrap(), contents(&worker).unwrap());
    // An entry inside a batch: said, and not papered over.
    let copy = copied(&worker);
    change(&copy, |out| {
        out.put_raw(WORKER_ENTRIES, 1_u64.to_be_bytes().to_vec(), vec![9; 30]);
    });
    let repaired = MemoryStore::new(SCHEMA);
    let report = salvage(&copy, &repaired).unwrap();
    assert_eq!(report.lost, 1);
    assert_eq!(report.losses[0].column, "worker.entries");
    assert!(found(&repaired).contains("log_gap"));
}

#[test]
fn a_hole_beyond_the_last_batch_rewinds_the_channels_and_their_vouchers_enter_again() {
    let worker = WorkerLedger::new(MemoryStore::new(SCHEMA));
    let key = testing::public(&testing::client_key(1));
    worker
        .register_channel(testing::address(1), testing::peer(1), key, ton(0))
        .unwrap();
    let pay = |ledger: &WorkerLedger<MemoryStore>, n: u64| {
        let known = ledger.channel(&testing::address(1)).unwrap().unwrap();
        let id = testing::job(n);
        ledger
            .open_job(id, testing::peer(1), testing::address(1), at(n))
            .unwrap();
        let total = n * 10;
        let voucher = testing::voucher(1, total);
        let checked = check_voucher(&voucher, &known, ton(1_000), testing::GLOBAL_ID).unwrap();
        ledger.accept_voucher(&checked).unwrap();
        let receipt = testing::receipt(1, id, 10, total);
        ledger
            .close_job(
                &id,
                &cocoon_protocol::Outcome::Completed,
                Some(&receipt),
                at(n),
            )
            .unwrap();
    };
    for n in 1..=2 {
        pay(&worker, n);
    }
    worker.prepare_batch(1, 100, at(5)).unwrap();
    worker.confirm_batch(1, None, at(6)).unwrap();
    for n in 3..=5 {
        pay(&worker, n);
    }
    // Entry 3 of 0..=4 is damaged; 0 and 1 are in the batch.
    change(&worker.store, |out| {
        out.put_raw(WORKER_ENTRIES, 3_u64.to_be_bytes().to_vec(), vec![9; 30]);
    });
    let repaired = MemoryStore::new(SCHEMA);
    let report = salvage(&worker.store, &repaired).unwrap();
    assert_eq!(report.lost, 2, "{:?}", report.losses);
    assert_eq!(report.rewound.len(), 1);
    assert_eq!(
        (report.rewound[0].from, report.rewound[0].to),
        (ton(50), ton(30))
    );
    let after = check(&repaired, Some(testing::GLOBAL_ID)).unwrap();
    let allowed = |finding: &Finding| finding.name == "job_entry";
    assert!(after.findings.iter().all(allowed), "{:?}", after.findings);
    // The voucher for 50 is still held; the next job credits what the lost entries did, and its own.
    let again = WorkerLedger::new(repaired);
    pay(&again, 6);
    let batch = again.prepare_batch(2, 100, at(9)).unwrap();
    assert_eq!(batch.total, ton(60));
    assert_eq!(again.summary().unwrap().credited, ton(60));
}

#[test]
fn a_dump_tells_every_record_and_no_secret() {
    let (world, life) = story();
    drop(life);
    for who in [Who::Worker, Who::Client] {
        let store = disk_of(&world, who);
        let mut lines = String::new();
        for_each_pair(&store, SCHEMA.columns, |column, page| {
            for (key, value) in page {
                let line = describe(column, &key, &value);
                assert!(line.get("error").is_none(), "{line}");
                lines.push_str(&line.to_string());
            }
            Ok(())
        })
        .unwrap();
        // The salt of every receipt in these tests, and the signature of a voucher.
        assert!(!lines.contains(&hex::encode([9; 32])));
        for channel in worker_channels(&disk_of(&world, Who::Worker)).unwrap() {
            let known: WorkerChannel = load(&disk_of(&world, Who::Worker), &channel_key(&channel))
                .unwrap()
                .unwrap();
            assert!(!lines.contains(&hex::encode(known.held.unwrap().signature)));
        }
        assert!(lines.contains("nanoton"));
    }
}

#[test]
fn a_running_nodes_directory_is_read_and_copied_as_one_moment() {
    let (world, life) = story();
    drop(life);
    let dir = tempfile::tempdir().unwrap();
    let running = RocksStore::open(dir.path(), SCHEMA).unwrap();
    copy(&disk_of(&world, Who::Worker), &running).unwrap();
    let wanted = contents(&running).unwrap();
    let reader = RocksReader::open(dir.path(), SCHEMA).unwrap();
    assert_eq!(contents(&reader).unwrap(), wanted);
    // What comes later is not seen, and nothing can be written.
    let mut later = WriteBatch::new();
    later.delete(WORKER_HEAD, b"head".to_vec());
    running.commit(later).unwrap();
    assert_eq!(contents(&reader).unwrap(), wanted);
    assert!(reader.submit(WriteBatch::new()).is_err());
    let backup = tempfile::tempdir().unwrap();
    let to = RocksStore::open(backup.path().join("db"), SCHEMA).unwrap();
    copy(&reader, &to).unwrap();
    assert_eq!(contents(&to).unwrap(), wanted);
    assert_ne!(contents(&running).unwrap().digest, wanted.digest);
}

#[test]
fn a_restored_copy_is_refused_and_serves_again_on_a_new_contract() {
    // A copy is taken after the first job, before the first batch.
    let disk = || Medium::Memory(Arc::new(MemoryStore::new(SCHEMA)));
    let mut world = World::new(BTreeMap::from([
        (Who::Worker, disk()),
        (Who::Client, disk()),
    ]));
    let calm = || Faults::new(None, Fate::Lost);
    let mut life = Life::new(&world, Faults::new(Some(60), Fate::Lost), calm());
    world.live(&mut life).unwrap_err();
    let mut life = life.reboot(&world, Who::Worker, calm());
    let old = copied(&disk_of(&world, Who::Worker));
    world.live(&mut life).unwrap();
    drop(life);
    let earned = contents(&disk_of(&world, Who::Worker)).unwrap();
    assert!(contents(&old).unwrap().confirmed < earned.confirmed);

    // Restored: the first look at the chain ends it.
    let restored = WorkerLedger::new(copied(&old));
    restored.recover(world.now).unwrap();
    let mut settler = Settler::new(world.settler_config(), restored.settler_start().unwrap());
    settler.handle(world.now, SettlerInput::Tick);
    let view: Option<LedgerView> = world.ledger_view();
    let unix = world.unix();
    settler.handle(world.now, SettlerInput::Ledger { unix, view });
    let Standing::Refused(reason) = settler.standing() else {
        panic!("an old copy serves: {:?}", settler.standing());
    };
    assert!(
        reason.to_string().contains("cocoon ledger reconcile"),
        "{reason}"
    );

    // The way out: the same channels, a new log, a new contract.
    let claimed: BTreeMap<_, _> = worker_channels(&old)
        .unwrap()
        .into_iter()
        .map(|channel| (channel, world.claimed(channel)))
        .collect();
    let anew = MemoryStore::new(SCHEMA);
    let report = rebase(&old, &anew, &claimed, world.now).unwrap();
    assert!(
        report.channels >= 1 && report.ahead_channels >= 1,
        "{report:?}"
    );
    assert_eq!(found(&anew), BTreeSet::new());
    world.move_to_new_contract(Medium::Memory(Arc::new(anew)), 204);
    let mut life = Life::new(&world, calm(), calm());
    world.live(&mut life).unwrap();
    // Everything ever signed has been paid, once; the new contract's leaves fit it.
    life.client
        .for_each_channel(|channel| {
            assert_eq!(world.claimed(channel.address), channel.signed_total());
            Ok(())
        })
        .unwrap();
    assert_eq!(world.duplicates, Vec::<String>::new());
    assert!(
        check(&life.worker.store, Some(GLOBAL_ID))
            .unwrap()
            .is_clean()
    );
    let report = audited(&world, &published(&world, &life)).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
