//! `cocoon demo` itself, as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cocoon_tests::program;
use serde_json::{Value, json};

/// `cocoon demo` with its own directory for temporary files.
fn demo(model: &Path, temporary: &Path, more: &[&str]) -> Child {
    program::command()
        .args(["demo", "--model"])
        .arg(model)
        .args(more)
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts")
}

fn seven_steps_and_sums(output: &str) {
    for step in 1..=7 {
        assert!(
            output.contains(&format!("\n── {step} ")),
            "step {step} is missing:\n{output}"
        );
    }
    for words in [
        "VERIFIED under the simulated root",
        "kill -9",
        "worker_lost",
        "every sum agrees",
    ] {
        assert!(output.contains(words), "{words:?} is missing:\n{output}");
    }
}

#[test]
fn the_demo_tells_its_seven_steps_and_ends_with_code_0() {
    let Some(model) = program::model() else {
        return;
    };
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(&model, temporary.path(), &[])
        .wait_with_output()
        .unwrap();
    let (said, errors) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
    seven_steps_and_sums(&said);
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap();
    assert!(last.trim().starts_with("done in "), "{last}");
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "the demo leaves nothing behind");
}

#[test]
fn a_kept_demo_answers_the_curl_that_it_prints_until_it_is_stopped() {
    let Some(model) = program::model() else {
        return;
    };
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = demo(&model, temporary.path(), &["--keep"]);
    let mut lines = BufReader::new(demo.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut said = String::new();
    for line in lines.by_ref() {
        said.push_str(&line);
        said.push('\n');
        if line == "Ctrl-C stops it." {
            break;
        }
    }
    assert!(
        said.ends_with("Ctrl-C stops it.\n"),
        "{said}\n{}",
        rest_of(&mut demo)
    );
    seven_steps_and_sums(&said);
    for words in [
        "curl http://127.0.0.1:",
        "from openai import OpenAI",
        "cocoon chat --url ",
    ] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    // As printed: two lines, the first ending in a backslash.
    let curl: Vec<_> = said
        .lines()
        .skip_while(|line| !line.trim().starts_with("curl "))
        .take(2)
        .collect();
    let answer = Command::new("sh")
        .args(["-c", &curl.join("\n")])
        .output()
        .unwrap();
    if answer.status.code() == Some(127) {
        println!("\n**** SKIPPED: curl is not installed, so the printed command was not run\n");
    } else {
        let body: Value = serde_json::from_slice(&answer.stdout).expect("a JSON answer");
        let text = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(!text.trim().is_empty());
    }
    fetched_by_pytoniq(&said);
    let pid = demo.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let rest: Vec<_> = lines.collect();
    assert_eq!(demo.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(rest, ["", "stopping the mesh"]);
    assert_eq!(
        std::fs::read_dir(temporary.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

/// A light client that is not ours finds every transaction that the summary names, and its proofs in order.
fn fetched_by_pytoniq(said: &str) {
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut transactions = Vec::new();
    let lines: Vec<_> = said.lines().collect();
    for pair in lines.windows(2) {
        if let ([account, address, lt, time], [hash, digest]) =
            (&words(pair[0])[..], &words(pair[1])[..])
            && (account, lt, hash) == (&"account".into(), &"lt".into(), &"hash".into())
        {
            transactions.push(json!({"account": address, "lt": time, "hash": digest}));
        }
    }
    assert!(transactions.len() >= 4, "commits and claims:\n{said}");
    let config = said
        .split_whitespace()
        .find(|word| word.ends_with("/global.config.json;"))
        .expect("where the global config is")
        .trim_end_matches(';');
    let Some(python) = program::ton_clients() else {
        return;
    };
    let facts = json!({"config": config, "transactions": transactions});
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../settlement/tests/clients/fetch_transactions.py"
    );
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(python)
        .arg(script)
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(facts.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["found"], transactions.len());
}

fn rest_of(child: &mut Child) -> String {
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut errors);
    }
    errors
}
