//! Attention with query heads in groups that share a key head (Ainslie et al., *GQA*, 2023), as Llama, Qwen
//! and Gemma have it.

#![allow(clippy::arithmetic_side_effects)] // as in `activations`

use super::activations::Activations;
use super::attention::Attention;
use super::linear::Linear;
use super::norm::Norm;
use super::trunk::Run;
use super::weights::Weights;
use crate::EngineError;
use crate::families::Config;

/// The sizes of such a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupedShape {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
}

impl GroupedShape {
    /// From `hidden_size`, `num_attention_heads`, `num_key_value_heads` and `head_dim`.
    ///
    /// # Errors
    /// When they are missing, too large, or do not fit together.
    pub(crate) fn from_config(config: &Config<'_>) -> Result<Self, EngineError> {
        let width = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let head_width = config.size_or("head_dim", width.checked_div(heads).unwrap_or(0))?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(EngineError::Inconsistent {
                what: "query and key heads",
                left: heads,
                right: kv_heads,
            });
        }
        if !head_width.is_multiple_of(2) || head_width == 0 {
            return Err(EngineError::Inconsistent {
                what: "head width and the pairs that are rotated",
                left: head_width,
                right: 2,
            });
        }
        Ok(Self {
            width,
            heads,
            kv_heads,
            head_width,
        })
    }
}

/// One layer's attention: query, key and value in one product.
pub(crate) struct GroupedAttention {
    pub(crate) shape: GroupedShape,
    pub(crate) query_key_value: Linear,
    pub(crate) output: Linear,
    /// Norms of each query head and each key head, before they are turned.
    pub(crate) head_norms: Option<[Norm; 2]>,
    pub(crate) attention: Attention,
    /// Which of the model's ropes turns queries and keys.
    pub(crate) rope: usize,
}

impl GroupedAttention {
    /// Loads `q_proj`, `k_proj`, `v_proj` and `o_proj` below `prefix`, with biases where there are any.
    ///
    /// # Errors
    /// When a tensor is missing or has other dimensions than `shape` says.
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        prefix: &str,
        shape: GroupedShape,
    ) -> Result<Self, EngineError> {
        let GroupedShape {
            width,
            heads,
            kv_heads,
            head_width,
        } = shape;
        let (query, key) = (heads * head_width, kv_heads * head_width);
        Ok(Self {
            shape,
            query_key_value: weights.heads(
                &[
                    (&format!("{prefix}.q_proj"), query),
                    (&format!("{prefix}.k_proj"), key),
                    (&format!("{prefix}.v_proj"), key),
                ],
                width,
                head_width,
            )?,
            output: weights.linear(&[(&format!("{prefix}.o_proj"), width)], query)?,
            head_norms: None,
            attention: Attention {
                heads,
                kv_heads,
                key_width: head_width,
                value_width: head_width,
                scale: (head_width as f32).sqrt().recip(),
                window: None,
                value_in_key: false,
            },
            rope: 0,
        })
    }

    /// With a norm of each query head and each key head, as in Qwen3 and Gemma 3.
    ///
    /// # Errors
    /// When they are missing.
    pub(crate) fn with_head_norms(
        mut self,
        weights: &mut Weights<'_>,
        prefix: &str,
    ) -> Result<Self, EngineError> {
        let width = self.shape.head_width;
        self.head_norms = Some([
            weights.norm(&format!("{prefix}.q_norm"), width)?,
            weights.norm(&format!("{prefix}.k_norm"), width)?,
        ]);
        Ok(self)
    }

    pub(crate) fn forward(&self, run: &mut Run<'_, '_>, x: &Activations) -> Activations {
        let GroupedShape {
            heads,
            kv_heads,
            head_width,
            ..
        } = self.shape;
        let (query, key) = (heads * head_width, kv_heads * head_width);
        let place = run.place;
        let all = self.query_key_value.forward(place, x);
        let mut queries = all.columns(0..query);
        let mut keys = all.columns(query..query + key);
        let values = all.columns(query + key..query + 2 * key);
        if let Some([of_queries, of_keys]) = &self.head_norms {
            queries = of_queries.forward(place, &queries);
            keys = of_keys.forward(place, &keys);
        }
        let queries = run.turn(self.rope, queries, heads);
        let keys = run.turn(self.rope, keys, kv_heads);
        let attended = run.attend(&self.attention, [queries, keys], Some(values));
        self.output.forward(place, &attended)
    }
}
