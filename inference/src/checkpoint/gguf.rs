//! Opening GGUF files: one, or all parts of one that was split.
//!
//! llama.cpp's `gguf-split` writes `name-00001-of-00003.gguf` and so on. Every part is a GGUF file with
//! some of the tensors; the first has all other metadata, and each says with `split.count` how many there
//! are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;
use serde_json::Map;

use super::map::Mapped;
use super::{Checkpoint, CheckpointError, Place, Source, config, folder_digest, metadata, names};
use crate::error::EngineError;
use crate::gguf::{GgufError, Header, MAX_TENSORS, Value, parse};

/// Parts of one model. The largest real ones have some 30.
const MAX_PARTS: u32 = 1_024;

pub(super) fn open(
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Checkpoint, EngineError> {
    if path
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("gguf"))
        && !starts_as_gguf(path)?
    {
        return Err(CheckpointError::NotAModel {
            path: path.to_owned(),
        }
        .into());
    }
    let files = parts(path)?
        .into_iter()
        .map(|part| Ok((part.clone(), Mapped::open(&part)?)))
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    from_files(files, progress)
}

/// A checkpoint without tensors: the metadata of a file, or of the first part of one.
pub(super) fn open_header(path: &Path) -> Result<Checkpoint, EngineError> {
    let mapped = Mapped::open(path)?;
    let header = parse(mapped.bytes()).map_err(|error| CheckpointError::Gguf {
        file: path.to_owned(),
        error,
    })?;
    Ok(Checkpoint {
        path: path.to_owned(),
        digest: Digest::ZERO,
        config: Map::new(),
        generation: Map::new(),
        files: Vec::new(),
        tensors: BTreeMap::new(),
        norms_include_one: false,
        source: Source::Gguf(Box::new(header)),
    })
}

/// Whether a file without the ending is one all the same.
fn starts_as_gguf(path: &Path) -> Result<bool, CheckpointError> {
    Ok(Mapped::open(path)?.bytes().starts_with(b"GGUF"))
}

/// The paths of all parts of the file, of which `path` is the first or the only one.
fn parts(path: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((stem, number, count)) = name.and_then(split_name) else {
        return Ok(vec![path.to_owned()]);
    };
    let part = |n: u32| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"));
    let refused = |reason| {
        Err(CheckpointError::Split {
            file: path.to_owned(),
            reason,
        })
    };
    if number != 1 {
        let first = part(1);
        return refused(format!(
            "this is part {number} of {count}; give the first one, {}",
            first.display()
        ));
    }
    if count == 0 || count > MAX_PARTS {
        return refused(format!("{count} parts; at most {MAX_PARTS} are read"));
    }
    let paths: Vec<PathBuf> = (1..=count).map(part).collect();
    match paths.iter().find(|part| !part.is_file()) {
        Some(missing) => refused(format!(
            "part {} is missing; fetch it into the same folder",
            missing.display()
        )),
        None => Ok(paths),
    }
}

/// `("model", 1, 3)` of `model-00001-of-00003.gguf`.
fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

/// A checkpoint of all parts of a file, in order.
pub(super) fn from_files(
    files: Vec<(PathBuf, Mapped)>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Checkpoint, EngineError> {
    let total = files.iter().fold(0u64, |sum, (_, mapped)| {
        sum.saturating_add(mapped.bytes().len() as u64)
    });
    // The headers first: a hostile file is refused before all of it is read.
    let headers = files
        .iter()
        .map(|(path, mapped)| {
            parse(mapped.bytes()).map_err(|error| CheckpointError::Gguf {
                file: path.clone(),
                error,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut headers = headers.into_iter();
    let Some((path, mut header)) = files
        .first()
        .map(|(path, _)| path.clone())
        .zip(headers.next())
    else {
        return Err(GgufError::Magic.into());
    };
    if let Some(Value::Unsigned(count)) = header.metadata.get("split.count")
        && *count > 1
        && *count != files.len() as u64
    {
        return Err(CheckpointError::Split {
            file: path,
            reason: format!(
                "it says that it is one of {count} parts; name them as gguf-split does, \
                 NAME-00001-of-{count:05}.gguf, in one folder"
            ),
        }
        .into());
    }
    let architecture = header.text("general.architecture")?.to_owned();
    if !metadata::KNOWN.contains(&architecture.as_str()) {
        return Err(CheckpointError::Architecture {
            file: path,
            found: architecture,
            known: metadata::KNOWN,
        }
        .into());
    }
    let mut tensors = BTreeMap::new();
    add(&mut tensors, &architecture, 0, &path, &header)?;
    for (file, ((part, _), more)) in (1..).zip(files.iter().skip(1).zip(headers)) {
        add(&mut tensors, &architecture, file, part, &more)?;
        // What the translation of the metadata looks at.
        header.tensors.extend(more.tensors);
    }
    if tensors.len() as u64 > MAX_TENSORS {
        return Err(CheckpointError::TooLarge {
            file: path,
            what: "the number of tensors of all parts",
            got: tensors.len() as u64,
            limit: MAX_TENSORS,
        }
        .into());
    }
    let mut config = metadata::config(&header)?;
    config::normalise(&mut config);

    let mut done = 0u64;
    progress(0, total);
    let mut digests = files
        .iter()
        .map(|(path, mapped)| {
            let digest = mapped.digest(&mut |more| {
                done = done.saturating_add(more);
                progress(done, total);
            });
            let name = path.file_name().map(|name| name.to_string_lossy());
            let name = name.unwrap_or_default().into_owned();
            (name, mapped.bytes().len() as u64, digest)
        })
        .collect::<Vec<(String, u64, Digest)>>();
    let digest = match digests.as_slice() {
        [(_, _, only)] => *only,
        _ => folder_digest(&mut digests),
    };
    // Their places are known by now.
    header.tensors.clear();
    Ok(Checkpoint {
        path,
        digest,
        config,
        generation: Map::new(),
        files: files.into_iter().map(|(_, mapped)| mapped).collect(),
        tensors,
        norms_include_one: architecture == "gemma3",
        source: Source::Gguf(Box::new(header)),
    })
}

/// Enters one part's tensors under their Hugging Face names.
fn add(
    tensors: &mut BTreeMap<String, Place>,
    architecture: &str,
    file: usize,
    path: &Path,
    header: &Header,
) -> Result<(), CheckpointError> {
    for (name, info) in &header.tensors {
        let place = Place {
            file,
            range: info.range.clone(),
            format: Ok(info.format),
            dims: info.dims.iter().rev().copied().collect(),
            interleaved_heads: names::interleaved(architecture, name),
        };
        let ours = names::hugging_face(architecture, name);
        if tensors.insert(ours, place).is_some() {
            return Err(CheckpointError::DuplicateTensor {
                file: path.to_owned(),
                name: name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_parts_are_understood() {
        assert_eq!(split_name("a-b-00001-of-00003.gguf"), Some(("a-b", 1, 3)));
        assert_eq!(split_name("model.gguf"), None);
        assert_eq!(split_name("out-of-00003.gguf"), None);
        assert_eq!(split_name("m-1-of-3.gguf"), None);
        assert_eq!(split_name("m-0000\u{661}-of-00003.gguf"), None);
    }
}
