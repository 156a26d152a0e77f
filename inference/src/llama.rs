//! The Llama architecture on burn: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! After Touvron et al., *Llama 2* (2023), with GGUF's tensor names. All arithmetic is f32. Weights are
//! kept as the file has them, `[out, in]`, and viewed transposed, which is the faster layout for one token
//! at a time. Query, key and value share one matrix, and so do gate and up: fewer, larger products.
//!
//! GGUF files of this architecture hold the rows of query and key interleaved (element 2i and 2i+1 are
//! rotated together). They are put back in halves here (i and i + d/2), so that a rotation is two slices.

// The operators here are burn's, on tensors, or work on dimensions that `Config` has bounded and that the
// tensors' own dimensions have been checked against.
#![allow(clippy::arithmetic_side_effects)]

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::error::EngineError;
use crate::gguf::{GgufFile, Header};

/// Layers of one model.
const MAX_LAYERS: usize = 256;
/// Width of one layer, its feed-forward width, and its heads.
const MAX_WIDTH: usize = 65_536;
/// Tokens of context.
const MAX_CONTEXT: usize = 1 << 20;
/// All weights of one model together: 8 GiB of f32.
pub(crate) const MAX_WEIGHTS: usize = 2 << 30;

/// A model's dimensions, checked to fit together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    feed_forward: usize,
    pub(crate) context: usize,
    vocabulary: usize,
    rope_base: f64,
    norm_epsilon: f64,
}

impl Config {
    /// Reads the dimensions. `vocabulary` is the number of tokens of the tokenizer.
    pub(crate) fn from_header(header: &Header, vocabulary: usize) -> Result<Self, EngineError> {
        let unsupported = |feature, found: &str| EngineError::Unsupported {
            feature,
            found: found.to_owned(),
        };
        let architecture = header.text("general.architecture")?;
        if architecture != "llama" {
            return Err(unsupported("architecture", architecture));
        }
        if let Some(key) = header
            .metadata
            .keys()
            .find(|key| key.starts_with("llama.rope.scaling") || key.starts_with("llama.expert"))
        {
            return Err(unsupported("variant", key));
        }
        let width = header.positive("llama.embedding_length", MAX_WIDTH)?;
        let heads = header.positive("llama.attention.head_count", width)?;
        let kv_heads = header.positive("llama.attention.head_count_kv", heads)?;
        let inconsistent = |what, left, right| Err(EngineError::Inconsistent { what, left, right });
        if !width.is_multiple_of(heads) {
            return inconsistent("width and heads", width, heads);
        }
        if !heads.is_multiple_of(kv_heads) {
            return inconsistent("query and key heads", heads, kv_heads);
        }
        let head_width = width.checked_div(heads).unwrap_or(0);
        let rotated = header.positive("llama.rope.dimension_count", MAX_WIDTH)?;
        if rotated != head_width || !head_width.is_multiple_of(2) {
            return inconsistent("head width and rotated width", head_width, rotated);
        }
        let listed = header.positive("llama.vocab_size", crate::vocabulary::MAX_VOCABULARY)?;
        if listed != vocabulary {
            return inconsistent("vocabulary sizes", listed, vocabulary);
        }
        Ok(Self {
            layers: header.positive("llama.block_count", MAX_LAYERS)?,
            width,
            heads,
            kv_heads,
            head_width,
            feed_forward: header.positive("llama.feed_forward_length", MAX_WIDTH)?,
            context: header.positive("llama.context_length", MAX_CONTEXT)?,
            vocabulary,
            rope_base: header.positive_float("llama.rope.freq_base")?,
            norm_epsilon: header.positive_float("llama.attention.layer_norm_rms_epsilon")?,
        })
    }

