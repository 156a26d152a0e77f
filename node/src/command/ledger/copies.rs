//! `cocoon ledger backup`, `restore` and `repair`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_actors::clock;
use cocoon_settlement::ledger::{self, Contents, RepairReport, SCHEMA};
use cocoon_settlement::store::{RocksReader, RocksStore, StoreError, repair_files};
use serde::{Deserialize, Serialize};

use super::{LedgerToolError, Where, beside, open};
use crate::command::{CommandError, CommandResult, FAILURE};

const MANIFEST: &str = "manifest.json";
const DATABASE: &str = "db";
/// Of the manifest.
const FORMAT: u32 = 1;
/// A manifest has a few lines.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;

/// Flags of `cocoon ledger backup`.
#[derive(Clone, Debug, clap::Args)]
pub struct BackupArgs {
    /// Where to write it; must not be there yet
    #[arg(value_name = "TO")]
    pub to: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger
    #[command(flatten)]
    pub place: Where,
}

/// Flags of `cocoon ledger restore`.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// A directory made by `cocoon ledger backup`
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger; must not be there yet
    #[command(flatten)]
    pub place: Where,
}

/// Flags of `cocoon ledger repair`.
#[derive(Clone, Debug, clap::Args)]
pub struct RepairArgs {
    /// Where to write what can be saved; must not be there yet
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "in_place",
        conflicts_with = "in_place"
    )]
    pub out: Option<PathBuf>,
    /// Put it in the ledger's place; the damaged one is kept beside it. The node must not run
    #[arg(long)]
    pub in_place: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which ledger
    #[command(flatten)]
    pub place: Where,
}

/// What lies beside a backup.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// Milliseconds since 1970.
    created: u64,
    contents: Contents,
}

fn must_be_new(path: &Path) -> Result<(), LedgerToolError> {
    let is_there = path
        .read_dir()
        .map(|mut inside| inside.next().is_some())
        .unwrap_or_else(|_| path.exists());
    if is_there {
        Err(LedgerToolError::Exists(path.to_path_buf()))
    } else {
        Ok(())
    }
}

/// Writes a copy and reads it again, so that what is reported is what is on the disk.
fn copied(from: &RocksReader, to: &Path) -> Result<Contents, CommandError> {
    let wanted = ledger::contents(from)?;
    let store = RocksStore::open(to, SCHEMA)?;
    ledger::copy(from, &store)?;
    drop(store);
    let contents = ledger::contents(&open(to)?)?;
    if contents == wanted {
        Ok(contents)
    } else {
        let what = format!(
            "{} was read, {} was written",
            wanted.digest, contents.digest
        );
        Err(LedgerToolError::Manifest {
            path: to.to_path_buf(),
            what,
        }
        .into())
    }
}

pub(super) fn backup(args: &BackupArgs) -> CommandResult {
    must_be_new(&args.to)?;
    let reader = args.place.reader()?;
    let contents = copied(&reader, &args.to.join(DATABASE))?;
    let manifest = Manifest {
        format: FORMAT,
        created: clock::now().millis(),
        contents,
    };
    let path = args.to.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest)?;
    std::fs::write(&path, &text)
        .and_then(|()| std::fs::File::open(&path)?.sync_all())
        .map_err(CommandError::io(format!("cannot write {}", path.display())))?;
    if args.json {
        println!("{text}");
    } else {
        println!("{}", told(&manifest.contents));
        println!("written to {} and read back", args.to.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn told(contents: &Contents) -> String {
    let records: u64 = contents.records.values().sum();
    format!(
        "{records} records, digest {}; the worker's log has {} entries, {} batches of which {} are confirmed",
        contents.digest, contents.entries, contents.batches, contents.confirmed
    )
}

fn manifest(from: &Path) -> Result<Manifest, CommandError> {
    use std::io::Read as _;
    let path = from.join(MANIFEST);
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text))
        .map_err(CommandError::io(format!("cannot read {}", path.display())))?;
    let manifest: Manifest = serde_json::from_str(&text)?;
    if manifest.format == FORMAT {
        Ok(manifest)
    } else {
        let what = format!("format {}, this program reads {FORMAT}", manifest.format);
        Err(LedgerToolError::Manifest {
            path: from.to_path_buf(),
            what,
        }
        .into())
    }
}

