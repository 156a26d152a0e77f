//! A log in a directory:
//!
//! | file | what is in it |
//! |---|---|
//! | `entries` | the entries, a line each; only appended to |
//! | `checkpoint` | the signed note over as many of them as it says |
//! | `checkpoint.old` | the newest signed one before it |
//! | `lock` | held by who writes |
//!
//! Every file is replaced as a whole: written beside, synced, renamed. Entries are written before the checkpoint that
//! counts them, so after a crash in between the last line is there but not counted, and the next append writes over it:
//! no checkpoint ever spoke of it. A directory whose entries do not give the checkpoint's root is not touched.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cocoon_attestation::log::{
    Checkpoint, CheckpointError, Entry, EntryError, Note, NoteError, NoteSignature,
};
use cocoon_protocol::Digest;
use cocoon_protocol::log::{MAX_CHECKPOINT_BYTES, MAX_LOG_ENTRY_BYTES, TreeHead};
use cocoon_protocol::merkle;

/// Most entries of a log that is read here.
pub(super) const MAX_LOG_ENTRIES: u64 = 65_536;

const ENTRIES: &str = "entries";
const CHECKPOINT: &str = "checkpoint";
const OLD_CHECKPOINT: &str = "checkpoint.old";
const LOCK: &str = "lock";

/// Why a log's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The disk said no.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is one.
    #[error("{path} holds a log; `cocoon log show {path}` shows it")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else writes.
    #[error("{path} is held by another process; try again when it is done")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A file larger than it may be.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes it may have.
        limit: u64,
    },
    /// Not a note.
    #[error("{path}: {source}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// A note, but no checkpoint.
    #[error("{path}: {source}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CheckpointError,
    },
    /// A line that is no entry.
    #[error("{path}, line {line}: {source}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Why.
        source: EntryError,
    },
    /// More than the program works with.
    #[error("a log has at most {MAX_LOG_ENTRIES} entries here, this has {size}")]
    TooManyEntries {
        /// How many its checkpoint counts.
        size: u64,
    },
    /// Fewer lines than were counted.
    #[error(
        "{path} has {lines} entries, but the checkpoint counts {size}; get the whole log from somebody who has it"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// How many it has.
        lines: u64,
        /// How many it should have.
        size: u64,
    },
    /// Changed, or another log's.
    #[error(
        "the {size} entries of {path} do not give the checkpoint's root; they were changed, or are another log's: \
         get the log again from somebody who has it"
    )]
    Root {
        /// The file.
        path: PathBuf,
        /// How many entries there are.
        size: u64,
    },
    /// The log has this line.
    #[error("the log has this very entry already, at index {index}")]
    Repeated {
        /// Where, from 0.
        index: u64,
    },
}

/// A log whose entries give the root of its checkpoint.
#[derive(Debug)]
pub struct LogDirectory {
    path: PathBuf,
    entries: Vec<Entry>,
    leaves: Vec<Digest>,
    note: Note,
    checkpoint: Checkpoint,
    /// Held as long as this lives, if it may write.
    _lock: Option<File>,
}

