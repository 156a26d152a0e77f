//! Model families: what each makes of the shared layers. One file a family.
//!
//! A family is a function from a checkpoint's configuration and weights, under Hugging Face's names, to a
//! [`Trunk`]. To add one: write the file, name its architecture in [`FAMILIES`], and give the tests a tiny
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

/// Architectures, as `config.json` names them, and who loads them.
const FAMILIES: &[(&str, Load)] = &[
    ("LlamaForCausalLM", llama::load),
    ("Qwen2ForCausalLM", qwen2::load),
    ("Qwen3ForCausalLM", qwen3::load),
    ("Qwen3MoeForCausalLM", qwen3_moe::load),
    ("DeepseekV2ForCausalLM", deepseek::load),
    ("DeepseekV3ForCausalLM", deepseek::load),
    ("Gemma3ForCausalLM", gemma3::load),
];

/// The architectures that can be loaded.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// Loads what the configuration's `architectures` names.
///
/// # Errors
/// [`EngineError::UnknownArchitecture`], and what the family itself finds.
pub(crate) fn load(weights: &mut Weights<'_>) -> Result<Trunk, EngineError> {
    let config = weights.config();
    let named = config.texts("architectures").unwrap_or_default();
    let found = FAMILIES.iter().find(|(name, _)| named.contains(name));
    let (_, load) = found.ok_or_else(|| EngineError::UnknownArchitecture {
        found: named.join(", "),
        known: known().collect::<Vec<_>>().join(", "),
    })?;
    load(weights)
}
