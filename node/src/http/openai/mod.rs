//! `OpenAI`'s chat completions as this gateway speaks them.
//!
//! [`request`] decides what is accepted: every parameter is honoured or refused by name, none is
//! silently dropped; `parameters` lists them. [`reply`] holds the shapes that go out.

mod parameters;
pub mod reply;
pub mod request;
