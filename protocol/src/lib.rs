//! What nodes say to one another, and when.
//!
//! Wire types and state machines. In here there is no IO, no clock, no async and no global
//! randomness: a state machine takes `(now, input)` and yields outputs, so that what the actors
//! run over sockets is what the simulator runs on virtual time and what a fuzzer drives by hand.

pub mod domain;
pub mod ids;
pub mod session;
pub mod units;
