//! The run of the demo, step by step, with every step looked at from outside; and the demo itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{NodeStatus, ReceiptDocument, WorkerStanding};
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{Digest, NanoTon, Price};
use cocoon_tests::books::{self, ChannelBook};
use cocoon_tests::chat::{self, Answer};
use cocoon_tests::metrics::scrape;
use cocoon_tests::network::{MODEL_ID, Network, PURSE, Plan, Terms};
use cocoon_tests::{places, program};
use serde_json::{Value, json};

/// As in the demo: far above what such a model is worth, so that a few answers are worth a claim.
const TERMS: [Terms; 3] = [
    Terms { input: 50_000, output: 200_000, window: 10_000_000 },
    Terms { input: 60_000, output: 240_000, window: 10_000_000 },
    Terms { input: 70_000, output: 280_000, window: 10_000_000 },
];
/// What a claim costs at most: the contract keeps 0.00042 TON at the devnet's prices.
const MOST_FEES_OF_A_CLAIM: u64 = 500_000;
const DEPOSIT: u64 = 1_000_000_000;
/// Long enough to be killed in the middle of.
const LONG: &str = "Write a long story about a dragon who learns to count.";
const LONG_TOKENS: u32 = 400;
/// Pieces of text that arrive before the kill: something was sent and paid by then.
const PIECES_BEFORE_KILL: usize = 3;

#[tokio::test]
async fn a_prompt_is_answered_paid_and_settled_and_a_killed_worker_costs_only_its_job() {
    let Some(model) = program::model() else { return };
    let mut network = Network::start(
        &model,
        Plan {
            workers: TERMS.to_vec(),
            deposit: DEPOSIT,
            environment: Vec::new(),
        },
    )
    .await;
    let verified = network.client.http.status().await.unwrap();
    three_verified_workers(&network, &verified);
    books::supply_is_conserved(&network).await;

    let first = chat::ask(&network.client, "What is the capital of France? Tell me about it.", 80).await;
    an_answer_at_the_workers_price(&network, &first);
    let receipt = books::receipt(&network.client, &first.details.receipt).await;
    the_receipt_says_what_happened(&network, &first, &receipt);
    verify_tells_a_true_receipt_from_a_changed_one(&network, &first).await;

    let (killed, tokens) = kill_the_worker_that_answers(&mut network).await;
    let (third, fourth) = tokio::join!(
        // The same prompt, so that its length in tokens is known.
        chat::ask(&network.client, LONG, 48),
        chat::ask_whole(&network.client, "Name three rivers in Europe.", 48),
    );
    let later = [third, fourth.expect("an answer")];
    for answer in &later {
        an_answer_at_the_workers_price(&network, answer);
        assert_ne!(network.worker_of(&answer.details.worker), killed, "a dead worker answered");
    }
    assert_eq!(
        network.client.http.status().await.unwrap().ended_jobs,
        BTreeMap::from([("completed".to_owned(), 3), ("worker_lost".to_owned(), 1)]),
        "exactly one outcome for each job"
    );

    network.restart(killed, &[]).await;
    network.all_verified().await;
    let interrupted = Interrupted {
        worker: killed,
        prompt_tokens: later[0].usage.prompt_tokens,
        tokens,
    };
    let answers: Vec<_> = [first].into_iter().chain(later).collect();
    the_sums_agree_to_the_last_nanoton(&network, &answers, &interrupted).await;
    what_was_counted_is_what_happened(&network, &answers, &interrupted).await;

    network.client.http.models().await.expect("the client still serves");
    let left = network.stop();
    for file in places::files_below(left.path()) {
        assert_ne!(file.file_name().unwrap(), "run.json", "a node that ended says where it is");
    }
}

/// The job that a kill cut off.
struct Interrupted {
    worker: usize,
    prompt_tokens: u64,
    /// That reached the client.
    tokens: u64,
}

fn three_verified_workers(network: &Network, status: &NodeStatus) {
    assert_eq!(status.workers.len(), 3);
    assert_eq!(status.trust, "simulated");
    for worker in &status.workers {
        let terms = network.terms(network.worker_of(&worker.peer));
        assert_eq!(worker.standing, WorkerStanding::Verified);
        assert_eq!(worker.models, [MODEL_ID]);
        assert_eq!(worker.price_input_nanoton, terms.input);
        assert_eq!(worker.price_output_nanoton, terms.output);
        assert!(worker.round_trip_ms.is_some());
        let (passed, all) = worker.factors.expect("a verdict");
        assert!(passed > 0 && passed <= all, "{passed} of {all}");
    }
}

