//! Softmax in pieces: exponentials of some scores, and how pieces become one.
//!
//! The weighted sum of values over some tokens is kept with the largest score, against which the exponentials
//! were taken, and their sum (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"). A piece is
//! T largest scores, T sums and T times `width` weighted values, for T query vectors.

use super::lanes::{LANES, Lanes, exp};

/// No tokens yet: largest −∞, sum 0, values 0.
pub(super) fn begin<const T: usize>(all: &mut [f32]) {
    all.fill(0.0);
    all[..T].fill(f32::NEG_INFINITY);
}

/// Adds the tokens of `one` to those of `all`.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn merge<S: Lanes, const T: usize>(width: usize, one: &[f32], all: &mut [f32]) {
    for t in 0..T {
        let (theirs, mine) = (one[t], all[t]);
        if theirs == f32::NEG_INFINITY {
            continue; // sees nothing of this stripe
        }
        let largest = if mine > theirs { mine } else { theirs };
        // SAFETY: the caller answers for the instructions; both slices have T · (2 + width) numbers.
        unsafe {
            let a = exp::<S>(S::splat(mine - largest));
            let b = exp::<S>(S::splat(theirs - largest));
            let mut factors = [[0.0; LANES]; 2];
            S::store(&mut factors[0], a);
            S::store(&mut factors[1], b);
            all[t] = largest;
            all[T + t] = all[T + t] * factors[0][0] + one[T + t] * factors[1][0];
            let at = 2 * T + t * width;
            let (from, to) = (&one[at..][..width], &mut all[at..][..width]);
            for (from, to) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
                let sum = S::fma(S::load(to), a, S::mul(S::load(from), b));
                S::store(to, sum);
            }
        }
    }
}

/// Turns scores into their exponentials against the largest, which is returned with their sum. Where all are
/// −∞, the exponentials are 0.
///
/// # Safety
/// As for [`Lanes`]; whole vectors.
#[inline(always)]
pub(super) unsafe fn exponentials<S: Lanes>(scores: &mut [f32]) -> (f32, f32) {
    // SAFETY: every chunk has 16 numbers; the caller answers for the instructions.
    unsafe {
        let mut most = S::splat(f32::NEG_INFINITY);
        let scores = scores.as_chunks_mut::<LANES>().0;
        for s in scores.iter() {
            most = S::max(most, S::load(s));
        }
        let largest = S::largest(most);
        if largest == f32::NEG_INFINITY {
            scores.as_flattened_mut().fill(0.0);
            return (largest, 0.0);
        }
        let most = S::splat(largest);
        let mut sum = S::splat(0.0);
        for s in scores {
            let e = exp::<S>(S::sub(S::load(s), most));
            S::store(s, e);
            sum = S::add(sum, e);
        }
        (largest, S::sum(sum))
    }
}
