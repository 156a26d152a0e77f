//! Llama (Touvron et al., 2023; Grattafiori et al., *The Llama 3 Herd of Models*, 2024), and what was built
//! like it: SmolLM2, TinyLlama, Mistral's first.

use crate::EngineError;
use crate::layers::{
    Block, Feed, Gate, GroupedAttention, GroupedShape, PreNorm, Rope, Trunk, Weights,
};

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    config.expect_text("hidden_act", &["silu"])?;
    let shape = GroupedShape::from_config(&config)?;
    let between = config.size("intermediate_size")?;
    let mut rope = Rope::from_config(&config, shape.head_width)?;
    if weights.has("rope_freqs.weight") {
        rope = rope.divided(&weights.vector("rope_freqs.weight", shape.head_width / 2)?);
    }
    let mut blocks: Vec<Box<dyn Block>> = Vec::new();
    for layer in 0..config.layers()? {
        let prefix = format!("model.layers.{layer}");
        let attention = GroupedAttention::load(weights, &format!("{prefix}.self_attn"), shape)?;
        let sizes = [shape.width, between];
        let mlp = Feed::dense(weights, &format!("{prefix}.mlp"), sizes, Gate::Silu)?;
        blocks.push(Box::new(PreNorm::new(
            weights,
            &prefix,
            attention,
            Feed::Dense(mlp),
        )?));
    }
    Trunk::around(blocks, vec![rope], weights)
}
