//! Making what was said already less likely.

use std::collections::HashMap;

use crate::SamplingParams;

/// Repetition, frequency and presence penalties of one answer, with the counts they depend on.
#[derive(Debug, Clone)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// How often each token stands in the answer; 0 for those that stand in the prompt only. Empty when no
    /// penalty is asked for.
    seen: HashMap<u32, u32>,
}

impl Penalties {
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let mut seen = HashMap::new();
        if params.repetition_penalty != 1.0 {
            seen.extend(prompt.iter().map(|&token| (token, 0)));
        }
        Self {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            seen,
        }
    }

    fn active(&self) -> bool {
        self.repetition != 1.0 || self.frequency != 0.0 || self.presence != 0.0
    }

    /// Counts a token of the answer.
    pub(super) fn count(&mut self, token: u32) {
        if self.active() {
            let count = self.seen.entry(token).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Applies them; whether anything may have changed. Work for each different token of prompt and answer,
    /// not for each of the vocabulary.
    pub(super) fn apply(&self, logits: &mut [f32]) -> bool {
        for (&token, &count) in &self.seen {
            let Some(logit) = usize::try_from(token)
                .ok()
                .and_then(|at| logits.get_mut(at))
            else {
                continue;
            };
            if *logit > 0.0 {
                *logit /= self.repetition;
            } else {
                *logit *= self.repetition;
            }
            if count > 0 {
                *logit -= self.presence + self.frequency * count as f32;
            }
            // A tiny divisor can reach +∞, which has no difference to itself.
            *logit = logit.min(f32::MAX);
        }
        !self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalties(repetition: f32, frequency: f32, presence: f32, prompt: &[u32]) -> Penalties {
        let params = SamplingParams {
            repetition_penalty: repetition,
            frequency_penalty: frequency,
            presence_penalty: presence,
            ..SamplingParams::greedy(1)
        };
        Penalties::new(&params, prompt)
    }

    #[test]
    fn repetition_counts_the_prompt_and_divides_or_multiplies_once() {
        let mut p = penalties(2.0, 0.0, 0.0, &[0, 0, 1]);
        p.count(2);
        p.count(2);
        let mut logits = [4.0, -4.0, 4.0, 4.0];
        assert!(p.apply(&mut logits));
        assert_eq!(logits, [2.0, -8.0, 2.0, 4.0]);
    }

    #[test]
    fn frequency_and_presence_count_the_answer_alone() {
        let mut p = penalties(1.0, 0.5, 1.0, &[0]);
        p.count(1);
        p.count(2);
        p.count(2);
        let mut logits = [4.0; 4];
        p.apply(&mut logits);
        assert_eq!(logits, [4.0, 2.5, 2.0, 4.0]);
    }

    #[test]
    fn no_penalty_keeps_no_counts() {
        let mut p = penalties(1.0, 0.0, 0.0, &[0]);
        p.count(1);
        assert!(p.seen.is_empty());
        assert!(!p.apply(&mut [1.0, 2.0]));
    }

    #[test]
    fn tokens_beyond_the_logits_and_a_tiny_divisor_do_no_harm() {
        let p = penalties(f32::MIN_POSITIVE, 0.0, 0.0, &[0, 1, 2, 99]);
        let mut logits = [30.0, f32::NEG_INFINITY, 0.0];
        p.apply(&mut logits);
        assert_eq!(logits, [f32::MAX, f32::NEG_INFINITY, 0.0]);
    }
}
