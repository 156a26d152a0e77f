//! Vocabularies in `tokenizer.json`, the format of the crate `tokenizers`.
//!
//! The file is not handed to that crate whole. Its control tokens are taken out first, so that no text can
//! become one, and only those kinds of normalizer and split are let through that the known families use: a
//! few of the others can be made to panic by what a file says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::alphabet::{ByteAlphabet, SPACE, fallback_byte};
use super::{BpeOptions, MAX_VOCABULARY, Parts, Piece, Vocabulary, looks_like_control};
use crate::error::EngineError;
use crate::gguf::GgufError;

/// Kinds of normalizer that are let through.
const NORMALIZERS: [&str; 10] = [
    "Sequence",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Replace",
    "Prepend",
    "Lowercase",
    "Strip",
    "StripAccents",
];
/// Kinds of split that are let through.
const SPLITS: [&str; 7] = [
    "Sequence",
    "Split",
    "ByteLevel",
    "Digits",
    "Whitespace",
    "Punctuation",
    "Metaspace",
];
/// Bytes of a pattern. The longest real ones have some 1 000.
const MAX_PATTERN_BYTES: usize = 16 * 1024;
/// Steps of a sequence of normalizers or splits, counted with those inside of them.
const MAX_STEPS: usize = 64;

/// What other files of the folder say about the tokens.
pub(crate) struct Companions<'c> {
    /// `tokenizer_config.json`.
    pub(crate) tokenizer_config: &'c Map<String, Value>,
    /// `generation_config.json`.
    pub(crate) generation_config: &'c Map<String, Value>,
    /// `config.json`.
    pub(crate) config: &'c Map<String, Value>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Model {
    /// Absent in old files, which are all of this kind if they have merges.
    #[serde(rename = "type", default = "bpe")]
    kind: String,
    #[serde(default)]
    vocab: Option<Words>,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

fn bpe() -> String {
    "BPE".to_owned()
}

