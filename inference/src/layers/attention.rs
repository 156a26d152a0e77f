//! Attention over a paged cache of keys and values, for a ragged batch of sequences.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // as in `activations`

use burn::tensor::{FloatDType, IndexingUpdateOp, Tensor, TensorData, activation};

use super::activations::{Activations, int_tensor};
use super::fixed::Fixed;
use super::place::Place;
use super::profile::{Part, timed};
use super::step::{Step, slot};
use crate::kernel::{Attend, KvCache, Precision, Sequence};
use crate::serving::PAGE_TOKENS;

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Numbers in a key and in a query.
    pub(crate) key_width: usize,
    /// Numbers in a value.
    pub(crate) value_width: usize,
    /// Query times key is multiplied by it.
    pub(crate) scale: f32,
    /// Only this many of the newest tokens are seen, the own one included.
    pub(crate) window: Option<usize>,
    /// The value is the beginning of the key, and not kept apart (DeepSeek's latent attention).
    pub(crate) value_in_key: bool,
}

/// Keys and values of one layer, for all sequences.
pub(crate) enum LayerCache {
    Host(KvCache),
    Device {
        /// `[slots, kv_heads · key_width]`.
        keys: Tensor<2>,
        /// `[slots, kv_heads · value_width]`; none where the value is in the key.
        values: Option<Tensor<2>>,
    },
}

impl Attention {
    /// Numbers kept per token.
    pub(crate) fn cache_width(&self) -> usize {
        let values = if self.value_in_key {
            0
        } else {
            self.value_width
        };
        self.kv_heads * (self.key_width + values)
    }

    /// Room for this many pages.
    pub(crate) fn cache(&self, place: &Place, pages: usize, precision: Precision) -> LayerCache {
        match place {
            Place::Host(_) => LayerCache::Host(KvCache::new(
                pages,
                self.kv_heads,
                self.key_width,
                self.value_width,
                precision,
                self.value_in_key,
            )),
            Place::Device { device, float } => {
                let room = |width: usize| {
                    let shape = [pages * PAGE_TOKENS, self.kv_heads * width];
                    Tensor::<2>::zeros(shape, device).cast(*float)
                };
                LayerCache::Device {
                    keys: room(self.key_width),
                    values: (!self.value_in_key).then(|| room(self.value_width)),
                }
            }
        }
    }

    /// Keeps the rows' keys and values, and lets each query see those of its sequence up to its own.
    /// Gives `[rows, heads · value_width]`. `values` is none where the value is in the key.
    pub(crate) fn attend(
        &self,
        place: &Place,
        cache: &mut LayerCache,
        step: &Step<'_>,
        [queries, keys]: [Activations; 2],
        values: Option<Activations>,
    ) -> Activations {
        match (cache, queries, keys, place) {
            (
                LayerCache::Host(cache),
                Activations::Host(queries),
                Activations::Host(keys),
                Place::Host(host),
            ) => {
                let values = match &values {
                    Some(Activations::Host(values)) => values.values.as_slice(),
                    _ => &[],
                };
                timed(Part::Attention, || {
                    cache.write(&step.sequences, &keys.values, values);
                });
                let mut out = queries.another(queries.rows(), self.heads * self.value_width);
                let attend = Attend {
                    cache,
                    sequences: &step.sequences,
                    heads: self.heads,
                    scale: self.scale,
                    window: self.window,
                    softcap: None,
                };
                timed(Part::Attention, || {
                    host.compute
                        .attend(&attend, &queries.values, &mut out.values);
                });
                Activations::Host(out)
            }
            (
                LayerCache::Device {
                    keys: all_keys,
                    values: all_values,
                },
                Activations::Device(queries),
                Activations::Device(keys),
                _,
            ) => {
                if let Some(slots) = &step.slots {
                    let assign = IndexingUpdateOp::Assign;
                    let at = || slots.clone();
                    all_keys.inplace(|all| all.select_assign(0, at(), keys, assign));
                    if let (Some(all), Some(Activations::Device(values))) =
                        (&mut *all_values, values)
                    {
                        let assign = IndexingUpdateOp::Assign;
                        all.inplace(|all| all.select_assign(0, at(), values, assign));
                    }
                }
                if let Some(fixed) = &step.fixed {
                    let values = all_values.as_ref();
                    return Activations::Device(self.in_window(all_keys, values, fixed, queries));
                }
                let outputs = step
                    .sequences
                    .iter()
                    .map(|sequence| {
                        let width = self.heads * self.key_width;
                        let queries = queries.clone().slice([sequence.rows.clone(), 0..width]);
                        self.of_sequence(all_keys, all_values.as_ref(), sequence, queries)
                    })
                    .collect();
                Activations::Device(Tensor::cat(outputs, 0))
            }
            _ => unreachable!("cache and activations of one model are in one place"),
        }
    }

