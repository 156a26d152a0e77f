//! What goes with a quote: collateral, and the policy that says which guests to trust.

use std::io;

use cocoon_attestation::facts::{self, CollateralFacts, Fmspc};
use cocoon_protocol::evidence::MAX_COLLATERAL_BYTES;

use super::{Finding, Look, Patient};
use crate::config::Config;
use crate::trust;

/// Days before the end of collateral at which the doctor begins to warn.
const WARN_DAYS: u64 = 5;
const DAY_S: u64 = 86_400;

pub(super) fn examine(patient: &Patient<'_>, quote: Option<&[u8]>) -> Vec<Finding> {
    let family = quote.and_then(facts::family_of);
    vec![collateral(patient, family), policy(patient)]
}

fn collateral(patient: &Patient<'_>, family: Option<Fmspc>) -> Finding {
    let path = patient.config.data_dir.join("collateral.json");
    let look = Look::at(
        "collateral",
        path.display().to_string(),
        "Intel's signed word on which processors and updates are sound goes out with each quote; it ends after 30 days",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let fetch = "fetch the collateral of this platform's family from Intel's PCS or a PCCS and write it there as JSON; \
                 docs/operators.md names the fields";
    let limit = u64::try_from(MAX_COLLATERAL_BYTES).unwrap_or(u64::MAX);
    let bytes = match patient.place.bytes(&path, limit.saturating_add(1)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return look.missing("not there", fetch);
        }
        Err(error) => {
            return look.missing(
                format!("cannot be read: {error}"),
                "let the worker's user read it",
            );
        }
    };
    match facts::collateral(&bytes) {
        Err(error) => look.missing(error.to_string(), fetch),
        Ok(facts) => judge(look, patient, &facts, family, fetch),
    }
}

fn judge(
    look: Look,
    patient: &Patient<'_>,
    facts: &CollateralFacts,
    family: Option<Fmspc>,
    fetch: &str,
) -> Finding {
    let now = patient.now.seconds();
    let (from, until) = (facts.from.seconds(), facts.until.seconds());
    let theirs = hex::encode(facts.fmspc);
    if let Some(ours) = family
        && ours != facts.fmspc
    {
        let found = format!(
            "of family {theirs}, while this platform's is {}",
            hex::encode(ours)
        );
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
    let floor = trust::policy(&rooted(patient)).map_or(0, |policy| policy.min_tcb_evaluation);
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
