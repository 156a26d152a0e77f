//! Evidence of GPUs: NVIDIA's, Hopper and Blackwell.
//!
//! A GPU with confidential computing signs what it runs ([`report`]), with a key that its boot ROM made
//! for its firmware ([`fwid`]) and that NVIDIA certified ([`chain`], [`roots`]). What it should run is in
//! a [`manifest`] that people make from NVIDIA's signed [`rim`] files. [`verify()`](verify::verify) puts
//! it together into named factors, pure: bytes and a time in, a [`GpuVerdict`] out.
//!
//! Optional, if they come along: [`ocsp`] responses, and a token of NVIDIA's attestation service
//! ([`nras`]). `docs/gpu-attestation.md` says what all of it proves and what it does not.

pub mod certificate;
pub mod chain;
pub mod fwid;
mod golden;
pub mod manifest;
pub mod nras;
pub mod ocsp;
pub mod policy;
pub mod report;
pub mod rim;
pub mod roots;
pub mod time;
pub mod verdict;
pub mod verify;

pub use certificate::Certificate;
pub use chain::Chain;
pub use manifest::{GpuManifest, RimKind};
pub use nras::NrasKeys;
pub use ocsp::OcspResponse;
pub use policy::{ExpiredRimSigners, GpuPolicy};
pub use report::{GpuMode, Report};
pub use roots::GpuTrust;
pub use verdict::{GpuCheck, GpuFactor, GpuIdentity, GpuVerdict};
pub use verify::{GpuExpectation, verify};
