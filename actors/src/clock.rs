//! The one place where the actors read the clock; everything below them is told the time.

use cocoon_protocol::units::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since the Unix epoch. A clock before 1970 reads as 0.
#[must_use]
pub fn now() -> UnixMillis {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis());
    UnixMillis::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
