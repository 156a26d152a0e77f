//! Money and time, as integers that cannot be mistaken for one another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount of TON in nanoTON (10⁻⁹ TON). Arithmetic is checked; there is no way to overflow it
/// silently.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NanoTon(u64);

/// Why a text is not an amount of TON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an amount of TON (at most 9 decimals, for example `1.25`)")]
pub struct AmountError {
    /// The text.
    pub text: String,
}

impl NanoTon {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// nanoTON in one TON.
    pub const PER_TON: u64 = 1_000_000_000;

    /// From a number of nanoTON.
    #[must_use]
    pub const fn from_nano(nano: u64) -> Self {
        Self(nano)
    }

    /// The number of nanoTON.
    #[must_use]
    pub const fn nano(self) -> u64 {
        self.0
    }

    /// The sum, unless it overflows.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, unless it is negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The product, unless it overflows.
    #[must_use]
    pub fn checked_mul(self, count: u64) -> Option<Self> {
        self.0.checked_mul(count).map(Self)
    }

    /// The sum, at most [`u64::MAX`] nanoTON.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The product, at most [`u64::MAX`] nanoTON.
    #[must_use]
    pub const fn saturating_mul(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

/// TON with all nine decimals, and the unit: exact, and columns of amounts line up.
impl fmt::Display for NanoTon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.checked_div(Self::PER_TON).unwrap_or_default();
        let rest = self.0.checked_rem(Self::PER_TON).unwrap_or_default();
        write!(f, "{whole}.{rest:09} TON")
    }
}

/// Reads TON, not nanoTON: `"1.5"` or `"1.5 TON"`.
impl FromStr for NanoTon {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AmountError {
            text: text.to_owned(),
        };
        let number = text.trim();
        let number = number.strip_suffix("TON").unwrap_or(number).trim_end();
        let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(rest) || rest.len() > 9 {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let rest: u64 = format!("{rest:0<9}").parse().map_err(|_| error())?;
        whole
            .checked_mul(Self::PER_TON)
            .and_then(|nano| nano.checked_add(rest))
            .map(Self)
            .ok_or_else(error)
    }
}

/// A moment, in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(u64);

impl UnixMillis {
    /// From a number of milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Later by `millis`, at most the end of time.
    #[must_use]
    pub const fn saturating_add(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Earlier by `millis`, at least the epoch.
    #[must_use]
    pub const fn saturating_sub(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }

    /// Milliseconds since `earlier`; zero if that lies in the future.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_print_every_digit_that_matters() {
        assert_eq!(NanoTon::ZERO.to_string(), "0.000000000 TON");
        assert_eq!(NanoTon::from_nano(1).to_string(), "0.000000001 TON");
        assert_eq!(
            NanoTon::from_nano(1_500_000_000).to_string(),
            "1.500000000 TON"
        );
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "1e3",
            "1.0000000001",
            "18446744074",
        ] {
            assert!(text.parse::<NanoTon>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_survives_printing(nano: u64) {
            let amount = NanoTon::from_nano(nano);
            prop_assert_eq!(amount.to_string().parse::<NanoTon>().unwrap(), amount);
        }
    }
}
