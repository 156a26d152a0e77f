//! Vocabularies inside GGUF files.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::alphabet::{ByteAlphabet, SPACE, fallback_byte};
use super::{
    BpeOptions, MAX_VOCABULARY, Parts, Piece, Vocabulary, looks_like_control, merges, split,
};
use crate::error::EngineError;
use crate::gguf::{GgufError, Header, Value};

/// `tokenizer.ggml.token_type`, after llama.cpp's `llama_token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// Control tokens that end a turn in every model that has them. Files name only one or two of theirs;
/// llama.cpp has a like list.
const ENDS: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

/// What kind of merging the file asks for.
enum Kind {
    /// GPT-2's byte alphabet; merges are listed.
    ByteLevel(Box<split::Named>),
    /// Characters with bytes to fall back on; merges follow from scores.
    SentencePiece { prefix: bool },
}

impl Vocabulary {
    /// Builds the tokenizer from a file's metadata.
    pub(crate) fn from_header(header: &Header) -> Result<Self, EngineError> {
        let kind = match header.text("tokenizer.ggml.model")? {
            "gpt2" => Kind::ByteLevel(Box::new(split::named(header.text("tokenizer.ggml.pre")?)?)),
            "llama" => Kind::SentencePiece {
                prefix: flag(header, "tokenizer.ggml.add_space_prefix", true)?,
            },
            other => {
                return Err(EngineError::Unsupported {
                    feature: "tokenizer",
                    found: other.to_owned(),
                });
            }
        };
        let tokens = header.texts("tokenizer.ggml.tokens")?;
        let types = header.integers("tokenizer.ggml.token_type")?;
        if tokens.len() != types.len() || tokens.is_empty() {
            return Err(EngineError::Inconsistent {
                what: "numbers of tokens and token types",
                left: tokens.len(),
                right: types.len(),
            });
        }
        if tokens.len() > MAX_VOCABULARY {
            return Err(GgufError::OverLimit {
                what: "tokens of the vocabulary",
                got: tokens.len() as u64,
                limit: MAX_VOCABULARY as u64,
            }
            .into());
        }
        let mut ends = BTreeSet::new();
        for key in ["eos", "eot", "eom"] {
            ends.extend(header.token(&format!("tokenizer.ggml.{key}_token_id"))?);
        }
        let sorted = Sorted::new(tokens, types, &kind, &mut ends)?;
        let merges = match kind {
            Kind::ByteLevel(_) => listed_merges(header, &sorted.markers)?,
            Kind::SentencePiece { .. } => {
                let scores = scores(header, tokens.len())?;
                let normal = tokens
                    .iter()
                    .zip(scores)
                    .zip(types)
                    .filter(|(_, kind)| **kind == NORMAL)
                    .map(|((token, score), _)| (token.as_str(), *score));
                merges::from_scores(normal, &sorted.vocabulary)?
            }
        };
        let (normalizer, words, options, begins) = match kind {
            Kind::ByteLevel(named) => {
                let options = BpeOptions {
                    ignore_merges: named.ignore_merges,
                    ..BpeOptions::default()
                };
                (named.normalizer, Some(named.split), options, named.begins)
            }
            Kind::SentencePiece { prefix } => {
                let options = BpeOptions {
                    byte_fallback: true,
                    ..BpeOptions::default()
                };
                let normalizer = split::sentence_piece(prefix)?;
                (Some(normalizer), None, options, true)
            }
        };
        let token = |key, wanted| -> Result<Option<u32>, EngineError> {
            Ok(header.token(key)?.filter(|_| wanted))
        };
        let begins = flag(header, "tokenizer.ggml.add_bos_token", begins)?;
        let ends_text = flag(header, "tokenizer.ggml.add_eos_token", false)?;
        let bos = token("tokenizer.ggml.bos_token_id", begins)?;
        let eos = token("tokenizer.ggml.eos_token_id", ends_text)?;
        Parts {
            pieces: sorted.pieces,
            vocabulary: sorted.vocabulary,
            merges,
            added: sorted.added,
            markers: sorted.markers,
            options,
            normalizer,
            split: words,
            ends,
            chat_bos: bos,
            before: bos.into_iter().collect(),
            after: eos.into_iter().collect(),
        }
        .build()
    }
}

/// The tokens of a file by kind.
struct Sorted {
    pieces: Vec<Piece>,
    vocabulary: Vocab,
    added: Vec<AddedToken>,
    markers: BTreeMap<String, u32>,
}

