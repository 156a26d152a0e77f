//! A model that its owner keeps secret, with real processes: the owner seals it and runs a vault, a worker
//! with the sealed file asks for the key, a client gets an answer. A worker whose measurement the owner does
//! not trust gets nothing, and the owner reads why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use cocoon::local_mesh::{Launcher, MeshError, Node, Process, fund, until, verified_workers};
use cocoon::wiring::RUN_FILE;
use cocoon_attestation::policy::simulated;
use cocoon_attestation::{Measurement, Policy};
use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::DevnetClient;
use cocoon_tests::places::files_below;
use cocoon_tests::program::{cocoon, command, model, run};
use serde_json::{Value, json};

/// How long anything may take before the test fails. Only ever reached by a failing test.
const LIMIT: Duration = Duration::from_secs(90);
/// The model's name in the network.
const MODEL: &str = "secret-model";
const PURSE: NanoTon = NanoTon::from_nano(5 * NanoTon::PER_TON);
/// Bytes of the plain weights that are looked for on the worker's disk.
const NEEDLE_BYTES: usize = 64;

/// A running vault. Killed when dropped.
struct Vault {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vault {
    fn start(directory: &Path, common: &[(&str, &str)], arguments: &[&str]) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let mut command = command();
        command
            .args(["vault", "serve", "--json", "--network", "demo"])
            .args([
                "--evidence",
                "simulated",
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
            ])
            .arg("--data-dir")
            .arg(directory)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(File::create(directory.join("log")).unwrap());
        for (setting, value) in common {
            command.arg(format!("--{setting}")).arg(value);
        }
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        // The pipe stays open: the vault says the same lines there as in its log, and few of them.
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut first).unwrap();
        child.stdout = Some(out.into_inner());
        let said: Value = serde_json::from_str(&first).unwrap_or_else(|_| {
            panic!(
                "{}",
                std::fs::read_to_string(directory.join("log")).unwrap()
            )
        });
        assert_eq!(said["event"], "listening");
        Self {
            address: said["listen"][0].as_str().unwrap().to_owned(),
            log: said["log"].as_str().unwrap().into(),
            child,
        }
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        // Whoever reads while it is written may see half a line.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a record of this event.
    async fn records_of(&self, event: &str) -> Vec<Value> {
        until(&format!("a record `{event}`"), LIMIT, async || {
            let mut records = self.records();
            records.retain(|record| record["event"] == event);
            Ok::<_, MeshError>((!records.is_empty()).then_some(records))
        })
        .await
        .unwrap()
    }
}

/// Runs a command that must succeed, and gives back what it printed.
fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and gives back why.
fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

/// The owner's part: a key, a sealed file, and what the commands say of them. Gives back the digest.
fn seal(plain: &Path, key: &str, sealed: &str, directory: &Path) -> String {
    succeeds(&["vault", "key", "--out", key]);
    assert!(fails(&["vault", "key", "--out", key]).contains("exists"));
    let plain_text = plain.display().to_string();
    let seal = ["vault", "seal", &plain_text, "--key", key, "--out", sealed];
    let made = succeeds(&[&seal[..], &["--name", MODEL, "--json"]].concat());
    let made: Value = serde_json::from_str(&made).unwrap();
    assert!(fails(&seal).contains("exists"));
    let shown: Value =
        serde_json::from_str(&succeeds(&["vault", "show", sealed, "--json"])).unwrap();
    assert_eq!(shown["whole"], true);
    assert_eq!(
        (&shown["model"], &shown["name"], &shown["key_id"]),
        (&made["model"], &json!(MODEL), &made["key_id"])
    );
    assert!(succeeds(&["vault", "show", sealed]).contains("all in order"));

    let opened = directory.join("opened.gguf");
    let opened_text = opened.display().to_string();
    let open = ["vault", "open", sealed, "--out", &opened_text, "--key"];
    let other = directory.join("other.key").display().to_string();
    succeeds(&["vault", "key", "--out", &other]);
    assert!(fails(&[&open[..], &[other.as_str()]].concat()).contains("was sealed with the key"));
    assert!(!opened.exists(), "half a model was left behind");
    succeeds(&[&open[..], &[key]].concat());
    assert!(std::fs::read(&opened).unwrap() == std::fs::read(plain).unwrap());
    std::fs::remove_file(opened).unwrap();
    shown["model"].as_str().unwrap().to_owned()
}

fn worker_settings<'a>(
    sealed: &'a str,
    vault: &'a Vault,
    common: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let own = [
        ("model-path", sealed),
        ("vault", vault.address.as_str()),
        ("settle-every-s", "3600"),
    ];
    [&own[..], common].concat()
}

async fn says(process: &Process, what: &str) {
    until(
        &format!("{} says `{what}`", process.name),
        LIMIT,
        async || {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            Ok::<_, MeshError>(log.contains(what).then_some(()))
        },
    )
    .await
    .unwrap();
}

