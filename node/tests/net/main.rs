//! The swarm over real sockets on loopback: real QUIC and TCP, ephemeral ports, no mocks.
//!
//! Nothing here sleeps for a fixed time and hopes; every wait is for a notice, an answer or a
//! condition, with a generous limit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::result_large_err
)]

mod gossip;
mod hostile;
mod mesh;
mod node;
mod rogue;
mod talk;
