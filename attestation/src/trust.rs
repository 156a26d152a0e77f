//! Which root a verdict hangs from, and a type that keeps the roots apart.

use std::fmt;
use std::marker::PhantomData;

use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use serde::Serialize;

use crate::Verdict;

/// Platform family that the simulator writes into its PCK certificates. Known here, without the
/// simulator, so that a production build can refuse it by name.
pub(crate) const SIMULATED_FMSPC: [u8; 6] = [0xff, 0x53, 0x49, 0x4d, 0x21, 0x00];
/// First bytes of every simulated platform id.
pub(crate) const SIMULATED_PPID: [u8; 4] = [0x53, 0x49, 0x4d, 0x21];

const INTEL_ROOT: &[u8] = include_bytes!("../roots/intel_sgx_root_ca.der");

/// The root of trust. It is compiled in: neither peers nor configuration nor environment can name
/// another one.
#[cfg_attr(
    not(feature = "simulated-evidence"),
    doc = r"
A build for production has one root, and cannot name the other:

```
let intel = cocoon_attestation::Trust::Intel;
```
```compile_fail,E0599
let simulated = cocoon_attestation::Trust::Simulated;
```
```compile_fail,E0432
use cocoon_attestation::SimulatedSource;
```"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Intel's SGX and TDX root.
    Intel,
    /// The simulator's public root, which anybody can sign under. No security.
    #[cfg(feature = "simulated-evidence")]
    Simulated,
}

