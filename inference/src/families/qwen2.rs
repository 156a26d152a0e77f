//! Qwen2 and Qwen2.5 (Yang et al., 2024), and so DeepSeek-R1-Distill-Qwen: Llama with biases on query, key and
//! value, which [`GroupedAttention::load`] takes where the checkpoint has them.
//!
//! [`GroupedAttention::load`]: crate::layers::GroupedAttention::load

use crate::EngineError;
use crate::layers::{Trunk, Weights};

pub(super) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    if config.flag_or("use_sliding_window", false)? {
        return Err(EngineError::Unsupported {
            feature: "attention",
            found: "use_sliding_window".to_owned(),
        });
    }
    super::llama::load(weights)
}
