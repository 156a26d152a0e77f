//! Chance, from one seed. Integers only: floating-point logarithms differ between platforms in the
//! last bit, and one bit is enough for another history.

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};

/// An inclusive range `[low, high]`, written `[low, high]` in a scenario.
pub type Range = [u64; 2];

/// The only source of chance in a simulation.
#[derive(Debug)]
pub struct Chance(ChaCha12Rng);

impl Chance {
    /// The same seed gives the same draws on every machine.
    pub fn from_seed(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    /// Bytes, for identifiers and keys.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// The generator itself, for code of protocol/ that takes one.
    pub fn generator(&mut self) -> &mut ChaCha12Rng {
        &mut self.0
    }

    /// Uniform below `bound` (0 if `bound` is 0), by widening multiplication. The bias is below
    /// `bound / 2^64`, which nothing here can measure.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.0.next_u64()).saturating_mul(u128::from(bound));
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// Uniform in an inclusive range; the low end if the range is empty.
    pub fn within(&mut self, [low, high]: Range) -> u64 {
        let width = high.saturating_sub(low).saturating_add(1);
        low.saturating_add(self.below(width))
    }

    /// True `permille` times in a thousand.
    pub fn happens(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// Exponential with the given mean: times between independent events (Poisson arrivals).
    pub fn exponential(&mut self, mean: u64) -> u64 {
        // -ln(u / 2^64) * mean with u uniform in 1..2^64, as (64 - log2 u) * ln 2 * mean in
        // fixed point with 31 fractional bits.
        let u = self.0.next_u64().max(1);
        let bits = (64u64 << FRACTION).saturating_sub(log2(u));
        let scaled = u128::from(bits)
            .saturating_mul(u128::from(LN_2))
            .saturating_mul(u128::from(mean));
        u64::try_from(scaled >> (2 * FRACTION)).unwrap_or(u64::MAX)
    }
}

const FRACTION: u32 = 31;
/// ln 2 with 31 fractional bits.
const LN_2: u64 = 1_488_522_236;

/// log2 of a number above zero, with 31 fractional bits, by repeated squaring.
fn log2(value: u64) -> u64 {
    let whole = value.ilog2();
    // The mantissa, in 1..2, with 31 fractional bits.
    let mut mantissa = if whole >= FRACTION {
        value >> whole.saturating_sub(FRACTION)
    } else {
        value << FRACTION.saturating_sub(whole)
    };
    let mut log = u64::from(whole) << FRACTION;
    for bit in (0..FRACTION).rev() {
        // Below 2^32 before squaring, so below 2^64 after it.
        mantissa = mantissa.saturating_mul(mantissa) >> FRACTION;
        if mantissa >> FRACTION > 1 {
            mantissa >>= 1;
            log |= 1 << bit;
        }
    }
    log
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn the_logarithm_is_right_to_nine_digits() {
        for value in [
            1u64,
            2,
            3,
            10,
            12_345,
            u64::from(u32::MAX),
            1 << 63,
            u64::MAX,
        ] {
            let ours = log2(value) as f64 / f64::from(1u32 << FRACTION);
            assert!(
                (ours - (value as f64).log2()).abs() < 1e-8,
                "{value}: {ours}"
            );
        }
    }

    #[test]
    fn waiting_times_have_the_mean_and_the_shape_of_an_exponential() {
        let mut chance = Chance::from_seed(1);
        let mut draws: Vec<u64> = (0..20_000).map(|_| chance.exponential(10_000)).collect();
        draws.sort_unstable();
        let mean = draws.iter().sum::<u64>() / 20_000;
        assert!((9_800..10_200).contains(&mean), "mean {mean}");
        let median = draws.get(10_000).copied().unwrap_or(0);
        assert!(
            (6_750..7_120).contains(&median),
            "median {median}, ln 2 of the mean is 6931"
        );
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let mut chance = Chance::from_seed(2);
        let mut seen = [false; 4];
        for _ in 0..200 {
            let draw = chance.within([3, 6]);
            if let Some(slot) = seen.get_mut(usize::try_from(draw - 3).unwrap_or(9)) {
                *slot = true;
            } else {
                panic!("{draw} is outside");
            }
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(chance.within([5, 5]), 5);
        assert_eq!(chance.below(0), 0);
        assert!(chance.happens(1000));
        assert!(!chance.happens(0));
    }
}
