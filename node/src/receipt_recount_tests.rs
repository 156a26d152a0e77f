#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::path::Path;
use std::sync::LazyLock;

use cocoon_actors::gateway_port::{RECEIPT_FORMAT, ReceiptDocument};
use cocoon_protocol::Price;
use cocoon_protocol::ids::{JobId, Keypair, PeerId, PublicKey32, TonAddress};
use cocoon_protocol::receipt::Ending;
use cocoon_protocol::units::UnixMillis;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use super::*;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| model("tiny-llama"));

fn model(name: &str) -> Tokenizer {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/tests/fixtures");
    Tokenizer::open(&fixtures.join(name)).unwrap()
}

fn peer(seed: u8) -> PeerId {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    key.public().to_peer_id()
}

fn salt() -> Salt {
    Salt::from_bytes([0x5a; 32])
}

/// A worker that bills as it is told, and signs for it.
struct Worker {
    request: Value,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    receipt: Receipt,
    /// What the client got; `None` to leave the numbers out.
    tell_ids: bool,
}

impl Worker {
    /// An honest one, with an answer for each text.
    fn honest(request: Value, texts: &[&str]) -> Self {
        let submission = request::parse(request.to_string().as_bytes())
            .unwrap()
            .submission;
        let ids: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| TOKENIZER.encode(text).unwrap())
            .collect();
        let prompt = TOKENIZER.prepare(&to_engine(&submission).0).unwrap();
        let price = Price {
            input: NanoTon::from_nano(20),
            output: NanoTon::from_nano(160),
        };
        let receipt = Receipt {
            job: JobId::from_bytes([1; 16]),
            worker: peer(1),
            client: peer(2),
            model: "m".to_owned(),
            model_digest: Digest::from_bytes([4; 32]),
            evidence: Digest::from_bytes([5; 32]),
            request_commitment: salt().request(&submission.encode().unwrap()),
            response_commitment: Digest::ZERO,
            prompt_tokens: u32::try_from(prompt.len()).unwrap(),
            output_tokens: u32::try_from(ids.iter().map(Vec::len).sum::<usize>()).unwrap(),
            price,
            amount: NanoTon::ZERO,
            channel: TonAddress {
                workchain: 0,
                hash: [8; 32],
            },
            cumulative: NanoTon::ZERO,
            ending: Ending::Stop,
            started: UnixMillis::from_millis(1),
            ended: UnixMillis::from_millis(2),
            receipt_key: PublicKey32::from_bytes([0; 32]),
            tokens_commitment: None,
            tokenizer: Some(TOKENIZER.digest()),
        };
        Self {
            request,
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            ids,
            receipt,
            tell_ids: true,
        }
    }

    fn signed(&self) -> Opened {
        let mut receipt = self.receipt.clone();
        receipt.response_commitment = salt().response(&self.texts);
        receipt.tokens_commitment = salt().counted_tokens(&self.ids, receipt.output_tokens);
        let cost = receipt
            .price
            .cost(receipt.prompt_tokens, receipt.output_tokens);
        receipt.amount = cost.unwrap();
        let signed = receipt.sign(&SigningKey::from_bytes(&[3; 32])).unwrap();
        Opened::from_document(ReceiptDocument {
            format: RECEIPT_FORMAT.to_owned(),
            id: signed.leaf().to_string(),
            job: JobId::from_bytes([1; 16]).to_string(),
            network: "devnet".to_owned(),
            signed_receipt: BASE64.encode(signed.encode()),
            evidence: None,
            beacon: None,
            salt: Some(salt().reveal()),
        })
        .unwrap()
    }

    fn response(&self) -> Vec<u8> {
        let choices = self
            .texts
            .iter()
            .zip(&self.ids)
            .enumerate()
            .map(|(index, (text, ids))| {
                let mut choice = json!({
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "finish_reason": "stop",
                    "logprobs": null,
                });
                if self.tell_ids {
                    choice["token_ids"] = json!(ids);
                }
                choice
            });
        json!({"object": "chat.completion", "choices": choices.collect::<Vec<_>>()})
            .to_string()
            .into_bytes()
    }

    fn recounted(&self) -> Recounted {
        let request = self.request.to_string();
        let papers = Papers {
            request: request.as_bytes(),
            response: &self.response(),
            salt: None,
        };
        recount(&self.signed(), &papers, &TOKENIZER)
    }
}

fn chat() -> Value {
    json!({
        "model": "m",
        "messages": [{"role": "user", "content": "Count to three, please."}],
        "stop": ["END"],
        "return_token_ids": true,
    })
}

fn outcome(recounted: &Recounted) -> (Finding, bool, Option<u64>) {
    (
        recounted.finding,
        recounted.proven,
        recounted.overbilled_nanoton,
    )
}

