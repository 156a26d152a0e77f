//! `cocoon log verify`: factor by factor, as `cocoon verify` does it for receipts.

use std::path::Path;

use cocoon_attestation::log::{ProofError, RebuilderSet, SignedCheckpointError, open};
use cocoon_attestation::{FactorResult, Image};
use cocoon_protocol::Digest;
use cocoon_protocol::log::{ImageProof, MAX_CHECKPOINT_BYTES, MAX_IMAGE_PROOF_BYTES, TreeHead};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::LogError;
use super::directory::{LogDirectory, read};
use crate::terminal::plain;

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// True only if every factor passed.
    pub verified: bool,
    /// The log whose rebuilders were asked for.
    pub origin: String,
    /// How many of them must have signed.
    pub threshold: usize,
    /// The signed size, once it is known to be signed.
    pub size: Option<u64>,
    /// The signed root.
    pub root: Option<Digest>,
    /// Who signed.
    pub signers: Vec<String>,
    /// The image that a proof is about.
    pub image: Option<Image>,
    /// The source that it is built from.
    pub revision: Option<String>,
    /// In order.
    pub factors: Vec<Line>,
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub result: FactorResult,
    /// Why.
    pub reason: String,
}

impl Report {
    fn new(set: &RebuilderSet) -> Self {
        Self {
            verified: false,
            origin: set.origin().to_owned(),
            threshold: set.threshold(),
            size: None,
            root: None,
            signers: Vec::new(),
            image: None,
            revision: None,
            factors: Vec::new(),
        }
    }

    fn line(&mut self, name: &'static str, result: FactorResult, reason: impl Into<String>) {
        let reason = reason.into();
        self.factors.push(Line {
            name,
            result,
            reason,
        });
    }

    fn signed(&mut self, head: TreeHead, signers: Vec<String>) {
        self.size = Some(head.size);
        self.root = Some(head.root);
        self.signers = signers;
    }

    fn signatures_passed(&self) -> String {
        format!(
            "{} of the rebuilders signed, {} must: {}",
            self.signers.len(),
            self.threshold,
            self.signers.join(", ")
        )
    }
}

/// Checks a proof or a log's directory; with `since`, also that the log grew out of that checkpoint.
///
/// # Errors
/// Files that cannot be read. What is wrong in them is no error here but a factor.
pub(super) fn check(
    path: &Path,
    set: &RebuilderSet,
    since: Option<&Path>,
) -> Result<Report, LogError> {
    let mut report = Report::new(set);
    if path.is_dir() {
        check_directory(&mut report, path, set, since)?;
    } else {
        check_proof(&mut report, path, set, since)?;
    }
    let passed = |line: &Line| line.result == FactorResult::Pass;
    report.verified = report.factors.iter().all(passed);
    Ok(report)
}

/// In the order in which [`open`] looks at them.
const OF_A_PROOF: [(&str, &str); 5] = [
    ("form", "a proof in its only encoding"),
    ("entry", "an image in its only spelling"),
    ("checkpoint", "of this log"),
    ("inclusion", "the path leads from the entry to the root"),
    ("signatures", ""),
];

fn check_proof(
    report: &mut Report,
    path: &Path,
    set: &RebuilderSet,
    since: Option<&Path>,
) -> Result<(), LogError> {
    let bytes = read(
        path,
        u64::try_from(MAX_IMAGE_PROOF_BYTES).unwrap_or(u64::MAX),
    )?;
    let opened = match ImageProof::decode(&bytes) {
        Err(error) => Err((0, error.to_string())),
        Ok(proof) => open(&proof, set).map_err(|error| {
            let at = match &error {
                ProofError::Entry(_) | ProofError::Register { .. } => 1,
                ProofError::Checkpoint(
                    SignedCheckpointError::BadSignature { .. }
                    | SignedCheckpointError::TooFewSigners { .. },
                ) => 4,
                ProofError::Checkpoint(_) => 2,
                ProofError::Index { .. } | ProofError::Path { .. } => 3,
            };
            (at, error.to_string())
        }),
    };
    let head = match opened {
        Ok(admitted) => {
            report.signed(admitted.head, admitted.signers);
            report.image = Some(admitted.image);
            report.revision = Some(admitted.revision);
            for (name, reason) in OF_A_PROOF {
                let reason = match name {
                    "signatures" => report.signatures_passed(),
                    _ => reason.to_owned(),
                };
                report.line(name, FactorResult::Pass, reason);
            }
            Some(admitted.head)
        }
        Err((failed, why)) => {
            for (at, (name, reason)) in OF_A_PROOF.into_iter().enumerate() {
                match at.cmp(&failed) {
                    std::cmp::Ordering::Less => report.line(name, FactorResult::Pass, reason),
                    std::cmp::Ordering::Equal => report.line(name, FactorResult::Fail, &why),
                    std::cmp::Ordering::Greater => {
                        report.line(name, FactorResult::Skip, "not reached");
                    }
                }
            }
            None
        }
    };
    check_since(report, set, since, head, |older, head| {
        if older == head {
            return Ok("the same checkpoint".to_owned());
        }
        Err(if older.size == head.size {
            "another root for the same number of entries: the rebuilders signed two logs".to_owned()
        } else {
            "a proof holds one checkpoint and cannot show how the log grew; verify the log's directory".to_owned()
        })
    })
}

