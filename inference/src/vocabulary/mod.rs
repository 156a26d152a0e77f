//! Text to tokens and tokens to bytes, from the model's own vocabulary.
//!
//! The merging is done by the crate `tokenizers`, which is also the reference. It is given three kinds of
//! token in three ways:
//!
//! - *Ordinary* tokens are its vocabulary: text becomes these by splitting and merging.
//! - *Added* tokens (`<think>`, `<tool_call>`, a run of line feeds) are found in any text, as everywhere.
//! - *Control* tokens (`<|im_end|>`) it does not know at all. Nothing that a person writes can become one:
//!   they are not in its vocabulary, and only [`Vocabulary::encode`] puts them in, where the template wrote
//!   them.
//!
//! Control tokens are those that the file marks as such, those that end a turn, and those that look like it
//! ([`looks_like_control`]), because converters have forgotten to mark them.
//!
//! The crate's cache of words is off: what one person wrote would stay in memory, and be faster for the next.

mod alphabet;
mod header;
mod json;
mod markers;
mod merges;
#[cfg(test)]
mod reference;
mod split;

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::error::EngineError;
use crate::gguf::GgufError;
use crate::template::Shielded;

pub(crate) use json::Companions;
pub(crate) use markers::Markers;

/// Tokens in one vocabulary. Real ones have up to some 260 000.
pub(crate) const MAX_VOCABULARY: usize = 1 << 20;
/// Control tokens in one vocabulary. Gemma 3 has some 6 250, nearly all of them reserved.
const MAX_MARKERS: usize = 16_384;
/// Merges of one vocabulary. Gemma 3 has some 515 000.
const MAX_MERGES: usize = 1 << 22;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// These bytes, which need not be whole characters.
    Bytes(Box<[u8]>),
    /// A control token, which is no text. Its name.
    Control(Box<str>),
    /// A number without a meaning: vocabularies are padded to round sizes.
    Unused,
}

/// A model's vocabulary.
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    pieces: Vec<Piece>,
    markers: Markers,
    /// Tokens that end the model's turn, in order.
    ends: Vec<u32>,
    /// Put before every conversation that does not begin with it.
    chat_bos: Option<u32>,
    /// Put before and after a text that is no conversation.
    before: Vec<u32>,
    after: Vec<u32>,
}

/// What a vocabulary is made of, whatever file it comes from.
struct Parts {
    /// By number; control tokens and gaps are not ordinary.
    pieces: Vec<Piece>,
    /// Ordinary and added tokens as the merging knows them.
    vocabulary: Vocab,
    merges: Merges,
    added: Vec<AddedToken>,
    markers: BTreeMap<String, u32>,
    options: BpeOptions,
    normalizer: Option<NormalizerWrapper>,
    split: Option<PreTokenizerWrapper>,
    ends: BTreeSet<u32>,
    chat_bos: Option<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
}

/// How the merging treats what it does not know.
#[derive(Default)]
struct BpeOptions {
    /// A character without a token becomes its bytes' tokens.
    byte_fallback: bool,
    /// A word that is a token as a whole is not merged.
    ignore_merges: bool,
    fuse_unknown: bool,
    unknown: Option<String>,
}

impl Parts {
    fn build(self) -> Result<Vocabulary, EngineError> {
        let size = self.pieces.len();
        let over = |what, got: usize, limit: usize| GgufError::OverLimit {
            what,
            got: got as u64,
            limit: limit as u64,
        };
        if self.markers.len() > MAX_MARKERS {
            return Err(over("control tokens", self.markers.len(), MAX_MARKERS).into());
        }
        if self.merges.len() > MAX_MERGES {
            return Err(over("merges", self.merges.len(), MAX_MERGES).into());
        }
        if let Some((text, _)) = self.markers.iter().find(|(text, _)| {
            // Then plain text could look like the control token and be an ordinary one.
            self.vocabulary.contains_key(text.as_str())
        }) {
            return Err(GgufError::Duplicate(text.clone()).into());
        }
        let known = |token: &u32| {
            let found = usize::try_from(*token).is_ok_and(|at| at < size);
            (!found).then_some(EngineError::UnknownToken {
                token: *token,
                vocabulary: size,
            })
        };
        let used = self.ends.iter().chain(&self.before).chain(&self.after);
        if let Some(error) = used.chain(&self.chat_bos).find_map(known) {
            return Err(error);
        }
        let mut bpe = BPE::builder()
            .byte_fallback(self.options.byte_fallback)
            .ignore_merges(self.options.ignore_merges)
            .fuse_unk(self.options.fuse_unknown)
            .cache_capacity(0);
        if let Some(unknown) = self
            .options
            .unknown
            .filter(|unknown| self.vocabulary.contains_key(unknown))
        {
            bpe = bpe.unk_token(unknown);
        }
        let bpe = bpe
            .vocab_and_merges(self.vocabulary, self.merges)
            .build()
            .map_err(EngineError::Tokenizer)?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_normalizer(self.normalizer);
        tokenizer.with_pre_tokenizer(self.split);
        // After the normalizer, through which those go that ask for it.
        tokenizer.add_tokens(&self.added);
        Ok(Vocabulary {
            tokenizer,
            pieces: self.pieces,
            markers: Markers::new(self.markers),
            ends: self.ends.into_iter().collect(),
            chat_bos: self.chat_bos,
            before: self.before,
            after: self.after,
        })
    }
}

