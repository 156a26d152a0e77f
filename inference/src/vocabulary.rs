//! Text to tokens and tokens to bytes, from the model file's own vocabulary.
//!
//! Byte-level BPE as in GPT-2, with the `smollm` pre-tokenizer: every digit stands alone, then GPT-2's
//! split into words. Checked against an independent implementation in `tests/greedy.rs`.
//!
//! Control tokens are never found in plain text here: the BPE has no rule that makes one, which
//! [`Vocabulary::from_header`] checks, and only [`Vocabulary::encode`] puts them in, where the template
//! wrote them.

use std::collections::BTreeMap;
use std::ops::Bound;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use crate::error::EngineError;
use crate::gguf::{GgufError, Header};
use crate::template::Shielded;

/// Tokens in one vocabulary. Real ones have up to some 260 000.
pub(crate) const MAX_VOCABULARY: usize = 1 << 20;
/// Control tokens in one vocabulary. Real ones have up to some 1 000.
const MAX_MARKERS: usize = 8_192;

/// `tokenizer.ggml.token_type`, after llama.cpp's `llama_token_type`.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What a generated token says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// These bytes, which need not be whole characters.
    Bytes(Box<[u8]>),
    /// Nothing: the model's turn is over.
    EndOfTurn,
}

/// A model's vocabulary.
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    pieces: Vec<Piece>,
    /// Tokens that a template may write, by text.
    markers: BTreeMap<String, u32>,
    /// Put before every prompt that does not begin with it.
    bos: Option<u32>,
}

impl Vocabulary {
    /// Builds the tokenizer from a file's metadata.
    pub(crate) fn from_header(header: &Header) -> Result<Self, EngineError> {
        let supported = |feature, key: &str, wanted| match header.text(key)? {
            found if found == wanted => Ok(()),
            found => Err(EngineError::Unsupported {
                feature,
                found: found.to_owned(),
            }),
        };
        supported("tokenizer", "tokenizer.ggml.model", "gpt2")?;
        supported("pre-tokenizer", "tokenizer.ggml.pre", "smollm")?;
        let tokens = header.texts("tokenizer.ggml.tokens")?;
        let types = header.integers("tokenizer.ggml.token_type")?;
        if tokens.len() != types.len() || tokens.is_empty() {
            return Err(EngineError::Inconsistent {
                what: "numbers of tokens and token types",
                left: tokens.len(),
                right: types.len(),
            });
        }
        let over = |what, got: usize, limit: usize| GgufError::OverLimit {
            what,
            got: got as u64,
            limit: limit as u64,
        };
        if tokens.len() > MAX_VOCABULARY {
            return Err(over("tokens of the vocabulary", tokens.len(), MAX_VOCABULARY).into());
        }

        let mut vocabulary = Vocab::default();
        let mut markers = BTreeMap::new();
        let mut pieces = Vec::with_capacity(tokens.len());
        let bytes_of = byte_alphabet();
        for ((id, text), kind) in (0u32..).zip(tokens).zip(types) {
            if vocabulary.insert(text.clone(), id).is_some() {
                return Err(GgufError::Duplicate(text.clone()).into());
            }
            if matches!(*kind, CONTROL | USER_DEFINED) && !text.is_empty() {
                markers.insert(text.clone(), id);
            }
            pieces.push(match *kind {
                NORMAL => Piece::Bytes(piece_bytes(text, &bytes_of)),
                USER_DEFINED => Piece::Bytes(text.as_bytes().into()),
                _ => Piece::EndOfTurn,
            });
        }
        if markers.len() > MAX_MARKERS {
            return Err(over("control tokens", markers.len(), MAX_MARKERS).into());
        }

        let merges = header
            .texts("tokenizer.ggml.merges")?
            .iter()
            .map(|merge| {
                let (left, right) = merge.split_once(' ')?;
                // A merge that spelled a control token would let plain text become one.
                let harmless = !markers.contains_key(&format!("{left}{right}"));
                harmless.then(|| (left.to_owned(), right.to_owned()))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| GgufError::WrongValue {
                key: "tokenizer.ggml.merges".to_owned(),
                wanted: "pairs of ordinary tokens",
            })?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(EngineError::Tokenizer)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let split = Sequence::new(vec![
            Digits::new(true).into(),
            // No space is put before the text; words are split as GPT-2 does.
            ByteLevel::new(false, true, true).into(),
        ]);
        tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(split)));

