//! The client's HTTP, request by request.

use cocoon::gateway_client::AnswerDetails;
use cocoon::local_mesh::Node;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mesh::LIMIT;

/// An error as `OpenAI`'s clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Error {
    #[serde(skip)]
    pub(crate) status: u16,
    #[serde(skip)]
    pub(crate) retry_after: Option<String>,
    pub(crate) message: String,
    pub(crate) r#type: String,
    pub(crate) param: Option<String>,
    pub(crate) code: String,
}

/// An HTTP client that knows no proxy.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(LIMIT)
        .build()
        .unwrap()
}

/// An ordinary request.
pub(crate) fn chat(model: &str, question: &str, max_tokens: u32) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
    })
}

/// `POST /v1/chat/completions`.
pub(crate) async fn post(node: &Node, body: &Value) -> reqwest::Response {
    let url = format!("{}/v1/chat/completions", node.url());
    http().post(url).json(body).send().await.unwrap()
}

/// The error that an answer is, in its one form.
pub(crate) async fn error_of(response: reqwest::Response) -> Error {
    let status = response.status().as_u16();
    assert!(status >= 400, "an answer of {status} is no error");
    let retry_after = response
        .headers()
        .get("retry-after")
        .map(|value| value.to_str().unwrap().to_owned());
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.expect("a JSON body");
    let body = body.as_object().expect("an object");
    assert_eq!(body.keys().collect::<Vec<_>>(), ["error"]);
    // Null is said, not left out.
    assert!(body["error"].get("param").is_some());
    let mut error: Error = serde_json::from_value(body["error"].clone()).unwrap();
    error.status = status;
    error.retry_after = retry_after;
    error
}

/// Asks, and waits for the whole answer.
pub(crate) async fn ask(
    node: &Node,
    model: &str,
    question: &str,
    max_tokens: u32,
) -> Result<AnswerDetails, Error> {
    let response = post(node, &chat(model, question, max_tokens)).await;
    if !response.status().is_success() {
        return Err(error_of(response).await);
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["object"], "chat.completion");
    Ok(AnswerDetails::deserialize(&body["cocoon"]).unwrap())
}
