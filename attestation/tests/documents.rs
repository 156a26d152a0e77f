//! The documents name what there is.

use std::collections::BTreeSet;

use cocoon_attestation::Check;
use cocoon_attestation::policy::TEMPLATE;

const VERDICTS: &str = include_str!("../../docs/verdicts.md");
const POLICY: &str = include_str!("../../docs/policy.md");

/// The names in the first column of the tables below "The factors", in their order.
fn documented() -> Vec<&'static str> {
    VERDICTS
        .split("## The factors")
        .nth(1)
        .and_then(|text| text.split("## Who is on which machine").next())
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

#[test]
fn every_factor_is_documented_once_and_no_other() {
    let documented = documented();
    let names: BTreeSet<_> = documented.iter().copied().collect();
    let wanted: BTreeSet<_> = Check::ALL.iter().map(|check| check.name()).collect();
    assert_eq!(names, wanted);
    assert_eq!(documented.len(), Check::ALL.len());
}

#[test]
fn the_document_names_the_factors_that_may_be_skipped() {
    let sentence = VERDICTS
        .split("All factors are required in every verdict, but for eight:")
        .nth(1)
        .and_then(|text| text.split('.').next())
        .unwrap_or_default();
    let named: BTreeSet<_> = sentence.split('`').skip(1).step_by(2).collect();
    let wanted: BTreeSet<_> = Check::ALL
        .iter()
        .filter(|check| check.may_be_skipped())
        .map(|check| check.name())
        .collect();
    assert_eq!(named, wanted);
}

#[test]
fn every_key_of_the_template_is_documented() {
    let keys = TEMPLATE.lines().filter_map(|line| {
        let line = line.strip_prefix("#:").unwrap_or(line);
        let (key, _) = line.split_once('=')?;
        (!line.starts_with(['#', ' '])).then(|| key.trim())
    });
    // Of a step of `events` the log's own document speaks.
    let steps = ["event", "varies"];
    for key in keys.filter(|key| !steps.contains(key)) {
        assert!(POLICY.contains(&format!("`{key}`")), "{key}");
    }
}
