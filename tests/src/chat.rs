//! The client's OpenAI-compatible endpoint, read event by event.

use cocoon::gateway_client::AnswerDetails;
use cocoon::local_mesh::Node;
use eventsource_stream::Eventsource;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::network::MODEL_ID;

/// A request with one message, greedy.
#[must_use]
pub fn request(prompt: &str, max_tokens: u32) -> Value {
    json!({
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    })
}

/// Token counts, as billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Of the conversation after the chat template.
    pub prompt_tokens: u64,
    /// Generated.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

/// Everything a stream said, in order.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// `data:` of every event, parsed; `[DONE]` is a string.
    pub events: Vec<Value>,
    /// The pieces of text.
    pub deltas: Vec<String>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: String,
    /// Token counts.
    pub usage: Usage,
    /// Job, worker, receipt, cost.
    pub details: AnswerDetails,
}

impl Answer {
    /// What it cost, nanoTON.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.details.cost_nanoton.parse().expect("a decimal number")
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("an HTTP client")
}

async fn post(url: &str, body: &Value) -> reqwest::Response {
    http()
        .post(format!("{url}/v1/chat/completions"))
        .json(body)
        .send()
        .await
        .expect("an HTTP answer")
}

/// Streams an answer from the node at `url` to its end, whatever that is. `at_delta` is called with
/// the number of pieces of text that have come and the newest of them; the stream waits for it.
pub async fn stream(
    url: &str,
    request: &Value,
    at_delta: impl AsyncFnMut(usize, &str),
) -> Transcript {
    try_stream(url, request, at_delta).await.expect("a stream")
}

/// The same; the error is the `error.code` of an answer that did not become a stream.
pub async fn try_stream(
    url: &str,
    request: &Value,
    mut at_delta: impl AsyncFnMut(usize, &str),
) -> Result<Transcript, String> {
    let mut body = request.clone();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = post(url, &body).await;
    if !response.status().is_success() {
        let body: Value = response.json().await.expect("a JSON body");
        return Err(code_of(&body).unwrap_or_else(|| panic!("an error without a code: {body}")));
    }
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let mut events = response.bytes_stream().eventsource();
    let mut transcript = Transcript::default();
    while let Some(event) = events.next().await {
        let data = event.expect("an event").data;
        if data == "[DONE]" {
            transcript.events.push(Value::from("[DONE]"));
            continue;
        }
        let event: Value = serde_json::from_str(&data).expect("JSON in an event");
        let text = event
            .pointer("/choices/0/delta/content")
            .and_then(Value::as_str);
        let text = text.filter(|text| !text.is_empty()).map(str::to_owned);
        transcript.events.push(event);
        if let Some(text) = text {
            transcript.deltas.push(text.clone());
            at_delta(transcript.deltas.len(), &text).await;
        }
    }
    Ok(transcript)
}

fn code_of(body: &Value) -> Option<String> {
    Some(body.pointer("/error/code")?.as_str()?.to_owned())
}

/// Asks and streams to the end.
pub async fn ask(node: &Node, prompt: &str, max_tokens: u32) -> Answer {
    stream(&node.url(), &request(prompt, max_tokens), async |_, _| {})
        .await
        .complete()
}

/// Asks without streaming. The error is `error.code`.
pub async fn ask_whole(node: &Node, prompt: &str, max_tokens: u32) -> Result<Answer, String> {
    let response = post(&node.url(), &request(prompt, max_tokens)).await;
    let body: Value = response.json().await.expect("a JSON body");
    if let Some(code) = code_of(&body) {
        return Err(code);
    }
    assert_eq!(body["object"], "chat.completion");
    let text = body
        .pointer("/choices/0/message/content")
        .expect("a message");
    Ok(Answer {
        text: text.as_str().expect("text").to_owned(),
        finish_reason: body["choices"][0]["finish_reason"]
            .as_str()
            .unwrap()
            .to_owned(),
        usage: Usage::deserialize(&body["usage"]).expect("usage"),
        details: AnswerDetails::deserialize(&body["cocoon"]).expect("the object `cocoon`"),
    })
}

impl Transcript {
    /// All text.
    #[must_use]
    pub fn text(&self) -> String {
        self.deltas.concat()
    }

    /// Checks that this is a whole streamed answer, event by event as OpenAI's clients expect it, and
    /// takes it apart.
    #[must_use]
    pub fn complete(&self) -> Answer {
        let Some((done, chunks)) = self.events.split_last() else {
            panic!("an empty stream");
        };
        assert_eq!(
            done,
            "[DONE]",
            "the last event; before it: {:?}",
            chunks.last()
        );
        let Some((usage, chunks)) = chunks.split_last() else {
            panic!("nothing but [DONE]");
        };
        assert_eq!(
            usage["choices"],
            json!([]),
            "the chunk with the usage has no choice"
        );
        let Some((last, before)) = chunks.split_last() else {
            panic!("nothing but usage");
        };
        for chunk in chunks.iter().chain([usage]) {
            assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
            assert_eq!(chunk["id"], last["id"], "one answer, one id");
            assert_eq!(chunk["model"], MODEL_ID);
        }
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        for chunk in before {
            assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
            assert_eq!(chunk["usage"], Value::Null, "usage only in the last chunk");
        }
        let details = AnswerDetails::deserialize(&last["cocoon"]).expect("the object `cocoon`");
        assert_eq!(last["id"], format!("chatcmpl-{}", details.job));
        let usage = Usage::deserialize(&usage["usage"]).expect("usage");
        assert_eq!(
            usage.total_tokens,
            usage.prompt_tokens + usage.completion_tokens
        );
        Answer {
            text: self.text(),
            finish_reason: last["choices"][0]["finish_reason"]
                .as_str()
                .unwrap()
                .to_owned(),
            usage,
            details,
        }
    }

    /// Checks that the stream ended in a typed error, and nothing after it; returns `error.code` and
    /// `error.message`.
    #[must_use]
    pub fn failure(&self) -> (String, String) {
        let Some((last, before)) = self.events.split_last() else {
            panic!("an empty stream");
        };
        let error = last
            .get("error")
            .unwrap_or_else(|| panic!("no error at the end: {last}"));
        assert!(
            before
                .iter()
                .all(|event| event.get("error").is_none() && event != "[DONE]")
        );
        assert!(error["type"].is_string(), "{error}");
        let text = |name: &str| error[name].as_str().expect(name).to_owned();
        (text("code"), text("message"))
    }
}