        let size = pieces.len();
        let known = |token: u32| match usize::try_from(token) {
            Ok(at) if at < size => Ok(token),
            _ => Err(EngineError::UnknownToken {
                token,
                vocabulary: size,
            }),
        };
        let bos = header
            .token("tokenizer.ggml.bos_token_id")?
            .map(known)
            .transpose()?;
        let wants_bos = header.flag("tokenizer.ggml.add_bos_token")?;
        let bos = bos.filter(|_| wants_bos);
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            let end = header
                .token(key)?
                .map(known)
                .transpose()?
                .and_then(|end| usize::try_from(end).ok());
            if let Some(piece) = end.and_then(|at| pieces.get_mut(at)) {
                *piece = Piece::EndOfTurn;
            }
        }
        Ok(Self {
            tokenizer,
            pieces,
            markers,
            bos,
        })
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The texts of the control tokens.
    pub(crate) fn markers(&self) -> impl Iterator<Item = &str> + Clone {
        self.markers.keys().map(String::as_str)
    }

    /// Tokenises what the template rendered: control tokens where it wrote them, plain text elsewhere.
    pub(crate) fn encode(&self, rendered: &Shielded) -> Result<Vec<u32>, EngineError> {
        let mut tokens = Vec::new();
        let mut plain = String::new();
        let mut rest = rendered.text.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some((marker, id)) = self.marker_at(rest) {
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
        if let Some(bos) = self.bos.filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The longest control token that the text begins with.
    fn marker_at(&self, text: &str) -> Option<(&str, u32)> {
        // All prefixes of `text` that are keys lie between its first character and itself in the map's
        // order; the longest is the greatest. Most characters begin no marker, and the range is empty.
        let first = text.get(..text.chars().next()?.len_utf8())?;
        self.markers
            .range::<str, _>((Bound::Included(first), Bound::Included(text)))
            .rev()
            .find(|(marker, _)| text.starts_with(marker.as_str()))
            .map(|(marker, id)| (marker.as_str(), *id))
    }

    /// Tokenises letters. What looks like a control token stays letters.
    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), EngineError> {
        if !text.is_empty() {
            let encoding = self
                .tokenizer
                .encode_fast(text, false)
                .map_err(EngineError::Tokenizer)?;
            tokens.extend_from_slice(encoding.get_ids());
        }
        Ok(())
    }

    /// The bytes a generated token stands for; `None` when it ends the model's turn.
    pub(crate) fn bytes(&self, token: u32) -> Option<&[u8]> {
        match self.pieces.get(usize::try_from(token).ok()?)? {
            Piece::Bytes(bytes) => Some(bytes),
            Piece::EndOfTurn => None,
        }
    }
}

/// GPT-2's byte alphabet, backwards: visible Latin-1 characters stand for themselves, the 68 other bytes
/// for the characters from U+0100 on, in order.
fn byte_alphabet() -> BTreeMap<char, u8> {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=255u8)
        .filter(|&b| visible(b))
        .map(|b| (char::from(b), b));
    let others = ('\u{100}'..).zip((0..=255u8).filter(|&b| !visible(b)));
    themselves.chain(others).collect()
}

/// A token's bytes. A token with a character outside the alphabet stands for its own text.
fn piece_bytes(text: &str, alphabet: &BTreeMap<char, u8>) -> Box<[u8]> {
    text.chars()
        .map(|c| alphabet.get(&c).copied())
        .collect::<Option<Box<[u8]>>>()
        .unwrap_or_else(|| text.as_bytes().into())
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
    use crate::gguf::Value;
    use proptest::prelude::*;

    /// 256 bytes, "he", "ll", "hell", then the markers.
    fn header(markers: &[&str], extra_merges: &[&str]) -> Header {
        let mut tokens: Vec<(u8, String)> = byte_alphabet()
            .into_iter()
            .map(|(c, b)| (b, c.to_string()))
            .collect();
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
            .insert("tokenizer.ggml.pre".into(), Value::Text("qwen2".into()));
        assert!(matches!(
            Vocabulary::from_header(&header),
            Err(EngineError::Unsupported { feature: "pre-tokenizer", found }) if found == "qwen2"
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