    /// Bytes of keys and values per token of context.
    pub(crate) fn cache_bytes_per_token(&self) -> u64 {
        let elements = [
            2,
            self.layers,
            self.kv_heads,
            self.head_width,
            size_of::<f32>(),
        ];
        elements
            .iter()
            .fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

struct Layer {
    attention_norm: Tensor<2>,
    query_key_value: Tensor<2>,
    output: Tensor<2>,
    feed_forward_norm: Tensor<2>,
    gate_up: Tensor<2>,
    down: Tensor<2>,
}

/// The weights of one model, shared by all its generations.
pub(crate) struct Llama {
    pub(crate) config: Config,
    layers: Vec<Layer>,
    embedding: Tensor<2>,
    norm: Tensor<2>,
    head: Tensor<2>,
    device: Device,
    /// Elements of all weights.
    pub(crate) elements: usize,
}

/// Keys and values of what one generation has read and written.
pub(crate) struct Cache {
    /// Per layer, `[kv_heads, capacity, head_width]`.
    layers: Vec<(Tensor<3>, Tensor<3>)>,
    length: usize,
    capacity: usize,
}

impl Cache {
    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.length
    }
}

/// Reads tensors of a file by name, remembering which were used.
struct Loader<'f> {
    file: &'f GgufFile,
    device: &'f Device,
    head_width: usize,
    used: usize,
    elements: usize,
}

/// The parts of one matrix, one below the other: tensor name, rows, and whether its rows are interleaved.
type Part<'a> = (&'a str, usize, bool);

