//! From the configuration to the root that is trusted and the verifier that applies it.

use std::path::PathBuf;

use cocoon_attestation::{Policy, PolicyError, Trust, TrustError, Verifier};

use crate::config::{Config, EvidenceSource};

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum PolicySetupError {
    /// Asked for, not compiled in.
    #[error(
        "this binary was built without simulated evidence; build with `--features simulated-evidence`"
    )]
    NoSimulator,
    /// The file cannot be read.
    #[error("cannot read the policy {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no policy.
    #[error("{path}: {source}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: PolicyError,
    },
    /// The policy cannot be meant.
    #[error("{0}; name a policy with --policy-path")]
    Refused(#[from] TrustError),
}

/// The root that the configuration trusts.
///
/// # Errors
/// [`PolicySetupError::NoSimulator`].
pub fn trust(config: &Config) -> Result<Trust, PolicySetupError> {
    match config.evidence {
        EvidenceSource::Tdx => Ok(Trust::Intel),
        #[cfg(feature = "simulated-evidence")]
        EvidenceSource::Simulated => Ok(Trust::Simulated),
        #[cfg(not(feature = "simulated-evidence"))]
        EvidenceSource::Simulated => Err(PolicySetupError::NoSimulator),
    }
}

/// The policy of the configuration.
///
/// # Errors
/// A file that cannot be read, or is no policy.
pub fn policy(config: &Config) -> Result<Policy, PolicySetupError> {
    let Some(path) = config.policy_path.clone() else {
        return Ok(built_in(config.evidence));
    };
    let text = std::fs::read_to_string(&path).map_err(|source| PolicySetupError::Unreadable {
        path: path.clone(),
        source,
    })?;
    Policy::from_toml(&text).map_err(|source| PolicySetupError::Malformed { path, source })
}

fn built_in(source: EvidenceSource) -> Policy {
    match source {
        #[cfg(feature = "simulated-evidence")]
        EvidenceSource::Simulated => cocoon_attestation::policy::simulated::policy(),
        _ => Policy::default(),
    }
}

/// The verifier of the configuration.
///
/// # Errors
/// [`PolicySetupError`].
pub fn verifier(config: &Config) -> Result<Verifier, PolicySetupError> {
    Ok(Verifier::new(trust(config)?, policy(config)?)?)
}
