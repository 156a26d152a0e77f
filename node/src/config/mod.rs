//! The configuration: one name per setting, everywhere.
//!
//! The setting `http_address` is `http_address` in TOML, `COCOON_HTTP_ADDRESS` in the environment
//! and `--http-address` on the command line. Later ones win: defaults, TOML file, environment,
//! flags. `cocoon config` prints what is in force and where each value comes from. A name that does
//! not exist is refused, with the nearest one that does.
//!
//! The file is `--config`, else `COCOON_CONFIG`, else `config.toml` in the data directory if there
//! is one.

mod layers;
mod problems;
mod settings;
mod vault;

#[cfg(test)]
mod tests;

pub use layers::{Environment, Origin};
pub use problems::{ConfigError, Problem};
pub use settings::{EngineDevice, EvidenceSource, Flags, NodeRole, SETTINGS, Setting, SettingKind};
pub use vault::{NoVault, VaultAddress};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use cocoon_protocol::TonAddress;
use cocoon_protocol::units::NanoTon;
use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};

use crate::http::HttpLimits;
use crate::telemetry::LogFormat;

/// Every setting with its value. Units are in the names. [`SETTINGS`] says what each one means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What this node does; no default.
    pub role: Option<NodeRole>,
    /// Keys, ledger, tokens.
    pub data_dir: PathBuf,
    /// Network id; nodes of different networks cannot speak.
    pub network: String,
    /// libp2p multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs (with `/p2p/`) of nodes to start from.
    pub bootstrap: Vec<String>,
    /// HTTP address.
    pub http_address: SocketAddr,
    /// Chat requests at once.
    pub max_jobs: u32,
    /// URL or path of TON's global configuration, or a devnet's bare address.
    pub chain_url: String,
    /// GGUF file, plain or sealed (worker).
    pub model_path: Option<PathBuf>,
    /// The name to serve it under; from the file if absent.
    pub model_id: Option<String>,
    /// Who releases the key of a sealed model: a multiaddr with `/p2p/`, or a peer id.
    pub vault: Option<String>,
    /// What computes the model.
    pub device: EngineDevice,
    /// Memory for keys and values, MiB.
    pub cache_mib: u32,
    /// Tokens guessed ahead; 0 guesses none.
    pub speculation: u8,
    /// A server on this machine that computes the model; computed here if absent.
    pub upstream: Option<String>,
    /// The name under which it serves the model.
    pub upstream_model: Option<String>,
    /// Digest that the model's answers to the known questions must have, 64 hexadecimal digits; what this program
    /// knows of the model if absent.
    pub canary: Option<String>,
    /// Price of a prompt token, nanoTON.
    pub price_input_nanoton: u64,
    /// Price of a generated token, nanoTON.
    pub price_output_nanoton: u64,
    /// Jobs a worker takes at once.
    pub slots: u16,
    /// How far a worker goes ahead of the vouchers, nanoTON.
    pub credit_window_nanoton: u64,
    /// Put into each new channel by a client, nanoTON.
    pub deposit_nanoton: u64,
    /// The most that one client may have unpaid, credit windows.
    pub credit_client_windows: u64,
    /// The most that all strangers together may have unpaid, credit windows.
    pub credit_total_windows: u64,
    /// The most that one client may have before its channel is on chain, nanoTON; 0 serves nobody before.
    pub credit_first_contact_nanoton: u64,
    /// The same for all clients together, nanoTON.
    pub credit_first_contact_total_nanoton: u64,
    /// A channel is claimed when it owes so many times the fee of a claim.
    pub claim_fee_multiple: u64,
    /// A channel is closed together when it has earned so many times what that costs the worker.
    pub release_fee_multiple: u64,
    /// A channel is claimed when it owes this much, nanoTON.
    pub channel_risk_nanoton: u64,
    /// The largest channels are claimed when all together owe this much, nanoTON.
    pub total_risk_nanoton: u64,
    /// What has waited so long is claimed, seconds.
    pub claim_age_s: u64,
    /// The most that jobs may cost while the chain's head cannot be verified, nanoTON.
    pub unverified_risk_nanoton: u64,
    /// The most that all channels may lock together, nanoTON.
    pub locked_nanoton: u64,
    /// A channel that was not used for so long is closed, seconds.
    pub unused_channel_s: u64,
    /// What a thousandth of a TON is worth in milliseconds of waiting, when workers are compared.
    pub wait_ms_per_milliton: u64,
    /// Seconds between a worker's settlement batches.
    pub settle_every_s: u64,
    /// Where a worker's quotes come from, and which root everybody trusts.
    pub evidence: EvidenceSource,
    /// Policy for evidence, TOML.
    pub policy_path: Option<PathBuf>,
    /// A service that gives Intel's collateral; other nodes are asked if absent.
    pub collateral_url: Option<String>,
    /// The proof that a worker's image stands in the log.
    pub image_proof: Option<PathBuf>,
    /// A copy of the policy's log of images.
    pub log_dir: Option<PathBuf>,
    /// The registry on chain that the log is compared with.
    pub registry: Option<TonAddress>,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: None,
            data_dir: PathBuf::new(),
            network: "devnet".to_owned(),
            listen: vec![
                "/ip4/0.0.0.0/udp/4001/quic-v1".to_owned(),
                "/ip4/0.0.0.0/tcp/4001".to_owned(),
            ],
            bootstrap: Vec::new(),
            http_address: SocketAddr::from(([127, 0, 0, 1], 10_000)),
            max_jobs: HttpLimits::default().max_jobs,
            chain_url: "http://127.0.0.1:8547".to_owned(),
            model_path: None,
            model_id: None,
            vault: None,
            device: EngineDevice::Processor,
            cache_mib: 1_024,
            speculation: 0,
            upstream: None,
            upstream_model: None,
            canary: None,
            price_input_nanoton: 20,
            price_output_nanoton: 160,
            slots: 1,
            credit_window_nanoton: 200_000,
            deposit_nanoton: NanoTon::PER_TON,
            credit_client_windows: 10,
            credit_total_windows: 100,
            credit_first_contact_nanoton: 2_000_000,
            credit_first_contact_total_nanoton: 10_000_000,
            claim_fee_multiple: 1_000,
            release_fee_multiple: 10,
            channel_risk_nanoton: 5_000_000_000,
            total_risk_nanoton: 20_000_000_000,
            claim_age_s: 604_800,
            unverified_risk_nanoton: 100_000_000,
            locked_nanoton: 20_000_000_000,
            unused_channel_s: 604_800,
            wait_ms_per_milliton: 1_000,
            settle_every_s: 60,
            evidence: EvidenceSource::Tdx,
            policy_path: None,
            collateral_url: None,
            image_proof: None,
            log_dir: None,
            registry: None,
            log_format: LogFormat::Text,
        }
    }
}

