//! Which settings there are: their names, kinds and meanings, and the flags that set them.

use std::net::SocketAddr;
use std::path::PathBuf;

use cocoon_protocol::TonAddress;
use serde::{Deserialize, Serialize};

use crate::telemetry::LogFormat;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Runs a model in a guest and earns.
    Worker,
    /// Serves local apps and pays.
    Client,
    /// Helps others to find one another.
    Bootstrap,
}

impl NodeRole {
    /// As in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Client => "client",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// Where quotes come from, and which root is trusted. Both ends of a network must agree: the root
/// is part of every protocol's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceSource {
    /// An Intel TDX guest; Intel's root.
    #[default]
    Tdx,
    /// The simulator and its own root. Only in binaries that were built with it.
    Simulated,
}

/// What computes a worker's model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineDevice {
    /// The processor, on all cores.
    #[default]
    Processor,
    /// The first CUDA device. Only in binaries that were built with `--features cuda`.
    Cuda,
}

/// The shape of a setting's value, for layers that know only text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// Texts; separated by commas in the environment and in flags.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in TOML; `COCOON_` and capitals in the environment, `--` and hyphens in flags.
    pub name: &'static str,
    /// Its shape.
    pub kind: SettingKind,
}

const fn setting(name: &'static str, kind: SettingKind) -> Setting {
    Setting { name, kind }
}

/// All of them, in the order in which they are printed.
pub const SETTINGS: [Setting; 43] = [
    setting("role", SettingKind::Text),
    setting("data_dir", SettingKind::Text),
    setting("network", SettingKind::Text),
    setting("listen", SettingKind::List),
    setting("bootstrap", SettingKind::List),
    setting("http_address", SettingKind::Text),
    setting("max_jobs", SettingKind::Number),
    setting("chain_url", SettingKind::Text),
    setting("model_path", SettingKind::Text),
    setting("model_id", SettingKind::Text),
    setting("vault", SettingKind::Text),
    setting("device", SettingKind::Text),
    setting("cache_mib", SettingKind::Number),
    setting("speculation", SettingKind::Number),
    setting("upstream", SettingKind::Text),
    setting("upstream_model", SettingKind::Text),
    setting("canary", SettingKind::Text),
    setting("price_input_nanoton", SettingKind::Number),
    setting("price_output_nanoton", SettingKind::Number),
    setting("slots", SettingKind::Number),
    setting("credit_window_nanoton", SettingKind::Number),
    setting("deposit_nanoton", SettingKind::Number),
    setting("credit_client_windows", SettingKind::Number),
    setting("credit_total_windows", SettingKind::Number),
    setting("credit_first_contact_nanoton", SettingKind::Number),
    setting("credit_first_contact_total_nanoton", SettingKind::Number),
    setting("claim_fee_multiple", SettingKind::Number),
    setting("release_fee_multiple", SettingKind::Number),
    setting("channel_risk_nanoton", SettingKind::Number),
    setting("total_risk_nanoton", SettingKind::Number),
    setting("claim_age_s", SettingKind::Number),
    setting("unverified_risk_nanoton", SettingKind::Number),
    setting("locked_nanoton", SettingKind::Number),
    setting("unused_channel_s", SettingKind::Number),
    setting("wait_ms_per_milliton", SettingKind::Number),
    setting("settle_every_s", SettingKind::Number),
    setting("evidence", SettingKind::Text),
    setting("policy_path", SettingKind::Text),
    setting("collateral_url", SettingKind::Text),
    setting("image_proof", SettingKind::Text),
    setting("log_dir", SettingKind::Text),
    setting("registry", SettingKind::Text),
    setting("log_format", SettingKind::Text),
];

