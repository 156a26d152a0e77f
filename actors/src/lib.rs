//! The actors of a node.
//!
//! Each actor owns one state machine of `protocol/` or one resource (the engine, the ledger, the
//! swarm's command channel) and nothing else: an `if` about the protocol in here is in the wrong
//! room. See `ARCHITECTURE.md` for the rules that keep actix's measured traps out.

pub mod gateway_port;
pub mod metrics;
pub mod port;
