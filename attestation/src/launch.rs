//! What a guest measures into RTMR3 before it opens the network, and how it is replayed.
//!
//! Four events, always all four and in this order: `model:` and 32 bytes, `config:` and 32 bytes,
//! `gpu:` and 32 bytes (zeroes: no GPU), and the bare word `inited`. The digest of an event is
//! SHA-384 of its bytes. After `inited` nothing that starts later can pretend to have been there
//! at launch, because it cannot take the register back.
//!
//! The verifier does not need the guest's event log: the claims name the same digests, so it
//! computes the only value that RTMR3 may have.

use std::fs;
use std::io;
use std::path::Path;

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;

use crate::Measurement;

/// The launch facts that RTMR3 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchEvents {
    /// Digest of the model's weights.
    pub model: Digest,
    /// Digest of the guest's configuration.
    pub config: Digest,
    /// Digest of the GPU's evidence, zero if there is no GPU.
    pub gpu: Digest,
}

/// Why the register could not be brought to the launch value.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The kernel's measurement file failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The register does not hold 48 bytes.
    #[error("RTMR3 read as {length} bytes instead of 48")]
    Length {
        /// How many bytes it gave.
        length: usize,
    },
    /// Something else was measured before us; RTMR3 cannot be taken back.
    #[error("RTMR3 already holds {found}, which is neither empty nor this launch ({wanted})")]
    AlreadyExtended {
        /// What it holds.
        found: Measurement,
        /// What it would hold had this launch been measured first.
        wanted: Measurement,
    },
}

impl LaunchEvents {
    /// The launch that a worker claims.
    #[must_use]
    pub fn claimed(claims: &Claims) -> Self {
        Self {
            model: claims.model,
            config: claims.config,
            gpu: claims.gpu_evidence,
        }
    }

    /// The digests to extend RTMR3 with, in order.
    #[must_use]
    pub fn digests(&self) -> [Measurement; 4] {
        let event = |name: &str, digest: &Digest| {
            Measurement::of(&[name.as_bytes(), digest.as_bytes()].concat())
        };
        [
            event("model:", &self.model),
            event("config:", &self.config),
            event("gpu:", &self.gpu),
            Measurement::of(b"inited"),
        ]
    }

    /// The only value that RTMR3 may have after this launch.
    #[must_use]
    pub fn rtmr3(&self) -> Measurement {
        self.digests()
            .into_iter()
            .fold(Measurement::ZERO, Measurement::extended)
    }

    /// Inside a guest: brings RTMR3 to [`LaunchEvents::rtmr3`] through the kernel's file `register`,
    /// on Linux 6.16 and newer
    /// `/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384`. Reading it gives the
    /// register, writing 48 bytes extends it. A register that has the value already is left alone,
    /// so a restarted process may call this again.
    ///
    /// The tests use a plain file, which does not extend anything: what they show is the reading,
    /// the refusals and the order of writes, not the kernel.
    ///
    /// # Errors
    /// If the file fails, or the register holds anything but zeroes or the launch value.
    pub fn measure_into(&self, register: &Path) -> Result<(), LaunchError> {
        let wanted = self.rtmr3();
        let found = read_register(register)?;
        if found == wanted {
            return Ok(());
        }
        if found != Measurement::ZERO {
            return Err(LaunchError::AlreadyExtended { found, wanted });
        }
        for digest in self.digests() {
            fs::write(register, digest.as_bytes()).map_err(|source| failed(register, source))?;
        }
        Ok(())
    }
}

fn failed(path: &Path, source: io::Error) -> LaunchError {
    LaunchError::Io {
        path: path.display().to_string(),
        source,
    }
}

fn read_register(path: &Path) -> Result<Measurement, LaunchError> {
    let bytes = fs::read(path).map_err(|source| failed(path, source))?;
    let length = bytes.len();
    bytes
        .try_into()
        .map(Measurement::from_bytes)
        .map_err(|_| LaunchError::Length { length })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn launch() -> LaunchEvents {
        LaunchEvents {
            model: Digest::sha256(b"model"),
            config: Digest::sha256(b"config"),
            gpu: Digest::ZERO,
        }
    }

    #[test]
    fn every_launch_fact_changes_the_register() {
        let base = launch().rtmr3();
        let other = Digest::sha256(b"other");
        assert_ne!(
            LaunchEvents {
                model: other,
                ..launch()
            }
            .rtmr3(),
            base
        );
        assert_ne!(
            LaunchEvents {
                config: other,
                ..launch()
            }
            .rtmr3(),
            base
        );
        assert_ne!(
            LaunchEvents {
                gpu: other,
                ..launch()
            }
            .rtmr3(),
            base
        );
    }

    #[test]
    fn model_and_config_cannot_be_swapped() {
        let launch = launch();
        let swapped = LaunchEvents {
            model: launch.config,
            config: launch.model,
            ..launch
        };
        assert_ne!(swapped.rtmr3(), launch.rtmr3());
    }

    #[test]
    fn an_empty_register_is_extended_and_ends_with_the_sentinel() {
        let folder = tempfile::tempdir().unwrap();
        let register = folder.path().join("rtmr3:sha384");
        fs::write(&register, [0; 48]).unwrap();
        launch().measure_into(&register).unwrap();
        // A plain file keeps the last write; a register would hold the replayed value.
        assert_eq!(
            fs::read(&register).unwrap(),
            Measurement::of(b"inited").as_bytes()
        );
    }

    #[test]
    fn a_register_that_holds_this_launch_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let register = folder.path().join("rtmr3:sha384");
        fs::write(&register, launch().rtmr3().as_bytes()).unwrap();
        launch().measure_into(&register).unwrap();
        assert_eq!(fs::read(&register).unwrap(), launch().rtmr3().as_bytes());
    }

    #[test]
    fn a_register_that_holds_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let register = folder.path().join("rtmr3:sha384");
        fs::write(&register, [1; 48]).unwrap();
        let error = launch().measure_into(&register).unwrap_err();
        assert!(
            matches!(error, LaunchError::AlreadyExtended { .. }),
            "{error}"
        );
    }
}
