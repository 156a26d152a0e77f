//! Passes over a row of logits, of which a vocabulary has up to some 260 000 numbers.
//!
//! Everything here is a loop over fixed-size groups without branches or calls, which the compiler turns into
//! vector instructions. Every operation is a plain f32 addition, multiplication or comparison in an order
//! that the source fixes, so the results are the same bits on every machine; `exp` of the platform's library
//! would not be.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "pure numeric loops; every index comes from the length of the slice it indexes"
)]

/// Logits whose highest value and weight are kept together.
const BLOCK: usize = 128;
/// Sums and maxima that run beside one another in a block.
const LANES: usize = 16;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: u32,
    pub(super) logit: f32,
    /// Unnormalised probability; the likeliest token weighs 1.
    pub(super) weight: f32,
}

/// The highest logit of each block, and memory to work in. Kept between tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Survey {
    maxima: Vec<f32>,
    scratch: Vec<f32>,
}

impl Survey {
    /// Surveys logits as a model computed them. Gives the highest; `None` unless there are some and all are
    /// finite.
    pub(super) fn examine(&mut self, logits: &[f32]) -> Option<f32> {
        // x · 0 is 0 for what is finite and NaN for the rest, and NaN stays in a sum.
        let mut doubt = [0.0f32; LANES];
        let groups = logits.chunks_exact(LANES);
        for (sum, &x) in doubt.iter_mut().zip(groups.remainder()) {
            *sum += x * 0.0;
        }
        for group in groups {
            for (sum, &x) in doubt.iter_mut().zip(group) {
                *sum += x * 0.0;
            }
        }
        let finite = doubt.iter().all(|&sum| sum == 0.0);
        (finite && !logits.is_empty()).then(|| self.update(logits))
    }

    /// Surveys logits that may be −∞ but not NaN. Gives the highest, −∞ for none.
    pub(super) fn update(&mut self, logits: &[f32]) -> f32 {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(BLOCK).map(highest));
        highest(&self.maxima)
    }

    /// The first token with the highest logit.
    pub(super) fn likeliest(&self, logits: &[f32], highest: f32) -> Option<u32> {
        let block = self.maxima.iter().position(|&max| max == highest)?;
        let start = block * BLOCK;
        let within = logits[start..].iter().position(|&x| x == highest)?;
        u32::try_from(start + within).ok()
    }

    /// Puts the tokens whose logit is at least `threshold` into `out`, in order of their numbers. What is −∞
    /// is no candidate.
    pub(super) fn gather(&self, logits: &[f32], threshold: f32, out: &mut Vec<Candidate>) {
        out.clear();
        let blocks = (0u32..).step_by(BLOCK).zip(logits.chunks(BLOCK));
        for ((start, block), &max) in blocks.zip(&self.maxima) {
            if max < threshold || max == f32::NEG_INFINITY {
                continue;
            }
            for (token, &logit) in (start..).zip(block) {
                if logit >= threshold && logit != f32::NEG_INFINITY {
                    let weight = 0.0;
                    out.push(Candidate {
                        token,
                        logit,
                        weight,
                    });
                }
            }
        }
    }

    /// Puts the `count` likeliest tokens into `out`, in no particular order; the lower number among equals.
    pub(super) fn gather_top(&mut self, logits: &[f32], count: usize, out: &mut Vec<Candidate>) {
        if count == 0 {
            out.clear();
            return;
        }
        // The count-th highest of the blocks' maxima: at least `count` logits reach it, and few more do.
        let threshold = if count <= self.maxima.len() {
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.maxima);
            let (_, threshold, _) = self
                .scratch
                .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
            *threshold
        } else {
            f32::NEG_INFINITY
        };
        self.gather(logits, threshold, out);
        if count < out.len() {
            out.select_nth_unstable_by(count - 1, likelier);
            out.truncate(count);
        }
    }
}

/// Orders candidates from the likeliest on; the lower number first among equals.
pub(super) fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit
        .total_cmp(&a.logit)
        .then_with(|| a.token.cmp(&b.token))
}

