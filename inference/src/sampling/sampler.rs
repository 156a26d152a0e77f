//! Choosing the next token of one answer. The order of the steps is in the room's own documentation.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::constraint::ConstraintState;
use super::logits::{
    Candidate, Survey, block_weights, draw, likelier, log_sum_exp, weight as weigh,
};
use super::penalties::Penalties;
use crate::{EngineError, SamplingParams};

/// A token and, where asked for, the log-probabilities at its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its number.
    pub token: u32,
    /// What the request's `logprobs` asked for.
    pub logprob: Option<RawLogprobs>,
}

/// Natural logarithms of probabilities at temperature 1, before constraint, bias and penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct RawLogprobs {
    /// The token that was chosen.
    pub chosen: (u32, f32),
    /// The likeliest ones, likeliest first; the lower number first among equals.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one answer. Keeps its memory from one token to the next.
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    /// How many alternatives to report; `None` reports nothing.
    logprobs: Option<usize>,
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    constraint: Option<ConstraintState>,
    seed: u64,
    survey: Survey,
    /// Weights of the blocks of logits.
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    /// The logits as the model computed them, where log-probabilities are asked for.
    raw: Vec<f32>,
}

impl Sampler {
    /// A sampler for an answer to `prompt` that has no token yet. The parameters have passed
    /// [`SamplingParams::check`]; `seed` is theirs or drawn, for one of several answers
    /// [`super::seed_of_choice`]; `constraint` is what [`super::Grammars::compile`] made of theirs.
    pub fn new(
        params: &SamplingParams,
        prompt: &[u32],
        seed: u64,
        constraint: Option<ConstraintState>,
    ) -> Self {
        Self {
            temperature: params.temperature,
            top_k: usize::try_from(params.top_k).unwrap_or(usize::MAX),
            top_p: params.top_p,
            min_p: params.min_p,
            logprobs: params.logprobs.map(usize::from),
            bias: params.logit_bias.iter().map(|(&t, &b)| (t, b)).collect(),
            penalties: Penalties::new(params, prompt),
            constraint,
            seed,
            survey: Survey::default(),
            sums: Vec::new(),
            candidates: Vec::new(),
            raw: Vec::new(),
        }
    }

