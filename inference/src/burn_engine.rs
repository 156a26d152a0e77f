//! The engine: a checkpoint's weights in their place, a vocabulary, a template, and the thread that serves.

use std::path::Path;
use std::sync::Arc;

use crate::EngineError;
use crate::checkpoint::Checkpoint;
use crate::decoder::{CacheRoom, Decoder, Target};
use crate::engine::{Engine, Generation, Message, ModelInfo, Pooling, Prompt, Request};
use crate::serving::{BatchEngine, Model, PAGE_TOKENS, ServingOptions, ServingStats};
use crate::stream::TextStream;
use crate::template::ChatTemplate;
use crate::vocabulary::Vocabulary;

/// The name of a model whose file has no name.
const UNNAMED: &str = "model";
/// Texts in one request for embeddings.
pub const MAX_EMBEDDED_TEXTS: usize = 256;

/// How a model is loaded and served.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where it computes.
    pub target: Target,
    /// Memory for keys and values, taken at the start.
    pub cache: CacheRoom,
    /// Most tokens of prompt and answer together; never more than the model's own.
    pub context_tokens: Option<u32>,
    /// Tokens of an answer that are guessed from prompt and answer and read at once; 0 guesses none. Changes
    /// nothing about what is answered.
    pub speculation: usize,
}

impl Default for EngineOptions {
    /// On all cores, with the cache that [`CacheRoom::default`] gives.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            target: Target::Processor { threads: cores },
            cache: CacheRoom::default(),
            context_tokens: None,
            speculation: 0,
        }
    }
}

/// A model on this machine, served by continuous batching. Dropping it ends its thread and all answers.
pub struct BurnEngine {
    batch: BatchEngine,
    vocabulary: Arc<Vocabulary>,
    template: ChatTemplate,
    info: ModelInfo,
}

impl BurnEngine {
    /// Loads a GGUF file or a Hugging Face folder: maps it, hashes it, checks it, lays out its weights.
    ///
    /// `progress` is told `(bytes read, bytes in all)` while the digest is computed; laying out the weights
    /// takes about as long again. The model's id is the file's name without `.gguf`; see [`Self::with_id`].
    ///
    /// # Errors
    /// What is wrong with the files, which may be a stranger's.
    pub fn load(
        path: &Path,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let checkpoint = Checkpoint::open(path, progress)?;
        let name = match path.extension() {
            Some(extension) if extension == "gguf" => path.file_stem(),
            _ => path.file_name(),
        };
        let id = name.map_or(UNNAMED.into(), |name| name.to_string_lossy());
        Self::from_checkpoint(&checkpoint, options, &id)
    }

    /// Builds the model of a checkpoint that has been opened, and names it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        options: &EngineOptions,
        id: &str,
    ) -> Result<Self, EngineError> {
        let decoder = Decoder::load(checkpoint, &options.target, options.cache)?;
        let shape = decoder.shape();
        let vocabulary = Arc::new(checkpoint.vocabulary()?.padded(shape.vocabulary)?);
        let template = checkpoint.template()?;
        let context = options.context_tokens.unwrap_or(u32::MAX);
        let own = u32::try_from(shape.context_tokens).unwrap_or(u32::MAX);
        let (weights_per_token, bytes_per_token) = decoder.active();
        let mut info = ModelInfo {
            id: id.to_owned(),
            digest: checkpoint.digest(),
            context_tokens: context.min(own),
            weights_bytes: decoder.weights_bytes(),
            bytes_per_token,
            weights_per_token,
            cache_bytes_per_token: decoder.cache_bytes_per_token(),
            cache_tokens: (shape.pages as u64).saturating_mul(PAGE_TOKENS as u64),
            embedding_width: u32::try_from(decoder.width()).unwrap_or(u32::MAX),
            tokenizer: Some(checkpoint.tokenizer_digest()),
            runs_on: decoder.runs_on(),
        };
        let mut serving = ServingOptions::for_pages(shape.pages);
        serving.limits.speculation = options.speculation;
        let words: Arc<Vocabulary> = Arc::clone(&vocabulary);
        let batch = BatchEngine::new(Box::new(decoder), words, serving)?;
        // What the cache cannot hold is no context.
        let held = u32::try_from(batch.capacity()).unwrap_or(u32::MAX);
        info.context_tokens = info.context_tokens.min(held);
        tracing::info!(
            id = info.id,
            digest = %info.digest,
            weights_bytes = info.weights_bytes,
            cache_tokens = info.cache_tokens,
            runs_on = info.runs_on,
            "model loaded"
        );
        Ok(Self {
            batch,
            vocabulary,
            template,
            info,
        })
    }

    /// The same model under another name.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.info.id = id.into();
        self
    }

    /// What the serving thread says of itself.
    pub fn stats(&self) -> ServingStats {
        self.batch.stats()
    }

    /// What these tokens say: control tokens say nothing, and what is not UTF-8 is replaced.
    pub fn text(&self, tokens: &[u32]) -> String {
        let mut stream = TextStream::new(Vec::new());
        let pieces = tokens
            .iter()
            .filter_map(|&token| self.vocabulary.bytes(token));
        let mut text: String = pieces.map(|bytes| stream.push(bytes).text).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Tokenises a text that is no conversation.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`].
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.vocabulary.encode_text(text)
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

impl Engine for BurnEngine {
    fn describe(&self) -> &ModelInfo {
        &self.info
    }

    fn prepare(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        let rendered = self.template.render(messages, self.vocabulary.markers())?;
        let tokens = self.vocabulary.encode(&rendered)?;
        self.check_length(tokens.len())?;
        Ok(Prompt { tokens })
    }

    fn start(&self, mut request: Request) -> Result<Box<dyn Generation + Send>, EngineError> {
        request.params.check()?;
        self.check_length(request.prompt.tokens.len())?;
        let room = (self.info.context_tokens as usize).saturating_sub(request.prompt.tokens.len());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        request.params.max_tokens = request.params.max_tokens.min(room);
        if request.params.ignore_end {
            // As far as a bias may go; enough for any model that has been trained.
            let never = |&token: &u32| (token, -100.0);
            let ends = self.vocabulary.end_tokens().iter().map(never);
            request.params.logit_bias.extend(ends);
        }
        Ok(Box::new(self.batch.start(request)?))
    }

    fn embed(
        &self,
        texts: &[String],
        pooling: Pooling,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        if texts.len() > MAX_EMBEDDED_TEXTS {
            return Err(EngineError::Parameter {
                name: "input",
                wanted: "at most 256 texts",
            });
        }
        let texts = texts.iter().map(|text| {
            let tokens = self.vocabulary.encode_text(text)?;
            self.check_length(tokens.len())?;
            Ok(tokens)
        });
        let texts = texts.collect::<Result<Vec<_>, EngineError>>()?;
        let read = texts.iter().map(Vec::len).fold(0, usize::saturating_add);
        let embeddings = self.batch.embed(&texts, pooling)?;
        Ok((embeddings, u32::try_from(read).unwrap_or(u32::MAX)))
    }
}