async fn ask(client: &Node) -> Value {
    let body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "max_tokens": 8,
        "temperature": 0,
    });
    client.http.chat(&body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_model_answers_only_where_its_owner_lets_it() {
    let Some(plain) = model() else { return };
    let directory = tempfile::Builder::new()
        .prefix("cocoon-vault-")
        .tempdir()
        .unwrap();
    let owner = directory.path().join("owner");
    std::fs::create_dir(&owner).unwrap();
    let at = |name: &str| owner.join(name).display().to_string();
    let (key, sealed) = (at("owner.key"), at("model.cocoon-sealed"));
    let digest = seal(&plain, &key, &sealed, &owner);

    let nodes = directory.path().join("nodes");
    let launcher = Launcher::new(cocoon().to_owned(), nodes.clone());
    let (_devnet, chain_url) = launcher.devnet().unwrap();
    let chain = DevnetClient::new(&chain_url).unwrap();
    let bootstrap = launcher.node("bootstrap", "bootstrap", &[]).await.unwrap();
    let tcp = bootstrap
        .run
        .listen
        .iter()
        .find(|address| address.contains("/tcp/"));
    let bootstrap_address = tcp.or(bootstrap.run.listen.first()).unwrap().clone();
    let common = [
        ("bootstrap", bootstrap_address.as_str()),
        ("chain-url", chain_url.as_str()),
    ];

    // An owner who trusts another image than the one that runs here.
    let policy = Policy {
        images: vec![
            cocoon_attestation::Image {
                mrtd: Measurement::of(b"the next release"),
                ..simulated::image()
            }
            .into(),
        ],
        ..simulated::policy()
    };
    let policy_path = at("policy.toml");
    std::fs::write(&policy_path, policy_toml(&policy)).unwrap();
    let strict = Vault::start(
        &owner.join("strict"),
        &common,
        &[
            "--key",
            &key,
            "--model-digest",
            &digest,
            "--policy-path",
            &policy_path,
        ],
    );
    let refused = launcher
        .spawn(
            "refused",
            "worker",
            &worker_settings(&sealed, &strict, &common),
        )
        .unwrap();
    let records = strict.records_of("refused").await;
    assert_eq!(
        (&records[0]["reason"], &records[0]["factor"]),
        (&json!("evidence"), &json!("mrtd")),
        "{records:?}"
    );
    assert_eq!(records[0]["model"], digest.as_str());
    says(&refused, "the vault refuses: evidence (mrtd)").await;

    // And one who trusts it.
    let vault = Vault::start(
        &owner.join("vault"),
        &common,
        &["--key", &key, "--sealed", &sealed],
    );
    let worker = launcher
        .node(
            "worker",
            "worker",
            &worker_settings(&sealed, &vault, &common),
        )
        .await
        .unwrap();
    let released = vault.records_of("released").await;
    assert_eq!(released.len(), 1);
    assert_eq!(released[0]["peer"], worker.run.peer.as_str());
    assert_eq!(released[0]["model"], digest.as_str());
    assert_eq!(vault.records_of("delivered").await.len(), 1);
    assert_eq!(
        worker.run.listen.len(),
        2,
        "what it listens at was not forgotten"
    );

    let client = launcher.node("client", "client", &common).await.unwrap();
    let purses = [&worker, &client].map(|node| (node.wallet().unwrap(), PURSE));
    fund(&chain, &purses).await.unwrap();
    let status = verified_workers(&client, 1).await.unwrap();
    // The refused one never was on the market.
    assert_eq!(status.workers.len(), 1);
    let answer = ask(&client).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(answer["cocoon"]["worker"], worker.run.peer.as_str());

    assert!(!nodes.join("refused").join(RUN_FILE).exists());
    assert!(
        strict
            .records()
            .iter()
            .all(|record| record["event"] == "refused")
    );
    no_plain_weights(&plain, &directory.path().to_owned());
}

/// Nothing of the plain weights is on any disk: not the owner's sealed file, not the workers'.
fn no_plain_weights(plain: &Path, below: &Path) {
    let mut file = File::open(plain).unwrap();
    let mut needle = vec![0; NEEDLE_BYTES];
    // In the middle of some tensor.
    file.seek(SeekFrom::Start(file.metadata().unwrap().len() / 2))
        .unwrap();
    file.read_exact(&mut needle).unwrap();
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let first = needle[0];
        bytes
            .windows(NEEDLE_BYTES)
            .any(|window| window[0] == first && window == needle)
    };
    assert!(holds(plain), "the needle is not where it was taken from");
    for path in files_below(below) {
        assert!(!holds(&path), "{} holds plain weights", path.display());
    }
}

fn policy_toml(policy: &Policy) -> String {
    let image = &policy.images[0];
    format!(
        "version = 2\n[tcb]\nmin_evaluation = {}\n[[images]]\nname = \"{}\"\nmrtd = \"{}\"\nrtmr0 = \"{}\"\nrtmr1 = \"{}\"\nrtmr2 = \"{}\"\n",
        policy.tcb.min_evaluation,
        image.name,
        image.mrtd,
        image.rtmr0.unwrap(),
        image.rtmr1,
        image.rtmr2
    )
}
