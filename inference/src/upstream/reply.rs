//! What the server says, read into types. Everything in it is checked before it is used.

use serde::Deserialize;

use super::tokens::Tokens;
use crate::engine::{PositionLogprobs, TokenLogprob};

/// One event of an answer.
#[derive(Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    pub(super) choices: Vec<Choice>,
    #[serde(default)]
    pub(super) usage: Option<Usage>,
    /// An error in the middle of an answer.
    #[serde(default)]
    pub(super) error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) text: String,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u32,
    #[serde(default)]
    pub(super) completion_tokens: u32,
}

/// `/v1/models`.
#[derive(Deserialize)]
pub(super) struct Models {
    pub(super) data: Vec<ModelCard>,
}

#[derive(Deserialize)]
pub(super) struct ModelCard {
    pub(super) id: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) owned_by: String,
    /// vLLM and SGLang: tokens of prompt and answer together.
    #[serde(default)]
    max_model_len: Option<u32>,
    /// llama.cpp.
    #[serde(default)]
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    n_ctx: Option<u32>,
}

impl ModelCard {
    /// Tokens of prompt and answer together that the server takes.
    pub(super) fn context(&self) -> Option<u32> {
        let meta = || self.meta.as_ref().and_then(|meta| meta.n_ctx);
        self.max_model_len
            .or_else(meta)
            .filter(|tokens| *tokens > 0)
    }
}

/// `/tokenize`, as vLLM and llama.cpp have it.
#[derive(Deserialize)]
pub(super) struct Tokenized {
    pub(super) tokens: Vec<u32>,
}

/// `/v1/embeddings`.
#[derive(Deserialize)]
pub(super) struct Embeddings {
    pub(super) data: Vec<Embedding>,
    #[serde(default)]
    pub(super) usage: Option<Usage>,
}

#[derive(Deserialize)]
pub(super) struct Embedding {
    pub(super) index: usize,
    pub(super) embedding: Vec<f32>,
}

/// The two shapes that log-probabilities of completions come in.
#[derive(Deserialize)]
#[serde(untagged)]
enum Logprobs {
    /// llama.cpp: as in chat, with the tokens' numbers.
    Content { content: Vec<Position> },
    /// vLLM: OpenAI's old shape, with `token_id:` and the number instead of text.
    Columns {
        tokens: Vec<String>,
        token_logprobs: Vec<Option<f32>>,
        #[serde(default)]
        top_logprobs: Vec<Option<std::collections::BTreeMap<String, f32>>>,
    },
}

#[derive(Deserialize)]
struct Position {
    id: u32,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Deserialize)]
struct Alternative {
    id: u32,
    logprob: f32,
}

impl Choice {
    /// The log-probabilities, at most `top` alternatives at each position; `None` when a token's number or
    /// probability is none.
    pub(super) fn logprobs(
        &self,
        top: usize,
        tokens: &dyn Tokens,
    ) -> Option<Vec<PositionLogprobs>> {
        let token = |token: u32, logprob: f32| {
            let known = usize::try_from(token).is_ok_and(|token| token < tokens.vocabulary());
            (known && logprob <= 0.0).then(|| TokenLogprob {
                token,
                bytes: tokens.bytes(token).unwrap_or_default().to_vec(),
                logprob,
            })
        };
        match &self.logprobs {
            None => Some(Vec::new()),
            Some(Logprobs::Content { content }) => content
                .iter()
                .map(|position| {
                    Some(PositionLogprobs {
                        chosen: token(position.id, position.logprob)?,
                        top: position
                            .top_logprobs
                            .iter()
                            .take(top)
                            .map(|other| token(other.id, other.logprob))
                            .collect::<Option<_>>()?,
                    })
                })
                .collect(),
            Some(Logprobs::Columns {
                tokens: chosen,
                token_logprobs,
                top_logprobs,
            }) => chosen
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let logprob = token_logprobs.get(at).copied().flatten()?;
                    let mut others = top_logprobs
                        .get(at)
                        .and_then(Option::as_ref)
                        .into_iter()
                        .flatten()
                        .map(|(name, logprob)| token(number(name)?, *logprob))
                        .collect::<Option<Vec<_>>>()?;
                    others.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
                    others.truncate(top);
                    Some(PositionLogprobs {
                        chosen: token(number(name)?, logprob)?,
                        top: others,
                    })
                })
                .collect(),
        }
    }
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix("token_id:")?.parse().ok()
}

