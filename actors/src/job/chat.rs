//! From the request that travels inside the tunnel to what the engine takes.

use crate::gateway_port::{AnswerFormat, JobSubmission, Role as Speaker};
use cocoon_inference::{CacheScope, Constraint, Message, Role, SamplingParams};
use cocoon_protocol::{Digest, PeerId};

/// Tokens generated when the request names no limit.
pub const DEFAULT_MAX_TOKENS: u32 = 256;
/// Tokens that embeddings count as, all of a request together: a job without an answer is free, and the
/// embeddings are an answer.
pub const EMBEDDING_OUTPUT_TOKENS: u32 = 1;

/// Tokens that one answer to the request may have.
#[must_use]
pub fn most_tokens_of_a_choice(job: &JobSubmission) -> u32 {
    match job.embedding {
        Some(_) => EMBEDDING_OUTPUT_TOKENS,
        None => job.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
    }
}

/// Tokens that all answers to the request may have together.
#[must_use]
pub fn most_output_tokens(job: &JobSubmission) -> u32 {
    most_tokens_of_a_choice(job).saturating_mul(u32::from(job.choices()))
}

/// A bound on the prompt's tokens that needs no tokenizer: byte-level BPE never makes more tokens
/// than bytes, and a turn's markers and a template's default system prompt are short. Never more
/// than the model's context leaves for a prompt.
#[must_use]
pub fn most_prompt_tokens(job: &JobSubmission, context_tokens: u32) -> u32 {
    const PER_TURN: usize = 16;
    const TEMPLATE: usize = 64;
    let turns = job.messages.iter().map(|turn| turn.content.len());
    let texts = job.embedding.iter().flat_map(|wish| &wish.input);
    let tokens = turns
        .chain(texts.map(String::len))
        .fold(TEMPLATE, |sum, bytes| {
            sum.saturating_add(bytes).saturating_add(PER_TURN)
        });
    u32::try_from(tokens)
        .unwrap_or(u32::MAX)
        .min(context_tokens.saturating_sub(1))
}

/// The engine's view of a chat request. Defaults are `OpenAI`'s: temperature 1, top-p 1.
#[must_use]
pub fn to_engine(chat: &JobSubmission) -> (Vec<Message>, SamplingParams) {
    let messages = chat
        .messages
        .iter()
        .map(|turn| Message {
            role: match turn.role {
                Speaker::System => Role::System,
                Speaker::User => Role::User,
                Speaker::Assistant => Role::Assistant,
            },
            content: turn.content.clone(),
        })
        .collect();
    let neutral = SamplingParams::greedy(most_tokens_of_a_choice(chat));
    let sampling = SamplingParams {
        temperature: chat.temperature.unwrap_or(1.0),
        top_k: chat.top_k.unwrap_or(neutral.top_k),
        top_p: chat.top_p.unwrap_or(neutral.top_p),
        min_p: chat.min_p.unwrap_or(neutral.min_p),
        repetition_penalty: chat
            .repetition_penalty
            .unwrap_or(neutral.repetition_penalty),
        frequency_penalty: chat.frequency_penalty.unwrap_or(neutral.frequency_penalty),
        presence_penalty: chat.presence_penalty.unwrap_or(neutral.presence_penalty),
        logit_bias: chat.logit_bias.clone(),
        seed: chat.seed,
        stop: chat.stop.clone(),
        logprobs: chat.top_logprobs,
        constraint: chat.response_format.as_ref().map(constraint),
        ..neutral
    };
    (messages, sampling)
}

fn constraint(format: &AnswerFormat) -> Constraint {
    match format {
        AnswerFormat::JsonObject => Constraint::JsonObject,
        AnswerFormat::JsonSchema { schema } => Constraint::JsonSchema(
            // A map with string keys has an encoding; if it had none, no schema would match nothing.
            serde_json::to_string(schema).unwrap_or_default(),
        ),
        AnswerFormat::Regex { pattern } => Constraint::Regex(pattern.clone()),
        AnswerFormat::Grammar { lark } => Constraint::Lark(lark.clone()),
    }
}

/// Derives clients' cache scopes. Its secret is drawn when the worker starts and never leaves its memory, so
/// nobody can name another client's scope, and no scope outlives the cache.
pub struct Scopes([u8; 32]);

impl Scopes {
    /// With a fresh secret.
    #[must_use]
    pub fn draw() -> Self {
        Self(rand::random())
    }

