//! Opening a folder as Hugging Face's libraries write it.
//!
//! | file                                                      | what is used of it                            |
//! |-----------------------------------------------------------|-----------------------------------------------|
//! | `config.json`                                             | all of it                                     |
//! | `generation_config.json`                                  | tokens that end a turn; recommended sampling  |
//! | `model.safetensors`, or `model.safetensors.index.json` and its shards | the weights                       |
//! | `tokenizer.json`                                          | the vocabulary                                |
//! | `tokenizer_config.json`                                   | template, texts of the bos and eos tokens     |
//! | `chat_template.jinja`                                     | template; comes before the other              |
//!
//! These files, and no others, make the folder's digest. The small ones are read once, and what is hashed is
//! what is used. Shards may be symbolic links, as in Hugging Face's cache, but their names may not lead
//! anywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use cocoon_protocol::Digest;
use serde_json::{Map, Value};

use super::map::Mapped;
use super::{Checkpoint, CheckpointError, KNOWN_ARCHITECTURES, Place, Source, config, safetensors};
use crate::error::EngineError;

/// Bytes of `config.json` and its like. Real ones have some 1 000; one per layer of anything, some 100 000.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Bytes of `tokenizer.json`. Gemma 3's has 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Bytes of `tokenizer_config.json` and of the index: an entry for each added token, or each tensor.
const MAX_LIST_BYTES: u64 = 32 << 20;
/// Bytes of a template, as in [`crate::gguf::MAX_STRING_BYTES`].
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
/// Files of weights. DeepSeek-V3 has 163.
const MAX_SHARDS: usize = 4_096;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The texts of a folder that are used after it was opened.
pub(super) struct Texts {
    /// `tokenizer.json`.
    pub(super) tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub(super) tokenizer_config: Map<String, Value>,
    /// The chat template's source.
    pub(super) template: Option<String>,
    /// Text of the token that begins a text, or empty.
    pub(super) bos: String,
    /// Text of the token that ends one, or empty.
    pub(super) eos: String,
    /// The files that decide how text becomes tokens: name, bytes, digest.
    pub(super) read: Vec<(String, u64, Digest)>,
}

/// The small files of the folder as they are read, and the digest of each.
struct Reader<'p> {
    folder: &'p Path,
    read: Vec<(String, u64, Digest)>,
}

impl Reader<'_> {
    /// The bytes of a file, or `None` where there is none.
    fn bytes(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
        let path = self.folder.join(name);
        let failed = |error| CheckpointError::Io {
            file: path.clone(),
            error,
        };
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        let opened = match std::fs::metadata(&path) {
            Ok(data) if !data.is_file() => Err(std::io::ErrorKind::IsADirectory.into()),
            Ok(_) => File::open(&path),
            Err(error) => Err(error),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        // One byte more than the limit, to see that there are more.
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let got = bytes.len() as u64;
        if got > limit {
            return Err(CheckpointError::TooLarge {
                file: path,
                what: "its size in bytes",
                got,
                limit,
            });
        }
        let digest = Digest::sha256(&bytes);
        self.read.push((name.to_owned(), got, digest));
        Ok(Some(bytes))
    }

    fn text(&mut self, name: &str, limit: u64) -> Result<Option<String>, CheckpointError> {
        let Some(bytes) = self.bytes(name, limit)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| self.bad(name, "is not UTF-8"))?;
        Ok(Some(text))
    }

    fn object(
        &mut self,
        name: &str,
        limit: u64,
    ) -> Result<Option<Map<String, Value>>, CheckpointError> {
        let Some(bytes) = self.bytes(name, limit)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.bad(name, &error.to_string()))
    }

    fn bad(&self, name: &str, reason: &str) -> CheckpointError {
        CheckpointError::Json {
            file: self.folder.join(name),
            reason: reason.to_owned(),
        }
    }

    /// The names of the files with the weights.
    fn shards(&mut self) -> Result<BTreeMap<String, BTreeSet<String>>, CheckpointError> {
        let Some(mut index) = self.object(INDEX, MAX_LIST_BYTES)? else {
            return Ok(BTreeMap::from([(SINGLE.to_owned(), BTreeSet::new())]));
        };
        let Some(Value::Object(map)) = index.remove("weight_map") else {
            return Err(self.bad(INDEX, "has no \"weight_map\""));
        };
        let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (tensor, shard) in map {
            let Value::String(shard) = shard else {
                return Err(self.bad(INDEX, "\"weight_map\" has a value that is no file name"));
            };
            if !is_plain_name(&shard) {
                return Err(CheckpointError::Outside {
                    file: self.folder.join(INDEX),
                    name: shard,
                });
            }
            shards.entry(shard).or_default().insert(tensor);
        }
        if shards.len() > MAX_SHARDS {
            return Err(CheckpointError::TooLarge {
                file: self.folder.join(INDEX),
                what: "the number of files",
                got: shards.len() as u64,
                limit: MAX_SHARDS as u64,
            });
        }
        Ok(shards)
    }
}

