//! The engine: a model file loaded into burn, and its generations.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;

use crate::engine::{
    Engine, FinishReason, Generation, Message, ModelInfo, Pooling, Prompt, Request, Step,
};
use crate::error::EngineError;
use crate::gguf::GgufFile;
use crate::llama::{Cache, Llama};
use crate::sampler::{Sampler, likeliest, log_sum_exp};
use crate::stream::TextStream;
use crate::template::ChatTemplate;
use crate::vocabulary::Vocabulary;

/// Tokens of the prompt that one [`Generation::step`] reads, so that no step blocks for much longer than
/// a few tokens take.
pub const PREFILL_CHUNK_TOKENS: usize = 64;

/// The name of a model whose file has no name.
const UNNAMED: &str = "model";

/// A model of the Llama architecture on burn's CPU backend. Cheap to clone: the weights are shared.
#[derive(Clone)]
pub struct BurnEngine {
    model: Arc<Model>,
    info: ModelInfo,
}

struct Model {
    llama: Llama,
    vocabulary: Vocabulary,
    template: ChatTemplate,
}

impl BurnEngine {
    /// Loads a GGUF file: reads it whole, hashes it, checks it, and turns its weights into f32.
    ///
    /// `progress` is told `(bytes read, bytes in all)`; after the last byte, building the weights takes
    /// about as long again. The model's id is the file's name without `.gguf`; see [`Self::with_id`].
    ///
    /// # Errors
    /// [`EngineError::File`] and its neighbours; the file may be a stranger's.
    pub fn load(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, EngineError> {
        let file = GgufFile::read(path, progress)?;
        let id = path
            .file_stem()
            .map_or(UNNAMED.into(), |stem| stem.to_string_lossy());
        Self::from_file(&file, &id)
    }

    /// Builds the model of a file that has been read, and names it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_file(file: &GgufFile, id: &str) -> Result<Self, EngineError> {
        let vocabulary = Vocabulary::from_header(file.header())?;
        let text_of = |key| -> Result<String, EngineError> {
            let tokens = file.header().texts("tokenizer.ggml.tokens")?;
            let token = file
                .header()
                .token(key)?
                .and_then(|t| usize::try_from(t).ok());
            Ok(token
                .and_then(|t| tokens.get(t))
                .cloned()
                .unwrap_or_default())
        };
        let template = ChatTemplate::new(
            file.header().text("tokenizer.chat_template")?,
            &text_of("tokenizer.ggml.bos_token_id")?,
            &text_of("tokenizer.ggml.eos_token_id")?,
        )?;
        let llama = Llama::load(file, vocabulary.len(), Device::flex())?;
        let bytes_per_weight = size_of::<f32>() as u64;
        let info = ModelInfo {
            id: id.to_owned(),
            digest: file.digest(),
            context_tokens: u32::try_from(llama.config.context).unwrap_or(u32::MAX),
            weights_bytes: (llama.elements as u64).saturating_mul(bytes_per_weight),
            bytes_per_token: 0,
            weights_per_token: 0,
            cache_bytes_per_token: llama.config.cache_bytes_per_token(),
            cache_tokens: llama.config.context as u64,
            embedding_width: 0,
            runs_on: "burn-flex".to_owned(),
        };
        tracing::info!(id = info.id, digest = %info.digest, bytes = info.weights_bytes, "model loaded");
        Ok(Self {
            model: Arc::new(Model {
                llama,
                vocabulary,
                template,
            }),
            info,
        })
    }

    /// The same model under another name.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.info.id = id.into();
        self
    }

    /// The same model with at most this many tokens of context, for machines with little memory: a
    /// generation's cache takes [`ModelInfo::cache_bytes_per_token`] for each. Never more than the model's.
    #[must_use]
    pub fn with_context_limit(mut self, tokens: u32) -> Self {
        self.info.context_tokens = self.info.context_tokens.min(tokens);
        self
    }

    /// What these tokens say: control tokens say nothing, and what is not UTF-8 is replaced.
    pub fn text(&self, tokens: &[u32]) -> String {
        let mut stream = TextStream::new(Vec::new());
        let pieces = tokens
            .iter()
            .filter_map(|&token| self.model.vocabulary.bytes(token));
        let mut text: String = pieces.map(|bytes| stream.push(bytes).text).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Natural logarithms of the probabilities of the answer's tokens, each after the prompt and the
    /// answer's tokens before it. The prompt is read in chunks and the answer token by token, as a
    /// generation does. For comparing engines: greedy text is too sensitive to rounding for that.
    ///
    /// # Errors
    /// [`EngineError::UnknownToken`], [`EngineError::ContextTooLong`], [`EngineError::EmptyPrompt`],
    /// [`EngineError::NotFinite`].
    pub fn score(&self, prompt: &[u32], answer: &[u32]) -> Result<Vec<f32>, EngineError> {
        let limit = self.info.context_tokens as usize;
        let tokens = prompt.len().saturating_add(answer.len());
        if tokens > limit {
            return Err(EngineError::ContextTooLong {
                prompt: tokens,
                limit,
            });
        }
        let llama = &self.model.llama;
        let mut cache = llama.cache(tokens);
        let mut hidden = Err(EngineError::EmptyPrompt);
        for chunk in prompt.chunks(PREFILL_CHUNK_TOKENS) {
            hidden = Ok(llama.read(&mut cache, chunk)?);
        }
        let mut scores = Vec::with_capacity(answer.len());
        for &token in answer {
            let logits = llama.logits(hidden?)?;
            let not_finite = EngineError::NotFinite {
                position: cache.len(),
            };
            let Some((_, highest)) = likeliest(&logits) else {
                return Err(not_finite);
            };
            let logit = *logits
                .get(token as usize)
                .ok_or(EngineError::UnknownToken {
                    token,
                    vocabulary: logits.len(),
                })?;
            scores.push((f64::from(logit) - log_sum_exp(&logits, highest)) as f32);
            hidden = Ok(llama.read(&mut cache, &[token])?);
        }
        Ok(scores)
    }
}

