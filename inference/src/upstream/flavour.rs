//! Which server it is, and how it wants to be asked.
//!
//! OpenAI's protocol has no `top_k`, no `min_p` and no schema on completions; each server has its own names
//! for them, and all three known ones **pass silently over names they do not know** and have defaults that
//! are not neutral (llama.cpp: `top_k` 40, `min_p` 0.05; vLLM: the model's `generation_config.json`). So a
//! parameter is always sent, by the name that this server has for it, and what a server has no name for is
//! refused rather than ignored.
//!
//! Names after llama.cpp's `tools/server/README.md`, vLLM's *OpenAI-Compatible Server* and SGLang's
//! *OpenAI APIs: Completions*. Only llama.cpp's server is tested against here.

use serde_json::{Map, Value, json};

use crate::engine::{Constraint, SamplingParams};
use crate::error::EngineError;

/// The servers whose names are known, by what they call themselves in `/v1/models`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `owned_by: "llamacpp"`
    LlamaCpp,
    /// `owned_by: "vllm"`
    Vllm,
    /// `owned_by: "sglang"`
    Sglang,
    /// Anything else: OpenAI's own names only.
    Other,
}

impl Flavour {
    /// From `owned_by`.
    pub(super) fn of(owner: &str) -> Self {
        match owner {
            "llamacpp" => Self::LlamaCpp,
            "vllm" => Self::Vllm,
            "sglang" => Self::Sglang,
            _ => Self::Other,
        }
    }
}

/// The body of a request for an answer, streamed.
///
/// # Errors
/// [`EngineError::Unsupported`] for a parameter this server has no name for.
pub(super) fn body(
    flavour: Flavour,
    model: &str,
    prompt: &[u32],
    params: &SamplingParams,
    max_tokens: u32,
) -> Result<Value, EngineError> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    put("model", json!(model));
    put("prompt", json!(prompt));
    put("stream", json!(true));
    put("stream_options", json!({"include_usage": true}));
    put("max_tokens", json!(max_tokens));
    put("temperature", json!(params.temperature));
    put("top_p", json!(params.top_p));
    put("frequency_penalty", json!(params.frequency_penalty));
    put("presence_penalty", json!(params.presence_penalty));
    if !params.logit_bias.is_empty() {
        put("logit_bias", json!(params.logit_bias));
    }
    if !params.stop.is_empty() {
        put("stop", json!(params.stop));
    }
    if let Some(seed) = params.seed {
        put("seed", json!(folded(seed)));
    }
    if let Some(top) = params.logprobs {
        // llama.cpp reads 0 as "none".
        put("logprobs", json!(top.max(1)));
    }
    let top_k = if params.top_k == 0 {
        json!(-1)
    } else {
        json!(params.top_k)
    };
    match flavour {
        Flavour::LlamaCpp => {
            put("top_k", top_k);
            put("min_p", json!(params.min_p));
            put("repeat_penalty", json!(params.repetition_penalty));
            // Penalties look at everything, not at the last 64 tokens.
            let all = (prompt.len() as u64).saturating_add(max_tokens.into());
            put("repeat_last_n", json!(all));
        }
        Flavour::Vllm | Flavour::Sglang => {
            put("top_k", top_k);
            put("min_p", json!(params.min_p));
            put("repetition_penalty", json!(params.repetition_penalty));
            if params.logprobs.is_some() {
                match flavour {
                    Flavour::Vllm => put("return_tokens_as_token_ids", json!(true)),
                    _ => return Err(unsupported("log-probabilities", flavour)),
                }
            }
        }
        Flavour::Other => {
            let neutral = SamplingParams::greedy(1);
            for (given, name) in [
                (params.top_k != neutral.top_k, "top_k"),
                (params.min_p != neutral.min_p, "min_p"),
                (
                    params.repetition_penalty != neutral.repetition_penalty,
                    "repetition_penalty",
                ),
                (params.logprobs.is_some(), "log-probabilities"),
            ] {
                if given {
                    return Err(unsupported(name, flavour));
                }
            }
        }
    }
    if let Some(constraint) = &params.constraint {
        let schema = schema(constraint, flavour)?;
        match flavour {
            Flavour::LlamaCpp => put("json_schema", schema),
            Flavour::Sglang => put("json_schema", json!(schema.to_string())),
            Flavour::Vllm => put(
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}),
            ),
            Flavour::Other => return Err(unsupported("constraint", flavour)),
        }
    }
    Ok(Value::Object(body))
}

