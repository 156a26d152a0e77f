#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

#[path = "../../../../inference/tests/support/tiny.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the inference room's tests use the rest"
)]
mod tiny;
mod world;

mod guests;
mod live;
mod parts;

use self::world::World;
use super::{OnlyFiles, Outcome};
use crate::config::{EvidenceSource, NodeRole};

/// Names of the checks that came out so.
fn named(world: &World, outcome: Outcome) -> Vec<&'static str> {
    let findings = world.report().findings.into_iter();
    findings
        .filter(|finding| finding.outcome == outcome)
        .map(|finding| finding.check)
        .collect()
}

const NONE: [&str; 0] = [];

#[test]
fn a_healthy_guest_is_ready() {
    let world = World::healthy();
    let report = world.report();
    assert_eq!(named(&world, Outcome::Missing), NONE, "{report:#?}");
    assert_eq!(named(&world, Outcome::Warning), NONE, "{report:#?}");
    assert_eq!(
        named(&world, Outcome::NotApplicable),
        ["nvidia driver", "gpu cc mode"]
    );
    assert!(report.ready);
}

#[test]
fn a_plain_virtual_machine_lacks_all_of_tdx_and_only_that() {
    let world = World::plain_vm();
    assert!(!world.report().ready);
    assert_eq!(
        named(&world, Outcome::Missing),
        [
            "tdx guest",
            "kernel",
            "configfs",
            "tsm reports",
            "tsm provider",
            "quote",
            "rtmr3",
        ]
    );
    assert_eq!(named(&world, Outcome::Warning), ["event log", "collateral"]);
}

#[test]
fn on_a_development_machine_tdx_does_not_matter() {
    let mut world = World::plain_vm();
    world.config.evidence = EvidenceSource::Simulated;
    world.config.policy_path = None;
    let missing = named(&world, Outcome::Missing);
    if crate::build_info::SIMULATED_EVIDENCE {
        assert_eq!(missing, NONE);
        assert!(world.report().ready);
    } else {
        assert_eq!(missing, ["policy"]);
    }
    for check in ["tdx guest", "kernel", "quote", "rtmr3", "collateral"] {
        assert_eq!(world.find(check).outcome, Outcome::NotApplicable, "{check}");
    }
}

#[test]
fn a_client_makes_no_evidence_and_serves_no_model() {
    let mut world = World::plain_vm();
    world.config.role = Some(NodeRole::Client);
    world.config.model_path = None;
    assert_eq!(named(&world, Outcome::Missing), NONE);
    assert_eq!(world.report().role, "client");
}

#[test]
fn a_bootstrap_node_needs_no_chain() {
    let mut world = World::plain_vm();
    world.config.role = Some(NodeRole::Bootstrap);
    world.config.model_path = None;
    world.chain = None;
    assert_eq!(named(&world, Outcome::Missing), NONE);
    assert_eq!(world.find("wallet").outcome, Outcome::NotApplicable);
}

#[test]
fn of_a_copy_of_files_nothing_is_said_that_only_a_running_machine_tells() {
    let mut world = World::healthy();
    world.chain = None;
    let report = world.report_by(&OnlyFiles);
    assert!(report.ready, "{report:#?}");
    for check in [
        "quote",
        "disk",
        "listen address",
        "http address",
        "chain",
        "wallet",
        "clock",
    ] {
        let finding = report.find(check).unwrap();
        assert_eq!(finding.outcome, Outcome::NotApplicable, "{finding:?}");
    }
    // A copy may hold a report that somebody made.
    assert_eq!(
        report.find("tsm provider").unwrap().outcome,
        Outcome::NotApplicable
    );
    world.write("/sys/kernel/config/tsm/report/r/provider", "sev_guest\n");
    let report = world.report_by(&OnlyFiles);
    assert_eq!(
        report.find("tsm provider").unwrap().outcome,
        Outcome::Missing
    );
}

#[test]
fn the_report_is_stable_for_scripts_and_readable_for_people() {
    let world = World::plain_vm();
    let report = world.report();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["evidence"], "tdx");
    let first = &json["findings"][1];
    assert_eq!(first["check"], "tdx guest");
    assert_eq!(first["outcome"], "missing");
    for key in ["looked_at", "found", "why", "next"] {
        assert!(!first[key].as_str().unwrap().is_empty(), "{key}");
    }
    let text = crate::command::doctor::render(&report);
    for part in [
        "MISSING: tdx guest\n  looked at  flags in /proc/cpuinfo\n",
        "mount -t configfs none /sys/kernel/config",
        "NOT READY: worker with TDX evidence",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_files_say_cannot_drive_a_terminal() {
    let world = World::healthy();
    world.write("/proc/sys/kernel/osrelease", "5.0\u{1b}[2J\n");
    let text = crate::command::doctor::render(&world.report());
    assert!(text.contains("5.0") && !text.contains('\u{1b}'), "{text}");
}
