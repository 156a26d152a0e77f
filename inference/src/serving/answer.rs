//! One answer in the making: from logits to steps.

use super::plan::Outcome;
use super::reader::Writer;
use crate::sampling::{Choice, RawLogprobs, Sampler, TokenBytes, verify};
use crate::stream::TextStream;
use crate::{EngineError, FinishReason, PositionLogprobs, Step, TokenLogprob};

/// What the model's tokens say.
pub(crate) struct Words {
    vocabulary: std::sync::Arc<dyn TokenBytes + Send + Sync>,
    /// Tokens that end the model's turn. A handful.
    ends: Vec<u32>,
}

impl Words {
    pub(crate) fn new(vocabulary: std::sync::Arc<dyn TokenBytes + Send + Sync>) -> Self {
        Self {
            ends: vocabulary.end_tokens(),
            vocabulary,
        }
    }

    fn ends(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// Control tokens say nothing.
    fn bytes(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token).unwrap_or_default()
    }

    fn logprob(&self, (token, logprob): (u32, f32)) -> TokenLogprob {
        TokenLogprob {
            token,
            bytes: self.bytes(token).to_vec(),
            logprob,
        }
    }
}

/// See the module's doc. It lives as long as its sequence, pages or not: that is what lets a sequence that
/// gave its pages up go on where it was.
pub(crate) struct Answer {
    pub(crate) sampler: Sampler,
    pub(crate) stream: TextStream,
    pub(crate) writer: Writer,
    /// Tokens that may still come.
    pub(crate) left: usize,
}

impl Answer {
    /// Chooses from the logits after the last token and after each guess. `position` is that of the first
    /// token to choose. What is to be handed over is appended to `steps`.
    pub(crate) fn take<'a>(
        &mut self,
        guesses: &[u32],
        rows: impl IntoIterator<Item = &'a mut [f32]>,
        position: u64,
        words: &Words,
        steps: &mut Vec<Result<Step, EngineError>>,
    ) -> Outcome {
        let ends = |token| words.ends(token);
        let choices = match verify(&mut self.sampler, guesses, rows, position, ends) {
            Ok(verified) => verified.choices,
            Err(error) => {
                steps.push(Err(error));
                return Outcome::Ended;
            }
        };
        // The constraint knows no more than the state after the last choice.
        let done = self.sampler.is_done();
        let count = choices.len();
        let mut tokens = Vec::with_capacity(count);
        for choice in choices {
            tokens.push(choice.token);
            let last = tokens.len() == count;
            let step = self.step(choice, words, done && last);
            let over = step.finish.is_some();
            steps.push(Ok(step));
            if over {
                return Outcome::Ended;
            }
        }
        Outcome::Grew(tokens)
    }

    /// What a token brings. `done`: nothing may follow it.
    fn step(&mut self, choice: Choice, words: &Words, done: bool) -> Step {
        let Choice { token, logprob } = choice;
        if words.ends(token) {
            return Step {
                text: self.stream.finish(),
                tokens: 0,
                ids: Vec::new(),
                logprobs: Vec::new(),
                finish: Some(FinishReason::Stop),
            };
        }
        self.left = self.left.saturating_sub(1);
        let mut delta = self.stream.push(words.bytes(token));
        let finish = match (delta.stopped || done, self.left) {
            (true, _) => Some(FinishReason::Stop),
            (false, 0) => Some(FinishReason::Length),
            (false, _) => None,
        };
        if finish.is_some() && !delta.stopped {
            delta.text.push_str(&self.stream.finish());
        }
        let position = |RawLogprobs { chosen, top }| PositionLogprobs {
            chosen: words.logprob(chosen),
            top: top.into_iter().map(|each| words.logprob(each)).collect(),
        };
        Step {
            text: delta.text,
            tokens: 1,
            ids: vec![token],
            logprobs: logprob.map(position).into_iter().collect(),
            finish,
        }
    }
}
