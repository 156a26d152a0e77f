//! From the bytes of a chat request to a job.
//!
//! The rule: a parameter is honoured, or refused with its name. A parameter that this gateway
//! cannot honour is accepted only at the value that asks for nothing (`logprobs: false`,
//! `presence_penalty: 0`), since many clients send those. `null` is the same as absent.
//!
//! `user`, `metadata` and their kin are refused: nothing here keeps accounts, and passing them to a
//! stranger's machine would tell it who is asking.

use std::fmt;

use axum::http::StatusCode;
use cocoon_actors::gateway_port::{ChatMessage, JobSubmission, MAX_MESSAGES, Role};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::parameters::{HONOURED, NO_TOOLS, REFUSED, is_false};
use crate::http::error::ApiError;
use crate::suggest;

/// Most text parts in one message.
const MAX_PARTS: usize = 256;
/// Longest parameter name that an error repeats, characters.
const MAX_QUOTED_CHARS: usize = 64;

/// A chat request that may become a job.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The job.
    pub submission: JobSubmission,
    /// Tokens as they come, or one answer.
    pub stream: bool,
    /// In a stream: one more chunk with the token counts.
    pub include_usage: bool,
}

/// Why a request is refused. Quotes names of parameters, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not JSON.
    #[error("the body is not valid JSON: line {line}, column {column}")]
    NotJson {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// JSON, and not an object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Given twice, so that one of them would be dropped.
    #[error("`{param}` is given more than once")]
    Repeated {
        /// Which.
        param: String,
    },
    /// Required and absent.
    #[error("`{param}` is required")]
    Missing {
        /// Which.
        param: String,
    },
    /// Of another JSON type.
    #[error("`{param}` must be {expected}, got {found}")]
    WrongType {
        /// Which.
        param: String,
        /// What is right.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// Right type, unacceptable value.
    #[error("`{param}` {message}")]
    Invalid {
        /// Which.
        param: String,
        /// What would be right.
        message: String,
    },
    /// A parameter that `OpenAI` has and this gateway does not.
    #[error("`{param}` is not supported: {why}")]
    Unsupported {
        /// Which.
        param: String,
        /// Why, or what to do.
        why: &'static str,
    },
    /// A parameter that nobody has.
    #[error("unknown parameter `{param}`{}", did_you_mean(*.suggestion))]
    Unknown {
        /// Which.
        param: String,
        /// A name that is close.
        suggestion: Option<&'static str>,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

impl RequestError {
    /// `error.code`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } | Self::NotAnObject => "invalid_json",
            Self::Repeated { .. } => "repeated_parameter",
            Self::Missing { .. } => "missing_required_parameter",
            Self::WrongType { .. } => "invalid_type",
            Self::Invalid { .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_parameter",
            Self::Unknown { .. } => "unknown_parameter",
        }
    }

    /// `error.param`.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::NotJson { .. } | Self::NotAnObject => None,
            Self::Repeated { param }
            | Self::Missing { param }
            | Self::WrongType { param, .. }
            | Self::Invalid { param, .. }
            | Self::Unsupported { param, .. }
            | Self::Unknown { param, .. } => Some(param),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let mut api = Self::invalid(StatusCode::BAD_REQUEST, error.code(), error.to_string());
        api.param = error.param().map(str::to_owned);
        api
    }
}

/// Reads and checks a request.
///
/// # Errors
/// The first thing that is wrong, by the parameter's name.
pub fn parse(body: &[u8]) -> Result<ChatRequest, RequestError> {
    let Object {
        mut fields,
        repeated,
    } = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            RequestError::NotAnObject
        } else {
            RequestError::NotJson {
                line: error.line(),
                column: error.column(),
            }
        }
    })?;
    if let Some(name) = repeated {
        return Err(RequestError::Repeated {
            param: quotable(&name),
        });
    }
    fields.retain(|_, value| !value.is_null());
    refuse_what_is_not_honoured(&fields)?;

    let stream = boolean(fields.get("stream"), "stream")?.unwrap_or(false);
    let submission = JobSubmission {
        model: fields
            .get("model")
            .ok_or_else(|| missing("model"))
            .and_then(|value| text(value, "model"))?,
        messages: messages(fields.get("messages").ok_or_else(|| missing("messages"))?)?,
        max_tokens: max_tokens(&fields)?,
        temperature: number(fields.get("temperature"), "temperature")?,
        top_p: number(fields.get("top_p"), "top_p")?,
        seed: seed(fields.get("seed"))?,
        stop: stops(fields.get("stop"))?,
    };
    submission
        .validate()
        .and_then(|()| submission.encode().map(drop))
        .map_err(|error| RequestError::Invalid {
            param: error.field,
            message: error.message,
        })?;
    Ok(ChatRequest {
        submission,
        stream,
        include_usage: include_usage(fields.get("stream_options"), stream)?,
    })
}

fn refuse_what_is_not_honoured(fields: &Map<String, Value>) -> Result<(), RequestError> {
    for (name, value) in fields {
        if HONOURED.contains(&name.as_str()) {
            continue;
        }
        match REFUSED.iter().find(|refused| refused.name == name) {
            Some(refused) if (refused.harmless)(value) => {}
            Some(refused) => {
                return Err(RequestError::Unsupported {
                    param: name.clone(),
                    why: refused.why,
                });
            }
            None => {
                return Err(RequestError::Unknown {
                    suggestion: suggest::nearest(name, HONOURED),
                    param: quotable(name),
                });
            }
        }
    }
    Ok(())
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

fn count(value: Option<&Value>, param: &str) -> Result<Option<u32>, RequestError> {
    let Some(value) = value else { return Ok(None) };
    if !value.is_number() {
        return Err(wrong_type(param, "an integer", value));
    }
    value
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0)
        .map(Some)
        .ok_or_else(|| RequestError::Invalid {
            param: param.to_owned(),
            message: format!("must be an integer from 1 to {}", u32::MAX),
        })
}

fn number(value: Option<&Value>, param: &str) -> Result<Option<f32>, RequestError> {
    // The sampler works in f32; the bounds are checked after the conversion, by `validate`.
    #[allow(clippy::cast_possible_truncation)]
    value
        .map(|value| {
            value
                .as_f64()
                .map(|number| number as f32)
                .ok_or_else(|| wrong_type(param, "a number", value))
        })
        .transpose()
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

fn boolean(value: Option<&Value>, param: &str) -> Result<Option<bool>, RequestError> {
    value
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| wrong_type(param, "true or false", value))
        })
        .transpose()
}

fn text(value: &Value, param: &str) -> Result<String, RequestError> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong_type(param, "a string", value))
}

fn missing(param: &str) -> RequestError {
    RequestError::Missing {
        param: param.to_owned(),
    }
}

fn wrong_type(param: &str, expected: &'static str, found: &Value) -> RequestError {
    RequestError::WrongType {
        param: param.to_owned(),
        expected,
        found: match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        },
    }
}

fn quotable(name: &str) -> String {
    name.chars().take(MAX_QUOTED_CHARS).collect()
}

/// A JSON object that remembers whether a name came twice (`serde_json` keeps the last silently).
struct Object {
    fields: Map<String, Value>,
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object {
                    fields: Map::new(),
                    repeated: None,
                };
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if object.fields.insert(name.clone(), value).is_some() {
                        object.repeated.get_or_insert(name);
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