impl Sorted {
    /// `ends` are the tokens that the file says end a turn; those that do by their text are added.
    fn new(
        tokens: &[String],
        types: &[i64],
        kind: &Kind,
        ends: &mut BTreeSet<u32>,
    ) -> Result<Self, EngineError> {
        let alphabet = ByteAlphabet::new();
        let mut sorted = Self {
            pieces: Vec::with_capacity(tokens.len()),
            vocabulary: Vocab::with_capacity(tokens.len()),
            added: Vec::new(),
            markers: BTreeMap::new(),
        };
        for ((id, text), kind_number) in (0u32..).zip(tokens).zip(types) {
            let control = match *kind_number {
                CONTROL | UNKNOWN => true,
                USER_DEFINED => looks_like_control(text),
                _ => false,
            } || ends.contains(&id);
            let piece = if control {
                if ENDS.contains(&text.as_str()) {
                    ends.insert(id);
                }
                sorted.marker(text, id)?;
                Piece::Control(text.as_str().into())
            } else {
                match (*kind_number, kind) {
                    (NORMAL, Kind::ByteLevel(_)) => {
                        sorted.ordinary(text, id)?;
                        Piece::Bytes(alphabet.bytes(text))
                    }
                    (NORMAL, Kind::SentencePiece { .. }) => {
                        sorted.ordinary(text, id)?;
                        Piece::Bytes(text.replace(SPACE, " ").into_bytes().into())
                    }
                    (BYTE, Kind::SentencePiece { .. }) => {
                        let byte = fallback_byte(text).ok_or_else(|| GgufError::WrongValue {
                            key: "tokenizer.ggml.tokens".to_owned(),
                            wanted: "<0x00> to <0xFF> where token_type says byte",
                        })?;
                        sorted.ordinary(text, id)?;
                        Piece::Bytes(Box::new([byte]))
                    }
                    (USER_DEFINED, _) if !text.is_empty() => {
                        sorted.ordinary(text, id)?;
                        let token = AddedToken::from(text.as_str(), false).normalized(false);
                        sorted.added.push(token);
                        Piece::Bytes(text.as_bytes().into())
                    }
                    _ => Piece::Unused,
                }
            };
            sorted.pieces.push(piece);
        }
        Ok(sorted)
    }

    fn ordinary(&mut self, text: &str, id: u32) -> Result<(), GgufError> {
        match self.vocabulary.insert(text.to_owned(), id) {
            None => Ok(()),
            Some(_) => Err(GgufError::Duplicate(text.to_owned())),
        }
    }

    fn marker(&mut self, text: &str, id: u32) -> Result<(), GgufError> {
        if text.is_empty() {
            return Ok(());
        }
        match self.markers.insert(text.to_owned(), id) {
            None => Ok(()),
            Some(_) => Err(GgufError::Duplicate(text.to_owned())),
        }
    }
}

/// A boolean with a value for when it is absent.
fn flag(header: &Header, key: &str, absent: bool) -> Result<bool, GgufError> {
    match header.metadata.contains_key(key) {
        true => header.flag(key),
        false => Ok(absent),
    }
}

fn scores(header: &Header, wanted: usize) -> Result<&[f64], EngineError> {
    match header.metadata.get("tokenizer.ggml.scores") {
        Some(Value::Floats(scores)) if scores.len() == wanted => Ok(scores),
        Some(_) => Err(GgufError::WrongValue {
            key: "tokenizer.ggml.scores".to_owned(),
            wanted: "a number for each token",
        }
        .into()),
        None => Err(GgufError::MissingKey("tokenizer.ggml.scores".to_owned()).into()),
    }
}

fn listed_merges(
    header: &Header,
    markers: &BTreeMap<String, u32>,
) -> Result<Vec<(String, String)>, GgufError> {
    let mut whole = String::new();
    header
        .texts("tokenizer.ggml.merges")?
        .iter()
        .map(|merge| {
            let (left, right) = merge.split_once(' ')?;
            // A merge that spelled a control token would let plain text become one.
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            let harmless = !markers.contains_key(&whole);
            harmless.then(|| (left.to_owned(), right.to_owned()))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| GgufError::WrongValue {
            key: "tokenizer.ggml.merges".to_owned(),
            wanted: "pairs of ordinary tokens",
        })
}
