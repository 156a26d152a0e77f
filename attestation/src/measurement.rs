//! A TDX measurement register: 48 bytes, the output of SHA-384.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha384};

/// The value of MRTD, of an RTMR, or of another 48-byte measurement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measurement([u8; 48]);

/// Text that is not 96 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a measurement is 96 hexadecimal digits, not {length} characters of something else")]
pub struct MeasurementError {
    /// Length of the text that was given.
    pub length: usize,
}

impl Measurement {
    /// What an RTMR holds before anything was measured into it.
    pub const ZERO: Self = Self([0; 48]);

    /// Wraps raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 48]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }

    /// SHA-384 of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(Sha384::digest(data).into())
    }

    /// The register after `event` was measured into it: `SHA384(register ‖ event)`, as the TDX
    /// module does on `TDG.MR.RTMR.EXTEND` (TDX Module ABI specification, 348551).
    #[must_use]
    pub fn extended(self, event: Self) -> Self {
        Self(
            Sha384::new()
                .chain_update(self.0)
                .chain_update(event.0)
                .finalize()
                .into(),
        )
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Measurement {
    type Err = MeasurementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 48];
        hex::decode_to_slice(text, &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| MeasurementError {
                length: text.chars().count(),
            })
    }
}

impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Measurement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_measurement_survives_its_own_text() {
        let measurement = Measurement::of(b"kernel");
        assert_eq!(
            measurement.to_string().parse::<Measurement>().unwrap(),
            measurement
        );
    }

    #[test]
    fn text_of_another_length_is_refused_with_its_length() {
        assert_eq!(
            "00ff".parse::<Measurement>(),
            Err(MeasurementError { length: 4 })
        );
    }

    #[test]
    fn the_order_of_events_matters() {
        let (one, two) = (Measurement::of(b"1"), Measurement::of(b"2"));
        assert_ne!(
            Measurement::ZERO.extended(one).extended(two),
            Measurement::ZERO.extended(two).extended(one)
        );
    }
}
