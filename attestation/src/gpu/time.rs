//! Seconds since 1970, for people and files (RFC 3339, always UTC).

use std::time::Duration;

use der::DateTime;
use serde::{Deserialize as _, Deserializer, Serializer, de};

/// As `2025-06-22T07:14:52Z`. Years beyond 9999 are shown as the last second of 9999.
#[must_use]
pub fn shown(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds)).map_or_else(
        |_| "9999-12-31T23:59:59Z".to_owned(),
        |time| time.to_string(),
    )
}

/// Reads what [`shown`] writes.
#[must_use]
pub fn read(text: &str) -> Option<u64> {
    text.parse::<DateTime>()
        .ok()
        .map(|time| time.unix_duration().as_secs())
}

pub(super) fn serialize<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(*seconds))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    read(&text).ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is not a time of the form 2025-06-22T07:14:52Z"
        ))
    })
}
