//! DeepSeek-V2 and V3 (DeepSeek-AI, 2024): latent attention, and many small experts beside shared ones.
//!
//! Keys and values of all heads are products of one latent row per token. The cache keeps that row and the
//! rotated part of the key, nothing per head: the product with the keys' weights is moved to the queries, and
//! that with the values' weights behind the attention (V2's paper, appendix C). What is left is attention with a
//! single key head, whose values are the beginnings of its keys.

use std::ops::Range;

use super::Config;
use crate::EngineError;
use crate::layers::{
    Activations, Attention, Block, Feed, Gate, Groups, Linear, Norm, Rope, Routing, Run, Trunk,
    Weights,
};

/// The sizes of latent attention.
#[derive(Debug, Clone, Copy)]
struct Shape {
    width: usize,
    heads: usize,
    /// Of the latent row.
    rank: usize,
    /// Parts of a head's query and key that are not turned, and that are.
    plain: usize,
    turned: usize,
    value: usize,
}

struct LatentBlock {
    shape: Shape,
    attention_norm: Norm,
    queries: Queries,
    /// To the latent row and the turned part of the key.
    compress: Linear,
    latent_norm: Norm,
    /// Per head: from a query's plain part to the latent space.
    absorb: Vec<Linear>,
    /// Per head: from the latent space to values.
    expand: Vec<Linear>,
    output: Linear,
    attention: Attention,
    feed_norm: Norm,
    feed: Feed,
}

#[expect(clippy::large_enum_variant, reason = "one of them a layer")]
/// Queries come from the row itself, or from a compressed one.
enum Queries {
    Direct(Linear),
    Compressed {
        down: Linear,
        norm: Norm,
        up: Linear,
    },
}

impl Shape {
    fn query(&self) -> usize {
        self.plain.saturating_add(self.turned)
    }

    /// Columns of the plain and the turned part of a head's query.
    fn parts(&self, head: usize) -> [Range<usize>; 2] {
        let start = head.saturating_mul(self.query());
        let middle = start.saturating_add(self.plain);
        [start..middle, middle..middle.saturating_add(self.turned)]
    }
}

impl Block for LatentBlock {
    fn forward(&self, run: &mut Run<'_, '_>, x: Activations) -> Result<Activations, EngineError> {
        let place = run.place;
        let Shape {
            heads,
            rank,
            turned,
            ..
        } = self.shape;
        let normed = self.attention_norm.forward(place, &x);
        let queries = match &self.queries {
            Queries::Direct(linear) => linear.forward(place, &normed),
            Queries::Compressed { down, norm, up } => {
                let low = norm.forward(place, &down.forward(place, &normed));
                up.forward(place, &low)
            }
        };
        let parts = || (0..heads).map(|head| self.shape.parts(head));
        let rotary = parts().map(|[_, turned]| queries.columns(turned)).collect();
        let rotary = run.turn(0, Activations::beside(rotary), heads);
        let mut absorbed = Vec::new();
        for ((head, [plain, _]), absorb) in parts().enumerate().zip(&self.absorb) {
            let start = head.saturating_mul(turned);
            absorbed.push(absorb.forward(place, &queries.columns(plain)));
            absorbed.push(rotary.columns(start..start.saturating_add(turned)));
        }
        let queries = Activations::beside(absorbed);

        let compressed = self.compress.forward(place, &normed);
        let latent = self
            .latent_norm
            .forward(place, &compressed.columns(0..rank));
        let key = compressed.columns(rank..rank.saturating_add(turned));
        let keys = Activations::beside(vec![latent, run.turn(0, key, 1)]);

        let seen = run.attend(&self.attention, [queries, keys], None);
        let mut values = Vec::new();
        for (head, expand) in self.expand.iter().enumerate() {
            let start = head.saturating_mul(rank);
            let part = seen.columns(start..start.saturating_add(rank));
            values.push(expand.forward(place, &part));
        }
        let attended = self.output.forward(place, &Activations::beside(values));
        let x = x.plus(place, attended);
        let normed = self.feed_norm.forward(place, &x);
        let fed = self.feed.forward(place, &normed)?;
        Ok(x.plus(place, fed))
    }

    fn attention(&self) -> &Attention {
        &self.attention
    }
}

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    config.expect_text("hidden_act", &["silu"])?;
    let shape = Shape {
        width: config.size("hidden_size")?,
        heads: config.size("num_attention_heads")?,
        rank: config.size("kv_lora_rank")?,
        plain: config.size("qk_nope_head_dim")?,
        turned: config.size("qk_rope_head_dim")?,
        value: config.size("v_head_dim")?,
    };
    if !shape.turned.is_multiple_of(2) {
        return Err(EngineError::Inconsistent {
            what: "qk_rope_head_dim and the pairs that are rotated",
            left: shape.turned,
            right: 2,
        });
    }
    let rope = Rope::from_config(&config, shape.turned)?;
    let layers = config.layers()?;
    let mut blocks: Vec<Box<dyn Block>> = Vec::new();
    for layer in 0..layers {
        blocks.push(Box::new(block(weights, &config, shape, layer)?));
    }
    // Layers that guess the token after the next one, for training and speculation.
    for extra in 0..config.count("num_nextn_predict_layers")? {
        weights.pass_over_all(&format!("model.layers.{}.", layers.saturating_add(extra)));
    }
    Trunk::around(blocks, vec![rope], weights)
}

