//! What an answer must look like: `response_format`, and vLLM's `guided_regex` and `guided_grammar`.

use cocoon_actors::gateway_port::AnswerFormat;
use serde_json::{Map, Value};

use super::fields::{RequestError, boolean, missing, quotable, text, wrong_type};
use crate::suggest;

/// Longest name of a schema, bytes, as in `OpenAI`'s API.
const MAX_NAME_BYTES: usize = 64;

/// The one format that the request asks for.
pub(super) fn answer_format(
    fields: &Map<String, Value>,
) -> Result<Option<AnswerFormat>, RequestError> {
    let object = fields.get("response_format").map(response_format);
    let regex = fields.get("guided_regex").map(|value| {
        let pattern = text(value, "guided_regex")?;
        Ok(Some(AnswerFormat::Regex { pattern }))
    });
    let grammar = fields.get("guided_grammar").map(|value| {
        let lark = text(value, "guided_grammar")?;
        Ok(Some(AnswerFormat::Grammar { lark }))
    });
    let mut wanted: Option<AnswerFormat> = None;
    for format in [object, regex, grammar].into_iter().flatten() {
        match (format?, &wanted) {
            (None, _) => {}
            (Some(format), None) => wanted = Some(format),
            (Some(format), Some(other)) => {
                return Err(RequestError::Invalid {
                    param: format.parameter().to_owned(),
                    message: format!(
                        "comes with `{}`; an answer can be held to one of them",
                        other.parameter()
                    ),
                });
            }
        }
    }
    Ok(wanted)
}

fn response_format(value: &Value) -> Result<Option<AnswerFormat>, RequestError> {
    let fields = object(value, "response_format")?;
    let kind = fields
        .get("type")
        .ok_or_else(|| missing("response_format.type"))?;
    let (format, known): (_, &[&str]) = match text(kind, "response_format.type")?.as_str() {
        "text" => (None, &["type"]),
        "json_object" => (Some(AnswerFormat::JsonObject), &["type"]),
        "json_schema" => {
            let schema = fields
                .get("json_schema")
                .ok_or_else(|| missing("response_format.json_schema"))?;
            (Some(json_schema(schema)?), &["type", "json_schema"])
        }
        _ => {
            return Err(RequestError::Invalid {
                param: "response_format.type".to_owned(),
                message: "must be `text`, `json_object` or `json_schema`".to_owned(),
            });
        }
    };
    only(fields, "response_format", known)?;
    Ok(format)
}

/// `name` is a label and `strict` is how it is done anyway: both are checked, and change nothing.
fn json_schema(value: &Value) -> Result<AnswerFormat, RequestError> {
    const AT: &str = "response_format.json_schema";
    let at = |name: &str| format!("{AT}.{name}");
    let fields = object(value, AT)?;
    if fields
        .get("description")
        .is_some_and(|value| !value.is_null())
    {
        return Err(RequestError::Unsupported {
            param: at("description"),
            why: "the model is not shown the schema; describe it in a message",
        });
    }
    only(fields, AT, &["name", "schema", "strict", "description"])?;
    let name = fields.get("name").ok_or_else(|| missing(&at("name")))?;
    let name = text(name, &at("name"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(RequestError::Invalid {
            param: at("name"),
            message: format!("must be 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, _ and -"),
        });
    }
    let strict = fields.get("strict").filter(|value| !value.is_null());
    boolean(strict, &at("strict"))?;
    let schema = fields.get("schema").ok_or_else(|| missing(&at("schema")))?;
    let schema = object(schema, &at("schema"))?.clone();
    Ok(AnswerFormat::JsonSchema { schema })
}

fn object<'a>(value: &'a Value, param: &str) -> Result<&'a Map<String, Value>, RequestError> {
    value
        .as_object()
        .ok_or_else(|| wrong_type(param, "an object", value))
}

fn only(fields: &Map<String, Value>, at: &str, known: &[&'static str]) -> Result<(), RequestError> {
    let unknown =
        |(name, value): &(&String, &Value)| !known.contains(&name.as_str()) && !value.is_null();
    match fields.iter().find(unknown) {
        None => Ok(()),
        Some((name, _)) => Err(RequestError::Unknown {
            param: format!("{at}.{}", quotable(name)),
            suggestion: suggest::nearest(name, known.iter().copied()),
        }),
    }
}
