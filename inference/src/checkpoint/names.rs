//! From GGUF's tensor names to Hugging Face's.
//!
//! GGUF's names are listed in `gguf-py/gguf/constants.py` of llama.cpp, Hugging Face's are those of the
//! modules in `transformers/models/*/modeling_*.py`. A name that is not known here stays as it is, so that
//! whoever loads the model sees that there is something it has not used.

/// The Hugging Face name of a tensor of a file with this `general.architecture`.
pub(super) fn hugging_face(architecture: &str, name: &str) -> String {
    let known = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".to_owned()),
        "output.weight" => Some("lm_head.weight".to_owned()),
        "output_norm.weight" => Some("model.norm.weight".to_owned()),
        _ => in_layer(architecture, name),
    };
    known.unwrap_or_else(|| name.to_owned())
}

/// `blk.3.attn_q.bias` → `model.layers.3.self_attn.q_proj.bias`.
fn in_layer(architecture: &str, name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (part, kind) = rest.rsplit_once('.')?;
    if rest == "exp_probs_b.bias" {
        return Some(format!(
            "model.layers.{layer}.mlp.gate.e_score_correction_bias"
        ));
    }
    let part = module(architecture, part)?;
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

fn module(architecture: &str, part: &str) -> Option<&'static str> {
    let gemma = architecture == "gemma3";
    Some(match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        // Gemma norms what comes out of attention and feed-forward as well as what goes in.
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_inp" => "mlp.gate",
        "ffn_gate_exps" => "mlp.experts.gate_proj",
        "ffn_up_exps" => "mlp.experts.up_proj",
        "ffn_down_exps" => "mlp.experts.down_proj",
        "ffn_gate_shexp" => "mlp.shared_experts.gate_proj",
        "ffn_up_shexp" => "mlp.shared_experts.up_proj",
        "ffn_down_shexp" => "mlp.shared_experts.down_proj",
        "ffn_gate_inp_shexp" => "mlp.shared_expert_gate",
        // DeepSeek's latent attention.
        "attn_q_a" => "self_attn.q_a_proj",
        "attn_q_a_norm" => "self_attn.q_a_layernorm",
        "attn_q_b" => "self_attn.q_b_proj",
        "attn_kv_a_mqa" => "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm" => "self_attn.kv_a_layernorm",
        "attn_kv_b" => "self_attn.kv_b_proj",
        // Newer files hold kv_b in two, per head. Hugging Face has no name for these.
        "attn_k_b" => "self_attn.k_b_proj",
        "attn_v_b" => "self_attn.v_b_proj",
        _ => return None,
    })
}

/// Whether the rows of this tensor are in pairs (element 2i and 2i + 1 of a head are rotated together)
/// where Hugging Face has halves: the conversion to GGUF reorders query and key of `llama` alone.
pub(super) fn interleaved(architecture: &str, name: &str) -> bool {
    architecture == "llama"
        && name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(_, rest)| rest.split_once('.'))
            .is_some_and(|(part, _)| matches!(part, "attn_q" | "attn_k"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_by_architecture() {
        let cases = [
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("llama", "output.weight", "lm_head.weight"),
            (
                "llama",
                "blk.12.ffn_norm.weight",
                "model.layers.12.post_attention_layernorm.weight",
            ),
            (
                "gemma3",
                "blk.0.ffn_norm.weight",
                "model.layers.0.pre_feedforward_layernorm.weight",
            ),
            (
                "gemma3",
                "blk.0.post_ffw_norm.weight",
                "model.layers.0.post_feedforward_layernorm.weight",
            ),
            (
                "qwen2",
                "blk.3.attn_q.bias",
                "model.layers.3.self_attn.q_proj.bias",
            ),
            (
                "qwen3moe",
                "blk.3.ffn_down_exps.weight",
                "model.layers.3.mlp.experts.down_proj.weight",
            ),
            (
                "deepseek2",
                "blk.3.exp_probs_b.bias",
                "model.layers.3.mlp.gate.e_score_correction_bias",
            ),
            (
                "deepseek2",
                "blk.3.attn_kv_a_mqa.weight",
                "model.layers.3.self_attn.kv_a_proj_with_mqa.weight",
            ),
            ("llama", "rope_freqs.weight", "rope_freqs.weight"),
            (
                "llama",
                "blk.1.unheard_of.weight",
                "blk.1.unheard_of.weight",
            ),
            ("llama", "blk.x.attn_q.weight", "blk.x.attn_q.weight"),
        ];
        for (architecture, name, wanted) in cases {
            assert_eq!(hugging_face(architecture, name), wanted);
        }
    }

    #[test]
    fn only_llamas_query_and_key_are_interleaved() {
        assert!(interleaved("llama", "blk.0.attn_q.weight"));
        assert!(interleaved("llama", "blk.0.attn_k.bias"));
        assert!(!interleaved("llama", "blk.0.attn_v.weight"));
        assert!(!interleaved("llama", "blk.0.attn_q_norm.weight"));
        assert!(!interleaved("qwen2", "blk.0.attn_q.weight"));
    }
}
