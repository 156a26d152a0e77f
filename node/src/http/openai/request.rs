//! From the bytes of a chat request to a job.
//!
//! The rule: a parameter is honoured, or refused with its name. A parameter that this gateway
//! cannot honour is accepted only at the value that asks for nothing (`store: false`,
//! `tools: []`), since many clients send those. `null` is the same as absent.
//!
//! `user`, `metadata` and their kin are refused: nothing here keeps accounts, and passing them to a
//! stranger's machine would tell it who is asking.

use std::collections::BTreeMap;

use cocoon_actors::gateway_port::{
    ChatMessage, JobSubmission, MAX_CHOICES, MAX_LOGIT_BIAS, MAX_MESSAGES, MAX_TOP_LOGPROBS, Role,
};
use serde_json::{Map, Value};

use super::fields::{
    RequestError, acceptable, boolean, count, fields, missing, number, quotable, text, wrong_type,
};
use super::format;
use super::parameters::{HONOURED, NO_TOOLS, REFUSED, is_false};
use crate::suggest;

/// Most text parts in one message.
const MAX_PARTS: usize = 256;

/// A chat request that may become a job.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The job.
    pub submission: JobSubmission,
    /// Tokens as they come, or one answer.
    pub stream: bool,
    /// In a stream: one more chunk with the token counts.
    pub include_usage: bool,
    /// The numbers of the answer's tokens are wanted beside its text. Asks nothing of the worker: it tells
    /// them anyway.
    pub token_ids: bool,
}

/// Reads and checks a request.
///
/// # Errors
/// The first thing that is wrong, by the parameter's name.
pub fn parse(body: &[u8]) -> Result<ChatRequest, RequestError> {
    let fields = fields(body, &HONOURED, &REFUSED)?;
    let stream = boolean(fields.get("stream"), "stream")?.unwrap_or(false);
    let submission = JobSubmission {
        embedding: None,
        model: fields
            .get("model")
            .ok_or_else(|| missing("model"))
            .and_then(|value| text(value, "model"))?,
        messages: messages(fields.get("messages").ok_or_else(|| missing("messages"))?)?,
        max_tokens: max_tokens(&fields)?,
        n: choices(fields.get("n"))?,
        temperature: number(fields.get("temperature"), "temperature")?,
        top_k: top_k(fields.get("top_k"))?,
        top_p: number(fields.get("top_p"), "top_p")?,
        min_p: number(fields.get("min_p"), "min_p")?,
        repetition_penalty: number(fields.get("repetition_penalty"), "repetition_penalty")?,
        frequency_penalty: number(fields.get("frequency_penalty"), "frequency_penalty")?,
        presence_penalty: number(fields.get("presence_penalty"), "presence_penalty")?,
        logit_bias: logit_bias(fields.get("logit_bias"))?,
        top_logprobs: top_logprobs(&fields)?,
        response_format: format::answer_format(&fields)?,
        seed: seed(fields.get("seed"))?,
        stop: stops(fields.get("stop"))?,
    };
    acceptable(&submission)?;
    Ok(ChatRequest {
        submission,
        stream,
        token_ids: boolean(fields.get("return_token_ids"), "return_token_ids")?.unwrap_or(false),
        include_usage: include_usage(fields.get("stream_options"), stream)?,
    })
}

fn messages(value: &Value) -> Result<Vec<ChatMessage>, RequestError> {
    let items = value
        .as_array()
        .ok_or_else(|| wrong_type("messages", "an array of messages", value))?;
    // Before any of them is copied; `validate` would say the same, later.
    if items.len() > MAX_MESSAGES {
        return Err(RequestError::Invalid {
            param: "messages".to_owned(),
            message: format!(
                "holds {} messages, the limit is {MAX_MESSAGES}",
                items.len()
            ),
        });
    }
    items
        .iter()
        .enumerate()
        .map(|(index, item)| message(index, item))
        .collect()
}

