//! From the chat request that travels inside the tunnel to what the engine takes.

use crate::gateway_port::{JobSubmission, Role as Speaker};
use cocoon_inference::{Message, Role, SamplingParams};

/// Tokens generated when the request names no limit.
pub const DEFAULT_MAX_TOKENS: u32 = 256;

/// Tokens that the request may generate.
#[must_use]
pub fn most_output_tokens(chat: &JobSubmission) -> u32 {
    chat.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)
}

/// A bound on the prompt's tokens that needs no tokenizer: byte-level BPE never makes more tokens
/// than bytes, and a turn's markers and a template's default system prompt are short. Never more
/// than the model's context leaves for a prompt.
#[must_use]
pub fn most_prompt_tokens(chat: &JobSubmission, context_tokens: u32) -> u32 {
    const PER_TURN: usize = 16;
    const TEMPLATE: usize = 64;
    let tokens = chat.messages.iter().fold(TEMPLATE, |sum, turn| {
        sum.saturating_add(turn.content.len())
            .saturating_add(PER_TURN)
    });
    u32::try_from(tokens)
        .unwrap_or(u32::MAX)
        .min(context_tokens.saturating_sub(1))
}

/// The engine's view of the request. Defaults are `OpenAI`'s: temperature 1, top-p 1.
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
    let sampling = SamplingParams {
        temperature: chat.temperature.unwrap_or(1.0),
        top_p: chat.top_p.unwrap_or(1.0),
        seed: chat.seed,
        stop: chat.stop.clone(),
        ..SamplingParams::greedy(most_output_tokens(chat))
    };
    (messages, sampling)
}
