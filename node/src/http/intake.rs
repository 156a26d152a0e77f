//! What every endpoint that takes a job does first: the body, and a place among the jobs.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, StatusCode, header};
use cocoon_actors::gateway_port::GatewayError;
use tokio::sync::OwnedSemaphorePermit;

use super::HttpState;
use super::error::ApiError;

/// Names the job in a response's headers.
pub(super) const JOB_HEADER: HeaderName = HeaderName::from_static("x-cocoon-job");

/// Names the receipt in a response's headers, where it exists before the body is sent.
pub(super) const RECEIPT_HEADER: HeaderName = HeaderName::from_static("x-receipt-id");

/// A place for one more job, until it is dropped.
pub(super) fn permit(state: &HttpState) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(&state.job_permits)
        .try_acquire_owned()
        .map_err(|_| {
            let limit = state.limits.max_jobs;
            GatewayError::Overloaded { limit }.into()
        })
}

/// The body, if it says that it is JSON.
pub(super) async fn json_body(state: &HttpState, request: Request) -> Result<Bytes, ApiError> {
    require_json(&request)?;
    read_body(state, request).await
}

/// A page on the web can make a browser post text to loopback without asking, but not JSON.
fn require_json(request: &Request) -> Result<(), ApiError> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if is_json {
        Ok(())
    } else {
        Err(ApiError::invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the header `Content-Type: application/json`",
        ))
    }
}

async fn read_body(state: &HttpState, request: Request) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(state.limits.body_timeout, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::invalid(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!(
                    "the body may have at most {} bytes",
                    state.limits.max_body_bytes
                ),
            ))
        }
        Ok(Err(rejection)) => Err(ApiError::invalid(
            rejection.status(),
            "unreadable_body",
            "the body could not be read to its end",
        )),
        Err(_) => Err(ApiError::invalid(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!(
                "the body did not arrive within {} s",
                state.limits.body_timeout.as_secs()
            ),
        )),
    }
}
