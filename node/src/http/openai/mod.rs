//! `OpenAI`'s chat completions and embeddings as this gateway speaks them.
//!
//! [`request`] and [`embedding`] decide what is accepted: every parameter is honoured or refused by
//! name, none is silently dropped; `parameters` lists them. [`reply`] holds the shapes that go out.

pub mod embedding;
pub mod fields;
mod format;
mod parameters;
pub mod reply;
pub mod request;
