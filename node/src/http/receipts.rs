//! `GET /v1/receipts/{id}`: the signed receipt of a job with the evidence behind it, for `cocoon
//! verify`.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use cocoon_actors::gateway_port::{ReceiptDocument, ReceiptKey};
use cocoon_protocol::ids::{Digest, JobId};

use super::HttpState;
use super::error::ApiError;
use super::openai::reply::COMPLETION_PREFIX;

/// `id` is a completion's id, a job's name or a receipt's leaf hash.
pub(super) async fn get(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ReceiptDocument>, ApiError> {
    let Path(id) = path?;
    let key = parse(&id).ok_or_else(|| {
        ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "invalid_value",
            "a receipt is named by `chatcmpl-…`, by a job (32 hexadecimal digits) \
             or by its leaf hash (64)",
        )
    })?;
    state.node.receipt(key).await?.map(Json).ok_or_else(|| {
        ApiError::invalid(
            StatusCode::NOT_FOUND,
            "receipt_not_found",
            "no receipt of that name here; a job has one only after tokens were served",
        )
    })
}

fn parse(id: &str) -> Option<ReceiptKey> {
    let job = id.strip_prefix(COMPLETION_PREFIX).unwrap_or(id);
    JobId::from_str(job)
        .map(ReceiptKey::Job)
        .ok()
        .or_else(|| Digest::from_str(id).map(ReceiptKey::Leaf).ok())
}
