//! `cocoon log`: the transparency log of guest images, for rebuilders who sign it and for everybody who checks it. The
//! formats are in `docs/transparency-log.md`.

mod directory;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_attestation::Image;
use cocoon_attestation::log::{Entry, EntryError, KeyError, NoteSigner, RebuilderSet};
use cocoon_protocol::log::ImageProof;
use cocoon_protocol::merkle::InclusionProof;
use cocoon_protocol::{Digest, WireError};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CommandError, CommandResult, FAILURE};
use crate::secret_file::{SecretFileError, Token};
use crate::suggest;
use crate::terminal::{HEADER_LINE, plain};
pub use directory::{DirectoryError, LogDirectory};

/// Largest TOML file that is read, bytes.
const MAX_TOML_BYTES: u64 = 64 * 1024;

/// Flags of `cocoon log`.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// What to do
    #[command(subcommand)]
    pub action: LogAction,
    /// As JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with a log.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LogAction {
    /// Begin an empty log
    Init(InitArgs),
    /// Append a guest image; the checkpoint over it has to be signed anew
    Append(AppendArgs),
    /// Make a rebuilder's key and print its public half
    Key(KeyArgs),
    /// Sign the log's checkpoint, if the log grew out of the one that this key signed before
    Sign(SignArgs),
    /// Write the proof that an image stands in the log, for a worker's advert
    Prove(ProveArgs),
    /// Check a proof or a log, factor by factor; exit 0 only if it is verified
    Verify(VerifyArgs),
    /// Show a log's entries, checkpoint and signatures
    Show(ShowArgs),
}

/// Flags of `cocoon log init`.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// Directory of the new log
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The log's name, in the form example.org/guest-images
    #[arg(long, value_name = "NAME")]
    pub origin: String,
}

/// Flags of `cocoon log append`.
#[derive(Clone, Debug, clap::Args)]
pub struct AppendArgs {
    /// Directory of the log
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// TOML file with name, mrtd, rtmr0, rtmr1 and rtmr2, as under [[images]] of a policy
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// What a rebuilder builds it from, such as a repository and a commit
    #[arg(long, value_name = "REVISION", default_value = "")]
    pub revision: String,
}

/// Flags of `cocoon log key`.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyArgs {
    /// The rebuilder's name, in the form example.org/rebuilder
    #[arg(value_name = "NAME")]
    pub name: String,
    /// New file for the secret key, mode 600
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `cocoon log sign`.
#[derive(Clone, Debug, clap::Args)]
pub struct SignArgs {
    /// Directory of the log
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The secret key; what it signed last is kept beside it, in FILE.signed
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
}

/// Flags of `cocoon log prove`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProveArgs {
    /// Directory of the log
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The image's name; the newest of that name is taken
    #[arg(long, value_name = "NAME")]
    pub image: String,
    /// Where to write the proof
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `cocoon log verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// A proof, or the directory of a log
    #[arg(value_name = "PROOF|DIR")]
    pub path: PathBuf,
    /// TOML file with origin, threshold and keys
    #[arg(long, value_name = "FILE")]
    pub rebuilders: PathBuf,
    /// A signed checkpoint of earlier; the log must have grown out of it
    #[arg(long, value_name = "CHECKPOINT")]
    pub since: Option<PathBuf>,
}

/// Flags of `cocoon log show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// Directory of the log
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Why a command on the log was not done.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log's directory, or another file.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The file of a secret key.
    #[error(transparent)]
    SecretFile(#[from] SecretFileError),
    /// There is one, and it may be the only copy.
    #[error("{path} exists; a key is never overwritten: choose another file")]
    KeyExists {
        /// The file.
        path: PathBuf,
    },
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file that says something else than it should.
    #[error("{path}: {reason}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// An image that cannot be an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A key signs one log.
    #[error(
        "this key signs the log {signs}, and this is {found}; make another key for another log"
    )]
    OtherLog {
        /// The log that it signed before.
        signs: String,
        /// The log of the directory.
        found: String,
    },
    /// What a rebuilder is there to prevent.
    #[error(
        "NOT SIGNED: this key signed {signed} entries before, and this log of {size} did not grow out of them. \
         Whoever gave you this log shows you another one than before; tell the other rebuilders. What was signed is \
         in {state}"
    )]
    NotGrown {
        /// Entries that were signed.
        signed: u64,
        /// Entries of this log.
        size: u64,
        /// Where the old checkpoint is.
        state: PathBuf,
    },
    /// Nobody would believe the proof.
    #[error("nobody has signed the checkpoint; `cocoon log sign` comes first")]
    NotSigned,
    /// No entry of that name.
    #[error("no image of this log is named {name:?}{}", match .nearest {
        Some(nearest) => format!("; did you mean {nearest:?}?"),
        None => String::new(),
    })]
    NoImage {
        /// The name.
        name: String,
        /// One that was perhaps meant.
        nearest: Option<String>,
    },
    /// Beyond what is read on the other side.
    #[error("others would not read the proof: {0}")]
    Wire(#[from] WireError),
}