impl Vocabulary {
    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The same vocabulary with as many tokens as the model has outputs; the new ones say nothing.
    pub(crate) fn padded(mut self, size: usize) -> Result<Self, EngineError> {
        if size > MAX_VOCABULARY {
            return Err(GgufError::OverLimit {
                what: "tokens of the vocabulary",
                got: size as u64,
                limit: MAX_VOCABULARY as u64,
            }
            .into());
        }
        if size > self.pieces.len() {
            self.pieces.resize(size, Piece::Unused);
        }
        Ok(self)
    }

    /// The control tokens.
    pub(crate) fn markers(&self) -> &Markers {
        &self.markers
    }

    /// The tokens that end the model's turn, in order.
    pub(crate) fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// Whether this token ends the model's turn.
    pub(crate) fn ends_turn(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// Tokenises what the template rendered: control tokens where it wrote them, plain text elsewhere.
    pub(crate) fn encode(&self, rendered: &Shielded) -> Result<Vec<u32>, EngineError> {
        let mut tokens = Vec::new();
        let mut plain = String::new();
        let mut rest = rendered.text.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some((marker, id)) = self.markers.at_start(rest) {
                self.encode_plain(&plain, &mut tokens)?;
                plain.clear();
                tokens.push(id);
                rest = rest.get(marker.len()..).unwrap_or_default();
                continue;
            }
            if c != rendered.shield {
                plain.push(c);
            }
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
        self.encode_plain(&plain, &mut tokens)?;
        if let Some(bos) = self.chat_bos.filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Tokenises a text that is no conversation, with what the tokenizer puts before and after one. What
    /// looks like a control token stays letters.
    pub(crate) fn encode_text(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut tokens = self.before.clone();
        self.encode_plain(text, &mut tokens)?;
        tokens.extend_from_slice(&self.after);
        Ok(tokens)
    }

    /// Tokenises letters. What looks like a control token stays letters.
    pub(crate) fn encode_plain(
        &self,
        text: &str,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        if !text.is_empty() {
            let encoding = self
                .tokenizer
                .encode_fast(text, false)
                .map_err(EngineError::Tokenizer)?;
            tokens.extend_from_slice(encoding.get_ids());
        }
        Ok(())
    }

    /// The bytes a token stands for in text; `None` for control tokens and numbers without a meaning.
    pub(crate) fn bytes(&self, token: u32) -> Option<&[u8]> {
        match self.pieces.get(usize::try_from(token).ok()?)? {
            Piece::Bytes(bytes) => Some(bytes),
            Piece::Control(_) | Piece::Unused => None,
        }
    }

    /// Whether this is a control token.
    #[cfg(test)]
    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.name(token).is_some()
    }

    /// The name of a control token: `<|im_end|>`.
    #[cfg(test)]
    pub(crate) fn name(&self, token: u32) -> Option<&str> {
        match self.pieces.get(usize::try_from(token).ok()?)? {
            Piece::Control(name) => Some(name),
            Piece::Bytes(_) | Piece::Unused => None,
        }
    }
}

/// Whether an added token that is not marked as a control token is one all the same, going by its text.
/// llama.cpp's converter has a like rule (`does_token_look_special`): DeepSeek's `<｜User｜>` is not marked.
fn looks_like_control(text: &str) -> bool {
    let between = |start, end| text.starts_with(start) && text.ends_with(end);
    between("<|", "|>")
        || between("<｜", "｜>")
        || between("<start_of_", ">")
        || between("<end_of_", ">")
        || between("<unused", ">")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use crate::gguf::{Header, Value};
    use proptest::prelude::*;

    /// 256 bytes, "he", "ll", "hell", then the markers.
    fn header(markers: &[&str], extra_merges: &[&str]) -> Header {
        let mut tokens: Vec<(u8, String)> =
            alphabet::pairs().map(|(c, b)| (b, c.to_string())).collect();
        tokens.sort();
        let mut tokens: Vec<String> = tokens.into_iter().map(|(_, t)| t).collect();
        tokens.extend(["he", "ll", "hell"].map(String::from));
        let mut types = vec![1; tokens.len()];
        tokens.extend(markers.iter().map(|m| m.to_string()));
        types.resize(tokens.len(), 3);
        let merges = ["h e", "l l", "he ll"]
            .iter()
            .chain(extra_merges)
            .map(|m| m.to_string())
            .collect();
        let metadata = [
            ("tokenizer.ggml.model", Value::Text("gpt2".into())),
            ("tokenizer.ggml.pre", Value::Text("smollm".into())),
            ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ("tokenizer.ggml.token_type", Value::Integers(types)),
            ("tokenizer.ggml.merges", Value::Texts(merges)),
        ];
        Header {
            metadata: metadata
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
            tensors: BTreeMap::new(),
        }
    }

    fn vocabulary() -> Vocabulary {
        Vocabulary::from_header(&header(&["<|end|>", "<|end|>>", "<s>"], &[])).unwrap()
    }

    fn encode(v: &Vocabulary, text: &str) -> Vec<u32> {
        v.encode(&Shielded {
            text: text.to_owned(),
            shield: '\u{f0000}',
        })
        .unwrap()
    }

    #[test]
    fn merges_and_markers_become_tokens() {
        let v = vocabulary();
        assert_eq!(
            encode(&v, "<s>hello<|end|>"),
            [261, 258, u32::from(b'o'), 259]
        );
    }

    #[test]
    fn the_longest_marker_wins() {
        assert_eq!(encode(&vocabulary(), "<|end|>><|end|>"), [260, 259]);
    }

    #[test]
    fn a_shielded_marker_stays_letters() {
        let v = vocabulary();
        let tokens = encode(&v, "<\u{f0000}|end|>");
        assert_eq!(tokens, b"<|end|>".map(u32::from));
    }

    #[test]
    fn control_tokens_say_nothing() {
        let v = vocabulary();
        assert_eq!(v.bytes(258), Some(&b"hell"[..]));
        assert_eq!(v.bytes(259), None);
        assert_eq!(v.bytes(9999), None);
    }

    #[test]
    fn a_merge_that_spells_a_marker_is_refused() {
        let mut header = header(&["lo"], &["l o"]);
        assert!(matches!(
            Vocabulary::from_header(&header),
            Err(EngineError::File(GgufError::WrongValue { .. }))
        ));
        header.metadata.insert(
            "tokenizer.ggml.merges".into(),
            Value::Texts(vec!["nospace".into()]),
        );
        assert!(Vocabulary::from_header(&header).is_err());
        header.metadata.insert(
            "tokenizer.ggml.merges".into(),
            Value::Texts(vec!["zz yy".into()]),
        );
        assert!(matches!(
            Vocabulary::from_header(&header),
            Err(EngineError::Tokenizer(_))
        ));
    }

    #[test]
    fn another_tokenizer_is_refused_by_name() {
        let mut header = header(&[], &[]);
        header
            .metadata
            .insert("tokenizer.ggml.pre".into(), Value::Text("falcon".into()));
        assert!(matches!(
            Vocabulary::from_header(&header),
            Err(EngineError::Unsupported { feature: "pre-tokenizer", found }) if found == "falcon"
        ));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "\\PC{0,60}") {
            let v = vocabulary();
            let shielded = text.replace("<", "<\u{f0000}");
            let tokens = encode(&v, &shielded);
            prop_assert!(tokens.len() <= text.len());
            let bytes: Vec<u8> = tokens.iter().flat_map(|t| v.bytes(*t).unwrap().to_vec()).collect();
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text.replace('\u{f0000}', ""));
        }
    }
}
