//! Logs and metrics of the process.
//!
//! Logs go to standard error, as text or one JSON object a line, filtered by `RUST_LOG`. One span
//! follows a job through all actors by `job_id`; what people and models say is never logged.

use std::io::IsTerminal;

use cocoon_actors::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::build_info;

/// The filter when `RUST_LOG` says nothing: our own rooms, and warnings of everybody else.
const DEFAULT_FILTER: &str = "warn,cocoon=info,cocoon_actors=info,cocoon_protocol=info,\
    cocoon_attestation=info,cocoon_inference=info,cocoon_settlement=info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` does not parse.
    #[error("RUST_LOG is not a filter: {0}; for example: RUST_LOG=cocoon=debug,libp2p_swarm=info")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something in this process was first.
    #[error("logging is already set up in this process")]
    AlreadyStarted(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process; call once.
pub fn start_logging(format: LogFormat) -> Result<(), TelemetryError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text)?,
        _ => EnvFilter::try_new(DEFAULT_FILTER)?,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Colours are for terminals; in a file they are noise.
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => {
            registry
                .with(lines.json().flatten_event(true).with_current_span(true))
                .try_init()?;
        }
    }
    Ok(())
}

/// Fresh metrics and the registry that serves them. Others (libp2p, HTTP) may register more before
/// the registry goes behind an `Arc`.
#[must_use]
pub fn metrics() -> (Metrics, Registry) {
    let metrics = Metrics::new();
    let mut registry = Registry::default();
    metrics.register(&mut registry, build_info::labels());
    (metrics, registry)
}
