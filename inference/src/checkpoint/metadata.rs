//! A GGUF file's metadata as the keys of Hugging Face's `config.json`.
//!
//! GGUF's keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> and `gguf-py/gguf/constants.py`
//! of llama.cpp. What a conversion to GGUF leaves out, because llama.cpp's code for the architecture knows
//! it, is put back here: the activation of Gemma 3, the base of its sliding layers, how DeepSeek scores.

use serde_json::{Map, Value as Json, json};

use crate::error::EngineError;
use crate::gguf::{GgufError, Header, Value};

/// No dimension of a model is larger.
const MAX_DIMENSION: usize = 1 << 24;

/// `general.architecture` and the entry of `architectures` it stands for.
const ARCHITECTURES: [(&str, &str); 6] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3moe", "Qwen3MoeForCausalLM"),
    // V3 where its tensors say so.
    ("deepseek2", "DeepseekV2ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
];

/// The names of GGUF architectures that are read.
pub(super) const KNOWN: &[&str] = &["llama", "qwen2", "qwen3", "qwen3moe", "deepseek2", "gemma3"];

/// Base of Gemma 3's rotation in layers with a sliding window, which files do not say.
const GEMMA3_LOCAL_BASE: f64 = 10_000.0;
/// Layers of Gemma 3 27B, whose queries are scaled in another way than its sisters'.
const GEMMA3_27B_LAYERS: usize = 62;

/// Translates the metadata. Keys that are absent from the file are absent from the result, so that whoever
/// needs one can say which.
pub(super) fn config(header: &Header) -> Result<Map<String, Json>, EngineError> {
    let architecture = header.text("general.architecture")?;
    let name = ARCHITECTURES
        .iter()
        .find(|(gguf, _)| *gguf == architecture)
        .map(|(_, name)| *name)
        .ok_or_else(|| EngineError::Unsupported {
            feature: "architecture",
            found: architecture.to_owned(),
        })?;
    let mut keys = Keys {
        header,
        architecture,
        config: Map::new(),
    };
    keys.set("architectures", json!([name]));
    keys.set("model_type", json!(architecture));
    for (key, ours) in [
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.sliding_window", "sliding_window"),
    ] {
        keys.copy_integer(key, ours)?;
    }
    keys.copy_float("rope.freq_base", "rope_theta")?;
    keys.copy_float("attention.layer_norm_rms_epsilon", "rms_norm_eps")?;
    let vocabulary = header.texts("tokenizer.ggml.tokens").map_or(0, <[_]>::len);
    keys.set("vocab_size", json!(vocabulary));
    keys.copy_integer("vocab_size", "vocab_size")?;
    let tied = !header.tensors.contains_key("output.weight");
    keys.set("tie_word_embeddings", json!(tied));
    keys.set("hidden_act", json!("silu"));
    // A bias is there where there is a tensor of it.
    let bias = header.tensors.contains_key("blk.0.attn_q.bias");
    keys.set("attention_bias", json!(bias));
    for (key, ours) in [
        ("tokenizer.ggml.bos_token_id", "bos_token_id"),
        ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ] {
        if let Some(token) = header.token(key)? {
            keys.set(ours, json!(token));
        }
    }
    keys.rope_scaling()?;
    match architecture {
        "deepseek2" => keys.deepseek()?,
        "gemma3" => keys.gemma()?,
        _ => {
            keys.copy_integer("attention.key_length", "head_dim")?;
            keys.partial_rotation()?;
            keys.copy_integer("expert_count", "num_experts")?;
            keys.copy_integer("expert_used_count", "num_experts_per_tok")?;
            keys.copy_integer("expert_feed_forward_length", "moe_intermediate_size")?;
            if architecture == "qwen3moe" {
                // What all of them have; llama.cpp's code assumes it.
                keys.set("norm_topk_prob", json!(true));
                keys.set("decoder_sparse_step", json!(1));
            }
        }
    }
    Ok(keys.config)
}

struct Keys<'h> {
    header: &'h Header,
    architecture: &'h str,
    config: Map<String, Json>,
}

