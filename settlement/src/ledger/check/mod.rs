//! Whether a ledger agrees with itself: every record's form and checksum, every index, every sum, every root.
//!
//! Reads everything once, in pages, and keeps one line per channel in memory. What is wrong is a [`Finding`] with a name
//! that scripts may rely on; `docs/ledger.md` says what each means and what to do. Whether the ledger agrees with the
//! *chain* is another question, asked by the settler at every start and by `cocoon audit`.

mod client;
mod worker;

use std::collections::BTreeMap;

use serde::Serialize;

use super::client_evidence::{ByAge, KeptEvidence};
use super::client_records::{ByLeaf, ByWorker};
use super::jobs::{JobRecord, OpenJob};
use super::worker_records::Head;
use super::{
    Batch, ClaimRecord, ClientChannel, Entry, KeptCollateral, KeptLogNews, KeptReceipt,
    LedgerError, SCHEMA, WorkerChannel,
};
use crate::store::{Column, Record, Store, StoreError, record};

/// Findings that are listed; more are only counted.
pub const MAX_FINDINGS: usize = 1_000;

/// Records read at a time.
const PAGE: usize = 256;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, stable.
    pub name: &'static str,
    /// Where.
    pub column: &'static str,
    /// The record's key in hex, where it is about one record.
    pub key: Option<String>,
    /// In words.
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Records by column.
    pub records: BTreeMap<&'static str, u64>,
    /// The first [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// All of them.
    pub found: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    fn add(&mut self, name: &'static str, column: Column, key: Option<&[u8]>, what: String) {
        self.found = self.found.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                name,
                column: column.name(),
                key: key.map(hex::encode),
                what,
            });
        }
    }

    fn about<R: Record>(&mut self, name: &'static str, record: &R, what: String) {
        self.add(name, R::COLUMN, Some(&record.key()), what);
    }

    fn count(&mut self, column: Column) {
        let count = self.records.entry(column.name()).or_default();
        *count = count.saturating_add(1);
    }
}

/// Checks a whole directory. With the network's number the signatures of all vouchers are checked too.
///
/// # Errors
/// The store's failure. Damaged records are findings, not errors.
pub fn check(store: &impl Store, global_id: Option<i32>) -> Result<CheckReport, LedgerError> {
    let mut report = CheckReport::default();
    for column in SCHEMA.columns {
        report.records.insert(column.name(), 0);
    }
    worker::check(store, global_id, &mut report)?;
    client::check(store, global_id, &mut report)?;
    for_readable::<KeptCollateral>(store, &mut report, |_, _| Ok(()))?;
    for_readable::<KeptLogNews>(store, &mut report, |_, _| Ok(()))?;
    Ok(report)
}

/// Visits every readable record of a column; what is not readable becomes a finding.
fn for_readable<R: Record>(
    store: &impl Store,
    report: &mut CheckReport,
    mut visit: impl FnMut(&mut CheckReport, R) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut from = Vec::new();
    loop {
        let page = store.scan(R::COLUMN, &[], &from, PAGE)?;
        let is_last = page.len() < PAGE;
        if let Some((last, _)) = page.last() {
            from.clone_from(last);
            from.push(0);
        }
        for (key, value) in page {
            report.count(R::COLUMN);
            match record::open::<R>(&key, &value) {
                Ok(record) => visit(report, record)?,
                Err(error) => {
                    report.add("damaged_record", R::COLUMN, Some(&key), error_words(&error));
                }
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

fn error_words(error: &StoreError) -> String {
    match error {
        StoreError::Record { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// As [`crate::store::load`], but a damaged record counts as absent: its own column's pass reports it.
fn find<R: Record>(store: &impl Store, key: &[u8]) -> Result<Option<R>, LedgerError> {
    Ok(store
        .get(R::COLUMN, key)?
        .and_then(|value| record::open::<R>(key, &value).ok()))
}

/// Reads one record's bytes as what its column holds: `None` for a column that is not the ledger's.
#[must_use]
pub fn readable(column: Column, key: &[u8], value: &[u8]) -> Option<Result<(), StoreError>> {
    type Read = fn(&[u8], &[u8]) -> Result<(), StoreError>;
    fn of<R: Record>(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        record::open::<R>(key, value).map(|_| ())
    }
    let name = column.name();
    let readers: [(Column, Read); 15] = [
        (Head::COLUMN, of::<Head>),
        (WorkerChannel::COLUMN, of::<WorkerChannel>),
        (Entry::COLUMN, of::<Entry>),
        (Batch::COLUMN, of::<Batch>),
        (ClaimRecord::COLUMN, of::<ClaimRecord>),
        (JobRecord::COLUMN, of::<JobRecord>),
        (OpenJob::COLUMN, of::<OpenJob>),
        (ClientChannel::COLUMN, of::<ClientChannel>),
        (ByWorker::COLUMN, of::<ByWorker>),
        (KeptReceipt::COLUMN, of::<KeptReceipt>),
        (ByLeaf::COLUMN, of::<ByLeaf>),
        (KeptEvidence::COLUMN, of::<KeptEvidence>),
        (ByAge::COLUMN, of::<ByAge>),
        (KeptCollateral::COLUMN, of::<KeptCollateral>),
        (KeptLogNews::COLUMN, of::<KeptLogNews>),
    ];
    readers
        .iter()
        .find(|(column, _)| column.name() == name)
        .map(|(_, read)| read(key, value))
}