fn block(
    weights: &mut Weights<'_>,
    config: &Config<'_>,
    shape: Shape,
    layer: usize,
) -> Result<LatentBlock, EngineError> {
    let Shape {
        width,
        heads,
        rank,
        plain,
        turned,
        value,
    } = shape;
    let prefix = format!("model.layers.{layer}");
    let name = |part: &str| format!("{prefix}.self_attn.{part}");
    let query_rows = heads.saturating_mul(shape.query());
    // Pairs that are turned together stand side by side in these checkpoints; here half a head apart.
    let apart = move |head_width: usize, plain: usize| {
        let halves = crate::layers::halves(turned);
        move |row: usize| {
            let at = row.checked_rem(head_width).unwrap_or(0);
            let head = row.checked_div(head_width).unwrap_or(0);
            let at = match at.checked_sub(plain) {
                Some(at) => plain.saturating_add(halves(at)),
                None => at,
            };
            head.saturating_mul(head_width).saturating_add(at)
        }
    };
    let of_queries = apart(shape.query(), plain);
    let queries = match config.count("q_lora_rank")? {
        0 => {
            Queries::Direct(weights.reordered(&name("q_proj"), [query_rows, width], of_queries)?)
        }
        low => Queries::Compressed {
            down: weights.linear(&[(&name("q_a_proj"), low)], width)?,
            norm: weights.norm(&name("q_a_layernorm"), low)?,
            up: weights.reordered(&name("q_b_proj"), [query_rows, low], of_queries)?,
        },
    };
    let kept = rank.saturating_add(turned);
    let compress = weights.reordered(
        &name("kv_a_proj_with_mqa"),
        [kept, width],
        apart(kept, rank),
    )?;

    let of_head = plain.saturating_add(value);
    let dims = [heads.saturating_mul(of_head), rank];
    let both = weights.numbers(&name("kv_b_proj.weight"), &dims)?;
    let (mut absorb, mut expand) = (Vec::new(), Vec::new());
    for head in both.chunks_exact(of_head.saturating_mul(rank).max(1)) {
        let (keys, values) = head.split_at(plain.saturating_mul(rank));
        let column = |c: usize| keys.iter().skip(c).step_by(rank).copied();
        let transposed: Vec<f32> = (0..rank).flat_map(column).collect();
        absorb.push(weights.computed(&transposed, [rank, plain])?);
        expand.push(weights.computed(values, [value, rank])?);
    }

    Ok(LatentBlock {
        shape,
        attention_norm: weights.norm(&format!("{prefix}.input_layernorm"), width)?,
        queries,
        compress,
        latent_norm: weights.norm(&name("kv_a_layernorm"), rank)?,
        absorb,
        expand,
        output: weights.linear(&[(&name("o_proj"), width)], heads.saturating_mul(value))?,
        attention: Attention {
            heads,
            kv_heads: 1,
            key_width: kept,
            value_width: rank,
            scale: (shape.query() as f32).sqrt().recip() * magnitude(config)?,
            window: None,
            value_in_key: true,
        },
        feed_norm: weights.norm(&format!("{prefix}.post_attention_layernorm"), width)?,
        feed: feed(weights, config, &prefix, width, layer)?,
    })
}

/// YaRN's factor on the scores: once for the query and once for the key.
fn magnitude(config: &Config<'_>) -> Result<f32, EngineError> {
    let Some(scaling) = config.section("rope_scaling") else {
        return Ok(1.0);
    };
    let all = scaling.float_or("mscale_all_dim", 0.0)?;
    let factor = scaling.float_or("factor", 1.0)?;
    if all == 0.0 || factor <= 1.0 {
        return Ok(1.0);
    }
    Ok((0.1 * all * factor.ln() + 1.0).powi(2) as f32)
}

fn feed(
    weights: &mut Weights<'_>,
    config: &Config<'_>,
    layer_prefix: &str,
    width: usize,
    layer: usize,
) -> Result<Feed, EngineError> {
    let prefix = &format!("{layer_prefix}.mlp");
    let experts = config.count("n_routed_experts")?;
    let first = config.count("first_k_dense_replace")?;
    let every = config.size_or("moe_layer_freq", 1)?;
    if experts == 0 || layer < first || !layer.is_multiple_of(every) {
        let sizes = [width, config.size("intermediate_size")?];
        return Feed::dense(weights, prefix, sizes, Gate::Silu).map(Feed::Dense);
    }
    let correction = format!("{prefix}.gate.e_score_correction_bias");
    let v3 = weights.has(&correction);
    let scoring = config.text_or("scoring_func", if v3 { "sigmoid" } else { "softmax" })?;
    let method = config.text_or("topk_method", if v3 { "noaux_tc" } else { "greedy" })?;
    let groups = Groups {
        all: config.size_or("n_group", 1)?,
        chosen: config.size_or("topk_group", 1)?,
        judged_by: if v3 { 2 } else { 1 },
    };
    if !experts.is_multiple_of(groups.all) {
        return Err(EngineError::Inconsistent {
            what: "experts and their groups",
            left: experts,
            right: groups.all,
        });
    }
    let routing = Routing {
        chosen: config.size("num_experts_per_tok")?.min(experts),
        sigmoid: scoring == "sigmoid",
        correction: v3
            .then(|| weights.vector(&correction, experts))
            .transpose()?,
        groups: (method != "greedy" && groups.all > 1).then_some(groups),
        normalise: config.flag_or("norm_topk_prob", v3)?,
        scale: config.float_or("routed_scaling_factor", 1.0)? as f32,
    };
    let between = config.size("moe_intermediate_size")?;
    let mut moe = Feed::experts(weights, layer_prefix, [width, between], experts, routing)?;
    let shared = config.count("n_shared_experts")?;
    if shared > 0 {
        let sizes = [width, between.saturating_mul(shared)];
        let name = format!("{prefix}.shared_experts");
        moe.shared = Some(Feed::dense(weights, &name, sizes, Gate::Silu)?);
    }
    Ok(Feed::Experts(Box::new(moe)))
}
