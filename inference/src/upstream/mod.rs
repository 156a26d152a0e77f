//! An engine that is another server on this machine, spoken to in OpenAI's protocol: vLLM, SGLang,
//! llama.cpp's server.
//!
//! ```text
//! messages ─ our template, our tokenizer ─► token numbers ─ POST /v1/completions ─► server
//! text ◄─ whole characters, stop strings ─ our count of its tokens ◄─ events ─────────┘
//! ```
//!
//! The model file that the operator names stays the judge: its template renders the conversation, its
//! tokenizer makes the numbers that are sent and counts the answer ([`count`]). At the start the server must
//! serve the model by the configured name and, where it can be asked, tokenise as the file does.
//!
//! **What this does not prove.** The digest in a worker's evidence is the digest of that file, which this
//! process has read. That the server computes with the same weights cannot be seen through HTTP: it could
//! hold other ones with the same tokenizer, rounded ones, or none. Only the measurement of the guest's image
//! says what server runs in it and what it loads.
//!
//! Conversations cross the loopback as plain text, so the server must be in the same guest, and
//! [`LoopbackUrl`] can hold no other address.

mod address;
mod count;
mod error;
mod events;
mod flavour;
mod generation;
mod link;
mod reply;
mod tokens;

use std::sync::Arc;

use serde_json::json;

pub use address::LoopbackUrl;
pub use error::UpstreamError;
pub use flavour::Flavour;
pub use link::Patience;
pub use tokens::{LocalModel, Tokens};

use crate::engine::{Engine, Generation, Message, ModelInfo, Pooling, Prompt, Request};
use crate::error::EngineError;
use generation::UpstreamGeneration;
use link::Link;
use reply::{Embeddings, Models, Tokenized};

/// Bytes of the list of models.
const MAX_MODELS_BYTES: u64 = 1 << 20;
/// Bytes of the tokens of [`PROBE`].
const MAX_TOKENIZED_BYTES: u64 = 64 << 10;
/// Bytes in JSON that one number of an embedding may take, and one embedding beside its numbers.
const NUMBER_BYTES: u64 = 32;
const EMBEDDING_BYTES: u64 = 1 << 10;
/// Tokens that a server may add to a text that is embedded: begin and end.
const EMBEDDING_SLACK: u32 = 2;
/// Text on which tokenizers of different families differ: words, digits, spaces, scripts, signs.
const PROBE: &str = "  Ærøskøbing 2024, naïve don't\n\tfn main() { x += 1007; } 你好，世界 👩‍👩‍👧 Привет supercalifragilistic";

/// How an operator turns this on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Where the server is.
    pub url: LoopbackUrl,
    /// The name it serves the model under.
    pub model: String,
    /// Its API key, if it wants one.
    pub key: Option<String>,
    /// How long it may be silent.
    pub patience: Patience,
}

/// A model that a server on this machine computes.
pub struct UpstreamEngine {
    shared: Arc<Shared>,
    info: ModelInfo,
    model: String,
    flavour: Flavour,
}

struct Shared {
    link: Link,
    tokens: Box<dyn Tokens>,
}

impl UpstreamEngine {
    /// Asks the server what it serves and compares it with the file.
    ///
    /// # Errors
    /// [`EngineError::Upstream`]: nobody there, the model not served, another tokenizer.
    pub fn connect(config: UpstreamConfig, local: LocalModel) -> Result<Self, EngineError> {
        let UpstreamConfig {
            url,
            model,
            key,
            patience,
        } = config;
        let runs_on = url.root().to_owned();
        let link = Link::new(url, key, patience);
        let served: Models = link.get("models", MAX_MODELS_BYTES)?;
        let card = served
            .data
            .iter()
            .find(|card| card.id == model || card.aliases.contains(&model));
        let Some(card) = card else {
            return Err(UpstreamError::WrongModel {
                address: link.address(),
                wanted: model,
                served: served.data.into_iter().map(|card| card.id).collect(),
            }
            .into());
        };
        let flavour = Flavour::of(&card.owned_by);
        let context_tokens = card.context().map_or(local.context_tokens, |theirs| {
            theirs.min(local.context_tokens)
        });
        let shared = Shared {
            link,
            tokens: local.tokens,
        };
        shared.compare_tokenizers(&model)?;
        let info = ModelInfo {
            id: model.clone(),
            digest: local.digest,
            context_tokens,
            weights_bytes: local.bytes,
            // The server's memory is its own affair; it queues what does not fit.
            cache_bytes_per_token: 0,
            bytes_per_token: 0,
            weights_per_token: 0,
            cache_tokens: context_tokens.into(),
            embedding_width: local.embedding_width,
            tokenizer: Some(local.tokenizer),
            runs_on,
        };
        tracing::info!(
            id = info.id,
            server = info.runs_on,
            ?flavour,
            context_tokens,
            "upstream server found"
        );
        Ok(Self {
            shared: Arc::new(shared),
            info,
            model,
            flavour,
        })
    }

    /// The same model under another name.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.info.id = id.into();
        self
    }

    /// Which server it is.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// A prompt must leave room for one token.
    fn check_length(&self, prompt: usize) -> Result<(), EngineError> {
        let limit = self.info.context_tokens as usize;
        if prompt >= limit {
            Err(EngineError::ContextTooLong { prompt, limit })
        } else {
            Ok(())
        }
    }
}

