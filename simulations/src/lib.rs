//! A Cocoon network on virtual time.
//!
//! The state machines here are the ones that nodes run: [`cocoon_protocol::Directory`],
//! [`cocoon_protocol::Negotiation`] and [`cocoon_protocol::OfferBook`],
//! [`cocoon_protocol::Payer`] and [`cocoon_protocol::Payee`]. The simulator gives them a clock, a
//! network and bad luck, and an auditor looks at both ends at once:
//!
//! * adverts spread to clients with latency and loss; clients fetch evidence and verify workers;
//! * clients ask for quotes, choose, redeem; workers lease slots and give them back;
//! * answers stream against vouchers; processes on either side die in the middle;
//! * after every step, no worker is further ahead than its credit window, nobody signed for what did
//!   not arrive, no slot is leased twice; at the end every nanoTON that was signed is held by its
//!   worker or was lost with a process, and every job ended exactly once at each end.
//!
//! **Determinism.** One queue ordered by (time, order of scheduling), one seeded generator, integers
//! only, ordered maps only. So a [`Report`], its [trace hash](Report::trace) included, is a function
//! of the scenario and the seed, and a failing seed is a bug report.
//!
//! **What is not simulated.** Cryptography of sessions and vouchers, the chain, text. A node sees
//! the others' adverts directly and not through a mesh of its own.

#![forbid(unsafe_code)]

mod answer;
mod books;
pub mod distribution;
mod event;
mod faults;
mod gossip;
mod job;
pub mod link;
mod market;
mod nodes;
pub mod queue;
pub mod random;
pub mod report;
pub mod scenario;
mod serve;
mod tally;
pub mod trace;
pub mod violation;
mod world;

pub use report::Report;
pub use scenario::{Scenario, ScenarioError};
pub use violation::Violation;
pub use world::run;
