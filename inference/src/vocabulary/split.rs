//! How text is split into words before merging.
//!
//! A GGUF file names its split (`tokenizer.ggml.pre`); the patterns are those of the `tokenizer.json` of the
//! model that the name comes from. Each pattern's matches stand alone and so do the pieces between them.

use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::alphabet::SPACE;
use crate::error::EngineError;

/// Llama 3: contractions, words with one character before them, up to three digits, signs, white space.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: the same with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek LLM and V2, one after the other; digits come last.
const DEEPSEEK: [&str; 5] = [
    "[\r\n]",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    "[一-龥ࠀ-一가-퟿]+",
];
/// DeepSeek V3, one after the other.
const DEEPSEEK3: [&str; 3] = [
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

/// What a name in `tokenizer.ggml.pre` stands for.
pub(super) struct Named {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) split: PreTokenizerWrapper,
    /// Words that are tokens as a whole are not merged.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with the token for it when the file does not say.
    pub(super) begins: bool,
}

/// The split of this name.
pub(super) fn named(name: &str) -> Result<Named, EngineError> {
    // The byte alphabet alone, without GPT-2's own split into words.
    let bytes = || PreTokenizerWrapper::from(ByteLevel::new(false, true, false));
    let words = || PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
    let after = |patterns: &[&str], rest: Vec<PreTokenizerWrapper>| {
        let mut parts = patterns
            .iter()
            .map(|pattern| isolated(pattern))
            .collect::<Result<Vec<_>, _>>()?;
        parts.extend(rest);
        Ok::<_, EngineError>(PreTokenizerWrapper::Sequence(Sequence::new(parts)))
    };
    let plain = |split| Named {
        normalizer: None,
        split,
        ignore_merges: false,
        begins: false,
    };
    Ok(match name {
        "gpt-2" => plain(words()),
        "smollm" => plain(after(&[], vec![Digits::new(true).into(), words()])?),
        "llama-bpe" => Named {
            ignore_merges: true,
            begins: true,
            ..plain(after(&[LLAMA3], vec![bytes()])?)
        },
        // DeepSeek's distillate has Qwen's split, but does not compose letters and accents before it.
        "deepseek-r1-qwen" => plain(after(&[QWEN2], vec![bytes()])?),
        "qwen2" => Named {
            normalizer: Some(NormalizerWrapper::NFC(NFC)),
            ..plain(after(&[QWEN2], vec![bytes()])?)
        },
        "deepseek-llm" => plain(after(&DEEPSEEK, vec![Digits::new(true).into(), bytes()])?),
        "deepseek-v3" => plain(after(&DEEPSEEK3, vec![bytes()])?),
        other => {
            return Err(EngineError::Unsupported {
                feature: "pre-tokenizer",
                found: other.to_owned(),
            });
        }
    })
}

fn isolated(pattern: &str) -> Result<PreTokenizerWrapper, EngineError> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(PreTokenizerWrapper::Split)
        .map_err(EngineError::Tokenizer)
}

/// SentencePiece's: a visible character for every space, and one before the text where `prefix` says so.
pub(super) fn sentence_piece(prefix: bool) -> Result<NormalizerWrapper, EngineError> {
    let replace = Replace::new(" ", SPACE.to_string()).map_err(EngineError::Tokenizer)?;
    let replace = NormalizerWrapper::Replace(replace);
    if !prefix {
        return Ok(replace);
    }
    let prepend = NormalizerWrapper::Prepend(Prepend::new(SPACE.to_string()));
    Ok(NormalizerWrapper::Sequence(Normalizers::new(vec![
        prepend, replace,
    ])))
}
