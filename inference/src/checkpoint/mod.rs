//! A model's files as one thing: named tensors, a configuration, a vocabulary and a chat template.
//!
//! Two kinds of checkpoint are read and look alike from here on:
//!
//! ```text
//! model.gguf (or model-00001-of-0000N.gguf)     Hugging Face folder
//!   metadata ── metadata ─┐                       config.json ── config ─┐
//!   tensors ─── names ────┴─► Checkpoint ◄──────── *.safetensors ────────┘
//!   tokenizer.* ─────────────► Vocabulary ◄──────── tokenizer.json
//!   tokenizer.chat_template ─► ChatTemplate ◄────── tokenizer_config.json, chat_template.jinja
//! ```
//!
//! Tensors have Hugging Face's names and the configuration has the keys of its `config.json`, because the
//! papers' authors publish in them. The files are mapped, not read: a tensor is a slice of the file, still
//! in the file's number format. They may come from a stranger, so everything in them is checked against a
//! named limit, or against the bytes that are really there, before it is used.

mod config;
mod error;
mod folder;
mod gguf;
mod map;
mod metadata;
mod names;
mod safetensors;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;
use cocoon_protocol::vault::ContentKey;
use serde_json::{Map, Value};

pub use config::KNOWN_ARCHITECTURES;
pub use error::CheckpointError;
pub use folder::{folder_digest, folder_files};
pub use map::MAX_MAPPED_BYTES;

use crate::error::EngineError;
use crate::gguf::{Format, Header, dequantise};
use crate::sealed::Sealed;
use crate::template::ChatTemplate;
use crate::tokenizer::{self, Tokenizer};
use crate::vocabulary::{Companions, Vocabulary};
use map::Mapped;

/// Where a tensor lies and how it is stored.
struct Place {
    file: usize,
    range: Range<usize>,
    /// `Err` is the name of a type that is not read.
    format: Result<Format, String>,
    /// Slowest first.
    dims: Vec<usize>,
    interleaved_heads: bool,
}

/// Where vocabulary and template come from.
enum Source {
    Gguf(Box<Header>),
    Folder(Box<folder::Texts>),
}

/// A model's files, opened and checked.
pub struct Checkpoint {
    path: PathBuf,
    digest: Digest,
    config: Map<String, Value>,
    generation: Map<String, Value>,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Place>,
    source: Source,
    norms_include_one: bool,
}

/// One tensor as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    /// How its elements are stored.
    pub format: Format,
    /// Slowest first, as in Hugging Face: `[rows, columns]`, `[n]` for a vector, `[experts, rows, columns]`.
    pub dims: Vec<usize>,
    /// The elements, row after row.
    pub bytes: &'a [u8],
    /// The rows of each head are in pairs (2i, 2i + 1) where Hugging Face, and everything here, has halves
    /// (i, i + d/2); see [`Self::halved_row`].
    pub interleaved_heads: bool,
}

impl Stored<'_> {
    /// Rows of a matrix; of experts, those of all of them together; 1 for a vector.
    pub fn rows(&self) -> usize {
        match self.dims.split_last() {
            Some((_, slower)) => slower.iter().fold(1, |n, &d| n.saturating_mul(d)),
            None => 0,
        }
    }

    /// Elements of one row, or of a vector.
    pub fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(0)
    }

    /// Where row `row` of the matrix with halved heads of `head_width` lies in the stored one, in which
    /// they are interleaved.
    pub fn halved_row(row: usize, head_width: usize) -> usize {
        let Some(within) = row.checked_rem(head_width) else {
            return row;
        };
        let half = head_width / 2;
        let head = row.saturating_sub(within);
        let stored = match within.checked_sub(half) {
            None => within.saturating_mul(2),
            Some(second) => second.saturating_mul(2).saturating_add(1),
        };
        head.saturating_add(stored)
    }

    /// All elements as f32, in storage order.
    ///
    /// # Errors
    /// None that the checks at opening leave over.
    pub fn dequantise(&self) -> Result<Vec<f32>, EngineError> {
        let mut out = Vec::new();
        dequantise(self.format, self.bytes, &mut out)?;
        Ok(out)
    }
}

