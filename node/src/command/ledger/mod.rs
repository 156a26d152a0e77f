//! `cocoon ledger`: a node's books, looked at, copied, mended and proven to others.
//!
//! Looking and copying go beside a running node: the directory is opened for reading, and shows one moment. What
//! changes the directory (`restore`, `repair --in-place`, `reconcile`) needs the node to be stopped.

mod copies;
mod inspect;
mod proof;
mod reconcile;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_settlement::audit::AuditError;
use cocoon_settlement::chain::{Chain, ChainError};
use cocoon_settlement::ledger::{LeavesError, LedgerError, SCHEMA};
use cocoon_settlement::store::{RocksReader, StoreError};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::verify::told;
use super::{CommandError, CommandResult};
use crate::config::{Config, Effective, Environment, Flags};
use crate::wiring::chain::connect;

/// Flags of `cocoon ledger`.
#[derive(Clone, Debug, clap::Args)]
pub struct LedgerArgs {
    /// What to do
    #[command(subcommand)]
    pub action: LedgerAction,
}

/// What can be done with a ledger.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LedgerAction {
    /// Check every record, index, sum and root; exit 0 only if nothing is wrong
    Check(inspect::CheckArgs),
    /// Print records as JSON, one a line, without signatures and salts
    Dump(inspect::DumpArgs),
    /// Copy the ledger, of a running node too, with a manifest
    Backup(copies::BackupArgs),
    /// Put a backup in the place of a ledger that is not there
    Restore(copies::RestoreArgs),
    /// Save what can be read of a damaged ledger into another directory, and say what is lost
    Repair(copies::RepairArgs),
    /// Prove to others that a job's receipt is in what this worker committed on chain, or check such a proof
    Prove(proof::ProveArgs),
    /// Write the leaves of all committed batches, for `cocoon audit`
    Publish(proof::PublishArgs),
    /// Begin anew on another ledger contract, after the chain contradicted this disk
    Reconcile(reconcile::ReconcileArgs),
}

/// Which ledger.
#[derive(Clone, Debug, clap::Args)]
pub struct Where {
    /// The ledger's directory [default: <data_dir>/ledger]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Settings
    #[command(flatten)]
    pub flags: Flags,
}

impl Where {
    fn config(&self) -> Result<Config, CommandError> {
        Ok(Effective::load(&self.flags, &Environment::of_process())?.config)
    }

    fn path(&self) -> Result<PathBuf, CommandError> {
        match &self.directory {
            Some(path) => Ok(path.clone()),
            None => Ok(self.config()?.data_dir.join("ledger")),
        }
    }

    fn reader(&self) -> Result<RocksReader, CommandError> {
        open(&self.path()?)
    }
}

fn open(path: &Path) -> Result<RocksReader, CommandError> {
    Ok(RocksReader::open(path, SCHEMA)?)
}

/// The chain that the settings name.
pub(super) async fn chain(config: &Config) -> Result<Arc<dyn Chain>, ChainError> {
    connect(config, told()).await
}

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerToolError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The books.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Published leaves.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// No audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Something is there already.
    #[error("{0} is there already; nothing is written over it")]
    Exists(PathBuf),
    /// A backup that is not what its manifest says.
    #[error("{path} is not the backup that its manifest describes: {what}")]
    Manifest {
        /// The backup.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// No column of that name.
    #[error("there is no column {asked:?}; there are {}", known.join(", "))]
    NoColumn {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// Nothing to prove.
    #[error("job {0} left no entry in this worker's log")]
    NoEntry(String),
    /// A thing that changes much.
    #[error("{0}; say --yes to do it")]
    NotConfirmed(String),
    /// A flag is missing.
    #[error("{0}")]
    Missing(String),
}

impl From<LedgerToolError> for CommandError {
    fn from(error: LedgerToolError) -> Self {
        Self::LedgerTool(Box::new(error))
    }
}

macro_rules! into_command_error {
    ($($error:ty),*) => {
        $(impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                LedgerToolError::from(error).into()
            }
        })*
    };
}

into_command_error!(StoreError, LedgerError, LeavesError, AuditError);

/// Does it.
///
/// # Errors
/// A directory or a chain that cannot be read. What is wrong with a ledger is no error here but an exit code.
pub fn run(args: &LedgerArgs) -> CommandResult {
    match &args.action {
        LedgerAction::Check(args) => inspect::check(args),
        LedgerAction::Dump(args) => inspect::dump(args),
        LedgerAction::Backup(args) => copies::backup(args),
        LedgerAction::Restore(args) => copies::restore(args),
        LedgerAction::Repair(args) => copies::repair(args),
        LedgerAction::Prove(args) => proof::prove(args),
        LedgerAction::Publish(args) => proof::publish(args),
        LedgerAction::Reconcile(args) => reconcile::reconcile(args),
    }
}

fn rows() -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// `directory` with a suffix to its last name.
fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