/// A constraint as a JSON schema, which all three servers take.
fn schema(constraint: &Constraint, flavour: Flavour) -> Result<Value, EngineError> {
    match constraint {
        Constraint::JsonObject => Ok(json!({"type": "object"})),
        Constraint::JsonSchema(text) => serde_json::from_str(text)
            .ok()
            .filter(Value::is_object)
            .ok_or(EngineError::Parameter {
                name: "response_format",
                wanted: "a JSON schema that is a JSON object",
            }),
        Constraint::Regex(_) | Constraint::Lark(_) => Err(unsupported("constraint", flavour)),
    }
}

fn unsupported(feature: &'static str, flavour: Flavour) -> EngineError {
    EngineError::Unsupported {
        feature,
        found: format!("asked of an upstream server ({flavour:?})"),
    }
}

/// A seed in 31 bits: llama.cpp's are 32 with one value for "random", the others' are signed.
fn folded(seed: u64) -> u64 {
    (seed ^ (seed >> 32)) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn full() -> SamplingParams {
        SamplingParams {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.25,
            min_p: 0.125,
            repetition_penalty: 1.5,
            frequency_penalty: -0.5,
            presence_penalty: 0.75,
            logit_bias: [(5, -100.0)].into(),
            seed: Some(9),
            stop: vec!["END".into()],
            ..SamplingParams::greedy(33)
        }
    }

    #[test]
    fn every_parameter_is_sent_by_the_name_the_server_has_for_it() {
        let llama = body(Flavour::LlamaCpp, "m", &[1, 2], &full(), 30).unwrap();
        let vllm = body(Flavour::Vllm, "m", &[1, 2], &full(), 30).unwrap();
        for (name, value) in [
            ("model", json!("m")),
            ("prompt", json!([1, 2])),
            ("stream", json!(true)),
            ("stream_options", json!({"include_usage": true})),
            ("max_tokens", json!(30)),
            ("temperature", json!(0.5)),
            ("top_k", json!(7)),
            ("top_p", json!(0.25)),
            ("min_p", json!(0.125)),
            ("frequency_penalty", json!(-0.5)),
            ("presence_penalty", json!(0.75)),
            ("logit_bias", json!({"5": -100.0})),
            ("seed", json!(9)),
            ("stop", json!(["END"])),
        ] {
            assert_eq!(llama[name], value, "{name}");
            assert_eq!(vllm[name], value, "{name}");
        }
        assert_eq!(llama["repeat_penalty"], json!(1.5));
        assert_eq!(vllm["repetition_penalty"], json!(1.5));
    }

    #[test]
    fn what_is_neutral_here_is_made_neutral_there() {
        let body = body(Flavour::LlamaCpp, "m", &[1], &SamplingParams::greedy(1), 1).unwrap();
        assert_eq!(
            [
                &body["top_k"],
                &body["min_p"],
                &body["repeat_penalty"],
                &body["repeat_last_n"]
            ],
            [&json!(-1), &json!(0.0), &json!(1.0), &json!(2)]
        );
        assert_eq!(body.get("seed"), None);
    }

    #[test]
    fn what_a_server_has_no_name_for_is_refused_and_not_ignored() {
        let neutral = SamplingParams::greedy(1);
        assert!(body(Flavour::Other, "m", &[1], &neutral, 1).is_ok());
        for params in [
            SamplingParams {
                top_k: 4,
                ..neutral.clone()
            },
            SamplingParams {
                min_p: 0.5,
                ..neutral.clone()
            },
            SamplingParams {
                repetition_penalty: 1.5,
                ..neutral.clone()
            },
            SamplingParams {
                logprobs: Some(0),
                ..neutral.clone()
            },
            SamplingParams {
                constraint: Some(Constraint::JsonObject),
                ..neutral.clone()
            },
        ] {
            let refused = body(Flavour::Other, "m", &[1], &params, 1);
            assert!(
                matches!(refused, Err(EngineError::Unsupported { .. })),
                "{params:?}"
            );
        }
        let regex = SamplingParams {
            constraint: Some(Constraint::Regex("a+".into())),
            ..neutral
        };
        assert!(matches!(
            body(Flavour::Vllm, "m", &[1], &regex, 1),
            Err(EngineError::Unsupported {
                feature: "constraint",
                ..
            })
        ));
    }

    #[test]
    fn a_schema_that_is_none_is_refused_before_it_is_sent() {
        for text in ["", "{", "3", "[]"] {
            let params = SamplingParams {
                constraint: Some(Constraint::JsonSchema(text.into())),
                ..SamplingParams::greedy(1)
            };
            let refused = body(Flavour::LlamaCpp, "m", &[1], &params, 1);
            assert!(
                matches!(refused, Err(EngineError::Parameter { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn seeds_stay_apart_in_the_bits_a_server_takes() {
        assert_eq!(folded(9), 9);
        assert_ne!(folded(1 << 33), folded(1 << 34));
        assert!(folded(u64::MAX) <= 0x7fff_ffff && folded(0xffff_ffff) != 0xffff_ffff);
    }
}
