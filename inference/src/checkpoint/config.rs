//! Which models there are, and `config.json` brought to one form.
//!
//! What is brought to one form:
//! - `rope_parameters` (transformers 5) becomes `rope_theta`, `rope_scaling` and, for Gemma 3, which has one
//!   for each kind of layer, `rope_local_base_freq`.
//! - `rope_scaling` names its kind `rope_type`, which older files call `type`; kind "default" is left out.
//! - Gemma 3's `sliding_window_pattern`, `_sliding_window_pattern` or nothing (then 6) becomes `layer_types`.

use serde_json::{Map, Value, json};

/// `architectures` of `config.json` that can be loaded.
pub const KNOWN_ARCHITECTURES: &[&str] = &[
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Gemma3ForCausalLM",
];

/// Every sixth layer of Gemma 3 sees the whole context.
const GEMMA3_PATTERN: u64 = 6;
/// More layers than any model has; bounds what is made of a number in a file.
const MAX_LAYERS: u64 = 1_024;

/// The first entry of `architectures`.
pub(super) fn architecture(config: &Map<String, Value>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// Brings the configuration to the one form.
pub(super) fn normalise(config: &mut Map<String, Value>) {
    if let Some(Value::Object(rope)) = config.remove("rope_parameters") {
        from_rope_parameters(config, &rope);
    }
    let scaling = config.remove("rope_scaling");
    if let Some(Value::Object(mut scaling)) = scaling {
        if let Some(kind) = scaling.remove("type") {
            scaling.entry("rope_type").or_insert(kind);
        }
        let kind = scaling.get("rope_type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "default") {
            config.insert("rope_scaling".to_owned(), Value::Object(scaling));
        }
    }
    if architecture(config) == Some("Gemma3ForCausalLM") && !config.contains_key("layer_types") {
        let number = |key| config.get(key).and_then(Value::as_u64);
        let pattern = number("sliding_window_pattern")
            .or_else(|| number("_sliding_window_pattern"))
            .unwrap_or(GEMMA3_PATTERN);
        let layers = number("num_hidden_layers").unwrap_or(0).min(MAX_LAYERS);
        let kinds: Vec<Value> = (1..=layers)
            .map(|layer| match layer.checked_rem(pattern) {
                Some(0) => json!("full_attention"),
                _ => json!("sliding_attention"),
            })
            .collect();
        config.insert("layer_types".to_owned(), Value::Array(kinds));
    }
}

fn from_rope_parameters(config: &mut Map<String, Value>, rope: &Map<String, Value>) {
    let mut take = |rope: &Map<String, Value>, base: &str| {
        if let Some(theta) = rope.get("rope_theta") {
            config.entry(base).or_insert_with(|| theta.clone());
        }
    };
    let mut full = rope;
    if let Some(Value::Object(sliding)) = rope.get("sliding_attention") {
        take(sliding, "rope_local_base_freq");
    }
    if let Some(Value::Object(by_kind)) = rope.get("full_attention") {
        full = by_kind;
    }
    take(full, "rope_theta");
    let mut scaling = full.clone();
    scaling.remove("rope_theta");
    if let Some(partial) = scaling.remove("partial_rotary_factor") {
        config.entry("partial_rotary_factor").or_insert(partial);
    }
    config
        .entry("rope_scaling")
        .or_insert(Value::Object(scaling));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn normalised(value: Value) -> Value {
        let Value::Object(mut config) = value else {
            panic!("an object")
        };
        normalise(&mut config);
        Value::Object(config)
    }

    #[test]
    fn rope_parameters_become_the_older_keys() {
        let got = normalised(json!({
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
        }));
        assert_eq!(
            got,
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}})
        );
        let got = normalised(json!({
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}
        }));
        assert_eq!(got, json!({"rope_theta": 1e4}));
        let got = normalised(json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}
        }}));
        assert_eq!(
            got,
            json!({
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}
            })
        );
    }

    #[test]
    fn the_older_name_of_a_scalings_kind_is_replaced() {
        let got = normalised(json!({"rope_scaling": {"type": "yarn", "factor": 40}}));
        assert_eq!(
            got,
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 40}})
        );
        assert_eq!(normalised(json!({"rope_scaling": null})), json!({}));
    }

    #[test]
    fn gemmas_layers_get_their_kinds() {
        let got = normalised(json!({
            "architectures": ["Gemma3ForCausalLM"],
            "num_hidden_layers": 4,
            "sliding_window_pattern": 2
        }));
        let kinds = ["sliding_attention", "full_attention"].repeat(2);
        assert_eq!(got["layer_types"], json!(kinds));
    }
}
