//! Model families: what each makes of the shared layers. One file a family.
//!
//! A family is a function from a checkpoint's configuration and weights, under Hugging Face's names, to a
//! [`Trunk`]. To add one: write the file, name its architecture in [`FAMILIES`] and in the checkpoint's list, and give the tests a tiny
//! checkpoint (`inference/reference`).

mod config;
mod deepseek;
mod gemma3;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3_moe;

pub(crate) use config::Config;

use crate::EngineError;
use crate::layers::{Trunk, Weights};

type Load = fn(&mut Weights<'_>) -> Result<Trunk, EngineError>;

/// Who loads each of [`crate::checkpoint::KNOWN_ARCHITECTURES`].
const FAMILIES: &[(&str, Load)] = &[
    ("LlamaForCausalLM", llama::load),
    ("Qwen2ForCausalLM", qwen2::load),
    ("Qwen3ForCausalLM", qwen3::load),
    ("Qwen3MoeForCausalLM", qwen3_moe::load),
    ("DeepseekV2ForCausalLM", deepseek::load),
    ("DeepseekV3ForCausalLM", deepseek::load),
    ("Gemma3ForCausalLM", gemma3::load),
];

/// Loads what the configuration's `architectures` names. A checkpoint of another has not been opened.
///
/// # Errors
/// What the family finds.
pub(crate) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    let named = config.texts("architectures").unwrap_or_default();
    let found = FAMILIES.iter().find(|(name, _)| named.contains(name));
    let (_, load) = found.ok_or_else(|| EngineError::Unsupported {
        feature: "architecture",
        found: named.join(", "),
    })?;
    load(weights)
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::KNOWN_ARCHITECTURES;

    #[test]
    fn every_architecture_that_a_checkpoint_may_have_is_loaded_by_a_family() {
        let families: Vec<&str> = super::FAMILIES.iter().map(|(name, _)| *name).collect();
        assert_eq!(families, KNOWN_ARCHITECTURES);
    }
}
