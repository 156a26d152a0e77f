//! What is demanded of GPUs beyond what is never up for choice. Part of a release or of an operator's
//! configuration, never taken from a peer.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::report::GpuMode;

/// Which RIM files count once the certificate of their signer has expired.
///
/// NVIDIA's signers live two years and RIM files carry no time of signing. While a signer is in force,
/// its signature says "NVIDIA says so now". Afterwards a RIM that was checked in time and pinned since
/// is as good as it was; of one that was checked too late nobody can say when it was signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiredRimSigners {
    /// None: the signer must be in force when evidence is judged.
    Refuse,
    /// Those whose signer was in force when the RIM was imported.
    #[default]
    AllowIfValidAtImport,
    /// All. For old hardware and for tests with NVIDIA's published samples.
    Allow,
}

/// The demands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuPolicy {
    /// Modes that a GPU may be in. In `ppcie` the links between GPUs are not encrypted.
    pub modes: BTreeSet<GpuMode>,
    /// Whether a report that does not say its mode is refused. Drivers before the opaque data's
    /// version 1 (NVIDIA 590 has it, 575 does not) do not say it.
    pub require_mode: bool,
    /// Whether good OCSP responses for all certificates must come along.
    pub require_ocsp: bool,
    /// Whether a token of NVIDIA's attestation service must come along.
    pub require_nras: bool,
    /// What becomes of RIM files whose signer has expired.
    pub expired_rim_signers: ExpiredRimSigners,
}

impl Default for GpuPolicy {
    fn default() -> Self {
        Self {
            modes: BTreeSet::from([GpuMode::Spt, GpuMode::Mpt, GpuMode::Ppcie]),
            require_mode: true,
            require_ocsp: false,
            require_nras: false,
            expired_rim_signers: ExpiredRimSigners::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_policy_survives_toml_and_keeps_strict_defaults() {
        let policy: GpuPolicy =
            toml::from_str("modes = [\"spt\"]\nexpired_rim_signers = \"allow\"").unwrap();
        assert_eq!(policy.modes, BTreeSet::from([GpuMode::Spt]));
        assert_eq!(policy.expired_rim_signers, ExpiredRimSigners::Allow);
        assert!(policy.require_mode);
        let text = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<GpuPolicy>(&text).unwrap(), policy);
    }

    #[test]
    fn a_misspelt_demand_is_refused_and_not_ignored() {
        assert!(toml::from_str::<GpuPolicy>("require_oscp = true").is_err());
    }
}