/// The words of the model; a list in kinds of model that are refused by name.
enum Words {
    Numbers(HashMap<String, u32>),
    Other,
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Words;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their numbers")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Words, A::Error> {
                let mut words = HashMap::new();
                while let Some((word, id)) = map.next_entry::<String, u32>()? {
                    if words.insert(word, id).is_some() {
                        return Err(A::Error::custom("a token is in the vocabulary twice"));
                    }
                    if words.len() > MAX_VOCABULARY {
                        return Err(A::Error::custom("too many tokens"));
                    }
                }
                Ok(Words::Numbers(words))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Words::Other)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pair of tokens")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                let (left, right) = text
                    .split_once(' ')
                    .ok_or_else(|| E::custom("a merge has no space"))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut next = || {
                    seq.next_element()?
                        .ok_or_else(|| A::Error::custom("a merge needs two tokens"))
                };
                let pair = Merge(next()?, next()?);
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(pair),
                    Some(_) => Err(A::Error::custom("a merge has more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Vocabulary {
    /// Builds the tokenizer of a `tokenizer.json`.
    pub(crate) fn from_json(
        bytes: &[u8],
        companions: &Companions<'_>,
    ) -> Result<Self, EngineError> {
        let file: File = serde_json::from_slice(bytes).map_err(tokenizer)?;
        let model = file.model;
        if model.kind != "BPE" {
            return Err(unsupported("tokenizer", model.kind));
        }
        let words = match model.vocab {
            Some(Words::Numbers(words)) => words,
            _ => return Err(unsupported("tokenizer", "BPE without a vocabulary".into())),
        };
        let affix = model.continuing_subword_prefix.filter(|p| !p.is_empty());
        if let Some(affix) = affix.or(model.end_of_word_suffix.filter(|s| !s.is_empty())) {
            return Err(unsupported("mark of a word's parts", affix));
        }
        let byte_level = has_kind(file.decoder.as_ref(), "ByteLevel")
            || has_kind(file.pre_tokenizer.as_ref(), "ByteLevel");
        let normalizer = allowed(file.normalizer, "normalizer", &NORMALIZERS)?
            .map(|value| serde_json::from_value::<NormalizerWrapper>(value).map_err(tokenizer))
            .transpose()?;
        let split = allowed(file.pre_tokenizer, "pre-tokenizer", &SPLITS)?
            .map(|value| serde_json::from_value::<PreTokenizerWrapper>(value).map_err(tokenizer))
            .transpose()?;

        let by_text: BTreeMap<&str, u32> = file
            .added_tokens
            .iter()
            .map(|added| (added.content.as_str(), added.id))
            .collect();
        let number = |text: &str| by_text.get(text).or_else(|| words.get(text)).copied();
        let ends = ends(companions, &number);
        let (before, after) = around(file.post_processor.as_ref(), companions, &number);

        let size = words
            .values()
            .chain(file.added_tokens.iter().map(|added| &added.id))
            .max()
            .map_or(0, |&last| (last as usize).saturating_add(1));
        if size > MAX_VOCABULARY {
            return Err(GgufError::OverLimit {
                what: "tokens of the vocabulary",
                got: size as u64,
                limit: MAX_VOCABULARY as u64,
            }
            .into());
        }
        let mut pieces = Pieces(vec![Piece::Unused; size]);
        let mut markers = BTreeMap::new();
        let mut added = Vec::new();
        let mut vocabulary = Vocab::with_capacity(words.len());
        let mut of_its_own = BTreeSet::new();
        for token in file.added_tokens {
            let control =
                token.special || looks_like_control(&token.content) || ends.contains(&token.id);
            of_its_own.insert(token.content.clone());
            if token.content.is_empty() {
                continue;
            }
            if control {
                pieces.set(token.id, Piece::Control(token.content.as_str().into()))?;
                if markers.insert(token.content.clone(), token.id).is_some() {
                    return Err(GgufError::Duplicate(token.content).into());
                }
                continue;
            }
            pieces.set(token.id, Piece::Bytes(token.content.as_bytes().into()))?;
            // In the vocabulary under its own number, where the crate finds it instead of counting on.
            vocabulary.insert(token.content.clone(), token.id);
            added.push(
                AddedToken::from(token.content, false)
                    .normalized(token.normalized)
                    .single_word(token.single_word)
                    .lstrip(token.lstrip)
                    .rstrip(token.rstrip),
            );
        }
        let alphabet = ByteAlphabet::new();
        for (word, id) in words {
            if of_its_own.contains(&word) {
                continue;
            }
            let said: Box<[u8]> = if byte_level {
                alphabet.bytes(&word)
            } else if let Some(byte) = fallback_byte(&word).filter(|_| model.byte_fallback) {
                Box::new([byte])
            } else {
                word.replace(SPACE, " ").into_bytes().into()
            };
            pieces.set(id, Piece::Bytes(said))?;
            vocabulary.insert(word, id);
        }
        Parts {
            pieces: pieces.0,
            vocabulary,
            merges: model.merges.into_iter().map(|m| (m.0, m.1)).collect(),
            added,
            markers,
            options: BpeOptions {
                byte_fallback: model.byte_fallback,
                ignore_merges: model.ignore_merges,
                fuse_unknown: model.fuse_unk,
                unknown: model.unk_token,
            },
            normalizer,
            split,
            ends,
            // The template of a Hugging Face checkpoint writes it where it belongs.
            chat_bos: None,
            before,
            after,
        }
        .build()
    }
}

/// Pieces by number, each said once.
struct Pieces(Vec<Piece>);

impl Pieces {
    fn set(&mut self, id: u32, piece: Piece) -> Result<(), EngineError> {
        let slot = usize::try_from(id).ok().and_then(|at| self.0.get_mut(at));
        match slot {
            Some(slot @ Piece::Unused) => {
                *slot = piece;
                Ok(())
            }
            Some(_) => Err(GgufError::Duplicate(format!("token number {id}")).into()),
            None => Err(EngineError::UnknownToken {
                token: id,
                vocabulary: self.0.len(),
            }),
        }
    }
}

fn tokenizer(error: serde_json::Error) -> EngineError {
    EngineError::Tokenizer(Box::new(error))
}

fn unsupported(feature: &'static str, found: String) -> EngineError {
    EngineError::Unsupported { feature, found }
}

/// Passes a normalizer or split on whose steps are all of these kinds.
fn allowed(
    value: Option<Value>,
    feature: &'static str,
    kinds: &[&str],
) -> Result<Option<Value>, EngineError> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let mut seen = 0usize;
    let mut rest = vec![&value];
    while let Some(step) = rest.pop() {
        seen = seen.saturating_add(1);
        let kind = step.get("type").and_then(Value::as_str).unwrap_or_default();
        if !kinds.contains(&kind) || seen > MAX_STEPS {
            return Err(unsupported(feature, kind.to_owned()));
        }
        let pattern = step.get("pattern").and_then(|pattern| {
            let kind = pattern.get("Regex").or_else(|| pattern.get("String"));
            kind.and_then(Value::as_str)
        });
        if pattern.is_some_and(|pattern| pattern.len() > MAX_PATTERN_BYTES) {
            return Err(unsupported(feature, "a very long pattern".to_owned()));
        }
        for inner in ["normalizers", "pretokenizers"] {
            rest.extend(
                step.get(inner)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
        }
    }
    Ok(Some(value))
}

/// Whether a value, or a step in it, is of this kind.
fn has_kind(value: Option<&Value>, kind: &str) -> bool {
    let Some(value) = value else { return false };
    let inside = ["decoders", "pretokenizers", "normalizers"]
        .iter()
        .filter_map(|key| value.get(key)?.as_array())
        .flatten();
    value.get("type").and_then(Value::as_str) == Some(kind)
        || inside
            .into_iter()
            .any(|step| step.get("type").and_then(Value::as_str) == Some(kind))
}

/// `eos_token_id`, a number or a list of them, of `generation_config.json` or else of `config.json`, and
/// the tokenizer's own `eos_token`.
fn ends(companions: &Companions<'_>, number: &dyn Fn(&str) -> Option<u32>) -> BTreeSet<u32> {
    let listed = |config: &Map<String, Value>| -> Vec<u32> {
        let ids = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
            None => vec![],
        };
        ids.iter()
            .filter_map(|id| u32::try_from(id.as_u64()?).ok())
            .collect()
    };
    let mut ends: BTreeSet<u32> = listed(companions.generation_config).into_iter().collect();
    if ends.is_empty() {
        ends.extend(listed(companions.config));
    }
    let text = token_text(companions.tokenizer_config, "eos_token");
    ends.extend(text.and_then(number));
    ends
}

