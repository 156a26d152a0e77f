//! What the tests of the whole network are made of. The tests themselves are in `tests/`.
//!
//! Everything here drives the real program: separate processes, real HTTP, a real chain. What a test
//! asserts it looks up by itself, in the answers, on the chain, on the disks; never in the demo's
//! output.
//!
//! Three variables say what is under test and what may be skipped:
//! - `COCOON_BIN`: the program; else `cocoon` beside the test's own target directory.
//! - `COCOON_REQUIRE_MODEL=1`, `COCOON_REQUIRE_CAPTURE=1`, `COCOON_REQUIRE_FAILPOINTS=1`: what is
//!   missing fails the test that needs it, instead of being skipped with a banner.

// Tests panic: that is how they say what is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod books;
pub mod capture;
pub mod chat;
pub mod metrics;
pub mod needles;
pub mod network;
pub mod places;
pub mod program;
