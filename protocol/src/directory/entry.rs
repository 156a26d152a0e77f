//! One worker in the directory: its advert, the standing of its evidence, its failures.

use super::{DirectoryConfig, MAX_REASON_BYTES};
use crate::advert::Advert;
use crate::units::UnixMillis;

/// Until when evidence counts, or why it does not.
pub(super) type Verdict = Result<UnixMillis, String>;

/// What is known of a worker's evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not examined.
    Unverified,
    /// Being examined for the first time.
    Fetching {
        /// Since when.
        since: UnixMillis,
    },
    /// Examined and accepted.
    Verified {
        /// Until when that counts.
        until: UnixMillis,
    },
    /// Examined and refused, or not to be had.
    Rejected {
        /// Why, for people; at most [`MAX_REASON_BYTES`].
        reason: String,
    },
}

/// See the module's doc.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The newest advert.
    pub advert: Advert,
    /// What is known of the evidence it names.
    pub standing: Standing,
    /// When the worker joined.
    pub first_seen: UnixMillis,
    /// Recent failures in a row.
    pub failures: u32,
    /// Not served before this moment, because it failed.
    pub paused_until: UnixMillis,
    last_failure: UnixMillis,
    fetch: Fetch,
}

/// Where the examination of an entry's evidence stands.
#[derive(Clone, Copy, Debug)]
enum Fetch {
    /// Nothing to do before this moment.
    Waiting {
        until: UnixMillis,
        attempts: u32,
    },
    Running {
        since: UnixMillis,
        attempts: u32,
    },
}

impl Fetch {
    const fn at(until: UnixMillis) -> Self {
        Self::Waiting { until, attempts: 0 }
    }

    const fn attempts(self) -> u32 {
        match self {
            Self::Waiting { attempts, .. } | Self::Running { attempts, .. } => attempts,
        }
    }
}

impl Entry {
    pub(super) const fn new(now: UnixMillis, advert: Advert) -> Self {
        Self {
            advert,
            standing: Standing::Unverified,
            first_seen: now,
            failures: 0,
            paused_until: UnixMillis::from_millis(0),
            last_failure: UnixMillis::from_millis(0),
            fetch: Fetch::at(now),
        }
    }

    /// True while an accepted verdict counts.
    #[must_use]
    pub fn is_verified(&self, now: UnixMillis) -> bool {
        matches!(self.standing, Standing::Verified { until } if until > now)
    }

    /// A newer advert. With other evidence all that was known of the old one is void; returns true
    /// if its examination was under way.
    pub(super) fn renew_advert(&mut self, now: UnixMillis, advert: Advert) -> bool {
        let same_evidence = self.advert.evidence == advert.evidence;
        self.advert = advert;
        if same_evidence {
            return false;
        }
        let was_running = self.is_being_fetched();
        self.standing = Standing::Unverified;
        self.fetch = Fetch::at(now);
        was_running
    }

    pub(super) const fn is_being_fetched(&self) -> bool {
        matches!(self.fetch, Fetch::Running { .. })
    }

    /// Since when an examination is due, if it is.
    pub(super) fn due(&self, now: UnixMillis) -> Option<UnixMillis> {
        match self.fetch {
            Fetch::Waiting { until, .. } if until <= now => Some(until),
            _ => None,
        }
    }

    pub(super) fn begin_fetch_if_due(&mut self, now: UnixMillis) -> bool {
        if self.due(now).is_none() {
            return false;
        }
        let attempts = self.fetch.attempts().saturating_add(1);
        self.fetch = Fetch::Running {
            since: now,
            attempts,
        };
        if self.standing == Standing::Unverified {
            self.standing = Standing::Fetching { since: now };
        }
        true
    }

    /// The examination is over, if one was under way.
    pub(super) const fn end_fetch(&mut self) -> bool {
        let was_running = self.is_being_fetched();
        if let Fetch::Running { since, attempts } = self.fetch {
            self.fetch = Fetch::Waiting {
                until: since,
                attempts,
            };
        }
        was_running
    }

    /// Takes a verdict and plans the next examination.
    pub(super) fn judge(&mut self, now: UnixMillis, verdict: Verdict, config: &DirectoryConfig) {
        let verdict = match verdict {
            Ok(until) if until <= now => Err("the evidence has already ended".to_owned()),
            verdict => verdict,
        };
        match verdict {
            Ok(until) => {
                self.standing = Standing::Verified { until };
                // Evidence that ends soon, and is renewed with the same end, must not be fetched
                // in a loop.
                let renewal = until.saturating_sub(config.renew_before_ms);
                let earliest = now.saturating_add(config.longest_pause_ms);
                self.fetch = Fetch::at(renewal.max(earliest.min(until)));
            }
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
                self.standing = Standing::Rejected { reason };
                self.retry_later(now, config);
            }
        }
    }

    fn retry_later(&mut self, now: UnixMillis, config: &DirectoryConfig) {
        let attempts = self.fetch.attempts();
        self.fetch = Fetch::Waiting {
            until: now.saturating_add(config.pause_ms(attempts)),
            attempts,
        };
    }

    pub(super) fn fail(&mut self, now: UnixMillis, config: &DirectoryConfig) {
        self.forgive(now, config);
        self.failures = self.failures.saturating_add(1);
        self.last_failure = now;
        self.paused_until = now.saturating_add(config.pause_ms(self.failures));
    }

    fn forgive(&mut self, now: UnixMillis, config: &DirectoryConfig) {
        if now.saturating_since(self.last_failure) >= config.failure_memory_ms {
            self.failures = 0;
        }
    }

    /// Lets time pass; returns true if an examination that was under way has timed out.
    pub(super) fn pass_time(&mut self, now: UnixMillis, config: &DirectoryConfig) -> bool {
        self.forgive(now, config);
        if matches!(self.standing, Standing::Verified { until } if until <= now) {
            self.standing = Standing::Unverified;
            if let Fetch::Running { since, .. } = self.fetch {
                self.standing = Standing::Fetching { since };
            }
        }
        let Fetch::Running { since, .. } = self.fetch else {
            return false;
        };
        if now.saturating_since(since) < config.fetch_timeout_ms {
            return false;
        }
        if matches!(self.standing, Standing::Fetching { .. }) {
            self.standing = Standing::Unverified;
        }
        self.retry_later(now, config);
        true
    }

    /// When time alone changes this entry next. `room`: whether a due examination could begin.
    pub(super) fn next_event(&self, config: &DirectoryConfig, room: bool) -> UnixMillis {
        let mut next = self.advert.ends();
        match self.fetch {
            Fetch::Waiting { until, .. } if room => next = next.min(until),
            Fetch::Waiting { .. } => {}
            Fetch::Running { since, .. } => {
                next = next.min(since.saturating_add(config.fetch_timeout_ms));
            }
        }
        if let Standing::Verified { until } = self.standing {
            next = next.min(until);
        }
        if self.failures > 0 {
            next = next.min(self.last_failure.saturating_add(config.failure_memory_ms));
        }
        next
    }
}
