//! What goes wrong, and that it is told in `OpenAI`'s form.

use std::sync::Arc;

use cocoon_actors::gateway_port::{Finish, GatewayError};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::scripted::*;

async fn error_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = body["error"].as_object().unwrap();
    let mut names: Vec<_> = error.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "message", "param", "type"]);
    (status, body["error"].clone())
}

fn every_gateway_error() -> Vec<(
    GatewayError,
    u16,
    &'static str,
    &'static str,
    Option<&'static str>,
)> {
    let peer = worker();
    let invalid = "invalid_request_error";
    vec![
        (
            GatewayError::UnknownModel {
                model: "m".to_owned(),
                available: vec!["a".to_owned()],
            },
            404,
            invalid,
            "model_not_found",
            Some("model"),
        ),
        (
            GatewayError::NoVerifiedWorker { seen: 2 },
            503,
            "server_error",
            "no_verified_worker",
            None,
        ),
        (
            GatewayError::AllWorkersBusy {
                asked: 3,
                retry_after_ms: 1500,
            },
            503,
            "server_error",
            "all_workers_busy",
            None,
        ),
        (
            GatewayError::WorkerLost {
                peer,
                tokens_received: 0,
            },
            502,
            "server_error",
            "worker_lost",
            None,
        ),
        (
            GatewayError::WorkerFailed {
                peer,
                reason: "engine".to_owned(),
            },
            502,
            "server_error",
            "worker_failed",
            None,
        ),
        (
            GatewayError::ContextTooLong {
                model: "m".to_owned(),
                prompt_tokens: 9000,
                limit_tokens: 2048,
            },
            400,
            invalid,
            "context_length_exceeded",
            Some("messages"),
        ),
        (
            GatewayError::BadRequest {
                field: Some("seed".to_owned()),
                message: "no".to_owned(),
            },
            400,
            invalid,
            "invalid_value",
            Some("seed"),
        ),
        (
            GatewayError::PaymentFailed {
                reason: "wallet is empty".to_owned(),
            },
            402,
            "insufficient_quota",
            "payment_failed",
            None,
        ),
        (
            GatewayError::Overloaded { limit: 5 },
            429,
            "rate_limit_error",
            "too_many_jobs",
            None,
        ),
        (
            GatewayError::TimedOut { after_ms: 100 },
            504,
            "server_error",
            "timed_out",
            None,
        ),
        (
            GatewayError::ShuttingDown,
            503,
            "server_error",
            "shutting_down",
            None,
        ),
        (
            GatewayError::Internal {
                reason: "bug".to_owned(),
            },
            500,
            "server_error",
            "internal_error",
            None,
        ),
    ]
}

#[tokio::test]
async fn each_gateway_error_before_the_first_token_has_its_own_status_even_in_a_stream() {
    for (error, status, kind, code, param) in every_gateway_error() {
        let server = serve(vec![
            Script::Refuse(error.clone()),
            Script::Play(vec![failed(error.clone())]),
            Script::Play(vec![failed(error.clone())]),
        ])
        .await;
        for body in [chat(), chat(), streamed()] {
            let (got, said) = error_of(server.post(&body).await).await;
            assert_eq!(got, status, "{error}");
            assert_eq!(said["type"], kind);
            assert_eq!(said["code"], code);
            assert_eq!(said["param"], json!(param));
            assert_eq!(said["message"], error.to_string());
        }
    }
}

#[tokio::test]
async fn where_trying_again_helps_the_answer_says_when() {
    let busy = GatewayError::AllWorkersBusy {
        asked: 3,
        retry_after_ms: 1500,
    };
    let server = serve(vec![Script::Refuse(busy)]).await;
    assert_eq!(server.post(&chat()).await.headers()["retry-after"], "2");
}

#[tokio::test]
async fn one_job_too_many_is_told_to_come_back_and_the_place_is_free_again_later() {
    let release = Arc::new(Notify::new());
    let held = || {
        Script::Play(vec![
            accepted(),
            Step::Hold(release.clone()),
            finished(Finish::Stop),
        ])
    };
    let server = serve(vec![held(), held(), hello()]).await;
    let first = server.post(&streamed()).await;
    let second = server.post(&streamed()).await;
    let third = server.post(&chat()).await;
    assert_eq!(third.headers()["retry-after"], "1");
    let (status, error) = error_of(third).await;
    assert_eq!((status, &error["code"]), (429, &json!("too_many_jobs")));
    release.notify_waiters();
    for response in [first, second] {
        assert_eq!(events(response).await.last().unwrap(), "[DONE]");
    }
    assert_eq!(server.post(&chat()).await.status(), 200);
}

#[tokio::test]
async fn a_body_that_is_not_a_chat_request_never_becomes_a_job() {
    let server = serve(Vec::new()).await;
    let url = format!("{}/v1/chat/completions", server.url);
    let send = |kind: &'static str, body: String| {
        server
            .http
            .post(&url)
            .header("content-type", kind)
            .body(body)
            .send()
    };
    let json = "application/json";
    let too_big = format!("{{\"model\":\"{}\"}}", "x".repeat(5000));
    for (kind, body, status, code) in [
        (json, "{\"model\":".to_owned(), 400, "invalid_json"),
        (json, String::new(), 400, "invalid_json"),
        (json, "[]".to_owned(), 400, "invalid_json"),
        (json, "\u{0}\u{1}".to_owned(), 400, "invalid_json"),
        (json, too_big, 413, "body_too_large"),
        (
            "text/plain",
            chat().to_string(),
            415,
            "unsupported_media_type",
        ),
    ] {
        let (got, error) = error_of(send(kind, body).await.unwrap()).await;
        assert_eq!((got, &error["code"]), (status, &json!(code)));
        assert_eq!(error["type"], "invalid_request_error");
    }
    let mut empty = chat();
    empty["messages"] = json!([]);
    let (status, error) = error_of(server.post(&empty).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("messages")));
    let mut unknown = chat();
    unknown["tools"] = json!([{}]);
    let (status, error) = error_of(server.post(&unknown).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("tools")));
    assert!(server.scripted.submissions.lock().unwrap().is_empty());
    assert_eq!(server.get("/health").await.status(), 200);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_in_the_same_form() {
    let server = serve(Vec::new()).await;
    let (status, error) = error_of(server.get("/v1/images").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("unknown_url")));
    let wrong = server.get("/v1/chat/completions").await;
    assert_eq!(wrong.headers()["allow"], "POST");
    let (status, error) = error_of(wrong).await;
    assert_eq!(
        (status, &error["code"]),
        (405, &json!("method_not_allowed"))
    );
}

#[tokio::test]
async fn a_node_without_a_gateway_says_so() {
    // A worker serves status and metrics and takes no jobs over HTTP.
    let server = serve_without_gateway().await;
    let (status, error) = error_of(server.post(&chat()).await).await;
    assert_eq!((status, &error["code"]), (404, &json!("no_gateway_here")));
    assert_eq!(server.get("/status.json").await.status(), 200);
}
