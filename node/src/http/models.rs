//! `GET /v1/models` and `GET /v1/models/{id}`: what verified workers serve right now, and nothing
//! else.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use cocoon_actors::gateway_port::GatewayError;

use super::HttpState;
use super::error::ApiError;
use super::openai::reply::{Model, ModelList};

/// All of them.
pub(super) async fn list(State(state): State<Arc<HttpState>>) -> Result<Json<ModelList>, ApiError> {
    let models = state.gateway()?.models().await?;
    Ok(Json(ModelList {
        object: "list",
        data: models.into_iter().map(Model::from).collect(),
    }))
}

/// One of them. Ids may hold slashes.
pub(super) async fn get(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = path?;
    let models = state.gateway()?.models().await?;
    let available = models.iter().map(|model| model.id.clone()).collect();
    models
        .into_iter()
        .find(|model| model.id == id)
        .map(|model| Json(Model::from(model)))
        .ok_or_else(|| {
            GatewayError::UnknownModel {
                model: id,
                available,
            }
            .into()
        })
}
