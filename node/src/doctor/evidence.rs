//! What goes with a quote: collateral, and the policy that says which guests to trust.

use std::io;

use cocoon_attestation::CollateralFacts;
use cocoon_attestation::shelf::{facts, family_of};
use cocoon_protocol::collateral::PlatformFamily;
use cocoon_protocol::evidence::MAX_COLLATERAL_BYTES;

use super::{Finding, Look, Patient};
use crate::config::Config;
use crate::trust;

/// Days before the end of collateral at which the doctor begins to warn.
const WARN_DAYS: u64 = 5;
const DAY_S: u64 = 86_400;

pub(super) fn examine(patient: &Patient<'_>, quote: Option<&[u8]>) -> Vec<Finding> {
    let family = quote.and_then(family_of);
    vec![collateral(patient, family), policy(patient)]
}

fn collateral(patient: &Patient<'_>, family: Option<PlatformFamily>) -> Finding {
    let data_dir = &patient.config.data_dir;
    // Where `cocoon collateral import` puts it comes first.
    let imported = family.map(|family| crate::collateral::file_of(data_dir, &family));
    let files: Vec<_> = imported
        .into_iter()
        .chain([data_dir.join("collateral.json")])
        .collect();
    let names: Vec<_> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let look = Look::at(
        "collateral",
        names.join(", "),
        "Intel's signed word on which processors and updates are sound is what a quote is judged by; it ends after 30 days",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let fetch = "`cocoon collateral fetch --fmspc … --out c.json` on a machine with a network, then \
                 `cocoon collateral import c.json` here; or set `collateral_url`";
    let limit = u64::try_from(MAX_COLLATERAL_BYTES).unwrap_or(u64::MAX);
    for path in files {
        match patient.place.bytes(&path, limit.saturating_add(1)) {
            Ok(bytes) => {
                return match facts(&bytes) {
                    Err(error) => look.missing(error.to_string(), fetch),
                    Ok(facts) => judge(look, patient, &facts, family, fetch),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let found = format!("{} cannot be read: {error}", path.display());
                return look.missing(found, "let the worker's user read it");
            }
        }
    }
    match &patient.config.collateral_url {
        Some(url) => look.ok(format!("no file; {url} is asked")),
        None => look.warning("no file and no service, so other nodes are asked", fetch),
    }
}

fn judge(
    look: Look,
    patient: &Patient<'_>,
    facts: &CollateralFacts,
    family: Option<PlatformFamily>,
    fetch: &str,
) -> Finding {
    let now = patient.now.seconds();
    let (from, until) = (facts.from.seconds(), facts.until.seconds());
    let theirs = facts.family;
    if let Some(ours) = family
        && ours != theirs
    {
        let found = format!("of family {theirs}, while this platform's is {ours}");
        return look.missing(found, fetch);
    }
    if now < from {
        let hours = from.saturating_sub(now).div_ceil(3_600);
        return look.missing(
            format!("in force only in {hours} hours"),
            "set the clock; if it is right, fetch the collateral again",
        );
    }
    if now >= until {
        let days = now.saturating_sub(until) / DAY_S;
        return look.missing(format!("ended {days} days ago"), fetch);
    }
    // A policy that cannot be read has a finding of its own.
    let floor = trust::policy(&rooted(patient)).map_or(0, |policy| policy.tcb.min_evaluation);
    if facts.evaluation < floor {
        let found = format!(
            "evaluation {}, and the policy demands {floor}",
            facts.evaluation
        );
        return look.missing(found, fetch);
    }
    let days = until.saturating_sub(now) / DAY_S;
    let found = format!(
        "of family {theirs}, evaluation {}, {days} days left",
        facts.evaluation
    );
    if days < WARN_DAYS {
        return look.warning(found, fetch);
    }
    look.ok(found)
}

/// The configuration with its policy where it is here.
fn rooted(patient: &Patient<'_>) -> Config {
    let mut config = patient.config.clone();
    config.policy_path = config.policy_path.map(|path| patient.place.path(path));
    config
}

fn policy(patient: &Patient<'_>) -> Finding {
    let at = patient.config.policy_path.as_ref();
    let look = Look::at(
        "policy",
        at.map_or("built in".to_owned(), |path| path.display().to_string()),
        "it names the guest images to trust; a worker or client on TDX does not start without",
    );
    match trust::verifier(&rooted(patient)) {
        Ok(verifier) => {
            let names: Vec<_> = verifier
                .policy()
                .images
                .iter()
                .map(|image| image.name.as_str())
                .collect();
            look.ok(format!("trusts {}", names.join(", ")))
        }
        Err(error) => look.missing(
            error.to_string(),
            "put the policy of the release you run there and name it with --policy-path",
        ),
    }
}