fn cost(terms: Terms, prompt_tokens: u64, tokens: u64) -> u64 {
    terms.input * prompt_tokens + terms.output * tokens
}

fn an_answer_at_the_workers_price(network: &Network, answer: &Answer) {
    let terms = network.terms(network.worker_of(&answer.details.worker));
    assert!(!answer.text.trim().is_empty());
    assert!(["stop", "length"].contains(&answer.finish_reason.as_str()));
    assert_eq!(
        answer.cost(),
        cost(terms, answer.usage.prompt_tokens, answer.usage.completion_tokens)
    );
}

fn the_receipt_says_what_happened(network: &Network, answer: &Answer, receipt: &Receipt) {
    let terms = network.terms(network.worker_of(&answer.details.worker));
    assert_eq!(receipt.job.to_string(), answer.details.job);
    assert_eq!(receipt.worker.to_string(), answer.details.worker);
    assert_eq!(receipt.client.to_string(), network.client.run.peer);
    assert_eq!(receipt.response_digest, Digest::sha256(answer.text.as_bytes()));
    assert_eq!(u64::from(receipt.prompt_tokens), answer.usage.prompt_tokens);
    assert_eq!(u64::from(receipt.output_tokens), answer.usage.completion_tokens);
    assert_eq!(receipt.amount.nano(), answer.cost());
    assert_eq!(receipt.cumulative, receipt.amount, "the first job on this channel, all of it paid");
    assert_eq!(
        receipt.price,
        Price {
            input: NanoTon::from_nano(terms.input),
            output: NanoTon::from_nano(terms.output),
        }
    );
}

/// `cocoon verify`, as a person would call it: its exit code and its report.
fn verify(network: &Network, document: &ReceiptDocument) -> (Option<i32>, Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(document).unwrap()).unwrap();
    let path = file.path().to_str().unwrap();
    let output = program::run(&[
        "verify", path, "--json", "--evidence", "simulated", "--chain-url", &network.chain_url,
    ]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no report ({error}): {}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code(), report)
}

fn failed_factors(report: &Value) -> Vec<&str> {
    let factors = report["factors"].as_array().unwrap().iter();
    factors
        .filter(|factor| factor["result"] == "fail")
        .map(|factor| factor["name"].as_str().unwrap())
        .collect()
}

async fn verify_tells_a_true_receipt_from_a_changed_one(network: &Network, answer: &Answer) {
    let document = network.client.http.receipt(&answer.details.receipt).await.unwrap();
    let (code, report) = verify(network, &document);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["verified"], json!(true));
    assert_eq!(report["trust"], "simulated");
    assert_eq!(report["receipt"]["amount_nanoton"], json!(answer.cost()));
    let names: Vec<_> = report["factors"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
    for name in ["receipt_signature", "receipt_amount", "receipt_key_attested", "evidence"] {
        assert!(names.contains(&&json!(name)), "{name} was not looked at: {names:?}");
    }

    let signed = SignedReceipt::decode(&BASE64.decode(&document.signed_receipt).unwrap()).unwrap();
    let receipt = Receipt::decode(&signed.receipt).unwrap();
    // Cheaper than it was, under the old signature.
    let cheaper = SignedReceipt {
        receipt: Receipt {
            amount: NanoTon::from_nano(receipt.amount.nano() - 1),
            ..receipt.clone()
        }
        .encode(),
        ..signed.clone()
    };
    let mut signature = signed.signature;
    signature[40] ^= 1;
    let resigned = SignedReceipt { signature, ..signed.clone() };
    for changed in [cheaper, resigned] {
        let document = ReceiptDocument {
            signed_receipt: BASE64.encode(changed.encode()),
            id: changed.leaf().to_string(),
            ..document.clone()
        };
        let (code, report) = verify(network, &document);
        assert_eq!((code, &report["verified"]), (Some(1), &json!(false)), "{report:#}");
        assert_eq!(failed_factors(&report), ["receipt_signature"]);
    }
    // The right receipt with a quote in which one bit is different.
    let mut evidence = BASE64.decode(document.evidence.as_ref().unwrap()).unwrap();
    evidence[700] ^= 1;
    let changed = ReceiptDocument {
        evidence: Some(BASE64.encode(evidence)),
        ..document.clone()
    };
    let (code, report) = verify(network, &changed);
    assert_eq!((code, &report["verified"]), (Some(1), &json!(false)), "{report:#}");
    // Without evidence nothing is known of the key.
    let without = ReceiptDocument { evidence: None, ..document };
    let (code, report) = verify(network, &without);
    assert_eq!((code, &report["verified"]), (Some(1), &json!(false)), "{report:#}");
}

