//! `cocoon gpu`: golden values from NVIDIA's RIM files, and evidence of GPUs judged by them.

mod rims;
mod show;
mod verify;

use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_attestation::gpu::chain::ChainError;
use cocoon_attestation::gpu::manifest::ManifestError;
use cocoon_attestation::gpu::nras::NrasError;
use cocoon_attestation::gpu::report::ReportError;
use cocoon_attestation::gpu::rim::RimError;
use cocoon_attestation::gpu::time;
use cocoon_protocol::WireError;
use cocoon_protocol::gpu::MAX_GPU_REPORT_BYTES;

use super::{CommandError, CommandResult};

pub use rims::RimsArgs;
pub use show::ShowArgs;
pub use verify::VerifyArgs;

/// Flags of `cocoon gpu`.
#[derive(Clone, Debug, clap::Args)]
pub struct GpuArgs {
    /// What to do
    #[command(subcommand)]
    pub action: GpuAction,
}

/// What can be done with evidence of GPUs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum GpuAction {
    /// Make a manifest of golden values from NVIDIA's signed RIM files
    Rims(RimsArgs),
    /// Judge evidence, factor by factor; exit 0 only if it is accepted
    Verify(VerifyArgs),
    /// Show what is in a report, unchecked
    Show(ShowArgs),
}

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum GpuFileError {
    /// Not a RIM file that counts.
    #[error("{file}: {source}")]
    Rim {
        /// Which file.
        file: String,
        /// Why.
        source: RimError,
    },
    /// RIM files that do not go together, or a manifest that was edited.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A manifest that cannot be read.
    #[error("{file} is no manifest of `cocoon gpu rims`: {why}")]
    NoManifest {
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// Evidence as it goes over the wire.
    #[error(
        "{file} is no GPU evidence: {source}; for a bare report give its certificates with --chain"
    )]
    Evidence {
        /// Which file.
        file: String,
        /// Why.
        source: WireError,
    },
    /// A report.
    #[error("{file} is no report: {source}")]
    Report {
        /// Which file.
        file: String,
        /// Why.
        source: ReportError,
    },
    /// Certificates.
    #[error("{file}: {source}")]
    Chain {
        /// Which file.
        file: String,
        /// Why.
        source: ChainError,
    },
    /// Keys of NVIDIA's attestation service.
    #[error("{file}: {source}")]
    Keys {
        /// Which file.
        file: String,
        /// Why.
        source: NrasError,
    },
    /// More than is looked at.
    #[error("{file} has more than {limit} bytes")]
    TooLarge {
        /// Which file.
        file: String,
        /// How many it may have.
        limit: usize,
    },
}

/// Does it.
///
/// # Errors
/// A file that is not what it should be. Evidence that is refused is no error but an exit code.
pub fn run(args: &GpuArgs) -> CommandResult {
    match &args.action {
        GpuAction::Rims(args) => rims::run(args),
        GpuAction::Verify(args) => verify::run(args),
        GpuAction::Show(args) => show::run(args),
    }
}

/// Reads a file of at most `limit` bytes, or standard input for `-`.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CommandError> {
    let what = format!("cannot read {}", path.display());
    // One byte more than fits, so that what is too large is seen to be.
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    }
    .map_err(CommandError::io(what))?;
    if bytes.len() > limit {
        return Err(GpuFileError::TooLarge {
            file: path.display().to_string(),
            limit,
        }
        .into());
    }
    Ok(bytes)
}

/// Reads a report: its bytes, or text of hexadecimal digits, as NVIDIA's samples have it.
fn read_report(path: &Path) -> Result<Vec<u8>, CommandError> {
    let bytes = read(path, MAX_GPU_REPORT_BYTES.saturating_mul(3))?;
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    Ok(hex::decode(digits).unwrap_or(bytes))
}

/// `--at`: RFC 3339 in UTC.
fn instant(text: &str) -> Result<u64, String> {
    time::read(text).ok_or_else(|| "not a time of the form 2025-06-22T07:14:52Z".to_owned())
}

/// Now, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
