//! The devnet against light clients that are not ours: pytoniq, and TON's official library inside pytonlib. Both check
//! proofs and signatures themselves. `scripts/fetch-ton-clients.sh` installs them; without it this says that nothing
//! was tested, and with `COCOON_REQUIRE_TON_CLIENTS=1` fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "clients/scene.rs"]
mod scene;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::{Chain, StackItem};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::Faults;
use scene::{Scene, TRANSFERS};
use serde_json::{Value, json};

/// A get method of the channel contract without arguments.
const METHOD: &str = "available";

fn python() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("COCOON_TEST_TON_CLIENTS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("cocoon").join("ton-clients"))
    })?;
    let found = Some(directory.join("bin").join("python")).filter(|path| path.is_file());
    if found.is_none() {
        let required =
            std::env::var_os("COCOON_REQUIRE_TON_CLIENTS").is_some_and(|value| value == "1");
        assert!(
            !required,
            "COCOON_REQUIRE_TON_CLIENTS=1, but they are not there; run scripts/fetch-ton-clients.sh"
        );
        eprintln!(
            "\n\
             ##################################################################\n\
             ##  SKIPPED: no TON clients of others are installed. The devnet\n\
             ##  was NOT tested against them. Run scripts/fetch-ton-clients.sh,\n\
             ##  and COCOON_REQUIRE_TON_CLIENTS=1 to insist.\n\
             ##################################################################\n"
        );
    }
    found
}

/// What a script says, or what it complains of.
fn run(python: &Path, script: &str, facts: &Value) -> Result<Value, String> {
    // pytoniq leaves a folder behind.
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(python)
        .arg(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients")).join(script))
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(facts.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(said.into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{script}: {error}: {said}")))
}

async fn facts(scene: &Scene) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let config: Value = http
        .get(format!("{}/global.config.json", scene.base))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    json!({
        "url": scene.base,
        "config": config,
        "wallet": scene.wallet.address().to_string(),
        "channel": scene.channel.to_string(),
        "nobody": format!("0:{}", "77".repeat(32)),
        "method": METHOD,
    })
}

async fn method(scene: &Scene) -> String {
    let result = scene.chain.get_method(scene.channel, METHOD, &[]).await;
    match &result.unwrap().stack[0] {
        StackItem::Num(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pytoniq_finds_every_proof_in_order_at_each_level_of_trust() {
    let Some(python) = python() else { return };
    let scene = Scene::new().await;
    let balances = [
        scene.balance(scene.wallet.address()).await,
        scene.balance(scene.channel).await,
    ];
    let history: Vec<_> = scene
        .history()
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    let head = scene.chain.head().await.unwrap().seqno;
    let transfer = OutMessage::transfer(scene.channel_worker(), NanoTon::from_nano(1));
    let message = scene.signed(TRANSFERS, &transfer);
    let mut facts = facts(&scene).await;
    facts["message"] = hex::encode(&message).into();
    facts["refused"] = hex::encode(scene.signed(0, &transfer)).into();
    let method = method(&scene).await;

    let seen = tokio::task::spawn_blocking(move || run(&python, "with_pytoniq.py", &facts))
        .await
        .unwrap()
        .unwrap_or_else(|complaint| panic!("{complaint}"));
    for level in ["2", "1", "0"] {
        let seen = &seen[level];
        assert_eq!(seen["head"], head, "{level}");
        assert_eq!(
            [&seen["wallet"], &seen["channel"]],
            [&balances[0], &balances[1]]
        );
        assert_eq!(seen["nobody"], true);
        assert_eq!(seen["seqno"], TRANSFERS);
        assert_eq!(seen["method"], method);
        assert_eq!(seen["transactions"], json!(history));
        assert_eq!(seen["one"], history[0]);
        assert_eq!(seen["listed"], seen["listed_ext"]);
        assert!(
            seen["listed"]
                .as_array()
                .unwrap()
                .contains(&history[0].as_str().into())
        );
        assert_eq!(seen["shards"], json!([[0, head]]));
        assert_eq!(seen["looked_up"], 2);
        assert_eq!(
            (&seen["by_lt"], &seen["by_time"]),
            (&true.into(), &true.into())
        );
        assert_eq!(seen["validators"], 1);
    }
    assert_eq!(seen["sent"]["status"], 1);
    let refused = seen["sent"]["refused"].as_str().unwrap();
    assert!(refused.contains("exitcode=33"), "{refused}");
    let newest = scene.history().await[0].to_string();
    assert_eq!(seen["sent"]["transaction"], newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_library_syncs_reads_runs_get_methods_and_sends() {
    let Some(python) = python() else { return };
    let scene = Scene::new().await;
    let head = scene.chain.head().await.unwrap().seqno;
    let transfer = OutMessage::transfer(scene.channel_worker(), NanoTon::from_nano(1));
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut facts = facts(&scene).await;
    facts["message"] = base64(&scene.signed(TRANSFERS, &transfer)).into();
    facts["refused"] = base64(&scene.signed(0, &transfer)).into();
    let seen = tokio::task::spawn_blocking(move || run(&python, "with_tonlib.py", &facts))
        .await
        .unwrap()
        .unwrap_or_else(|complaint| panic!("{complaint}"));
    assert_eq!(
        (&seen["head"], &seen["head_block"]),
        (&head.into(), &head.into())
    );
    assert_eq!(seen["shards"], json!([[0, head]]));
    assert_eq!(
        (&seen["looked_up"], &seen["key_block_before"]),
        (&2.into(), &(head - 3).into())
    );
    assert_eq!(seen["listed"], seen["listed_ext"]);
    assert!(
        seen["listed"]
            .as_array()
            .unwrap()
            .contains(&seen["transactions"][0])
    );
    assert_eq!(seen["wallet"], scene.balance(scene.wallet.address()).await);
    assert_eq!(seen["channel"], scene.balance(scene.channel).await);
    let history = scene.history().await;
    let expected: Vec<_> = history.iter().map(|hash| base64(hash.as_bytes())).collect();
    let transactions = seen["transactions"].as_array().unwrap();
    assert!(!transactions.is_empty());
    assert_eq!(
        transactions[..],
        json!(expected).as_array().unwrap()[..transactions.len()]
    );
    assert_eq!(seen["seqno"], json!([0, TRANSFERS.to_string()]));
    assert_eq!(seen["method"], json!([0, method(&scene).await]));
    assert_eq!(seen["sent"], "ok");
    let refused = seen["refused"].as_str().unwrap();
    assert!(refused.contains("exitcode=33"), "{refused}");
    scene.chain.advance(1, 0).await.unwrap();
    assert_eq!(scene.history().await.len(), history.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pytoniq_notices_a_lying_server() {
    let Some(python) = python() else { return };
    let scene = Scene::new().await;
    let lies = Faults {
        wrong_proofs: true,
        ..Faults::default()
    };
    scene.chain.set_faults(None, lies).await.unwrap();
    let facts = facts(&scene).await;
    let complaint = tokio::task::spawn_blocking(move || run(&python, "with_pytoniq.py", &facts))
        .await
        .unwrap()
        .unwrap_err();
    assert!(complaint.contains("ProofError"), "{complaint}");
}
