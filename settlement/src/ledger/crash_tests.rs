//! Kill the process at every point there is, reopen the directory, go on: no voucher lost, none claimed twice, the
//! sequence of batches unbroken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cocoon_protocol::{Outcome, TonAddress, UnixMillis};

use super::testing::{
    GLOBAL_ID, MODEL_MIN_CLAIM, ModelChain, address, at, client_key, job, peer, public, receipt,
    ton, voucher,
};
use super::{INTERRUPTED, LedgerError, SCHEMA, Side, WorkerLedger, check_voucher};
use crate::settler::{Settler, SettlerConfig, SettlerInput, SettlerOutput, Standing};
use crate::store::fault::{FaultStore, Faults};
use crate::store::{RocksStore, StoreError};

type Ledger = WorkerLedger<FaultStore<RocksStore>>;

const DEPOSIT: u64 = 10_000;
/// Jobs of the script: the channel, and by how much each of its vouchers raises the total.
const JOBS: [(u8, &[u64]); 4] = [(1, &[40, 30]), (2, &[25]), (1, &[10, 10]), (2, &[50])];
/// After which jobs the worker settles everything.
const SETTLE_AFTER: [usize; 2] = [1, 3];

/// Everything outside the worker's process: it survives every kill.
struct World {
    chain: ModelChain,
    now: UnixMillis,
    /// The last total each client signed, and the last the worker said it has.
    signed: BTreeMap<u8, u64>,
    acknowledged: BTreeMap<u8, u64>,
    /// The script's next job, and the number of jobs ever opened.
    next: usize,
    opened: u64,
}

impl World {
    fn new() -> Self {
        let mut chain = ModelChain::at(1_000);
        chain.open(1, DEPOSIT);
        chain.open(2, DEPOSIT);
        Self {
            chain,
            now: at(1_000_000),
            signed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            next: 0,
            opened: 0,
        }
    }
}

fn config() -> SettlerConfig {
    SettlerConfig {
        // Claims are due as soon as they are covered, so that a new life is tempted to send them again at once.
        claim_fee: ton(1),
        claim_fee_multiple: MODEL_MIN_CLAIM,
        contract_min_claim: ton(MODEL_MIN_CLAIM),
        commit_ttl_s: 20,
        claim_retry_s: 20,
        look_ms: 1,
        idle_look_ms: 1,
        ..SettlerConfig::new(address(200))
    }
}

fn open(dir: &Path, faults: &Arc<Faults>) -> Result<Ledger, StoreError> {
    let store = RocksStore::open(dir, SCHEMA)?;
    Ok(WorkerLedger::new(FaultStore::new(store, faults.clone())))
}

/// One life of the worker: from where its disk and the world are, to the end of the script or to its death.
fn live(world: &mut World, ledger: &Ledger, faults: &Faults) -> Result<(), LedgerError> {
    // The disk first, then the chain: never serve before both agree.
    for closed in ledger.recover(world.now)? {
        assert_eq!(closed.record.end.unwrap().outcome, INTERRUPTED);
    }
    for (seed, total) in &world.acknowledged {
        let held = ledger.channel(&address(*seed))?.unwrap().held_total();
        assert!(
            held >= ton(*total),
            "a voucher that was acknowledged is gone"
        );
    }
    let mut settler = Settler::new(config(), ledger.settler_start()?);
    drive(world, ledger, &mut settler, faults, SettlerInput::Tick)?;
    assert_eq!(settler.standing(), Standing::Sound);

    while world.next < JOBS.len() {
        serve(world, ledger)?;
        let unsettled = ledger.unsettled()?;
        drive(
            world,
            ledger,
            &mut settler,
            faults,
            SettlerInput::Unsettled(unsettled),
        )?;
        if SETTLE_AFTER.contains(&world.next) {
            settle(world, ledger, &mut settler, faults)?;
        }
        world.next += 1;
    }
    settle(world, ledger, &mut settler, faults)
}

