//! Gemma 3, text (*Gemma 3 Technical Report*, 2025): norms before and after each half of a block, a norm of
//! each query and key head, GeGLU, embeddings scaled by the root of the width; of six layers five see only a
//! window and turn faster.

use crate::EngineError;
use crate::layers::{
    Activations, Attention, Block, Feed, Gate, GroupedAttention, GroupedShape, Mlp, Norm, Rope,
    Run, Trunk, Weights,
};

const GLOBAL_ROPE: usize = 0;
const LOCAL_ROPE: usize = 1;

struct Gemma3Block {
    before_attention: Norm,
    attention: GroupedAttention,
    after_attention: Norm,
    before_feed: Norm,
    feed: Mlp,
    after_feed: Norm,
}

impl Block for Gemma3Block {
    fn forward(&self, run: &mut Run<'_, '_>, x: Activations) -> Result<Activations, EngineError> {
        let place = run.place;
        let normed = self.before_attention.forward(place, &x);
        let attended = self.attention.forward(run, &normed);
        let x = x.plus(place, self.after_attention.forward(place, &attended));
        let fed = self
            .feed
            .forward(place, &self.before_feed.forward(place, &x));
        Ok(x.plus(place, self.after_feed.forward(place, &fed)))
    }

    fn attention(&self) -> &Attention {
        &self.attention.attention
    }
}

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    weights.norms_above_one();
    let config = weights.config();
    config.expect_text("hidden_activation", &["gelu_pytorch_tanh"])?;
    if config.float_or("attn_logit_softcapping", 0.0)? > 0.0 {
        return Err(EngineError::Unsupported {
            feature: "attention",
            found: "attn_logit_softcapping".to_owned(),
        });
    }
    let shape = GroupedShape::from_config(&config)?;
    let between = config.size("intermediate_size")?;
    let scale = config.float_or("query_pre_attn_scalar", shape.head_width as f64)?;
    let window = config.size("sliding_window")?;
    let types = config.texts("layer_types").unwrap_or_default();
    let is_local = |layer: usize| types.get(layer) == Some(&"sliding_attention");
    let local_base = config.float_or("rope_local_base_freq", 10_000.0)?;
    let ropes = vec![
        Rope::from_config(&config, shape.head_width)?,
        Rope::plain(shape.head_width, local_base),
    ];

    let mut blocks: Vec<Box<dyn Block>> = Vec::new();
    for layer in 0..config.layers()? {
        let prefix = format!("model.layers.{layer}");
        let attention_prefix = format!("{prefix}.self_attn");
        let mut attention = GroupedAttention::load(weights, &attention_prefix, shape)?
            .with_head_norms(weights, &attention_prefix)?;
        attention.attention.scale = scale.sqrt().recip() as f32;
        attention.attention.window = is_local(layer).then_some(window);
        attention.rope = if is_local(layer) {
            LOCAL_ROPE
        } else {
            GLOBAL_ROPE
        };
        let mut norm =
            |name: &str| weights.norm(&format!("{prefix}.{name}_layernorm"), shape.width);
        let before_attention = norm("input")?;
        let after_attention = norm("post_attention")?;
        let before_feed = norm("pre_feedforward")?;
        let after_feed = norm("post_feedforward")?;
        let sizes = [shape.width, between];
        blocks.push(Box::new(Gemma3Block {
            before_attention,
            attention,
            after_attention,
            before_feed,
            feed: Feed::dense(weights, &format!("{prefix}.mlp"), sizes, Gate::GeluTanh)?,
            after_feed,
        }));
    }
    let mut trunk = Trunk::around(blocks, ropes, weights)?;
    trunk.embedding_scale = Some((shape.width as f32).sqrt());
    let cap = config.float_or("final_logit_softcapping", 0.0)?;
    trunk.softcap = (cap > 0.0).then_some(cap as f32);
    Ok(trunk)
}