    /// SHA-256 of the secret and the client's PeerId: always the same for a client, and for no other.
    #[must_use]
    pub fn of(&self, client: &PeerId) -> CacheScope {
        let salted = [self.0.as_slice(), &client.to_bytes()].concat();
        CacheScope(*Digest::sha256(&salted).as_bytes())
    }
}

/// Says nothing of the secret.
impl std::fmt::Debug for Scopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scopes(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway_port::{ChatMessage, EmbeddingWish, Pooling};
    use cocoon_protocol::ids::Keypair;

    fn chat() -> JobSubmission {
        JobSubmission {
            model: "m".to_owned(),
            messages: vec![ChatMessage {
                role: Speaker::User,
                content: "hello".to_owned(),
            }],
            ..JobSubmission::default()
        }
    }

    #[test]
    fn every_parameter_reaches_the_engine() {
        let asked = JobSubmission {
            max_tokens: Some(9),
            temperature: Some(0.25),
            top_k: Some(40),
            top_p: Some(0.5),
            min_p: Some(0.125),
            repetition_penalty: Some(1.25),
            frequency_penalty: Some(0.75),
            presence_penalty: Some(-0.5),
            logit_bias: [(7, -100.0)].into_iter().collect(),
            top_logprobs: Some(3),
            response_format: Some(AnswerFormat::Regex {
                pattern: "a+".to_owned(),
            }),
            seed: Some(11),
            stop: vec!["x".to_owned()],
            ..chat()
        };
        let wanted = SamplingParams {
            temperature: 0.25,
            top_k: 40,
            top_p: 0.5,
            min_p: 0.125,
            repetition_penalty: 1.25,
            frequency_penalty: 0.75,
            presence_penalty: -0.5,
            logit_bias: [(7, -100.0)].into_iter().collect(),
            seed: Some(11),
            stop: vec!["x".to_owned()],
            max_tokens: 9,
            logprobs: Some(3),
            constraint: Some(Constraint::Regex("a+".to_owned())),
            ignore_end: false,
        };
        assert_eq!(to_engine(&asked).1, wanted);
        let plain = SamplingParams {
            temperature: 1.0,
            ..SamplingParams::greedy(DEFAULT_MAX_TOKENS)
        };
        assert_eq!(to_engine(&chat()).1, plain);
    }

    #[test]
    fn each_format_becomes_its_constraint() {
        let schema = [("type".to_owned(), "object".into())].into_iter().collect();
        for (format, wanted) in [
            (AnswerFormat::JsonObject, Constraint::JsonObject),
            (
                AnswerFormat::JsonSchema { schema },
                Constraint::JsonSchema("{\"type\":\"object\"}".to_owned()),
            ),
            (
                AnswerFormat::Grammar {
                    lark: "start: /a/".to_owned(),
                },
                Constraint::Lark("start: /a/".to_owned()),
            ),
        ] {
            assert_eq!(constraint(&format), wanted);
        }
    }

    #[test]
    fn the_offer_covers_every_answer() {
        let asked = JobSubmission {
            n: Some(3),
            max_tokens: Some(10),
            ..chat()
        };
        assert_eq!(most_output_tokens(&asked), 30);
        assert_eq!(to_engine(&asked).1.max_tokens, 10);
        let texts = JobSubmission {
            messages: Vec::new(),
            embedding: Some(EmbeddingWish {
                input: vec!["four".to_owned(); 3],
                pooling: Pooling::Mean,
            }),
            ..chat()
        };
        assert_eq!(most_output_tokens(&texts), EMBEDDING_OUTPUT_TOKENS);
        assert_eq!(most_prompt_tokens(&texts, u32::MAX), 64 + 3 * (16 + 4));
    }

    #[test]
    fn a_clients_scope_is_its_own_and_dies_with_the_worker() {
        let peer = |seed| {
            let key = Keypair::ed25519_from_bytes([seed; 32]);
            key.map(|key| key.public().to_peer_id())
                .unwrap_or_else(|_| PeerId::random())
        };
        let scopes = Scopes::draw();
        assert_eq!(scopes.of(&peer(1)), scopes.of(&peer(1)));
        assert_ne!(scopes.of(&peer(1)), scopes.of(&peer(2)));
        assert_ne!(scopes.of(&peer(1)), Scopes::draw().of(&peer(1)));
        assert_eq!(format!("{scopes:?}"), "Scopes(..)");
    }
}