/// One job of the script. A client whose worker dies on it takes the rest of its money to the next life.
fn serve(world: &mut World, ledger: &Ledger) -> Result<(), LedgerError> {
    let (seed, raises) = JOBS[world.next];
    let key = public(&client_key(seed));
    ledger.register_channel(address(seed), peer(seed), key, ton(0))?;
    world.opened += 1;
    let id = job(world.opened);
    ledger.open_job(id, peer(seed), address(seed), world.now)?;
    for raise in raises {
        let total = world.signed.entry(seed).or_default();
        // Sent before and never acknowledged: the very same voucher goes out again.
        if *total == world.acknowledged.get(&seed).copied().unwrap_or_default() {
            *total += raise;
        }
        let channel = ledger.channel(&address(seed))?.unwrap();
        let signed = voucher(seed, *total);
        match check_voucher(&signed, &channel, ton(DEPOSIT), GLOBAL_ID) {
            Ok(checked) => {
                ledger.accept_voucher(&checked)?;
            }
            Err(refused) => assert_eq!(channel.held_total(), ton(*total), "{refused}"),
        }
        world.acknowledged.insert(seed, *total);
    }
    let total = world.acknowledged[&seed];
    let receipt = receipt(seed, id, raises.iter().sum(), total);
    ledger.close_job(&id, &Outcome::Completed, Some(&receipt), world.now)?;
    Ok(())
}

fn settle(
    world: &mut World,
    ledger: &Ledger,
    settler: &mut Settler,
    faults: &Faults,
) -> Result<(), LedgerError> {
    drive(world, ledger, settler, faults, SettlerInput::Flush)?;
    for _ in 0..200 {
        if settler.is_settled() {
            return Ok(());
        }
        world.now = world.now.saturating_add(5_000);
        world.chain.block(5);
        drive(world, ledger, settler, faults, SettlerInput::Tick)?;
    }
    panic!("not settled after 200 blocks: {settler:?}");
}