/// Kills a worker with SIGKILL while its answer streams. Returns which, and how many tokens reached
/// the client before.
async fn kill_the_worker_that_answers(network: &mut Network) -> (usize, u64) {
    let mut killed = None;
    let client = network.client.http.clone();
    let url = network.client.url();
    let answer = {
        let killed = &mut killed;
        let network = &mut *network;
        stream_from(&url, async |pieces| {
            if pieces == PIECES_BEFORE_KILL {
                let busy = network.busy_worker().await;
                network.workers[busy].process.kill().unwrap();
                *killed = Some(busy);
            }
        })
        .await
    };
    let killed = killed.expect("a worker that answered");
    let (code, message) = answer.failure();
    assert_eq!(code, "worker_lost", "{message}");
    assert!(message.contains(&network.workers[killed].run.peer), "{message}");
    assert!(answer.deltas.len() >= PIECES_BEFORE_KILL);
    let tokens = message.split_once("after ").and_then(|(_, rest)| rest.split_once(" tokens"));
    let tokens = tokens.expect("how many tokens came").0.parse().unwrap();
    assert!(tokens > 0 && tokens < u64::from(LONG_TOKENS));
    // The mesh goes on: the client answers, and the other two are verified still.
    let status = client.status().await.unwrap();
    let others = status.workers.iter().filter(|worker| {
        worker.peer != network.workers[killed].run.peer && worker.standing == WorkerStanding::Verified
    });
    assert_eq!(others.count(), 2);
    (killed, tokens)
}

/// Streams the long story, with a look at each piece.
async fn stream_from(url: &str, mut at_piece: impl AsyncFnMut(usize)) -> chat::Transcript {
    chat::stream(url, &chat::request(LONG, LONG_TOKENS), async |pieces, _| at_piece(pieces).await).await
}

/// For each channel: what the client signed, what the worker holds, what the chain paid and what
/// the receipts say; for each worker: what it committed and what its wallet got.
async fn the_sums_agree_to_the_last_nanoton(
    network: &Network,
    answers: &[Answer],
    interrupted: &Interrupted,
) {
    let mut settlements = Vec::new();
    for worker in &network.workers {
        settlements.push(books::settle(worker).await);
    }
    let mut receipts = Vec::new();
    for answer in answers {
        receipts.push(books::receipt(&network.client, &answer.details.receipt).await);
    }
    let receipted = books::by_channel(&receipts);
    let channels = books::channels(network).await;
    let mut claimed_by = [0; 3];
    for channel in &channels {
        let receipts = receipted.get(&channel.address).copied().unwrap_or(NanoTon::ZERO);
        one_channel(network, channel, receipts.nano(), interrupted);
        claimed_by[channel.worker] += channel.chain.claimed.nano();
    }
    assert_eq!(
        channels.iter().map(|channel| channel.chain.claimed.nano()).sum::<u64>(),
        claimed_by.iter().sum::<u64>()
    );
    for (index, settlement) in settlements.iter().enumerate() {
        assert_eq!(settlement.earned_nanoton, claimed_by[index], "committed and claimed");
        assert_eq!(settlement.settled_nanoton, claimed_by[index]);
        if claimed_by[index] == 0 {
            assert_eq!(settlement.confirmed_batch, 0, "nothing earned, nothing committed");
            continue;
        }
        let address = books::ledger_address(&network.workers[index]).await;
        let (ledger, transactions) = books::ledger(network, address).await;
        assert_eq!(ledger.total.nano(), claimed_by[index], "what the worker committed to");
        assert_eq!(ledger.seqno, 1);
        assert_eq!(settlement.confirmed_batch, 1);
        let jobs = answers
            .iter()
            .filter(|answer| network.worker_of(&answer.details.worker) == index)
            .count();
        let jobs = u64::try_from(jobs).unwrap() + u64::from(interrupted.worker == index);
        assert_eq!(ledger.jobs, jobs, "an entry for each receipt, and for what was cut off");
        // Deployed once, committed once.
        assert_eq!(transactions.len(), 2, "{transactions:#?}");
        assert!(transactions.iter().all(|one| one.success));
        let paid: u64 = channels
            .iter()
            .filter(|channel| channel.worker == index)
            .map(|channel| channel.paid_out.nano())
            .sum();
        // Everything that ever moved in its wallet: the faucet's coins, the ledger's deployment, the
        // payout. Its balance is the sum of that.
        let wallet = network.workers[index].wallet().unwrap();
        let moved = books::transactions(network, wallet).await;
        let income: u64 = moved.iter().map(|one| one.value.nano()).sum();
        assert_eq!(income, PURSE.nano() + paid, "{moved:#?}");
        let balance = books::balance(network, &network.workers[index]).await;
        assert_eq!(books::change(&moved), i128::from(balance.nano()), "{moved:#?}");
    }
    books::supply_is_conserved(network).await;
}

