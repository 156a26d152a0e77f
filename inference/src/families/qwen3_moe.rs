//! Qwen3 with many experts (Yang et al., *Qwen3 Technical Report*, 2025): a softmax over all, the best few of
//! each token weighed against one another.

use crate::EngineError;
use crate::layers::{Feed, Gate, Routing, Trunk, Weights};

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    let experts = config.size("num_experts")?;
    let between = config.size("moe_intermediate_size")?;
    let dense_between = config.size_or("intermediate_size", between)?;
    let every = config.size_or("decoder_sparse_step", 1)?;
    let routing = Routing {
        chosen: config.size("num_experts_per_tok")?.min(experts),
        sigmoid: false,
        correction: None,
        groups: None,
        normalise: config.flag_or("norm_topk_prob", true)?,
        scale: 1.0,
    };
    super::qwen3::with_feed(weights, |weights, prefix, width, layer| {
        if layer.saturating_add(1).is_multiple_of(every) {
            let sizes = [width, between];
            let moe = Feed::experts(weights, prefix, sizes, experts, routing.clone())?;
            Ok(Feed::Experts(Box::new(moe)))
        } else {
            let sizes = [width, dense_between];
            Feed::dense(weights, &format!("{prefix}.mlp"), sizes, Gate::Silu).map(Feed::Dense)
        }
    })
}
