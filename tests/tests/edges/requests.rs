//! Requests that cannot be answered.

use cocoon::local_mesh::{Node, verified_workers};
use cocoon_protocol::NanoTon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{Error, ask, chat, error_of, http, post};
use crate::mesh::{MODEL, Mesh, Watched, wait};
use crate::rogue::garbage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_gets_wrong_is_told_in_openais_form_and_the_node_goes_on() {
    let Some(mesh) = Mesh::with_model().await else {
        return;
    };
    let mut client = mesh.client("client", &[("max-jobs", "1")]).await;
    nobody_there(&mut client).await;

    let worker = mesh.worker(&[]).await;
    verified_workers(&client.node, 1).await.unwrap();
    bodies(&mut client).await;
    routes(&mut client).await;
    callers(&mut client).await;
    nodes_that_take_no_jobs(&[&worker.node, &mesh.bootstrap]).await;
    assert_eq!(client.status().await.ended_jobs.get("completed"), None);
    models(&mut client).await;
    an_empty_wallet(&mut client).await;

    mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
        .await;
    ask(&client.node, MODEL, "Hello!", 8).await.unwrap();
    contexts(&mut client).await;
    one_job_too_many(&mut client).await;
    client.assert_alive("everything").await;
}

async fn nobody_there(client: &mut Watched) {
    let error = ask(&client.node, MODEL, "Is anybody there?", 8)
        .await
        .unwrap_err();
    assert_eq!(
        (error.status, error.code.as_str()),
        (503, "no_verified_worker")
    );
    assert_eq!(error.r#type, "server_error");
    assert_eq!(error.retry_after.as_deref(), Some("5"));
    let list: Value = get(&client.node, "/v1/models").await.json().await.unwrap();
    assert_eq!(list["data"], json!([]));
    client.assert_alive("a request without workers").await;
}

async fn get(node: &Node, path: &str) -> reqwest::Response {
    let url = format!("{}{path}", node.url());
    http().get(url).send().await.unwrap()
}

fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut body = chat(MODEL, "Hello!", 8);
    change(&mut body);
    body.to_string()
}

