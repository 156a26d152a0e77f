//! How much was spent lately: a sum that halves with time.

use cocoon_protocol::{NanoTon, UnixMillis};

/// One, in the fixed point of the curve.
const ONE: u128 = 1 << 16;
/// 0.6875.
const FIRST: u128 = 45_056;
/// 0.1875.
const SECOND: u128 = 12_288;

/// What was paid to one worker, older payments counting less: half after one half-life, a quarter after two. A steady
/// rate settles at about 1.45 half-lives' worth. Integers only: between two halvings 2^-x is taken as
/// 1 - 0.6875 x + 0.1875 x², which is exact at both ends and off by less than a hundredth between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spending {
    recent: NanoTon,
    at: UnixMillis,
}

impl Spending {
    pub(super) fn none(now: UnixMillis) -> Self {
        Self {
            recent: NanoTon::ZERO,
            at: now,
        }
    }

    pub(super) fn recent(&self, now: UnixMillis, half_life_ms: u64) -> NanoTon {
        let elapsed = now.saturating_since(self.at);
        let halvings = elapsed.checked_div(half_life_ms).unwrap_or(u64::MAX);
        let rest = elapsed.checked_rem(half_life_ms).unwrap_or_default();
        let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
        let halved = u128::from(self.recent.nano().checked_shr(shift).unwrap_or(0));
        let part = u128::from(rest)
            .saturating_mul(ONE)
            .checked_div(u128::from(half_life_ms))
            .unwrap_or_default();
        let line = FIRST.saturating_mul(part) / ONE;
        let curve = SECOND.saturating_mul(part).saturating_mul(part) / (ONE * ONE);
        let factor = ONE.saturating_add(curve).saturating_sub(line);
        let left = halved.saturating_mul(factor) / ONE;
        NanoTon::from_nano(u64::try_from(left).unwrap_or(u64::MAX))
    }

    pub(super) fn add(&mut self, now: UnixMillis, half_life_ms: u64, amount: NanoTon) {
        self.recent = self.recent(now, half_life_ms).saturating_add(amount);
        self.at = now.max(self.at);
    }
}