impl LogDirectory {
    /// Makes an empty log.
    ///
    /// # Errors
    /// [`DirectoryError::Exists`], a bad origin, or the disk's.
    pub fn create(path: &Path, origin: &str) -> Result<Self, DirectoryError> {
        std::fs::create_dir_all(path).map_err(failed(path))?;
        let lock = lock(path)?;
        let file = path.join(CHECKPOINT);
        for name in [CHECKPOINT, ENTRIES] {
            if path.join(name).exists() {
                let path = path.to_owned();
                return Err(DirectoryError::Exists { path });
            }
        }
        let head = TreeHead {
            size: 0,
            root: merkle::empty_root(),
        };
        let checkpoint =
            Checkpoint::new(origin, head).map_err(|source| DirectoryError::Checkpoint {
                path: file.clone(),
                source,
            })?;
        let note = note_of(&checkpoint, &file)?;
        replace(&path.join(ENTRIES), b"")?;
        replace(&file, note.to_string().as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            entries: Vec::new(),
            leaves: Vec::new(),
            note,
            checkpoint,
            _lock: Some(lock),
        })
    }

    /// Reads a log and checks that its entries give its checkpoint's root. Signatures are not looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let (note, checkpoint) = read_checkpoint(&path.join(CHECKPOINT))?;
        let size = checkpoint.head.size;
        if size > MAX_LOG_ENTRIES {
            return Err(DirectoryError::TooManyEntries { size });
        }
        let file = path.join(ENTRIES);
        // The line feeds, and one line that is not counted.
        let longest = u64::try_from(MAX_LOG_ENTRY_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let limit = size.saturating_add(1).saturating_mul(longest);
        let bytes = read(&file, limit)?;
        let (mut entries, mut leaves) = (Vec::new(), Vec::new());
        let lines = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"));
        for (number, line) in (1..=size).zip(lines) {
            let entry = Entry::decode(line).map_err(|source| DirectoryError::Entry {
                path: file.clone(),
                line: number,
                source,
            })?;
            leaves.push(entry.leaf());
            entries.push(entry);
        }
        let lines = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        if lines < size {
            return Err(DirectoryError::Missing {
                path: file,
                lines,
                size,
            });
        }
        if merkle::root(&leaves) != checkpoint.head.root {
            return Err(DirectoryError::Root { path: file, size });
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
            leaves,
            note,
            checkpoint,
            _lock: None,
        })
    }

    /// As [`LogDirectory::open`], and keeps others from writing.
    ///
    /// # Errors
    /// [`DirectoryError::Busy`], or what is wrong with it.
    pub fn open_to_write(path: &Path) -> Result<Self, DirectoryError> {
        // Before the lock makes a file in a directory that is no log.
        read_checkpoint(&path.join(CHECKPOINT))?;
        let lock = lock(path)?;
        let mut directory = Self::open(path)?;
        directory._lock = Some(lock);
        Ok(directory)
    }

    /// The entries that the checkpoint counts.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Their leaves.
    #[must_use]
    pub fn leaves(&self) -> &[Digest] {
        &self.leaves
    }

    /// The checkpoint with its signatures.
    #[must_use]
    pub const fn note(&self) -> &Note {
        &self.note
    }

    /// What it says.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether this log began with that head.
    #[must_use]
    pub fn grew_from(&self, older: TreeHead) -> bool {
        usize::try_from(older.size)
            .ok()
            .and_then(|size| self.leaves.get(..size))
            .is_some_and(|leaves| merkle::root(leaves) == older.root)
    }

    /// Appends an entry; the checkpoint over it has no signatures yet. Returns its index.
    ///
    /// # Errors
    /// [`DirectoryError::Repeated`], [`DirectoryError::TooManyEntries`], or the disk's.
    pub fn append(&mut self, entry: Entry) -> Result<u64, DirectoryError> {
        let leaf = entry.leaf();
        let index = self.checkpoint.head.size;
        for (index, other) in (0..).zip(&self.leaves) {
            if *other == leaf {
                return Err(DirectoryError::Repeated { index });
            }
        }
        let size = index.saturating_add(1);
        if size > MAX_LOG_ENTRIES {
            return Err(DirectoryError::TooManyEntries { size });
        }
        self.entries.push(entry);
        self.leaves.push(leaf);
        let mut lines = Vec::new();
        for entry in &self.entries {
            lines.extend(entry.encode());
            lines.push(b'\n');
        }
        replace(&self.path.join(ENTRIES), &lines)?;
        if !self.note.signatures().is_empty() {
            let old = self.note.to_string();
            replace(&self.path.join(OLD_CHECKPOINT), old.as_bytes())?;
        }
        self.checkpoint.head = TreeHead {
            size,
            root: merkle::root(&self.leaves),
        };
        let file = self.path.join(CHECKPOINT);
        self.note = note_of(&self.checkpoint, &file)?;
        replace(&file, self.note.to_string().as_bytes())?;
        Ok(index)
    }

    /// Adds a signature to the checkpoint.
    ///
    /// # Errors
    /// No room for it, or the disk's.
    pub fn add_signature(&mut self, signature: NoteSignature) -> Result<(), DirectoryError> {
        let path = self.path.join(CHECKPOINT);
        let note = |source| DirectoryError::Note {
            path: path.clone(),
            source,
        };
        self.note.add(signature).map_err(note)?;
        replace(&path, self.note.to_string().as_bytes())
    }
}

/// Reads a checkpoint that perhaps nobody signed.
pub(super) fn read_checkpoint(path: &Path) -> Result<(Note, Checkpoint), DirectoryError> {
    let limit = u64::try_from(MAX_CHECKPOINT_BYTES).unwrap_or(u64::MAX);
    let bytes = read(path, limit)?;
    let note = Note::parse_unsigned(&bytes).map_err(|source| DirectoryError::Note {
        path: path.to_owned(),
        source,
    })?;
    let checkpoint = note
        .text()
        .parse()
        .map_err(|source| DirectoryError::Checkpoint {
            path: path.to_owned(),
            source,
        })?;
    Ok((note, checkpoint))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DirectoryError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(failed(path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        let path = path.to_owned();
        return Err(DirectoryError::TooLarge { path, limit });
    }
    Ok(bytes)
}

/// Whole or not at all, also through a crash: written beside, synced, renamed, and the directory synced.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let beside = with_suffix(path, ".new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed(path))
}

/// `path` with more at its end.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let file = path.join(LOCK);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .map_err(failed(&file))?;
    hold(&file)
}

/// Keeps other processes from holding this file, until it is dropped.
pub(super) fn hold(path: &Path) -> Result<File, DirectoryError> {
    let file = File::open(path).map_err(failed(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DirectoryError::Busy {
            path: path.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(path)(source)),
    }
}

fn note_of(checkpoint: &Checkpoint, path: &Path) -> Result<Note, DirectoryError> {
    Note::new(checkpoint.to_string()).map_err(|source| DirectoryError::Note {
        path: path.to_owned(),
        source,
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}
