//! Three workers, two clients and a chain as processes, under a seeded storm of SIGKILLs and crash points, with load all the
//! while; afterwards every nanoTON is where it belongs.
//!
//! Runs for half a minute; `COCOON_STORM_SECONDS=600` (`make storm`) for ten, `COCOON_STORM_SEED` chooses another storm.
//! The seed fixes who is killed, how and after what pause; when exactly that hits a process is up to the machine. The same
//! in virtual time, repeatable to the last bit: `settlement/tests/storm.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "storm/load.rs"]
mod load;
#[path = "storm/mesh.rs"]
mod mesh;
#[path = "../../settlement/tests/storm/sums.rs"]
mod sums;

use std::time::{Duration, Instant};

use cocoon_tests::program;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::load::Load;
use self::mesh::{Mesh, Victim};

const SECONDS: u64 = 30;
/// Milliseconds between two deaths.
const QUIET_MS: std::ops::Range<u64> = 800..4_000;
/// Milliseconds until a dead process is started again.
const ABSENCE_MS: std::ops::Range<u64> = 100..2_500;

fn chosen(name: &str, or: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(or)
}

#[tokio::test]
async fn sums_are_exact_after_a_storm_of_real_kills() {
    if !program::has_failpoints() {
        return;
    }
    let Some(model) = program::model() else {
        return;
    };
    let seed = chosen("COCOON_STORM_SEED", 7);
    let seconds = chosen("COCOON_STORM_SECONDS", SECONDS);
    let mut chance = StdRng::seed_from_u64(seed);
    let mut mesh = Mesh::start(&model).await;
    let load = Load::start(&mesh.urls());
    let started = Instant::now();
    let mut deaths = [0_u32; Victim::COUNT];
    while started.elapsed() < Duration::from_secs(seconds) {
        pause(&mut chance, QUIET_MS).await;
        let victim = mesh.choose(&mut chance);
        deaths[victim.index()] += 1;
        mesh.kill(victim);
        pause(&mut chance, ABSENCE_MS).await;
        // A worker may come back with a crash point armed: it then dies where it hurts most.
        let armed = victim.crash_point(&mut chance);
        mesh.start_again(victim, armed.as_deref()).await;
        load.moved(&mesh.urls());
        // Whoever has reached a crash point since is started again without one.
        for fallen in mesh.fallen() {
            deaths[fallen.index()] += 1;
            mesh.start_again(fallen, None).await;
        }
    }
    let tally = load.stop().await;
    println!(
        "seed {seed}, {seconds} s: deaths of worker 1-3, client 1-2, chain: {deaths:?}\n{tally:#?}"
    );
    assert!(deaths.iter().sum::<u32>() > 5, "a storm");
    assert!(tally.answered > 0, "work was done");
    let sums = mesh.settle_and_add_up().await;
    println!("{sums:#?}");
    assert!(sums.claimed > 0, "money moved");
}

/// The storm's own rhythm; nothing waits for anything here.
async fn pause(chance: &mut StdRng, range: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(chance.random_range(range))).await;
}
