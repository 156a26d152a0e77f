//! A worker whose model is sealed: from the header to the loaded engine.
//!
//! Between the two it is on the mesh with its evidence and nothing else; see
//! [`cocoon_actors::unlock`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_actors::port::{SwarmCommands, SwarmNotice, SwarmNotices};
use cocoon_actors::unlock::{Unlock, Waiting};
use cocoon_attestation::EvidenceSource;
use cocoon_inference::sealed::{Sealed, SealedError, is_sealed};
use cocoon_protocol::Digest;
use cocoon_protocol::domain::Network;
use libp2p::Multiaddr;
use tracing::info;

use super::actors::LoadedWorker;
use super::chain::ChainSide;
use super::guest::{GuestPaths, evidence_source, guest_config, measure_launch};
use super::keys::Keys;
use super::{WiringError, canary, engine};
use crate::config::{Config, VaultAddress};

/// A worker that needs a key.
pub(super) struct SealedWorker {
    path: PathBuf,
    sealed: Sealed,
    /// The name to serve it under.
    id: String,
    vault: VaultAddress,
    source: Arc<dyn EvidenceSource>,
    guest: Digest,
}

impl SealedWorker {
    /// Reads the header, if the configured model is sealed, and measures the launch with the digest that it
    /// promises: what is opened later is held against it.
    pub(super) fn find(
        config: &Config,
        keys: &Keys,
        paths: &GuestPaths,
    ) -> Result<Option<Self>, WiringError> {
        let Some(path) = config.model_path.clone() else {
            return Ok(None);
        };
        let failed = |error: SealedError| WiringError::Model {
            path: path.clone(),
            source: Box::new(error.into()),
        };
        // A folder is a model too, and never sealed.
        if path.is_dir() || !is_sealed(&path).map_err(failed)? {
            return Ok(None);
        }
        if config.upstream.is_some() {
            return Err(WiringError::SealedUpstream);
        }
        let sealed = Sealed::open(&path).map_err(failed)?;
        let vault = config.vault.as_deref().ok_or(WiringError::Lacks {
            role: "worker with a sealed model",
            setting: "vault",
        })?;
        let vault = vault.parse().map_err(|error| WiringError::Vault {
            text: vault.to_owned(),
            reason: error,
        })?;
        let header = sealed.header();
        info!(
            model = %path.display(),
            digest = %header.model,
            bytes = header.plain_bytes,
            "the model is sealed"
        );
        let id = config
            .model_id
            .clone()
            .unwrap_or_else(|| header.name.clone());
        let guest = guest_config(&id, Path::new(&config.network));
        measure_launch(config, header.model, guest, paths)?;
        Ok(Some(Self {
            id,
            guest,
            source: evidence_source(config, keys, paths)?,
            path,
            sealed,
            vault,
        }))
    }

    /// Where the vault is, to be dialled from the start.
    pub(super) fn vault_address(&self) -> Option<Multiaddr> {
        self.vault.address.clone()
    }

    /// Asks for the key, opens the weights and loads them. `None` if it was asked to stop before.
    /// Gives back what the swarm said meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn unlock(
        self,
        config: &Config,
        keys: &Keys,
        network: &Network,
        chain: &ChainSide,
        commands: &SwarmCommands,
        notices: &mut SwarmNotices,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<(LoadedWorker, Vec<SwarmNotice>)>, WiringError> {
        let unlock = Unlock {
            key: keys.peer_key.clone(),
            source: Arc::clone(&self.source),
            chain: Arc::clone(&chain.chain),
            model: self.sealed.header().model,
            config: self.guest,
            vault: self.vault.peer,
            trust_domain: network.trust_domain,
        };
        let mut waiting = Waiting::new(unlock, commands.clone());
        let opening = async {
            let ended = || WiringError::Ended("swarm");
            let key = waiting.key(notices).await.ok_or_else(ended)?;
            let loading = engine::load_sealed(config, &self.path, self.sealed, key, self.id);
            waiting.hold(notices, loading).await.ok_or_else(ended)?
        };
        let engine = tokio::select! {
            engine = opening => engine?,
            () = stop => return Ok(None),
        };
        let canary = canary::check(config, Arc::clone(&engine)).await?;
        let worker = LoadedWorker {
            engine,
            guest: self.guest,
            source: self.source,
            canary,
        };
        Ok(Some((worker, waiting.into_missed().into_notices())))
    }
}