impl Keys<'_> {
    fn set(&mut self, key: &str, value: Json) {
        self.config.insert(key.to_owned(), value);
    }

    /// `rope.dimension_count` says how many elements of a head are turned: a share, where not all of them.
    fn partial_rotation(&mut self) -> Result<(), GgufError> {
        let width = self.integer("embedding_length")?;
        let heads = self.integer("attention.head_count")?;
        let head = match self.integer("attention.key_length")? {
            Some(head) => Some(head),
            None => width.zip(heads).and_then(|(w, h)| w.checked_div(h)),
        };
        if let (Some(head), Some(turned)) = (head, self.integer("rope.dimension_count")?)
            && head != turned
        {
            let share = turned as f64 / head.max(1) as f64;
            self.set("partial_rotary_factor", json!(share));
        }
        Ok(())
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(&self.key(key))
    }

    /// An integer, or an array that holds the same integer for every layer.
    fn integer(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let wrong = || GgufError::WrongValue {
            key: self.key(key),
            wanted: "an integer, the same for all layers",
        };
        let found = match self.value(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => Some(*n),
            Some(Value::Signed(n)) => u64::try_from(*n).ok(),
            Some(Value::Integers(layers)) => match layers.split_first() {
                Some((first, rest)) if rest.iter().all(|n| n == first) => {
                    u64::try_from(*first).ok()
                }
                _ => None,
            },
            Some(_) => None,
        };
        let n = usize::try_from(found.ok_or_else(wrong)?).map_err(|_| wrong())?;
        if n > MAX_DIMENSION {
            return Err(GgufError::OverLimit {
                what: "a dimension of the model",
                got: n as u64,
                limit: MAX_DIMENSION as u64,
            });
        }
        Ok(Some(n))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(GgufError::WrongValue {
                key: self.key(key),
                wanted: "a finite number",
            }),
        }
    }

    fn copy_integer(&mut self, key: &str, ours: &str) -> Result<(), GgufError> {
        if let Some(n) = self.integer(key)? {
            self.set(ours, json!(n));
        }
        Ok(())
    }

    fn copy_float(&mut self, key: &str, ours: &str) -> Result<(), GgufError> {
        if let Some(x) = self.float(key)? {
            self.set(ours, json!(shortest(x)));
        }
        Ok(())
    }

    fn copy_flag(&mut self, key: &str, ours: &str) -> Result<(), GgufError> {
        if self.value(key).is_some() {
            let flag = self.header.flag(&self.key(key))?;
            self.set(ours, json!(flag));
        }
        Ok(())
    }

    /// `rope.scaling.*`, and `rope_freqs.weight`: the factors that Llama 3's scaling comes to, which the
    /// conversion has computed already. The tensor keeps its name.
    fn rope_scaling(&mut self) -> Result<(), GgufError> {
        let kind = match self.value("rope.scaling.type") {
            Some(Value::Text(kind)) => kind.clone(),
            Some(_) => {
                return Err(GgufError::WrongValue {
                    key: self.key("rope.scaling.type"),
                    wanted: "a string",
                });
            }
            None if self.header.tensors.contains_key("rope_freqs.weight") => "factors".to_owned(),
            None => return Ok(()),
        };
        if kind == "none" {
            return Ok(());
        }
        let mut scaling = Map::new();
        scaling.insert("rope_type".to_owned(), json!(kind));
        for (key, ours) in [
            ("rope.scaling.factor", "factor"),
            ("rope.scaling.attn_factor", "attention_factor"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ] {
            if let Some(x) = self.float(key)? {
                scaling.insert(ours.to_owned(), json!(shortest(x)));
            }
        }
        if let Some(n) = self.integer("rope.scaling.original_context_length")? {
            scaling.insert("original_max_position_embeddings".to_owned(), json!(n));
        }
        // The conversion of DeepSeek writes a tenth of `mscale_all_dim`, to which `mscale` is always equal.
        if let Some(x) = self.float("rope.scaling.yarn_log_multiplier")? {
            let mscale = json!(shortest(shortest(x) * 10.0));
            scaling.insert("mscale".to_owned(), mscale.clone());
            scaling.insert("mscale_all_dim".to_owned(), mscale);
        }
        self.set("rope_scaling", Json::Object(scaling));
        Ok(())
    }

    fn deepseek(&mut self) -> Result<(), GgufError> {
        for (key, ours) in [
            ("attention.q_lora_rank", "q_lora_rank"),
            ("attention.kv_lora_rank", "kv_lora_rank"),
            ("rope.dimension_count", "qk_rope_head_dim"),
            ("expert_count", "n_routed_experts"),
            ("expert_shared_count", "n_shared_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("leading_dense_block_count", "first_k_dense_replace"),
            ("expert_group_count", "n_group"),
            ("expert_group_used_count", "topk_group"),
        ] {
            self.copy_integer(key, ours)?;
        }
        // Absent for models without compression of queries, where Hugging Face has null.
        self.config.entry("q_lora_rank").or_insert(Json::Null);
        self.copy_float("expert_weights_scale", "routed_scaling_factor")?;
        self.copy_flag("expert_weights_norm", "norm_topk_prob")?;
        // Newer files give the lengths of the latent rows, and those of the heads under another name. In
        // them all heads share one latent row, so that there is one "key-value head".
        let length = |mla, plain| match self.integer(mla)? {
            Some(n) => Ok::<_, GgufError>(Some(n)),
            None => self.integer(plain),
        };
        let key = length("attention.key_length_mla", "attention.key_length")?;
        let value = length("attention.value_length_mla", "attention.value_length")?;
        if let Some(value) = value {
            self.set("v_head_dim", json!(value));
        }
        let rotated = self.integer("rope.dimension_count")?;
        if let (Some(key), Some(rotated)) = (key, rotated) {
            self.set("qk_nope_head_dim", json!(key.saturating_sub(rotated)));
        }
        self.copy_integer("attention.head_count", "num_key_value_heads")?;
        // 1 is softmax, 2 sigmoid (`llama_expert_gating_func_type`).
        let sigmoid = self.integer("expert_gating_func")? == Some(2);
        self.set(
            "scoring_func",
            json!(if sigmoid { "sigmoid" } else { "softmax" }),
        );
        let corrected = self
            .header
            .tensors
            .keys()
            .any(|name| name.ends_with(".exp_probs_b.bias"));
        let groups = self.integer("expert_group_count")?.unwrap_or(1);
        let method = match (corrected || sigmoid, groups > 1) {
            (true, _) => "noaux_tc",
            (false, true) => "group_limited_greedy",
            (false, false) => "greedy",
        };
        self.set("topk_method", json!(method));
        if corrected || sigmoid {
            self.set("architectures", json!(["DeepseekV3ForCausalLM"]));
        }
        Ok(())
    }

    fn gemma(&mut self) -> Result<(), GgufError> {
        self.copy_integer("attention.key_length", "head_dim")?;
        self.set("hidden_activation", json!("gelu_pytorch_tanh"));
        self.config.remove("hidden_act");
        self.set("rope_local_base_freq", json!(GEMMA3_LOCAL_BASE));
        self.copy_float("rope.freq_base_swa", "rope_local_base_freq")?;
        self.copy_integer("attention.sliding_window_pattern", "sliding_window_pattern")?;
        self.copy_float("final_logit_softcapping", "final_logit_softcapping")?;
        self.config
            .entry("rope_theta")
            .or_insert_with(|| json!(1_000_000.0));
        let number = |key| self.integer(key);
        let scalar = if number("block_count")? == Some(GEMMA3_27B_LAYERS) {
            let heads = number("attention.head_count")?.unwrap_or(1);
            number("embedding_length")?.and_then(|width| width.checked_div(heads))
        } else {
            number("attention.key_length")?
        };
        if let Some(scalar) = scalar {
            self.set("query_pre_attn_scalar", json!(scalar));
        }
        Ok(())
    }
}

/// The f32 nearest to `x`, written with as few digits as tell it from its neighbours: files hold 1e-6 as an
/// f32, which as f64 is 9.99999997e-7.
fn shortest(x: f64) -> f64 {
    let single = x as f32;
    single.to_string().parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::gguf::{Format, TensorInfo};
    use std::collections::BTreeMap;

    fn header(metadata: &[(&str, Value)], tensors: &[&str]) -> Header {
        let info = TensorInfo {
            dims: vec![1],
            elements: 1,
            format: Format::F32,
            range: 0..4,
        };
        Header {
            metadata: metadata
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect::<BTreeMap<_, _>>(),
            tensors: tensors
                .iter()
                .map(|name| ((*name).to_owned(), info.clone()))
                .collect(),
        }
    }

    #[test]
    fn a_qwen_is_translated() {
        let got = config(&header(
            &[
                ("general.architecture", Value::Text("qwen2".into())),
                ("qwen2.block_count", Value::Unsigned(28)),
                ("qwen2.embedding_length", Value::Unsigned(3584)),
                ("qwen2.attention.head_count", Value::Unsigned(28)),
                (
                    "qwen2.attention.head_count_kv",
                    Value::Integers(vec![4; 28]),
                ),
                (
                    "qwen2.attention.layer_norm_rms_epsilon",
                    Value::Float(f64::from(1e-6f32)),
                ),
                ("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(); 9])),
            ],
            &["output.weight", "blk.0.attn_q.bias"],
        ))
        .unwrap();
        assert_eq!(
            Json::Object(got),
            json!({
                "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28,
                "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 9,
                "tie_word_embeddings": false, "hidden_act": "silu", "attention_bias": true
            })
        );
    }

    #[test]
    fn deepseek_v3_is_told_from_v2_by_its_tensors() {
        let metadata = [
            ("general.architecture", Value::Text("deepseek2".into())),
            ("deepseek2.attention.head_count", Value::Unsigned(16)),
            ("deepseek2.attention.head_count_kv", Value::Unsigned(1)),
            ("deepseek2.attention.key_length", Value::Unsigned(576)),
            ("deepseek2.attention.key_length_mla", Value::Unsigned(192)),
            ("deepseek2.attention.value_length", Value::Unsigned(512)),
            ("deepseek2.attention.value_length_mla", Value::Unsigned(128)),
            ("deepseek2.rope.dimension_count", Value::Unsigned(64)),
            ("deepseek2.rope.scaling.type", Value::Text("yarn".into())),
            (
                "deepseek2.rope.scaling.yarn_log_multiplier",
                Value::Float(f64::from(0.0707f32)),
            ),
        ];
        let v2 = config(&header(&metadata, &[])).unwrap();
        assert_eq!(v2["architectures"], json!(["DeepseekV2ForCausalLM"]));
        assert_eq!(v2["topk_method"], "greedy");
        assert_eq!(v2["qk_nope_head_dim"], 128);
        assert_eq!(v2["v_head_dim"], 128);
        assert_eq!(v2["num_key_value_heads"], 16);
        assert_eq!(v2["rope_scaling"]["mscale_all_dim"], 0.707);
        let v3 = config(&header(&metadata, &["blk.3.exp_probs_b.bias"])).unwrap();
        assert_eq!(v3["architectures"], json!(["DeepseekV3ForCausalLM"]));
        assert_eq!(v3["topk_method"], "noaux_tc");
    }

    #[test]
    fn what_differs_from_layer_to_layer_or_is_absurd_is_refused() {
        let with = |value| {
            config(&header(
                &[
                    ("general.architecture", Value::Text("llama".into())),
                    ("llama.attention.head_count_kv", value),
                ],
                &[],
            ))
        };
        assert!(with(Value::Integers(vec![4, 8])).is_err());
        assert!(with(Value::Integers(vec![])).is_err());
        assert!(with(Value::Signed(-1)).is_err());
        assert!(with(Value::Unsigned(1 << 60)).is_err());
        assert!(with(Value::Text("4".into())).is_err());
        assert!(with(Value::Unsigned(4)).is_ok());
    }
}
