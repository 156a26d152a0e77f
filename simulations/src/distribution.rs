//! What a mean hides: the median and the tails of what was measured.

use serde::Serialize;

/// Samples as they come.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<u64>);

/// The shape of some samples, by the nearest-rank method: every number is one that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Distribution {
    /// How many samples.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// Half of the samples are at most this.
    pub p50: u64,
    /// 90 of 100 are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Samples {
    /// Adds a sample.
    pub fn add(&mut self, value: u64) {
        self.0.push(value);
    }

    /// The shape so far; zeros if there are no samples.
    pub fn distribution(&self) -> Distribution {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Distribution {
            count: u64::try_from(sorted.len()).unwrap_or(u64::MAX),
            min: rank(0),
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: rank(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_of_nearest_rank() {
        let mut samples = Samples::default();
        for value in (1..=200).rev() {
            samples.add(value);
        }
        let wanted = Distribution {
            count: 200,
            min: 1,
            p50: 100,
            p90: 180,
            p99: 198,
            max: 200,
        };
        assert_eq!(samples.distribution(), wanted);
    }

    #[test]
    fn no_samples_and_one_sample_have_a_shape_too() {
        assert_eq!(Samples::default().distribution(), Distribution::default());
        let mut one = Samples::default();
        one.add(7);
        let wanted = Distribution {
            count: 1,
            min: 7,
            p50: 7,
            p90: 7,
            p99: 7,
            max: 7,
        };
        assert_eq!(one.distribution(), wanted);
    }
}
