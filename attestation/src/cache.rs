//! Accepted verdicts, remembered by platform and claims.
//!
//! The key is `(platform id, report_data)` and never a hash of the quote: one byte in eight of a
//! quote can be changed without harm to its signatures, so a hash of it is a cache that anybody
//! can miss on purpose.

use std::collections::BTreeMap;

use cocoon_protocol::units::UnixMillis;

use crate::Verdict;

/// Most verdicts a cache may be asked to keep.
pub const MAX_CACHED_VERDICTS: usize = 16_384;

/// What a verdict is remembered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    /// Hexadecimal PPID.
    pub platform_id: String,
    /// The claims' hash.
    pub report_data: [u8; 64],
}

/// A bounded memory of accepted verdicts. Refusals are not kept: they are cheap to repeat, and the
/// reason may be our own clock or policy.
#[derive(Debug)]
pub struct VerdictCache {
    entries: BTreeMap<CacheKey, Verdict>,
    capacity: usize,
}

impl VerdictCache {
    /// A cache of at most `capacity` verdicts, itself at most [`MAX_CACHED_VERDICTS`].
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            capacity: capacity.min(MAX_CACHED_VERDICTS),
        }
    }

    /// The verdict on this platform and these claims, if it still stands.
    #[must_use]
    pub fn get(&self, now: UnixMillis, key: &CacheKey) -> Option<&Verdict> {
        self.entries
            .get(key)
            .filter(|verdict| verdict.is_valid_at(now))
    }

    /// Remembers an accepted verdict; drops what has expired, and if that is not enough the one
    /// that expires first.
    pub fn insert(&mut self, now: UnixMillis, key: CacheKey, verdict: Verdict) {
        if self.capacity == 0 || !verdict.is_valid_at(now) {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.entries.retain(|_, kept| now < kept.valid_until);
            if self.entries.len() >= self.capacity {
                let first = self
                    .entries
                    .iter()
                    .min_by_key(|(_, kept)| kept.valid_until)
                    .map(|(key, _)| key.clone());
                if let Some(first) = first {
                    self.entries.remove(&first);
                }
            }
        }
        self.entries.insert(key, verdict);
    }

    /// How many verdicts are kept, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
