//! The model file's own tokenizer and template, which an upstream server's are checked against.

use std::path::Path;

use cocoon_protocol::Digest;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::engine::Message;
use crate::error::EngineError;

/// From messages and text to tokens. Sent to the server as numbers, so that it is our template that is
/// rendered and no word of a person's can become one of its control tokens.
pub trait Tokens: Send + Sync {
    /// A conversation as the model reads it, ending where its answer begins.
    ///
    /// # Errors
    /// [`EngineError::EmptyMessages`], [`EngineError::Template`], [`EngineError::Tokenizer`].
    fn prepare(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError>;

    /// Text as letters: what looks like a control token stays letters.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`].
    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// The same, with what the tokenizer puts before and after a text that is read for itself.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`].
    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.encode(text)
    }

    /// What a token says; `None` for one that says nothing and for a number that is none.
    fn bytes(&self, token: u32) -> Option<&[u8]>;

    /// Size of the vocabulary.
    fn vocabulary(&self) -> usize;
}

/// What an upstream engine needs to know of the model file that the operator names.
pub struct LocalModel {
    /// What evidence calls the model: [`Checkpoint::digest`].
    pub digest: Digest,
    /// Tokens of prompt and answer together that the model was made for.
    pub context_tokens: u32,
    /// Numbers in an embedding.
    pub embedding_width: u32,
    /// Bytes of its weights.
    pub bytes: u64,
    /// What receipts call its tokenizer: [`crate::Tokenizer::digest`].
    pub tokenizer: Digest,
    /// Its tokenizer and template.
    pub tokens: Box<dyn Tokens>,
}

impl LocalModel {
    /// Opens a GGUF file or a Hugging Face folder, whose digest takes reading all of it.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] and its neighbours; the files may be a stranger's.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, EngineError> {
        let checkpoint = Checkpoint::open(path, progress)?;
        let number = |key: &'static str| {
            let number = checkpoint.config().get(key).and_then(Value::as_u64);
            number
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .ok_or_else(|| EngineError::Unsupported {
                    feature: key,
                    found: "not a positive number".to_owned(),
                })
        };
        let tokens = checkpoint.tokenizer()?;
        Ok(Self {
            digest: checkpoint.digest(),
            context_tokens: number("max_position_embeddings")?,
            embedding_width: number("hidden_size")?,
            bytes: checkpoint.tensor_bytes(),
            tokenizer: tokens.digest(),
            tokens: Box::new(tokens),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tokenizer for tests: words are tokens, and a word's number is its length.
    pub(in crate::upstream) struct Words;

    impl Tokens for Words {
        fn prepare(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError> {
            messages.iter().map(|m| self.encode(&m.content)).try_fold(
                Vec::new(),
                |mut all, tokens| {
                    all.extend(tokens?);
                    Ok(all)
                },
            )
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
            Ok(text
                .split_whitespace()
                .map(|word| u32::try_from(word.len()).unwrap_or(u32::MAX))
                .collect())
        }

        fn bytes(&self, _: u32) -> Option<&[u8]> {
            Some(b"w")
        }

        fn vocabulary(&self) -> usize {
            1000
        }
    }
}
