//! The receipt of an answer: what it states, and what `cocoon verify` makes of it and of changed ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::ReceiptDocument;
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{NanoTon, Price, Salt};
use cocoon_tests::chat::Answer;
use cocoon_tests::network::Network;
use cocoon_tests::program;
use serde_json::{Value, json};

pub(crate) fn the_receipt_says_what_happened(
    network: &Network,
    answer: &Answer,
    receipt: &Receipt,
    salt: &Salt,
) {
    let terms = network.terms(network.worker_of(&answer.details.worker));
    assert_eq!(receipt.job.to_string(), answer.details.job);
    assert_eq!(receipt.worker.to_string(), answer.details.worker);
    assert_eq!(receipt.client.to_string(), network.client.run.peer);
    assert_eq!(receipt.response_commitment, salt.response(&[&answer.text]));
    assert!(receipt.tokens_commitment.is_some() && receipt.tokenizer.is_some());
    assert_eq!(u64::from(receipt.prompt_tokens), answer.usage.prompt_tokens);
    assert_eq!(
        u64::from(receipt.output_tokens),
        answer.usage.completion_tokens
    );
    assert_eq!(receipt.amount.nano(), answer.cost());
    assert_eq!(
        receipt.cumulative, receipt.amount,
        "the first job on this channel, all of it paid"
    );
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
        "verify",
        path,
        "--json",
        "--evidence",
        "simulated",
        "--chain-url",
        &network.chain_url,
    ]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no report ({error}): {}",
            String::from_utf8_lossy(&output.stderr)
        )
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

pub(crate) async fn verify_tells_a_true_receipt_from_a_changed_one(
    network: &Network,
    answer: &Answer,
) {
    let document = network
        .client
        .http
        .receipt(&answer.details.receipt)
        .await
        .unwrap();
    let (code, report) = verify(network, &document);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["verified"], json!(true));
    assert_eq!(report["trust"], "simulated");
    assert_eq!(report["receipt"]["amount_nanoton"], json!(answer.cost()));
    let names: Vec<_> = report["factors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["name"])
        .collect();
    for name in [
        "receipt_signature",
        "receipt_amount",
        "receipt_key_attested",
        "evidence",
    ] {
        assert!(
            names.contains(&&json!(name)),
            "{name} was not looked at: {names:?}"
        );
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
    let resigned = SignedReceipt {
        signature,
        ..signed.clone()
    };
    for changed in [cheaper, resigned] {
        let document = ReceiptDocument {
            signed_receipt: BASE64.encode(changed.encode()),
            id: changed.leaf().to_string(),
            ..document.clone()
        };
        let (code, report) = verify(network, &document);
        assert_eq!(
            (code, &report["verified"]),
            (Some(1), &json!(false)),
            "{report:#}"
        );
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
    assert_eq!(
        (code, &report["verified"]),
        (Some(1), &json!(false)),
        "{report:#}"
    );
    // Without evidence nothing is known of the key.
    let without = ReceiptDocument {
        evidence: None,
        ..document
    };
    let (code, report) = verify(network, &without);
    assert_eq!(
        (code, &report["verified"]),
        (Some(1), &json!(false)),
        "{report:#}"
    );
}
