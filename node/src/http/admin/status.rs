//! `GET /status.json`, `GET /funds.json` and `GET /health`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use cocoon_actors::gateway_port::{Funds, GatewayError, NodeStatus};
use serde_json::{Value, json};

use crate::build_info;
use crate::http::HttpState;
use crate::http::error::ApiError;

/// The whole picture, for `cocoon status`.
pub(in crate::http) async fn get(
    State(state): State<Arc<HttpState>>,
) -> Result<Json<NodeStatus>, ApiError> {
    Ok(Json(state.node.status().await?))
}

/// Where every nanoTON is, for `cocoon funds`.
pub(in crate::http) async fn funds(
    State(state): State<Arc<HttpState>>,
) -> Result<Json<Funds>, ApiError> {
    Ok(Json(state.node.funds().await?))
}

/// 200 while the actors answer in time, an error with its reason otherwise.
pub(in crate::http) async fn health(
    State(state): State<Arc<HttpState>>,
) -> Result<Json<Value>, ApiError> {
    let patience = state.limits.health_timeout;
    tokio::time::timeout(patience, state.node.health())
        .await
        .unwrap_or_else(|_| {
            let after_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Err(GatewayError::TimedOut { after_ms })
        })?;
    Ok(Json(
        json!({"status": "ok", "version": build_info::VERSION}),
    ))
}
