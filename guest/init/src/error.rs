//! Why the guest cannot start.

use std::io;
use std::path::{Path, PathBuf};

/// Why the guest cannot start. It is printed on the console, and the guest is switched off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// A file, a device or a program.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something could not be mounted.
    #[error("cannot mount {what}: {source}")]
    Mount {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A module was refused.
    #[error("module {name}: {source}")]
    Module {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A program said no.
    #[error("{program} failed with {status}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its status.
        status: std::process::ExitStatus,
    },
    /// The host's file is larger than any.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The command line's model is none.
    #[error(
        "`{0}` is no model volume; write cocoon.model=ROOT:OFFSET, 64 hexadecimal digits and a number"
    )]
    Volume(String),
    /// The network's file has a line that is none.
    #[error("`{0}` is no line of the network's file: address A/P, gateway A or nameserver A")]
    Network(String),
    /// A device did not appear.
    #[error("{0} did not appear")]
    NoDevice(&'static str),
    /// Waiting for children failed.
    #[error("waiting for the node: {0}")]
    Wait(io::Error),
}

impl InitError {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}