fn one_channel(network: &Network, channel: &ChannelBook, receipts: u64, interrupted: &Interrupted) {
    let terms = network.terms(channel.worker);
    let cut_off = channel.worker == interrupted.worker && channel.signed.nano() != receipts;
    println!(
        "worker {}: signed {}, held {}, claimed {}, receipts {receipts} nanoTON",
        channel.worker + 1,
        channel.signed.nano(),
        channel.held.nano(),
        channel.chain.claimed.nano(),
    );
    assert_eq!(channel.chain.claimed, channel.held, "claimed on chain and vouchers held");
    assert_eq!(channel.recorded, channel.held, "the worker knows that it was paid");
    if cut_off {
        // The client paid for what arrived, and for nothing else.
        let signed = cost(terms, interrupted.prompt_tokens, interrupted.tokens);
        assert_eq!(channel.signed.nano(), receipts + signed);
        // The worker holds all of it, or all but what was on its way when it died: whole tokens, and
        // at most a window.
        let missing = channel.signed.nano() - channel.held.nano();
        assert_eq!(missing % terms.output, 0);
        assert!(missing <= terms.window, "{missing} nanoTON were lost");
        assert!(channel.held.nano() > receipts, "the last job was paid while it ran");
    } else {
        assert_eq!(channel.held.nano(), receipts, "vouchers and receipts");
        assert_eq!(channel.signed, channel.held, "signed and held");
    }
    // Opened once, claimed once; what the claim's fees left over stays in the channel.
    assert_eq!(channel.transactions.len(), 2, "{:#?}", channel.transactions);
    assert!(channel.transactions.iter().all(|one| one.success));
    let balance = i128::from(channel.chain.balance.nano());
    assert_eq!(books::change(&channel.transactions), balance, "every coin of the channel");
    assert_eq!(
        i128::from(channel.deposit.nano()) + books::change(channel.claims()),
        balance,
        "what the client's ledger holds for the deposit, less what the claim took"
    );
    let kept = channel.chain.claimed.nano() - channel.paid_out.nano();
    assert!(kept < MOST_FEES_OF_A_CLAIM, "{kept} nanoTON of the claim were not paid out");
}

