//! `cocoon model` as people run it: what it prints, and what it exits with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "../../inference/tests/support/tiny.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the inference room's tests use the rest"
)]
mod tiny;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A store of its own and a model beside it.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("Tiny.Q4.gguf"),
            tiny::model().bytes().0,
        )
        .unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("Tiny.Q4.gguf")
    }

    fn stored(&self) -> PathBuf {
        self.directory.path().join("models/Tiny.Q4.gguf")
    }

    fn cocoon(&self, line: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .arg("model")
            .args(line)
            .env("COCOON_MODELS", self.directory.path().join("models"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command prints that does what it was asked.
    fn prints(&self, line: &[&str]) -> String {
        let output = self.cocoon(line);
        assert!(output.status.success(), "{line:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that does not.
    fn complains(&self, line: &[&str]) -> String {
        let output = self.cocoon(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.prints(line)).unwrap()
    }

    fn pull(&self) -> String {
        self.prints(&["pull", self.file().to_str().unwrap()])
    }
}

#[test]
fn a_model_is_pulled_listed_shown_verified_and_removed() {
    let world = World::new();
    assert!(
        world
            .prints(&["list"])
            .contains("`cocoon model pull` fetches a small one")
    );
    assert!(world.pull().starts_with("ready: Tiny.Q4\n"));
    assert!(world.pull().starts_with("already there: Tiny.Q4\n"));

    let listed = world.json(&["list", "--json"]);
    let digest = listed[0]["record"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["name"], "Tiny.Q4");
    assert_eq!(listed[0]["path"], world.stored().to_str().unwrap());
    assert_eq!(digest.len(), 64);
    let table = world.prints(&["list"]);
    assert!(
        table.contains("Tiny.Q4") && table.contains(&digest[..12]),
        "{table}"
    );

    let shown = world.json(&["show", "Tiny.Q4", "--memory", "1GiB", "--json"]);
    assert_eq!(shown["architecture"], "LlamaForCausalLM");
    assert_eq!(shown["digest"], digest);
    assert_eq!(shown["context_tokens"], tiny::CONTEXT);
    let (weights, cache) = (&shown["weights_bytes"], &shown["cache_bytes_per_token"]);
    let fits =
        ((1u64 << 30) / 100 * 90).abs_diff(weights.as_u64().unwrap()) / cache.as_u64().unwrap();
    assert!(shown["tokens_in_memory"].as_u64().unwrap().abs_diff(fits) < 2);
    let text = world.prints(&["show", "Tiny.Q4", "--memory", "1GiB"]);
    for part in [
        "the same, pulled 2",
        "Q4_1",
        "256 tokens",
        "conversations of full length",
    ] {
        assert!(text.contains(part), "missing {part} in\n{text}");
    }
    let tight = world.prints(&["show", world.file().to_str().unwrap(), "--memory", "1K"]);
    assert!(
        tight.contains("leave no room") && tight.contains("recorded"),
        "{tight}"
    );

    assert!(
        world
            .prints(&["verify", "Tiny.Q4"])
            .starts_with(&format!("VERIFIED Tiny.Q4 {digest}"))
    );
    assert_eq!(
        world.json(&["verify", "Tiny.Q4", "--json"])["verified"],
        true
    );

    assert!(world.complains(&["remove", "Tiny.Q4"]).contains("--yes"));
    assert_eq!(
        world.prints(&["remove", "Tiny.Q4", "--yes"]),
        "removed Tiny.Q4\n"
    );
    assert_eq!(world.json(&["list", "--json"]), serde_json::json!([]));
    assert!(world.file().exists(), "the original is nobody's to remove");
}

#[test]
fn the_known_questions_are_put_to_a_model() {
    let world = World::new();
    world.pull();
    let json = world.json(&["canary", "Tiny.Q4", "--json"]);
    assert_eq!(json["standing"], "unknown");
    let digest = json["canary"].as_str().unwrap();
    assert_eq!(digest.len(), 64);
    assert_eq!(json["answers"].as_array().unwrap().len(), 4);
    assert_eq!(json["answers"][0]["question"], "short");
    let text = world.prints(&["canary", world.file().to_str().unwrap()]);
    assert!(
        text.contains(&format!("canary   {digest}")) && text.contains("canary = "),
        "{text}"
    );
}

#[test]
fn one_changed_byte_fails_verification_and_shows() {
    let world = World::new();
    world.pull();
    let mut bytes = std::fs::read(world.stored()).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::set_permissions(world.stored(), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(world.stored(), bytes).unwrap();
    let said = world.complains(&["verify", "Tiny.Q4"]);
    assert!(
        said.contains("Tiny.Q4 has the digest") && said.contains("pull it again"),
        "{said}"
    );
    let output = world.cocoon(&["verify", "Tiny.Q4", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verified"], false);
    assert!(world.prints(&["show", "Tiny.Q4"]).contains("ANOTHER ONE"));
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let world = World::new();
    world.pull();
    for (line, part) in [
        (&["verify", "Tiny.Q5"][..], "did you mean `Tiny.Q4`?"),
        (
            &["remove", "banana", "--yes"],
            "`cocoon model list` shows them all",
        ),
        (&["verify", "../Tiny.Q4"], "cannot be the name of a model"),
        (&["pull", "https://example.org/m.gguf"], "hf:OWNER/REPO"),
        (&["pull", "pypi:x"], "exact version"),
        (&["pull", "/nowhere.gguf"], "/nowhere.gguf"),
        (
            &["pull", "x.gguf", "--name", "../x"],
            "cannot be the name of a model",
        ),
    ] {
        let said = world.complains(line);
        assert!(said.contains(part), "{line:?}: {said}");
    }
    let wrong = "0".repeat(64);
    let file = world.file();
    let line = [
        "pull",
        file.to_str().unwrap(),
        "--name",
        "other",
        "--sha256",
        &wrong,
    ];
    assert!(world.complains(&line).contains(&wrong));
}