    /// Takes an answer up where it was left: the same as [`Self::accept`] for each of its tokens. With the
    /// prompt given to [`Self::new`] and the positions counted from the prompt's beginning, what follows is
    /// what would have followed.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn resume(&mut self, answer: &[u32]) -> Result<(), EngineError> {
        answer.iter().try_for_each(|&token| self.accept(token))
    }

    /// The token for `position`, counted from the prompt's beginning. Changes the logits. Chooses only:
    /// [`Self::accept`] makes the token part of the answer.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] when the model computed something else than numbers;
    /// [`EngineError::Constraint`] when the constraint has become too costly or allows nothing.
    pub fn choose(&mut self, logits: &mut [f32], position: u64) -> Result<Choice, EngineError> {
        let mut highest = self
            .survey
            .examine(logits)
            .ok_or_else(|| EngineError::NotFinite {
                position: usize::try_from(position).unwrap_or(usize::MAX),
            })?;
        let reported = self.report(logits, highest);
        if self.adjust(logits)? {
            highest = self.survey.update(logits);
            if highest == f32::NEG_INFINITY {
                return Err(EngineError::Constraint {
                    message: "no token of the model's may follow".to_owned(),
                });
            }
        }
        let token = if self.temperature == 0.0 {
            self.survey.likeliest(logits, highest)
        } else {
            self.sample(logits, highest, position)
        };
        // There is a highest logit, so there is a token.
        let token = token.unwrap_or_default();
        let logprob = reported.map(|(top, log_sum)| {
            let raw = usize::try_from(token).ok().and_then(|at| self.raw.get(at));
            let logprob = f64::from(raw.copied().unwrap_or(f32::NEG_INFINITY)) - log_sum;
            RawLogprobs {
                chosen: (token, logprob as f32),
                top,
            }
        });
        Ok(Choice { token, logprob })
    }

    /// Makes a token part of the answer: penalties count it and the constraint goes on from it.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when the constraint does not allow it, which no token of
    /// [`Self::choose`] meets.
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        self.penalties.count(token);
        match &mut self.constraint {
            Some(constraint) => constraint.accept(token),
            None => Ok(()),
        }
    }

    /// Whether the constraint, if there is one, allows nothing but the end of the turn.
    pub fn is_done(&self) -> bool {
        self.constraint
            .as_ref()
            .is_some_and(ConstraintState::is_done)
    }

    /// The likeliest tokens of the raw logits and the logarithm of the sum of all weights, if asked for.
    fn report(&mut self, logits: &[f32], highest: f32) -> Option<(Vec<(u32, f32)>, f64)> {
        let count = self.logprobs?;
        self.raw.clear();
        self.raw.extend_from_slice(logits);
        let log_sum = log_sum_exp(logits, highest, &mut self.sums);
        self.survey.gather_top(logits, count, &mut self.candidates);
        self.candidates.sort_unstable_by(likelier);
        let top = self
            .candidates
            .iter()
            .map(|c| (c.token, (f64::from(c.logit) - log_sum) as f32));
        Some((top.collect(), log_sum))
    }

    /// Constraint, bias, penalties. Whether the logits may have changed.
    fn adjust(&mut self, logits: &mut [f32]) -> Result<bool, EngineError> {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits)?;
        }
        for &(token, bias) in &self.bias {
            if let Some(logit) = usize::try_from(token)
                .ok()
                .and_then(|at| logits.get_mut(at))
            {
                *logit = (*logit + bias).min(f32::MAX);
            }
        }
        let penalised = self.penalties.apply(logits);
        Ok(penalised || self.constraint.is_some() || !self.bias.is_empty())
    }

    /// Temperature, top-k, min-p, top-p and the draw.
    fn sample(&mut self, logits: &[f32], highest: f32, position: u64) -> Option<u32> {
        // A temperature near 0 must not make 0 · ∞ of the likeliest token's exponent.
        let scale = (1.0 / self.temperature).min(1e30);
        let share = self.uniform(position);
        let has_top_k = self.top_k > 0 && self.top_k < logits.len();
        if !has_top_k && self.min_p == 0.0 && self.top_p >= 1.0 {
            block_weights(logits, highest, scale, &mut self.sums);
            return draw(logits, highest, scale, &self.sums, share);
        }
        // The weight of all tokens, where neither top-k nor min-p leaves fewer.
        let mut all = None;
        if has_top_k {
            self.survey
                .gather_top(logits, self.top_k, &mut self.candidates);
        } else {
            let least = if self.min_p > 0.0 {
                f64::from(self.min_p)
            } else {
                let sum = block_weights(logits, highest, scale, &mut self.sums);
                all = Some(sum);
                // A member of the nucleus weighs at least (1 − top_p)/n of all: what comes before it is
                // below top_p, so it and the at most n − 1 lighter ones hold more than 1 − top_p.
                sum * (1.0 - f64::from(self.top_p)) / (logits.len().max(1) as f64)
            };
            // Half of it, so that rounding cannot leave a member out.
            let threshold = f64::from(highest) + (least / 2.0).ln() / f64::from(scale);
            self.survey
                .gather(logits, threshold as f32, &mut self.candidates);
        }
        for candidate in &mut self.candidates {
            candidate.weight = weigh(candidate.logit, highest, scale);
        }
        if self.min_p > 0.0 {
            self.candidates.retain(|c| c.weight >= self.min_p);
        }
        if self.top_p < 1.0 {
            let all = all.unwrap_or_else(|| total(&self.candidates));
            let kept = nucleus(&mut self.candidates, all * f64::from(self.top_p));
            self.candidates.truncate(kept);
        }
        let mut left = share * total(&self.candidates);
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding can leave a rest after the last candidate that weighs anything.
        let weighty = self.candidates.iter().rev().find(|c| c.weight > 0.0);
        weighty.map(|c| c.token)
    }

    /// A number in [0, 1) that depends on seed and position alone: ChaCha20 with the seed as its key and the
    /// position as its stream.
    fn uniform(&self, position: u64) -> f64 {
        let mut key = [0; 32];
        if let Some(head) = key.first_chunk_mut() {
            *head = self.seed.to_le_bytes();
        }
        let mut random = ChaCha20Rng::from_seed(key);
        random.set_stream(position);
        // The 53 bits an f64 holds exactly.
        (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the seed nor anything of the answer.
        f.debug_struct("Sampler")
            .field("temperature", &self.temperature)
            .finish_non_exhaustive()
    }
}

/// The natural logarithm of a token's probability at temperature 1. `None` when the token has no logit or
/// the logits are not finite numbers.
pub fn log_probability(logits: &[f32], token: u32) -> Option<f32> {
    let highest = Survey::default().examine(logits)?;
    let logit = logits.get(usize::try_from(token).ok()?)?;
    Some((f64::from(*logit) - log_sum_exp(logits, highest, &mut Vec::new())) as f32)
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// Moves the smallest set of likeliest candidates that together weigh `wanted` to the front and gives its
/// size, at least 1 (Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2020). Halves what is
/// in question each time instead of sorting it all: about twice as many comparisons as there are candidates.
fn nucleus(candidates: &mut [Candidate], wanted: f64) -> usize {
    let mut needed = wanted;
    // Those before `from` are members; those from `to` on are not.
    let (mut from, mut to) = (0usize, candidates.len());
    while let Some(open) = candidates.get_mut(from..to).filter(|open| open.len() > 1) {
        let half = open.len().div_ceil(2);
        let (heavier, ..) = open.select_nth_unstable_by(half, likelier);
        let held = total(heavier);
        if held >= needed {
            to = from.saturating_add(half);
        } else {
            needed -= held;
            from = from.saturating_add(half);
        }
    }
    to.max(1)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