/// The root certificate is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The simulator could not build its root.
    #[cfg(feature = "simulated-evidence")]
    #[error("the simulated root cannot be built: {0}")]
    Simulator(#[from] cocoon_tdx_simulator::SimulatorError),
    /// The policy cannot be meant.
    #[error(transparent)]
    Policy(#[from] Box<crate::PolicyError>),
}

impl Trust {
    /// `intel` or `simulated`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel => "intel",
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated => "simulated",
        }
    }

    /// The root certificate, DER.
    ///
    /// # Errors
    /// If the simulated root cannot be built. Intel's is a constant.
    pub fn root_der(self) -> Result<&'static [u8], TrustError> {
        match self {
            Self::Intel => Ok(INTEL_ROOT),
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated => Ok(cocoon_tdx_simulator::Simulator::public()?.root_der()),
        }
    }

    /// SHA-256 of the root key's `SubjectPublicKeyInfo`, DER (RFC 5280, section 4.1). It names the
    /// trust domain in protocol names, in the session's prologue and in payments. The key and not
    /// the certificate, so that a renewed certificate for the same key is the same domain.
    ///
    /// Pinned as a constant, compared by tests with the certificates.
    #[must_use]
    pub const fn trust_domain(self) -> Digest {
        Digest::from_bytes(match self {
            Self::Intel => [
                0xa0, 0xaf, 0x03, 0x12, 0x89, 0xf5, 0xd5, 0xd4, 0x13, 0x2f, 0x91, 0x86, 0x06, 0x8a,
                0x7f, 0xc1, 0x36, 0x28, 0x63, 0x3b, 0xa2, 0x35, 0x77, 0x74, 0x72, 0xe2, 0x9b, 0x6b,
                0x6c, 0x67, 0xa4, 0x9e,
            ],
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated => [
                0x1b, 0xe3, 0x1f, 0xf2, 0x9f, 0xf0, 0x1b, 0x79, 0x44, 0xdb, 0xc6, 0xa7, 0x93, 0xea,
                0x69, 0x9b, 0x27, 0xc3, 0x00, 0x0b, 0x11, 0x17, 0xd6, 0x16, 0x89, 0xd5, 0xab, 0x77,
                0x4a, 0x2d, 0x71, 0x6e,
            ],
        })
    }

    /// SHA-384 of the root's raw public key, which Intel's verifiers call `root_key_id`. Pinned as
    /// a constant and compared with what the chain was in fact verified under.
    #[must_use]
    pub const fn root_key_id(self) -> [u8; 48] {
        match self {
            Self::Intel => [
                0x46, 0xe4, 0x03, 0xbd, 0x34, 0xf0, 0x5a, 0x3f, 0x28, 0x17, 0xab, 0x9b, 0xad, 0xca,
                0xac, 0xc7, 0xff, 0xc9, 0x8e, 0x0f, 0x26, 0x10, 0x08, 0xcd, 0x30, 0xda, 0xe9, 0x36,
                0xca, 0xce, 0x18, 0xd5, 0xdc, 0xf5, 0x8e, 0xef, 0x31, 0x46, 0x36, 0x13, 0xde, 0x15,
                0x70, 0xd5, 0x16, 0x20, 0x09, 0x93,
            ],
            #[cfg(feature = "simulated-evidence")]
            Self::Simulated => [
                0x0f, 0x68, 0xa3, 0x8b, 0xa7, 0xe5, 0x32, 0x92, 0x4d, 0x4b, 0x3f, 0x20, 0x9c, 0xcc,
                0x75, 0x36, 0xab, 0x3b, 0x7f, 0x90, 0x77, 0x44, 0x5b, 0x0c, 0x73, 0xaf, 0xeb, 0x5f,
                0xce, 0x3d, 0xc8, 0x6b, 0x31, 0x80, 0x1d, 0x66, 0x3a, 0xb3, 0x55, 0x62, 0x64, 0x04,
                0x32, 0xc5, 0x3f, 0x57, 0x10, 0x52,
            ],
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A root as a type.
pub trait Root: sealed::Sealed {
    /// The same root as a value.
    const TRUST: Trust;
}

/// Attested under Intel's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intel {}

impl sealed::Sealed for Intel {}
impl Root for Intel {
    const TRUST: Trust = Trust::Intel;
}

/// "Attested" under the simulator's root.
#[cfg(feature = "simulated-evidence")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulated {}

#[cfg(feature = "simulated-evidence")]
impl sealed::Sealed for Simulated {}
#[cfg(feature = "simulated-evidence")]
impl Root for Simulated {
    const TRUST: Trust = Trust::Simulated;
}

/// A worker whose evidence a verifier accepted under root `R`. Made only by
/// [`Attested::from_verdict`], so a function that takes `Attested<Intel>` cannot be handed a
/// simulated worker:
///
/// ```compile_fail
/// use cocoon_attestation::{Attested, Intel};
/// fn pay(_worker: &Attested<Intel>) {}
/// # fn simulated() -> Attested<u8> { unimplemented!() }
/// pay(&simulated());
/// ```
#[derive(Clone, Debug)]
pub struct Attested<R> {
    claims: Claims,
    platform_id: String,
    valid_until: UnixMillis,
    root: PhantomData<R>,
}

/// Why a verdict is not an attestation under the wanted root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAttested {
    /// The verdict was given under another root.
    #[error("verified under the {found} root, but {wanted} is wanted")]
    OtherRoot {
        /// The verdict's root.
        found: Trust,
        /// The wanted root.
        wanted: Trust,
    },
    /// The verdict refuses.
    #[error("refused: {factor}: {reason}")]
    Refused {
        /// The first factor that failed.
        factor: &'static str,
        /// Its reason.
        reason: String,
    },
}

impl<R: Root> Attested<R> {
    /// Takes an accepted verdict under root `R`.
    ///
    /// # Errors
    /// If the verdict refuses or was given under another root.
    pub fn from_verdict(verdict: &Verdict) -> Result<Self, NotAttested> {
        if verdict.trust != R::TRUST {
            return Err(NotAttested::OtherRoot {
                found: verdict.trust,
                wanted: R::TRUST,
            });
        }
        if !verdict.accepted() {
            let failed = verdict.first_failure();
            return Err(NotAttested::Refused {
                factor: failed.map_or("verdict", |factor| factor.name),
                reason: failed.map_or_else(
                    || "a required factor is missing or was skipped".to_owned(),
                    |factor| factor.reason.clone(),
                ),
            });
        }
        Ok(Self {
            claims: verdict.claims.clone(),
            platform_id: verdict.platform_id.clone(),
            valid_until: verdict.valid_until,
            root: PhantomData,
        })
    }

    /// What the worker's quote binds.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The machine, as hexadecimal PPID.
    #[must_use]
    pub fn platform_id(&self) -> &str {
        &self.platform_id
    }

    /// Whether the attestation still stands.
    #[must_use]
    pub fn is_valid_at(&self, now: UnixMillis) -> bool {
        now < self.valid_until
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest as _, Sha384};
    use x509_cert::Certificate;
    use x509_cert::der::{Decode as _, Encode as _};

    use super::*;

    fn pins_match_the_certificate(trust: Trust) {
        let root = Certificate::from_der(trust.root_der().unwrap()).unwrap();
        let key = root.tbs_certificate().subject_public_key_info();
        assert_eq!(
            Digest::sha256(&key.to_der().unwrap()).to_string(),
            trust.trust_domain().to_string()
        );
        assert_eq!(
            hex::encode(Sha384::digest(key.subject_public_key.raw_bytes())),
            hex::encode(trust.root_key_id())
        );
    }

    #[test]
    fn the_pinned_names_of_intels_root_match_its_certificate() {
        pins_match_the_certificate(Trust::Intel);
    }

    #[cfg(feature = "simulated-evidence")]
    #[test]
    fn the_pinned_names_of_the_simulated_root_match_its_certificate() {
        pins_match_the_certificate(Trust::Simulated);
        assert_ne!(Trust::Simulated.trust_domain(), Trust::Intel.trust_domain());
    }

    #[cfg(feature = "simulated-evidence")]
    #[test]
    fn the_labels_that_production_refuses_are_those_the_simulator_writes() {
        assert_eq!(SIMULATED_FMSPC, cocoon_tdx_simulator::FMSPC);
        assert_eq!(SIMULATED_PPID, cocoon_tdx_simulator::PPID_LABEL);
    }
}