impl Checkpoint {
    /// Opens a `.gguf` file (the first one where there are several parts) or a folder with `config.json`,
    /// reads all of it once for its digest, and checks its structure.
    ///
    /// `progress` is told `(bytes done, bytes in all)` every few MiB.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`]; the files may be hostile.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, EngineError> {
        if path.is_dir() {
            return folder::open(path, progress);
        }
        gguf::open(path, progress)
    }

    /// A GGUF file that is in memory. `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_gguf_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, EngineError> {
        let file = (PathBuf::from(name), Mapped::Memory(bytes));
        gguf::from_files(vec![file], &mut |_, _| {})
    }

    /// A sealed GGUF file, opened with its key. The plain weights are in memory only; their digest is the
    /// one that the header claims, or nothing is opened.
    ///
    /// # Errors
    /// [`EngineError::Sealed`], and as [`Self::open`].
    pub fn from_sealed(
        sealed: &mut Sealed,
        key: &ContentKey,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let bytes = sealed.decrypt(key, progress)?;
        if !bytes.is_locked() {
            tracing::warn!("the system does not lock the weights into memory; see RLIMIT_MEMLOCK");
        }
        let header = sealed.header();
        let file = (
            PathBuf::from(&header.name),
            Mapped::Secret(bytes, header.model),
        );
        gguf::from_files(vec![file], &mut |_, _| {})
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is called in evidence: SHA-256 of a single file, [`folder_digest`] of several.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The keys of Hugging Face's `config.json`. Those of a GGUF file are translated into them. Where
    /// versions of Hugging Face's libraries differ, they are brought to one form: `rope_theta`,
    /// `rope_scaling` with its `rope_type`, Gemma 3's `rope_local_base_freq` and `layer_types`.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The keys of `generation_config.json`: sampling parameters that the model's authors recommend. Empty
    /// where there are none.
    pub fn generation_config(&self) -> &Map<String, Value> {
        &self.generation
    }

    /// The one entry of `architectures`, which is one of [`KNOWN_ARCHITECTURES`].
    pub fn architecture(&self) -> &str {
        config::architecture(&self.config).unwrap_or_default()
    }

    /// Whether the weights of the norms hold 1 + w where Hugging Face's Gemma holds w.
    pub fn norms_include_one(&self) -> bool {
        self.norms_include_one
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().fold(0, |sum: u64, place| {
            sum.saturating_add(place.range.len() as u64)
        })
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], [`CheckpointError::Dtype`].
    pub fn tensor(&self, name: &str) -> Result<Stored<'_>, EngineError> {
        let missing = || CheckpointError::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let place = self.tensors.get(name).ok_or_else(missing)?;
        let format = *place
            .format
            .as_ref()
            .map_err(|dtype| CheckpointError::Dtype {
                path: self.path.clone(),
                name: name.to_owned(),
                dtype: dtype.clone(),
            })?;
        let bytes = self
            .files
            .get(place.file)
            .and_then(|file| file.bytes().get(place.range.clone()))
            .ok_or_else(missing)?;
        Ok(Stored {
            format,
            dims: place.dims.clone(),
            bytes,
            interleaved_heads: place.interleaved_heads,
        })
    }

    /// The matrices `[rows, columns]` of `count` experts: `which` is `gate_proj`, `up_proj` or `down_proj`,
    /// `layer` is `model.layers.3`. They lie in one tensor, in one per expert, or with gate above up.
    ///
    /// # Errors
    /// When one is missing, or the shapes say that there are not `count` of them.
    pub fn experts(
        &self,
        layer: &str,
        which: &str,
        count: usize,
    ) -> Result<Vec<Stored<'_>>, EngineError> {
        let together = format!("{layer}.mlp.experts.{which}.weight");
        if self.has(&together) {
            return self.slices(&together, count, 0..1, 1);
        }
        // Newer versions of transformers may write one tensor for all experts, without ".weight".
        let fused = format!("{layer}.mlp.experts.{which}");
        if self.has(&fused) {
            return self.slices(&fused, count, 0..1, 1);
        }
        let gate_up = format!("{layer}.mlp.experts.gate_up_proj");
        let half = match which {
            "gate_proj" => Some(0..1),
            "up_proj" => Some(1..2),
            _ => None,
        };
        if let Some(half) = half.filter(|_| self.has(&gate_up)) {
            return self.slices(&gate_up, count, half, 2);
        }
        (0..count)
            .map(|expert| self.tensor(&format!("{layer}.mlp.experts.{expert}.{which}.weight")))
            .collect()
    }

    /// Of a tensor `[count, parts · rows, columns]`, the parts `part` of each of `count` matrices.
    fn slices(
        &self,
        name: &str,
        count: usize,
        part: Range<usize>,
        parts: usize,
    ) -> Result<Vec<Stored<'_>>, EngineError> {
        let all = self.tensor(name)?;
        let wrong = || CheckpointError::Shape {
            path: self.path.clone(),
            name: name.to_owned(),
            got: all.dims.clone(),
            wanted: format!("{count} matrices of a multiple of {parts} rows"),
        };
        let &[experts, rows, columns] = all.dims.as_slice() else {
            return Err(wrong().into());
        };
        if experts != count || count == 0 || !rows.is_multiple_of(parts) {
            return Err(wrong().into());
        }
        let rows = rows.checked_div(parts).ok_or_else(wrong)?;
        // The bytes of all rows were checked to be this product when the file was opened.
        let bytes = all
            .format
            .row_bytes(columns)
            .and_then(|row| row.checked_mul(rows))
            .filter(|&bytes| bytes > 0)
            .ok_or_else(wrong)?;
        Ok(all
            .bytes
            .chunks_exact(bytes)
            .enumerate()
            .filter(|(i, _)| i.checked_rem(parts).is_some_and(|i| part.contains(&i)))
            .map(|(_, bytes)| Stored {
                format: all.format,
                dims: vec![rows, columns],
                bytes,
                interleaved_heads: all.interleaved_heads,
            })
            .collect())
    }

    /// Builds the tokenizer. It has at least as many tokens as the configuration's `vocab_size`; those that
    /// the tokenizer does not know say nothing.
    ///
    /// # Errors
    /// When the checkpoint has none, or one that this engine does not compute.
    pub(crate) fn vocabulary(&self) -> Result<Vocabulary, EngineError> {
        let vocabulary = match &self.source {
            Source::Gguf(header) => Vocabulary::from_header(header)?,
            Source::Folder(texts) => {
                let missing = || CheckpointError::Missing {
                    path: self.path.clone(),
                    what: "tokenizer.json",
                    advice: "fetch it; older formats of tokenizers are not read",
                };
                let tokenizer = texts.tokenizer.as_deref().ok_or_else(missing)?;
                let companions = Companions {
                    tokenizer_config: &texts.tokenizer_config,
                    generation_config: &self.generation,
                    config: &self.config,
                };
                Vocabulary::from_json(tokenizer, &companions)?
            }
        };
        let outputs = self.config.get("vocab_size").and_then(Value::as_u64);
        vocabulary.padded(outputs.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
    }

    /// What receipts call the tokenizer: see [`Tokenizer`].
    pub fn tokenizer_digest(&self) -> Digest {
        match &self.source {
            Source::Gguf(header) => tokenizer::digest_of_header(header),
            Source::Folder(texts) => tokenizer::digest_of_files(&mut texts.read.clone()),
        }
    }

    /// The tokenizer with its template.
    ///
    /// # Errors
    /// When the checkpoint lacks either.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        let vocabulary = self.vocabulary()?;
        Ok(Tokenizer::new(
            self.tokenizer_digest(),
            vocabulary,
            self.template()?,
        ))
    }

    /// The tokenizer of a checkpoint whose weights are not looked at, and need not be there.
    pub(crate) fn open_tokenizer(path: &Path) -> Result<Tokenizer, EngineError> {
        let source_only = if path.is_dir() {
            folder::open_texts(path)?
        } else {
            gguf::open_header(path)?
        };
        source_only.tokenizer()
    }

    /// Compiles the chat template.
    ///
    /// # Errors
    /// When the checkpoint has none, or it does not parse.
    pub(crate) fn template(&self) -> Result<ChatTemplate, EngineError> {
        let no_template = || CheckpointError::Missing {
            path: self.path.clone(),
            what: "chat template",
            advice: "it is a base model, which completes text but holds no conversations",
        };
        match &self.source {
            Source::Gguf(header) => {
                let text_of = |key| -> Result<String, EngineError> {
                    let tokens = header.texts("tokenizer.ggml.tokens")?;
                    let token = header.token(key)?.and_then(|t| usize::try_from(t).ok());
                    Ok(token
                        .and_then(|t| tokens.get(t))
                        .cloned()
                        .unwrap_or_default())
                };
                let source = header
                    .text("tokenizer.chat_template")
                    .map_err(|_| no_template())?;
                ChatTemplate::new(
                    source,
                    &text_of("tokenizer.ggml.bos_token_id")?,
                    &text_of("tokenizer.ggml.eos_token_id")?,
                )
            }
            Source::Folder(texts) => {
                let source = texts.template.as_deref().ok_or_else(no_template)?;
                ChatTemplate::new(source, &texts.bos, &texts.eos)
            }
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("digest", &self.digest)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
