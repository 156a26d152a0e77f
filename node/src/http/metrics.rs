//! `GET /metrics`, and the one thing HTTP itself counts: requests by route and status.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use cocoon_actors::gateway_port::GatewayError;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::HttpState;
use super::error::ApiError;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

/// Requests answered. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
}

impl HttpMetrics {
    /// Puts them into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix("cocoon").register(
            "http_requests",
            "HTTP requests answered, by route and status",
            self.requests.clone(),
        );
    }

    pub(super) fn answered(&self, route: &'static str, status: StatusCode) {
        let labels = RequestLabels {
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
    }
}

/// The route of a path, out of a fixed list: for labels and logs, where a stranger's path must not
/// appear.
pub(super) fn route(path: &str) -> &'static str {
    const EXACT: [&str; 9] = [
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/models",
        "/health",
        "/metrics",
        "/status.json",
        "/funds.json",
        "/admin/settle",
        "/admin/shutdown",
    ];
    EXACT
        .into_iter()
        .find(|route| *route == path)
        .unwrap_or_else(|| {
            if path.starts_with("/v1/models/") {
                "/v1/models/{id}"
            } else if path.starts_with("/v1/receipts/") {
                "/v1/receipts/{id}"
            } else {
                "other"
            }
        })
}

/// The handler.
pub(super) async fn get(
    State(state): State<Arc<HttpState>>,
) -> Result<impl IntoResponse, ApiError> {
    let mut body = String::new();
    text::encode(&mut body, &state.registry).map_err(|error| GatewayError::Internal {
        reason: format!("metrics: {error}"),
    })?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], body))
}
