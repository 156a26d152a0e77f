//! `POST /v1/embeddings`.

use cocoon_actors::gateway_port::{Finish, GatewayError, JobEvent, Pooling};
use serde_json::{Value, json};

use super::scripted::*;

fn texts() -> Value {
    json!({"model": "org/model", "input": ["a", "b"]})
}

fn numbers() -> Script {
    Script::Play(vec![
        accepted(),
        Step::Emit(JobEvent::Embeddings(vec![vec![1.0, -0.5], vec![0.1, 2.0]])),
        finished(Finish::Stop),
    ])
}

#[tokio::test]
async fn embeddings_come_as_a_list_of_numbers() {
    let server = serve(vec![numbers()]).await;
    let response = server.post_to("/v1/embeddings", &texts()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-cocoon-job"], "ab".repeat(16).as_str());
    let list: Value = response.json().await.unwrap();
    assert_eq!(
        list,
        json!({
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [1.0, -0.5]},
                {"object": "embedding", "index": 1, "embedding": [0.1, 2.0]},
            ],
            "model": "org/model",
            "usage": {"prompt_tokens": 11, "total_tokens": 11},
            "cocoon": {
                "job": "ab".repeat(16),
                "worker": worker().to_string(),
                "receipt": "cd".repeat(32),
                "cost_nanoton": "540",
            },
        })
    );
    let submissions = server.scripted.submissions.lock().unwrap();
    let wish = submissions[0].embedding.as_ref().unwrap();
    assert_eq!((wish.input.len(), wish.pooling), (2, Pooling::Mean));
}

#[tokio::test]
async fn or_as_base64_of_little_endian_floats_as_sdks_ask_for() {
    let server = serve(vec![numbers()]).await;
    let mut body = texts();
    body["encoding_format"] = json!("base64");
    let response = server.post_to("/v1/embeddings", &body).await;
    let list: Value = response.json().await.unwrap();
    assert_eq!(list["data"][0]["embedding"], "AACAPwAAAL8=");
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_the_usual_form() {
    let lost = GatewayError::WorkerLost {
        peer: worker(),
        tokens_received: 0,
    };
    let server = serve(vec![
        Script::Refuse(GatewayError::ShuttingDown),
        Script::Play(vec![accepted(), failed(lost)]),
        Script::Play(vec![accepted(), finished(Finish::Stop)]),
        Script::Play(vec![accepted(), Step::Vanish]),
    ])
    .await;
    for (status, code) in [
        (503, "shutting_down"),
        (502, "worker_lost"),
        (500, "internal_error"),
        (500, "internal_error"),
    ] {
        let response = server.post_to("/v1/embeddings", &texts()).await;
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
    let bad = json!({"model": "m", "input": "a", "dimensions": 3});
    let response = server.post_to("/v1/embeddings", &bad).await;
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["param"], "dimensions");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let line = "cocoon_http_requests_total{route=\"/v1/embeddings\",status=\"400\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}
