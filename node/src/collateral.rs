//! Where an operator has collateral from, apart from other nodes: files in the data directory, and a
//! provisioning service.
//!
//! A file may be `collateral.json` or anything ending in `.json` in `collateral/`; `cocoon collateral import`
//! puts it there. Files come first, so that a node whose service is away can be helped by hand.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_actors::collateral::Provisioning;
use cocoon_attestation::provisioning::{
    Answer, MAX_ANSWER_BYTES, ProvisioningError, assemble, questions,
};
use cocoon_attestation::shelf::facts;
use cocoon_protocol::collateral::PlatformFamily;
use cocoon_protocol::evidence::MAX_COLLATERAL_BYTES;
use tracing::warn;
use ureq::Agent;

use crate::config::Config;

/// Files that are looked at in the directory.
const MAX_FILES: usize = 64;
/// Longest wait for one answer of a service.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The directory below the data directory.
#[must_use]
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("collateral")
}

/// Where `cocoon collateral import` puts a family's collateral.
#[must_use]
pub fn file_of(data_dir: &Path, family: &PlatformFamily) -> PathBuf {
    let name = family.to_string().replace('/', "-");
    directory(data_dir).join(format!("{name}.json"))
}

/// Why a service gave no collateral.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The network, TLS, or an HTTP status.
    #[error("{address}: {source}")]
    Http {
        /// What was asked for.
        address: String,
        /// What happened.
        source: Box<ureq::Error>,
    },
    /// Its answers are not collateral.
    #[error(transparent)]
    Answer(#[from] ProvisioningError),
}

/// Asks the service at `base` for a family's collateral. Blocking; four requests.
///
/// # Errors
/// [`ServiceError`]. What comes is not authenticated.
pub fn fetch(base: &str, family: &PlatformFamily) -> Result<Vec<u8>, ServiceError> {
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(ANSWER_LIMIT))
        .build()
        .into();
    let asked = questions(base, family);
    let tcb_info = get(&agent, &asked.tcb_info.0, asked.tcb_info.1)?;
    let qe_identity = get(&agent, &asked.qe_identity.0, asked.qe_identity.1)?;
    let pck_crl = get(&agent, &asked.pck_crl.0, asked.pck_crl.1)?;
    let root_crl = get(&agent, &asked.root_crl, "")?;
    Ok(assemble(&tcb_info, &qe_identity, &pck_crl, &root_crl.body)?)
}

fn get(agent: &Agent, address: &str, header: &str) -> Result<Answer, ServiceError> {
    let failed = |source| ServiceError::Http {
        address: address.to_owned(),
        source: Box::new(source),
    };
    let mut response = agent.get(address).call().map_err(failed)?;
    let issuers = response
        .headers()
        .get(header)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let limit = u64::try_from(MAX_ANSWER_BYTES).unwrap_or(u64::MAX);
    let body = response
        .body_mut()
        .with_config()
        .limit(limit)
        .read_to_vec()
        .map_err(failed)?;
    Ok(Answer { body, issuers })
}

/// See the module's doc.
pub struct OperatorsCollateral {
    data_dir: PathBuf,
    service: Option<String>,
}

impl OperatorsCollateral {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            service: config.collateral_url.clone(),
        }
    }

    /// Of several files for a family the one that lasts longest.
    fn files_of(&self, family: &PlatformFamily) -> Option<Vec<u8>> {
        let listed = fs::read_dir(directory(&self.data_dir))
            .into_iter()
            .flatten();
        listed
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
            .take(MAX_FILES)
            .chain([self.data_dir.join("collateral.json")])
            .filter_map(|path| read_bounded(&path).ok())
            .filter_map(|json| facts(&json).ok().map(|facts| (facts, json)))
            .filter(|(facts, _)| facts.family == *family)
            .max_by_key(|(facts, _)| (facts.evaluation, facts.until))
            .map(|(_, json)| json)
    }
}

impl Provisioning for OperatorsCollateral {
    fn fetch(&self, family: &PlatformFamily) -> Vec<Vec<u8>> {
        let from_service = self.service.as_ref().and_then(|base| {
            fetch(base, family)
                .inspect_err(
                    |error| warn!(%family, %error, "the provisioning service gave no collateral"),
                )
                .ok()
        });
        self.files_of(family)
            .into_iter()
            .chain(from_service)
            .collect()
    }
}

/// A file of at most [`MAX_COLLATERAL_BYTES`].
///
/// # Errors
/// The system's, or that it is longer.
pub fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(MAX_COLLATERAL_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_COLLATERAL_BYTES {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("more than {MAX_COLLATERAL_BYTES} bytes, so not collateral"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "collateral_tests.rs"]
mod tests;
