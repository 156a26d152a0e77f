//! HTTP: `OpenAI`'s chat completions and embeddings for apps, status and metrics for operators.
//!
//! | method and path | for |
//! |---|---|
//! | `POST /v1/chat/completions` | a job, streamed or whole |
//! | `POST /v1/embeddings` | a job that embeds texts |
//! | `GET /v1/models`, `GET /v1/models/{id}` | what verified workers serve now |
//! | `GET /v1/receipts/{id}` | a job's signed receipt and its evidence |
//! | `GET /v1/signature/{id}`, `GET /v1/attestation/report` | the same in the shapes of other attested gateways |
//! | `GET /health`, `GET /metrics`, `GET /status.json`, `GET /funds.json` | operators |
//! | `POST /admin/settle`, `POST /admin/shutdown` | operators, with the admin token |
//!
//! This room knows axum and nothing of libp2p, actors or chains: what it needs is behind
//! [`Gateway`] and [`NodeView`]. Errors always have `OpenAI`'s body. [`guard`] says who may call.

pub mod admin;
mod attestation;
pub mod chat;
pub mod embeddings;
pub mod error;
pub mod guard;
mod intake;
pub mod listener;
pub mod metrics;
pub mod models;
pub mod openai;
pub mod receipts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use cocoon_actors::gateway_port::{Gateway, NodeView};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::error::ApiError;
use self::listener::BoundedListener;
use self::metrics::HttpMetrics;
use crate::secret_file::Token;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The bounds of the HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Largest request body, bytes. Roomier than the wire's bound on a conversation, since JSON
    /// escapes may take six bytes for one.
    pub max_body_bytes: usize,
    /// Jobs at once; one more is answered 429.
    pub max_jobs: u32,
    /// Connections at once; one more waits in the kernel's backlog.
    pub max_connections: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Silence in a stream after which a comment is sent, so that no proxy closes it.
    pub keep_alive: Duration,
    /// How long `/health` waits for the actors.
    pub health_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 1024 * 1024,
            max_jobs: 32,
            max_connections: 256,
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            health_timeout: Duration::from_secs(2),
        }
    }
}

/// What the HTTP server is made of.
pub struct HttpParts {
    /// Takes jobs; `None` on nodes that are no client.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// Status, health, receipts.
    pub node: Arc<dyn NodeView>,
    /// What `/metrics` serves; [`HttpMetrics::register`] has been called on it.
    pub registry: Arc<Registry>,
    /// HTTP's own counters.
    pub metrics: HttpMetrics,
    /// For `/admin/`.
    pub admin_token: Token,
    /// For everything else, when not on loopback.
    pub api_token: Token,
    /// Bounds.
    pub limits: HttpLimits,
}

/// Shared by the handlers.
pub(crate) struct HttpState {
    gateway: Option<Arc<dyn Gateway>>,
    node: Arc<dyn NodeView>,
    registry: Arc<Registry>,
    metrics: HttpMetrics,
    admin_token: Token,
    api_token: Token,
    limits: HttpLimits,
    job_permits: Arc<Semaphore>,
    loopback_only: bool,
}

impl HttpState {
    fn gateway(&self) -> Result<&Arc<dyn Gateway>, ApiError> {
        self.gateway.as_ref().ok_or_else(|| {
            ApiError::invalid(
                StatusCode::NOT_FOUND,
                "no_gateway_here",
                "this node takes no jobs; ask a node that runs with `--role client`",
            )
        })
    }
}

/// Why the server could not start or went down.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another one with --http-address")]
    Bind {
        /// Asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The listener failed.
    #[error("the HTTP server stopped: {0}")]
    Serve(#[from] std::io::Error),
}

/// A bound listener. Separate from [`HttpServer::serve`], so that a node can say its address (port
/// 0 asks the system for a free one) before anything can be asked of it.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Binds.
    ///
    /// # Errors
    /// [`HttpError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let bind = |source| HttpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves and the answers under way have ended. The gateway ends
    /// running jobs when the node stops, so this does not wait for long.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub async fn serve(
        self,
        parts: HttpParts,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), HttpError> {
        let listener = BoundedListener::new(self.listener, parts.limits.max_connections);
        let router = router(parts, self.address.ip().is_loopback());
        axum::serve(listener, router)
            .with_graceful_shutdown(shutdown)
            .await?;
        Ok(())
    }
}

fn router(parts: HttpParts, loopback_only: bool) -> Router {
    let limits = parts.limits;
    let state = Arc::new(HttpState {
        gateway: parts.gateway,
        node: parts.node,
        registry: parts.registry,
        metrics: parts.metrics,
        admin_token: parts.admin_token,
        api_token: parts.api_token,
        limits,
        job_permits: Arc::new(Semaphore::new(
            usize::try_from(limits.max_jobs).unwrap_or(1),
        )),
        loopback_only,
    });
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/v1/receipts/{id}", get(receipts::get))
        .route("/v1/signature/{id}", get(receipts::signature))
        .route("/v1/attestation/report", get(attestation::report))
        .route("/health", get(admin::status::health))
        .route("/status.json", get(admin::status::get))
        .route("/funds.json", get(admin::status::funds))
        .route("/metrics", get(metrics::get))
        .route("/admin/settle", post(admin::settle))
        .route("/admin/shutdown", post(admin::shutdown))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(limits.max_body_bytes))
        .layer(from_fn_with_state(Arc::clone(&state), guard::around))
        .with_state(state)
}

#[cfg(test)]
mod tests;
