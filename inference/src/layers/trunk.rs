//! A decoder without its family: embedding, blocks, last norm, head, and the cache of all of them.

use super::activations::Activations;
use super::attention::{Attention, LayerCache};
use super::linear::Linear;
use super::norm::Norm;
use super::place::Place;
use super::profile::Part;
use super::rope::{Rope, Rotation};
use super::step::Step;
use super::weights::Weights;
use crate::EngineError;
use crate::kernel::Precision;

/// One layer of a family.
pub(crate) trait Block: Send + Sync {
    /// Rows in, rows out, residual included.
    ///
    /// # Errors
    /// When what the device computed cannot be read.
    fn forward(&self, run: &mut Run<'_, '_>, x: Activations) -> Result<Activations, EngineError>;

    /// How it attends; it says what its cache holds.
    fn attention(&self) -> &Attention;
}

/// A model's weights, as a family has put them together.
pub(crate) struct Trunk {
    pub(crate) embedding: Linear,
    /// What embeddings are multiplied by (Gemma: the root of the width).
    pub(crate) embedding_scale: Option<f32>,
    pub(crate) blocks: Vec<Box<dyn Block>>,
    pub(crate) norm: Norm,
    /// `None` where the embedding is read the other way round.
    pub(crate) head: Option<Linear>,
    /// Logits are squashed below it.
    pub(crate) softcap: Option<f32>,
    pub(crate) ropes: Vec<Rope>,
}

/// What a block needs of the forward pass that it is part of.
pub(crate) struct Run<'r, 'b> {
    pub(crate) place: &'r Place,
    step: &'r Step<'b>,
    rotations: &'r [Rotation],
    cache: &'r mut LayerCache,
}

impl Run<'_, '_> {
    /// Turns heads by the positions of their rows.
    pub(crate) fn turn(&self, rope: usize, x: Activations, heads: usize) -> Activations {
        match self.rotations.get(rope) {
            Some(rotation) => rotation.turn(self.place, x, heads),
            None => x,
        }
    }

    /// See [`Attention::attend`].
    pub(crate) fn attend(
        &mut self,
        attention: &Attention,
        queries_keys: [Activations; 2],
        values: Option<Activations>,
    ) -> Activations {
        attention.attend(self.place, self.cache, self.step, queries_keys, values)
    }
}

impl Trunk {
    /// The usual frame around these blocks: `model.embed_tokens`, `model.norm` and, where the model has
    /// one of its own, `lm_head`.
    ///
    /// # Errors
    /// When a tensor is missing or has other dimensions than the configuration says.
    pub(crate) fn around(
        blocks: Vec<Box<dyn Block>>,
        ropes: Vec<Rope>,
        weights: &mut Weights<'_>,
    ) -> Result<Self, EngineError> {
        let config = weights.config();
        let (width, vocabulary) = (config.size("hidden_size")?, config.size("vocab_size")?);
        let own_head = weights.has("lm_head.weight");
        let head = if own_head && !config.flag_or("tie_word_embeddings", false)? {
            Some(weights.linear(&[("lm_head", vocabulary)], width)?)
        } else {
            weights.pass_over("lm_head.weight");
            None
        };
        let before = weights.totals();
        let embedding = weights.linear(&[("model.embed_tokens", vocabulary)], width)?;
        if head.is_some() {
            weights.idle_since(before, 1, 1);
        }
        Ok(Self {
            embedding,
            embedding_scale: None,
            blocks,
            norm: weights.norm("model.norm", width)?,
            head,
            softcap: None,
            ropes,
        })
    }

    /// Room for this many pages in every layer.
    pub(crate) fn cache(
        &self,
        place: &Place,
        pages: usize,
        precision: Precision,
    ) -> Vec<LayerCache> {
        self.blocks
            .iter()
            .map(|block| block.attention().cache(place, pages, precision))
            .collect()
    }

    /// Numbers that the cache keeps per token, in all layers.
    pub(crate) fn cache_width(&self) -> usize {
        let widths = self.blocks.iter().map(|b| b.attention().cache_width());
        widths.fold(0, usize::saturating_add)
    }

    /// The last norm's outputs of the wanted rows. `None` when none are wanted.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub(crate) fn hidden(
        &self,
        place: &Place,
        cache: &mut [LayerCache],
        step: &Step<'_>,
    ) -> Result<Option<Activations>, EngineError> {
        let turn = |rope: &Rope| match &step.fixed {
            Some(fixed) => rope.on_device(&fixed.positions),
            None => rope.at(place, &step.positions),
        };
        let rotations: Vec<Rotation> = self.ropes.iter().map(turn).collect();
        let mut x = match &step.fixed {
            Some(fixed) => self.embedding.look_up_on_device(fixed.tokens.clone()),
            None => self.embedding.look_up(place, &step.tokens),
        };
        if let Some(scale) = self.embedding_scale {
            x = x.scaled(scale);
        }
        for (block, cache) in self.blocks.iter().zip(cache) {
            let mut run = Run {
                place,
                step,
                rotations: &rotations,
                cache,
            };
            x = block.forward(&mut run, x)?;
        }
        if step.wanted.is_empty() && step.fixed.is_none() {
            return Ok(None);
        }
        if step.wanted.len() < step.tokens.len() {
            x = x.select(&step.wanted);
        }
        Ok(Some(self.norm.forward(place, &x)))
    }

    /// The logits for these outputs.
    pub(crate) fn logits(&self, place: &Place, hidden: &Activations) -> Activations {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = head.forward_as(Part::Head, place, hidden);
        match self.softcap {
            Some(cap) => logits.softcapped(cap),
            None => logits,
        }
    }
}
