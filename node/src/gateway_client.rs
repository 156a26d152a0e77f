//! A client of a node's HTTP: what `cocoon chat` and `cocoon status` talk through.

use cocoon_actors::gateway_port::{Funds, NodeStatus, ReceiptDocument};
use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt};
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where a node's HTTP is unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:10000";

/// Why a node gave no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there.
    #[error(
        "no node answers at {url} ({reason}); start one with `cocoon run --role client`, or name another with --url"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// The node said no.
    #[error("{message} [{code}]")]
    Refused {
        /// `error.code`.
        code: String,
        /// `error.message`.
        message: String,
    },
    /// The answer broke off.
    #[error("the answer broke off: {reason}")]
    Broken {
        /// What the transport said.
        reason: String,
    },
    /// Not something that a node of this version says.
    #[error("{url} answered something that is not from a cocoon node: {reason}")]
    NotANode {
        /// Where.
        url: String,
        /// What is odd about it.
        reason: String,
    },
    /// The HTTP client cannot be built.
    #[error("cannot start an HTTP client: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
}

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatPart {
    /// More text.
    Text(String),
    /// The end, with the `cocoon` object of the chunk.
    Finished {
        /// `stop` or `length`.
        reason: String,
        /// Job, worker, receipt, cost.
        details: AnswerDetails,
    },
    /// Token counts: prompt, completion.
    Usage(u64, u64),
}

/// The `cocoon` object of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AnswerDetails {
    /// The job.
    pub job: String,
    /// Peer id.
    pub worker: String,
    /// For `GET /v1/receipts/{id}`.
    pub receipt: String,
    /// nanoTON, decimal.
    pub cost_nanoton: String,
}

/// Talks to one node.
#[derive(Clone, Debug)]
pub struct GatewayClient {
    http: reqwest::Client,
    base: String,
    api_key: Option<String>,
}

