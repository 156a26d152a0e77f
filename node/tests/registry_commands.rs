//! `cocoon registry` and `cocoon wallet` on a real devnet: three signers write a log's head on chain.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use cocoon::local_mesh::{Launcher, Process, fund};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::chain::DevnetClient;
use serde_json::Value;

const ORIGIN: &str = "example.org/guest-images";
const HOUR_S: u32 = 3_600;

struct World {
    directory: tempfile::TempDir,
    chain: DevnetClient,
    url: String,
    _devnet: Process,
}

impl World {
    /// A chain, and a wallet in `node` with ten TON.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_cocoon"));
        let launcher = Launcher::new(binary, directory.path().to_owned());
        let (devnet, url) = launcher.devnet().unwrap();
        let world = Self {
            chain: DevnetClient::new(&url).unwrap(),
            directory,
            url,
            _devnet: devnet,
        };
        let made = world.json("wallet", &["new", "--data-dir", "node"]);
        assert_eq!(made["version"], "v5r1", "{made}");
        let shown = world.on_chain("wallet", &["show"]);
        let wallet: TonAddress = shown["address"].as_str().unwrap().parse().unwrap();
        let purse = NanoTon::from_nano(10 * NanoTon::PER_TON);
        fund(&world.chain, &[(wallet, purse)]).await.unwrap();
        world
    }

    fn cocoon(&self, command: &str, line: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .arg(command)
            .args(line)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn json(&self, command: &str, line: &[&str]) -> Value {
        let line = [line, &["--json"]].concat();
        let output = self.cocoon(command, &line);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command} {line:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// With the node's wallet and this chain.
    fn on_chain(&self, command: &str, line: &[&str]) -> Value {
        self.json(
            command,
            &[line, &["--data-dir", "node", "--chain-url", &self.url]].concat(),
        )
    }

    fn refuses(&self, line: &[&str]) -> String {
        self.refuses_offline(&[line, &["--data-dir", "node", "--chain-url", &self.url]].concat())
    }

    fn refuses_offline(&self, line: &[&str]) -> String {
        let output = self.cocoon("registry", line);
        assert!(!output.status.success(), "{line:?} was done");
        String::from_utf8(output.stderr).unwrap()
    }

    fn text(&self, file: &str, text: &str) {
        std::fs::write(self.directory.path().join(file), text).unwrap();
    }
}

#[tokio::test]
async fn two_of_three_write_a_log_head_on_chain_and_nobody_before_the_hour_is_over() {
    let world = World::new().await;
    let keys: Vec<String> = ["alice.key", "bob.key", "carol.key", "mallory.key"]
        .map(|out| {
            let made = world.json("registry", &["key", "--out", out]);
            made["public"].as_str().unwrap().to_owned()
        })
        .into();
    let deployed = world.on_chain(
        "registry",
        &[
            "deploy",
            "--signer",
            &keys[0],
            "--signer",
            &keys[1],
            "--signer",
            &keys[2],
            "--threshold",
            "2",
            "--delay-hours",
            "1",
        ],
    );
    let registry = deployed["registry"].as_str().unwrap().to_owned();
    let shown = world.on_chain("registry", &["show", &registry]);
    assert_eq!(
        (&shown["threshold"], &shown["delay_s"]),
        (&2.into(), &HOUR_S.into())
    );
    assert_eq!(shown["signers"].as_array().unwrap().len(), 3);

    // A checkpoint of three entries, as `cocoon log` writes them.
    let root = cocoon_protocol::Digest::sha256(b"root");
    let head = cocoon_protocol::log::TreeHead { size: 3, root };
    let checkpoint = cocoon_attestation::log::Checkpoint::new(ORIGIN, head).unwrap();
    world.text("checkpoint", &format!("{checkpoint}\n"));
    let drafted = world.json(
        "registry",
        &[
            "draft",
            "--registry",
            &registry,
            "--data-dir",
            "node",
            "--chain-url",
            &world.url,
            "log",
            "checkpoint",
        ],
    );
    assert!(
        drafted["says"].as_str().unwrap().contains("has 3 entries"),
        "{drafted}"
    );

    // One signature is too few, and a stranger's is none.
    world.json(
        "registry",
        &["sign", "draft.json", "--key", "alice.key", "--yes"],
    );
    let complaint = world.refuses(&["send", "draft.json"]);
    assert!(complaint.contains("1 of 2 signatures"), "{complaint}");
    let twice = world.refuses_offline(&["sign", "draft.json", "--key", "alice.key", "--yes"]);
    assert!(twice.contains("signed the draft already"), "{twice}");
    let unasked = world.refuses_offline(&["sign", "draft.json", "--key", "bob.key"]);
    assert!(unasked.contains("--yes"), "{unasked}");
    let draft = std::fs::read(world.directory.path().join("draft.json")).unwrap();
    world.json(
        "registry",
        &["sign", "draft.json", "--key", "mallory.key", "--yes"],
    );
    let complaint = world.refuses(&["send", "draft.json"]);
    assert!(complaint.contains("is not a signer"), "{complaint}");
    std::fs::write(world.directory.path().join("draft.json"), draft).unwrap();
    world.json(
        "registry",
        &["sign", "draft.json", "--key", "bob.key", "--yes"],
    );
    world.on_chain("registry", &["send", "draft.json"]);
    let complaint = world.refuses(&["send", "draft.json"]);
    assert!(complaint.contains("draft it anew"), "{complaint}");

    // The time lock.
    let shown = world.on_chain("registry", &["show", &registry]);
    assert_eq!(shown["logs"], serde_json::json!([]));
    assert_eq!(shown["pending"][0]["id"], 1);
    let complaint = world.refuses(&["apply", "1", &registry]);
    assert!(complaint.contains("may be applied from"), "{complaint}");
    world.chain.advance(1, HOUR_S).await.unwrap();
    world.on_chain("registry", &["apply", "1", &registry]);
    let shown = world.on_chain("registry", &["show", &registry]);
    assert_eq!(shown["pending"], serde_json::json!([]));
    assert_eq!(shown["logs"][0]["size"], 3);
    assert_eq!(shown["logs"][0]["root"], root.to_string());
    let complaint = world.refuses(&["apply", "1", &registry]);
    assert!(complaint.contains("no change 1 waits"), "{complaint}");
}
