//! What a worker does as a guest of a TDX machine: measures its launch, and finds its quotes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_attestation::event_log::CCEL_LOG;
use cocoon_attestation::launch::{LaunchEvents, RTMR3_REGISTER};
use cocoon_attestation::source::TSM_REPORTS;
use cocoon_attestation::{ConfigfsTsmSource, EvidenceSource};
use cocoon_protocol::Digest;
use tracing::info;

use super::WiringError;
use super::keys::Keys;
use crate::config::{Config, EvidenceSource as Source};
#[cfg(not(feature = "simulated-evidence"))]
use crate::trust::PolicySetupError;

/// Where the kernel shows the guest's registers and makes its quotes.
#[derive(Clone, Debug)]
pub(super) struct GuestPaths {
    pub(super) reports: PathBuf,
    pub(super) rtmr3: PathBuf,
    pub(super) event_log: PathBuf,
}

impl Default for GuestPaths {
    fn default() -> Self {
        Self {
            reports: TSM_REPORTS.into(),
            rtmr3: RTMR3_REGISTER.into(),
            event_log: CCEL_LOG.into(),
        }
    }
}

/// Where this worker's evidence comes from.
#[cfg_attr(not(feature = "simulated-evidence"), allow(unused_variables))]
pub(super) fn evidence_source(
    config: &Config,
    keys: &Keys,
    paths: &GuestPaths,
) -> Result<Arc<dyn EvidenceSource>, WiringError> {
    Ok(match config.evidence {
        Source::Tdx => Arc::new(
            ConfigfsTsmSource::new(&paths.reports, config.data_dir.join("collateral.json"))
                .with_event_log(&paths.event_log),
        ),
        #[cfg(feature = "simulated-evidence")]
        Source::Simulated => Arc::new(cocoon_attestation::SimulatedSource::new(
            &keys.peer().to_bytes(),
        )?),
        #[cfg(not(feature = "simulated-evidence"))]
        Source::Simulated => return Err(PolicySetupError::NoSimulator.into()),
    })
}

/// Measures model and configuration into RTMR3. To be called before the first connection is opened:
/// what a stranger could have changed afterwards is then still told apart from what was launched.
pub(super) fn measure_launch(
    config: &Config,
    model: Digest,
    guest: Digest,
    paths: &GuestPaths,
) -> Result<(), WiringError> {
    if config.evidence != Source::Tdx {
        return Ok(());
    }
    let launch = LaunchEvents {
        model,
        config: guest,
        gpu: Digest::ZERO,
    };
    launch.measure_into(&paths.rtmr3).map_err(Box::new)?;
    info!(rtmr3 = %launch.rtmr3(), "launch measured");
    Ok(())
}

/// Digest of what configures the guest's answers: the model's name and the network.
pub(super) fn guest_config(model: &str, network: &Path) -> Digest {
    Digest::sha256(format!("cocoon/guest-config/v1\0{model}\0{}", network.display()).as_bytes())
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
