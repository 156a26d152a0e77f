//! HTTP with the server: plain, on the loopback, through no proxy, following nobody elsewhere.

use std::error::Error as _;
use std::io::{BufReader, ErrorKind};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{Agent, Body, BodyReader, Timeout, http::Response};

use super::reply::reason;
use super::{LoopbackUrl, UpstreamError};

/// How long a server may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until it has taken a connection.
    pub connect: Duration,
    /// At any time after that: it may be reading a long prompt, behind others.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(180),
        }
    }
}

/// Bytes of an error's body that are read.
const MAX_REASON_BYTES: u64 = 16 * 1024;
/// Bytes of a response's headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// A server and how to reach it.
pub(super) struct Link {
    agent: Agent,
    url: LoopbackUrl,
    key: Option<String>,
    patience: Patience,
}

/// The body of an answer that is still coming. Dropping it closes the connection, which the servers take
/// as a cancellation.
pub(super) type Stream = BufReader<BodyReader<'static>>;

impl Link {
    pub(super) fn new(url: LoopbackUrl, key: Option<String>, patience: Patience) -> Self {
        let agent = Agent::config_builder()
            // A proxy from the environment would take prompts out of the guest, and a redirect could.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(MAX_HEADER_BYTES)
            .timeout_connect(Some(patience.connect))
            .timeout_per_write(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .user_agent("cocoon")
            .build()
            .new_agent();
        Self {
            agent,
            url,
            key,
            patience,
        }
    }

    pub(super) fn address(&self) -> String {
        self.url.root().to_owned()
    }

    /// Asks for a document of at most `limit` bytes.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        limit: u64,
    ) -> Result<T, UpstreamError> {
        let mut request = self.agent.get(self.url.endpoint(endpoint));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.call().map_err(|error| self.failed(error))?;
        self.document(self.accepted(response)?, limit)
    }

    /// Sends a document and gets one of at most `limit` bytes.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        body: &Value,
        limit: u64,
    ) -> Result<T, UpstreamError> {
        let response = self.send(self.url.endpoint(endpoint), body)?;
        self.document(response, limit)
    }

    /// The same, to an endpoint beside OpenAI's; `None` if the server has none of that name.
    pub(super) fn post_beside<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        body: &Value,
        limit: u64,
    ) -> Result<Option<T>, UpstreamError> {
        match self.send(self.url.beside(endpoint), body) {
            Ok(response) => self.document(response, limit).map(Some),
            Err(UpstreamError::Refused {
                status: 404 | 405 | 501,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a document and gets a stream.
    pub(super) fn open(&self, endpoint: &str, body: &Value) -> Result<Stream, UpstreamError> {
        let response = self.send(self.url.endpoint(endpoint), body)?;
        let stream = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if !stream {
            return Err(self.garbled("an answer that is no event stream"));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    fn send(&self, url: String, body: &Value) -> Result<Response<Body>, UpstreamError> {
        let mut request = self
            .agent
            .post(url)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let bytes = body.to_string().into_bytes();
        let response = request
            .send(bytes.as_slice())
            .map_err(|error| self.failed(error))?;
        self.accepted(response)
    }

    fn accepted(&self, response: Response<Body>) -> Result<Response<Body>, UpstreamError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = if status.is_redirection() {
            "it points elsewhere, and prompts follow nobody".to_owned()
        } else {
            let mut text = Vec::new();
            let reader = response.into_body().into_with_config();
            let mut reader = std::io::Read::take(reader.reader(), MAX_REASON_BYTES);
            // A reason that cannot be read whole is still the best there is.
            let _ = std::io::Read::read_to_end(&mut reader, &mut text);
            reason(&text)
        };
        Err(UpstreamError::Refused {
            address: self.address(),
            status: status.as_u16(),
            message,
        })
    }

    fn document<T: DeserializeOwned>(
        &self,
        response: Response<Body>,
        limit: u64,
    ) -> Result<T, UpstreamError> {
        let body = response.into_body().into_with_config().limit(limit);
        let bytes = body.read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => UpstreamError::TooMuch {
                address: self.address(),
                what: "bytes",
                limit,
            },
            error => self.failed(error),
        })?;
        serde_json::from_slice(&bytes)
            // The category and place only: what it says may be somebody's words.
            .map_err(|error| {
                self.garbled(&format!(
                    "not the document asked for ({:?})",
                    error.classify()
                ))
            })
    }

    pub(super) fn garbled(&self, what: &str) -> UpstreamError {
        UpstreamError::Garbled {
            address: self.address(),
            what: what.to_owned(),
        }
    }

    /// What ended a request before there was an answer.
    fn failed(&self, error: ureq::Error) -> UpstreamError {
        let address = self.address();
        match error {
            ureq::Error::Timeout(Timeout::Connect) => UpstreamError::Unreachable {
                address,
                source: "it takes no connection".into(),
            },
            ureq::Error::Timeout(_) => UpstreamError::Slow {
                address,
                waited: self.patience.silence,
            },
            ureq::Error::Protocol(error) => UpstreamError::Garbled {
                address,
                what: error.to_string(),
            },
            ureq::Error::Http(error) => UpstreamError::Garbled {
                address,
                what: error.to_string(),
            },
            error => UpstreamError::Unreachable {
                address,
                source: Box::new(error),
            },
        }
    }

    /// What ended a stream in its middle.
    pub(super) fn broken(&self, error: &std::io::Error) -> UpstreamError {
        let address = self.address();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match (inner, error.kind()) {
            (Some(ureq::Error::Timeout(_)), _)
            | (_, ErrorKind::TimedOut | ErrorKind::WouldBlock) => UpstreamError::Slow {
                address,
                waited: self.patience.silence,
            },
            (Some(ureq::Error::Protocol(error)), _) => UpstreamError::Garbled {
                address,
                what: error.to_string(),
            },
            _ => {
                tracing::debug!(%error, source = ?error.source(), "an answer broke off");
                UpstreamError::Cut { address }
            }
        }
    }
}
