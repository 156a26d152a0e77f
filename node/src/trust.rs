//! From the configuration to the root that is trusted and the verifier that applies it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cocoon_attestation::gpu::manifest::MAX_MANIFEST_BYTES;
use cocoon_attestation::policy::MAX_POLICY_BYTES;
use cocoon_attestation::{GpuReferences, Policy, PolicyError, Trust, TrustError, Verifier};
use cocoon_protocol::Digest;

use crate::config::{Config, EvidenceSource};

/// The manifest of GPUs, in the folder of the policy.
const GPU_MANIFEST: &str = "gpu-manifest.toml";

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum PolicySetupError {
    /// Asked for, not compiled in.
    #[error(
        "this binary was built without simulated evidence; build with `--features simulated-evidence`"
    )]
    NoSimulator,
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
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
        source: Box<PolicyError>,
    },
    /// The manifest of GPUs is not the one that the policy names.
    #[error("{path} has SHA-256 {found}; the policy names {wanted}")]
    OtherManifest {
        /// Which.
        path: PathBuf,
        /// What it has.
        found: Digest,
        /// What it should have.
        wanted: Digest,
    },
    /// The manifest is none.
    #[error("{path}: {reason}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Where and why.
        reason: String,
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
    let text = read(&path, MAX_POLICY_BYTES)?;
    Policy::from_toml(&text).map_err(|source| PolicySetupError::Malformed {
        path,
        source: Box::new(source),
    })
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
    let policy = policy(config)?;
    let gpus = gpus(config, &policy)?;
    Ok(Verifier::new(trust(config)?, policy)?.with_gpus(gpus))
}

/// What GPUs are held against: the manifest beside the policy, if the policy names one.
fn gpus(config: &Config, policy: &Policy) -> Result<GpuReferences, PolicySetupError> {
    let (Some(wanted), Some(policy_path)) = (policy.gpu_manifest, &config.policy_path) else {
        return Ok(GpuReferences::default());
    };
    let path = policy_path.with_file_name(GPU_MANIFEST);
    let text = read(&path, MAX_MANIFEST_BYTES)?;
    let found = Digest::sha256(text.as_bytes());
    if found != wanted {
        return Err(PolicySetupError::OtherManifest {
            path,
            found,
            wanted,
        });
    }
    let manifest = toml::from_str(&text).map_err(|error| PolicySetupError::Manifest {
        path,
        reason: error.to_string(),
    })?;
    Ok(GpuReferences {
        manifest,
        ..GpuReferences::default()
    })
}

/// A text file of at most `limit` bytes; of a longer one the beginning, which is refused later.
fn read(path: &Path, limit: usize) -> Result<String, PolicySetupError> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_string(&mut text))
        .map_err(|source| PolicySetupError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    Ok(text)
}
