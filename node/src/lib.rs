//! The `cocoon` node: the command line, the HTTP gateway, the libp2p swarm and the wiring of the
//! actors.
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`], [`command`] | the commands |
//! | [`config`] | settings: defaults, TOML, environment, flags |
//! | [`http`] | `OpenAI`'s API, status, metrics |
//! | [`gateway_client`], [`receipt_check`] | what `chat`, `status` and `verify` are made of |
//! | [`net`] | the libp2p swarm |
//! | [`telemetry`] | logs and metrics |
//! | [`doctor`] | what a machine lacks to run a worker |
//! | [`wiring`] | roles put together |
//! | [`local_mesh`], [`demo`] | a whole network of processes, and its tour |
//!
//! Nothing here decides anything about the protocol: that is `cocoon-protocol`, driven by
//! `cocoon-actors`.

pub mod build_info;
pub mod cli;
pub mod collateral;
pub mod command;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod gateway_client;
pub mod http;
pub mod local_mesh;
pub mod net;
pub mod receipt_check;
pub mod receipt_recount;
pub mod secret_file;
pub mod signals;
pub mod suggest;
pub mod telemetry;
pub mod terminal;
pub mod trust;
pub mod wiring;
