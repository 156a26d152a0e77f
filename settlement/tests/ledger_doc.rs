//! `docs/ledger.md` names every column, every finding and the schema's version, so that it cannot rot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use cocoon_settlement::ledger::SCHEMA;

fn doc() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ledger.md");
    std::fs::read_to_string(path).expect("docs/ledger.md")
}

#[test]
fn the_document_lists_exactly_the_columns_of_the_schema() {
    let doc = doc();
    let table = doc
        .split("<!-- columns -->")
        .nth(1)
        .expect("a table between two marks");
    let listed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .collect();
    let columns: Vec<&str> = SCHEMA.columns.iter().map(|column| column.name()).collect();
    assert_eq!(listed, columns);
    let version = format!("Schema `{}`, version {}.", SCHEMA.name, SCHEMA.version);
    assert!(doc.contains(&version), "{version}");
}

#[test]
fn the_document_explains_every_finding_of_check_and_audit() {
    let doc = doc();
    let sources = [
        include_str!("../src/ledger/check/mod.rs"),
        include_str!("../src/ledger/check/worker.rs"),
        include_str!("../src/ledger/check/client.rs"),
        include_str!("../src/audit.rs"),
    ];
    let mut names = 0;
    for source in sources {
        // A finding's name is a word of its own in quotes, with an underscore or one of these.
        for word in source.split('"').skip(1).step_by(2) {
            let is_name = word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                && (word.contains('_')
                    || [
                        "sequence",
                        "regress",
                        "root",
                        "total",
                        "leaf",
                        "credit",
                        "overclaimed",
                    ]
                    .contains(&word));
            if is_name {
                names += 1;
                assert!(
                    doc.contains(&format!("`{word}`")),
                    "{word} is not explained"
                );
            }
        }
    }
    assert!(
        names >= 30,
        "only {names} names found: has their form changed?"
    );
}
