//! The committed code of the contracts is what their sources compile to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use cocoon_settlement::contract;

fn contracts() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts")
}

#[test]
fn the_committed_hashes_are_those_of_the_committed_code() {
    let text = std::fs::read_to_string(contracts().join("code-hashes.json")).unwrap();
    let hashes: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, hash) in [
        ("channel", contract::channel_code_hash()),
        ("ledger", contract::ledger_code_hash()),
        ("opener", contract::opener_code_hash()),
        ("registry", contract::registry_code_hash()),
    ] {
        assert_eq!(hashes[name], hash.unwrap().to_string(), "{name}");
    }
}

/// Needs node and the compiler from npm. Where they are missing and cannot be installed, the test says so and passes,
/// unless COCOON_REQUIRE_NPM=1.
#[test]
fn the_sources_compile_to_the_committed_code() {
    let directory = contracts();
    let skipped = |why: &str| {
        assert!(
            std::env::var("COCOON_REQUIRE_NPM").as_deref() != Ok("1"),
            "COCOON_REQUIRE_NPM=1, but {why}"
        );
        eprintln!("SKIPPED: the contracts were not recompiled: {why}");
    };
    if !directory.join("node_modules/@ton/tolk-js").exists() {
        let installed = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&directory)
            .output();
        match installed {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return skipped(&format!(
                    "npm ci failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
            }
            Err(error) => return skipped(&format!("npm cannot be run: {error}")),
        }
    }
    match Command::new("node")
        .args(["compile.mjs", "--check"])
        .current_dir(&directory)
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => skipped(&format!("node cannot be run: {error}")),
    }
}