fn result(recounted: &Recounted, name: &str) -> FactorResult {
    let line = recounted.factors.iter().find(|line| line.name == name);
    line.unwrap_or_else(|| panic!("{name} in {:?}", recounted.factors))
        .result
}

#[test]
fn an_honest_bill_agrees_to_the_token() {
    for texts in [&["one two three"][..], &["né 🦋", "", "a\0b"]] {
        let mut request = chat();
        request["n"] = json!(texts.len());
        let worker = Worker::honest(request, texts);
        let recounted = worker.recounted();
        assert_eq!(
            outcome(&recounted),
            (Finding::Agrees, true, Some(0)),
            "{recounted:#?}"
        );
        assert_eq!(recounted.silent_tokens, Some(0));
        assert!(
            recounted
                .factors
                .iter()
                .all(|line| line.result == FactorResult::Pass)
        );
    }
}

#[test]
fn one_token_too_many_in_the_prompt_is_proven() {
    let mut worker = Worker::honest(chat(), &["one two three"]);
    worker.receipt.prompt_tokens += 1;
    let recounted = worker.recounted();
    assert_eq!(outcome(&recounted), (Finding::Overbilled, true, Some(20)));
    assert_eq!(result(&recounted, "prompt_tokens"), FactorResult::Fail);
    assert_eq!(result(&recounted, "output_tokens"), FactorResult::Pass);
    // The same without the answer's tokens: the prompt is exact all the same.
    worker.tell_ids = false;
    assert_eq!(
        outcome(&worker.recounted()),
        (Finding::Overbilled, true, Some(20))
    );
}

#[test]
fn one_token_too_many_in_the_answer_is_proven() {
    let ends = (0..u32::MAX).find(|id| TOKENIZER.recount(&[*id], &[]).tokens == 0);
    // One that ends the turn, and what comes after a stop string.
    for (text, more) in [("one two three", ends.unwrap()), ("one ", 5)] {
        let mut worker = Worker::honest(chat(), &[text]);
        if text == "one " {
            worker.ids[0] = TOKENIZER.encode("one END").unwrap();
            worker.receipt.output_tokens = u32::try_from(worker.ids[0].len()).unwrap();
            assert_eq!(
                outcome(&worker.recounted()),
                (Finding::Agrees, true, Some(0))
            );
        }
        worker.ids[0].push(more);
        worker.receipt.output_tokens += 1;
        let recounted = worker.recounted();
        assert_eq!(outcome(&recounted), (Finding::Overbilled, true, Some(160)));
        assert_eq!(result(&recounted, "tokens_open"), FactorResult::Pass);
        assert_eq!(result(&recounted, "output_tokens"), FactorResult::Fail);
    }
}

#[test]
fn without_numbers_the_count_is_near_and_what_is_far_from_it_is_seen() {
    let mut worker = Worker::honest(chat(), &["one two three"]);
    worker.tell_ids = false;
    assert_eq!(
        outcome(&worker.recounted()),
        (Finding::Agrees, false, Some(0))
    );
    worker.receipt.output_tokens += 3;
    assert_eq!(
        outcome(&worker.recounted()),
        (Finding::WithinTolerance, false, Some(0))
    );
    let spare = worker.recounted().output_tokens.unwrap().tolerance;
    worker.receipt.output_tokens += spare;
    let (finding, proven, over) = outcome(&worker.recounted());
    assert_eq!((finding, proven), (Finding::Overbilled, false));
    // Only what is above the tolerance is disputed.
    assert_eq!(over, Some(3 * 160));
}

#[test]
fn an_answer_that_broke_off_needs_not_say_what_was_held_back() {
    let mut worker = Worker::honest(chat(), &["one E"]);
    worker.receipt.ending = Ending::Cancelled;
    worker.texts = vec!["one ".to_owned()];
    assert_eq!(
        outcome(&worker.recounted()),
        (Finding::Agrees, true, Some(0))
    );
}

#[test]
fn tokens_that_say_something_else_than_the_answer_contradict_it() {
    let mut worker = Worker::honest(chat(), &["one two three"]);
    worker.texts = vec!["one two four".to_owned()];
    let recounted = worker.recounted();
    assert_eq!(recounted.finding, Finding::Contradiction);
    assert_eq!(result(&recounted, "answer_text"), FactorResult::Fail);
    assert!(!recounted.finding.passes());
}

