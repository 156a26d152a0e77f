//! `cocoon policy explain`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cocoon_attestation::gpu::GpuFactor;
use cocoon_attestation::{Check, Expectation, FactorResult, Verdict};
use cocoon_protocol::evidence::{Beacon, EvidenceBundle};
use cocoon_protocol::units::UnixMillis;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::{ExplainArgs, PolicyCommandError, read};
use crate::command::verify::block_of_chain;
use crate::command::{CommandError, CommandResult, FAILURE, block_on};
use crate::config::{Config, Effective, Environment};
use crate::receipt_check::MAX_DOCUMENT_BYTES;
use crate::terminal::plain;
use crate::trust;

/// Name and version of what `--json` says. Fields are only ever added under the same version.
const FORMAT: &str = "cocoon.explanation/1";

/// What `--json` says.
#[derive(Serialize)]
pub(super) struct Explanation {
    format: &'static str,
    pub(super) accepted: bool,
    trust: &'static str,
    policy: String,
    evidence: String,
    platform_id: String,
    pub(super) factors: Vec<Line>,
    gpu: Vec<GpuFactor>,
}

/// A factor, and what to do about it.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) name: &'static str,
    required: bool,
    pub(super) result: FactorResult,
    pub(super) reason: String,
    seen: String,
    wanted: String,
    /// The key of the policy that decides about it.
    policy_key: Option<&'static str>,
    /// Only where it stands in the way.
    pub(super) change: Option<&'static str>,
}

pub(super) fn run(args: &ExplainArgs) -> CommandResult {
    let bundle = evidence(&args.bundle)?;
    let mut flags = args.flags.clone();
    if args.policy.is_some() {
        flags.policy_path.clone_from(&args.policy);
    }
    let effective = Effective::load(&flags, &Environment::of_process())?;
    let verifier = trust::verifier(&effective.config)?;
    let beacons = beacons(&effective.config, &bundle)?;
    let claims = &bundle.claims;
    let expectation = Expectation::new(
        args.peer.unwrap_or(claims.peer),
        args.model.unwrap_or(claims.model),
        args.advertised.unwrap_or_else(|| claims.digest()),
        &beacons,
    );
    let now = match args.at {
        Some(seconds) => UnixMillis::from_millis(seconds.saturating_mul(1_000)),
        None => now(),
    };
    let verdict = verifier.examine(now, &bundle, &expectation);
    let unsaid = [
        (Check::PeerId, args.peer.is_none(), "--peer"),
        (Check::ModelDigest, args.model.is_none(), "--model"),
        (
            Check::AdvertisedEvidence,
            args.advertised.is_none(),
            "--advertised",
        ),
    ]
    .into_iter()
    .filter_map(|(check, is_unsaid, flag)| is_unsaid.then_some((check, flag)))
    .collect::<Vec<_>>();
    let explanation = explain(&verdict, &verifier.policy().name, &unsaid);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", render(&explanation));
    }
    Ok(if explanation.accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// `unsaid`: what nobody said, so that the evidence was only compared with itself.
pub(super) fn explain(verdict: &Verdict, policy: &str, unsaid: &[(Check, &str)]) -> Explanation {
    let factors: Vec<_> = Check::ALL
        .iter()
        .zip(&verdict.factors)
        .map(|(check, factor)| {
            let flag = unsaid
                .iter()
                .find_map(|(unsaid, flag)| (unsaid == check).then_some(*flag));
            let (result, reason) = match flag {
                Some(flag) if factor.result == FactorResult::Pass => (
                    FactorResult::Skip,
                    format!("nobody said what it should be; say so with {flag}"),
                ),
                _ => (factor.result, factor.reason.clone()),
            };
            let in_the_way = match result {
                FactorResult::Pass => false,
                FactorResult::Fail => true,
                FactorResult::Skip => factor.required,
            };
            Line {
                name: factor.name,
                required: factor.required,
                result,
                reason,
                seen: factor.seen.clone(),
                wanted: factor.wanted.clone(),
                policy_key: check.policy_key(),
                change: (in_the_way && flag.is_none()).then(|| check.advice()),
            }
        })
        .collect();
    Explanation {
        format: FORMAT,
        accepted: verdict.accepted() && unsaid.is_empty(),
        trust: verdict.trust.name(),
        policy: policy.to_owned(),
        evidence: verdict.evidence.to_string(),
        platform_id: verdict.platform_id.clone(),
        factors,
        gpu: verdict.gpu.clone(),
    }
}

pub(super) fn render(explanation: &Explanation) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for line in &explanation.factors {
        let mut text = plain(&line.reason).into_owned();
        if line.result == FactorResult::Fail {
            for (what, value) in [("seen", &line.seen), ("wanted", &line.wanted)] {
                if !value.is_empty() {
                    text.push_str(&format!("\n{what:<7} {}", plain(value)));
                }
            }
        }
        // What was not reached says nothing about itself.
        if let (FactorResult::Fail, Some(change)) = (line.result, line.change) {
            text.push_str(&format!("\nchange  {change}"));
            if let Some(key) = line.policy_key {
                text.push_str(&format!("\npolicy  {key}"));
            }
        }
        table.add_row([line.result.to_string(), line.name.to_owned(), text]);
    }
    for factor in &explanation.gpu {
        table.add_row([
            factor.result.to_string(),
            format!("GPU {} {}", factor.gpu, factor.name),
            plain(&factor.reason).into_owned(),
        ]);
    }
    format!(
        "{table}\n{} under the {} root and the policy {:?}\n",
        if explanation.accepted {
            "ACCEPTED"
        } else {
            "REFUSED"
        },
        explanation.trust,
        plain(&explanation.policy)
    )
}

/// Evidence as it goes over the wire, or in a document that holds it in base64.
pub(super) fn evidence(path: &Path) -> Result<EvidenceBundle, CommandError> {
    let bytes = read(path, MAX_DOCUMENT_BYTES)?;
    let bytes = if bytes.first() == Some(&b'{') {
        serde_json::from_slice::<serde_json::Value>(&bytes)?
            .get("evidence")
            .and_then(serde_json::Value::as_str)
            .and_then(|text| BASE64.decode(text).ok())
            .ok_or_else(|| PolicyCommandError::NoEvidence {
                path: path.to_owned(),
            })?
    } else {
        bytes
    };
    EvidenceBundle::decode(&bytes).map_err(|source| {
        PolicyCommandError::Evidence {
            path: path.to_owned(),
            source: Box::new(source),
        }
        .into()
    })
}

/// The block that the evidence names, as the chain has it; none if there is no chain.
fn beacons(config: &Config, bundle: &EvidenceBundle) -> Result<Vec<Beacon>, CommandError> {
    block_on(async {
        Ok(
            match block_of_chain(config, bundle.claims.beacon.seqno).await {
                Ok(beacon) => vec![beacon],
                Err(error) => {
                    eprintln!("the block that the evidence names cannot be checked: {error}");
                    Vec::new()
                }
            },
        )
    })
}

fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
