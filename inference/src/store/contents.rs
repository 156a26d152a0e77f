//! What is in a model, and how much room it needs.

use std::collections::BTreeMap;
use std::path::Path;

use cocoon_protocol::Digest;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Progress, StoreError, Watch};
use crate::checkpoint::Checkpoint;

/// Bytes of one number in the cache of keys and values.
const CACHE_NUMBER_BYTES: u64 = 2;
/// Share of the memory that is left to everything else: activations, text, the system. In percent.
const LEFT_FREE_PERCENT: u64 = 10;

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// As in Hugging Face's `config.json`: `LlamaForCausalLM`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// Bytes of weights by the format they are stored in.
    pub formats: BTreeMap<String, u64>,
    /// Bytes of all weights as they are stored, and as they lie in memory.
    pub weights_bytes: u64,
    /// Tokens of prompt and answer together.
    pub context_tokens: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Layers.
    pub layers: u64,
    /// Bytes of keys and values for each token of prompt and answer, at 16 bits a number. Layers that look
    /// back only so far are counted as if they looked back to the beginning.
    pub cache_bytes_per_token: u64,
    /// Whether it has a chat template; without one it completes text but holds no conversations.
    pub chat_template: bool,
    /// What evidence calls it.
    pub digest: Digest,
}

impl Contents {
    /// Opens a model and looks at it. Reads all of it, for the digest.
    ///
    /// # Errors
    /// [`StoreError::Model`]; the files may be a stranger's.
    pub fn of(path: &Path, watch: Watch<'_>) -> Result<Self, StoreError> {
        let what = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let checkpoint = Checkpoint::open(path, &mut |done, total| {
            watch(Progress {
                doing: "reading",
                what: &what,
                done,
                total,
            });
        })?;
        let mut formats: BTreeMap<String, u64> = BTreeMap::new();
        let mut parameters = 0u64;
        let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
        for name in names {
            // A tensor in a format that is not read is counted when it is needed, not here.
            let Ok(tensor) = checkpoint.tensor(&name) else {
                continue;
            };
            let elements = tensor
                .dims
                .iter()
                .fold(1u64, |n, d| n.saturating_mul(*d as u64));
            parameters = parameters.saturating_add(elements);
            let bytes = formats.entry(format!("{:?}", tensor.format)).or_default();
            *bytes = bytes.saturating_add(tensor.bytes.len() as u64);
        }
        let config = checkpoint.config();
        Ok(Self {
            architecture: checkpoint.architecture().to_owned(),
            parameters,
            weights_bytes: checkpoint.tensor_bytes(),
            formats,
            context_tokens: number(config, "max_position_embeddings"),
            vocabulary: number(config, "vocab_size"),
            layers: number(config, "num_hidden_layers"),
            cache_bytes_per_token: cache_bytes_per_token(config),
            chat_template: checkpoint.template().is_ok(),
            digest: checkpoint.digest(),
        })
    }

    /// Tokens of all conversations together that a cache can hold beside the weights in this much memory.
    #[must_use]
    pub fn tokens_in(&self, memory_bytes: u64) -> u64 {
        let free = (memory_bytes / 100).saturating_mul(LEFT_FREE_PERCENT);
        memory_bytes
            .saturating_sub(free)
            .saturating_sub(self.weights_bytes)
            .checked_div(self.cache_bytes_per_token)
            .unwrap_or(0)
    }
}

fn number(config: &Map<String, Value>, key: &str) -> u64 {
    config.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// Keys and values of all layers; with latent attention (DeepSeek-V2, arXiv 2405.04434), one latent vector
/// and the rotated part of the key.
fn cache_bytes_per_token(config: &Map<String, Value>) -> u64 {
    let number = |key| number(config, key);
    let layers = number("num_hidden_layers");
    let latent = number("kv_lora_rank");
    let numbers = if latent > 0 {
        latent.saturating_add(number("qk_rope_head_dim"))
    } else {
        let heads = number("num_attention_heads");
        let kv_heads = match number("num_key_value_heads") {
            0 => heads,
            kv_heads => kv_heads,
        };
        let width = match number("head_dim") {
            0 => number("hidden_size").checked_div(heads).unwrap_or(0),
            width => width,
        };
        kv_heads.saturating_mul(width).saturating_mul(2)
    };
    layers
        .saturating_mul(numbers)
        .saturating_mul(CACHE_NUMBER_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_cache_of_known_models_is_what_the_papers_say() {
        // Llama 3 8B: 32 layers, 8 heads of 128 for keys and values: 128 KiB.
        let llama = config(
            json!({"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "hidden_size": 4096}),
        );
        assert_eq!(cache_bytes_per_token(&llama), 128 * 1024);
        // Qwen3 0.6B says its head's width: 28 layers, 8 heads of 128.
        let qwen = config(
            json!({"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
            "hidden_size": 1024, "head_dim": 128}),
        );
        assert_eq!(cache_bytes_per_token(&qwen), 28 * 8 * 128 * 2 * 2);
        // DeepSeek-V2-Lite: 27 layers, a latent of 512 and 64 rotated.
        let deepseek = config(
            json!({"num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
            "hidden_size": 2048, "kv_lora_rank": 512, "qk_rope_head_dim": 64}),
        );
        assert_eq!(cache_bytes_per_token(&deepseek), 27 * 576 * 2);
        assert_eq!(cache_bytes_per_token(&Map::new()), 0);
    }
}
