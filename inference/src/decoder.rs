//! A model in its place, with its cache: what the scheduler drives.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, FloatDType};

use crate::EngineError;
use crate::checkpoint::Checkpoint;
use crate::families;
use crate::kernel::Precision;
use crate::layers::{LayerCache, Place, Step, Totals, Trunk, Weights};
use crate::replay::Replays;
use crate::serving::{Batch, Model, ModelShape, Outputs, PAGE_TOKENS, Rows, Wanted};

/// Pages of one cache; far more than any machine has room for.
const MAX_PAGES: usize = 1 << 24;

/// Where a model is to compute.
#[derive(Debug, Clone)]
pub enum Target {
    /// On the processor, with this many threads; weights stay in the file's format, the cache is f16.
    Processor {
        /// At least 1.
        threads: usize,
    },
    /// On the processor with burn's own kernels, everything f32: slow and plain, what the others are
    /// compared with.
    Reference,
    /// The same, with decode steps in the fixed shapes that a recording device replays; nothing is gained by
    /// it on the processor.
    ReferenceRecorded,
    /// On the first CUDA device, everything bf16.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Target {
    /// Whether decode steps are recorded and replayed.
    fn records(&self) -> bool {
        !matches!(self, Self::Processor { .. } | Self::Reference)
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Processor { threads } => Place::host((*threads).max(1)),
            Self::Reference | Self::ReferenceRecorded => {
                Place::device(Device::flex(), FloatDType::F32)
            }
            #[cfg(feature = "cuda")]
            Self::Cuda => Place::device(Device::cuda(0), FloatDType::BF16),
        }
    }
}

/// Memory for keys and values, taken at the start: it bounds how many tokens can be in work at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRoom {
    /// Room for so many tokens, rounded up to whole pages.
    Tokens(u64),
    /// So many bytes, but no more than [`MAX_CONTEXTS`] sequences of the longest can use.
    Bytes(u64),
}

/// Sequences of the longest context that a cache given in bytes has room for, at most.
const MAX_CONTEXTS: u64 = 32;
/// Memory for the cache where nobody has said how much: 1 GiB.
const DEFAULT_CACHE_BYTES: u64 = 1 << 30;

impl Default for CacheRoom {
    fn default() -> Self {
        Self::Bytes(DEFAULT_CACHE_BYTES)
    }
}

impl CacheRoom {
    /// Whole pages, at least one.
    fn pages(self, context_tokens: usize, bytes_per_token: u64) -> usize {
        let tokens = match self {
            Self::Tokens(tokens) => tokens,
            Self::Bytes(bytes) => {
                let fit = bytes.checked_div(bytes_per_token).unwrap_or(u64::MAX);
                fit.min((context_tokens as u64).saturating_mul(MAX_CONTEXTS))
            }
        };
        let pages = tokens.div_ceil(PAGE_TOKENS as u64);
        usize::try_from(pages).map_or(MAX_PAGES, |pages| pages.clamp(1, MAX_PAGES))
    }
}

/// A loaded model.
pub struct Decoder {
    place: Place,
    trunk: Arc<Trunk>,
    cache: Arc<Mutex<Vec<LayerCache>>>,
    /// Where steps are recorded.
    replays: Option<Replays>,
    shape: ModelShape,
    totals: Totals,
    width: usize,
    cache_bytes_per_token: u64,
}

impl Decoder {
    /// Loads the weights and takes memory for the cache.
    ///
    /// # Errors
    /// What the checkpoint, its configuration or its tensors lack.
    pub fn load(
        checkpoint: &Checkpoint,
        target: &Target,
        room: CacheRoom,
    ) -> Result<Self, EngineError> {
        let place = target.place();
        let mut weights = Weights::new(checkpoint, &place)?;
        let config = weights.config();
        let mut shape = ModelShape {
            vocabulary: config.size("vocab_size")?,
            context_tokens: config.size("max_position_embeddings")?,
            pages: 0,
        };
        let width = config.size("hidden_size")?;
        let trunk = families::load(&mut weights)?;
        let totals = weights.finish()?;
        let precision = Precision::Half;
        let number_bytes = match &place {
            Place::Host(_)
            | Place::Device {
                float: FloatDType::BF16 | FloatDType::F16,
                ..
            } => 2,
            Place::Device { .. } => 4,
        };
        let cache_bytes_per_token = (trunk.cache_width() as u64).saturating_mul(number_bytes);
        shape.pages = room.pages(shape.context_tokens, cache_bytes_per_token);
        // One page more, for rows of a recorded step that no sequence uses.
        let cache = trunk.cache(&place, shape.pages.saturating_add(1), precision);
        let (trunk, cache) = (Arc::new(trunk), Arc::new(Mutex::new(cache)));
        let replays = if target.records() {
            Replays::new(&place, &trunk, &cache, shape.pages)
        } else {
            None
        };
        Ok(Self {
            cache,
            cache_bytes_per_token,
            replays,
            place,
            trunk,
            shape,
            totals,
            width,
        })
    }

    /// Bytes that the weights take.
    pub fn weights_bytes(&self) -> u64 {
        self.totals.bytes
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.totals.weights
    }

    /// Weights that take part in one token, and the bytes they take.
    pub fn active(&self) -> (u64, u64) {
        let Totals {
            weights,
            bytes,
            idle_weights,
            idle_bytes,
        } = self.totals;
        (
            weights.saturating_sub(idle_weights),
            bytes.saturating_sub(idle_bytes),
        )
    }

    /// Bytes that the cache takes per token.
    pub fn cache_bytes_per_token(&self) -> u64 {
        self.cache_bytes_per_token
    }

    /// Numbers in a row of [`Model::hidden`].
    pub fn width(&self) -> usize {
        self.width
    }

    /// What computes, in a word or two.
    pub fn runs_on(&self) -> String {
        self.place.name()
    }
}

impl Model for Decoder {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn forward(&mut self, batch: &Batch) -> Result<Outputs, EngineError> {
        let step = Step::new(batch, self.shape, &self.place)?;
        let one_each = |rows: &Rows| rows.tokens.len() == 1 && rows.wanted == Wanted::Last;
        if let Some(replays) = &mut self.replays
            && batch.sequences.iter().all(one_each)
        {
            return Ok(Outputs {
                width: self.shape.vocabulary,
                values: replays.decode(&batch.sequences)?,
            });
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = self.trunk.hidden(&self.place, &mut cache, &step)?;
        let logits = hidden.map(|hidden| self.trunk.logits(&self.place, &hidden));
        Ok(Outputs {
            width: self.shape.vocabulary,
            values: logits.map_or_else(|| Ok(Vec::new()), |rows| rows.into_values())?,
        })
    }

    fn hidden(&mut self, batch: &Batch) -> Result<Outputs, EngineError> {
        let step = Step::new(batch, self.shape, &self.place)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = self.trunk.hidden(&self.place, &mut cache, &step)?;
        Ok(Outputs {
            width: self.width,
            values: hidden.map_or_else(|| Ok(Vec::new()), |rows| rows.into_values())?,
        })
    }
}
