//! A vault on the mesh: the owner's node that releases keys, and its log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_actors::ask::ask;
use cocoon_actors::collateral::CollateralKeeper;
use cocoon_actors::mesh::{Disconnect, pump};
use cocoon_actors::supervision::end_process_on_panic;
use cocoon_actors::vault::{MAX_WAITING_ASKS, RecordLog, VaultParts, serve};
use cocoon_attestation::vault::{Record, VaultConfig};
use cocoon_attestation::{Admission, AdmissionConfig};
use cocoon_protocol::Digest;
use cocoon_protocol::domain::Network;
use cocoon_protocol::vault::ContentKey;
use cocoon_settlement::ledger::SCHEMA;
use cocoon_settlement::store::RocksStore;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::actors::{Actors, Ingredients};
use super::chain::reach;
use super::keys::Keys;
use super::{STOP_PATIENCE, WiringError, first_addresses, make_private, multiaddrs};
use crate::collateral::OperatorsCollateral;
use crate::config::{Config, NodeRole};
use crate::net::{self, NetConfig};
use crate::terminal::plain;
use crate::{signals, telemetry, trust};

/// Below the data directory: a vault's identity is not that of another node on the same machine.
pub const VAULT_DIRECTORY: &str = "vault";
/// The log of releases, in the vault's directory.
pub const RELEASE_LOG: &str = "releases.jsonl";

/// What a vault serves.
pub struct Serving {
    /// Content keys by the digest of the plain weights.
    pub keys: BTreeMap<Digest, ContentKey>,
    /// The log; in the vault's directory if absent.
    pub log: Option<PathBuf>,
    /// Whether standard output is for machines.
    pub json: bool,
}

/// The first line on standard output with `--json`.
#[derive(Serialize)]
struct Listening<'a> {
    event: &'static str,
    peer: String,
    listen: &'a [String],
    models: Vec<Digest>,
    log: &'a Path,
}

/// Runs a vault until it is asked to stop.
///
/// # Errors
/// [`WiringError`].
pub fn run(config: &Config, serving: Serving) -> Result<(), WiringError> {
    end_process_on_panic();
    let directory = config.data_dir.join(VAULT_DIRECTORY);
    make_private(&directory)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cocoon-io")
        .enable_all()
        .build()?
        .block_on(vault(config, &directory, serving))
}

async fn vault(config: &Config, directory: &Path, serving: Serving) -> Result<(), WiringError> {
    let trust = trust::trust(config)?;
    let admission = Admission::new(trust::verifier(config)?, AdmissionConfig::default());
    let keys = Keys::load_or_create(directory)?;
    let log = serving.log.unwrap_or_else(|| directory.join(RELEASE_LOG));
    let models: Vec<Digest> = serving.keys.keys().copied().collect();
    let record_log = ReleaseLog::open(&log, serving.json)?;
    let (chain, _) = reach(config).await.map_err(|source| WiringError::Chain {
        url: config.chain_url.clone(),
        source,
    })?;
    let network = Network {
        id: config.network.clone(),
        trust_domain: trust.trust_domain(),
    };
    let (metrics, mut registry) = telemetry::metrics();
    let (commands, notices, swarm) = net::spawn(
        NetConfig {
            bootstrap: multiaddrs(&config.bootstrap)?,
            ..NetConfig::new(
                keys.peer_key.clone(),
                network.clone(),
                multiaddrs(&config.listen)?,
            )
        },
        &mut registry,
    )?;
    let peer = keys.peer();
    let trust_domain = network.trust_domain;
    let shutdown = CancellationToken::new();
    // On the mesh a vault is what a bootstrap node is: it passes adverts on.
    let started = Actors::start(Ingredients {
        role: NodeRole::Bootstrap,
        config: config.clone(),
        keys,
        network,
        chain: None,
        worker: None,
        commands,
        metrics,
        runtime: Handle::current(),
        shutdown: shutdown.clone(),
    })?;
    let actors = started.await?;
    let (asked, requests) = mpsc::channel(MAX_WAITING_ASKS);
    let mut inbox = actors.inbox();
    inbox.vault = Some(asked);
    let store = RocksStore::open(directory.join("ledger"), SCHEMA)?;
    let collateral = Arc::new(CollateralKeeper::open(
        Arc::new(store),
        actors.mesh.clone(),
        Arc::new(OperatorsCollateral::of(config)),
    )?);
    inbox.collateral = Some(Arc::clone(&collateral));
    let pump = tokio::spawn(pump(notices, inbox));
    let parts = VaultParts {
        collateral,
        mesh: actors.mesh.clone(),
        chain,
        admission,
        trust_domain,
        // The models are those that there are keys for.
        config: VaultConfig::new(trust, models.iter().copied().collect()),
        keys: serving.keys,
        log: Box::new(record_log),
    };
    let serving_keys = tokio::spawn(serve(parts, requests));

    let listen = first_addresses(&actors).await;
    if serving.json {
        let line = Listening {
            event: "listening",
            peer: peer.to_string(),
            listen: &listen,
            models,
            log: &log,
        };
        say(&serde_json::to_string(&line).map_err(std::io::Error::other)?);
    } else {
        say(&format!("vault {peer}, keys of {} models", models.len()));
        for address in &listen {
            say(&format!("  listens at {address}"));
        }
        say(&format!("  records releases in {}", log.display()));
    }
    info!(%peer, "vault running");
    let ended = tokio::select! {
        stopped = signals::stop_requested() => { stopped?; None }
        _ = pump => Some("swarm"),
        _ = serving_keys => Some("vault"),
    };
    shutdown.cancel();
    let _ = tokio::time::timeout(STOP_PATIENCE, ask(&actors.mesh, Disconnect)).await;
    let _ = tokio::time::timeout(STOP_PATIENCE, swarm).await;
    actors.stop().await;
    match ended {
        Some(part) => Err(WiringError::Ended(part)),
        None => Ok(()),
    }
}

/// JSON lines in a file that only the owner reads, and a line of each on standard output.
struct ReleaseLog {
    file: File,
    json: bool,
}

impl ReleaseLog {
    fn open(path: &Path, json: bool) -> Result<Self, WiringError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| WiringError::Directory {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { file, json })
    }
}

impl RecordLog for ReleaseLog {
    fn append(&mut self, record: &Record) -> std::io::Result<()> {
        let line = serde_json::to_string(record)?;
        // In one write, so that two vaults on one log do not mix their lines.
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()?;
        if self.json {
            say(&line);
        } else {
            say(&plain(&record.to_string()));
        }
        Ok(())
    }
}

/// A closed standard output must not end a vault: the log is what counts.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cocoon_attestation::Trust;
    use cocoon_attestation::vault::{Ask, Input, Output, Vault};
    use cocoon_protocol::PeerId;
    use cocoon_protocol::units::UnixMillis;
    use cocoon_protocol::vault::Nonce;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn records_are_appended_as_lines_of_json_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut machine = Vault::new(VaultConfig::new(Trust::Intel, [].into()));
        for number in 0..2 {
            // As after a restart.
            let mut log = ReleaseLog::open(&path, true).unwrap();
            let hello = Input::Hello {
                ask: Ask(number),
                peer: PeerId::random(),
                model: Digest::ZERO,
                nonce: Nonce::from_bytes([0; 32]),
            };
            for output in machine.handle(UnixMillis::from_millis(1), hello) {
                if let Output::Record(record) = output {
                    log.append(&record).unwrap();
                }
            }
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| {
            line.get("event").is_some_and(|event| event == "refused")
                && line
                    .get("reason")
                    .is_some_and(|reason| reason == "unknown_model")
        }));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}