/// The configuration in force and where each value came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// For each setting, by its name.
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Effective {
    /// Puts the layers together. Does not check that the values make sense: [`Effective::validate`].
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a setting that does not exist, a value of a wrong type.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let data_dir = layers::data_dir(flags, environment)?;
        let file = layers::file(flags, environment, &data_dir)?;
        let defaults = Config {
            data_dir,
            ..Config::default()
        };
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = file {
            figment = figment.merge(file);
        }
        let figment = figment
            .merge(environment.layer()?)
            .merge(layers::flags(flags)?);
        let config = figment.extract().map_err(problems::from_figment)?;
        let origins = SETTINGS
            .iter()
            .map(|setting| (setting.name, layers::origin(&figment, setting.name)))
            .collect();
        Ok(Self { config, origins })
    }

    /// Checks that a node can run with it.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong, not just the first.
    pub fn validate(&self) -> Result<NodeRole, ConfigError> {
        problems::validate(self)
    }

    /// Every setting: name, value as TOML would have it, origin.
    pub fn rows(&self) -> Result<Vec<(&'static str, String, Origin)>, ConfigError> {
        let values =
            toml::Table::try_from(&self.config).map_err(|error| ConfigError::Internal {
                reason: error.to_string(),
            })?;
        Ok(SETTINGS
            .iter()
            .map(|setting| {
                let value = values
                    .get(setting.name)
                    .map_or_else(String::new, toml::Value::to_string);
                let origin = self
                    .origins
                    .get(setting.name)
                    .cloned()
                    .unwrap_or(Origin::Default);
                (setting.name, value, origin)
            })
            .collect())
    }
}
