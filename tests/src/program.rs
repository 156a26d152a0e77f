//! The program under test, the model it serves, and what is skipped without them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// What builds the program with everything that the tests ask of it.
pub const BUILD: &str = "cargo build -p cocoon --features simulated-evidence,failpoints";
/// The file that `scripts/fetch-model.sh` puts there.
pub const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The program. Fails the test, with the command that builds it, if it is not there or was built
/// without simulated evidence.
pub fn cocoon() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = set("COCOON_BIN").unwrap_or_else(|| {
            let test = std::env::current_exe().expect("this test's own path");
            // …/debug/deps/demo-0123456789abcdef
            let profile = test.parent().and_then(Path::parent);
            profile.expect("a target directory").join("cocoon")
        });
        let path = path.canonicalize().unwrap_or_else(|error| {
            panic!(
                "no program at {}: {error}; build it with `{BUILD}`",
                path.display()
            )
        });
        let about = about(&path);
        assert!(
            about.contains("simulated evidence: COMPILED IN"),
            "{} was built without simulated evidence; build it with `{BUILD}`. It says:\n{about}",
            path.display()
        );
        path
    })
}

/// What `cocoon --version` prints.
fn about(path: &Path) -> String {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("{} does not run: {error}", path.display()));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether the program has crash points. Says so loudly if not, and fails with
/// `COCOON_REQUIRE_FAILPOINTS=1`.
pub fn has_failpoints() -> bool {
    let has = about(cocoon()).contains("crash points:       COMPILED IN");
    if !has {
        skip(
            "COCOON_REQUIRE_FAILPOINTS",
            &format!("the program has no crash points; build it with `{BUILD}`"),
        );
    }
    has
}

/// The model, where `scripts/fetch-model.sh` puts it. Says so loudly if it is not there, and fails
/// with `COCOON_REQUIRE_MODEL=1`.
pub fn model() -> Option<PathBuf> {
    let directory = set("COCOON_MODELS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon").join("models"))
    });
    let found = directory
        .map(|directory| directory.join(MODEL))
        .filter(|path| path.is_file());
    if found.is_none() {
        skip(
            "COCOON_REQUIRE_MODEL",
            &format!("{MODEL} is not there; scripts/fetch-model.sh fetches it"),
        );
    }
    found
}

/// Python with TON clients of others, where `scripts/fetch-ton-clients.sh` puts it. Says so loudly if it is not there, and
/// fails with `COCOON_REQUIRE_TON_CLIENTS=1`.
pub fn ton_clients() -> Option<PathBuf> {
    let directory = set("COCOON_TEST_TON_CLIENTS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon").join("ton-clients"))
    });
    let found = directory
        .map(|directory| directory.join("bin").join("python"))
        .filter(|path| path.is_file());
    if found.is_none() {
        skip(
            "COCOON_REQUIRE_TON_CLIENTS",
            "no TON clients of others are here; scripts/fetch-ton-clients.sh fetches them",
        );
    }
    found
}

/// Says that a test, or a part of one, does not run; with `variable` set to 1 that is a failure.
pub fn skip(variable: &str, why: &str) {
    let required = std::env::var(variable).is_ok_and(|value| value == "1");
    assert!(!required, "{why} ({variable}=1)");
    println!("\n**** SKIPPED: {why}\n**** {variable}=1 makes this a failure\n");
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A command of the program, without the settings of the person who runs the tests.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(cocoon());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COCOON_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command of the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    command()
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cocoon {arguments:?}: {error}"))
}
