//! The HTTP layer over real sockets, with a scripted gateway behind it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod answers;
mod callers;
mod own_client;
mod refusals;
mod scripted;
