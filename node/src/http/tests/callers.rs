//! Who may call, what is remembered of a call, and what happens when the caller goes away.

use std::io::Write;
use std::sync::{Arc, Mutex};

use cocoon_actors::gateway_port::{AdminCommand, Delta, JobEvent};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::scripted::*;

async fn cancellable(first: Vec<JobEvent>) -> (Server, mpsc::UnboundedReceiver<()>) {
    let (cancelled, was_cancelled) = mpsc::unbounded_channel();
    let gateway = Arc::new(Cancellable { cancelled, first });
    let server = serve_with("127.0.0.1:0", limits(), Vec::new(), Some(gateway)).await;
    (server, was_cancelled)
}

#[tokio::test]
async fn hanging_up_in_the_middle_of_a_stream_cancels_the_job() {
    let (server, mut cancelled) = cancellable(vec![
        JobEvent::Accepted {
            worker: worker(),
            prompt_tokens: 1,
        },
        JobEvent::Delta(Delta::of("a")),
    ])
    .await;
    let mut stream = server.post(&streamed()).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    cancelled.recv().await.unwrap();
}

#[tokio::test]
async fn hanging_up_before_anything_came_cancels_the_job_too() {
    for body in [chat(), streamed()] {
        let (server, mut cancelled) = cancellable(Vec::new()).await;
        let address = server.url.strip_prefix("http://").unwrap().to_owned();
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        drop(connection);
        cancelled.recv().await.unwrap();
    }
}

#[tokio::test]
async fn the_request_id_is_echoed_or_made() {
    let server = serve(Vec::new()).await;
    let request = server.http.get(format!("{}/health", server.url));
    let echoed = request
        .header("x-request-id", "mine-42")
        .send()
        .await
        .unwrap();
    assert_eq!(echoed.headers()["x-request-id"], "mine-42");
    let made = server.get("/nowhere").await;
    assert!(
        made.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req_")
    );
}

#[tokio::test]
async fn a_page_that_rebinds_its_name_to_loopback_is_turned_away() {
    let server = serve(vec![hello()]).await;
    let request = server
        .http
        .post(format!("{}/v1/chat/completions", server.url));
    let response = request
        .header("host", "evil.example")
        .json(&chat())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 403);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "host_not_allowed");
    assert!(server.scripted.submissions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_request_without_a_host_is_turned_away() {
    let server = serve(Vec::new()).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    connection
        .write_all(b"GET /health HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.0 403"), "{reply}");
}

#[tokio::test]
async fn beyond_loopback_a_key_is_needed_for_all_but_health_and_metrics() {
    let server = serve_with("0.0.0.0:0", limits(), vec![hello()], None).await;
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.get("/metrics").await.status(), 200);
    for response in [server.get("/status.json").await, server.post(&chat()).await] {
        assert_eq!(response.status(), 401);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], "invalid_api_key");
    }
    let request = server
        .http
        .post(format!("{}/v1/chat/completions", server.url));
    let with_key = request.bearer_auth(server.api_token.reveal()).json(&chat());
    assert_eq!(with_key.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn changing_something_needs_the_admin_token() {
    let server = serve(Vec::new()).await;
    let settle = || server.http.post(format!("{}/admin/settle", server.url));
    assert_eq!(settle().send().await.unwrap().status(), 401);
    let wrong = settle()
        .bearer_auth(server.api_token.reveal())
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(server.scripted.commands.lock().unwrap().is_empty());
    let right = settle()
        .bearer_auth(server.admin_token.reveal())
        .send()
        .await
        .unwrap();
    assert_eq!(right.status(), 202);
    assert_eq!(
        *server.scripted.commands.lock().unwrap(),
        [AdminCommand::Settle]
    );
}

/// Gathers what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn not_even_the_most_talkative_log_holds_what_was_said() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // This test's runtime has one thread, so the server logs here as well.
    let guard = tracing::subscriber::set_default(subscriber);
    let server = serve(vec![
        Script::Play(vec![
            accepted(),
            delta("planted-answer"),
            finished(cocoon_actors::gateway_port::Finish::Stop),
        ]),
        Script::Play(vec![
            accepted(),
            delta("planted-answer"),
            finished(cocoon_actors::gateway_port::Finish::Stop),
        ]),
    ])
    .await;
    for mut body in [chat(), streamed()] {
        body["messages"][0]["content"] = json!("planted-prompt");
        let text = server.post(&body).await.text().await.unwrap();
        assert!(text.contains("planted-answer"));
    }
    let mut bad = chat();
    bad["messages"][0]["content"] = json!({"planted-prompt": "planted-prompt"});
    assert_eq!(server.post(&bad).await.status(), 400);
    drop(guard);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("answered"), "the log was not captured:\n{log}");
    assert!(!log.contains("planted"), "{log}");
}
