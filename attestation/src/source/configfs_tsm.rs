//! Evidence of a real guest, through Linux's `configfs-tsm` (6.7 and newer).
//!
//! The kernel's contract, `Documentation/ABI/testing/configfs-tsm-report`: making a folder below
//! `/sys/kernel/config/tsm/report` makes a report; `provider` says who makes it; 64 bytes written
//! to `inblob` are what it will bind; reading `outblob` has the quote made; `generation` counts the
//! writes, so that a reader notices when another one wrote in between.
//!
//! # What is tested and what is not
//! The tests run against a folder with files of the same names. One half of them is exactly this
//! code on plain files, which shows the refusals: a wrong provider, a generation that did not move,
//! a missing interface, blobs beyond the limits. The other half puts a thin layer in between that
//! does what the contract says the kernel does on a write (count, and produce the `outblob`), with
//! a quote of the simulator. Neither shows that a kernel keeps its contract, that a host's quoting
//! service answers, or how long that takes: no TDX machine was at hand.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cocoon_protocol::evidence::{
    Attached, Claims, EvidenceBundle, MAX_COLLATERAL_BYTES, MAX_EVENT_LOG_BYTES, MAX_QUOTE_BYTES,
};
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::quote::Quote;

use super::{EvidenceError, EvidenceSource};
use crate::Trust;

/// Where the kernel's reports are, once configfs is mounted.
pub const TSM_REPORTS: &str = "/sys/kernel/config/tsm/report";

const PROVIDER: &str = "tdx_guest";
/// Longest content of `provider` and `generation`.
const MAX_TEXT_BYTES: usize = 64;

/// What is done to files. A seam for the tests and nothing else: the kernel reacts to these calls,
/// a plain folder does not.
trait Files: Send + Sync {
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// At most `limit` and one more byte.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
}

struct SystemFiles;

impl Files for SystemFiles {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Never creates: a missing attribute means that this is not configfs.
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, bytes)
    }
}

/// Quotes from the kernel; collateral from a file, if the operator keeps one.
pub struct ConfigfsTsmSource {
    reports: PathBuf,
    collateral: PathBuf,
    event_log: Option<PathBuf>,
    files: Box<dyn Files>,
    counter: AtomicU64,
}

impl ConfigfsTsmSource {
    /// `reports` is [`TSM_REPORTS`] on a real guest. `collateral` is a file with DCAP collateral for
    /// this platform as JSON; whoever can write it can make our evidence fail, not lie. If the file is not
    /// there, bundles have none, and whoever makes use of them gets it elsewhere.
    #[must_use]
    pub fn new(reports: impl Into<PathBuf>, collateral: impl Into<PathBuf>) -> Self {
        Self {
            reports: reports.into(),
            collateral: collateral.into(),
            event_log: None,
            files: Box::new(SystemFiles),
            counter: AtomicU64::new(0),
        }
    }

    fn read(
        &self,
        path: &Path,
        limit: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, EvidenceError> {
        let bytes = self
            .files
            .read(path, limit)
            .map_err(|source| failed(path, source))?;
        if bytes.len() > limit {
            return Err(EvidenceError::TooLarge { what, limit });
        }
        Ok(bytes)
    }

    /// Shows the firmware's event log too, [`crate::event_log::CCEL`] on a real guest, if the firmware kept one.
    #[must_use]
    pub fn with_event_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.event_log = Some(path.into());
        self
    }

    /// The firmware's log, as long as it is; what follows its events is filled with ones.
    fn own_event_log(&self) -> Result<Vec<u8>, EvidenceError> {
        let Some(path) = &self.event_log else {
            return Ok(Vec::new());
        };
        match self.read(path, MAX_EVENT_LOG_BYTES, "the event log") {
            Err(EvidenceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    fn own_collateral(&self) -> Result<Vec<u8>, EvidenceError> {
        match self.read(&self.collateral, MAX_COLLATERAL_BYTES, "the collateral") {
            Err(EvidenceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    fn text(&self, path: &Path) -> Result<String, EvidenceError> {
        let bytes = self.read(path, MAX_TEXT_BYTES, "a text attribute")?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn generation(&self, report: &Path) -> Result<u64, EvidenceError> {
        let found = self.text(&report.join("generation"))?;
        found
            .parse()
            .map_err(|_| EvidenceError::Generation { found })
    }

    /// The quote for 64 bytes, from the report at `report`.
    fn quote(&self, report: &Path, report_data: &[u8; 64]) -> Result<Vec<u8>, EvidenceError> {
        let found = self.text(&report.join("provider"))?;
        if found != PROVIDER {
            return Err(EvidenceError::Provider {
                found,
                wanted: PROVIDER,
            });
        }
        let before = self.generation(report)?;
        let inblob = report.join("inblob");
        self.files
            .write(&inblob, report_data)
            .map_err(|source| failed(&inblob, source))?;
        let quote = self.read(&report.join("outblob"), MAX_QUOTE_BYTES, "the quote")?;
        let after = self.generation(report)?;
        if before.checked_add(1) != Some(after) {
            return Err(EvidenceError::Raced { before, after });
        }
        // The race check is the kernel's promise; this is ours.
        let bound = Quote::parse(&quote)
            .ok()
            .and_then(|quote| quote.report.as_td10().map(|td| td.report_data));
        if bound != Some(*report_data) {
            return Err(EvidenceError::NotBound);
        }
        Ok(quote)
    }

    /// A report of our own. A crashed process leaves its folder behind, and process ids come back,
    /// so an existing folder of this name is made anew.
    fn open(&self) -> Result<Report<'_>, EvidenceError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self
            .reports
            .join(format!("cocoon-{}-{number}", std::process::id()));
        let made = match self.files.make_folder(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self
                .files
                .remove_folder(&path)
                .and_then(|()| self.files.make_folder(&path)),
            other => other,
        };
        made.map_err(|source| failed(&path, source))?;
        Ok(Report {
            files: self.files.as_ref(),
            path,
        })
    }
}

/// A report's folder, removed when done.
struct Report<'a> {
    files: &'a dyn Files,
    path: PathBuf,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        // Nothing to do about a failure: the next process makes its own.
        let _ = self.files.remove_folder(&self.path);
    }
}

fn failed(path: &Path, source: io::Error) -> EvidenceError {
    EvidenceError::Io {
        path: path.display().to_string(),
        source,
    }
}

impl EvidenceSource for ConfigfsTsmSource {
    fn trust(&self) -> Trust {
        Trust::Intel
    }

    fn make(&self, _now: UnixMillis, claims: &Claims) -> Result<EvidenceBundle, EvidenceError> {
        let report = self.open()?;
        let quote = self.quote(&report.path, &claims.report_data())?;
        let collateral_json = self.own_collateral()?;
        Ok(EvidenceBundle {
            quote,
            collateral_json,
            claims: claims.clone(),
            attached: Attached {
                event_log: self.own_event_log()?,
                ..Attached::default()
            },
        })
    }
}

#[cfg(test)]
#[path = "configfs_tsm_tests.rs"]
mod tests;