/// Whether a name is that of a file in the folder itself.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(only)) if only == name);
    // A backslash is a letter here and a separator elsewhere; no real file has one.
    plain && components.next().is_none() && !name.contains(['\\', '\0'])
}

/// A checkpoint without tensors, of the small files.
pub(super) fn open_texts(path: &Path) -> Result<Checkpoint, EngineError> {
    let mut reader = Reader {
        folder: path,
        read: Vec::new(),
    };
    let Small {
        config,
        generation,
        texts,
    } = small_files(&mut reader)?;
    Ok(Checkpoint {
        path: path.to_owned(),
        digest: Digest::ZERO,
        config,
        generation,
        files: Vec::new(),
        tensors: BTreeMap::new(),
        source: Source::Folder(Box::new(texts)),
        norms_include_one: false,
    })
}

/// What is read of a folder besides its weights.
struct Small {
    /// `config.json`.
    config: Map<String, Value>,
    /// `generation_config.json`.
    generation: Map<String, Value>,
    /// The tokenizer's.
    texts: Texts,
}

fn small_files(reader: &mut Reader<'_>) -> Result<Small, CheckpointError> {
    let mut config = reader
        .object("config.json", MAX_CONFIG_BYTES)?
        .ok_or_else(|| CheckpointError::NotAModel {
            path: reader.folder.to_owned(),
        })?;
    config::normalise(&mut config);
    let generation = reader
        .object("generation_config.json", MAX_CONFIG_BYTES)?
        .unwrap_or_default();
    let texts = texts(reader)?;
    Ok(Small {
        config,
        generation,
        texts,
    })
}

