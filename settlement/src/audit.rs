//! A whole worker, held against the chain by somebody who trusts neither it nor its disk.
//!
//! From the chain: every commit its ledger contract ever applied (the transactions' message bodies), what the contract
//! holds now, and what the channels have paid. From the worker: its [published leaves](crate::ledger::publish). The audit
//! recomputes every root from the leaves and compares:
//! - commits follow one another without a gap, sums never shrink, and the contract holds the last of them;
//! - each commit's root and number of jobs are those of the leaves, its total is the sum of their credits;
//! - every leaf is a receipt signed by the key it names, on the channel it is credited to and not beyond the channel's
//!   voucher, or states a payment without one; credits are exactly the rises of the channels' totals;
//! - no channel has paid more than the log credits to it.
//!
//! What it cannot see: whether the receipts' keys were an enclave's (each receipt names its evidence; `cocoon verify`
//! judges it), and jobs that a worker did for nothing. Memory: one line for each commit and each channel.

use std::collections::BTreeMap;
use std::io::Read;

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use serde::Serialize;
use tycho_types::boc::Boc;

use crate::chain::{Chain, ChainError, TransactionSummary, wire};
use crate::contract::{Commit, fetch_channel, fetch_ledger};
use crate::ledger::{LeavesError, LeavesReader};

/// Commits an audit reads: at one a minute, two years.
pub const MAX_COMMITS: usize = 1_000_000;
/// Channels an audit keeps a line for.
pub const MAX_AUDITED_CHANNELS: usize = 1_000_000;
/// Findings that are listed; more are only counted.
pub const MAX_FINDINGS: usize = 1_000;

const OP_COMMIT: u32 = 0x636d_6974;
const SIGNED_BYTES: usize = 104;

/// One commit as it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SeenCommit {
    /// Its number.
    pub seqno: u32,
    /// The root over all leaves so far.
    pub root: Digest,
    /// How many.
    pub jobs: u64,
    /// What they credit.
    pub total: NanoTon,
    /// Its transaction.
    pub transaction: Digest,
    /// Seconds since 1970.
    pub unix: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// Its name, stable.
    pub name: &'static str,
    /// The commit it is about.
    pub commit: Option<u32>,
    /// The leaf.
    pub leaf: Option<u64>,
    /// The channel.
    pub channel: Option<TonAddress>,
    /// In words.
    pub what: String,
}

/// What an audit saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Commits on chain.
    pub commits: u64,
    /// Leaves that they cover.
    pub jobs: u64,
    /// Of those, with a receipt.
    pub receipts: u64,
    /// What the leaves credit.
    pub credited: NanoTon,
    /// Channels named.
    pub channels: u64,
    /// What they have paid since the log knows them.
    pub claimed: NanoTon,
    /// The first [`MAX_FINDINGS`].
    pub findings: Vec<AuditFinding>,
    /// All of them.
    pub found: u64,
}

impl AuditReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    fn add(&mut self, finding: AuditFinding) {
        self.found = self.found.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

fn wrong(name: &'static str, what: String) -> AuditFinding {
    AuditFinding {
        name,
        commit: None,
        leaf: None,
        channel: None,
        what,
    }
}

/// Why there is no audit. What is wrong with the worker is a finding instead.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The leaves.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// Nothing to audit.
    #[error("there is no ledger contract at {0}")]
    NoContract(TonAddress),
    /// The file is about somebody else.
    #[error("these are the leaves of {found}, not of {wanted}")]
    OtherLedger {
        /// In the file.
        found: TonAddress,
        /// Asked for.
        wanted: TonAddress,
    },
    /// The chain client does not tell what messages said.
    #[error("this chain's client gives no message bodies, without which commits cannot be read")]
    NoBodies,
    /// Beyond a limit of this program.
    #[error("more than {limit} {what}, which is the limit")]
    TooMany {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Commits read from the chain.
    Commits(u64),
    /// Leaves compared, of how many.
    Leaves(u64, u64),
    /// Channels looked at, of how many.
    Channels(u64, u64),
}

/// Reads a commit from the body of the message that carried it (bag of cells); `None` for any other message.
#[must_use]
pub fn read_commit(body: &[u8]) -> Option<Commit> {
    let cell = Boc::decode(body).ok()?;
    let mut slice = cell.as_slice().ok()?;
    if slice.load_u32().ok()? != OP_COMMIT {
        return None;
    }
    let mut signature = [0; 64];
    slice.load_raw(&mut signature, 512).ok()?;
    let mut inner = slice.load_reference_as_slice().ok()?;
    let mut signed = [0; SIGNED_BYTES];
    inner.load_raw(&mut signed, 832).ok()?;
    // Tag and network were checked by the contract, with the signature.
    let mut rest = signed.get(9..)?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken)
    };
    Some(Commit {
        ledger: TonAddress {
            workchain: 0,
            hash: take(32)?.try_into().ok()?,
        },
        seqno: u32::from_be_bytes(take(4)?.try_into().ok()?),
        valid_until: u32::from_be_bytes(take(4)?.try_into().ok()?),
        root: Digest::from_bytes(take(32)?.try_into().ok()?),
        jobs: u64::from_be_bytes(take(8)?.try_into().ok()?),
        total: {
            let bytes: [u8; 15] = take(15)?.try_into().ok()?;
            let (high, low) = bytes.split_at_checked(7)?;
            if high.iter().any(|byte| *byte != 0) {
                return None;
            }
            NanoTon::from_nano(u64::from_be_bytes(low.try_into().ok()?))
        },
    })
}

