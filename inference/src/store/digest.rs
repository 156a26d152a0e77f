//! Digests of what is on the disk, read and not mapped: a file that is being checked may be anything.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;
use ring::digest::{Context, SHA256};

use super::{Progress, StoreError, Watch};
use crate::checkpoint::{folder_digest, folder_files};
use crate::error::EngineError;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// SHA-256 of a file.
pub(super) fn file_digest(
    path: &Path,
    base: u64,
    total: u64,
    watch: Watch<'_>,
) -> Result<(Digest, u64), StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("read", path))?;
    let what = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0u64;
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(StoreError::io("read", path))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        hash.update(piece);
        done = done.saturating_add(piece.len() as u64);
        watch(Progress {
            doing: "hashing",
            what: &what,
            done: base.saturating_add(done),
            total,
        });
    }
    let mut digest = [0; 32];
    // SHA-256 has 32 bytes.
    digest.copy_from_slice(hash.finish().as_ref());
    Ok((Digest::from_bytes(digest), done))
}

/// What evidence calls a model, as [`crate::checkpoint::Checkpoint::digest`].
pub(super) fn digest_of(path: &Path, watch: Watch<'_>) -> Result<Digest, StoreError> {
    let files = files_of(path)?;
    let total = bytes_of(path)?;
    let mut done = 0u64;
    let mut digests = Vec::with_capacity(files.len());
    for file in &files {
        let (digest, bytes) = file_digest(file, done, total, watch)?;
        done = done.saturating_add(bytes);
        let name = file.file_name().map(|name| name.to_string_lossy());
        digests.push((name.unwrap_or_default().into_owned(), bytes, digest));
    }
    Ok(match digests.as_slice() {
        [(_, _, only)] if path.is_file() => *only,
        _ => folder_digest(&mut digests),
    })
}

/// Bytes of all files of a model.
pub(super) fn bytes_of(path: &Path) -> Result<u64, StoreError> {
    files_of(path)?.iter().try_fold(0u64, |sum, file| {
        let bytes = std::fs::metadata(file)
            .map_err(StoreError::io("read", file))?
            .len();
        Ok(sum.saturating_add(bytes))
    })
}

/// The files that make a model: itself, its parts, or those of a folder that are used.
pub(super) fn files_of(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if path.is_dir() {
        return folder_files(path).map_err(|error| EngineError::from(error).into());
    }
    let Some((stem, count)) = split(path) else {
        return Ok(vec![path.to_owned()]);
    };
    Ok((1..=count)
        .map(|n| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf")))
        .collect())
}

/// The stem and the number of parts, of the first part of a split GGUF file.
fn split(path: &Path) -> Option<(&str, u32)> {
    const MAX_PARTS: u32 = 1024;
    let name = path.file_name()?.to_str()?;
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let stem = rest.strip_suffix("-00001")?;
    let count = count.parse().ok().filter(|n| (1..=MAX_PARTS).contains(n))?;
    Some((stem, count))
}

/// What to open of a place in the store: a file, a folder with `config.json`, or, of a folder that holds
/// the parts of a split file, the first part.
pub(super) fn entrance(place: &Path) -> PathBuf {
    if !place.is_dir() || place.join("config.json").exists() {
        return place.to_owned();
    }
    let first = std::fs::read_dir(place).ok().and_then(|entries| {
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .take(super::MAX_ENTRIES)
            .find(|path| split(path).is_some())
    });
    first.unwrap_or_else(|| place.to_owned())
}
