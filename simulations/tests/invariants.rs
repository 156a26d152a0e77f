//! What must hold in every history.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use cocoon_protocol::NanoTon;
use cocoon_simulations::{Report, Scenario, run};
use proptest::prelude::*;

fn scenario(text: &str) -> Scenario {
    let mut scenario = Scenario::from_toml(text).unwrap();
    scenario.duration_ms = 60_000;
    scenario.workers.count = 5;
    scenario.clients.count = 6;
    scenario.clients.job_interval_ms = 15_000;
    // Signatures are what takes the time in a build without optimisation.
    scenario.workers.advert_interval_ms = 15_000;
    scenario.workers.advert_lifetime_ms = 60_000;
    scenario
}

fn calm() -> Scenario {
    scenario(include_str!("../scenarios/calm.toml"))
}

fn rough() -> Scenario {
    scenario(include_str!("../scenarios/rough.toml"))
}

fn crowd() -> Scenario {
    let mut crowd = scenario(include_str!("../scenarios/crowd.toml"));
    crowd.workers.count = 2;
    crowd.clients.count = 20;
    crowd.clients.job_interval_ms = 10_000;
    crowd
}

/// The sums that hold whatever went wrong.
fn check(report: &Report) {
    assert_eq!(report.violations, []);
    let (jobs, leases, money) = (&report.jobs, &report.leases, &report.money);
    assert_eq!(
        jobs.client_outcomes.values().sum::<u64>(),
        jobs.wanted,
        "one end per job"
    );
    assert_eq!(
        jobs.worker_outcomes.values().sum::<u64>(),
        leases.granted,
        "one end per lease"
    );
    assert_eq!(leases.granted, leases.released + leases.died);
    assert_eq!(leases.left, 0);
    assert_eq!(
        money.signed,
        money.held.checked_add(money.undelivered).unwrap()
    );
    assert!(
        money.signed <= money.received_cost,
        "nobody pays for what did not arrive"
    );
    assert!(money.received_cost <= money.sent_cost);
    assert!(
        money.max_exposure <= money.largest_window,
        "at most one window at risk"
    );
}

#[test]
fn in_calm_weather_every_job_completes_and_both_ends_agree_to_the_last_nanoton() {
    let mut jobs = 0;
    for seed in 0..4 {
        let report = run(&calm(), seed);
        check(&report);
        let money = &report.money;
        assert_eq!(money.signed, money.held, "seed {seed}");
        assert_eq!(money.signed, money.received_cost, "seed {seed}");
        assert_eq!(money.signed, money.sent_cost, "seed {seed}");
        assert_eq!(report.leases.died, 0);
        for label in report.jobs.client_outcomes.keys() {
            assert!(
                ["completed", "unplaced"].contains(&label.as_str()),
                "{label}"
            );
        }
        jobs += report.jobs.client_outcomes.get("completed").unwrap_or(&0);
    }
    assert!(jobs > 50, "only {jobs} jobs completed");
}

#[test]
fn a_bad_day_loses_no_voucher_that_is_not_accounted_for() {
    let mut seen = std::collections::BTreeSet::new();
    let mut undelivered = NanoTon::ZERO;
    for seed in 0..12 {
        let report = run(&rough(), seed);
        check(&report);
        undelivered = undelivered.checked_add(report.money.undelivered).unwrap();
        seen.extend(
            report
                .jobs
                .client_outcomes
                .into_keys()
                .map(|label| ("client", label)),
        );
        seen.extend(
            report
                .jobs
                .worker_outcomes
                .into_keys()
                .map(|label| ("worker", label)),
        );
        seen.extend(
            report
                .leases
                .redeem_failed
                .into_keys()
                .map(|label| ("redeem", label)),
        );
    }
    // The day was bad enough to show all of it.
    for wanted in [
        ("client", "completed"),
        ("client", "worker_lost"),
        ("client", "process_stopped"),
        ("worker", "client_lost"),
        ("worker", "payment_stalled"),
        ("worker", "process_stopped"),
        ("redeem", "already_redeemed"),
    ] {
        assert!(
            seen.contains(&(wanted.0, wanted.1.to_owned())),
            "{wanted:?} never happened: {seen:?}"
        );
    }
    assert!(
        undelivered > NanoTon::ZERO,
        "no voucher was ever in flight when a process died"
    );
}

#[test]
fn a_crowd_finds_full_workers_and_no_slot_is_leased_twice() {
    let mut refused = 0;
    for seed in 0..3 {
        let report = run(&crowd(), seed);
        check(&report);
        refused += report.leases.refused.get("no_free_slot").unwrap_or(&0);
    }
    assert!(refused > 100, "only {refused} refusals: no crowd");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn everything_holds_on_networks_of_any_shape(
        seed in any::<u64>(),
        (workers, clients) in (1u64..6, 1u64..6),
        loss_permille in 0u64..400,
        (latency, jitter_ms) in (0u64..800, 0u64..200),
        (worker_stops, client_stops, no_pay) in (0u64..300, 0u64..300, 0u64..300),
        job_sent_twice_permille in 0u64..1000,
        credit_window_tokens in 1u64..200,
    ) {
        let mut scenario = rough();
        scenario.duration_ms = 30_000;
        scenario.workers.count = workers;
        scenario.workers.credit_window_tokens = credit_window_tokens;
        scenario.clients.count = clients;
        scenario.clients.job_interval_ms = 8_000;
        scenario.link.loss_permille = loss_permille;
        scenario.link.latency_ms = [latency / 2, latency];
        scenario.link.jitter_ms = jitter_ms;
        scenario.faults.worker_stops_permille = worker_stops;
        scenario.faults.client_stops_permille = client_stops;
        scenario.faults.client_stops_paying_permille = no_pay;
        scenario.faults.job_sent_twice_permille = job_sent_twice_permille;
        check(&run(&scenario, seed));
    }
}
