//! `POST /v1/embeddings`: one job, whose answer is numbers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use cocoon_actors::gateway_port::{GatewayError, JobEvent};

use super::HttpState;
use super::error::ApiError;
use super::intake::{JOB_HEADER, RECEIPT_HEADER, json_body, permit};
use super::openai::embedding::{self, EmbeddingList, EmbeddingRequest};

/// The handler. A caller who goes away drops the job, which cancels it.
pub(super) async fn create(
    State(state): State<Arc<HttpState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let gateway = state.gateway()?;
    let body = json_body(&state, request).await?;
    let EmbeddingRequest {
        submission,
        encoding,
    } = embedding::parse(&body)?;
    drop(body);
    let _permit = permit(&state)?;
    let model = submission.model.clone();
    let mut handle = gateway.submit(submission).await?;
    let job = handle.job();
    let mut embeddings = None;
    while let Some(event) = handle.next().await {
        match event {
            // Texts have no answer.
            JobEvent::Accepted { .. } | JobEvent::Delta(_) => {}
            JobEvent::Embeddings(all) => embeddings = Some(all),
            JobEvent::Failed(error) => return Err(error.into()),
            JobEvent::Finished(completion) => {
                let embeddings = embeddings.ok_or_else(|| nothing("the job gave no embeddings"))?;
                let list = EmbeddingList::new(job, model, embeddings, encoding, &completion);
                let mut response = Json(list).into_response();
                let names = [
                    (JOB_HEADER, job.to_string()),
                    (RECEIPT_HEADER, completion.receipt),
                ];
                for (header, name) in names {
                    if let Ok(value) = HeaderValue::from_str(&name) {
                        response.headers_mut().insert(header, value);
                    }
                }
                return Ok(response);
            }
        }
    }
    // `JobHandle::next` gives a terminal event before it gives `None`.
    Err(nothing("the job gave no outcome"))
}

fn nothing(reason: &str) -> ApiError {
    GatewayError::Internal {
        reason: reason.to_owned(),
    }
    .into()
}
