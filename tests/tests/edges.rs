//! A real client node at its edges: what people send it over HTTP, what workers send it over the
//! mesh, and a chain that goes away. Each ends in a typed error in `OpenAI`'s form, and the node is
//! alive: the same process, its actors answering.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "edges/api.rs"]
mod api;
#[path = "edges/cheats.rs"]
mod cheats;
#[path = "edges/evidence.rs"]
mod evidence;
#[path = "edges/fake.rs"]
mod fake;
#[path = "hostile/mesh.rs"]
mod mesh;
#[path = "edges/money.rs"]
mod money;
#[path = "edges/requests.rs"]
mod requests;
#[path = "hostile/rogue.rs"]
mod rogue;
