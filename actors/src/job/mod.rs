//! One job, at both ends.
//!
//! A job is a task, not an actor: it lives as long as its session, asks the actors what it needs
//! and ends in exactly one [`Outcome`](cocoon_protocol::job::Outcome). What it may send and what
//! it must be paid first is decided by `protocol`'s metering; here is only the plumbing.

pub mod chat;
pub mod client;
pub mod embedding;
mod frames;
pub mod pipe;
pub mod worker;

use std::time::Duration;

/// Longest wait for the other end while a session is being set up.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Longest silence of the worker before the client gives the job up: a prefill on two cores.
pub const WORKER_SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait of the worker for the vouchers that let it go on, however many come in between.
pub const VOUCHER_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for the other end to take a frame. One that reads nothing must not keep a slot.
pub const SEND_LIMIT: Duration = Duration::from_secs(20);