/// Does it.
///
/// # Errors
/// Why it was not done. A proof or log that is wrong is no error but an exit code.
pub fn run(args: &LogArgs) -> CommandResult {
    let json = args.json;
    match &args.action {
        LogAction::Init(args) => init(args, json),
        LogAction::Append(args) => append(args, json),
        LogAction::Key(args) => key(args, json),
        LogAction::Sign(args) => sign(args, json),
        LogAction::Prove(args) => prove(args, json),
        LogAction::Verify(args) => {
            let set: RebuilderSet = toml_file(&args.rebuilders)?;
            let report = verify::check(&args.path, &set, args.since.as_deref())?;
            print(json, &report, || verify::render(&report))?;
            Ok(if report.verified {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILURE)
            })
        }
        LogAction::Show(args) => {
            let directory = LogDirectory::open(&args.directory).map_err(LogError::from)?;
            print(json, &shown(&directory), || description(&directory))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(
    json: bool,
    value: &impl Serialize,
    human: impl FnOnce() -> String,
) -> Result<(), CommandError> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", human());
    }
    Ok(())
}

/// A checkpoint as `--json` has it.
#[derive(Serialize)]
struct Head {
    origin: String,
    size: u64,
    root: Digest,
    /// Names in signature lines; whether the signatures are right is for `verify` to say.
    signatures: Vec<String>,
}

impl Head {
    fn of(directory: &LogDirectory) -> Self {
        let checkpoint = directory.checkpoint();
        let lines = directory.note().signatures().iter();
        Self {
            origin: checkpoint.origin.clone(),
            size: checkpoint.head.size,
            root: checkpoint.head.root,
            signatures: lines.map(|line| line.name.clone()).collect(),
        }
    }

    fn human(&self) -> String {
        format!("size {}, root {}\n", self.size, self.root)
    }
}

