//! Is a security version good enough? Statuses, advisories and the grace, as the policy says.
//!
//! Statuses: Intel, "SGX and TDX Provisioning Certification Service API", version 4, TCB status.

use core::time::Duration;

use dcap_qvl::{QuotePolicy, TcbStatus};

use crate::policy::{TcbPolicy, is_out_of_date};

/// What a level of the platform or of the quoting enclave amounts to.
pub(super) struct Judged {
    /// `Err`: why it is refused.
    pub(super) outcome: Result<&'static str, String>,
    /// When the grace ends, seconds since 1970, if only the grace carries it.
    pub(super) until: Option<u64>,
    /// Status and advisories for people.
    pub(super) seen: String,
}

/// A level as the collateral gives it.
pub(super) struct Level<'a> {
    pub(super) status: TcbStatus,
    pub(super) advisories: Vec<&'a str>,
    /// Until when it was as good as any, seconds since 1970. `None`: it does not say.
    pub(super) dated: Option<u64>,
}

/// The library's policy that accepts what `policy` may accept and nothing else.
pub(super) fn appraisal(policy: &TcbPolicy, now_seconds: u64) -> QuotePolicy {
    let grace = Duration::from_secs(policy.grace_seconds());
    policy
        .accepted
        .iter()
        .fold(QuotePolicy::strict(now_seconds), |library, status| {
            library.allow_status(*status)
        })
        .platform_grace_period(grace)
        .qe_grace_period(grace)
}

/// Judges one level at `now`, seconds since 1970.
pub(super) fn judge(policy: &TcbPolicy, now: u64, level: &Level<'_>) -> Judged {
    let seen = if level.advisories.is_empty() {
        level.status.to_string()
    } else {
        format!("{} ({})", level.status, level.advisories.join(", "))
    };
    let refused = |reason: String| Judged {
        outcome: Err(reason),
        until: None,
        seen: seen.clone(),
    };
    let accepted = |reason, until| Judged {
        outcome: Ok(reason),
        until,
        seen: seen.clone(),
    };
    if level.status == TcbStatus::UpToDate {
        return accepted("up to date", None);
    }
    if level.status == TcbStatus::Revoked || !policy.accepted.contains(&level.status) {
        return refused("not up to date".to_owned());
    }
    let unread: Vec<_> = level
        .advisories
        .iter()
        .copied()
        .filter(|id| {
            !policy
                .advisories_allowed
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(id))
        })
        .collect();
    if !unread.is_empty() {
        return refused(format!(
            "not up to date, with advisories that the policy does not allow: {}",
            unread.join(", ")
        ));
    }
    if !is_out_of_date(level.status) {
        return accepted("not up to date, but the policy accepts this status", None);
    }
    let end = level
        .dated
        .map(|dated| dated.saturating_add(policy.grace_seconds()));
    match end {
        Some(end) if now < end => accepted("out of date, within the policy's grace", Some(end)),
        Some(end) => refused(format!(
            "out of date, and the grace of {} days ended at {end}",
            policy.grace_days
        )),
        None => refused("out of date, and its level has no date".to_owned()),
    }
}

/// What a policy accepts, for people.
pub(super) fn wanted(policy: &TcbPolicy) -> String {
    let statuses: Vec<_> = policy.accepted.iter().map(TcbStatus::to_string).collect();
    let statuses = statuses.join(" or ");
    match policy.grace_days {
        0 => statuses,
        days => format!("{statuses}, out of date for {days} days at most"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600;

    fn lenient() -> TcbPolicy {
        TcbPolicy {
            accepted: vec![
                TcbStatus::UpToDate,
                TcbStatus::SWHardeningNeeded,
                TcbStatus::OutOfDate,
            ],
            grace_days: 30,
            advisories_allowed: vec!["INTEL-SA-1".to_owned()],
            ..TcbPolicy::default()
        }
    }

    fn level(status: TcbStatus, advisories: &[&'static str]) -> Level<'static> {
        Level {
            status,
            advisories: advisories.to_vec(),
            dated: Some(100 * DAY),
        }
    }

    fn takes(policy: &TcbPolicy, now: u64, level: &Level<'_>) -> bool {
        judge(policy, now, level).outcome.is_ok()
    }

    #[test]
    fn by_default_only_up_to_date_is_taken() {
        let strict = TcbPolicy::default();
        for status in [
            TcbStatus::OutOfDate,
            TcbStatus::SWHardeningNeeded,
            TcbStatus::ConfigurationNeeded,
            TcbStatus::TDRelaunchAdvised,
            TcbStatus::Revoked,
        ] {
            assert!(!takes(&strict, 100 * DAY, &level(status, &[])), "{status}");
        }
        assert!(takes(&strict, 100 * DAY, &level(TcbStatus::UpToDate, &[])));
    }

    #[test]
    fn the_grace_ends_on_its_day_and_says_when() {
        let out = level(TcbStatus::OutOfDate, &[]);
        let judged = judge(&lenient(), 130 * DAY - 1, &out);
        assert!(judged.outcome.is_ok());
        assert_eq!(judged.until, Some(130 * DAY));
        assert!(!takes(&lenient(), 130 * DAY, &out));
        let undated = Level { dated: None, ..out };
        assert!(!takes(&lenient(), 100 * DAY, &undated));
    }

    #[test]
    fn an_advisory_that_nobody_has_read_is_not_lived_with() {
        let with = |advisories| level(TcbStatus::SWHardeningNeeded, advisories);
        assert!(takes(&lenient(), 0, &with(&["intel-sa-1"])));
        assert!(!takes(&lenient(), 0, &with(&["INTEL-SA-1", "INTEL-SA-2"])));
    }

    #[test]
    fn revoked_is_refused_even_if_a_policy_lists_it() {
        let policy = TcbPolicy {
            accepted: vec![TcbStatus::UpToDate, TcbStatus::Revoked],
            ..TcbPolicy::default()
        };
        assert!(!takes(&policy, 0, &level(TcbStatus::Revoked, &[])));
    }
}
