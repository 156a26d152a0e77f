//! Receipts, signatures and attestation, and the numbers of tokens that go with them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{Delta, Finish, JobEvent};
use cocoon_protocol::receipt::RECEIPT_DOMAIN;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};

use super::scripted::*;

fn named(choice: u8, text: &str, ids: &[u32]) -> Step {
    Step::Emit(JobEvent::Delta(Delta {
        choice,
        ids: ids.to_vec(),
        ..Delta::of(text)
    }))
}

fn numbered() -> Script {
    Script::Play(vec![
        accepted(),
        named(1, "Bon", &[21]),
        named(0, "", &[11]),
        named(0, "Hello", &[12, 13]),
        all_finished(vec![Finish::Stop, Finish::Stop]),
    ])
}

fn asking() -> Value {
    let mut body = chat();
    body["n"] = json!(2);
    body["return_token_ids"] = json!(true);
    body
}

#[tokio::test]
async fn numbers_of_tokens_come_whole_if_they_are_asked_for() {
    let server = serve(vec![numbered(), numbered(), hello()]).await;
    let answer: Value = server.post(&asking()).await.json().await.unwrap();
    let ids = |answer: &Value, choice: usize| answer["choices"][choice].get("token_ids").cloned();
    assert_eq!(ids(&answer, 0), Some(json!([11, 12, 13])));
    assert_eq!(ids(&answer, 1), Some(json!([21])));
    let mut body = asking();
    body["return_token_ids"] = json!(false);
    let answer: Value = server.post(&body).await.json().await.unwrap();
    assert_eq!(ids(&answer, 0), None);
    // A worker whose engine has none: it is said, and not made up.
    let mut body = chat();
    body["return_token_ids"] = json!(true);
    let answer: Value = server.post(&body).await.json().await.unwrap();
    assert_eq!(ids(&answer, 0), Some(Value::Null));
    // Nothing of it travels to the worker.
    let submissions = server.scripted.submissions.lock().unwrap();
    assert_eq!(submissions[0], submissions[1]);
}

#[tokio::test]
async fn numbers_of_tokens_come_with_the_chunks_of_a_stream() {
    let server = serve(vec![numbered(), numbered()]).await;
    let mut body = asking();
    body["stream"] = json!(true);
    let chunks = |events: Vec<String>| -> Vec<Value> {
        let chunks = events.iter().filter(|event| *event != "[DONE]");
        chunks
            .map(|event| serde_json::from_str::<Value>(event).unwrap()["choices"][0].clone())
            .collect()
    };
    let choices = chunks(events(server.post(&body).await).await);
    let told: Vec<_> = choices
        .iter()
        .filter_map(|one| one.get("token_ids"))
        .collect();
    assert_eq!(told, [&json!([21]), &json!([11]), &json!([12, 13])]);
    // Who does not ask sees no chunk that says nothing.
    body["return_token_ids"] = json!(false);
    let quiet = chunks(events(server.post(&body).await).await);
    assert!(quiet.iter().all(|one| one.get("token_ids").is_none()));
    assert_eq!(quiet.len(), choices.len() - 1);
}

#[tokio::test]
async fn a_whole_answer_names_its_receipt_in_a_header_and_a_stream_at_its_end() {
    let server = serve(vec![hello(), hello()]).await;
    let whole = server.post(&chat()).await;
    assert_eq!(whole.headers()["x-receipt-id"], "cd".repeat(32).as_str());
    let streamed = server.post(&streamed()).await;
    assert!(streamed.headers().get("x-receipt-id").is_none());
    let events = events(streamed).await;
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(last["cocoon"]["receipt"], "cd".repeat(32));
}

#[tokio::test]
async fn the_salt_is_told_only_to_who_asks_for_it() {
    let server = serve(Vec::new()).await;
    let id = signed_receipt().leaf().to_string();
    let get = async |query: &str| {
        let path = format!("/v1/receipts/{id}{query}");
        let response = server.get(&path).await;
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    for sealed in ["", "?open=false"] {
        let (status, document) = get(sealed).await;
        assert_eq!((status, document.get("salt")), (200, None));
    }
    assert_eq!(get("?open=true").await.1["salt"], "5a".repeat(32));
    for odd in ["?open=1", "?opn=true"] {
        let (status, error) = get(odd).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (400, &json!("invalid_query"))
        );
    }
}