    /// One query per sequence, over a window of slots each.
    fn in_window(
        &self,
        keys: &Tensor<2>,
        values: Option<&Tensor<2>>,
        fixed: &Fixed,
        queries: Tensor<2>,
    ) -> Tensor<2> {
        let (rows, window) = (fixed.rows, fixed.window);
        let float = queries.dtype();
        let Self {
            heads,
            kv_heads,
            key_width,
            value_width,
            ..
        } = *self;
        let heads_first = |all: &Tensor<2>, width: usize| {
            let chosen = all.clone().select(0, fixed.context.clone());
            chosen
                .reshape([rows, window, kv_heads, width])
                .swap_dims(1, 2)
        };
        let keys = heads_first(keys, key_width);
        let values = match values {
            Some(values) => heads_first(values, value_width),
            None => keys
                .clone()
                .slice([0..rows, 0..kv_heads, 0..window, 0..value_width]),
        };
        let group = heads / kv_heads;
        let shape = [rows, kv_heads, group, window];
        let hidden = fixed.hidden(self.window).reshape([rows, 1, 1, window]);
        let scores = queries
            .reshape([rows, kv_heads, group, key_width])
            .matmul(keys.swap_dims(2, 3))
            .cast(FloatDType::F32)
            .mul_scalar(self.scale)
            .mask_fill(hidden.expand(shape), f32::NEG_INFINITY);
        activation::softmax(scores, 3)
            .cast(float)
            .matmul(values)
            .reshape([rows, heads * value_width])
    }

    /// The plain reading, on any device: gathers the sequence's slots and multiplies.
    fn of_sequence(
        &self,
        keys: &Tensor<2>,
        values: Option<&Tensor<2>>,
        sequence: &Sequence<'_>,
        queries: Tensor<2>,
    ) -> Tensor<2> {
        let (count, start) = (sequence.rows.len(), sequence.start);
        let end = start + count;
        let device = queries.device();
        let float = queries.dtype();
        let Self {
            heads,
            kv_heads,
            key_width,
            value_width,
            ..
        } = *self;
        // What no row can see need not be gathered.
        let seen_from =
            |position: usize| self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let first = seen_from(start);
        let slots: Vec<usize> = (first..end).map(|at| slot(sequence.pages, at)).collect();
        let slots = int_tensor(&slots, &device);
        let heads_first = |all: &Tensor<2>, width: usize| {
            let chosen = all.clone().select(0, slots.clone());
            chosen
                .reshape([end - first, kv_heads, width])
                .swap_dims(0, 1)
        };
        let keys = heads_first(keys, key_width);
        let values = match values {
            Some(values) => heads_first(values, value_width),
            None => keys
                .clone()
                .slice([0..kv_heads, 0..end - first, 0..value_width]),
        };
        // Query heads of one group stand below one another, so that each key head is multiplied once.
        let group = heads / kv_heads;
        let queries = queries
            .reshape([count, heads, key_width])
            .swap_dims(0, 1)
            .reshape([kv_heads, group * count, key_width]);
        let scores = queries.matmul(keys.swap_dims(1, 2)).cast(FloatDType::F32);
        let row = |i: usize| {
            let seen = seen_from(start + i)..=start + i;
            (first..end).map(move |at| {
                if seen.contains(&at) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        };
        let mask: Vec<f32> = (0..group).flat_map(|_| (0..count).flat_map(row)).collect();
        let mask = TensorData::new(mask, [1, group * count, end - first]);
        let scores = scores.mul_scalar(self.scale) + Tensor::<3>::from_data(mask, &device);
        activation::softmax(scores, 2)
            .cast(float)
            .matmul(values)
            .reshape([heads, count, value_width])
            .swap_dims(0, 1)
            .reshape([count, heads * value_width])
    }
}
