//! What can be wrong with a configuration. Every problem says what, where, why and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use cocoon_inference::upstream::LoopbackUrl;
use cocoon_protocol::Digest;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::layers::{Origin, origin_of};
use super::settings::{EvidenceSource, NodeRole, SETTINGS};
use super::vault::VaultAddress;
use super::{Config, Effective};
use crate::{build_info, suggest};

/// Most jobs at once that a node may be asked to take.
const MAX_JOBS: u32 = 4096;

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No flag, no variable, no home.
    #[error("no data directory: neither --data-dir nor COCOON_DATA_DIR nor HOME is set")]
    NoDataDir,
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path} is not valid TOML: {reason}")]
    NotToml {
        /// Which.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The file was found in the data directory and wants another one.
    #[error(
        "{path} sets data_dir, but it was found in the data directory; name the file with --config or remove the line"
    )]
    FileMovesItself {
        /// Which.
        path: PathBuf,
    },
    /// A name that is no setting.
    #[error("unknown setting `{name}` ({origin}){}", did_you_mean(.suggestion.as_deref()))]
    Unknown {
        /// As written.
        name: String,
        /// Where.
        origin: String,
        /// A name that is close.
        suggestion: Option<String>,
    },
    /// A value of a wrong type.
    #[error("{name} ({origin}): {reason}")]
    WrongType {
        /// The setting.
        name: String,
        /// Where.
        origin: String,
        /// What came and what is right.
        reason: String,
    },
    /// Values of the right types that do not make a node.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// A bug.
    #[error("internal error in the configuration: {reason}")]
    Internal {
        /// For the report.
        reason: String,
    },
}

/// One thing that is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
    /// Why it will not do.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, " ({}): {}; {}", self.origin, self.why, self.fix)
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || "; `cocoon config` lists them all".to_owned(),
        |name| format!("; did you mean `{name}`?"),
    )
}

/// figment's errors in our words.
pub(super) fn from_figment(error: figment::Error) -> ConfigError {
    let layer = error
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_ref())
        .to_owned();
    let name = error.path.join(".");
    match error.kind {
        figment::error::Kind::UnknownField(field, _) => ConfigError::Unknown {
            suggestion: suggest::nearest(&field, SETTINGS.iter().map(|setting| setting.name))
                .map(str::to_owned),
            origin: if layer.is_empty() {
                "file".to_owned()
            } else {
                layer
            },
            name: field,
        },
        kind => ConfigError::WrongType {
            origin: origin_of(&layer, &name).to_string(),
            name,
            reason: kind.to_string(),
        },
    }
}

/// Gathers what is wrong.
struct Check<'a> {
    effective: &'a Effective,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn wrong(&mut self, name: &'static str, value: impl fmt::Display, why: &str, fix: &str) {
        let origin = self
            .effective
            .origins
            .get(name)
            .cloned()
            .unwrap_or(Origin::Default);
        self.problems.push(Problem {
            name,
            value: value.to_string(),
            origin,
            why: why.to_owned(),
            fix: fix.to_owned(),
        });
    }
}

/// See [`Effective::validate`].
pub(super) fn validate(effective: &Effective) -> Result<NodeRole, ConfigError> {
    let config = &effective.config;
    let mut check = Check {
        effective,
        problems: Vec::new(),
    };
    if config.role.is_none() {
        check.wrong(
            "role",
            "",
            "not set",
            "say --role worker, client or bootstrap",
        );
    }
    network(&mut check, config);
    limits(&mut check, config);
    match config.role {
        Some(NodeRole::Worker) => worker(&mut check, config),
        Some(NodeRole::Client) => client(&mut check, config),
        Some(NodeRole::Bootstrap) | None => {}
    }
    if config.evidence == EvidenceSource::Simulated && !build_info::SIMULATED_EVIDENCE {
        check.wrong(
            "evidence",
            "simulated",
            "this binary was built without simulated evidence",
            "use tdx, or build with `--features simulated-evidence` to try things out",
        );
    }
    if let Some(path) = &config.policy_path {
        readable(
            &mut check,
            "policy_path",
            path,
            "name a TOML file with the guest images you trust",
        );
    }
    match config.role {
        Some(role) if check.problems.is_empty() => Ok(role),
        _ => Err(ConfigError::Invalid(check.problems)),
    }
}

fn network(check: &mut Check<'_>, config: &Config) {
    let id = &config.network;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.is_empty() || id.len() > 32 || !id.bytes().all(plain) {
        check.wrong(
            "network",
            id,
            "it becomes part of protocol names",
            "use 1 to 32 of a-z, 0-9 and -",
        );
    }
    if config.listen.is_empty() {
        check.wrong(
            "listen",
            "",
            "no address",
            "for example /ip4/0.0.0.0/tcp/4001",
        );
    }
    for address in &config.listen {
        if address.parse::<Multiaddr>().is_err() {
            check.wrong(
                "listen",
                address,
                "not a multiaddr",
                "for example /ip4/0.0.0.0/tcp/4001",
            );
        }
    }
    for address in &config.bootstrap {
        let names_peer = address
            .parse::<Multiaddr>()
            .is_ok_and(|address| address.iter().any(|part| matches!(part, Protocol::P2p(_))));
        if !names_peer {
            check.wrong(
                "bootstrap",
                address,
                "not a multiaddr that names its peer",
                "copy the line that the bootstrap node prints: /ip4/…/tcp/4001/p2p/12D3…",
            );
        }
    }
    let joins = matches!(config.role, Some(NodeRole::Worker | NodeRole::Client));
    if joins && config.bootstrap.is_empty() {
        check.wrong(
            "bootstrap",
            "",
            "empty, so this node would find nobody",
            "give one multiaddr of any node of the network with --bootstrap",
        );
    }
    if joins && !names_a_global_config(&config.chain_url) {
        check.wrong(
            "chain_url",
            &config.chain_url,
            "neither an http(s) URL nor the path of a file",
            "use TON's global configuration as a file or a URL, or http://127.0.0.1:8547, where `cocoon devnet` answers",
        );
    }
}

