//! From the bytes of a request to its fields, and fields to values: what all endpoints share.

use std::fmt;

use axum::http::StatusCode;
use cocoon_actors::gateway_port::JobSubmission;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::parameters::Refused;
use crate::http::error::ApiError;
use crate::suggest;

/// Longest parameter name that an error repeats, characters.
const MAX_QUOTED_CHARS: usize = 64;

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

/// The fields of a request, without those that are `null`. Each is honoured, or refused by its name.
pub(super) fn fields(
    body: &[u8],
    honoured: &[&'static str],
    refused: &[Refused],
) -> Result<Map<String, Value>, RequestError> {
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
    refuse_what_is_not_honoured(&fields, honoured, refused)?;
    Ok(fields)
}

fn refuse_what_is_not_honoured(
    fields: &Map<String, Value>,
    honoured: &[&'static str],
    refused: &[Refused],
) -> Result<(), RequestError> {
    for (name, value) in fields {
        if honoured.contains(&name.as_str()) {
            continue;
        }
        match refused.iter().find(|refused| refused.name == name) {
            Some(refused) if (refused.harmless)(value) => {}
            Some(refused) => {
                return Err(RequestError::Unsupported {
                    param: name.clone(),
                    why: refused.why,
                });
            }
            None => {
                return Err(RequestError::Unknown {
                    suggestion: suggest::nearest(name, honoured.iter().copied()),
                    param: quotable(name),
                });
            }
        }
    }
    Ok(())
}

/// What both ends of the job will check again.
pub(super) fn acceptable(submission: &JobSubmission) -> Result<(), RequestError> {
    submission
        .validate()
        .and_then(|()| submission.encode().map(drop))
        .map_err(|error| RequestError::Invalid {
            param: error.field,
            message: error.message,
        })
}

pub(super) fn count(value: Option<&Value>, param: &str) -> Result<Option<u32>, RequestError> {
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

pub(super) fn number(value: Option<&Value>, param: &str) -> Result<Option<f32>, RequestError> {
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

pub(super) fn boolean(value: Option<&Value>, param: &str) -> Result<Option<bool>, RequestError> {
    value
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| wrong_type(param, "true or false", value))
        })
        .transpose()
}

pub(super) fn text(value: &Value, param: &str) -> Result<String, RequestError> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong_type(param, "a string", value))
}

pub(super) fn missing(param: &str) -> RequestError {
    RequestError::Missing {
        param: param.to_owned(),
    }
}

pub(super) fn wrong_type(param: &str, expected: &'static str, found: &Value) -> RequestError {
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

pub(super) fn quotable(name: &str) -> String {
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