#[tokio::test]
async fn a_signature_can_be_checked_by_anybody_who_knows_ed25519() {
    let server = serve(Vec::new()).await;
    let id = format!("chatcmpl-{}", "ab".repeat(16));
    let path = format!("/v1/signature/{id}");
    for query in ["", "?signing_algo=ed25519&model=org/model"] {
        let body: Value = server
            .get(&format!("{path}{query}"))
            .await
            .json()
            .await
            .unwrap();
        let hex = |name: &str| hex::decode(body[name].as_str().unwrap()).unwrap();
        let key: [u8; 32] = hex("signing_address").try_into().unwrap();
        let signature: [u8; 64] = hex("signature").try_into().unwrap();
        let signed = BASE64
            .decode(body["signed_bytes_b64"].as_str().unwrap())
            .unwrap();
        VerifyingKey::from_bytes(&key)
            .unwrap()
            .verify_strict(&signed, &Signature::from_bytes(&signature))
            .unwrap();
        assert!(signed.starts_with(RECEIPT_DOMAIN));
        assert_eq!(body["text"], Value::Null);
        assert_eq!(body["signing_algo"], "ed25519");
        assert_eq!(body["receipt_id"], signed_receipt().leaf().to_string());
        assert_eq!(body["receipt"]["job"], "ab".repeat(16));
        assert_eq!(body["receipt"].get("salt"), None);
    }
    for (path, status, code) in [
        (
            format!("{path}?signing_algo=ecdsa"),
            400,
            "unsupported_signing_algo",
        ),
        (
            format!("/v1/signature/{}", "00".repeat(16)),
            404,
            "receipt_not_found",
        ),
        ("/v1/signature/nonsense".to_owned(), 400, "invalid_value"),
    ] {
        let response = server.get(&path).await;
        assert_eq!(response.status(), status, "{path}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
}

#[tokio::test]
async fn the_attestation_report_is_of_the_workers_and_claims_no_freshness_it_has_not() {
    let server = serve(Vec::new()).await;
    let nonce = "0f".repeat(32);
    let path = format!("/v1/attestation/report?model=org/model&nonce={nonce}&signing_algo=ed25519");
    let report: Value = server.get(&path).await.json().await.unwrap();
    assert_eq!(report["gateway_attestation"], Value::Null);
    let workers = report["model_attestations"].as_array().unwrap();
    assert_eq!(workers.len(), 1);
    let one = &workers[0];
    let wanted = attested_worker();
    let claims = &wanted.bundle.claims;
    assert_eq!(one["signing_address"], hex::encode(claims.receipt_key));
    assert_eq!(one["intel_quote"], hex::encode("quote"));
    assert_eq!(one["report_data"], hex::encode(claims.report_data()));
    for absent in ["request_nonce", "event_log", "nvidia_payload", "info"] {
        assert_eq!(one.get(absent), Some(&Value::Null), "{absent}");
    }
    let cocoon = &one["cocoon"];
    assert_eq!(cocoon["beacon"]["seqno"], 9);
    assert_eq!(cocoon["collateral"], json!({"tcb_info": ""}));
    assert_eq!(cocoon["event_log_b64"], BASE64.encode("log"));
    assert_eq!(cocoon["gpu_evidence_b64"], Value::Null);
    let bundle = BASE64
        .decode(cocoon["evidence_bundle_b64"].as_str().unwrap())
        .unwrap();
    assert_eq!(bundle, wanted.bundle.encode());
    let factors = cocoon["factors"].as_array().unwrap();
    assert_eq!(factors.len(), wanted.verdict.factors.len());
    assert_eq!(factors[0]["name"], "quote_size");
    // What did not pass is not claimed.
    for (name, claim) in one["claims"].as_object().unwrap() {
        assert_eq!(claim, &json!({"status": "unknown"}), "{name}");
    }
}

#[tokio::test]
async fn claims_are_asserted_where_the_factors_behind_them_passed() {
    let server = serve(Vec::new()).await;
    let report: Value = server
        .get("/v1/attestation/report?model=org/proven")
        .await
        .json()
        .await
        .unwrap();
    let claims = report["model_attestations"][0]["claims"]
        .as_object()
        .unwrap();
    assert_eq!(claims.len(), 6);
    for (name, claim) in claims {
        if name == "gpu_attested" {
            assert_eq!(claim["status"], "unknown");
            continue;
        }
        assert_eq!(claim["status"], "asserted", "{name}");
        let derived = name == "tcb_up_to_date";
        let source = if derived {
            "verifier_derived"
        } else {
            "hardware_proven"
        };
        assert_eq!(claim["source"], source, "{name}");
    }
}

#[tokio::test]
async fn a_report_that_cannot_be_given_is_refused_by_name() {
    let server = serve(Vec::new()).await;
    let key = hex::encode(receipt_key().verifying_key().to_bytes());
    let found = format!("/v1/attestation/report?signing_address={key}");
    assert_eq!(server.get(&found).await.status(), 200);
    for (query, status, code) in [
        ("nonce=00", 400, "invalid_nonce"),
        (&format!("nonce={}", "0F".repeat(32)), 400, "invalid_nonce"),
        ("signing_algo=ecdsa", 400, "unsupported_signing_algo"),
        ("model=org/other", 404, "no_attestation"),
        ("signing_address=00", 404, "no_attestation"),
    ] {
        let response = server.get(&format!("/v1/attestation/report?{query}")).await;
        assert_eq!(response.status(), status, "{query}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
}
