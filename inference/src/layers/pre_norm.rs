//! The block of most families: attention and feed-forward, each after a norm and added to what came in.

use super::activations::Activations;
use super::attention::Attention;
use super::grouped::GroupedAttention;
use super::mlp::{Mlp, Moe};
use super::norm::Norm;
use super::place::Place;
use super::trunk::{Block, Run};
use super::weights::Weights;
use super::{Gate, Routing};
use crate::EngineError;

/// A feed-forward layer of either kind.
pub(crate) enum Feed {
    Dense(Mlp),
    Experts(Box<Moe>),
}

impl Feed {
    pub(crate) fn forward(
        &self,
        place: &Place,
        x: &Activations,
    ) -> Result<Activations, EngineError> {
        match self {
            Self::Dense(mlp) => Ok(mlp.forward(place, x)),
            Self::Experts(moe) => moe.forward(place, x),
        }
    }

    /// `gate_proj`, `up_proj` and `down_proj` below `prefix`.
    ///
    /// # Errors
    /// When a tensor is missing or has other dimensions.
    pub(crate) fn dense(
        weights: &mut Weights<'_>,
        prefix: &str,
        [width, between]: [usize; 2],
        gate: Gate,
    ) -> Result<Mlp, EngineError> {
        let name = |part: &str| format!("{prefix}.{part}_proj");
        Ok(Mlp {
            gate_up: weights.linear(&[(&name("gate"), between), (&name("up"), between)], width)?,
            down: weights.linear(&[(&name("down"), width)], between)?,
            gate,
            width: between,
        })
    }

    /// `count` experts of the layer `model.layers.N`, and their router.
    ///
    /// # Errors
    /// When a tensor is missing or has other dimensions.
    pub(crate) fn experts(
        weights: &mut Weights<'_>,
        prefix: &str,
        [width, between]: [usize; 2],
        count: usize,
        routing: Routing,
    ) -> Result<Moe, EngineError> {
        let pairs = [("gate_proj", between), ("up_proj", between)];
        let chosen = routing.chosen;
        let gate_up = weights.experts(prefix, &pairs, width, count, chosen)?;
        let down = weights.experts(prefix, &[("down_proj", width)], between, count, chosen)?;
        let experts = gate_up.into_iter().zip(down).map(|(gate_up, down)| Mlp {
            gate_up,
            down,
            gate: Gate::Silu,
            width: between,
        });
        Ok(Moe {
            router: weights.linear(&[(&format!("{prefix}.mlp.gate"), count)], width)?,
            routing,
            experts: experts.collect(),
            shared: None,
        })
    }
}

/// `x + attention(norm(x))`, then `x + feed(norm(x))`.
pub(crate) struct PreNorm {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: GroupedAttention,
    pub(crate) feed_norm: Norm,
    pub(crate) feed: Feed,
}

impl PreNorm {
    /// Attention and feed-forward with the norms that Llama and its kin have below `prefix`.
    ///
    /// # Errors
    /// When a norm is missing.
    pub(crate) fn new(
        weights: &mut Weights<'_>,
        prefix: &str,
        attention: GroupedAttention,
        feed: Feed,
    ) -> Result<Self, EngineError> {
        let width = attention.shape.width;
        Ok(Self {
            attention_norm: weights.norm(&format!("{prefix}.input_layernorm"), width)?,
            attention,
            feed_norm: weights.norm(&format!("{prefix}.post_attention_layernorm"), width)?,
            feed,
        })
    }
}

impl Block for PreNorm {
    fn forward(&self, run: &mut Run<'_, '_>, x: Activations) -> Result<Activations, EngineError> {
        let place = run.place;
        let normed = self.attention_norm.forward(place, &x);
        let attended = self.attention.forward(run, &normed);
        let x = x.plus(place, attended);
        let normed = self.feed_norm.forward(place, &x);
        let fed = self.feed.forward(place, &normed)?;
        Ok(x.plus(place, fed))
    }

    fn attention(&self) -> &Attention {
        &self.attention.attention
    }
}
