//! Receipts over HTTP: `GET /v1/receipts/{id}` with the evidence behind it, for `cocoon receipt`, and
//! `GET /v1/signature/{id}` in the shape that clients of other attested gateways know.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_actors::gateway_port::{GatewayError, Opening, ReceiptDocument, ReceiptKey};
use cocoon_protocol::ids::{Digest, JobId};
use cocoon_protocol::receipt::SignedReceipt;
use serde::{Deserialize, Serialize};

use super::HttpState;
use super::error::ApiError;
use super::openai::reply::COMPLETION_PREFIX;

/// The one algorithm of receipts.
pub(super) const SIGNING_ALGORITHM: &str = "ed25519";

/// What may be asked of a receipt.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReceiptQuery {
    /// With the salt.
    #[serde(default)]
    open: bool,
}

/// `id` is a completion's id, a job's name or a receipt's leaf hash.
pub(super) async fn get(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<ReceiptQuery>, QueryRejection>,
) -> Result<Json<ReceiptDocument>, ApiError> {
    let (Path(id), Query(query)) = (path?, query?);
    let opening = if query.open {
        Opening::Open
    } else {
        Opening::Sealed
    };
    find(&state, &id, opening).await.map(Json)
}

/// What `GET /v1/signature/{id}` may be asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SignatureQuery {
    /// Only [`SIGNING_ALGORITHM`].
    signing_algo: Option<String>,
}

/// A receipt's signature, by the names that dstack's vllm-proxy and NEAR AI's gateway give the parts of theirs.
/// What has no counterpart is null: see `docs/aci.md`.
#[derive(Debug, Serialize)]
pub(super) struct Signature {
    /// Null: theirs is `sha256(request):sha256(response)`, which would show both to whoever can guess them.
    text: Option<()>,
    /// Hexadecimal, over `signed_bytes_b64`.
    signature: String,
    /// The receipt key, hexadecimal, as an Ed25519 "address" is written there.
    signing_address: String,
    signing_algo: &'static str,
    /// Exactly what is signed: the domain and the receipt's canonical bytes, base64.
    signed_bytes_b64: String,
    receipt_id: String,
    /// The document of `GET /v1/receipts/{id}`.
    receipt: ReceiptDocument,
}

/// `id` as for [`get`].
pub(super) async fn signature(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<SignatureQuery>, QueryRejection>,
) -> Result<Json<Signature>, ApiError> {
    let (Path(id), Query(query)) = (path?, query?);
    algorithm(query.signing_algo.as_deref())?;
    let receipt = find(&state, &id, Opening::Sealed).await?;
    let damaged = |reason: String| GatewayError::Internal { reason };
    let bytes = BASE64
        .decode(&receipt.signed_receipt)
        .map_err(|error| damaged(error.to_string()))?;
    let signed = SignedReceipt::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    let key = signed
        .verify()
        .map_err(|error| damaged(error.to_string()))?
        .receipt_key;
    Ok(Json(Signature {
        text: None,
        signature: hex::encode(signed.signature),
        signing_address: key.to_string(),
        signing_algo: SIGNING_ALGORITHM,
        signed_bytes_b64: BASE64.encode(signed.signed_bytes()),
        receipt_id: receipt.id.clone(),
        receipt,
    }))
}

/// Refuses an algorithm that no key here has.
pub(super) fn algorithm(asked: Option<&str>) -> Result<(), ApiError> {
    match asked {
        None => Ok(()),
        Some(name) if name.eq_ignore_ascii_case(SIGNING_ALGORITHM) => Ok(()),
        Some(_) => Err(ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "unsupported_signing_algo",
            "receipts are signed with Ed25519; ask with signing_algo=ed25519, or without it",
        )),
    }
}

async fn find(state: &HttpState, id: &str, opening: Opening) -> Result<ReceiptDocument, ApiError> {
    let key = parse(id).ok_or_else(|| {
        ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "invalid_value",
            "a receipt is named by `chatcmpl-…`, by a job (32 hexadecimal digits) \
             or by its leaf hash (64)",
        )
    })?;
    let found = state.node.receipt(key, opening).await?;
    found.ok_or_else(|| {
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
