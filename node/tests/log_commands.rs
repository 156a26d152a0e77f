//! `cocoon log` as rebuilders and verifiers run it: what it prints, what it exits with, and what it refuses to sign.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const ORIGIN: &str = "example.org/guest-images";

/// A directory with keys of three rebuilders, two of which must sign.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let keys: Vec<String> = ["alice", "bob", "carol"]
            .map(|who| {
                let name = format!("example.org/{who}");
                let out = format!("{who}.key");
                let made = world.json(&["key", &name, "--out", &out]);
                made["public"].as_str().unwrap().to_owned()
            })
            .into();
        let rebuilders = format!("origin = {ORIGIN:?}\nthreshold = 2\nkeys = {keys:?}\n");
        std::fs::write(world.path("rebuilders.toml"), rebuilders).unwrap();
        world
    }

    /// With a log of these images in `log`, the last checkpoint signed by Alice and Bob.
    fn with_log(images: &[&str]) -> Self {
        let world = Self::new();
        world.does(&["init", "log", "--origin", ORIGIN]);
        for image in images {
            world.append("log", image);
        }
        world.sign("log");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn append(&self, log: &str, image: &str) {
        let register = |at: u8| hex::encode([image.as_bytes()[0] ^ at; 48]);
        let mut text = format!("name = {image:?}\nmrtd = {:?}\n", register(0));
        for at in 0..3 {
            text += &format!("rtmr{at} = {:?}\n", register(at + 1));
        }
        std::fs::write(self.path("image.toml"), text).unwrap();
        self.does(&[
            "append",
            log,
            "--image",
            "image.toml",
            "--revision",
            "git abc",
        ]);
    }

    fn sign(&self, log: &str) {
        self.does(&["sign", log, "--key", "alice.key"]);
        self.does(&["sign", log, "--key", "bob.key"]);
    }

    fn cocoon(&self, line: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .arg("log")
            .args(line)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command prints that does what it was asked.
    fn does(&self, line: &[&str]) -> String {
        let output = self.cocoon(line);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &[&str]) -> Value {
        let line = [line, &["--json"]].concat();
        serde_json::from_str(&self.does(&line)).unwrap()
    }

    /// What a command complains about that does not.
    fn refuses(&self, line: &[&str]) -> String {
        let output = self.cocoon(line);
        assert!(!output.status.success(), "{line:?} was done");
        assert!(output.stdout.is_empty(), "{line:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn verify(&self, line: &[&str]) -> (bool, Value) {
        let line = [
            &["verify"],
            line,
            &["--rebuilders", "rebuilders.toml", "--json"],
        ]
        .concat();
        let output = self.cocoon(&line);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{line:?}: {error}: {complaint}"));
        assert_eq!(report["verified"], output.status.success());
        (output.status.success(), report)
    }

    fn passes(&self, line: &[&str]) -> Value {
        let (verified, report) = self.verify(line);
        assert!(verified, "{report:#}");
        report
    }

    /// The one factor that failed.
    fn fails(&self, line: &[&str]) -> (String, String) {
        let (verified, report) = self.verify(line);
        assert!(!verified, "{line:?}");
        let factors = report["factors"].as_array().unwrap();
        let mut failed = factors.iter().filter(|factor| factor["result"] == "fail");
        let factor = failed.next().unwrap();
        assert!(failed.next().is_none(), "{report:#}");
        let text = |name: &str| factor[name].as_str().unwrap().to_owned();
        (text("name"), text("reason"))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn an_image_goes_from_the_log_through_two_rebuilders_to_a_proof_that_verifies() {
    let world = World::with_log(&["a 1", "b 1", "c 1"]);
    let proved = world.json(&["prove", "log", "--image", "b 1", "--out", "b.proof"]);
    assert_eq!((&proved["index"], &proved["size"]), (&1.into(), &3.into()));
    let report = world.passes(&["b.proof"]);
    assert_eq!(report["image"]["name"], "b 1");
    assert_eq!(report["revision"], "git abc");
    assert_eq!(report["size"], 3);
    assert_eq!(
        report["signers"],
        serde_json::json!(["example.org/alice", "example.org/bob"])
    );
    world.passes(&["log"]);
    let human = world.does(&["verify", "b.proof", "--rebuilders", "rebuilders.toml"]);
    assert!(
        human.contains("VERIFIED in the log example.org/guest-images"),
        "{human}"
    );

    let shown = world.json(&["show", "log"]);
    assert_eq!(shown["entries"][2]["name"], "c 1");
    assert_eq!(shown["root"], report["root"]);
    let human = world.does(&["show", "log"]);
    assert!(
        human.contains("a 1") && human.contains("example.org/bob"),
        "{human}"
    );
    // The secrets are their owners'.
    let mode = std::fs::metadata(world.path("alice.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_not_enough_rebuilders_signed_is_not_verified() {
    let world = World::with_log(&["a 1"]);
    world.append("log", "b 1");
    let (factor, reason) = world.fails(&["log"]);
    assert_eq!(factor, "signatures");
    assert!(reason.contains("no signature"), "{reason}");
    let refused = world.refuses(&["prove", "log", "--image", "a 1", "--out", "a.proof"]);
    assert!(refused.contains("cocoon log sign"), "{refused}");
    world.does(&["sign", "log", "--key", "alice.key"]);
    // Twice is once.
    world.does(&["sign", "log", "--key", "alice.key"]);
    world.does(&["prove", "log", "--image", "a 1", "--out", "a.proof"]);
    for what in ["log", "a.proof"] {
        let (factor, reason) = world.fails(&[what]);
        assert_eq!(factor, "signatures");
        assert!(
            reason.contains("1 of the rebuilders signed, 2 must"),
            "{reason}"
        );
    }
    world.does(&["sign", "log", "--key", "carol.key"]);
    world.passes(&["log"]);
}

#[test]
fn a_log_is_verified_since_a_checkpoint_only_if_it_grew_out_of_it() {
    let world = World::with_log(&["a 1"]);
    world.append("log", "b 1");
    world.sign("log");
    let old = "log/checkpoint.old";
    let report = world.passes(&["log", "--since", old]);
    let last = report["factors"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&last["name"], &last["result"]),
        (&"consistency".into(), &"pass".into())
    );
    // A proof holds one checkpoint.
    world.does(&["prove", "log", "--image", "a 1", "--out", "a.proof"]);
    world.passes(&["a.proof", "--since", "log/checkpoint"]);
    assert_eq!(world.fails(&["a.proof", "--since", old]).0, "consistency");

    // Another log of the same name and keys; their owners forgot what they had signed.
    for who in ["alice", "bob"] {
        std::fs::remove_file(world.path(&format!("{who}.key.signed"))).unwrap();
    }
    world.does(&["init", "other", "--origin", ORIGIN]);
    for image in ["x 1", "y 1"] {
        world.append("other", image);
    }
    world.sign("other");
    world.passes(&["other"]);
    for since in [old, "log/checkpoint"] {
        let (factor, reason) = world.fails(&["other", "--since", since]);
        assert_eq!(factor, "consistency");
        assert!(reason.contains("two logs"), "{reason}");
    }
}

#[test]
fn a_rebuilder_signs_no_log_that_did_not_grow_out_of_the_one_before() {
    let world = World::with_log(&["a 1", "b 1"]);
    copy(&world.path("log"), &world.path("longer"));
    world.append("longer", "c 1");
    world.does(&["sign", "longer", "--key", "alice.key"]);
    // The shorter one again, another one, one of another name.
    let refused = world.refuses(&["sign", "log", "--key", "alice.key"]);
    assert!(refused.contains("NOT SIGNED"), "{refused}");
    world.does(&["init", "forked", "--origin", ORIGIN]);
    for image in ["a 1", "x 1", "c 1", "d 1"] {
        world.append("forked", image);
    }
    let before = std::fs::read(world.path("forked/checkpoint")).unwrap();
    for key in ["alice.key", "bob.key"] {
        let refused = world.refuses(&["sign", "forked", "--key", key]);
        assert!(refused.contains("NOT SIGNED"), "{refused}");
    }
    assert_eq!(
        std::fs::read(world.path("forked/checkpoint")).unwrap(),
        before
    );
    world.does(&["init", "renamed", "--origin", "example.org/other"]);
    let refused = world.refuses(&["sign", "renamed", "--key", "bob.key"]);
    assert!(refused.contains("another key"), "{refused}");
    // Carol has signed nothing yet.
    world.does(&["sign", "forked", "--key", "carol.key"]);
}

#[test]
fn a_crash_at_any_write_leaves_a_log_that_goes_on() {
    let world = World::with_log(&["a 1", "b 1"]);
    let log = world.path("log");
    let entries = std::fs::read(log.join("entries")).unwrap();
    let checkpoint = std::fs::read(log.join("checkpoint")).unwrap();
    copy(&log, &world.path("goal"));
    world.append("goal", "c 1");
    let read = |name: &str| std::fs::read(world.path("goal").join(name)).unwrap();
    let (new_entries, new_checkpoint) = (read("entries"), read("checkpoint"));

    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let states: [&[(&str, Vec<u8>)]; 5] = [
        &[("entries.new", half(&new_entries))],
        &[("entries.new", new_entries.clone())],
        &[("entries", new_entries.clone())],
        &[
            ("entries", new_entries.clone()),
            ("checkpoint.old.new", half(&checkpoint)),
        ],
        &[
            ("entries", new_entries.clone()),
            ("checkpoint.old", checkpoint.clone()),
            ("checkpoint.new", half(&new_checkpoint)),
        ],
    ];
    for (at, state) in states.iter().enumerate() {
        let crashed = format!("crashed{at}");
        copy(&log, &world.path(&crashed));
        for (name, bytes) in *state {
            std::fs::write(world.path(&crashed).join(name), bytes).unwrap();
        }
        // The signed checkpoint is what it was, and another image takes the place.
        world.passes(&[&crashed]);
        world.append(&crashed, "d 1");
        let shown = world.json(&["show", &crashed]);
        let names: Vec<_> = shown["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["name"])
            .collect();
        assert_eq!(names, ["a 1", "b 1", "d 1"], "{at}");
        assert_eq!(
            std::fs::read(world.path(&crashed).join("checkpoint.old")).unwrap(),
            checkpoint
        );
    }
    assert_eq!(std::fs::read(log.join("entries")).unwrap(), entries);
}

#[test]
fn a_write_that_fails_leaves_a_log_that_goes_on() {
    let world = World::with_log(&["a 1", "b 1"]);
    for (at, blocked) in ["entries.new", "checkpoint.old.new", "checkpoint.new"]
        .iter()
        .enumerate()
    {
        let log = format!("stopped{at}");
        copy(&world.path("log"), &world.path(&log));
        // No file can be made in the place of a directory.
        let blocked = world.path(&log).join(blocked);
        std::fs::create_dir(&blocked).unwrap();
        let line = ["append", &log, "--image", "image.toml"];
        let refused = world.refuses(&line);
        assert!(refused.contains("cannot use"), "{refused}");
        world.passes(&[&log]);
        std::fs::remove_dir(&blocked).unwrap();
        world.does(&line);
        assert_eq!(world.json(&["show", &log])["size"], 3);
    }
}

#[test]
fn a_directory_whose_entries_are_not_its_checkpoints_is_refused() {
    let world = World::with_log(&["a 1", "b 1"]);
    let entries = std::fs::read_to_string(world.path("log/entries")).unwrap();
    let (first, second) = entries.split_once('\n').unwrap();
    let spoiled = [
        ("one line too few", format!("{first}\n"), "has 1 entries"),
        (
            "swapped",
            format!("{second}{first}\n"),
            "do not give the checkpoint's root",
        ),
        (
            "another image",
            entries.replace("b 1", "x 1"),
            "do not give the checkpoint's root",
        ),
        ("another spelling", entries.replacen(':', ": ", 1), "line 1"),
        (
            "no line end",
            entries.trim_end().to_owned(),
            "has 1 entries",
        ),
    ];
    for (what, spoiled, complaint) in spoiled {
        std::fs::write(world.path("log/entries"), spoiled).unwrap();
        let (factor, reason) = world.fails(&["log"]);
        assert_eq!(factor, "entries", "{what}");
        assert!(reason.contains(complaint), "{what}: {reason}");
        for line in [
            &["sign", "log", "--key", "alice.key"][..],
            &["append", "log", "--image", "image.toml"],
            &["prove", "log", "--image", "a 1", "--out", "a.proof"],
            &["show", "log"],
        ] {
            let refused = world.refuses(line);
            assert!(refused.contains(complaint), "{what}: {refused}");
        }
    }
}

#[test]
fn what_was_spoiled_on_the_way_is_named_by_its_factor() {
    let world = World::with_log(&["a 1", "b 1", "c 1"]);
    world.does(&["prove", "log", "--image", "b 1", "--out", "b.proof"]);
    let proof = std::fs::read(world.path("b.proof")).unwrap();
    let position = |needle: &[u8]| {
        proof
            .windows(needle.len())
            .position(|w| w == needle)
            .unwrap()
    };
    for (at, factor) in [
        (0, "form"),
        (position(b"mrtd"), "entry"),
        (position(b"b 1"), "inclusion"),
        (position(ORIGIN.as_bytes()), "checkpoint"),
        (
            position("\n— example.org/alice".as_bytes()) - 2,
            "checkpoint",
        ),
        (proof.len() - 10, "signatures"),
    ] {
        let mut spoiled = proof.clone();
        spoiled[at] ^= 1;
        std::fs::write(world.path("spoiled.proof"), spoiled).unwrap();
        assert_eq!(world.fails(&["spoiled.proof"]).0, factor, "byte {at}");
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_stands_twice() {
    let world = World::with_log(&["a 1"]);
    let refused = world.refuses(&["init", "log", "--origin", ORIGIN]);
    assert!(refused.contains("holds a log"), "{refused}");
    let refused = world.refuses(&["key", "example.org/alice", "--out", "alice.key"]);
    assert!(refused.contains("never overwritten"), "{refused}");
    let again = [
        "append",
        "log",
        "--image",
        "image.toml",
        "--revision",
        "git abc",
    ];
    let refused = world.refuses(&again);
    assert!(refused.contains("already, at index 0"), "{refused}");
    let refused = world.refuses(&["prove", "log", "--image", "a 2", "--out", "a.proof"]);
    assert!(refused.contains("did you mean \"a 1\"?"), "{refused}");
    let refused = world.refuses(&["init", "bad", "--origin", "a log"]);
    assert!(refused.contains("no name of a log"), "{refused}");
    assert!(!world.path("bad/checkpoint").exists());
}