fn init(args: &InitArgs, json: bool) -> CommandResult {
    let directory = LogDirectory::create(&args.directory, &args.origin).map_err(LogError::from)?;
    let head = Head::of(&directory);
    print(json, &head, || {
        format!(
            "the log {} begins in {}\n",
            head.origin,
            args.directory.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Appended {
    index: u64,
    leaf: Digest,
    #[serde(flatten)]
    head: Head,
}

fn append(args: &AppendArgs, json: bool) -> CommandResult {
    let image: Image = toml_file(&args.image)?;
    let entry = Entry::new(image, args.revision.as_str()).map_err(LogError::from)?;
    let (name, leaf) = (entry.image.name.clone(), entry.leaf());
    let mut directory = LogDirectory::open_to_write(&args.directory).map_err(LogError::from)?;
    let index = directory.append(entry).map_err(LogError::from)?;
    let head = Head::of(&directory);
    let appended = Appended { index, leaf, head };
    print(json, &appended, || {
        format!(
            "{} stands at index {index}\n{}not signed yet: `cocoon log sign`\n",
            plain(&name),
            appended.head.human()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct MadeKey<'a> {
    name: &'a str,
    public: String,
}

fn key(args: &KeyArgs, json: bool) -> CommandResult {
    let signer = make_key(&args.name, &args.out)?;
    let public = signer.verifier().to_string();
    let made = MadeKey {
        name: &args.name,
        public,
    };
    print(json, &made, || {
        let out = args.out.display();
        format!(
            "{}\nsecret in {out}; the line above is for the keys of a rebuilders file\n",
            made.public
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn make_key(name: &str, out: &Path) -> Result<NoteSigner, LogError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(SecretFileError::Entropy)?;
    let signer = NoteSigner::new(name, &seed)?;
    if !name.is_ascii() {
        let name = name.to_owned();
        return Err(KeyError::Name { name }.into());
    }
    match Token::store(out, signer.reveal()) {
        Err(SecretFileError::Io { source, path })
            if source.kind() == std::io::ErrorKind::AlreadyExists =>
        {
            Err(LogError::KeyExists { path })
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(signer),
    }
}

#[derive(Serialize)]
struct Signed {
    signer: String,
    #[serde(flatten)]
    head: Head,
}

fn sign(args: &SignArgs, json: bool) -> CommandResult {
    let (signer, directory) = sign_directory(&args.directory, &args.key)?;
    let signed = Signed {
        signer,
        head: Head::of(&directory),
    };
    print(json, &signed, || {
        let head = &signed.head;
        format!(
            "{} signed {}signed so far: {}\n",
            signed.signer,
            head.human(),
            plain(&head.signatures.join(", "))
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The duty of everybody who signs heads: never two that are not of one log. What was signed is on the disk before the
/// signature can leave.
fn sign_directory(path: &Path, key: &Path) -> Result<(String, LogDirectory), LogError> {
    let signer: NoteSigner = Token::load(key)?.reveal().parse()?;
    let _no_other_signature = directory::hold(key)?;
    let mut directory = LogDirectory::open_to_write(path)?;
    let checkpoint = directory.checkpoint();
    let state = directory::with_suffix(key, ".signed");
    if state.exists() {
        let (_, before) = directory::read_checkpoint(&state)?;
        if before.origin != checkpoint.origin {
            return Err(LogError::OtherLog {
                signs: before.origin,
                found: checkpoint.origin.clone(),
            });
        }
        if !directory.grew_from(before.head) {
            return Err(LogError::NotGrown {
                signed: before.head.size,
                size: checkpoint.head.size,
                state,
            });
        }
    }
    let signature = signer.sign(directory.note().text());
    directory::replace(
        &state,
        format!("{}\n{signature}\n", directory.note().text()).as_bytes(),
    )?;
    directory.add_signature(signature)?;
    Ok((signer.verifier().name().to_owned(), directory))
}

#[derive(Serialize)]
struct Proved<'a> {
    image: &'a str,
    index: u64,
    size: u64,
    bytes: usize,
    out: String,
}

fn prove(args: &ProveArgs, json: bool) -> CommandResult {
    let directory = LogDirectory::open(&args.directory).map_err(LogError::from)?;
    let proof = make_proof(&directory, &args.image)?;
    let bytes = proof.encode();
    directory::replace(&args.out, &bytes).map_err(LogError::from)?;
    let proved = Proved {
        image: &args.image,
        index: proof.index,
        size: directory.checkpoint().head.size,
        bytes: bytes.len(),
        out: args.out.display().to_string(),
    };
    print(json, &proved, || {
        let Proved {
            index,
            size,
            bytes,
            out,
            ..
        } = &proved;
        format!(
            "{} at index {index} of {size}: {out}, {bytes} bytes\n",
            plain(&args.image)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn make_proof(directory: &LogDirectory, name: &str) -> Result<ImageProof, LogError> {
    if directory.note().signatures().is_empty() {
        return Err(LogError::NotSigned);
    }
    let names = || {
        directory
            .entries()
            .iter()
            .map(|entry| entry.image.name.as_str())
    };
    let no_image = || LogError::NoImage {
        name: name.to_owned(),
        nearest: suggest::nearest(name, names()).map(ToOwned::to_owned),
    };
    let (index, entry) = (0..)
        .zip(directory.entries())
        .filter(|(_, entry)| entry.image.name == name)
        .last()
        .ok_or_else(no_image)?;
    let path = InclusionProof::make(index, directory.leaves()).ok_or_else(no_image)?;
    let proof = ImageProof {
        entry: entry.encode(),
        index,
        path: path.path,
        checkpoint: directory.note().to_string().into_bytes(),
    };
    // What we hand out must be what others accept.
    ImageProof::decode(&proof.encode())?;
    Ok(proof)
}

/// What `show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    head: Head,
    entries: Vec<ShownEntry<'a>>,
}

#[derive(Serialize)]
struct ShownEntry<'a> {
    leaf: Digest,
    revision: &'a str,
    #[serde(flatten)]
    image: &'a Image,
}

fn shown(directory: &LogDirectory) -> Shown<'_> {
    let entries = directory.entries().iter().zip(directory.leaves());
    Shown {
        head: Head::of(directory),
        entries: entries
            .map(|(entry, leaf)| ShownEntry {
                leaf: *leaf,
                revision: &entry.revision,
                image: &entry.image,
            })
            .collect(),
    }
}

fn description(directory: &LogDirectory) -> String {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["index", "image", "revision", "leaf"]);
    for (index, (entry, leaf)) in directory
        .entries()
        .iter()
        .zip(directory.leaves())
        .enumerate()
    {
        table.add_row([
            index.to_string(),
            plain(&entry.image.name).into_owned(),
            plain(&entry.revision).into_owned(),
            leaf.to_string().chars().take(12).chain(['…']).collect(),
        ]);
    }
    let head = Head::of(directory);
    let mut about = Table::new();
    about
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let signatures = match head.signatures.join(", ") {
        names if names.is_empty() => "none".to_owned(),
        names => format!("{} (`cocoon log verify` checks them)", plain(&names)),
    };
    about.add_row(["log", &plain(&head.origin)]);
    about.add_row(["size", &head.size.to_string()]);
    about.add_row(["root", &head.root.to_string()]);
    about.add_row(["signatures", &signatures]);
    format!("{table}\n\n{about}\n")
}

/// Reads a TOML file of people.
fn toml_file<T: DeserializeOwned>(path: &Path) -> Result<T, LogError> {
    let wrong = |reason: String| LogError::Toml {
        path: path.to_owned(),
        reason,
    };
    let bytes = directory::read(path, MAX_TOML_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}
