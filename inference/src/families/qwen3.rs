//! Qwen3, dense (Yang et al., *Qwen3 Technical Report*, 2025): Llama with a norm of each query and key head.

use crate::EngineError;
use crate::layers::{
    Block, Feed, Gate, GroupedAttention, GroupedShape, PreNorm, Rope, Trunk, Weights,
};

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let between = weights.config().size("intermediate_size")?;
    with_feed(weights, |weights, prefix, width, _| {
        let prefix = format!("{prefix}.mlp");
        Feed::dense(weights, &prefix, [width, between], Gate::Silu).map(Feed::Dense)
    })
}

/// Qwen3's frame around a feed-forward of the caller's, which gets `model.layers.N`, the model's width
/// and the layer's number.
pub(super) fn with_feed(
    weights: &mut Weights<'_>,
    mut feed: impl FnMut(&mut Weights<'_>, &str, usize, usize) -> Result<Feed, EngineError>,
) -> Result<Trunk, EngineError> {
    let config = weights.config();
    config.expect_text("hidden_act", &["silu"])?;
    if config.flag_or("use_sliding_window", false)? {
        return Err(EngineError::Unsupported {
            feature: "attention",
            found: "use_sliding_window".to_owned(),
        });
    }
    let shape = GroupedShape::from_config(&config)?;
    let rope = Rope::from_config(&config, shape.head_width)?;
    let mut blocks: Vec<Box<dyn Block>> = Vec::new();
    for layer in 0..config.layers()? {
        let prefix = format!("model.layers.{layer}");
        let attention_prefix = format!("{prefix}.self_attn");
        let attention = GroupedAttention::load(weights, &attention_prefix, shape)?
            .with_head_norms(weights, &attention_prefix)?;
        let feed = feed(weights, &prefix, shape.width, layer)?;
        blocks.push(Box::new(PreNorm::new(weights, &prefix, attention, feed)?));
    }
    Trunk::around(blocks, vec![rope], weights)
}
