//! A server of a few lines that says what a test tells it to.

#![allow(unreachable_pub, reason = "shared by the modules of one test binary")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_inference::upstream::{
    LocalModel, LoopbackUrl, Patience, UpstreamConfig, UpstreamEngine,
};
use cocoon_inference::{EngineError, Prompt, Request, SamplingParams, Step};
use serde_json::Value;

use crate::support::tiny;

/// What a fake server has been asked: paths and bodies.
pub type Asked = Arc<Mutex<Vec<(String, Value)>>>;

pub struct Fake {
    pub url: String,
    pub asked: Asked,
}

/// Starts a server whose answers to `/v1/completions` (and everything else but the list of models and
/// tokenising) are written by `answer`. Its thread ends with the test's process.
pub fn serve(answer: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Asked::default();
    let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            std::thread::spawn(move || handle(stream.unwrap(), &log, answer.as_ref()));
        }
    });
    Fake { url, asked }
}

fn handle(mut stream: TcpStream, log: &Asked, answer: &dyn Fn(&mut TcpStream, &str)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if lower.starts_with("transfer-encoding:") {
            panic!("a request of unknown length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().unwrap().push((path.clone(), body));
    match path.as_str() {
        "/v1/models" => document(
            &mut stream,
            200,
            r#"{"object":"list","data":[{"id":"tiny","owned_by":"vllm","max_model_len":200}]}"#,
        ),
        "/tokenize" => document(&mut stream, 404, r#"{"error":"none"}"#),
        path => answer(&mut stream, path),
    }
}

/// A whole response.
pub fn document(stream: &mut TcpStream, status: u16, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
}

/// The head of an answer that comes in events; it ends with the connection.
pub fn begin(stream: &mut TcpStream) {
    let _ = stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n",
    );
}

/// One event.
pub fn event(stream: &mut TcpStream, data: &str) {
    let _ = stream.write_all(format!("data: {data}\n\n").as_bytes());
}

/// An event with a piece of text.
pub fn text(stream: &mut TcpStream, piece: &str) {
    let choice =
        serde_json::json!({"choices": [{"index": 0, "text": piece, "finish_reason": null}]});
    event(stream, &choice.to_string());
}

/// The end of an answer, as vLLM says it.
pub fn end(stream: &mut TcpStream, reason: &str, prompt_tokens: usize, completion_tokens: u32) {
    event(
        stream,
        &format!(r#"{{"choices":[{{"index":0,"text":"","finish_reason":"{reason}"}}]}}"#),
    );
    event(
        stream,
        &format!(
            r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens}}}}}"#
        ),
    );
    event(stream, "[DONE]");
}

/// Waits until the client hangs up. `true` if it did.
pub fn hangs_up(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

/// The tiny model's tokenizer and template. Every byte is a token there.
pub fn tiny_model() -> LocalModel {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    std::fs::write(&path, tiny::model().bytes().0).unwrap();
    LocalModel::open(&path, &mut |_, _| {}).unwrap()
}

pub fn config(url: &str) -> UpstreamConfig {
    UpstreamConfig {
        url: LoopbackUrl::parse(url).unwrap(),
        model: "tiny".to_owned(),
        key: None,
        patience: Patience {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(20),
        },
    }
}

pub fn engine(fake: &Fake) -> UpstreamEngine {
    UpstreamEngine::connect(config(&fake.url), tiny_model()).unwrap()
}

/// A request with a prompt of four tokens.
pub fn request(params: SamplingParams) -> Request {
    Request::new(
        Prompt {
            tokens: vec![72, 105, 33, 10],
        },
        params,
    )
}

/// Steps to the end: all steps, or those before the error and the error.
pub fn steps(
    engine: &dyn cocoon_inference::Engine,
    params: SamplingParams,
) -> (Vec<Step>, Option<EngineError>) {
    let mut generation = engine.start(request(params)).unwrap();
    let mut steps = vec![];
    loop {
        match generation.step() {
            Err(error) => {
                assert!(
                    matches!(generation.step(), Err(EngineError::Finished)),
                    "an error ends the generation"
                );
                return (steps, Some(error));
            }
            Ok(step) => {
                let last = step.finish.is_some();
                steps.push(step);
                if last {
                    return (steps, None);
                }
            }
        }
    }
}
