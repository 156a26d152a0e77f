//! The run of the demo, step by step, with every step looked at from outside; and the demo itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "demo/counters.rs"]
mod counters;
#[path = "demo/program.rs"]
mod demo_program;
#[path = "demo/receipt.rs"]
mod receipt;
#[path = "demo/sums.rs"]
mod sums;

use std::collections::BTreeMap;

use cocoon::local_mesh::{START_PATIENCE, until};
use cocoon_actors::gateway_port::{NodeStatus, WorkerStanding};
use cocoon_tests::chat::{self, Answer};
use cocoon_tests::network::{MODEL_ID, Network, Plan, Terms};
use cocoon_tests::{books, places, program};

use crate::counters::what_was_counted_is_what_happened;
use crate::receipt::{
    the_receipt_says_what_happened, verify_tells_a_true_receipt_from_a_changed_one,
};
use crate::sums::the_sums_agree_to_the_last_nanoton;

/// As in the demo: far above what such a model is worth, so that a few answers are worth a claim.
const TERMS: [Terms; 3] = [
    Terms {
        input: 50_000,
        output: 200_000,
        window: 10_000_000,
    },
    Terms {
        input: 60_000,
        output: 240_000,
        window: 10_000_000,
    },
    Terms {
        input: 70_000,
        output: 280_000,
        window: 10_000_000,
    },
];
const DEPOSIT: u64 = 1_000_000_000;
/// Long enough to be killed in the middle of.
const LONG: &str = "Write a long story about a dragon who learns to count.";
const LONG_TOKENS: u32 = 400;
/// Pieces of text that arrive before the kill: something was sent and paid by then.
const PIECES_BEFORE_KILL: usize = 3;

#[tokio::test]
async fn a_prompt_is_answered_paid_and_settled_and_a_killed_worker_costs_only_its_job() {
    let Some(model) = program::model() else {
        return;
    };
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

    let first = chat::ask(
        &network.client,
        "What is the capital of France? Tell me about it.",
        80,
    )
    .await;
    an_answer_at_the_workers_price(&network, &first);
    let receipt = books::receipt(&network.client, &first.details.receipt).await;
    let salt = books::salt(&network.client, &first.details.receipt).await;
    the_receipt_says_what_happened(&network, &first, &receipt, &salt);
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
        assert_ne!(
            network.worker_of(&answer.details.worker),
            killed,
            "a dead worker answered"
        );
    }
    assert_eq!(
        network.client.http.status().await.unwrap().ended_jobs,
        BTreeMap::from([("completed".to_owned(), 3), ("worker_lost".to_owned(), 1)]),
        "exactly one outcome for each job"
    );

    network.restart(killed, &[]).await;
    let mut answers: Vec<_> = [first].into_iter().chain(later).collect();
    let before_restart = answers.len();
    until_it_answers_again(&network, killed, &mut answers).await;
    let interrupted = Interrupted {
        worker: killed,
        prompt_tokens: answers[1].usage.prompt_tokens,
        tokens,
        before_restart,
    };
    the_sums_agree_to_the_last_nanoton(&network, &answers, &interrupted).await;
    what_was_counted_is_what_happened(&network, &answers, &interrupted).await;

    network
        .client
        .http
        .models()
        .await
        .expect("the client still serves");
    let left = network.stop();
    for file in places::files_below(left.path()) {
        assert_ne!(
            file.file_name().unwrap(),
            "run.json",
            "a node that ended says where it is"
        );
    }
}

/// The job that a kill cut off.
struct Interrupted {
    worker: usize,
    prompt_tokens: u64,
    /// That reached the client.
    tokens: u64,
    /// Answers that came before the killed worker was started again.
    before_restart: usize,
}

/// Asks one question after the other until the worker that was killed has answered one: only then has
/// the client seen its new keys, and verified them.
async fn until_it_answers_again(network: &Network, killed: usize, answers: &mut Vec<Answer>) {
    let what = "an answer of the worker that was killed and is back";
    until(what, START_PATIENCE, async || {
        let answer = chat::ask(&network.client, "Say hello.", 8).await;
        an_answer_at_the_workers_price(network, &answer);
        let found = network.worker_of(&answer.details.worker) == killed;
        answers.push(answer);
        Ok(found.then_some(()))
    })
    .await
    .expect(what);
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
        cost(
            terms,
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens
        )
    );
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
    assert!(
        message.contains(&network.workers[killed].run.peer),
        "{message}"
    );
    assert!(answer.deltas.len() >= PIECES_BEFORE_KILL);
    let tokens = message
        .split_once("after ")
        .and_then(|(_, rest)| rest.split_once(" tokens"));
    let tokens = tokens.expect("how many tokens came").0.parse().unwrap();
    assert!(tokens > 0 && tokens < u64::from(LONG_TOKENS));
    // The mesh goes on: the client answers, and the other two are verified still.
    let status = client.status().await.unwrap();
    let others = status.workers.iter().filter(|worker| {
        worker.peer != network.workers[killed].run.peer
            && worker.standing == WorkerStanding::Verified
    });
    assert_eq!(others.count(), 2);
    (killed, tokens)
}

/// Streams the long story, with a look at each piece.
async fn stream_from(url: &str, mut at_piece: impl AsyncFnMut(usize)) -> chat::Transcript {
    chat::stream(url, &chat::request(LONG, LONG_TOKENS), async |pieces, _| {
        at_piece(pieces).await
    })
    .await
}