/// The highest of these numbers, −∞ for none. None of them is NaN.
fn highest(numbers: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let groups = numbers.chunks_exact(LANES);
    for (best, &x) in best.iter_mut().zip(groups.remainder()) {
        *best = if x > *best { x } else { *best };
    }
    for group in groups {
        for (best, &x) in best.iter_mut().zip(group) {
            *best = if x > *best { x } else { *best };
        }
    }
    best.into_iter()
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Unnormalised probability of a logit: e^((logit − highest)·scale), 1 for the highest, 0 for −∞.
#[inline(always)]
pub(super) fn weight(logit: f32, highest: f32, scale: f32) -> f32 {
    exp_negative((logit - highest) * scale)
}

/// The weights of each block together, in order. Gives the sum of all.
pub(super) fn block_weights(logits: &[f32], highest: f32, scale: f32, sums: &mut Vec<f64>) -> f64 {
    sums.clear();
    sums.extend(logits.chunks(BLOCK).map(|block| {
        let mut lanes = [0.0f32; LANES];
        let groups = block.chunks_exact(LANES);
        for (sum, &x) in lanes.iter_mut().zip(groups.remainder()) {
            *sum += weight(x, highest, scale);
        }
        for group in groups {
            for (sum, &x) in lanes.iter_mut().zip(group) {
                *sum += weight(x, highest, scale);
            }
        }
        lanes.iter().map(|&sum| f64::from(sum)).sum::<f64>()
    }));
    sums.iter().sum()
}

/// The token at which the running sum of weights passes `share` (in [0, 1)) of all of them, given what
/// [`block_weights`] has left. `None` when nothing has a weight.
pub(super) fn draw(
    logits: &[f32],
    highest: f32,
    scale: f32,
    sums: &[f64],
    share: f64,
) -> Option<u32> {
    let mut left = share * sums.iter().sum::<f64>();
    let mut hit = None;
    for (block, &sum) in sums.iter().enumerate() {
        if sum > 0.0 {
            hit = Some(block);
            if left < sum {
                break;
            }
            left -= sum;
        }
    }
    let start = hit? * BLOCK;
    let end = logits.len().min(start + BLOCK);
    let mut last = None;
    for (token, &logit) in (u32::try_from(start).ok()?..).zip(&logits[start..end]) {
        let weight = f64::from(weight(logit, highest, scale));
        if weight > 0.0 {
            last = Some(token);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    // Rounding can leave a rest after the last token; then it is that one.
    last
}

/// ln Σ e^logit of finite logits, without overflow.
pub(super) fn log_sum_exp(logits: &[f32], highest: f32, sums: &mut Vec<f64>) -> f64 {
    f64::from(highest) + block_weights(logits, highest, 1.0, sums).ln()
}

/// e^x for x ≤ 0 within 2·10⁻⁷ of it, and 0 below −87, where it would be no normal f32 any more. The
/// polynomial is that of Cephes' `expf` (Moshier).
#[inline(always)]
fn exp_negative(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    // Adding 1.5·2²³ leaves the nearest integer in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > LOWEST { x } else { LOWEST };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x > LOWEST { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_exponential_is_close_to_the_exact_one() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_negative(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "{x}: {error}");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert_eq!(exp_negative(-87.5), 0.0);
        assert_eq!(exp_negative(f32::NEG_INFINITY), 0.0);
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that there are ties; some tokens that are not allowed.
        let logit = prop_oneof![4 => (-40i8..40).prop_map(|x| f32::from(x) / 4.0), 1 => Just(f32::NEG_INFINITY)];
        proptest::collection::vec(logit, 1..700)
    }

    fn sorted(logits: &[f32]) -> Vec<u32> {
        let mut all: Vec<u32> = (0u32..).take(logits.len()).collect();
        all.retain(|&t| logits[t as usize] > f32::NEG_INFINITY);
        all.sort_by(|&a, &b| {
            logits[b as usize]
                .total_cmp(&logits[a as usize])
                .then(a.cmp(&b))
        });
        all
    }

    proptest! {
        #[test]
        fn the_likeliest_is_the_first_of_the_highest(logits in logits()) {
            let mut survey = Survey::default();
            let highest = survey.update(&logits);
            let wanted = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(highest, wanted);
            let first = logits.iter().position(|&x| x == wanted).map(|at| at as u32);
            prop_assert_eq!(survey.likeliest(&logits, highest), first);
        }

        #[test]
        fn the_top_is_what_a_full_sort_says(logits in logits(), count in 0usize..720) {
            let mut survey = Survey::default();
            survey.update(&logits);
            let mut out = vec![];
            survey.gather_top(&logits, count, &mut out);
            out.sort_by(likelier);
            let got: Vec<u32> = out.iter().map(|c| c.token).collect();
            let mut wanted = sorted(&logits);
            wanted.truncate(count);
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn only_finite_logits_pass(bits in proptest::collection::vec(any::<u32>(), 0..50)) {
            let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let finite = !logits.is_empty() && logits.iter().all(|x| x.is_finite());
            prop_assert_eq!(Survey::default().examine(&logits).is_some(), finite);
        }

        #[test]
        fn a_draw_is_where_the_running_sum_passes(logits in logits(), share in 0.0f64..1.0) {
            let highest = Survey::default().update(&logits);
            prop_assume!(highest > f32::NEG_INFINITY);
            let mut sums = vec![];
            let all = block_weights(&logits, highest, 1.0, &mut sums);
            let token = draw(&logits, highest, 1.0, &sums, share).unwrap() as usize;
            let exact = |x: f32| (f64::from(x) - f64::from(highest)).exp();
            let before: f64 = logits[..token].iter().map(|&x| exact(x)).sum();
            let after = before + exact(logits[token]);
            prop_assert!(logits[token] > f32::NEG_INFINITY);
            let slack = all * 1e-6;
            prop_assert!(before <= share * all + slack && after >= share * all - slack);
        }
    }

    #[test]
    fn huge_logits_do_not_overflow_the_sum() {
        let sum = log_sum_exp(&[1000.0, 1000.0], 1000.0, &mut vec![]);
        assert!((sum - (1000.0 + 2f64.ln())).abs() < 1e-6, "{sum}");
    }
}