pub(super) fn open(
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Checkpoint, EngineError> {
    let mut reader = Reader {
        folder: path,
        read: Vec::new(),
    };
    let Small {
        config,
        generation,
        texts,
    } = small_files(&mut reader)?;
    let architecture = config::architecture(&config).unwrap_or_default();
    if !KNOWN_ARCHITECTURES.contains(&architecture) {
        return Err(CheckpointError::Architecture {
            file: path.join("config.json"),
            found: architecture.to_owned(),
            known: KNOWN_ARCHITECTURES,
        }
        .into());
    }
    let shards = reader.shards()?;

    let mut tensors = BTreeMap::new();
    let mut files: Vec<(String, Mapped)> = Vec::new();
    for (number, (name, wanted)) in shards.into_iter().enumerate() {
        let file = path.join(&name);
        if !file.is_file() {
            return Err(CheckpointError::Missing {
                path: path.to_owned(),
                what: "file with weights that the index names, or model.safetensors",
                advice: "fetch all files of the model into the folder",
            }
            .into());
        }
        let mapped = Mapped::open(&file)?;
        safetensors::add(&mut tensors, number, &file, mapped.bytes())?;
        let here = |tensor: &String| {
            let place: Option<&Place> = tensors.get(tensor);
            place.is_some_and(|place| place.file == number)
        };
        if let Some(absent) = wanted.into_iter().find(|tensor| !here(tensor)) {
            return Err(CheckpointError::MissingTensor {
                path: file,
                name: absent,
            }
            .into());
        }
        files.push((name, mapped));
    }

    let total = files.iter().fold(0u64, |sum, (_, mapped)| {
        sum.saturating_add(mapped.bytes().len() as u64)
    });
    let mut done = 0u64;
    progress(0, total);
    let mut digests = reader.read;
    for (name, mapped) in &files {
        let digest = mapped.digest(&mut |more| {
            done = done.saturating_add(more);
            progress(done, total);
        });
        digests.push((name.clone(), mapped.bytes().len() as u64, digest));
    }
    Ok(Checkpoint {
        path: path.to_owned(),
        digest: folder_digest(&mut digests),
        config,
        generation,
        files: files.into_iter().map(|(_, mapped)| mapped).collect(),
        tensors,
        source: Source::Folder(Box::new(texts)),
        norms_include_one: false,
    })
}

fn texts(reader: &mut Reader<'_>) -> Result<Texts, CheckpointError> {
    let tokenizer_config = reader
        .object("tokenizer_config.json", MAX_LIST_BYTES)?
        .unwrap_or_default();
    let template = match reader.text("chat_template.jinja", MAX_TEMPLATE_BYTES)? {
        Some(template) => Some(template),
        None => inline_template(tokenizer_config.get("chat_template")),
    };
    let token = |key| match tokenizer_config.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(token)) => token
            .get("content")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    };
    let tokenizer = reader.bytes("tokenizer.json", MAX_TOKENIZER_BYTES)?;
    Ok(Texts {
        bos: token("bos_token"),
        eos: token("eos_token"),
        tokenizer,
        // Both `config.json` files and the tokenizer's, and nothing else yet.
        read: reader.read.clone(),
        template,
        tokenizer_config,
    })
}

/// `chat_template` is the source, or a list of named ones, of which "default" is for chat.
fn inline_template(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?
            .get("template")?
            .as_str()
            .map(str::to_owned),
        _ => None,
    }
}

/// The digest of several files that belong together: SHA-256 over a line for each, sorted by name, of its
/// name, its size in bytes in decimal, and its SHA-256 in lower-case hexadecimal, with a zero byte after
/// the first two and a line feed (0x0a) after the third.
pub fn folder_digest(files: &mut [(String, u64, Digest)]) -> Digest {
    files.sort();
    let mut text = Vec::new();
    for (name, bytes, digest) in files.iter() {
        text.extend_from_slice(name.as_bytes());
        text.push(0);
        text.extend_from_slice(bytes.to_string().as_bytes());
        text.push(0);
        text.extend_from_slice(digest.to_string().as_bytes());
        text.push(b'\n');
    }
    Digest::sha256(&text)
}

/// The files of this folder that make its digest, of those that are there: what to fetch, keep and verify.
///
/// # Errors
/// [`CheckpointError`] for an index that is not in order.
pub fn folder_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut reader = Reader {
        folder,
        read: Vec::new(),
    };
    let shards = reader.shards()?;
    let small = [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        INDEX,
    ];
    Ok(small
        .into_iter()
        .map(str::to_owned)
        .chain(shards.into_keys())
        .map(|name| folder.join(name))
        .filter(|path| path.is_file())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_files_in_the_folder_itself_are_plain() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "./x",
            "a/../b",
            "..\\x",
            "x/",
        ] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_folders_digest_is_over_sorted_lines() {
        let a = Digest::sha256(b"a");
        let b = Digest::sha256(b"bb");
        let mut files = vec![("b".to_owned(), 2, b), ("a".to_owned(), 1, a)];
        let text = format!("a\x001\x00{a}\nb\x002\x00{b}\n");
        assert_eq!(folder_digest(&mut files), Digest::sha256(text.as_bytes()));
    }
}
