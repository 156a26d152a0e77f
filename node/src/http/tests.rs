//! The HTTP layer over real sockets, with a scripted gateway behind it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod answers;
mod callers;
mod embeddings;
mod own_client;
mod receipts;
mod refusals;
mod richer_answers;
mod scripted;
