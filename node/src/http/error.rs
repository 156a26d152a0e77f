//! Errors in `OpenAI`'s form: `{"error":{"message","type","param","code"}}`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cocoon_actors::gateway_port::GatewayError;
use serde::Serialize;

/// What a client is told when something went wrong. Every answer of ours that is not a success has
/// this body, including unknown routes and wrong methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// `error.type`, for example `invalid_request_error`.
    pub kind: &'static str,
    /// `error.code`, stable, for programs.
    pub code: &'static str,
    /// `error.param`: the field to blame.
    pub param: Option<String>,
    /// For people. May quote the request's field names, never its content.
    pub message: String,
    /// `Retry-After`, seconds.
    pub retry_after_s: Option<u32>,
}

/// The body of an error, and an event of a stream that failed.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl ApiError {
    /// An error of the caller's making.
    pub fn invalid(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            message: message.into(),
            retry_after_s: None,
        }
    }

    /// The JSON body.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            error: ErrorDetail {
                message: &self.message,
                r#type: self.kind,
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        Self {
            status: StatusCode::from_u16(error.http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind: error.openai_type(),
            code: error.openai_code(),
            param: error.param().map(str::to_owned),
            retry_after_s: error.retry_after_s(),
            message: error.to_string(),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(
            rejection.status(),
            "invalid_path",
            "the path is not valid UTF-8",
        )
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(
            rejection.status(),
            "invalid_query",
            "the query has a parameter that this path does not take, or a value that it cannot have",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A path that does not exist.
pub async fn unknown_route() -> ApiError {
    ApiError::invalid(
        StatusCode::NOT_FOUND,
        "unknown_url",
        "no such path; this node serves POST /v1/chat/completions, POST /v1/embeddings, \
         GET /v1/models, GET /v1/receipts/{id}, GET /v1/signature/{id}, \
         GET /v1/attestation/report, GET /health, GET /metrics, GET /status.json, \
         GET /funds.json",
    )
}

/// A path that exists and does not take this method (the `Allow` header says which it takes).
pub async fn wrong_method() -> ApiError {
    ApiError::invalid(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not take this method; see the Allow header",
    )
}
