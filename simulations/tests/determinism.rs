//! The same scenario and seed give the same history bit for bit.
#![allow(clippy::unwrap_used)]

use cocoon_simulations::{Scenario, run};

fn rough() -> Scenario {
    let mut scenario = Scenario::from_toml(include_str!("../scenarios/rough.toml")).unwrap();
    scenario.duration_ms = 60_000;
    scenario.workers.count = 5;
    scenario.clients.count = 6;
    scenario.clients.job_interval_ms = 15_000;
    scenario.workers.advert_interval_ms = 15_000;
    scenario.workers.advert_lifetime_ms = 60_000;
    scenario
}

#[test]
fn the_same_seed_gives_the_same_history_and_the_same_report() {
    let scenario = rough();
    let (first, second) = (run(&scenario, 42), run(&scenario, 42));
    assert_eq!(first.trace, second.trace);
    assert_eq!(first, second);
    assert!(first.events > 1_000, "a run that does something");
}

#[test]
fn another_seed_or_another_scenario_gives_another_history() {
    let scenario = rough();
    let base = run(&scenario, 42).trace;
    assert_ne!(base, run(&scenario, 43).trace);
    let mut slower = scenario;
    slower.link.jitter_ms = slower.link.jitter_ms.saturating_add(1);
    assert_ne!(base, run(&slower, 42).trace);
}
