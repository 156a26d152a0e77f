//! `cocoon doctor` as people run it: what it prints, and what it exits with.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn doctor(root: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon"))
        .args(["doctor", "--data-dir", "/data", "--root"])
        .arg(root)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn outcome(report: &Value, check: &str) -> String {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap()["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn an_empty_machine_lacks_everything_and_the_exit_code_says_so() {
    let root = tempfile::tempdir().unwrap();
    let output = doctor(root.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ready"], false);
    assert_eq!(report["role"], "worker");
    for check in ["configuration", "tdx guest", "configfs", "policy", "model"] {
        assert_eq!(outcome(&report, check), "missing", "{check}");
    }
    assert_eq!(outcome(&report, "collateral"), "warning");
    let text = String::from_utf8(doctor(root.path(), &[]).stdout).unwrap();
    assert!(
        text.contains("NOT READY") && text.contains("  next       "),
        "{text}"
    );
}

#[test]
fn files_that_make_a_client_are_ready() {
    let root = tempfile::tempdir().unwrap();
    let zeros = "0".repeat(96);
    let policy = format!(
        "version = 2\n[[images]]\nname = \"one\"\nmrtd = \"{zeros}\"\nrtmr0 = \"{zeros}\"\nrtmr1 = \"{zeros}\"\nrtmr2 = \"{zeros}\"\n"
    );
    std::fs::write(root.path().join("policy.toml"), policy).unwrap();
    let peer = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGJHYbWBQbaqCZDDMHLLAUaMpHF1y5r8rjZ8KZYXSWAQk";
    let settings = [
        "--role",
        "client",
        "--policy-path",
        "/policy.toml",
        "--bootstrap",
        peer,
    ];
    let output = doctor(root.path(), &settings);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nREADY: client with TDX evidence"), "{text}");
}
