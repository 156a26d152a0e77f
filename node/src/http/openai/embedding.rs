//! `OpenAI`'s embeddings as this gateway speaks them.
//!
//! One extension goes in, `pooling`: `mean` (the default) or `last`. The reply has the object `cocoon`, as
//! answers have.

use cocoon_actors::gateway_port::{Completion, EmbeddingWish, JobSubmission, Pooling};
use cocoon_actors::job::embedding::base64;
use cocoon_protocol::ids::JobId;
use serde::Serialize;
use serde_json::Value;

use super::fields::{RequestError, acceptable, fields, missing, text, wrong_type};
use super::parameters::{EMBEDDING_HONOURED, EMBEDDING_REFUSED};
use super::reply::Extension;

/// How numbers are spelled in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A list of numbers.
    Float,
    /// Base64 of little-endian `f32`.
    Base64,
}

/// A request for embeddings that may become a job.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    /// The job.
    pub submission: JobSubmission,
    /// For the reply.
    pub encoding: Encoding,
}

/// Reads and checks a request.
///
/// # Errors
/// The first thing that is wrong, by the parameter's name.
pub fn parse(body: &[u8]) -> Result<EmbeddingRequest, RequestError> {
    let fields = fields(body, &EMBEDDING_HONOURED, &EMBEDDING_REFUSED)?;
    let encoding = match word(fields.get("encoding_format"), "encoding_format")?.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(invalid("encoding_format", "must be `float` or `base64`")),
    };
    let pooling = match word(fields.get("pooling"), "pooling")?.as_deref() {
        None | Some("mean") => Pooling::Mean,
        Some("last") => Pooling::Last,
        Some(_) => return Err(invalid("pooling", "must be `mean` or `last`")),
    };
    let submission = JobSubmission {
        model: fields
            .get("model")
            .ok_or_else(|| missing("model"))
            .and_then(|value| text(value, "model"))?,
        embedding: Some(EmbeddingWish {
            input: input(fields.get("input").ok_or_else(|| missing("input"))?)?,
            pooling,
        }),
        ..JobSubmission::default()
    };
    acceptable(&submission)?;
    Ok(EmbeddingRequest {
        submission,
        encoding,
    })
}

fn input(value: &Value) -> Result<Vec<String>, RequestError> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(texts) if texts.iter().any(|item| item.is_number() || item.is_array()) => {
            Err(RequestError::Unsupported {
                param: "input".to_owned(),
                why: "texts only; token numbers depend on the model that happens to serve",
            })
        }
        Value::Array(texts) => texts
            .iter()
            .enumerate()
            .map(|(index, item)| text(item, &format!("input[{index}]")))
            .collect(),
        other => Err(wrong_type(
            "input",
            "a string or an array of strings",
            other,
        )),
    }
}

fn word(value: Option<&Value>, param: &str) -> Result<Option<String>, RequestError> {
    value.map(|value| text(value, param)).transpose()
}

fn invalid(param: &str, message: &str) -> RequestError {
    RequestError::Invalid {
        param: param.to_owned(),
        message: message.to_owned(),
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct EmbeddingList {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
    cocoon: Extension,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    Base64(String),
}

/// Nothing is generated, so both are the tokens that were read.
#[derive(Debug, Serialize)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl EmbeddingList {
    /// What a finished job tells.
    #[must_use]
    pub fn new(
        job: JobId,
        model: String,
        embeddings: Vec<Vec<f32>>,
        encoding: Encoding,
        completion: &Completion,
    ) -> Self {
        let embedding = |(index, numbers): (usize, Vec<f32>)| Embedding {
            object: "embedding",
            index,
            embedding: match encoding {
                Encoding::Float => Numbers::Float(numbers),
                Encoding::Base64 => Numbers::Base64(base64(&numbers)),
            },
        };
        Self {
            object: "list",
            data: embeddings.into_iter().enumerate().map(embedding).collect(),
            model,
            usage: EmbeddingUsage {
                prompt_tokens: completion.usage.prompt_tokens,
                total_tokens: completion.usage.prompt_tokens,
            },
            cocoon: Extension::new(job, completion),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn parsed(value: &Value) -> Result<EmbeddingRequest, RequestError> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn every_parameter_reaches_the_job() {
        let request = parsed(&json!({
            "model": "m", "input": ["a", "b"], "encoding_format": "base64", "pooling": "last",
        }))
        .unwrap();
        assert_eq!(request.encoding, Encoding::Base64);
        let wish = request.submission.embedding.unwrap();
        assert_eq!((wish.input.len(), wish.pooling), (2, Pooling::Last));
        let plain = parsed(&json!({"model": "m", "input": "a", "user": null})).unwrap();
        assert_eq!(plain.encoding, Encoding::Float);
        let wish = plain.submission.embedding.unwrap();
        assert_eq!(
            (wish.input, wish.pooling),
            (vec!["a".to_owned()], Pooling::Mean)
        );
    }

    #[test]
    fn each_bad_value_is_refused_with_its_place() {
        let with = |name: &str, value: Value| {
            let mut request = json!({"model": "m", "input": "a"});
            request[name] = value;
            request
        };
        for (value, code, param) in [
            (json!({"input": "a"}), "missing_required_parameter", "model"),
            (json!({"model": "m"}), "missing_required_parameter", "input"),
            (with("input", json!("")), "invalid_value", "input"),
            (with("input", json!([])), "invalid_value", "input"),
            (
                with("input", json!(vec!["a"; 65])),
                "invalid_value",
                "input",
            ),
            (
                with("input", json!(["a", true])),
                "invalid_type",
                "input[1]",
            ),
            (with("input", json!(7)), "invalid_type", "input"),
            (
                with("input", json!([1, 2])),
                "unsupported_parameter",
                "input",
            ),
            (
                with("input", json!([[1]])),
                "unsupported_parameter",
                "input",
            ),
            (
                with("dimensions", json!(64)),
                "unsupported_parameter",
                "dimensions",
            ),
            (
                with("user", json!("alice")),
                "unsupported_parameter",
                "user",
            ),
            (
                with("encoding_format", json!("hex")),
                "invalid_value",
                "encoding_format",
            ),
            (
                with("encoding_format", json!(1)),
                "invalid_type",
                "encoding_format",
            ),
            (with("pooling", json!("max")), "invalid_value", "pooling"),
            (with("messages", json!([])), "unknown_parameter", "messages"),
        ] {
            let error = parsed(&value).unwrap_err();
            assert_eq!(
                (error.code(), error.param()),
                (code, Some(param)),
                "{value}"
            );
        }
    }

    #[test]
    fn fuzz_what_passes_obeys_every_rule() {
        bolero::check!().with_iterations(10_000).for_each(|bytes| {
            if let Ok(request) = parse(bytes) {
                request.submission.validate().unwrap();
            }
        });
    }
}