impl Shared {
    /// vLLM and llama.cpp's server tokenise on request, each with its own names for the text.
    fn compare_tokenizers(&self, model: &str) -> Result<(), EngineError> {
        let question = json!({
            "model": model,
            "prompt": PROBE,
            "add_special_tokens": false,
            "content": PROBE,
            "add_special": false,
        });
        let theirs: Option<Tokenized> =
            self.link
                .post_beside("tokenize", &question, MAX_TOKENIZED_BYTES)?;
        match theirs {
            None => tracing::info!(
                "the upstream server does not tokenise on request; counts are compared all the same"
            ),
            Some(theirs) if theirs.tokens == self.tokens.encode(PROBE)? => {}
            Some(_) => {
                return Err(UpstreamError::OtherVocabulary {
                    address: self.link.address(),
                }
                .into());
            }
        }
        Ok(())
    }
}

impl Engine for UpstreamEngine {
    fn describe(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        let tokens = self.shared.tokens.prepare(messages)?;
        self.check_length(tokens.len())?;
        Ok(Prompt { tokens })
    }

    /// The request's scope has no counterpart in the protocol: whether the server shares cached beginnings
    /// between clients is its own setting.
    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        let Request { prompt, params, .. } = request;
        params.check()?;
        let length = prompt.tokens.len();
        self.check_length(length)?;
        let vocabulary = self.shared.tokens.vocabulary();
        if let Some(&token) = prompt.tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        if prompt.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let prompt_tokens = u32::try_from(length).unwrap_or(u32::MAX);
        let room = self.info.context_tokens.saturating_sub(prompt_tokens);
        let max_tokens = params.max_tokens.min(room);
        let body = flavour::body(
            self.flavour,
            &self.model,
            &prompt.tokens,
            &params,
            max_tokens,
        )?;
        Ok(Box::new(UpstreamGeneration::new(
            Arc::clone(&self.shared),
            body,
            prompt_tokens,
            max_tokens,
            params.logprobs,
            params.stop,
        )))
    }

    /// How the outputs are pooled is the server's setting; `pooling` is not sent, since the protocol has no
    /// word for it.
    fn embed(
        &self,
        texts: &[String],
        _pooling: Pooling,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        let link = &self.shared.link;
        let mut inputs = Vec::with_capacity(texts.len());
        for text in texts {
            let tokens = self.shared.tokens.encode_whole(text)?;
            if tokens.is_empty() {
                return Err(EngineError::EmptyPrompt);
            }
            self.check_length(tokens.len())?;
            inputs.push(tokens);
        }
        let ours = inputs.iter().map(Vec::len).fold(0, usize::saturating_add);
        let ours = u32::try_from(ours).unwrap_or(u32::MAX);
        let width = self.info.embedding_width as usize;
        let count = texts.len() as u64;
        let limit = (width as u64)
            .saturating_mul(NUMBER_BYTES)
            .saturating_add(EMBEDDING_BYTES)
            .saturating_mul(count.saturating_add(1));
        let question = json!({"model": self.model, "input": inputs, "encoding_format": "float"});
        let Embeddings { mut data, usage } = link.post("embeddings", &question, limit)?;
        data.sort_by_key(|embedding| embedding.index);
        let in_order = data.iter().enumerate().all(|(at, e)| e.index == at);
        if data.len() != texts.len() || !in_order {
            return Err(link
                .garbled("another number of embeddings than texts")
                .into());
        }
        let embeddings = data
            .into_iter()
            .map(|e| unit(e.embedding, width))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| link.garbled("an embedding that is none of this model"))?;
        let Some(usage) = usage else {
            return Ok((embeddings, ours));
        };
        let added = u32::try_from(texts.len())
            .unwrap_or(u32::MAX)
            .saturating_mul(EMBEDDING_SLACK);
        if !(ours..=ours.saturating_add(added)).contains(&usage.prompt_tokens) {
            return Err(UpstreamError::Miscounted {
                address: link.address(),
                what: "the texts",
                theirs: usage.prompt_tokens,
                ours,
            }
            .into());
        }
        Ok((embeddings, ours))
    }
}

/// The embedding at length 1; `None` if it is of another width, zero, or no numbers.
fn unit(mut embedding: Vec<f32>, width: usize) -> Option<Vec<f32>> {
    let square: f64 = embedding
        .iter()
        .map(|x| f64::from(*x) * f64::from(*x))
        .sum();
    let length = square.sqrt();
    if embedding.len() != width || !length.is_finite() || length <= 0.0 {
        return None;
    }
    for x in &mut embedding {
        *x = (f64::from(*x) / length) as f32;
    }
    Some(embedding)
}

#[cfg(test)]
mod unit_tests {
    use super::unit;

    #[test]
    fn embeddings_have_length_one_or_are_none() {
        assert_eq!(unit(vec![3.0, 4.0], 2), Some(vec![0.6, 0.8]));
        for bad in [
            vec![],
            vec![0.0, 0.0],
            vec![1.0],
            vec![f32::NAN, 1.0],
            vec![f32::INFINITY, 1.0],
        ] {
            assert_eq!(unit(bad, 2), None);
        }
    }
}
