//! The same transactions in TON's official executor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use super::machine::{Case, Machine};

// Where tycho-executor 0.3.7, which the devnet runs on, and the official executor differ. Everything else must be equal.
//
// - Accounts of more than 26 cells have another hash: the C++ code keeps a dictionary of them (`storage_extra`).
// - A transaction that takes a StateInit has other flags `msg_state_used` and `account_activated`, and one whose bounce
//   cannot be paid another `req_fwd_fees`. The accounts that they leave are equal.
// - A transaction that fails while its actions are done pays more: tycho charges the forwarding fees of messages that
//   were never sent.
// - INMSG_STATEINIT is always null for external messages: the contracts' protection against needless cells is seen by
//   the official executor alone.

/// Up to here accounts have the same hash.
const MAX_COMPARABLE_CELLS: usize = 26;
/// Cases that only the official executor refuses, with this exit code.
const BAGGAGE: (&str, i32) = (", baggage |", 117);
/// Cases that fail while their actions are done.
const UNPAID: &str = "| unpaid list |";

/// What the official executor says about a case.
#[derive(Debug, Deserialize)]
struct Official {
    gas: Option<u64>,
    exit: Option<i32>,
    fees: Option<String>,
    transaction: Option<String>,
    account: Option<String>,
}

fn contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts")
}

/// Needs node, and the executor from npm. Where they are missing, the test says so and passes, unless
/// COCOON_REQUIRE_NPM=1.
#[test]
fn the_official_executor_comes_to_the_same() {
    let skipped = |why: &str| {
        assert!(
            std::env::var("COCOON_REQUIRE_NPM").as_deref() != Ok("1"),
            "COCOON_REQUIRE_NPM=1, but {why}"
        );
        eprintln!("SKIPPED: nothing was compared with the official executor: {why}");
    };
    if !contracts().join("node_modules/@ton/sandbox").exists() {
        return skipped(
            "contracts/node_modules is absent; `npm ci --prefix settlement/contracts` makes it",
        );
    }
    let (_, mut cases) = super::everything(&mut BTreeMap::new());
    // Scenes are prepared again and again.
    let mut seen = std::collections::BTreeSet::new();
    cases.retain(|case| seen.insert((case.account.clone(), case.message.clone(), case.now)));
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (
        directory.path().join("cases"),
        directory.path().join("results"),
    );
    let text = json!({"config": &*Machine::new().config_boc, "cases": cases}).to_string();
    std::fs::write(&input, text).unwrap();
    let ran = Command::new("node")
        .arg("golden.mjs")
        .args([&input, &output])
        .current_dir(contracts())
        .output();
    match ran {
        Err(error) => return skipped(&format!("node cannot be run: {error}")),
        Ok(ran) => assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        ),
    }
    let results: Vec<Official> =
        serde_json::from_str(&std::fs::read_to_string(&output).unwrap()).unwrap();
    assert_eq!(cases.len(), results.len());
    let mut differences = Vec::new();
    let mut hashes = 0;
    for (case, official) in cases.iter().zip(&results) {
        let comparable = case.cells <= MAX_COMPARABLE_CELLS;
        hashes += usize::from(case.accepted && comparable && !case.written_otherwise);
        differences.extend(compare(case, official, comparable));
    }
    println!(
        "{} transactions compared with the official executor, {hashes} of them by their hashes",
        cases.len()
    );
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(hashes > 100, "the small accounts are compared by hash");
}

fn compare(case: &Case, official: &Official, by_hash: bool) -> Option<String> {
    let differs = |ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
        Some(format!("{}: {ours:?}, officially {theirs:?}", case.name))
    };
    if case.name.contains(BAGGAGE.0) {
        let refused = (official.exit, official.gas) == (Some(BAGGAGE.1), None);
        // Where the account cannot take the message in, no code runs to look at it.
        return (!refused && case.exit.is_some())
            .then(|| differs(&"refused", official))
            .flatten();
    }
    let ours = (case.exit, case.accepted.then_some(case.gas));
    let theirs = (official.exit, official.gas);
    if ours != theirs {
        return differs(&ours, &theirs);
    }
    if !case.accepted || (case.name.contains(UNPAID) && case.exit == Some(0)) {
        return None;
    }
    let (ours, theirs) = (Some(case.fees.to_string()), official.fees.clone());
    if ours != theirs {
        return differs(&ours, &theirs);
    }
    if !by_hash {
        return None;
    }
    let (ours, theirs) = (Some(&case.new_account), official.account.as_ref());
    if ours != theirs {
        return differs(&ours, &theirs);
    }
    let (ours, theirs) = (Some(&case.transaction), official.transaction.as_ref());
    if ours != theirs && !case.written_otherwise {
        return differs(&ours, &theirs);
    }
    None
}
