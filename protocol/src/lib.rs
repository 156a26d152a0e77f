//! What nodes say to one another, and when.
//!
//! Wire types and state machines. In here there is no IO, no clock, no async and no global
//! randomness: a state machine takes `(now, input)` and yields outputs, so that what the actors
//! run over sockets is what the simulator runs on virtual time and what a fuzzer drives by hand.
//!
//! The way of one prompt through the modules: an [`advert`] makes a worker known, the
//! [`directory`] has its [`evidence`] fetched and verified, a [`negotiation`] turns verified workers
//! into one binding offer, a [`session`] carries the frames of the [`job`], [`metering`] decides
//! when a [`voucher`] is due and how far the worker may run ahead, and a [`receipt`] ends it.
//!
//! Beside that way, [`log`] and [`log_heads`] carry and compare what rebuilders say about guest
//! images, in the tree of [`merkle`].
//!
//! [`wire`] says what all codecs have in common; the messages themselves are in `proto/*.proto`.

pub mod advert;
pub mod collateral;
pub mod commitment;
pub mod directory;
pub mod domain;
mod envelope;
pub mod evidence;
pub mod gpu;
pub mod ids;
pub mod job;
pub mod log;
pub mod log_heads;
pub mod merkle;
pub mod metering;
pub mod negotiation;
pub mod receipt;
pub mod release;
pub mod session;
mod terms;
pub mod units;
pub mod vault;
pub mod voucher;
pub mod wire;

pub use advert::Advert;
pub use collateral::{CollateralReply, CollateralRequest, PckAuthority, PlatformFamily};
pub use commitment::Salt;
pub use directory::{Directory, DirectoryConfig, DirectoryInput, DirectoryOutput};
pub use domain::Network;
pub use evidence::{Beacon, Claims, EvidenceBundle, EvidenceReply, EvidenceRequest};
pub use gpu::{Gpu, GpuEvidence, gpu_nonce};
pub use ids::{Digest, JobId, Keypair, OfferId, PeerId, PublicKey32, TonAddress};
pub use job::{
    ClientFrame, FinishReason, JobError, JobErrorCode, JobRequest, OpeningTerms, Outcome,
    WorkerFrame,
};
pub use log::{ConsistencyReply, ConsistencyRequest, ImageProof, LogNews, SplitView};
pub use log_heads::LogHeads;
pub use metering::{Payee, Payer};
pub use negotiation::{Negotiation, Offer, OfferBook, QuoteReply, QuoteRequest, Refusal};
pub use receipt::{Ending, Receipt, SignedReceipt};
pub use release::{ReleaseRefusal, ReleaseReply};
pub use terms::{ModelTerms, Price};
pub use units::{NanoTon, UnixMillis};
pub use voucher::{Release, SignedRelease, SignedVoucher, Voucher, VoucherError};
pub use wire::{Verified, WireError};

/// Generated from `proto/*.proto`; never seen outside of this crate.
#[allow(unreachable_pub, clippy::all, clippy::pedantic)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/cocoon.v1.rs"));
}

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod receipt_tests;
#[cfg(test)]
mod samples;