#[test]
fn what_is_not_this_receipts_cannot_be_compared() {
    let worker = Worker::honest(chat(), &["one two three"]);
    let opened = worker.signed();
    let (request, response) = (chat().to_string(), worker.response());
    let other_request = request.replace("three", "four");
    let mut other = Worker::honest(chat(), &["one two four"]);
    let other_response = other.response();
    let mut other_ids = Worker::honest(chat(), &["one two three"]);
    other_ids.ids[0].push(1);
    let other_ids = other_ids.response();
    let good = Papers {
        request: request.as_bytes(),
        response: &response,
        salt: None,
    };
    assert!(recount(&opened, &good, &TOKENIZER).finding.passes());
    for (papers, factor) in [
        (
            Papers {
                request: other_request.as_bytes(),
                ..good
            },
            "request_opens",
        ),
        (
            Papers {
                request: b"{}",
                ..good
            },
            "request_opens",
        ),
        (
            Papers {
                salt: Some(Salt::from_bytes([1; 32])),
                ..good
            },
            "request_opens",
        ),
        (
            Papers {
                response: &other_response,
                ..good
            },
            "response_opens",
        ),
        (
            Papers {
                response: b"{}",
                ..good
            },
            "response_opens",
        ),
        (
            Papers {
                response: &other_ids,
                ..good
            },
            "tokens_open",
        ),
    ] {
        let recounted = recount(&opened, &papers, &TOKENIZER);
        assert_eq!(recounted.finding, Finding::NotComparable, "{factor}");
        assert_eq!(result(&recounted, factor), FactorResult::Fail);
    }
    let elsewhere = recount(&opened, &good, &model("tiny-gemma3_text"));
    assert_eq!(elsewhere.finding, Finding::NotComparable);
    assert_eq!(result(&elsewhere, "tokenizer"), FactorResult::Fail);
    // A receipt that names no tokenizer convicts nobody.
    other.receipt.tokenizer = None;
    other.receipt.prompt_tokens += 1;
    assert_eq!(
        outcome(&other.recounted()),
        (Finding::Overbilled, false, Some(20))
    );
}

#[test]
fn the_request_may_also_be_given_as_it_travelled() {
    let worker = Worker::honest(chat(), &["one"]);
    let submission = request::parse(chat().to_string().as_bytes()).unwrap();
    let travelled = submission.submission.encode().unwrap();
    let papers = Papers {
        request: &travelled,
        response: &worker.response(),
        salt: Some(salt()),
    };
    let recounted = recount(&worker.signed(), &papers, &TOKENIZER);
    assert_eq!(recounted.finding, Finding::Agrees);
}

#[test]
fn embeddings_are_their_texts_and_one_token() {
    let body = json!({"model": "m", "input": ["one two", "three"]}).to_string();
    let submission = embedding::parse(body.as_bytes()).unwrap().submission;
    let numbers = vec![vec![0.1_f32, -2.5], vec![3.0, 1.0e-7]];
    let read = ["one two", "three"].map(|text| TOKENIZER.encode_whole(text).unwrap().len());
    let mut worker = Worker::honest(chat(), &[]);
    worker.receipt.request_commitment = salt().request(&submission.encode().unwrap());
    worker.receipt.prompt_tokens = u32::try_from(read.iter().sum::<usize>()).unwrap();
    worker.receipt.output_tokens = 1;
    worker.texts = vec![encode(&numbers).unwrap()];
    let plain = json!({"object": "list", "data": [
        {"index": 0, "embedding": numbers[0]}, {"index": 1, "embedding": numbers[1]},
    ]});
    let packed = json!({"data": [
        {"embedding": cocoon_actors::job::embedding::base64(&numbers[0])},
        {"embedding": cocoon_actors::job::embedding::base64(&numbers[1])},
    ]});
    for response in [plain, packed] {
        let response = response.to_string();
        let check = |worker: &Worker| {
            let papers = Papers {
                request: body.as_bytes(),
                response: response.as_bytes(),
                salt: None,
            };
            outcome(&recount(&worker.signed(), &papers, &TOKENIZER))
        };
        assert_eq!(check(&worker), (Finding::Agrees, true, Some(0)));
        worker.receipt.output_tokens = 2;
        assert_eq!(check(&worker), (Finding::Overbilled, true, Some(160)));
        worker.receipt.output_tokens = 1;
    }
}

#[test]
fn fuzz_a_strangers_papers_never_panic_and_pass_only_if_they_say_the_same() {
    let worker = Worker::honest(chat(), &["one two three"]);
    let (opened, request, response) = (worker.signed(), chat().to_string(), worker.response());
    bolero::check!()
        .with_iterations(500)
        .for_each(|bytes: &[u8]| {
            let mut patched = response.clone();
            if let [at, rest @ ..] = bytes {
                let at = usize::from(*at) % patched.len();
                patched.splice(at.., rest.iter().copied());
            }
            for (request, response) in [
                (request.as_bytes(), bytes),
                (bytes, response.as_slice()),
                (request.as_bytes(), &patched),
            ] {
                let papers = Papers {
                    request,
                    response,
                    salt: None,
                };
                if recount(&opened, &papers, &TOKENIZER).finding.passes() {
                    assert_eq!(request, chat().to_string().as_bytes());
                    assert_eq!(read(response).unwrap().texts, worker.texts);
                }
            }
        });
}
