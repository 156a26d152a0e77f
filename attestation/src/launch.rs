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
use std::io::{self, Write as _};
use std::path::Path;

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;

use crate::Measurement;

/// RTMR3 on Linux 6.16 and newer: reading gives the register, writing 48 bytes extends it
/// (`Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`).
pub const RTMR3_REGISTER: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";

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
    /// The events were written, and the register holds something else: another process measured in
    /// between, or this is no register.
    #[error("after the launch was measured RTMR3 holds {found} instead of {wanted}")]
    NotReached {
        /// What it holds.
        found: Measurement,
        /// What it should.
        wanted: Measurement,
    },
}

/// What is done to a register. A seam for the tests and nothing else: the kernel extends on a write, a
/// plain file does not.
pub(crate) trait Register {
    fn read(&self) -> Result<Measurement, LaunchError>;
    fn extend(&self, digest: Measurement) -> Result<(), LaunchError>;
}

struct KernelRegister<'a>(&'a Path);

impl KernelRegister<'_> {
    fn failed(&self, source: io::Error) -> LaunchError {
        LaunchError::Io {
            path: self.0.display().to_string(),
            source,
        }
    }
}

impl Register for KernelRegister<'_> {
    fn read(&self) -> Result<Measurement, LaunchError> {
        let bytes = fs::read(self.0).map_err(|source| self.failed(source))?;
        let length = bytes.len();
        bytes
            .try_into()
            .map(Measurement::from_bytes)
            .map_err(|_| LaunchError::Length { length })
    }

    fn extend(&self, digest: Measurement) -> Result<(), LaunchError> {
        // Never creates: a missing file means that this is no guest, or its kernel is too old.
        fs::OpenOptions::new()
            .write(true)
            .open(self.0)
            .and_then(|mut file| file.write_all(digest.as_bytes()))
            .map_err(|source| self.failed(source))
    }
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
    /// [`RTMR3_REGISTER`] on a real one. A register that has the value already is left alone, so a
    /// restarted process may call this again. A process that died between two events cannot: the guest
    /// has to start again.
    ///
    /// # Errors
    /// If the file fails, if the register holds anything but zeroes or the launch value before, or
    /// anything but the launch value after.
    pub fn measure_into(&self, register: &Path) -> Result<(), LaunchError> {
        self.measure_through(&KernelRegister(register))
    }

    pub(crate) fn measure_through(&self, register: &dyn Register) -> Result<(), LaunchError> {
        let wanted = self.rtmr3();
        let found = register.read()?;
        if found == wanted {
            return Ok(());
        }
        if found != Measurement::ZERO {
            return Err(LaunchError::AlreadyExtended { found, wanted });
        }
        for digest in self.digests() {
            register.extend(digest)?;
        }
        let found = register.read()?;
        if found != wanted {
            return Err(LaunchError::NotReached { found, wanted });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::cell::{Cell, RefCell};

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

    /// The kernel's half: a write extends. `meddler` is what another process measures after our first
    /// event.
    struct KernelLike {
        held: Cell<Measurement>,
        meddler: Option<Measurement>,
        written: RefCell<Vec<Measurement>>,
    }

    impl KernelLike {
        fn holding(held: Measurement) -> Self {
            Self {
                held: Cell::new(held),
                meddler: None,
                written: RefCell::default(),
            }
        }
    }

    impl Register for KernelLike {
        fn read(&self) -> Result<Measurement, LaunchError> {
            Ok(self.held.get())
        }

        fn extend(&self, digest: Measurement) -> Result<(), LaunchError> {
            self.held.set(self.held.get().extended(digest));
            if let (Some(meddler), []) = (self.meddler, self.written.borrow().as_slice()) {
                self.held.set(self.held.get().extended(meddler));
            }
            self.written.borrow_mut().push(digest);
            Ok(())
        }
    }

    #[test]
    fn an_empty_register_is_extended_by_model_configuration_gpu_and_sentinel_in_this_order() {
        let register = KernelLike::holding(Measurement::ZERO);
        launch().measure_through(&register).unwrap();
        let event = |name: &str, digest: Digest| {
            Measurement::of(&[name.as_bytes(), digest.as_bytes()].concat())
        };
        assert_eq!(
            *register.written.borrow(),
            [
                event("model:", Digest::sha256(b"model")),
                event("config:", Digest::sha256(b"config")),
                event("gpu:", Digest::ZERO),
                Measurement::of(b"inited"),
            ]
        );
        assert_eq!(register.held.get(), launch().rtmr3());
        // Once more, as after a restart of the process.
        launch().measure_through(&register).unwrap();
        assert_eq!(register.written.borrow().len(), 4);
    }

    #[test]
    fn a_launch_that_was_interrupted_cannot_be_finished() {
        let first = launch().digests()[0];
        let register = KernelLike::holding(Measurement::ZERO.extended(first));
        let error = launch().measure_through(&register).unwrap_err();
        assert!(
            matches!(error, LaunchError::AlreadyExtended { .. }),
            "{error}"
        );
        assert!(register.written.borrow().is_empty());
    }

    #[test]
    fn somebody_who_measures_in_between_is_noticed() {
        let register = KernelLike {
            meddler: Some(Measurement::of(b"mine")),
            ..KernelLike::holding(Measurement::ZERO)
        };
        let error = launch().measure_through(&register).unwrap_err();
        assert!(matches!(error, LaunchError::NotReached { .. }), "{error}");
    }

    #[test]
    fn a_plain_file_is_not_mistaken_for_a_register() {
        let folder = tempfile::tempdir().unwrap();
        let register = folder.path().join("rtmr3:sha384");
        let missing = launch().measure_into(&register).unwrap_err();
        assert!(matches!(missing, LaunchError::Io { .. }), "{missing}");
        assert!(!register.exists(), "nothing was created");
        fs::write(&register, [0; 48]).unwrap();
        let error = launch().measure_into(&register).unwrap_err();
        assert!(matches!(error, LaunchError::NotReached { .. }), "{error}");
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
