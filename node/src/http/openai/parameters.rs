//! Which parameters of a request are honoured, and which are refused and why.

use serde_json::{Map, Value};

/// Parameters of a chat request that are honoured: first `OpenAI`'s, then what vLLM and llama.cpp call by the
/// same names.
pub(super) const HONOURED: [&str; 23] = [
    "messages",
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "response_format",
    "top_k",
    "min_p",
    "repetition_penalty",
    "guided_regex",
    "guided_grammar",
    "return_token_ids",
];

/// Parameters of a request for embeddings that are honoured; `pooling` is ours.
pub(super) const EMBEDDING_HONOURED: [&str; 4] = ["model", "input", "encoding_format", "pooling"];

/// What `OpenAI` documents for embeddings and is not in [`EMBEDDING_HONOURED`].
pub(super) const EMBEDDING_REFUSED: [Refused; 2] = [
    refused(
        "dimensions",
        never,
        "embeddings have the length that the model gives them",
    ),
    refused("user", never, NO_ACCOUNTS),
];

/// A parameter that `OpenAI` documents and this gateway cannot honour.
pub(super) struct Refused {
    pub(super) name: &'static str,
    /// True for a value that asks for nothing.
    pub(super) harmless: fn(&Value) -> bool,
    pub(super) why: &'static str,
}

const fn refused(name: &'static str, harmless: fn(&Value) -> bool, why: &'static str) -> Refused {
    Refused {
        name,
        harmless,
        why,
    }
}

fn never(_: &Value) -> bool {
    false
}

pub(super) fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

fn empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

pub(super) const NO_TOOLS: &str = "the models served here are not given tools";
const NO_ACCOUNTS: &str =
    "this gateway keeps no accounts and tells workers nothing about who is asking; remove it";

/// Sorted by subject. Everything `OpenAI` documents for chat completions and is not in [`HONOURED`].
pub(super) const REFUSED: [Refused; 19] = [
    refused("tools", empty_list, NO_TOOLS),
    refused("tool_choice", |v| v.as_str() == Some("none"), NO_TOOLS),
    refused("parallel_tool_calls", never, NO_TOOLS),
    refused("functions", empty_list, NO_TOOLS),
    refused("function_call", |v| v.as_str() == Some("none"), NO_TOOLS),
    refused("web_search_options", never, NO_TOOLS),
    refused(
        "modalities",
        |v| {
            v.as_array()
                .is_some_and(|m| m.len() == 1 && m.first() == Some(&"text".into()))
        },
        "text only",
    ),
    refused("audio", never, "text only"),
    refused("prediction", never, "predicted output is not used"),
    refused(
        "reasoning_effort",
        never,
        "the models served here do not reason in steps",
    ),
    refused("verbosity", never, "ask for it in a message"),
    refused(
        "service_tier",
        |v| matches!(v.as_str(), Some("auto" | "default")),
        "there is one tier; workers differ by price",
    ),
    refused("store", is_false, "conversations are never stored"),
    refused("prompt_cache_key", never, NO_ACCOUNTS),
    refused("prompt_cache_retention", never, NO_ACCOUNTS),
    refused("safety_identifier", never, NO_ACCOUNTS),
    refused("user", never, NO_ACCOUNTS),
    refused(
        "metadata",
        |v| v.as_object().is_some_and(Map::is_empty),
        NO_ACCOUNTS,
    ),
    refused("moderation", never, "there is no moderation service here"),
];
