//! Money: vouchers, receipts and batches on one's own disk, and the contracts on TON that turn them into coins.
//!
//! Two halves:
//! - the book-keeping every node does for itself ([`store`], [`ledger`], [`settler`]);
//! - the chain ([`chain`] is how a node talks to one, [`contract`] and [`wallet`] are the messages it sends,
//!   [`devnet`] is a chain that fits in one process and executes the same contracts in a real TVM).
//!
//! This room does *not* contain: who owes whom for which tokens (`cocoon_protocol::metering`), retry policy
//! of a whole job, or any actor.

pub mod audit;
pub mod chain;
pub mod contract;
pub mod devnet;
pub mod wallet;

pub mod credit;
pub mod ledger;
pub mod purse;
pub mod settler;
pub mod store;