/// Every setting as a flag. What is not given stays with the layers below.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (also in TOML, and as COCOON_… in the environment)")]
pub struct Flags {
    /// TOML file [default: config.toml in the data directory, if there is one]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// What this node does
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<NodeRole>,
    /// Keys, ledger and tokens live here [default: $XDG_DATA_HOME/cocoon or ~/.local/share/cocoon]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Network id; nodes of different networks cannot speak [default: devnet]
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Multiaddrs to listen on, separated by commas [default: QUIC and TCP on port 4001]
    #[arg(long, value_name = "MULTIADDR", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<String>,
    /// Multiaddrs (with /p2p/…) of nodes to start from, separated by commas
    #[arg(long, value_name = "MULTIADDR", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<String>,
    /// Where HTTP listens; beyond loopback a key is required [default: 127.0.0.1:10000]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_address: Option<SocketAddr>,
    /// Chat requests at once [default: 32]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_jobs: Option<u32>,
    /// TON's global configuration, which names liteservers and the block that trust starts from; a devnet's bare address
    /// means its own [default: http://127.0.0.1:8547]
    #[arg(long, value_name = "URL|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_url: Option<String>,
    /// Worker: the model, a GGUF file, plain or sealed
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_path: Option<PathBuf>,
    /// Worker: the name to serve the model under [default: from the file]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Worker: who releases the key of a sealed model, a multiaddr with /p2p/… or a peer id
    #[arg(long, value_name = "MULTIADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Worker: what computes the model [default: processor]
    #[arg(long, value_enum, value_name = "DEVICE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<EngineDevice>,
    /// Worker: memory for keys and values, MiB, taken at the start [default: 1024]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_mib: Option<u32>,
    /// Worker: tokens guessed ahead from prompt and answer, which changes speed and nothing else; 0 guesses
    /// none [default: 0]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<u8>,
    /// Worker: a server on this machine (vLLM, SGLang, llama.cpp) that computes the model, like
    /// http://127.0.0.1:8000/v1; the model's file still judges it [default: compute it here]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Worker: the name under which that server serves the model
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_model: Option<String>,
    /// Worker: digest that the model's answers to the known questions must have, as `cocoon model canary` prints
    /// it [default: what this program knows of the model]
    #[arg(long, value_name = "HEX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// Worker: price of a prompt token, nanoTON [default: 20]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_input_nanoton: Option<u64>,
    /// Worker: price of a generated token, nanoTON [default: 160]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_output_nanoton: Option<u64>,
    /// Worker: jobs at once [default: 1]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u16>,
    /// Worker: how far it goes ahead of the vouchers, nanoTON [default: 200000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_window_nanoton: Option<u64>,
    /// Client: put into a channel to a worker that was not used before, nanoTON [default: 1000000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deposit_nanoton: Option<u64>,
    /// Worker: the most that one client may have unpaid, running jobs included, in credit windows [default: 10]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_client_windows: Option<u64>,
    /// Worker: the most that all clients who have not paid as much before may have unpaid together, in credit
    /// windows [default: 100]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_total_windows: Option<u64>,
    /// Worker: the most that one client may have before its channel is on chain, nanoTON; 0: no job begins before its
    /// channel is seen there [default: 2000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_first_contact_nanoton: Option<u64>,
    /// Worker: the same for all clients together; at most this much an hour can be lost to clients whose channels never
    /// appear, nanoTON [default: 10000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_first_contact_total_nanoton: Option<u64>,
    /// Worker: claim a channel when it owes so many times the fee of a claim [default: 1000]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_fee_multiple: Option<u64>,
    /// Worker: close a channel together with its client when it has earned so many times what that costs; 0: always
    /// [default: 10]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_fee_multiple: Option<u64>,
    /// Worker: claim a channel when it owes this much, whatever the fee, nanoTON [default: 5000000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_risk_nanoton: Option<u64>,
    /// Worker: claim the largest channels when all together owe this much, nanoTON [default: 20000000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_risk_nanoton: Option<u64>,
    /// Worker: claim what has waited so long and is worth its fee, seconds [default: 604800]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_age_s: Option<u64>,
    /// The most that jobs may cost while the chain's head cannot be verified, nanoTON [default: 100000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified_risk_nanoton: Option<u64>,
    /// Client: the most that all channels may lock together, nanoTON [default: 20000000000]
    #[arg(long, value_name = "NANOTON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_nanoton: Option<u64>,
    /// Client: close a channel that was not used for so long, seconds [default: 604800]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_channel_s: Option<u64>,
    /// Client: milliseconds of waiting that 0.001 TON is worth, when workers are compared
    /// [default: 1000]
    #[arg(long, value_name = "MILLISECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms_per_milliton: Option<u64>,
    /// Worker: seconds between settlement batches [default: 60]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle_every_s: Option<u64>,
    /// Where quotes come from and which root is trusted [default: tdx]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceSource>,
    /// Policy for evidence, TOML: the guest images to trust, and how strictly
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_path: Option<PathBuf>,
    /// A service that gives Intel's collateral, like https://api.trustedservices.intel.com [default: ask
    /// other nodes]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collateral_url: Option<String>,
    /// Worker: the proof that its guest's image stands in the log that clients trust, made by `cocoon log prove`
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_proof: Option<PathBuf>,
    /// A copy of the policy's log of images, as `cocoon log` keeps it, to answer other nodes' questions from
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// The registry contract whose heads of the policy's log this node compares with what it is shown
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<TonAddress>,
    /// How log lines look [default: text]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
}
