//! The actors of a node.
//!
//! Each actor owns one state machine of `protocol/` or `settlement/`, or one resource (the engine,
//! the swarm's command channel), and nothing else: an `if` about the protocol in here is in the
//! wrong room. The rules that keep actix's measured traps out:
//!
//! * nothing enters a mailbox but by [`ask`](mod@ask)'s two functions, which never exceed its bound
//!   and answer "full";
//! * only tasks await answers ([`job`], [`mesh::pump`], HTTP); an actor's handler never does, so no
//!   two actors can wait for one another;
//! * an actor that stops is restarted with the state it had, a panic ends the process
//!   ([`supervision`]);
//! * what waits for the disk has a thread of its own ([`cashier`], [`settler`]).
//!
//! ```text
//!   HTTP ─► gateway ─► job task ─► directory, router, negotiator, attestor, cashier, mesh
//!   swarm ─► pump ─► directory ─► attestor
//!                 ├► negotiator
//!                 └► session task ─► attestor, negotiator, cashier, engine
//!   cashier ◄─ settler ─► chain
//! ```

pub mod ask;
pub mod attestor;
pub mod cashier;
pub mod clock;
pub mod collateral;
pub mod directory;
pub mod engine;
pub mod failpoint;
mod funds;
pub mod gateway;
pub mod gateway_port;
pub mod job;
pub mod log_watch;
pub mod mesh;
pub mod metrics;
pub mod negotiator;
pub mod port;
pub mod router;
pub mod settler;
pub mod supervision;
pub mod unlock;
pub mod vault;
pub mod view;
pub mod worker_life;
