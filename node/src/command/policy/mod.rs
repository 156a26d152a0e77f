//! `cocoon policy`: what is demanded of workers' evidence, for its author and for those who wonder why
//! somebody is refused. The file is described in `docs/policy.md`.

mod check;
mod explain;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_attestation::PolicyError;
use cocoon_attestation::log::{KeyError, NoteSigner, NoteVerifier};
use cocoon_attestation::policy::signature::{self, SignatureError};
use cocoon_attestation::policy::{MAX_POLICY_BYTES, Policy, TEMPLATE};
use cocoon_protocol::{PeerId, WireError};

use super::{CommandError, CommandResult};
use crate::config::Flags;
use crate::secret_file::{SecretFileError, Token};

/// Ending of the file with a policy's signatures, after the policy's own.
const SIGNATURE_ENDING: &str = "note";
/// Largest signature file that is read, bytes.
const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// Flags of `cocoon policy`.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyArgs {
    /// What to do
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What can be done with policies.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PolicyAction {
    /// Print a policy to start from, with every key and what it means
    Template,
    /// Check that a policy can be meant and, with --key, that it is signed; exit 0 only if so
    Check(CheckArgs),
    /// Sign a policy with a key from `cocoon log key`
    Sign(SignArgs),
    /// Say of a worker's evidence, factor by factor, what the policy wants, what was seen and what to
    /// change; exit 0 only if it is accepted
    Explain(Box<ExplainArgs>),
}

/// Flags of `cocoon policy check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The policy
    #[arg(value_name = "POLICY")]
    pub policy: PathBuf,
    /// A public key, as text or in a file, of which one has to have signed it; may be given again
    #[arg(long, value_name = "KEY|FILE")]
    pub key: Vec<String>,
    /// The signatures [default: POLICY.note]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub signature: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon policy sign`.
#[derive(Clone, Debug, clap::Args)]
pub struct SignArgs {
    /// The policy
    #[arg(value_name = "POLICY")]
    pub policy: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The signatures; those that are there stay [default: POLICY.note]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Flags of `cocoon policy explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Evidence as it goes over the wire, or a receipt from `GET /v1/receipts/{id}` that holds it
    #[arg(value_name = "EVIDENCE")]
    pub bundle: PathBuf,
    /// The policy [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The worker that should have made it
    #[arg(long, value_name = "PEER")]
    pub peer: Option<PeerId>,
    /// Digest of the weights that the worker advertises
    #[arg(long, value_name = "HEX")]
    pub model: Option<cocoon_protocol::Digest>,
    /// Digest of the evidence that the worker advertises
    #[arg(long, value_name = "HEX")]
    pub advertised: Option<cocoon_protocol::Digest>,
    /// Judge as of this time, seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    pub at: Option<u64>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which root, policy and chain to judge by
    #[command(flatten)]
    pub flags: Flags,
}

/// Why a policy command failed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyCommandError {
    /// Larger than anything that is read there.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: usize,
    },
    /// Not text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// No policy.
    #[error("{path}: {source}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<PolicyError>,
    },
    /// No key.
    #[error("--key {given}: {source}")]
    Key {
        /// What was given.
        given: String,
        /// Why.
        source: Box<KeyError>,
    },
    /// No secret key.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// No signature of it.
    #[error("{path}: {source}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<SignatureError>,
    },
    /// No evidence.
    #[error("{path} is neither evidence nor a receipt that holds some: {source}")]
    Evidence {
        /// The file.
        path: PathBuf,
        /// Why it is no evidence.
        source: Box<WireError>,
    },
    /// A receipt, but without.
    #[error("{path} is JSON without `evidence` in base64")]
    NoEvidence {
        /// The file.
        path: PathBuf,
    },
}

/// Does it.
///
/// # Errors
/// Files that cannot be read or are not what they should be.
pub fn run(args: &PolicyArgs) -> CommandResult {
    match &args.action {
        PolicyAction::Template => {
            print!("{TEMPLATE}");
            Ok(ExitCode::SUCCESS)
        }
        PolicyAction::Check(args) => check::run(args),
        PolicyAction::Sign(args) => sign(args),
        PolicyAction::Explain(args) => explain::run(args),
    }
}

fn sign(args: &SignArgs) -> CommandResult {
    let policy = read(&args.policy, MAX_POLICY_BYTES)?;
    // What cannot be meant is not signed.
    parse(&args.policy, &policy)?;
    let secret = Token::load(&args.key).map_err(PolicyCommandError::Secret)?;
    let signer: NoteSigner =
        secret
            .reveal()
            .trim()
            .parse()
            .map_err(|source| PolicyCommandError::Key {
                given: args.key.display().to_string(),
                source: Box::new(source),
            })?;
    let path = args
        .out
        .clone()
        .unwrap_or_else(|| signature_path(&args.policy));
    let existing = match path.try_exists() {
        Ok(true) => Some(read(&path, MAX_SIGNATURE_BYTES)?),
        _ => None,
    };
    let note = signature::sign(&policy, &signer, existing.as_deref()).map_err(|source| {
        PolicyCommandError::Signature {
            path: path.clone(),
            source: Box::new(source),
        }
    })?;
    std::fs::write(&path, note)
        .map_err(CommandError::io(format!("cannot write {}", path.display())))?;
    println!(
        "{} signed by {}; check with: cocoon policy check {} --key {}",
        path.display(),
        signer.verifier().name(),
        args.policy.display(),
        signer.verifier()
    );
    Ok(ExitCode::SUCCESS)
}

/// Where a policy's signatures are unless somebody says otherwise.
fn signature_path(policy: &Path) -> PathBuf {
    let mut name = policy.as_os_str().to_owned();
    name.push(".");
    name.push(SIGNATURE_ENDING);
    name.into()
}

/// A public key, or the file that it stands in.
fn key(given: &str) -> Result<NoteVerifier, CommandError> {
    let path = Path::new(given);
    let text = match path.is_file() {
        true => text(path, read(path, MAX_SIGNATURE_BYTES)?)?,
        false => given.to_owned(),
    };
    text.trim().parse().map_err(|source| {
        PolicyCommandError::Key {
            given: given.to_owned(),
            source: Box::new(source),
        }
        .into()
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Policy, CommandError> {
    let text = text(path, bytes.to_vec())?;
    Policy::from_toml(&text).map_err(|source| {
        PolicyCommandError::Policy {
            path: path.to_owned(),
            source: Box::new(source),
        }
        .into()
    })
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, CommandError> {
    String::from_utf8(bytes).map_err(|_| {
        PolicyCommandError::NotText {
            path: path.to_owned(),
        }
        .into()
    })
}

/// A file of at most `limit` bytes.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CommandError> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(CommandError::io(format!("cannot read {}", path.display())))?;
    if bytes.len() > limit {
        let path = path.to_owned();
        return Err(PolicyCommandError::TooLarge { path, limit }.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
