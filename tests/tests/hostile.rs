//! A hostile client against one real worker process, with a real chain and a bootstrap node.
//!
//! The client is written here, from the project's own codecs and its own tunnel on a bare libp2p
//! swarm, so that it can break any rule. Whatever it does must end in something with a name, must
//! not be kept in the worker's books, and must leave the worker alive: the same process, its actors
//! answering, and a bystander's quote request answered with an offer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "hostile/adverts.rs"]
mod adverts;
#[path = "hostile/buyer.rs"]
mod buyer;
#[path = "hostile/credit.rs"]
mod credit;
#[path = "hostile/mesh.rs"]
mod mesh;
#[path = "hostile/purse.rs"]
mod purse;
#[path = "hostile/refusals.rs"]
mod refusals;
#[path = "hostile/rogue.rs"]
mod rogue;
#[path = "hostile/scene.rs"]
mod scene;
#[path = "hostile/sessions.rs"]
mod sessions;
#[path = "hostile/vouchers.rs"]
mod vouchers;
