//! Which parameters of a chat request are honoured, and which are refused and why.

use serde_json::{Map, Value};

/// Parameters that are honoured.
pub(super) const HONOURED: [&str; 10] = [
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

fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
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
pub(super) const REFUSED: [Refused; 26] = [
    refused(
        "n",
        |v| v.as_u64() == Some(1),
        "one answer per request; send more requests",
    ),
    refused(
        "frequency_penalty",
        zero,
        "the sampler has no penalties; leave it out or send 0",
    ),
    refused(
        "presence_penalty",
        zero,
        "the sampler has no penalties; leave it out or send 0",
    ),
    refused(
        "logit_bias",
        |v| v.as_object().is_some_and(Map::is_empty),
        "the sampler has no biases",
    ),
    refused("logprobs", is_false, "log probabilities are not sent"),
    refused("top_logprobs", zero, "log probabilities are not sent"),
    refused(
        "response_format",
        |v| {
            v.as_object()
                .is_some_and(|o| o.len() == 1 && o.get("type") == Some(&"text".into()))
        },
        "only {\"type\":\"text\"}",
    ),
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