pub(super) fn restore(args: &RestoreArgs) -> CommandResult {
    let to = args.place.path()?;
    must_be_new(&to)?;
    let manifest = manifest(&args.from)?;
    let reader = open(&args.from.join(DATABASE))?;
    let found = ledger::contents(&reader)?;
    if found != manifest.contents {
        let what = format!(
            "its digest is {}, the manifest says {}",
            found.digest, manifest.contents.digest
        );
        return Err(LedgerToolError::Manifest {
            path: args.from.clone(),
            what,
        }
        .into());
    }
    // Under another name until it is whole, so that a crash leaves no half ledger where a node would look.
    let unfinished = beside(&to, ".restoring");
    must_be_new(&unfinished)?;
    let contents = copied(&reader, &unfinished)?;
    if to.exists() {
        std::fs::remove_dir(&to).map_err(CommandError::io("cannot remove the empty directory"))?;
    }
    std::fs::rename(&unfinished, &to)
        .map_err(CommandError::io(format!("cannot make {}", to.display())))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&contents)?);
    } else {
        println!("{}", told(&contents));
        println!(
            "restored to {}\nAt its next start the node compares it with the chain before it serves. If batches were \
             committed after this backup, it refuses; then see `cocoon ledger reconcile --help` and docs/ledger.md",
            to.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// `cocoon ledger repair --json`.
#[derive(Debug, Serialize)]
struct Repaired {
    #[serde(flatten)]
    report: RepairReport,
    /// RocksDB's own files were damaged; what it could not read is lost without a name.
    files_repaired: bool,
    /// What is still wrong with the result.
    check: ledger::CheckReport,
    /// Where it is.
    out: PathBuf,
    /// Where the damaged one is, if it was moved.
    damaged: Option<PathBuf>,
}

pub(super) fn repair(args: &RepairArgs) -> CommandResult {
    let path = args.place.path()?;
    let stamp = clock::now().millis();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => {
            // Refused while a node has it; how damaged it is does not matter here.
            if let Err(error @ StoreError::Locked { .. }) = RocksStore::open(&path, SCHEMA) {
                return Err(error.into());
            }
            beside(&path, &format!(".repaired-{stamp}"))
        }
    };
    must_be_new(&out)?;
    let copy = beside(&out, ".files");
    let (reader, files_repaired) = match RocksReader::open(&path, SCHEMA) {
        Ok(reader) => (reader, false),
        Err(StoreError::Corrupt { .. } | StoreError::Engine { .. }) => {
            match RocksReader::open_skipping_damage(&path, SCHEMA) {
                Ok(reader) => (reader, true),
                Err(_) => {
                    copy_files(&path, &copy)?;
                    repair_files(&copy)?;
                    (open(&copy)?, true)
                }
            }
        }
        Err(error) => return Err(error.into()),
    };
    let store = RocksStore::open(&out, SCHEMA)?;
    let report = ledger::salvage(&reader, &store)?;
    let check = ledger::check(&store, None)?;
    drop((store, reader));
    if copy.exists() {
        std::fs::remove_dir_all(&copy).map_err(CommandError::io("cannot tidy up"))?;
    }
    let mut repaired = Repaired {
        report,
        files_repaired,
        check,
        out,
        damaged: None,
    };
    if args.in_place {
        let damaged = beside(&path, &format!(".damaged-{stamp}"));
        std::fs::rename(&path, &damaged)
            .and_then(|()| std::fs::rename(&repaired.out, &path))
            .map_err(CommandError::io(
                "cannot put the repaired ledger in its place",
            ))?;
        repaired.out = path;
        repaired.damaged = Some(damaged);
    }
    tell(args, &repaired)?;
    Ok(if repaired.check.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

fn tell(args: &RepairArgs, repaired: &Repaired) -> Result<(), CommandError> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(repaired)?);
        return Ok(());
    }
    if repaired.files_repaired {
        println!(
            "RocksDB's own files were damaged. What of them could not be read has no names, so it is not among the losses \
             below; the newest vouchers may be among it, and clients send theirs again"
        );
    }
    for loss in &repaired.report.losses {
        println!("lost: {} {}: {}", loss.column, loss.key, loss.why);
    }
    for rewound in &repaired.report.rewound {
        println!(
            "channel {}: its log goes to {} instead of {}; the rest is credited with its next job",
            rewound.channel, rewound.to, rewound.from
        );
    }
    println!(
        "{} records kept, {} lost; written to {}",
        repaired.report.kept,
        repaired.report.lost,
        repaired.out.display()
    );
    if let Some(damaged) = &repaired.damaged {
        println!("the damaged ledger is at {}", damaged.display());
    }
    match repaired.check.found {
        0 => println!("OK: what is there agrees with itself"),
        found => println!(
            "NOT WHOLE: {found} findings of `cocoon ledger check` are left; restore a backup rather than serve from it"
        ),
    }
    Ok(())
}

/// RocksDB keeps its files side by side.
fn copy_files(from: &Path, to: &Path) -> Result<(), CommandError> {
    let failed = || CommandError::io(format!("cannot copy {}", from.display()));
    std::fs::create_dir(to).map_err(failed())?;
    for file in std::fs::read_dir(from).map_err(failed())? {
        let file = file.map_err(failed())?;
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).map_err(failed())?;
        }
    }
    Ok(())
}
