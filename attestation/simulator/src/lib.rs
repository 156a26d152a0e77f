//! A software stand-in for Intel's TDX attestation, with no security whatsoever.
//!
//! It issues what Intel and a TDX machine would issue: a root certificate, a PCK certificate per
//! machine, signed TCB information and QE identity, revocation lists, and quotes of version 4 and 5 in the
//! DCAP wire format. The very verifier that checks real quotes checks these, under another root.
//!
//! Everything is a pure function of a 32-byte seed and the arguments: keys are derived from the
//! seed and all signatures use the nonces of RFC 6979. The seed of [`Simulator::public`] is in
//! this source, so **anybody can forge anything under that root**. That is why:
//!
//! - the crate is never published and is an optional dependency of `cocoon-attestation`, behind
//!   its feature `simulated-evidence`; a production build does not link it;
//! - all it makes carries a label: the names of its certificates, [`FMSPC`], the first bytes of
//!   every PPID ([`PPID_LABEL`]) and [`QE_MRSIGNER`];
//! - its root has another trust domain, which is part of every protocol name, so simulated and
//!   real nodes cannot even open a stream to one another.
//!
//! Not simulated: SEAM, memory encryption, the quoting enclave's own checks, RSA-encrypted PPIDs,
//! multi-package platforms, TD migration.

mod certificates;
mod collateral;
mod keys;
mod quote;
mod root;

pub use collateral::CollateralTerms;
pub use dcap_qvl::TcbStatus;
pub use dcap_qvl::quote::{Report, TDReport10 as TdReport, TDReport15 as TdReport15};
pub use quote::td_report;
pub use root::{Machine, PCK_CA_SERIAL, Simulator, TCB_SIGNER_SERIAL};

/// Common name of the root certificate.
pub const ROOT_NAME: &str = "COCOON SIMULATED TDX ROOT (NOT INTEL, NO SECURITY)";

/// Platform family of every simulated machine: `FF "SIM!" 00`. Intel's start with `00`..`C0`.
pub const FMSPC: [u8; 6] = *b"\xFFSIM!\0";

/// First bytes of every simulated platform id.
pub const PPID_LABEL: [u8; 4] = *b"SIM!";

/// Signer of the simulated quoting enclave.
pub const QE_MRSIGNER: [u8; 32] = *b"COCOON-SIM-TD-QE-NOT-INTEL-00000";

/// What can go wrong while issuing. None of it depends on a stranger's input.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The X.509 builder refused.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A time does not fit into a certificate.
    #[error("time {unix_seconds} s is outside what X.509 can express")]
    Time {
        /// The offending time, seconds since 1970.
        unix_seconds: u64,
    },
    /// No valid P-256 scalar in 256 attempts; the chance is 2^-8192.
    #[error("no key could be derived for {label}")]
    Key {
        /// What the key was for.
        label: String,
    },
    /// A structure came out with another size than DCAP prescribes.
    #[error("{what} has the wrong size")]
    Size {
        /// Which structure.
        what: &'static str,
    },
}