impl Engine for BurnEngine {
    fn describe(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        let Model {
            vocabulary,
            template,
            ..
        } = &*self.model;
        let rendered = template.render(messages, vocabulary.markers())?;
        let tokens = vocabulary.encode(&rendered)?;
        self.check_length(tokens.len())?;
        Ok(Prompt { tokens })
    }

    fn embed(&self, _: &[String], _: Pooling) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        Err(EngineError::Unsupported {
            feature: "embedding",
            found: self.info.id.clone(),
        })
    }

    fn start(&self, request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        let Request { prompt, params, .. } = request;
        params.check()?;
        self.check_length(prompt.tokens.len())?;
        let vocabulary = self.model.vocabulary.len();
        if let Some(&token) = prompt.tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        if prompt.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let seed = match params.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(EngineError::Entropy)?,
        };
        let room = (self.info.context_tokens as usize).saturating_sub(prompt.tokens.len());
        let left = u32::try_from(room)
            .unwrap_or(u32::MAX)
            .min(params.max_tokens);
        let capacity = prompt.tokens.len().saturating_add(left as usize);
        Ok(Box::new(BurnGeneration {
            cache: self.model.llama.cache(capacity),
            model: Arc::clone(&self.model),
            unread: prompt.tokens,
            left,
            sampler: Sampler::new(params.temperature, params.top_p, seed),
            stream: TextStream::new(params.stop),
            over: false,
        }))
    }
}

impl BurnEngine {
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

struct BurnGeneration {
    model: Arc<Model>,
    cache: Cache,
    /// Tokens the model has not read yet: the rest of the prompt, later the token chosen last.
    unread: Vec<u32>,
    /// Tokens that may still be generated.
    left: u32,
    sampler: Sampler,
    stream: TextStream,
    over: bool,
}

impl Generation for BurnGeneration {
    fn step(&mut self) -> Result<Step, EngineError> {
        if self.over {
            return Err(EngineError::Finished);
        }
        let step = self.advance();
        self.over = !matches!(step, Ok(Step { finish: None, .. }));
        step
    }
}

impl BurnGeneration {
    fn advance(&mut self) -> Result<Step, EngineError> {
        let Model {
            llama, vocabulary, ..
        } = &*self.model;
        let rest = self
            .unread
            .split_off(self.unread.len().min(PREFILL_CHUNK_TOKENS));
        let hidden = llama.read(&mut self.cache, &self.unread)?;
        self.unread = rest;
        if !self.unread.is_empty() {
            return Ok(Step {
                text: String::new(),
                tokens: 0,
                logprobs: Vec::new(),
                finish: None,
            });
        }
        let position = self.cache.len();
        let token = self
            .sampler
            .choose(&llama.logits(hidden)?, position as u64)
            .ok_or(EngineError::NotFinite { position })?;
        let Some(bytes) = vocabulary.bytes(token) else {
            return Ok(Step {
                text: self.stream.finish(),
                tokens: 0,
                logprobs: Vec::new(),
                finish: Some(FinishReason::Stop),
            });
        };
        let mut delta = self.stream.push(bytes);
        self.left = self.left.saturating_sub(1);
        let finish = if delta.stopped {
            Some(FinishReason::Stop)
        } else if self.left == 0 {
            delta.text.push_str(&self.stream.finish());
            Some(FinishReason::Length)
        } else {
            None
        };
        self.unread.push(token);
        Ok(Step {
            text: delta.text,
            tokens: 1,
            logprobs: Vec::new(),
            finish,
        })
    }
}