impl Loader<'_> {
    /// A matrix `[Σ rows, columns]`, seen as `[columns, Σ rows]`.
    fn matrix(&mut self, parts: &[Part<'_>], columns: usize) -> Result<Tensor<2>, EngineError> {
        Ok(self.rows(parts, columns)?.swap_dims(0, 1))
    }

    fn rows(&mut self, parts: &[Part<'_>], columns: usize) -> Result<Tensor<2>, EngineError> {
        let mut all = Vec::new();
        let mut rows = 0usize;
        for &(name, part_rows, interleaved) in parts {
            let start = all.len();
            self.file.tensor(name, &[columns, part_rows], &mut all)?;
            self.count(all.len().saturating_sub(start));
            if interleaved && let Some(part) = all.get_mut(start..) {
                halve_heads(part, columns, self.head_width);
            }
            rows = rows.saturating_add(part_rows);
        }
        // `file.tensor` has checked that each part has just these dimensions, so the product fits.
        Ok(Tensor::from_data(
            TensorData::new(all, [rows, columns]),
            self.device,
        ))
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor<2>, EngineError> {
        let mut all = Vec::new();
        self.file.tensor(name, &[width], &mut all)?;
        self.count(all.len());
        Ok(Tensor::from_data(
            TensorData::new(all, [1, width]),
            self.device,
        ))
    }

    fn count(&mut self, elements: usize) {
        self.used = self.used.saturating_add(1);
        self.elements = self.elements.saturating_add(elements);
    }
}

/// Reorders the rows of each head from pairs (2i, 2i+1) to halves (i, i + d/2).
fn halve_heads(rows: &mut [f32], columns: usize, head_width: usize) {
    let half = head_width / 2;
    let mut ordered = Vec::new();
    for head in rows.chunks_exact_mut(columns.saturating_mul(head_width).max(1)) {
        ordered.clear();
        for parity in 0..2 {
            for i in 0..half {
                let row = i.saturating_mul(2).saturating_add(parity);
                ordered.extend(
                    head.chunks_exact(columns.max(1))
                        .nth(row)
                        .unwrap_or_default(),
                );
            }
        }
        head.copy_from_slice(&ordered);
    }
}

impl Llama {
    /// Loads all weights of a file.
    pub(crate) fn load(
        file: &GgufFile,
        vocabulary: usize,
        device: Device,
    ) -> Result<Self, EngineError> {
        let header = file.header();
        let config = Config::from_header(header, vocabulary)?;
        let total = header
            .tensors
            .values()
            .fold(0usize, |sum, t| sum.saturating_add(t.elements));
        if total > MAX_WEIGHTS {
            return Err(EngineError::TooManyWeights { limit: MAX_WEIGHTS });
        }
        let Config {
            width,
            heads,
            kv_heads,
            head_width,
            feed_forward,
            ..
        } = config;
        let kv_width = kv_heads.saturating_mul(head_width);
        let query_width = heads.saturating_mul(head_width);

        let mut loader = Loader {
            file,
            device: &device,
            head_width,
            used: 0,
            elements: 0,
        };
        let mut layers = Vec::with_capacity(config.layers);
        for n in 0..config.layers {
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            layers.push(Layer {
                attention_norm: loader.vector(&name("attn_norm"), width)?,
                query_key_value: loader.matrix(
                    &[
                        (&name("attn_q"), query_width, true),
                        (&name("attn_k"), kv_width, true),
                        (&name("attn_v"), kv_width, false),
                    ],
                    width,
                )?,
                output: loader.matrix(&[(&name("attn_output"), width, false)], query_width)?,
                feed_forward_norm: loader.vector(&name("ffn_norm"), width)?,
                gate_up: loader.matrix(
                    &[
                        (&name("ffn_gate"), feed_forward, false),
                        (&name("ffn_up"), feed_forward, false),
                    ],
                    width,
                )?,
                down: loader.matrix(&[(&name("ffn_down"), width, false)], feed_forward)?,
            });
        }
        let embedding = loader.rows(&[("token_embd.weight", vocabulary, false)], width)?;
        let norm = loader.vector("output_norm.weight", width)?;
        let head = if header.tensors.contains_key("output.weight") {
            loader.matrix(&[("output.weight", vocabulary, false)], width)?
        } else {
            // Tied: the embedding read the other way round, without a copy.
            embedding.clone().swap_dims(0, 1)
        };
        let (used, elements) = (loader.used, loader.elements);
        if used != header.tensors.len() {
            // Biases, rotary factors, experts: weights whose part in the computation we do not know.
            return Err(EngineError::Inconsistent {
                what: "tensors used and tensors in the file",
                left: used,
                right: header.tensors.len(),
            });
        }
        Ok(Self {
            config,
            layers,
            embedding,
            norm,
            head,
            device,
            elements,
        })
    }

    /// Room for `capacity` tokens.
    pub(crate) fn cache(&self, capacity: usize) -> Cache {
        let shape = [self.config.kv_heads, capacity, self.config.head_width];
        let room = || Tensor::zeros(shape, &self.device);
        Cache {
            layers: self.layers.iter().map(|_| (room(), room())).collect(),
            length: 0,
            capacity,
        }
    }

    /// Reads tokens after those in the cache. Gives the last layer's output for the last of them.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, there are none, or the cache has no room for them.
    pub(crate) fn read(&self, cache: &mut Cache, tokens: &[u32]) -> Result<Hidden, EngineError> {
        let config = &self.config;
        let ids = tokens
            .iter()
            .map(|&token| match i32::try_from(token) {
                Ok(id) if (token as usize) < config.vocabulary => Ok(id),
                _ => Err(EngineError::UnknownToken {
                    token,
                    vocabulary: config.vocabulary,
                }),
            })
            .collect::<Result<Vec<i32>, _>>()?;
        let count = ids.len();
        let start = cache.length;
        let end = start.saturating_add(count);
        if count == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if end > cache.capacity {
            return Err(EngineError::ContextTooLong {
                prompt: end,
                limit: cache.capacity,
            });
        }
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &self.device);
        let mut x = self.embedding.clone().select(0, ids);
        let rotation = self.rotation(start, count);
        let mask = (count > 1).then(|| self.causal_mask(start, count));
        for (layer, (keys, values)) in self.layers.iter().zip(&mut cache.layers) {
            let attended = self.attention(
                layer,
                x.clone(),
                keys,
                values,
                start,
                &rotation,
                mask.as_ref(),
            );
            x = x + attended;
            let fed = self.feed_forward(layer, x.clone());
            x = x + fed;
        }
        cache.length = end;
        Ok(Hidden(x.slice([end_of(count), 0..config.width])))
    }

    /// The logits of the token that follows.
    pub(crate) fn logits(&self, hidden: Hidden) -> Result<Vec<f32>, EngineError> {
        let logits = self
            .normalise(hidden.0, &self.norm)
            .matmul(self.head.clone());
        logits
            .into_data()
            .try_into_vec::<f32>()
            .map_err(|error| EngineError::Tensor(Box::new(error)))
    }

    fn normalise(&self, x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        x / mean_square.add_scalar(self.config.norm_epsilon).sqrt() * weight.clone()
    }

    /// Cosines and sines for `count` positions from `start`, `[count, 1, head_width]`; both halves alike.
    fn rotation(&self, start: usize, count: usize) -> (Tensor<3>, Tensor<3>) {
        let width = self.config.head_width;
        let half = width / 2;
        let angles: Vec<f64> = (start..start.saturating_add(count))
            .flat_map(|position| {
                (0..width).map(move |i| {
                    let pair = (i % half.max(1)) as f64;
                    position as f64 / self.config.rope_base.powf(2.0 * pair / width as f64)
                })
            })
            .collect();
        let tensor = |function: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&a| function(a) as f32).collect();
            Tensor::from_data(TensorData::new(values, [count, 1, width]), &self.device)
        };
        (tensor(f64::cos), tensor(f64::sin))
    }

    /// 0 where a token may look, −∞ where it may not, for all query heads of one key head:
    /// `[1, group · count, start + count]`.
    fn causal_mask(&self, start: usize, count: usize) -> Tensor<3> {
        let end = start.saturating_add(count);
        let group = self.group();
        let row = |i: usize| {
            let seen = start.saturating_add(i);
            (0..end).map(move |j| if j > seen { f32::NEG_INFINITY } else { 0.0 })
        };
        let values: Vec<f32> = (0..group).flat_map(|_| (0..count).flat_map(row)).collect();
        let rows = group.saturating_mul(count);
        Tensor::from_data(TensorData::new(values, [1, rows, end]), &self.device)
    }

    /// Query heads that share one key head.
    fn group(&self) -> usize {
        self.config
            .heads
            .checked_div(self.config.kv_heads)
            .unwrap_or(1)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the two halves of one layer's cache are borrowed apart"
    )]
    fn attention(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        keys: &mut Tensor<3>,
        values: &mut Tensor<3>,
        start: usize,
        (cos, sin): &(Tensor<3>, Tensor<3>),
        mask: Option<&Tensor<3>>,
    ) -> Tensor<2> {
        let Config {
            heads,
            kv_heads,
            head_width,
            ..
        } = self.config;
        let [count, _] = x.dims();
        let end = start + count;
        let group = self.group();
        let turned = heads + kv_heads;

        let qkv = self
            .normalise(x, &layer.attention_norm)
            .matmul(layer.query_key_value.clone())
            .reshape([count, turned + kv_heads, head_width]);
        let qk = qkv.clone().slice([0..count, 0..turned]);
        let half = head_width / 2;
        let swapped = Tensor::cat(
            vec![
                qk.clone()
                    .slice([0..count, 0..turned, half..head_width])
                    .neg(),
                qk.clone().slice([0..count, 0..turned, 0..half]),
            ],
            2,
        );
        let qk = qk * cos.clone() + swapped * sin.clone();
        let new_keys = qk.clone().slice([0..count, heads..turned]).swap_dims(0, 1);
        let new_values = qkv
            .slice([0..count, turned..turned + kv_heads])
            .swap_dims(0, 1);
        keys.inplace(|all| all.slice_assign([0..kv_heads, start..end], new_keys));
        values.inplace(|all| all.slice_assign([0..kv_heads, start..end], new_values));
        let keys = keys.clone().slice([0..kv_heads, 0..end]);
        let values = values.clone().slice([0..kv_heads, 0..end]);

        // Query heads of one group stand below one another, so that each key head is multiplied once.
        let queries = qk.slice([0..count, 0..heads]).swap_dims(0, 1).reshape([
            kv_heads,
            group * count,
            head_width,
        ]);
        let scale = 1.0 / (head_width as f64).sqrt();
        let mut scores = queries.matmul(keys.swap_dims(1, 2)).mul_scalar(scale);
        if let Some(mask) = mask {
            scores = scores + mask.clone();
        }
        activation::softmax(scores, 2)
            .matmul(values)
            .reshape([heads, count, head_width])
            .swap_dims(0, 1)
            .reshape([count, heads * head_width])
            .matmul(layer.output.clone())
    }

    fn feed_forward(&self, layer: &Layer, x: Tensor<2>) -> Tensor<2> {
        let width = self.config.feed_forward;
        let [count, _] = x.dims();
        let both = self
            .normalise(x, &layer.feed_forward_norm)
            .matmul(layer.gate_up.clone());
        let gate = both.clone().slice([0..count, 0..width]);
        let up = both.slice([0..count, width..width.saturating_mul(2)]);
        (activation::silu(gate) * up).matmul(layer.down.clone())
    }
}

/// What the last layer says of the last token read.
pub(crate) struct Hidden(Tensor<2>);

fn end_of(count: usize) -> std::ops::Range<usize> {
    count.saturating_sub(1)..count
}