/// `"<eos>"` or `{"content": "<eos>"}`.
fn token_text<'c>(config: &'c Map<String, Value>, key: &str) -> Option<&'c str> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The tokens before and after a text that is no conversation. A template in the post-processor says so, or
/// `add_bos_token` where the tokenizer's class in Hugging Face's library heeds it.
fn around(
    post_processor: Option<&Value>,
    companions: &Companions<'_>,
    number: &dyn Fn(&str) -> Option<u32>,
) -> (Vec<u32>, Vec<u32>) {
    let steps = |value: &Value| -> Vec<Value> {
        match value.get("processors").and_then(Value::as_array) {
            Some(steps) => steps.clone(),
            None => vec![value.clone()],
        }
    };
    let template = post_processor
        .map(steps)
        .into_iter()
        .flatten()
        .find(|step| step.get("type").and_then(Value::as_str) == Some("TemplateProcessing"));
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if let Some(single) = template
        .as_ref()
        .and_then(|template| template.get("single")?.as_array())
    {
        let mut text_seen = false;
        for part in single {
            text_seen |= part.get("Sequence").is_some();
            let name = part.get("SpecialToken").and_then(|t| t.get("id")?.as_str());
            let side = if text_seen { &mut after } else { &mut before };
            side.extend(name.and_then(number));
        }
        return (before, after);
    }
    let config = companions.tokenizer_config;
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    let heeds = class.is_some_and(|class| class.starts_with("Llama") || class.starts_with("Gemma"));
    let wants = |key| config.get(key).and_then(Value::as_bool) == Some(true);
    if heeds && wants("add_bos_token") {
        before.extend(token_text(config, "bos_token").and_then(number));
    }
    if heeds && wants("add_eos_token") {
        after.extend(token_text(config, "eos_token").and_then(number));
    }
    (before, after)
}
