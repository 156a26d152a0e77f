//! The engine of a worker: burn's, or a server on this machine.

use std::path::Path;
use std::sync::Arc;

use cocoon_inference::upstream::{
    LocalModel, LoopbackUrl, Patience, UpstreamConfig, UpstreamEngine,
};
use cocoon_inference::{BurnEngine, CacheRoom, Engine, EngineError, EngineOptions};
use tracing::info;

use super::WiringError;
use crate::config::{Config, EngineDevice};

/// Loads the model, or finds the server that computes it. Either way the file is read for its digest.
pub(crate) async fn load(config: &Config, path: &Path) -> Result<Arc<dyn Engine>, WiringError> {
    let id = config.model_id.clone();
    let upstream = match (&config.upstream, &config.upstream_model) {
        (None, _) => None,
        (Some(url), Some(model)) => Some(UpstreamConfig {
            url: LoopbackUrl::parse(url).map_err(|error| failed(path, error.into()))?,
            model: model.clone(),
            key: None,
            patience: Patience::default(),
        }),
        (Some(_), None) => {
            return Err(WiringError::Lacks {
                role: "worker with an upstream server",
                setting: "upstream_model",
            });
        }
    };
    let file = path.to_owned();
    let options = options(config)?;
    let loading = tokio::task::spawn_blocking(move || open(&file, upstream, &options, id));
    loading
        .await
        .map_err(std::io::Error::other)?
        .map_err(|source| failed(path, source))
}

fn options(config: &Config) -> Result<EngineOptions, WiringError> {
    let default = EngineOptions::default();
    Ok(EngineOptions {
        target: match config.device {
            EngineDevice::Processor => default.target,
            #[cfg(feature = "cuda")]
            EngineDevice::Cuda => cocoon_inference::Target::Cuda,
            #[cfg(not(feature = "cuda"))]
            EngineDevice::Cuda => return Err(WiringError::NoCuda),
        },
        cache: CacheRoom::Bytes(u64::from(config.cache_mib).saturating_mul(1 << 20)),
        speculation: usize::from(config.speculation),
        ..default
    })
}

fn open(
    path: &Path,
    upstream: Option<UpstreamConfig>,
    options: &EngineOptions,
    id: Option<String>,
) -> Result<Arc<dyn Engine>, EngineError> {
    let mut told = 0;
    let mut tell = |done: u64, total: u64| {
        let quarter = done.saturating_mul(4).checked_div(total).unwrap_or(4);
        if quarter > told {
            told = quarter;
            info!(percent = quarter.saturating_mul(25), "reading the model");
        }
    };
    if let Some(upstream) = upstream {
        let local = LocalModel::open(path, &mut tell)?;
        let engine = UpstreamEngine::connect(upstream, local)?;
        return Ok(match id {
            Some(id) => Arc::new(engine.with_id(id)),
            None => Arc::new(engine),
        });
    }
    let engine = BurnEngine::load(path, options, &mut tell)?;
    Ok(match id {
        Some(id) => Arc::new(engine.with_id(id)),
        None => Arc::new(engine),
    })
}

fn failed(path: &Path, source: EngineError) -> WiringError {
    WiringError::Model {
        path: path.to_owned(),
        source,
    }
}
