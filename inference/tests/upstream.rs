//! The upstream engine against servers that do what no server should, and, where one is installed, against a
//! real one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod support;

#[path = "upstream/fake.rs"]
mod fake;
#[path = "upstream/hostile.rs"]
mod hostile;
#[path = "upstream/real.rs"]
mod real;
