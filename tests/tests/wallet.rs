//! `cocoon wallet` as a person uses it, on a devnet of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cocoon::local_mesh::Launcher;
use cocoon_protocol::NanoTon;
use cocoon_settlement::chain::DevnetClient;
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::faucet;
use cocoon_tests::program::cocoon;
use serde_json::Value;

/// By `@ton/crypto` 3.3.0: words, and the seed that they make.
const WORDS: &str = "behave want proof hello engage share about illness adjust bunker unfold panic limb crime inspire sing income slab coffee metal tiny salad tree dinner";
const SEED: &str = "85f94f9f8faf02ad132af4c55e2fa44e5effe8968780729d2e03385d6b88e383";

fn wallet(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(cocoon())
        .arg("wallet")
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&said(output)).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_and_words_come_in_and_go_out_unchanged_and_are_for_their_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);

    let made = said(&wallet(&at("new"), &["new"], ""));
    let words = said(&wallet(&at("new"), &["export", "--words"], ""));
    assert_eq!(words.split_whitespace().count(), 24);
    assert!(
        !made.contains(words.trim()),
        "words are printed by export alone"
    );
    let key = said(&wallet(&at("new"), &["export"], ""));
    for file in ["wallet-key", "wallet-words"] {
        assert_eq!(mode(&at("new").join(file)), 0o600);
    }
    assert!(refused(&wallet(&at("new"), &["new"], "")).contains("holds a wallet already"));

    // The same words make the same key, and so does the key itself.
    said(&wallet(&at("words"), &["import", "-"], &words));
    assert_eq!(said(&wallet(&at("words"), &["export"], "")), key);
    said(&wallet(&at("key"), &["import", "-"], &key));
    assert_eq!(said(&wallet(&at("key"), &["export"], "")), key);
    assert!(refused(&wallet(&at("key"), &["export", "--words"], "")).contains("not made of words"));

    let file = at("words.txt");
    std::fs::write(&file, WORDS).unwrap();
    let arguments = ["import", file.to_str().unwrap(), "--contract", "v4r2"];
    said(&wallet(&at("theirs"), &arguments, ""));
    assert_eq!(
        said(&wallet(&at("theirs"), &["export"], "")).trim(),
        format!("v4r2:{SEED}")
    );

    let wrong = WORDS.replace("want", "wand");
    let why = refused(&wallet(&at("wrong"), &["import", "-"], &wrong));
    assert!(why.contains("word 2") && !why.contains("wand"), "{why}");
    assert!(!at("wrong").join("wallet-key").exists());
    assert!(refused(&wallet(&at("none"), &["show"], "")).contains("cocoon wallet new"));
}

#[tokio::test]
async fn a_wallet_shows_what_it_holds_and_pays_through_liteservers() {
    let home = tempfile::tempdir().unwrap();
    let launcher = Launcher::new(cocoon().to_owned(), home.path().join("nodes"));
    let (_devnet, chain_url) = launcher.devnet().unwrap();
    let chain = DevnetClient::new(&chain_url).unwrap();
    let (payer, payee) = (home.path().join("payer"), home.path().join("payee"));
    let show = |who: &Path| {
        json(&wallet(
            who,
            &["show", "--json", "--chain-url", &chain_url],
            "",
        ))
    };
    said(&wallet(&payer, &["new"], ""));
    said(&wallet(&payee, &["new", "--contract", "v4r2"], ""));

    let before = show(&payer);
    assert_eq!(
        (
            &before["version"],
            &before["balance_nanoton"],
            &before["seqno"]
        ),
        (&"v5r1".into(), &0.into(), &0.into())
    );
    assert_eq!(before["chain"], "verified");
    let address = before["address"].as_str().unwrap().parse().unwrap();
    let gift = OutMessage::transfer(address, NanoTon::from_nano(NanoTon::PER_TON));
    faucet().unwrap().send(&chain, &[gift]).await.unwrap();

    let to = show(&payee)["non_bounceable"].as_str().unwrap().to_owned();
    let send = |rest: &[&str]| {
        let arguments = [&["send", &to, "0.25", "--chain-url", &chain_url], rest].concat();
        wallet(&payer, &arguments, "")
    };
    // Nobody can be asked here.
    assert!(refused(&send(&[])).contains("not sent"));
    let sent = json(&send(&["--yes", "--json"]));
    assert_eq!(sent["amount_nanoton"], 250_000_000);
    assert_eq!(show(&payee)["balance_nanoton"], 250_000_000);
    let after = show(&payer);
    assert_eq!(after["seqno"], 1);
    assert_eq!(
        after["balance_nanoton"].as_u64().unwrap(),
        NanoTon::PER_TON - 250_000_000 - sent["fees_nanoton"].as_u64().unwrap()
    );
    let why = refused(&wallet(
        &payer,
        &["send", &to, "9", "--yes", "--chain-url", &chain_url],
        "",
    ));
    assert!(why.contains("which is less than"), "{why}");
    let shown = said(&wallet(&payer, &["show", "--chain-url", &chain_url], ""));
    assert!(
        shown.contains("to receive") && shown.contains("TON"),
        "{shown}"
    );
}
