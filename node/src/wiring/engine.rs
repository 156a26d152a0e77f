//! The engine of a worker: burn's, or a server on this machine.

use std::path::Path;
use std::sync::Arc;

use cocoon_inference::upstream::{
    LocalModel, LoopbackUrl, Patience, UpstreamConfig, UpstreamEngine,
};
use cocoon_inference::{BurnEngine, CacheRoom, Engine, EngineError, EngineOptions};
use tracing::info;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::sealed::Sealed;
use cocoon_protocol::vault::ContentKey;

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

/// Opens a sealed model with its key and loads it, under this name.
pub(super) async fn load_sealed(
    config: &Config,
    path: &Path,
    mut sealed: Sealed,
    key: ContentKey,
    id: String,
) -> Result<Arc<dyn Engine>, WiringError> {
    let options = options(config)?;
    let loading = tokio::task::spawn_blocking(move || {
        let checkpoint = Checkpoint::from_sealed(&mut sealed, &key, &mut quarters("opening"))?;
        // The weights that were opened are dropped, and so wiped, once they are laid out.
        let engine = BurnEngine::from_checkpoint(&checkpoint, &options, &id)?;
        Ok(Arc::new(engine) as Arc<dyn Engine>)
    });
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
    let mut tell = quarters("reading");
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

/// Says at each quarter how far it is.
fn quarters(doing: &'static str) -> impl FnMut(u64, u64) {
    let mut told = 0;
    move |done, total| {
        let quarter = done.saturating_mul(4).checked_div(total).unwrap_or(4);
        if quarter > told {
            told = quarter;
            info!(percent = quarter.saturating_mul(25), "{doing} the model");
        }
    }
}

fn failed(path: &Path, source: EngineError) -> WiringError {
    WiringError::Model {
        path: path.to_owned(),
        source: Box::new(source),
    }
}
