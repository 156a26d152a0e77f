//! `cocoon policy check`.

use std::process::ExitCode;

use cocoon_attestation::policy::{MAX_POLICY_BYTES, Policy, signature};
use cocoon_protocol::Digest;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::{CheckArgs, MAX_SIGNATURE_BYTES, PolicyCommandError, key, parse, read, signature_path};
use crate::command::CommandResult;
use crate::terminal::plain;

/// What `--json` says.
#[derive(Serialize)]
struct Checked {
    /// Always true: what is wrong is an error.
    valid: bool,
    name: String,
    sha256: Digest,
    /// Whose signature was found good; none if no key was given.
    signed_by: Option<String>,
    images: Vec<String>,
    log: Option<String>,
    required: Vec<&'static str>,
}

pub(super) fn run(args: &CheckArgs) -> CommandResult {
    let bytes = read(&args.policy, MAX_POLICY_BYTES)?;
    let policy = parse(&args.policy, &bytes)?;
    let signed_by = if args.key.is_empty() {
        None
    } else {
        let keys = args
            .key
            .iter()
            .map(|given| key(given))
            .collect::<Result<Vec<_>, _>>()?;
        let path = args
            .signature
            .clone()
            .unwrap_or_else(|| signature_path(&args.policy));
        let note = read(&path, MAX_SIGNATURE_BYTES)?;
        let signer = signature::verify(&bytes, &note, &keys).map_err(|source| {
            let source = Box::new(source);
            PolicyCommandError::Signature { path, source }
        })?;
        Some(signer.name().to_owned())
    };
    let checked = Checked {
        valid: true,
        name: policy.name.clone(),
        sha256: Digest::sha256(&bytes),
        signed_by,
        images: policy
            .images
            .iter()
            .map(|image| image.name.clone())
            .collect(),
        log: policy.log.as_ref().map(|log| log.origin().to_owned()),
        required: policy.required.iter().map(|check| check.name()).collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checked)?);
    } else {
        print!("{}", render(&policy, &checked));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(policy: &Policy, checked: &Checked) -> String {
    let tcb = &policy.tcb;
    let statuses: Vec<_> = tcb.accepted.iter().map(ToString::to_string).collect();
    let grace = match tcb.grace_days {
        0 => String::new(),
        days => format!(", out of date for {days} days at most"),
    };
    let log = policy.log.as_ref().map_or_else(
        || "none".to_owned(),
        |log| {
            format!(
                "{}, signed by {} of {}",
                log.origin(),
                log.threshold(),
                log.keys().len()
            )
        },
    );
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for (what, value) in [
        ("policy", checked.name.clone()),
        ("sha256", checked.sha256.to_string()),
        (
            "signed by",
            checked
                .signed_by
                .clone()
                .unwrap_or_else(|| "not looked at; name keys with --key".to_owned()),
        ),
        ("images", listed(&checked.images)),
        ("log of images", log),
        (
            "TCB",
            format!(
                "{}{grace}; evaluation {} or later",
                statuses.join(", "),
                tcb.min_evaluation
            ),
        ),
        (
            "workers per machine",
            policy.platform.workers_per_platform.to_string(),
        ),
        ("models with answers", policy.models.len().to_string()),
        ("also required", listed(&checked.required)),
    ] {
        table.add_row([what.to_owned(), plain(&value).into_owned()]);
    }
    format!("{table}\n")
}

fn listed<T: AsRef<str>>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}
