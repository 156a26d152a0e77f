//! What a verifier remembers from one bundle to the next: accepted verdicts, and who is where.

use cocoon_protocol::units::UnixMillis;

use crate::cache::VerdictCache;
use crate::census::{Census, Hardware, NoPlace};
use crate::verdict::Verdict;

/// Verdicts and census of one verifier. It must never be shown to another one, whose root or policy
/// may differ; [`crate::Admission`] sees to that.
#[derive(Debug)]
pub struct Memory {
    pub(crate) cache: VerdictCache,
    pub(crate) census: Census,
}

impl Memory {
    /// An empty memory for at most `cached_verdicts` verdicts, itself at most
    /// [`crate::cache::MAX_CACHED_VERDICTS`].
    #[must_use]
    pub fn new(cached_verdicts: usize) -> Self {
        Self {
            cache: VerdictCache::new(cached_verdicts),
            census: Census::new(),
        }
    }

    /// Who was seen where.
    #[must_use]
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Counts an accepted worker and keeps the verdict, unless it came from here. A worker that
    /// found no place was not accepted, so whoever is counted has one.
    pub(crate) fn accepted(&mut self, now: UnixMillis, places: usize, verdict: &Verdict) {
        let (epoch, peer) = (verdict.claims.epoch, verdict.claims.peer);
        let platform = Hardware::Platform(verdict.platform_id.clone());
        self.census.record(epoch, platform, peer, places);
        for id in &verdict.gpu_ids {
            let gpu = Hardware::Gpu(id.clone());
            self.census.record(epoch, gpu, peer, 1);
        }
        if !verdict.cached {
            self.cache.insert(now, verdict.cache_key(), verdict.clone());
        }
    }

    /// Whether the worker has, or could have, its place on `hardware`.
    pub(crate) fn place(
        &self,
        verdict: &Verdict,
        hardware: &Hardware,
        places: usize,
    ) -> Result<usize, NoPlace> {
        let claims = &verdict.claims;
        self.census
            .place(claims.epoch, hardware, &claims.peer, places)
    }
}