fn message(index: usize, value: &Value) -> Result<ChatMessage, RequestError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let fields = value
        .as_object()
        .ok_or_else(|| wrong_type(&format!("messages[{index}]"), "an object", value))?;
    for (name, value) in fields {
        match name.as_str() {
            "role" | "content" => {}
            _ if value.is_null() => {}
            "name" => {
                return Err(RequestError::Unsupported {
                    param: at("name"),
                    why: "chat templates have no names; write it into the content",
                });
            }
            "tool_calls" | "tool_call_id" | "function_call" | "audio" | "refusal" => {
                return Err(RequestError::Unsupported {
                    param: at(name),
                    why: NO_TOOLS,
                });
            }
            _ => {
                return Err(RequestError::Unknown {
                    suggestion: suggest::nearest(name, ["role", "content"]),
                    param: at(&quotable(name)),
                });
            }
        }
    }
    let role = match fields.get("role") {
        None | Some(Value::Null) => return Err(missing(&at("role"))),
        Some(value) => match value.as_str() {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool" | "function") => {
                return Err(RequestError::Unsupported {
                    param: at("role"),
                    why: NO_TOOLS,
                });
            }
            Some(_) => {
                return Err(RequestError::Invalid {
                    param: at("role"),
                    message: "must be `system`, `developer`, `user` or `assistant`".to_owned(),
                });
            }
            None => return Err(wrong_type(&at("role"), "a string", value)),
        },
    };
    let content = match fields.get("content") {
        None | Some(Value::Null) => return Err(missing(&at("content"))),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => text_parts(&at("content"), parts)?,
        Some(other) => {
            return Err(wrong_type(
                &at("content"),
                "a string or an array of text parts",
                other,
            ));
        }
    };
    Ok(ChatMessage { role, content })
}

