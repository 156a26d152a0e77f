//! What a good request gets.

use std::sync::Arc;

use cocoon_actors::gateway_port::{Finish, GatewayError};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::scripted::*;
use crate::http::HttpLimits;

fn parse(events: &[String]) -> Vec<Value> {
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

#[tokio::test]
async fn a_stream_is_role_then_text_then_reason_then_done() {
    let server = serve(vec![hello()]).await;
    let response = server.post(&streamed()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-cocoon-job"], "ab".repeat(16).as_str());
    let mut events = events(response).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks = parse(&events);
    for chunk in &chunks {
        assert_eq!(chunk["id"], format!("chatcmpl-{}", "ab".repeat(16)));
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "org/model");
        assert!(chunk["created"].as_u64().unwrap() > 1_600_000_000);
        assert!(chunk.get("usage").is_none());
    }
    let deltas: Vec<_> = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"].clone())
        .collect();
    assert_eq!(
        deltas,
        [
            json!({"role": "assistant", "content": ""}),
            json!({"content": "Hel"}),
            json!({"content": "lo"}),
            json!({}),
        ]
    );
    let reasons: Vec<_> = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["finish_reason"].clone())
        .collect();
    assert_eq!(
        reasons,
        [Value::Null, Value::Null, Value::Null, json!("stop")]
    );
    assert_eq!(
        chunks[3]["cocoon"],
        json!({
            "job": "ab".repeat(16),
            "worker": worker().to_string(),
            "receipt": "cd".repeat(32),
            "cost_nanoton": "540",
        })
    );
    assert!(chunks[0].get("cocoon").is_none());
}

#[tokio::test]
async fn usage_comes_in_one_more_chunk_when_asked_for() {
    let server = serve(vec![hello()]).await;
    let mut body = streamed();
    body["stream_options"] = json!({"include_usage": true});
    let mut events = events(server.post(&body).await).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut chunks = parse(&events);
    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"],
        json!({"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13})
    );
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.get("usage") == Some(&Value::Null))
    );
}

#[tokio::test]
async fn without_streaming_the_answer_comes_whole() {
    let server = serve(vec![Script::Play(vec![
        accepted(),
        delta("Hel"),
        delta("lo"),
        finished(Finish::Length),
    ])])
    .await;
    let response = server.post(&chat()).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": null},
            "finish_reason": "length",
            "logprobs": null,
        }])
    );
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13})
    );
    assert_eq!(answer["cocoon"]["cost_nanoton"], "540");
    assert_eq!(server.scripted.submissions.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_lost_before_any_text_may_be_replaced_unseen() {
    let server = serve(vec![Script::Play(vec![
        accepted(),
        accepted(),
        delta("x"),
        finished(Finish::Stop),
    ])])
    .await;
    let events = events(server.post(&streamed()).await).await;
    let roles = parse(&events[..events.len() - 1])
        .iter()
        .filter(|chunk| chunk["choices"][0]["delta"].get("role").is_some())
        .count();
    assert_eq!(roles, 1);
}

#[tokio::test]
async fn a_worker_lost_in_the_middle_ends_the_stream_with_an_error_and_without_done() {
    let lost = GatewayError::WorkerLost {
        peer: worker(),
        tokens_received: 1,
    };
    let server = serve(vec![Script::Play(vec![
        accepted(),
        delta("Hel"),
        failed(lost),
    ])])
    .await;
    let response = server.post(&streamed()).await;
    assert_eq!(response.status(), 200);
    let events = events(response).await;
    assert!(!events.contains(&"[DONE]".to_owned()));
    let chunks = parse(&events);
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"], "Hel");
    let error = &chunks.last().unwrap()["error"];
    assert_eq!(error["code"], "worker_lost");
    assert_eq!(error["type"], "server_error");
    assert_eq!(error["param"], Value::Null);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains(&worker().to_string())
    );
}

#[tokio::test]
async fn a_gateway_that_vanishes_in_the_middle_is_an_internal_error_not_a_silent_end() {
    let server = serve(vec![Script::Play(vec![
        accepted(),
        delta("Hel"),
        Step::Vanish,
    ])])
    .await;
    let events = events(server.post(&streamed()).await).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "internal_error");
}

#[tokio::test]
async fn a_worker_lost_in_the_middle_of_a_whole_answer_is_a_bad_gateway() {
    let lost = GatewayError::WorkerLost {
        peer: worker(),
        tokens_received: 1,
    };
    let server = serve(vec![Script::Play(vec![
        accepted(),
        delta("Hel"),
        failed(lost),
    ])])
    .await;
    let response = server.post(&chat()).await;
    assert_eq!(response.status(), 502);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "worker_lost");
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_with_comments() {
    let release = Arc::new(Notify::new());
    let script = Script::Play(vec![
        accepted(),
        Step::Hold(release.clone()),
        delta("late"),
        finished(Finish::Stop),
    ]);
    let limits = HttpLimits {
        keep_alive: std::time::Duration::from_millis(5),
        ..super::scripted::limits()
    };
    let server = serve_with("127.0.0.1:0", limits, vec![script], None).await;
    let mut bytes = server.post(&streamed()).await.bytes_stream();
    let mut seen = String::new();
    while !seen.contains("\n: keep-alive\n") && !seen.starts_with(": keep-alive\n") {
        seen.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
    }
    release.notify_one();
    while let Some(more) = bytes.next().await {
        seen.push_str(std::str::from_utf8(&more.unwrap()).unwrap());
    }
    assert!(
        seen.contains("late") && seen.ends_with("data: [DONE]\n\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn models_are_listed_and_found_by_an_id_with_a_slash() {
    let server = serve(Vec::new()).await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "org/model");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(list["data"][0]["cocoon"]["price_output_nanoton"], "160");
    let one: Value = server
        .get("/v1/models/org/model")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(one, list["data"][0]);
    let none = server.get("/v1/models/nobody").await;
    assert_eq!(none.status(), 404);
    let body: Value = none.json().await.unwrap();
    assert_eq!(body["error"]["code"], "model_not_found");
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("org/model")
    );
}

#[tokio::test]
async fn a_receipt_is_found_by_the_completions_id() {
    let server = serve(Vec::new()).await;
    for id in [format!("chatcmpl-{}", "ab".repeat(16)), "ab".repeat(16)] {
        let receipt: Value = server
            .get(&format!("/v1/receipts/{id}"))
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(receipt["job"], "ab".repeat(16));
        assert_eq!(receipt["format"], "cocoon-receipt/2");
    }
    assert_eq!(
        server
            .get(&format!("/v1/receipts/{}", "00".repeat(16)))
            .await
            .status(),
        404
    );
    assert_eq!(server.get("/v1/receipts/nonsense").await.status(), 400);
    assert_eq!(server.get("/v1/receipts/%ff").await.status(), 400);
}

#[tokio::test]
async fn health_status_and_metrics_are_served() {
    let server = serve(Vec::new()).await;
    let health: Value = server.get("/health").await.json().await.unwrap();
    assert_eq!(health["status"], "ok");
    let status: Value = server.get("/status.json").await.json().await.unwrap();
    assert_eq!(status["role"], "client");
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = metrics.text().await.unwrap();
    for line in [
        "cocoon_build_info{",
        "cocoon_peers 0",
        "cocoon_http_requests_total{route=\"/health\",status=\"200\"} 1",
    ] {
        assert!(text.contains(line), "missing {line} in\n{text}");
    }
}