/// `localhost:8547` is meant as neither; a file has a directory or an ending.
fn names_a_global_config(chain_url: &str) -> bool {
    ["http://", "https://", "file://"]
        .iter()
        .any(|scheme| chain_url.starts_with(scheme))
        || (!chain_url.contains("://") && (chain_url.contains('/') || chain_url.ends_with(".json")))
}

fn limits(check: &mut Check<'_>, config: &Config) {
    if config.max_jobs == 0 || config.max_jobs > MAX_JOBS {
        check.wrong(
            "max_jobs",
            config.max_jobs,
            "out of range",
            &format!("use 1 to {MAX_JOBS}"),
        );
    }
    if !config.data_dir.is_absolute() && config.data_dir.starts_with("~") {
        let value = config.data_dir.display().to_string();
        check.wrong(
            "data_dir",
            value,
            "~ means nothing outside a shell",
            "write the whole path",
        );
    }
}

fn client(check: &mut Check<'_>, config: &Config) {
    if config.deposit_nanoton == 0 {
        let why = "an empty channel pays for nothing";
        check.wrong(
            "deposit_nanoton",
            0,
            why,
            "deposit at least what one long answer costs",
        );
    }
    if config.locked_nanoton < config.deposit_nanoton {
        check.wrong(
            "locked_nanoton",
            config.locked_nanoton,
            "less than one deposit, so no channel could be opened",
            "use several times deposit_nanoton",
        );
    }
    if config.unused_channel_s == 0 {
        check.wrong(
            "unused_channel_s",
            0,
            "a channel would be closed as soon as its job has ended",
            "use some hours or days",
        );
    }
    if config.evidence == EvidenceSource::Tdx && config.policy_path.is_none() {
        check.wrong(
            "policy_path",
            "",
            "not set, and without the measurements of a guest image no worker can be verified",
            "name the policy of the release you trust",
        );
    }
}

fn worker(check: &mut Check<'_>, config: &Config) {
    match &config.model_path {
        None => check.wrong(
            "model_path",
            "",
            "not set, and a worker needs a model",
            "name a GGUF file with --model-path; `make model` fetches a small one",
        ),
        Some(path) => readable(
            check,
            "model_path",
            path,
            "`make model` fetches a small one",
        ),
    }
    upstream(check, config);
    if let Some(canary) = &config.canary
        && canary.parse::<Digest>().is_err()
    {
        check.wrong(
            "canary",
            canary,
            "not a digest of 64 hexadecimal digits",
            "copy the line that `cocoon model canary MODEL` prints",
        );
    }
    if let Some(vault) = &config.vault
        && let Err(error) = vault.parse::<VaultAddress>()
    {
        check.wrong(
            "vault",
            vault,
            &error.to_string(),
            "copy the line that `cocoon vault serve` prints: /ip4/…/tcp/4001/p2p/12D3…",
        );
    }
    if config.slots == 0 {
        check.wrong(
            "slots",
            0,
            "a worker without slots takes no jobs",
            "use 1 or more",
        );
    }
    if config.settle_every_s == 0 {
        check.wrong(
            "settle_every_s",
            0,
            "batches without a pause",
            "use 1 or more",
        );
    }
    if config.claim_fee_multiple == 0 {
        check.wrong(
            "claim_fee_multiple",
            0,
            "claims of nothing",
            "use 100 or more: a claim then costs a hundredth of what it brings",
        );
    }
    for (name, windows) in [
        ("credit_client_windows", config.credit_client_windows),
        ("credit_total_windows", config.credit_total_windows),
    ] {
        if windows == 0 {
            check.wrong(
                name,
                0,
                "without credit for the first words no job could start",
                "use 1 or more",
            );
        }
    }
    if config.total_risk_nanoton < config.channel_risk_nanoton {
        check.wrong(
            "total_risk_nanoton",
            config.total_risk_nanoton,
            "less than what one channel may owe",
            "use several times channel_risk_nanoton",
        );
    }
    let one_token = config.price_input_nanoton.max(config.price_output_nanoton);
    if config.credit_window_nanoton < one_token {
        check.wrong(
            "credit_window_nanoton",
            config.credit_window_nanoton,
            "smaller than the price of one token, so no job could start",
            "use the price of a few hundred tokens",
        );
    }
}

fn upstream(check: &mut Check<'_>, config: &Config) {
    match (&config.upstream, &config.upstream_model) {
        (None, None) => {}
        (None, Some(model)) => check.wrong(
            "upstream_model",
            model,
            "no server is named that would serve it",
            "name one with --upstream, like http://127.0.0.1:8000/v1",
        ),
        (Some(url), model) => {
            if let Err(error) = LoopbackUrl::parse(url) {
                check.wrong(
                    "upstream",
                    url,
                    &error.to_string(),
                    "run the server in the same guest, and name its address on the loopback",
                );
            }
            if model.is_none() {
                check.wrong(
                    "upstream_model",
                    "",
                    "not set, and the upstream server must be told which model is meant",
                    "say what `curl <upstream>/models` lists",
                );
            }
        }
    }
}

fn readable(check: &mut Check<'_>, name: &'static str, path: &Path, fix: &str) {
    if let Err(error) = std::fs::File::open(path) {
        check.wrong(
            name,
            path.display(),
            &format!("cannot be read: {error}"),
            fix,
        );
    }
}
