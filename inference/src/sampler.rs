//! Choosing the next token.
//!
//! Temperature scaling, then nucleus (top-p) sampling after Holtzman et al., *The Curious Case of Neural
//! Text Degeneration* (2020). The random number is a function of seed and position alone (ChaCha20 with
//! the seed as key and the position as stream), so a generation can be resumed or checked at any position
//! without replaying the ones before.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// Chooses tokens for one generation.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f64,
    seed: u64,
}

impl Sampler {
    /// The parameters have passed [`crate::SamplingParams::check`].
    pub(crate) fn new(temperature: f32, top_p: f32, seed: u64) -> Self {
        Self {
            temperature,
            top_p: f64::from(top_p),
            seed,
        }
    }

    /// The token for `position`, or `None` when the logits are not finite numbers.
    pub(crate) fn choose(&self, logits: &[f32], position: u64) -> Option<u32> {
        let (best, highest) = likeliest(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let mut candidates = self.weigh(logits, highest);
        let all: f64 = candidates.iter().map(|c| c.weight).sum();
        if self.top_p < 1.0 {
            nucleus(&mut candidates, all, self.top_p);
        }
        let kept: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut left = self.uniform(position) * kept;
        for candidate in &candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding can leave a rest after the last candidate.
        candidates.last().map(|c| c.token)
    }

    /// Unnormalised probabilities; the likeliest token weighs 1.
    fn weigh(&self, logits: &[f32], highest: f32) -> Vec<Candidate> {
        let temperature = f64::from(self.temperature);
        (0u32..)
            .zip(logits)
            .map(|(token, &logit)| {
                let weight = ((f64::from(logit) - f64::from(highest)) / temperature).exp();
                Candidate { token, weight }
            })
            .collect()
    }

    /// A number in [0, 1) that depends on seed and position alone.
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

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    weight: f64,
}

/// The highest logit and its token, the lowest number among equals. `None` unless all logits are finite.
pub(crate) fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0u32..).zip(logits) {
        if !logit.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((token, logit));
        }
    }
    best
}

/// ln Σ exp(logit), without overflow.
pub(crate) fn log_sum_exp(logits: &[f32], highest: f32) -> f64 {
    let highest = f64::from(highest);
    highest
        + logits
            .iter()
            .map(|&x| (f64::from(x) - highest).exp())
            .sum::<f64>()
            .ln()
}

/// Keeps the smallest set of likeliest candidates that holds `top_p` of the weight; at least one.
fn nucleus(candidates: &mut Vec<Candidate>, all: f64, top_p: f64) {
    // A member of the nucleus weighs at least (1 − top_p)/n of all: what comes before it is below top_p,
    // so it and the at most n − 1 lighter ones hold more than 1 − top_p. Most of a vocabulary is far
    // below that and need not be sorted. Half of it, so that rounding cannot cut a member off.
    let least = all * (1.0 - top_p) / (candidates.len().max(1) as f64) / 2.0;
    candidates.retain(|c| c.weight >= least);
    candidates.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
    let mut held = 0.0;
    let mut keep: usize = 0;
    for candidate in candidates.iter() {
        held += candidate.weight;
        keep = keep.saturating_add(1);
        if held >= top_p * all {
            break;
        }
    }
    candidates.truncate(keep);
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;
    use proptest::prelude::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-20.0f32..20.0, 1..200)
    }

    /// Probabilities by the plain definition.
    fn probabilities(logits: &[f32], temperature: f32) -> Vec<f64> {
        let scaled: Vec<f64> = logits
            .iter()
            .map(|&x| f64::from(x) / f64::from(temperature))
            .collect();
        let top = scaled.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scaled.iter().map(|x| (x - top).exp()).sum();
        scaled.iter().map(|x| (x - top).exp() / sum).collect()
    }

    proptest! {
        #[test]
        fn temperature_zero_takes_the_likeliest_whatever_the_seed(logits in logits(), seed: u64, at: u64) {
            let token = Sampler::new(0.0, 0.5, seed).choose(&logits, at).unwrap();
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            prop_assert_eq!(logits[token as usize], top);
            prop_assert!(logits[..token as usize].iter().all(|&x| x < top));
        }

        #[test]
        fn the_choice_lies_in_the_nucleus(
            logits in logits(), temperature in 0.05f32..2.0, top_p in 0.01f32..1.0, seed: u64, at: u64,
        ) {
            let token = Sampler::new(temperature, top_p, seed).choose(&logits, at).unwrap() as usize;
            let p = probabilities(&logits, temperature);
            // All that is strictly likelier must not yet fill the nucleus.
            let likelier: f64 = p.iter().filter(|&&q| q > p[token]).sum();
            prop_assert!(likelier < f64::from(top_p) + 1e-9, "{likelier} of {top_p}");
        }

        #[test]
        fn the_choice_depends_on_seed_and_position_alone(
            logits in logits(), seed: u64, at: u64,
        ) {
            let sampler = Sampler::new(1.0, 0.95, seed);
            let first = sampler.choose(&logits, at);
            let _ = sampler.choose(&logits, at.wrapping_add(1));
            prop_assert_eq!(first, Sampler::new(1.0, 0.95, seed).choose(&logits, at));
        }

        #[test]
        fn a_tiny_nucleus_is_greedy(mut logits in logits(), seed: u64, at: u64, lead in 0usize..200) {
            let lead = lead % logits.len();
            logits[lead] = 25.0;
            prop_assert_eq!(Sampler::new(1.0, 0.01, seed).choose(&logits, at), Some(lead as u32));
        }

        #[test]
        fn any_logits_give_an_answer_or_none(
            bits in proptest::collection::vec(any::<u32>(), 0..50), temperature in 0.0f32..2.0, top_p in 0.01f32..1.0,
        ) {
            let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let choice = Sampler::new(temperature, top_p, 1).choose(&logits, 1);
            let finite = !logits.is_empty() && logits.iter().all(|x| x.is_finite());
            prop_assert_eq!(choice.is_some(), finite);
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [1.0f32, 0.0, 2.0, -1.0];
        let n = 20_000u64;
        let sampler = Sampler::new(0.8, 1.0, 42);
        let mut counts = [0u64; 4];
        for position in 0..n {
            counts[sampler.choose(&logits, position).unwrap() as usize] += 1;
        }
        for (count, p) in counts.iter().zip(probabilities(&logits, 0.8)) {
            let share = *count as f64 / n as f64;
            // Five standard deviations.
            let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!((share - p).abs() < tolerance, "{share} for {p}");
        }
    }

    #[test]
    fn a_higher_temperature_flattens() {
        let logits = [2.0f32, 0.0, 0.0, 0.0];
        let hits = |temperature| {
            let sampler = Sampler::new(temperature, 1.0, 7);
            (0..2_000)
                .filter(|&at| sampler.choose(&logits, at) == Some(0))
                .count()
        };
        assert!(hits(0.3) > hits(1.0) && hits(1.0) > hits(2.0));
    }

    #[test]
    fn seeds_differ() {
        let logits = vec![0.0f32; 1000];
        let draw = |seed| {
            (0..8)
                .map(|at| Sampler::new(1.0, 1.0, seed).choose(&logits, at))
                .collect::<Vec<_>>()
        };
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1), draw(1));
    }

    #[test]
    fn log_sum_exp_survives_large_logits() {
        let logits = [1000.0f32, 1000.0];
        assert!((log_sum_exp(&logits, 1000.0) - (1000.0 + 2f64.ln())).abs() < 1e-9);
    }
}
