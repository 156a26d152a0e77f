//! Vouchers that are on the disk, beside RocksDB's log alone; and vouchers that were checked.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cocoon_protocol::{Keypair, NanoTon, PeerId, PublicKey32, TonAddress, Voucher};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{
    CheckedVoucher, SCHEMA, WorkerChannel, WorkerLedger, check_voucher,
};
use cocoon_settlement::store::{Column, RocksStore, Store, bare_wal};
use ed25519_dalek::SigningKey;

use super::{SettlementBenchArgs, median, nano, odd};
use crate::command::CommandError;

/// Vouchers that each core checks.
const CHECKS: u64 = 2_000;

/// How the two compare.
pub(super) struct Durable {
    pub(super) ratio: f64,
    pub(super) ours_per_second: f64,
    pub(super) bare_per_second: f64,
    pub(super) per_sync: f64,
}

fn address(thread: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [thread; 32],
    }
}

fn key(thread: u8) -> SigningKey {
    SigningKey::from_bytes(&[thread; 32])
}

fn public(key: &SigningKey) -> PublicKey32 {
    PublicKey32::from_bytes(key.verifying_key().to_bytes())
}

pub(super) fn client() -> PeerId {
    Keypair::generate_ed25519().public().to_peer_id()
}

/// A directory of this process, gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(args: &SettlementBenchArgs, round: u32) -> Result<Self, CommandError> {
        let parent = args.directory.clone().unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("cocoon-bench-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(CommandError::io("cannot make a directory"))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over lies among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn measure(args: &SettlementBenchArgs) -> Result<Durable, CommandError> {
    let threads = usize::from(args.threads);
    let each = usize::try_from(args.vouchers).unwrap_or(usize::MAX);
    let writes = f64::from(args.threads) * f64::from(args.vouchers);
    let (mut ours, mut bare, mut ratios, mut per_sync) = (vec![], vec![], vec![], vec![]);
    for number in 0..args.rounds {
        let scratch = Scratch::new(args, number)?;
        let round = accept(&scratch.0.join("ledger"), args)?;
        let bare_path = scratch.0.join("bare");
        let alone = bare_wal(&bare_path, threads, each, round.value_bytes).map_err(odd)?;
        let (ours_s, bare_s) = (round.took.as_secs_f64(), alone.as_secs_f64());
        ours.push(writes / ours_s);
        bare.push(writes / bare_s);
        ratios.push(bare_s / ours_s);
        per_sync.push(round.per_sync);
    }
    Ok(Durable {
        ratio: median(ratios),
        ours_per_second: median(ours),
        bare_per_second: median(bare),
        per_sync: median(per_sync),
    })
}

struct Round {
    took: Duration,
    value_bytes: usize,
    per_sync: f64,
}

/// Everything that comes before the disk is done before the clock starts.
fn accept(path: &Path, args: &SettlementBenchArgs) -> Result<Round, CommandError> {
    let store = std::sync::Arc::new(RocksStore::open(path, SCHEMA).map_err(odd)?);
    let ledger = WorkerLedger::new(store.clone());
    let client = client();
    let capacity = nano(u64::from(args.vouchers));
    let mut batches = Vec::new();
    for thread in 0..args.threads {
        let key = key(thread);
        let channel = ledger
            .register_channel(address(thread), client, public(&key), NanoTon::ZERO)
            .map_err(odd)?;
        let vouchers: Result<Vec<_>, _> = (1..=u64::from(args.vouchers))
            .map(|total| checked(&channel, &key, total, capacity))
            .collect();
        batches.push(vouchers?);
    }
    let before = store.counts();
    let started = Instant::now();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let ledger = &ledger;
        let threads: Vec<_> = batches
            .iter()
            .map(|vouchers| {
                scope.spawn(move || {
                    vouchers
                        .iter()
                        .try_for_each(|voucher| ledger.accept_voucher(voucher).map(|_| ()))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let took = started.elapsed();
    let after = store.counts();
    for outcome in outcomes {
        outcome
            .map_err(|_| odd("a thread panicked"))?
            .map_err(odd)?;
    }
    let pairs = store
        .scan(Column::new("worker.channels"), &[], &[], 1)
        .map_err(odd)?;
    let commits = count(after.commits.saturating_sub(before.commits));
    let syncs = count(after.syncs.saturating_sub(before.syncs));
    Ok(Round {
        took,
        value_bytes: pairs.first().map_or(0, |(_, value)| value.len()),
        per_sync: commits / syncs,
    })
}

fn count(of: u64) -> f64 {
    f64::from(u32::try_from(of).unwrap_or(u32::MAX))
}

fn checked(
    channel: &WorkerChannel,
    key: &SigningKey,
    total: u64,
    capacity: NanoTon,
) -> Result<CheckedVoucher, CommandError> {
    let voucher = Voucher {
        channel: channel.address,
        cumulative: nano(total),
    };
    check_voucher(&voucher.sign(key, GLOBAL_ID), channel, capacity, GLOBAL_ID).map_err(odd)
}

/// With every core at it: channel, order, cover and signature of a voucher, as a worker checks it.
pub(super) fn verified_per_second() -> Result<f64, CommandError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let key = key(1);
    let store = cocoon_settlement::store::MemoryStore::new(SCHEMA);
    let channel = WorkerLedger::new(store)
        .register_channel(address(1), client(), public(&key), NanoTon::ZERO)
        .map_err(odd)?;
    let vouchers: Vec<_> = (1..=CHECKS)
        .map(|total| {
            let voucher = Voucher {
                channel: channel.address,
                cumulative: nano(total),
            };
            voucher.sign(&key, GLOBAL_ID)
        })
        .collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                for voucher in &vouchers {
                    black_box(check_voucher(voucher, &channel, nano(CHECKS), GLOBAL_ID).is_ok());
                }
            });
        }
    });
    let checks = count(CHECKS) * f64::from(u32::try_from(cores).unwrap_or(1));
    Ok(checks / started.elapsed().as_secs_f64())
}