impl GatewayClient {
    /// For the node at `base`.
    ///
    /// # Errors
    /// [`ClientError::Setup`].
    pub fn new(base: &str, api_key: Option<String>) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            // A proxy from the environment would not find loopback, and must not see prompts.
            .no_proxy()
            .build()
            .map_err(|error| ClientError::Setup {
                reason: error.to_string(),
            })?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            api_key,
        })
    }

    /// `GET /status.json`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get("/status.json").await
    }

    /// `GET /funds.json`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn funds(&self) -> Result<Funds, ClientError> {
        self.get("/funds.json").await
    }

    /// `GET /v1/receipts/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn receipt(&self, id: &str) -> Result<ReceiptDocument, ClientError> {
        self.get(&format!("/v1/receipts/{id}")).await
    }

    /// The same with the salt, which opens the receipt's commitments.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open_receipt(&self, id: &str) -> Result<ReceiptDocument, ClientError> {
        self.get(&format!("/v1/receipts/{id}?open=true")).await
    }

    /// `POST /admin/{what}` with the admin token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn admin(&self, what: &str, token: &str) -> Result<(), ClientError> {
        let url = format!("{}/admin/{what}", self.base);
        self.send(self.http.post(url).bearer_auth(token))
            .await
            .map(drop)
    }

    /// Ids of the models that are served now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let list: List = self.get("/v1/models").await?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// `POST /v1/chat/completions`, answered whole.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chat(&self, body: &Value) -> Result<Value, ClientError> {
        let response = self.post(body).await?;
        self.read(response).await
    }

    /// `POST /v1/chat/completions` with `stream: true` in `body`.
    ///
    /// # Errors
    /// [`ClientError`], here for what goes wrong before the first part and in the stream for the
    /// rest. A stream that ends without `[DONE]` ends in an error.
    pub async fn stream(
        &self,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<ChatPart, ClientError>> + use<>, ClientError> {
        let response = self.post(body).await?;
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return Err(self.odd("no event stream"));
        }
        let base = self.base.clone();
        let mut done = false;
        let end = futures::stream::once(async { None });
        Ok(response
            .bytes_stream()
            .eventsource()
            .map(Some)
            .chain(end)
            .map(move |event| match event {
                Some(Ok(event)) if event.data == "[DONE]" => {
                    done = true;
                    Vec::new()
                }
                Some(Ok(event)) => parts(&base, &event.data),
                Some(Err(error)) => vec![Err(ClientError::Broken {
                    reason: error.to_string(),
                })],
                None if done => Vec::new(),
                None => vec![Err(ClientError::Broken {
                    reason: "no [DONE] came".to_owned(),
                })],
            })
            .flat_map(futures::stream::iter)
            // After the first error nothing that follows means anything.
            .scan(false, |failed, part| {
                let stop = std::mem::replace(failed, *failed || part.is_err());
                futures::future::ready((!stop).then_some(part))
            }))
    }

    async fn post(&self, body: &Value) -> Result<reqwest::Response, ClientError> {
        let url = format!("{}/v1/chat/completions", self.base);
        self.send(self.http.post(url).json(body)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self
            .send(self.http.get(format!("{}{path}", self.base)))
            .await?;
        self.read(response).await
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request
            .send()
            .await
            .map_err(|error| ClientError::Unreachable {
                url: self.base.clone(),
                reason: innermost(&error),
            })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body: Value = response
            .json()
            .await
            .map_err(|_| self.odd(&status.to_string()))?;
        Err(refusal(&body).unwrap_or_else(|| self.odd(&status.to_string())))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        response: reqwest::Response,
    ) -> Result<T, ClientError> {
        let body = response
            .bytes()
            .await
            .map_err(|error| ClientError::Broken {
                reason: innermost(&error),
            })?;
        serde_json::from_slice(&body).map_err(|error| self.odd(&error.to_string()))
    }

    fn odd(&self, reason: &str) -> ClientError {
        ClientError::NotANode {
            url: self.base.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn refusal(body: &Value) -> Option<ClientError> {
    let error = body.get("error")?;
    let text = |name: &str| {
        error
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    Some(ClientError::Refused {
        code: text("code"),
        message: text("message"),
    })
}

/// What one event of a stream holds.
fn parts(base: &str, data: &str) -> Vec<Result<ChatPart, ClientError>> {
    let Ok(chunk) = serde_json::from_str::<Value>(data) else {
        let reason = "an event that is not JSON".to_owned();
        return vec![Err(ClientError::NotANode {
            url: base.to_owned(),
            reason,
        })];
    };
    if let Some(error) = refusal(&chunk) {
        return vec![Err(error)];
    }
    let mut parts = Vec::new();
    let choice = chunk.pointer("/choices/0");
    let text = choice
        .and_then(|choice| choice.pointer("/delta/content"))
        .and_then(Value::as_str);
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        parts.push(Ok(ChatPart::Text(text.to_owned())));
    }
    let reason = choice
        .and_then(|choice| choice.get("finish_reason"))
        .and_then(Value::as_str);
    if let Some(reason) = reason {
        let details = chunk
            .get("cocoon")
            .and_then(|details| AnswerDetails::deserialize(details).ok())
            .unwrap_or_default();
        parts.push(Ok(ChatPart::Finished {
            reason: reason.to_owned(),
            details,
        }));
    }
    let count = |name: &str| {
        chunk
            .get("usage")
            .and_then(|usage| usage.get(name)?.as_u64())
    };
    if let (Some(prompt), Some(completion)) = (count("prompt_tokens"), count("completion_tokens")) {
        parts.push(Ok(ChatPart::Usage(prompt, completion)));
    }
    parts
}

/// reqwest's own text says little; the cause at the bottom says "connection refused".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn text(data: &str) -> Vec<ChatPart> {
        parts("http://x", data)
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn text_reason_and_usage_are_taken_from_chunks() {
        assert_eq!(
            text(r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}],"usage":null}"#),
            [ChatPart::Text("hi".to_owned())]
        );
        assert!(text(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#).is_empty());
        assert_eq!(
            text(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#),
            [ChatPart::Usage(3, 4)]
        );
        let details = AnswerDetails {
            job: "j".to_owned(),
            worker: "w".to_owned(),
            receipt: "r".to_owned(),
            cost_nanoton: "5".to_owned(),
        };
        assert_eq!(
            text(
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}],
                    "cocoon":{"job":"j","worker":"w","receipt":"r","cost_nanoton":"5"}}"#
            ),
            [ChatPart::Finished {
                reason: "stop".to_owned(),
                details
            }]
        );
    }

    #[test]
    fn an_error_event_is_an_error() {
        let part = parts(
            "http://x",
            r#"{"error":{"code":"worker_lost","message":"gone"}}"#,
        )
        .pop();
        assert_eq!(part.unwrap().unwrap_err().to_string(), "gone [worker_lost]");
        assert!(matches!(
            parts("http://x", "nonsense").pop(),
            Some(Err(ClientError::NotANode { .. }))
        ));
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_what_to_do() {
        // Port 9 of loopback: discard, and nobody runs that any more.
        let client = GatewayClient::new("http://127.0.0.1:9/", None).unwrap();
        let said = client.status().await.unwrap_err().to_string();
        assert!(
            said.contains("http://127.0.0.1:9") && said.contains("cocoon run"),
            "{said}"
        );
    }
}