/// A server's reason, short and without what a terminal obeys: it goes into logs and onto screens.
pub(super) fn reason(body: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(body);
    let parsed: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let message = parsed.as_ref().and_then(|value| {
        let error = value.get("error").unwrap_or(value);
        error.get("message").unwrap_or(error).as_str()
    });
    let message = message.unwrap_or(&text);
    // vLLM's validation quotes what was sent, and what people say does not belong into logs.
    let quoted = message
        .find("'input'")
        .or_else(|| message.find("\"input\""));
    let message = message
        .get(..quoted.unwrap_or(message.len()))
        .unwrap_or_default()
        .trim();
    let mut short: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if message.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    if short.is_empty() {
        short.push_str("no reason given");
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::upstream::tokens::tests::Words;

    #[test]
    fn both_shapes_of_log_probabilities_say_the_same() {
        let llama = r#"{"text":"a","logprobs":{"content":[{"id":3,"token":"a","bytes":[97],"logprob":-0.5,
            "top_logprobs":[{"id":3,"logprob":-0.5},{"id":4,"logprob":-1.5}]}]}}"#;
        let vllm = r#"{"text":"a","logprobs":{"tokens":["token_id:3"],"token_logprobs":[-0.5],"text_offset":[0],
            "top_logprobs":[{"token_id:4":-1.5,"token_id:3":-0.5}]}}"#;
        let read = |text| {
            serde_json::from_str::<Choice>(text)
                .unwrap()
                .logprobs(2, &Words)
                .unwrap()
        };
        assert_eq!(read(llama), read(vllm));
        assert_eq!(read(llama)[0].chosen.token, 3);
        assert_eq!(
            read(llama)[0]
                .top
                .iter()
                .map(|t| t.token)
                .collect::<Vec<_>>(),
            [3, 4]
        );
        let one = serde_json::from_str::<Choice>(llama)
            .unwrap()
            .logprobs(1, &Words)
            .unwrap();
        assert_eq!(one[0].top.len(), 1);
    }

    #[test]
    fn log_probabilities_that_are_none_are_refused() {
        for text in [
            r#"{"logprobs":{"content":[{"id":1000,"logprob":-0.5}]}}"#,
            r#"{"logprobs":{"content":[{"id":1,"logprob":0.5}]}}"#,
            r#"{"logprobs":{"tokens":["a"],"token_logprobs":[-0.5]}}"#,
            r#"{"logprobs":{"tokens":["token_id:1"],"token_logprobs":[]}}"#,
        ] {
            let choice: Choice = serde_json::from_str(text).unwrap();
            assert_eq!(choice.logprobs(1, &Words), None, "{text}");
        }
    }

    #[test]
    fn reasons_are_short_and_harmless() {
        assert_eq!(
            reason(br#"{"error":{"message":"too long","code":400}}"#),
            "too long"
        );
        assert_eq!(reason(br#"{"message":"no"}"#), "no");
        assert_eq!(reason(b"<html>\x1b[2J</html>"), "<html> [2J</html>");
        assert_eq!(reason(b""), "no reason given");
        assert_eq!(
            reason(br#"{"message":"[{'msg': 'bad', 'input': 'my secret'}]"}"#),
            "[{'msg': 'bad',"
        );
        assert_eq!(reason("ü".repeat(1000).as_bytes()).chars().count(), 301);
    }
}
