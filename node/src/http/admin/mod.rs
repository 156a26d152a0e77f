//! What an operator may see and do. Seeing needs nothing on loopback; doing needs the admin token
//! (`<data_dir>/admin-token`, made at the first start, mode 600).

pub mod status;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cocoon_actors::gateway_port::AdminCommand;
use serde_json::{Value, json};

use super::HttpState;
use super::error::ApiError;

/// `POST /admin/settle`.
pub(super) async fn settle(
    state: State<Arc<HttpState>>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    carry_out(state, AdminCommand::Settle).await
}

/// `POST /admin/shutdown`.
pub(super) async fn shutdown(
    state: State<Arc<HttpState>>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    carry_out(state, AdminCommand::Shutdown).await
}

async fn carry_out(
    State(state): State<Arc<HttpState>>,
    command: AdminCommand,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    tracing::info!(?command, "admin command");
    state.node.admin(command).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": true}))))
}