/// All commits that a ledger contract ever applied, oldest first.
///
/// # Errors
/// The chain's failure, [`AuditError::NoBodies`], [`AuditError::TooMany`].
pub async fn commits(
    chain: &dyn Chain,
    ledger: TonAddress,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<SeenCommit>, AuditError> {
    let mut commits = Vec::new();
    let mut after = 0;
    loop {
        let page = chain
            .transactions(ledger, after, wire::MAX_TRANSACTIONS_PER_PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(commits);
        };
        after = last.lt;
        for transaction in &page {
            commits.extend(commit_of(transaction)?);
        }
        if commits.len() > MAX_COMMITS {
            return Err(AuditError::TooMany {
                limit: MAX_COMMITS,
                what: "commits",
            });
        }
        progress(Progress::Commits(count(commits.len())));
    }
}

/// Only external messages commit, and only those that the contract took.
fn commit_of(transaction: &TransactionSummary) -> Result<Option<SeenCommit>, AuditError> {
    if transaction.source.is_some() || !transaction.success || transaction.in_message.is_none() {
        return Ok(None);
    }
    let body = transaction.in_body.as_ref().ok_or(AuditError::NoBodies)?;
    Ok(read_commit(body).map(|commit| SeenCommit {
        seqno: commit.seqno,
        root: commit.root,
        jobs: commit.jobs,
        total: commit.total,
        transaction: transaction.hash,
        unix: transaction.unix,
    }))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// What the log says of a channel.
#[derive(Clone, Copy)]
struct Line {
    base: NanoTon,
    total: NanoTon,
}

/// Audits a worker. See the [module's documentation](self).
///
/// # Errors
/// [`AuditError`]: no audit was possible. What is wrong with the worker stands in the report.
pub async fn audit(
    chain: &dyn Chain,
    ledger: TonAddress,
    leaves: impl Read,
    mut progress: impl FnMut(Progress),
) -> Result<AuditReport, AuditError> {
    let mut leaves = LeavesReader::new(leaves)?;
    if leaves.ledger() != ledger {
        return Err(AuditError::OtherLedger {
            found: leaves.ledger(),
            wanted: ledger,
        });
    }
    let state = fetch_ledger(chain, ledger)
        .await?
        .ok_or(AuditError::NoContract(ledger))?;
    let commits = commits(chain, ledger, &mut progress).await?;
    let mut report = AuditReport {
        commits: count(commits.len()),
        ..AuditReport::default()
    };
    sequence(&commits, &mut report);
    let [newest, ..] = state.roots;
    let held = (state.seqno, state.jobs, state.total, newest);
    let last = commits
        .last()
        .map_or((0, 0, NanoTon::ZERO, Digest::from_bytes([0; 32])), |last| {
            (last.seqno, last.jobs, last.total, last.root)
        });
    if held != last {
        let what = format!(
            "the contract holds batch {} with {} jobs, the last commit seen is {} with {}",
            held.0, held.1, last.0, last.1
        );
        report.add(wrong("contract_state", what));
    }
    let channels = compare(&commits, &mut leaves, &mut report, &mut progress)?;
    paid(chain, &channels, &mut report, &mut progress).await?;
    Ok(report)
}

/// Commits among themselves.
fn sequence(commits: &[SeenCommit], report: &mut AuditReport) {
    let (mut seqno, mut jobs, mut total) = (0_u32, 0, NanoTon::ZERO);
    for commit in commits {
        if Some(commit.seqno) != seqno.checked_add(1) {
            let what = format!("commit {} follows commit {seqno}", commit.seqno);
            report.add(AuditFinding {
                commit: Some(commit.seqno),
                ..wrong("sequence", what)
            });
        }
        if commit.jobs < jobs || commit.total < total {
            let what = format!(
                "{} jobs and {} after {jobs} and {total}",
                commit.jobs, commit.total
            );
            report.add(AuditFinding {
                commit: Some(commit.seqno),
                ..wrong("regress", what)
            });
        }
        (seqno, jobs, total) = (commit.seqno, commit.jobs, commit.total);
    }
}

/// The leaves beside the commits.
fn compare<R: Read>(
    commits: &[SeenCommit],
    leaves: &mut LeavesReader<R>,
    report: &mut AuditReport,
    progress: &mut impl FnMut(Progress),
) -> Result<BTreeMap<TonAddress, Line>, AuditError> {
    /// Leaves between two words about progress.
    const STEP: u64 = 4_096;
    let all = commits.last().map_or(0, |last| last.jobs);
    let mut channels: BTreeMap<TonAddress, Line> = BTreeMap::new();
    let mut credited = NanoTon::ZERO;
    let mut open = commits.iter().peekable();
    loop {
        let size = leaves.tree().size();
        while let Some(commit) = open.next_if(|commit| commit.jobs <= size) {
            let root = leaves.tree().root();
            if commit.jobs == size && commit.root != root {
                let what = format!("its root is {}, that of the leaves is {root}", commit.root);
                report.add(AuditFinding {
                    commit: Some(commit.seqno),
                    ..wrong("root", what)
                });
            }
            if commit.jobs == size && commit.total != credited {
                let what = format!(
                    "its total is {}, the leaves credit {credited}",
                    commit.total
                );
                report.add(AuditFinding {
                    commit: Some(commit.seqno),
                    ..wrong("total", what)
                });
            }
        }
        if size.is_multiple_of(STEP) {
            progress(Progress::Leaves(size.min(all), all));
        }
        let Some(leaf) = leaves.next_leaf()? else {
            break;
        };
        if size >= all {
            // Published before it was committed: nothing on chain to compare it with.
            continue;
        }
        let finding = |name, what| AuditFinding {
            leaf: Some(size),
            channel: Some(leaf.channel),
            ..wrong(name, what)
        };
        match leaf.claim() {
            Ok(crate::ledger::LeafClaim::Receipt { .. }) => {
                report.receipts = report.receipts.saturating_add(1);
            }
            Ok(crate::ledger::LeafClaim::Unreceipted { .. }) => {}
            Err(why) => report.add(finding("leaf", why.to_owned())),
        }
        credited = credited.saturating_add(leaf.credited);
        if channels.len() >= MAX_AUDITED_CHANNELS && !channels.contains_key(&leaf.channel) {
            return Err(AuditError::TooMany {
                limit: MAX_AUDITED_CHANNELS,
                what: "channels",
            });
        }
        let base = leaf.total.saturating_sub(leaf.credited);
        let line = channels
            .entry(leaf.channel)
            .or_insert(Line { base, total: base });
        if line.total.checked_add(leaf.credited) != Some(leaf.total) {
            let what = format!(
                "credits {}, its channel went from {} to {}",
                leaf.credited, line.total, leaf.total
            );
            report.add(finding("credit", what));
        }
        line.total = leaf.total;
    }
    for commit in open {
        let what = format!(
            "covers {} leaves, {} are published",
            commit.jobs,
            leaves.tree().size()
        );
        report.add(AuditFinding {
            commit: Some(commit.seqno),
            ..wrong("leaves_missing", what)
        });
    }
    report.jobs = all.min(leaves.tree().size());
    report.credited = credited;
    report.channels = count(channels.len());
    Ok(channels)
}

/// What the channels have paid.
async fn paid(
    chain: &dyn Chain,
    channels: &BTreeMap<TonAddress, Line>,
    report: &mut AuditReport,
    progress: &mut impl FnMut(Progress),
) -> Result<(), AuditError> {
    for (number, (address, line)) in (0_u64..).zip(channels) {
        progress(Progress::Channels(number, report.channels));
        // A channel whose contract is gone has nothing to say.
        let Some(state) = fetch_channel(chain, *address).await? else {
            continue;
        };
        report.claimed = report
            .claimed
            .saturating_add(state.claimed.saturating_sub(line.base));
        if state.claimed > line.total {
            let what = format!(
                "it has paid {}, the committed log goes to {}",
                state.claimed, line.total
            );
            report.add(AuditFinding {
                channel: Some(*address),
                ..wrong("overclaimed", what)
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::contract::commit_message;

    #[test]
    fn a_commit_is_read_from_the_message_that_carries_it() {
        use tycho_types::cell::{CellBuilder, CellSlice};
        use tycho_types::models::OwnedMessage;
        let commit = Commit {
            ledger: TonAddress {
                workchain: 0,
                hash: [7; 32],
            },
            seqno: 3,
            valid_until: 1_795_000_060,
            root: Digest::sha256(b"root"),
            jobs: 1 << 40,
            total: NanoTon::from_nano(u64::MAX),
        };
        let boc = commit_message(&commit, &SigningKey::from_bytes(&[1; 32]), -3).unwrap();
        let message = Boc::decode(&boc).unwrap();
        let body = message.parse::<OwnedMessage>().unwrap().body;
        let body = CellBuilder::build_from(CellSlice::apply(&body).unwrap()).unwrap();
        assert_eq!(read_commit(&Boc::encode(&body)), Some(commit));
        assert_eq!(read_commit(&boc), None, "a whole message is no body");
        assert_eq!(read_commit(&[]), None);
    }

    #[test]
    fn no_body_is_too_strange() {
        bolero::check!().with_type().for_each(|bytes: &Vec<u8>| {
            let _ = read_commit(bytes);
            // And one that gets past the bag of cells.
            let mut cell = tycho_types::cell::CellBuilder::new();
            let bits = u16::try_from(bytes.len().min(120)).unwrap_or(0) * 8;
            cell.store_u32(OP_COMMIT).unwrap();
            if cell.store_raw(bytes, bits.min(960)).is_ok() {
                let inner = tycho_types::cell::Cell::default();
                let _ = cell.store_reference(inner);
                let _ = read_commit(&Boc::encode(cell.build().unwrap()));
            }
        });
    }
}