async fn what_was_counted_is_what_happened(
    network: &Network,
    answers: &[Answer],
    interrupted: &Interrupted,
) {
    let client = scrape(&network.client).await;
    let required = [
        "cocoon_peers",
        "cocoon_verified_workers",
        "cocoon_jobs_total",
        "cocoon_time_to_first_token_seconds_bucket",
        "cocoon_time_to_first_token_seconds_count",
        "cocoon_tokens_total",
        "cocoon_vouchers_total",
        "cocoon_settled_nanoton_total",
        "cocoon_build_info",
    ];
    for name in required {
        assert!(client.has(name), "{name} is missing");
    }
    let jobs = u64::try_from(answers.len()).unwrap() + 1;
    let side = [("role", "client")];
    assert_eq!(client.sum("cocoon_peers", &[]), 4);
    assert_eq!(client.sum("cocoon_verified_workers", &[]), 3);
    assert_eq!(
        client.by("cocoon_jobs_total", &side, "outcome"),
        BTreeMap::from([("completed".to_owned(), jobs - 1), ("worker_lost".to_owned(), 1)])
    );
    assert_eq!(client.sum("cocoon_time_to_first_token_seconds_count", &side), jobs);
    let generated: u64 = answers.iter().map(|answer| answer.usage.completion_tokens).sum();
    let completion = [("role", "client"), ("kind", "completion")];
    assert_eq!(client.sum("cocoon_tokens_total", &completion), generated + interrupted.tokens);
    let read: u64 = answers.iter().map(|answer| answer.usage.prompt_tokens).sum();
    let prompt = [("role", "client"), ("kind", "prompt")];
    assert_eq!(client.sum("cocoon_tokens_total", &prompt), read);
    assert!(client.sum("cocoon_vouchers_total", &side) >= jobs);

    let channels = books::channels(network).await;
    for (index, worker) in network.workers.iter().enumerate() {
        let counted = scrape(worker).await;
        let claimed: u64 = channels
            .iter()
            .filter(|channel| channel.worker == index)
            .map(|channel| channel.chain.claimed.nano())
            .sum();
        assert_eq!(counted.sum("cocoon_settled_nanoton_total", &[]), claimed);
        let mine: Vec<_> = answers
            .iter()
            .filter(|answer| network.worker_of(&answer.details.worker) == index)
            .collect();
        // Counters begin anew with the process; the job that was cut off is counted by the new one.
        let mut outcomes = BTreeMap::new();
        if index == interrupted.worker {
            outcomes.insert("interrupted".to_owned(), 1);
        } else if !mine.is_empty() {
            outcomes.insert("completed".to_owned(), u64::try_from(mine.len()).unwrap());
            let tokens: u64 = mine.iter().map(|answer| answer.usage.completion_tokens).sum();
            let completion = [("role", "worker"), ("kind", "completion")];
            assert_eq!(counted.sum("cocoon_tokens_total", &completion), tokens);
            for name in required {
                assert!(counted.has(name), "{name} is missing at worker {}", index + 1);
            }
            let side = [("role", "worker")];
            assert!(counted.sum("cocoon_vouchers_total", &side) > 0);
            let firsts = counted.sum("cocoon_time_to_first_token_seconds_count", &side);
            assert_eq!(firsts, u64::try_from(mine.len()).unwrap());
        }
        let side = [("role", "worker")];
        assert_eq!(counted.by("cocoon_jobs_total", &side, "outcome"), outcomes);
    }
}

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
        assert!(output.contains(&format!("\n── {step} ")), "step {step} is missing:\n{output}");
    }
    for words in ["VERIFIED under the simulated root", "kill -9", "worker_lost", "every sum agrees"] {
        assert!(output.contains(words), "{words:?} is missing:\n{output}");
    }
}

#[test]
fn the_demo_tells_its_seven_steps_and_ends_with_code_0() {
    let Some(model) = program::model() else { return };
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(&model, temporary.path(), &[]).wait_with_output().unwrap();
    let (said, errors) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
    seven_steps_and_sums(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap();
    assert!(last.trim().starts_with("done in "), "{last}");
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "the demo leaves nothing behind");
}

#[test]
fn a_kept_demo_answers_the_curl_that_it_prints_until_it_is_stopped() {
    let Some(model) = program::model() else { return };
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = demo(&model, temporary.path(), &["--keep"]);
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = String::new();
    for line in lines.by_ref() {
        said.push_str(&line);
        said.push('\n');
        if line == "Ctrl-C stops it." {
            break;
        }
    }
    assert!(said.ends_with("Ctrl-C stops it.\n"), "{said}\n{}", rest_of(&mut demo));
    seven_steps_and_sums(&said);
    for words in ["curl http://127.0.0.1:", "from openai import OpenAI", "cocoon chat --url "] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    // As printed: two lines, the first ending in a backslash.
    let curl: Vec<_> = said.lines().skip_while(|line| !line.trim().starts_with("curl ")).take(2).collect();
    let answer = Command::new("sh").args(["-c", &curl.join("\n")]).output().unwrap();
    if answer.status.code() == Some(127) {
        println!("\n**** SKIPPED: curl is not installed, so the printed command was not run\n");
    } else {
        let body: Value = serde_json::from_slice(&answer.stdout).expect("a JSON answer");
        let text = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(!text.trim().is_empty());
    }
    let pid = demo.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert_eq!(demo.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(rest, ["", "stopping the mesh"]);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "something was left behind");
}

fn rest_of(child: &mut Child) -> String {
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut errors);
    }
    errors
}