/// Text parts are joined by a line break, so that two of them never melt into one word.
fn text_parts(at: &str, parts: &[Value]) -> Result<String, RequestError> {
    if parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(RequestError::Invalid {
            param: at.to_owned(),
            message: format!("must hold 1 to {MAX_PARTS} parts"),
        });
    }
    let texts = parts.iter().enumerate().map(|(index, part)| {
        let at = |field: &str| format!("{at}[{index}]{field}");
        let fields = part
            .as_object()
            .ok_or_else(|| wrong_type(&at(""), "an object", part))?;
        match fields.get("type") {
            None => return Err(missing(&at(".type"))),
            Some(kind) if kind.as_str() == Some("text") => {}
            Some(_) => {
                return Err(RequestError::Unsupported {
                    param: at(".type"),
                    why: "only text parts; the models served here read no images, audio or files",
                });
            }
        }
        if let Some(name) = fields
            .keys()
            .find(|name| !matches!(name.as_str(), "type" | "text"))
        {
            return Err(RequestError::Unknown {
                param: at(&format!(".{}", quotable(name))),
                suggestion: None,
            });
        }
        let value = fields.get("text").ok_or_else(|| missing(&at(".text")))?;
        value
            .as_str()
            .ok_or_else(|| wrong_type(&at(".text"), "a string", value))
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn max_tokens(fields: &Map<String, Value>) -> Result<Option<u32>, RequestError> {
    let old = count(fields.get("max_tokens"), "max_tokens")?;
    let new = count(fields.get("max_completion_tokens"), "max_completion_tokens")?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(RequestError::Invalid {
            param: "max_completion_tokens".to_owned(),
            message: "differs from `max_tokens`, which means the same; send one of them".to_owned(),
        }),
        (old, new) => Ok(new.or(old)),
    }
}

fn choices(value: Option<&Value>) -> Result<Option<u8>, RequestError> {
    let Some(wanted) = count(value, "n")? else {
        return Ok(None);
    };
    match u8::try_from(wanted) {
        // One is what there is without asking.
        Ok(1) => Ok(None),
        Ok(n) if n <= MAX_CHOICES => Ok(Some(n)),
        _ => Err(RequestError::Invalid {
            param: "n".to_owned(),
            message: format!("must be an integer from 1 to {MAX_CHOICES}; send more requests"),
        }),
    }
}

/// -1 is how vLLM says "all".
fn top_k(value: Option<&Value>) -> Result<Option<u32>, RequestError> {
    let Some(value) = value else { return Ok(None) };
    if !value.is_number() {
        return Err(wrong_type("top_k", "an integer", value));
    }
    match value.as_i64() {
        Some(-1 | 0) => Ok(None),
        Some(number) if u32::try_from(number).is_ok() => Ok(u32::try_from(number).ok()),
        _ => Err(RequestError::Invalid {
            param: "top_k".to_owned(),
            message: format!(
                "must be an integer from -1 to {}; -1 and 0 keep all",
                u32::MAX
            ),
        }),
    }
}

/// `{"50256": -100}`: token numbers as strings, as in `OpenAI`'s API.
fn logit_bias(value: Option<&Value>) -> Result<BTreeMap<u32, f32>, RequestError> {
    let Some(value) = value else {
        return Ok(BTreeMap::new());
    };
    let biases = value
        .as_object()
        .ok_or_else(|| wrong_type("logit_bias", "an object", value))?;
    let invalid = |message: String| RequestError::Invalid {
        param: "logit_bias".to_owned(),
        message,
    };
    // Before any of them is copied; `validate` would say the same, later.
    if biases.len() > MAX_LOGIT_BIAS {
        let got = biases.len();
        return Err(invalid(format!(
            "holds {got} tokens, the limit is {MAX_LOGIT_BIAS}"
        )));
    }
    let mut read = BTreeMap::new();
    for (token, bias) in biases {
        // A sign or a leading zero would let one token be named twice.
        let numbered = token
            .parse::<u32>()
            .ok()
            .filter(|number| number.to_string() == *token)
            .ok_or_else(|| {
                let quoted = quotable(token);
                invalid(format!("has the key `{quoted}`, which is no token number"))
            })?;
        let param = format!("logit_bias.{token}");
        if let Some(bias) = number(Some(bias), &param)? {
            read.insert(numbered, bias);
        }
    }
    Ok(read)
}

/// `logprobs` says whether, `top_logprobs` with how many alternatives.
fn top_logprobs(fields: &Map<String, Value>) -> Result<Option<u8>, RequestError> {
    let wanted = boolean(fields.get("logprobs"), "logprobs")?.unwrap_or(false);
    let Some(value) = fields.get("top_logprobs") else {
        return Ok(wanted.then_some(0));
    };
    if !value.is_number() {
        return Err(wrong_type("top_logprobs", "an integer", value));
    }
    let top = value.as_u64().and_then(|top| u8::try_from(top).ok());
    let invalid = |message: String| RequestError::Invalid {
        param: "top_logprobs".to_owned(),
        message,
    };
    match top.filter(|top| *top <= MAX_TOP_LOGPROBS) {
        None => Err(invalid(format!(
            "must be an integer from 0 to {MAX_TOP_LOGPROBS}"
        ))),
        Some(top) if wanted => Ok(Some(top)),
        Some(0) => Ok(None),
        Some(_) => Err(invalid("is only for `logprobs: true`".to_owned())),
    }
}

/// A negative seed is its two's complement: what matters is that the same seed means the same.
fn seed(value: Option<&Value>) -> Result<Option<u64>, RequestError> {
    value
        .map(|value| {
            value
                .as_u64()
                .or_else(|| value.as_i64().map(i64::cast_unsigned))
                .ok_or_else(|| wrong_type("seed", "an integer of 64 bits", value))
        })
        .transpose()
}

fn stops(value: Option<&Value>) -> Result<Vec<String>, RequestError> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop.clone()]),
        Some(Value::Array(stops)) => stops
            .iter()
            .enumerate()
            .map(|(index, stop)| text(stop, &format!("stop[{index}]")))
            .collect(),
        Some(other) => Err(wrong_type("stop", "a string or an array of strings", other)),
    }
}

fn include_usage(options: Option<&Value>, stream: bool) -> Result<bool, RequestError> {
    let Some(value) = options else {
        return Ok(false);
    };
    let options = value
        .as_object()
        .ok_or_else(|| wrong_type("stream_options", "an object", value))?;
    if !stream {
        return Err(RequestError::Invalid {
            param: "stream_options".to_owned(),
            message: "is only for `stream: true`".to_owned(),
        });
    }
    for (name, value) in options {
        match name.as_str() {
            "include_usage" => {}
            _ if value.is_null() => {}
            "include_obfuscation" if is_false(value) => {}
            "include_obfuscation" => {
                return Err(RequestError::Unsupported {
                    param: "stream_options.include_obfuscation".to_owned(),
                    why: "this stream stays on your machine; on the network, frames are padded",
                });
            }
            _ => {
                return Err(RequestError::Unknown {
                    param: format!("stream_options.{}", quotable(name)),
                    suggestion: suggest::nearest(name, ["include_usage"]),
                });
            }
        }
    }
    let value = options
        .get("include_usage")
        .filter(|value| !value.is_null());
    Ok(boolean(value, "stream_options.include_usage")?.unwrap_or(false))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