fn check_directory(
    report: &mut Report,
    path: &Path,
    set: &RebuilderSet,
    since: Option<&Path>,
) -> Result<(), LogError> {
    let directory = match LogDirectory::open(path) {
        Ok(directory) => directory,
        Err(error) => {
            report.line("entries", FactorResult::Fail, error.to_string());
            report.line("signatures", FactorResult::Skip, "not reached");
            return check_since(report, set, since, None, |_, _| Ok(String::new()));
        }
    };
    let size = directory.entries().len();
    report.line(
        "entries",
        FactorResult::Pass,
        format!("{size} entries give the checkpoint's root"),
    );
    let head = match set.verify(directory.note().to_string().as_bytes()) {
        Ok(signed) => {
            let head = signed.checkpoint().head;
            report.signed(head, signed.signers().to_vec());
            let reason = report.signatures_passed();
            report.line("signatures", FactorResult::Pass, reason);
            Some(head)
        }
        Err(error) => {
            report.line("signatures", FactorResult::Fail, error.to_string());
            None
        }
    };
    check_since(report, set, since, head, |older, head| {
        if directory.grew_from(older) {
            let (from, to) = (older.size, head.size);
            return Ok(format!("{to} entries begin with the {from} of then"));
        }
        Err(if older.size > head.size {
            format!(
                "{} entries now, {} then: entries were taken out",
                head.size, older.size
            )
        } else {
            "the first entries are not those of then: the rebuilders signed two logs".to_owned()
        })
    })
}

/// The factor of an older checkpoint, if one was given.
fn check_since(
    report: &mut Report,
    set: &RebuilderSet,
    since: Option<&Path>,
    head: Option<TreeHead>,
    compare: impl FnOnce(TreeHead, TreeHead) -> Result<String, String>,
) -> Result<(), LogError> {
    let Some(since) = since else {
        return Ok(());
    };
    let bytes = read(
        since,
        u64::try_from(MAX_CHECKPOINT_BYTES).unwrap_or(u64::MAX),
    )?;
    let name = "consistency";
    match (head, set.verify(&bytes)) {
        (None, _) => report.line(name, FactorResult::Skip, "not reached"),
        (Some(_), Err(error)) => {
            report.line(
                name,
                FactorResult::Fail,
                format!("the older checkpoint: {error}"),
            );
        }
        (Some(head), Ok(older)) => match compare(older.checkpoint().head, head) {
            Ok(reason) => report.line(name, FactorResult::Pass, reason),
            Err(reason) => report.line(name, FactorResult::Fail, reason),
        },
    }
    Ok(())
}

/// For people.
#[must_use]
pub(super) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for line in &report.factors {
        table.add_row([
            line.result.to_string(),
            line.name.to_owned(),
            plain(&line.reason).into_owned(),
        ]);
    }
    let about = match (&report.image, &report.revision) {
        (Some(image), Some(revision)) => {
            let revision = if revision.is_empty() {
                "not said"
            } else {
                revision
            };
            format!(
                "image     {}\nrevision  {}\nmrtd      {}\nrtmr0     {}\nrtmr1     {}\nrtmr2     {}\n",
                plain(&image.name),
                plain(revision),
                image.mrtd,
                image.rtmr0,
                image.rtmr1,
                image.rtmr2
            )
        }
        _ => String::new(),
    };
    let verdict = if report.verified {
        "VERIFIED"
    } else {
        "NOT VERIFIED"
    };
    format!(
        "{table}\n{about}{verdict} in the log {}\n",
        plain(&report.origin)
    )
}
