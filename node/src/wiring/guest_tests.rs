#![allow(clippy::unwrap_used)]

use std::net::TcpListener;

use cocoon_attestation::launch::LaunchError;
use tempfile::TempDir;

use super::super::{engine, node};
use super::*;
use crate::config::NodeRole;

/// A worker whose guest is a folder, and a chain that only notes who calls.
struct Boot {
    /// Holds everything else.
    _folder: TempDir,
    chain: TcpListener,
    config: Config,
    paths: GuestPaths,
}

impl Boot {
    fn with_rtmr3(register: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chain = TcpListener::bind("127.0.0.1:0").unwrap();
        chain.set_nonblocking(true).unwrap();
        let paths = GuestPaths {
            reports: folder.path().join("report"),
            rtmr3: folder.path().join("rtmr3:sha384"),
            event_log: folder.path().join("CCEL"),
        };
        std::fs::write(&paths.rtmr3, register).unwrap();
        let model = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../inference/tests/fixtures/tiny-llama"
        );
        let config = Config {
            evidence: Source::Tdx,
            data_dir: folder.path().join("data"),
            model_path: Some(model.into()),
            chain_url: format!("http://{}", chain.local_addr().unwrap()),
            ..Config::default()
        };
        std::fs::create_dir(&config.data_dir).unwrap();
        Self {
            _folder: folder,
            chain,
            config,
            paths,
        }
    }

    /// How the node ended, or that it asked the chain first.
    async fn start(&self) -> Result<WiringError, &'static str> {
        let chain = tokio::net::TcpListener::from_std(self.chain.try_clone().unwrap()).unwrap();
        tokio::select! {
            _ = chain.accept() => Err("it asked the chain"),
            ended = node(NodeRole::Worker, &self.config, &self.paths) => Ok(ended.unwrap_err()),
        }
    }
}

#[tokio::test]
async fn a_register_that_others_extended_keeps_a_worker_off_the_network() {
    let boot = Boot::with_rtmr3(&[7; 48]);
    let error = boot.start().await.unwrap();
    assert!(
        matches!(&error, WiringError::Launch(launch)
            if matches!(**launch, LaunchError::AlreadyExtended { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_machine_that_is_no_guest_keeps_a_worker_off_the_network() {
    let boot = Boot::with_rtmr3(&[0; 48]);
    std::fs::remove_file(&boot.paths.rtmr3).unwrap();
    let error = boot.start().await.unwrap();
    assert!(
        matches!(&error, WiringError::Launch(launch)
            if matches!(**launch, LaunchError::Io { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_worker_whose_launch_is_measured_goes_on_to_the_chain() {
    let boot = Boot::with_rtmr3(&[0; 48]);
    let model = boot.config.model_path.as_deref().unwrap();
    let engine = engine::load(&boot.config, model).await.unwrap();
    let about = engine.describe();
    let launch = LaunchEvents {
        model: about.digest,
        config: guest_config(&about.id, Path::new(&boot.config.network)),
        gpu: Digest::ZERO,
    };
    // A plain file does not extend, so it holds the value already, as after a restart.
    std::fs::write(&boot.paths.rtmr3, launch.rtmr3().as_bytes()).unwrap();
    let asked = boot.start().await;
    assert!(matches!(asked, Err("it asked the chain")), "{asked:?}");
}