/// The driver every actor will have, against the model chain.
fn drive(
    world: &mut World,
    ledger: &Ledger,
    settler: &mut Settler,
    faults: &Faults,
    input: SettlerInput,
) -> Result<(), LedgerError> {
    let mut inputs = VecDeque::from([input]);
    while let Some(input) = inputs.pop_front() {
        for output in settler.handle(world.now, input) {
            if let Some(answer) = ledger.perform(world.now, &output, 100)? {
                inputs.push_back(answer);
                continue;
            }
            let unix = world.chain.unix;
            match output {
                SettlerOutput::SubmitCommit(commit) => {
                    faults.point()?;
                    let result = world.chain.send_commit(&commit);
                    faults.point()?;
                    inputs.push_back(SettlerInput::CommitSent {
                        seqno: commit.seqno,
                        result,
                    });
                }
                SettlerOutput::SubmitClaim { channel, voucher } => {
                    faults.point()?;
                    let result = world.chain.send_claim(&voucher);
                    faults.point()?;
                    inputs.push_back(SettlerInput::ClaimSent {
                        channel,
                        cumulative: voucher.voucher.cumulative,
                        result,
                    });
                }
                SettlerOutput::LookAtLedger => inputs.push_back(SettlerInput::Ledger {
                    unix,
                    view: world.chain.ledger_view(),
                }),
                SettlerOutput::LookAtChannel(channel) => {
                    inputs.push_back(SettlerInput::Channel {
                        unix,
                        channel,
                        view: world.chain.channel_view(&channel),
                    });
                }
                SettlerOutput::DeployLedger => {
                    faults.point()?;
                    world.chain.deploy_ledger();
                    faults.point()?;
                }
                SettlerOutput::RolledBack(reason) => panic!("{reason}"),
                SettlerOutput::Problem(problem) => panic!("{problem}"),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A directory with an empty ledger, made once and copied: making the columns is most of the time of a life.
fn fresh_directory() -> tempfile::TempDir {
    static EMPTY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksStore::open(dir.path(), SCHEMA).unwrap());
        dir
    });
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(EMPTY.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    dir
}

/// Lives through the given deaths, then once more to the end, checks everything, and says how often it really died.
fn live_through(kills: &[u32]) -> usize {
    let dir = fresh_directory();
    let mut world = World::new();
    let mut deaths = 0;
    for kill in kills {
        let faults = Faults::new(Some(*kill));
        let ledger = open(dir.path(), &faults).unwrap();
        match live(&mut world, &ledger, &faults) {
            Ok(()) => {}
            Err(LedgerError::Store(StoreError::Killed { .. })) => deaths += 1,
            Err(error) => panic!("killed at {kills:?}: {error}"),
        }
        drop(ledger);
        // By the time a new process is up, what the old one sent may have been applied, or still be on its way.
        if kill % 3 == 0 {
            world.now = world.now.saturating_add(2_000);
            world.chain.block(2);
        }
    }
    let faults = Faults::new(None);
    let ledger = open(dir.path(), &faults).unwrap();
    live(&mut world, &ledger, &faults).unwrap_or_else(|error| panic!("after {kills:?}: {error}"));
    check_everything(&world, &ledger, kills);
    deaths
}

fn check_everything(world: &World, ledger: &Ledger, kills: &[u32]) {
    let chain = &world.chain;
    // No voucher lost: every total a worker ever acknowledged has been paid out, and not a nanoTON more.
    let claimed = |channel: &TonAddress| chain.channels[channel].claimed;
    for (seed, total) in &world.acknowledged {
        assert_eq!(
            claimed(&address(*seed)),
            *total,
            "channel {seed}, killed at {kills:?}"
        );
    }
    // None claimed twice, nothing committed twice: not even an attempt reached the chain.
    assert_eq!(
        chain.duplicates,
        Vec::<String>::new(),
        "killed at {kills:?}"
    );
    // The sequence of batches is unbroken, totals only rise, and the last total is what was paid.
    let seqnos: Vec<u32> = chain.commits.iter().map(|commit| commit.seqno).collect();
    let wanted: Vec<u32> = (1..).take(seqnos.len()).collect();
    assert_eq!(seqnos, wanted, "killed at {kills:?}");
    let last = chain.commits.last().unwrap();
    assert_eq!(last.total.nano(), chain.paid_total(), "killed at {kills:?}");
    // The ledger agrees with the chain, and every entry has its proof.
    let summary = ledger.summary().unwrap();
    assert_eq!(summary.claimed.nano(), chain.paid_total());
    assert_eq!(summary.unclaimed, ton(0));
    assert_eq!((summary.open_jobs, summary.unsettled_entries), (0, 0));
    assert_eq!(summary.entries, last.jobs);
    for index in 0..summary.entries {
        let proven = ledger.prove_entry(index).unwrap();
        assert!(
            proven
                .proof
                .leads(proven.entry.leaf_hash(), proven.batch.root())
        );
    }
    // Every job ended exactly once.
    for n in 1..=world.opened {
        if let Some(record) = ledger.job(&job(n)).unwrap() {
            assert_eq!(record.side, Side::Worker);
            assert!(record.end.is_some(), "job {n}");
        }
    }
}

#[test]
fn a_worker_killed_at_any_point_loses_no_voucher_and_claims_none_twice() {
    let mut points = 0;
    while live_through(&[points + 1]) == 1 {
        points += 1;
    }
    println!("killed at each of {points} points");
    assert!(points > 60, "only {points} points: the script has shrunk");
}

#[test]
fn a_worker_killed_again_while_it_recovers_is_no_worse_off() {
    let mut twice = 0;
    for first in (1..74).step_by(9) {
        // The steps differ, so that recovering is cut at ever other places.
        let second = 1 + first % 16;
        twice += usize::from(live_through(&[first, second, second + 2]) >= 2);
    }
    println!("killed again while recovering in {twice} ways");
    assert!(twice >= 8, "only {twice} second deaths");
}

/// The same with a real death: the child process aborts at the point, nothing is closed or flushed.
#[test]
fn a_voucher_accepted_before_an_abort_is_there_afterwards() {
    const DIR: &str = "COCOON_TEST_ABORT_DIR";
    if let Ok(dir) = std::env::var(DIR) {
        let ledger = WorkerLedger::new(RocksStore::open(dir, SCHEMA).unwrap());
        let key = public(&client_key(1));
        let mut channel = ledger
            .register_channel(address(1), peer(1), key, ton(0))
            .unwrap();
        ledger.open_job(job(1), peer(1), address(1), at(1)).unwrap();
        for total in 1..=50 {
            let checked =
                check_voucher(&voucher(1, total), &channel, ton(DEPOSIT), GLOBAL_ID).unwrap();
            channel = ledger.accept_voucher(&checked).unwrap();
        }
        std::process::abort();
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ledger::crash_tests::a_voucher_accepted_before_an_abort_is_there_afterwards",
        ])
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        status.code(),
        None,
        "the child should have been killed by its abort"
    );
    let ledger = WorkerLedger::new(RocksStore::open(dir.path(), SCHEMA).unwrap());
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    assert_eq!(channel.held_total(), ton(50));
    let recovered = ledger.recover(at(2)).unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].entry.as_ref().unwrap().credited, ton(50));
    assert!(ledger.recover(at(3)).unwrap().is_empty());
}