async fn bodies(client: &mut Watched) {
    let ended = client.status().await.ended_jobs;
    let json = "application/json";
    let deep = "[".repeat(200_000);
    let too_big = with(|body| body["messages"][0]["content"] = json!("x".repeat(1 << 20)));
    let too_long = with(|body| body["messages"][0]["content"] = json!("x".repeat(300_000)));
    let cases = [
        (json, "{\"model\":".to_owned(), 400, "invalid_json", None),
        (json, String::new(), 400, "invalid_json", None),
        (json, "[]".to_owned(), 400, "invalid_json", None),
        (json, deep, 400, "invalid_json", None),
        (json, "\u{0}".to_owned(), 400, "invalid_json", None),
        (json, too_big, 413, "body_too_large", None),
        (json, too_long, 400, "invalid_value", Some("messages")),
        (
            "text/plain",
            with(|_| {}),
            415,
            "unsupported_media_type",
            None,
        ),
        (
            json,
            with(|body| body["messages"] = json!([])),
            400,
            "invalid_value",
            Some("messages"),
        ),
        (
            json,
            with(|body| body["messages"] = json!("Hello!")),
            400,
            "invalid_type",
            Some("messages"),
        ),
        (
            json,
            with(|body| {
                body.as_object_mut().unwrap().remove("messages");
            }),
            400,
            "missing_required_parameter",
            Some("messages"),
        ),
        (
            json,
            with(|body| body["messages"][0]["role"] = json!("wizard")),
            400,
            "invalid_value",
            Some("messages[0].role"),
        ),
        (
            json,
            with(|body| body["temprature"] = json!(1)),
            400,
            "unknown_parameter",
            Some("temprature"),
        ),
        (
            json,
            with(|body| body["n"] = json!(9)),
            400,
            "invalid_value",
            Some("n"),
        ),
        (
            json,
            with(|body| body["tools"] = json!([{"type": "function"}])),
            400,
            "unsupported_parameter",
            Some("tools"),
        ),
        (
            json,
            with(|body| body["max_tokens"] = json!(0)),
            400,
            "invalid_value",
            Some("max_tokens"),
        ),
        (
            json,
            with(|body| body["temperature"] = json!(3)),
            400,
            "invalid_value",
            Some("temperature"),
        ),
        (
            json,
            format!("{{\"model\":\"{MODEL}\",\"model\":\"{MODEL}\",\"messages\":[]}}"),
            400,
            "repeated_parameter",
            Some("model"),
        ),
    ];
    let url = format!("{}/v1/chat/completions", client.node.url());
    for (kind, body, status, code, param) in cases {
        let sending = http().post(&url).header("content-type", kind).body(body);
        let error = error_of(sending.send().await.unwrap()).await;
        let told = (error.status, error.code.as_str(), error.param.as_deref());
        assert_eq!(told, (status, code, param), "{}", error.message);
        assert_eq!(error.r#type, "invalid_request_error");
        client.assert_alive(&error.message).await;
    }
    assert_eq!(client.status().await.ended_jobs, ended, "none was a job");
}

async fn routes(client: &mut Watched) {
    let node = &client.node;
    let url = |path: &str| format!("{}{path}", node.url());
    let wrong = get(node, "/v1/chat/completions").await;
    assert_eq!(wrong.headers()["allow"], "POST");
    assert_code(wrong, 405, "method_not_allowed").await;
    let wrong = http().delete(url("/v1/models")).send().await.unwrap();
    assert_code(wrong, 405, "method_not_allowed").await;
    for path in [
        "/v1/audio/speech",
        "/",
        "/v1/chat/completions/x",
        "/../etc/passwd",
    ] {
        assert_code(get(node, path).await, 404, "unknown_url").await;
    }
    assert_code(
        get(node, "/v1/models/no-such-model").await,
        404,
        "model_not_found",
    )
    .await;
    assert_code(get(node, "/v1/receipts/x").await, 400, "invalid_value").await;
    let nobodys = format!("/v1/receipts/{}", "7".repeat(64));
    assert_code(get(node, &nobodys).await, 404, "receipt_not_found").await;
    client.assert_alive("wrong routes and methods").await;
}

async fn assert_code(response: reqwest::Response, status: u16, code: &str) {
    let error = error_of(response).await;
    assert_eq!((error.status, error.code.as_str()), (status, code));
}

async fn callers(client: &mut Watched) {
    let node = &client.node;
    let url = format!("{}/v1/chat/completions", node.url());
    for host in ["evil.example", "10.0.0.1", "127.0.0.1.evil.example"] {
        let request = http()
            .post(&url)
            .header("host", host)
            .json(&chat(MODEL, "Hello!", 8));
        assert_code(request.send().await.unwrap(), 403, "host_not_allowed").await;
    }
    for what in ["settle", "shutdown"] {
        let request = http().post(format!("{}/admin/{what}", node.url()));
        let request = request.bearer_auth("a guess");
        assert_code(request.send().await.unwrap(), 401, "invalid_api_key").await;
    }
    // No HTTP at all, and one that never ends.
    for bytes in [garbage(2_000), [b'G'; 100_000].to_vec()] {
        let mut socket = TcpStream::connect(node.run.http).await.unwrap();
        // The node may close before it has read everything.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    }
    client.assert_alive("callers that may not").await;
}

async fn nodes_that_take_no_jobs(nodes: &[&Node]) {
    for node in nodes {
        let response = post(node, &chat(MODEL, "Hello!", 8)).await;
        assert_code(response, 404, "no_gateway_here").await;
    }
}

async fn models(client: &mut Watched) {
    let error = ask(&client.node, "gpt-9", "Hello!", 8).await.unwrap_err();
    assert_eq!(
        (error.status, error.code.as_str()),
        (404, "model_not_found")
    );
    assert_eq!(error.param.as_deref(), Some("model"));
    assert!(error.message.contains("gpt-9") && error.message.contains(MODEL));
    client.assert_alive("a model nobody serves").await;
}

async fn contexts(client: &mut Watched) {
    // More tokens than bytes there cannot be: a bound by bytes lets this through, and the worker
    // counts. It is longer than the model's context, whatever the tokenizer makes of it.
    let long = "1 2 3 4 5 6 7 8 9 ".repeat(2_000);
    let error = ask(&client.node, MODEL, &long, 8).await.unwrap_err();
    assert_too_long(&error);
    // An answer that would not fit beside any prompt.
    let error = ask(&client.node, MODEL, "Hello!", u32::MAX)
        .await
        .unwrap_err();
    assert_too_long(&error);
    client.assert_alive("a context that is too long").await;
}

fn assert_too_long(error: &Error) {
    assert_eq!(
        (error.status, error.code.as_str(), error.param.as_deref()),
        (400, "context_length_exceeded", Some("messages")),
        "{}",
        error.message
    );
}

async fn an_empty_wallet(client: &mut Watched) {
    let wallet = client.node.wallet().unwrap().to_string();
    for _ in 0..3 {
        let error = ask(&client.node, MODEL, "Hello!", 8).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (402, "payment_failed"));
        assert_eq!(error.r#type, "insufficient_quota");
        assert!(error.message.contains(&wallet), "{}", error.message);
        // A deposit of one TON, and the fees at the chain's prices: a few thousandths.
        for amount in ["less than 1.00", "holds 0.000000000 TON"] {
            assert!(error.message.contains(amount), "{}", error.message);
        }
    }
    let status = client.status().await;
    assert!(
        status
            .channels
            .iter()
            .all(|channel| channel.deposit_nanoton == 0),
        "nothing was deposited: {:?}",
        status.channels
    );
    client.assert_alive("an empty wallet").await;
}

async fn one_job_too_many(client: &mut Watched) {
    let mut long = chat(MODEL, "Tell me a long story.", 400);
    long["stream"] = json!(true);
    let held = post(&client.node, &long).await;
    assert_eq!(held.status(), 200, "streamed once a worker has taken it");
    let error = ask(&client.node, MODEL, "Hello!", 8).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (429, "too_many_jobs"));
    assert_eq!(error.r#type, "rate_limit_error");
    assert_eq!(error.retry_after.as_deref(), Some("1"));
    client.assert_alive("one job too many").await;
    // Who hangs up has cancelled, and the place is free again.
    drop(held);
    wait("the first job is cancelled", async || {
        let ended = client.status().await.ended_jobs;
        ended.get("cancelled") == Some(&1)
    })
    .await;
    ask(&client.node, MODEL, "Hello!", 8).await.unwrap();
}
