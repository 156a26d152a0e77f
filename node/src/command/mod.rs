//! What `cocoon <command>` does, one file each.

pub mod audit;
pub mod bench;
pub mod canary;
pub mod chat;
pub mod collateral;
pub mod config;
pub mod demo;
pub mod devnet;
pub mod doctor;
pub mod funds;
pub mod gpu;
pub mod guest;
pub mod ledger;
pub mod log;
pub mod model;
pub mod policy;
pub mod receipt;
pub mod registry;
pub mod run;
pub mod status;
pub mod vault;
pub mod verify;
pub mod wallet;

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::demo::DemoError;
use crate::gateway_client::ClientError;
use crate::receipt_check::OpenError;
use crate::telemetry::TelemetryError;
use crate::trust::PolicySetupError;
use crate::wiring::WiringError;

/// Not verified, not valid, not answered.
pub const FAILURE: u8 = 1;

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No configuration to run with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node could not start, or went down.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// The demo failed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The node does not answer, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No logging.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// No verifier.
    #[error(transparent)]
    Policy(#[from] PolicySetupError),
    /// No collateral.
    #[error(transparent)]
    Collateral(#[from] cocoon_attestation::shelf::CollateralError),
    /// No collateral from a service.
    #[error(transparent)]
    Provisioning(#[from] crate::collateral::ServiceError),
    /// No receipt.
    #[error(transparent)]
    Receipt(#[from] OpenError),
    /// A policy, its signature, or the evidence to explain.
    #[error(transparent)]
    PolicyFile(#[from] policy::PolicyCommandError),
    /// The model does not load or does not answer.
    #[error("the engine: {source}")]
    Engine {
        /// Why.
        #[source]
        source: cocoon_inference::EngineError,
    },
    /// The model does not answer the known questions.
    #[error(transparent)]
    Canary(Box<cocoon_inference::canary::CanaryError>),
    /// No such device, or none in this build.
    #[error("no CUDA here: build with `--features cuda`, on a machine with a driver and NVRTC")]
    NoCuda,
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] cocoon_settlement::chain::ChainError),
    /// A ledger's tools.
    #[error(transparent)]
    LedgerTool(Box<ledger::LedgerToolError>),
    /// A file, the terminal, the network of this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Nothing was said.
    #[error("no prompt: give it as an argument or on standard input")]
    NoPrompt,
    /// Several models, none chosen.
    #[error("{} models are served now; choose one with --model: {}", .0.len(), .0.join(", "))]
    WhichModel(Vec<String>),
    /// No model at all.
    #[error("no verified worker serves a model right now; see `cocoon status`")]
    NoModel,
    /// The models on the disk.
    #[error("{}", model::explained(.0))]
    Store(#[from] cocoon_inference::store::StoreError),
    /// The log of guest images.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// The registry.
    #[error(transparent)]
    Registry(Box<registry::RegistryError>),
    /// A file of `cocoon gpu`.
    #[error(transparent)]
    Gpu(Box<gpu::GpuFileError>),
    /// A sealed model.
    #[error(transparent)]
    Sealed(Box<cocoon_inference::sealed::SealedError>),
    /// An owner's key.
    #[error(transparent)]
    VaultKey(crate::secret_file::SecretFileError),
    /// Keys and models do not fit together.
    #[error("{why}")]
    VaultModels {
        /// In words.
        why: String,
    },
    /// A wallet's key, words or receiver.
    #[error(transparent)]
    Wallet(#[from] wallet::WalletError),
    /// Nobody there to ask.
    #[error("not removed: {0}; say --yes where nobody can be asked")]
    NotConfirmed(String),
    /// No registers to expect of these files.
    #[error(transparent)]
    LaunchMeasure(#[from] cocoon_attestation::launch_measure::LaunchMeasureError),
    /// No event log.
    #[error(transparent)]
    EventLog(#[from] cocoon_attestation::event_log::ReadLogError),
    /// A file that is no policy.
    #[error("{path} is not a policy: {reason}")]
    NoPolicy {
        /// Which.
        path: std::path::PathBuf,
        /// Where and why.
        reason: String,
    },
    /// An answer could not be written as TOML.
    #[error("cannot write TOML: {0}")]
    Toml(#[from] toml::ser::Error),
    /// An answer could not be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<registry::RegistryError> for CommandError {
    fn from(error: registry::RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}
impl From<gpu::GpuFileError> for CommandError {
    fn from(error: gpu::GpuFileError) -> Self {
        Self::Gpu(Box::new(error))
    }
}

impl From<cocoon_inference::sealed::SealedError> for CommandError {
    fn from(error: cocoon_inference::sealed::SealedError) -> Self {
        Self::Sealed(Box::new(error))
    }
}

impl CommandError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// How a command ends.
pub type CommandResult = Result<ExitCode, CommandError>;

/// A runtime for a command that only talks over the network.
pub(crate) fn block_on<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start a runtime"))?
        .block_on(work)
}
