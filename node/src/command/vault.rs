//! `cocoon vault`: sealing a model, and releasing its key to guests that are in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cocoon_inference::sealed::{
    CHUNK_BYTES, OWNER_KEY_BYTES, OwnerKey, SealTerms, Sealed, key_id, seal_file,
};
use cocoon_protocol::Digest;
use cocoon_protocol::vault::{ContentKey, MAX_SEALED_NAME_BYTES, SealedHeader};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{CommandError, CommandResult};
use crate::config::{Effective, Environment, Flags};
use crate::secret_file::{SecretFileError, Token};
use crate::terminal::plain;
use crate::wiring::vault::Serving;
use crate::{telemetry, wiring};

/// Flags of `cocoon vault`.
#[derive(Clone, Debug, clap::Args)]
pub struct VaultArgs {
    /// What to do
    #[command(subcommand)]
    pub action: VaultAction,
}

/// What an owner does with a vault.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum VaultAction {
    /// Make an owner's key, in a new file that only its owner reads
    Key(KeyArgs),
    /// Encrypt a model
    Seal(SealArgs),
    /// Show what is in a sealed model, and check it; exit 0 only if it is whole
    Show(ShowArgs),
    /// Decrypt a sealed model
    Open(OpenArgs),
    /// Release keys to guests whose evidence passes the policy, until asked to stop
    Serve(Box<ServeArgs>),
}

/// Flags of `cocoon vault key`.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyArgs {
    /// Where to; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `cocoon vault seal`.
#[derive(Clone, Debug, clap::Args)]
pub struct SealArgs {
    /// A GGUF file
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The owner's key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Where to; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Its name, which everybody can read [default: the file's, without .gguf]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon vault show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// A sealed model
    #[arg(value_name = "SEALED")]
    pub sealed: PathBuf,
    /// Read the header only, and not every chunk
    #[arg(long)]
    pub quick: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon vault open`.
#[derive(Clone, Debug, clap::Args)]
pub struct OpenArgs {
    /// A sealed model
    #[arg(value_name = "SEALED")]
    pub sealed: PathBuf,
    /// The owner's key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Where to; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `cocoon vault serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// An owner's key; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub key: Vec<PathBuf>,
    /// A sealed model whose key is released; only its header is read. May be given several times
    #[arg(long, value_name = "FILE")]
    pub sealed: Vec<PathBuf>,
    /// Digest of the plain weights of a model whose key is released, where its sealed file is not here;
    /// needs exactly one --key. May be given several times
    #[arg(long, value_name = "HEX")]
    pub model_digest: Vec<Digest>,
    /// Where releases and refusals are recorded, as lines of JSON [default: vault/releases.jsonl in the data
    /// directory]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Lines of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Where to listen, whom to trust
    #[command(flatten)]
    pub flags: Flags,
}

/// Does it.
///
/// # Errors
/// What is wrong with a key, a file or the configuration.
pub fn run(args: &VaultArgs) -> CommandResult {
    match &args.action {
        VaultAction::Key(args) => key(args),
        VaultAction::Seal(args) => seal(args),
        VaultAction::Show(args) => show(args),
        VaultAction::Open(args) => open(args),
        VaultAction::Serve(args) => serve(args),
    }
}

fn key(args: &KeyArgs) -> CommandResult {
    Token::create(&args.out).map_err(CommandError::VaultKey)?;
    println!(
        "made {}\nKeep a copy where only you can read it: what is sealed with it is lost without it.",
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn seal(args: &SealArgs) -> CommandResult {
    let owner = owner_key(&args.key)?;
    let terms = SealTerms {
        name: args.name.clone().unwrap_or_else(|| name_of(&args.model)),
        chunk_bytes: CHUNK_BYTES,
    };
    let bar = Bar::new("sealing");
    let sealed = seal_file(&args.model, &args.out, &owner, &terms, &mut |done, all| {
        bar.tell(done, all);
    });
    bar.clear();
    let header = sealed?;
    let length = std::fs::metadata(&args.out).map_or(0, |about| about.len());
    tell(&Shown::new(&header, length, None), args.json)
}

/// The file's name without its ending, as much of it as a header takes.
fn name_of(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut short = String::new();
    for c in name.chars() {
        if short.len().saturating_add(c.len_utf8()) > MAX_SEALED_NAME_BYTES {
            break;
        }
        short.push(c);
    }
    short
}

fn show(args: &ShowArgs) -> CommandResult {
    let mut sealed = Sealed::open(&args.sealed)?;
    if !args.quick {
        let bar = Bar::new("checking");
        let checked = sealed.check(&mut |done, all| bar.tell(done, all));
        bar.clear();
        checked?;
    }
    let whole = (!args.quick).then_some(true);
    tell(
        &Shown::new(sealed.header(), sealed.length(), whole),
        args.json,
    )
}

fn open(args: &OpenArgs) -> CommandResult {
    let owner = owner_key(&args.key)?;
    let mut sealed = Sealed::open(&args.sealed)?;
    let content = owner.content_key(&sealed.header().model)?;
    let failed = |source| CommandError::Io {
        what: format!("cannot write {}", args.out.display()),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.out)
        .map_err(failed)?;
    let bar = Bar::new("opening");
    let mut out = BufWriter::new(file);
    let opened = sealed
        .decrypt_into(&content, &mut out, &mut |done, all| bar.tell(done, all))
        .map_err(CommandError::from)
        .and_then(|()| out.flush().map_err(failed));
    bar.clear();
    if let Err(error) = opened {
        // Nothing that did not check out is left behind.
        let _ = std::fs::remove_file(&args.out);
        return Err(error);
    }
    println!(
        "opened: {}\n  digest  {}",
        args.out.display(),
        sealed.header().model
    );
    Ok(ExitCode::SUCCESS)
}

fn serve(args: &ServeArgs) -> CommandResult {
    let effective = Effective::load(&args.flags, &Environment::of_process())?;
    let keys = content_keys(args)?;
    telemetry::start_logging(effective.config.log_format)?;
    let serving = Serving {
        keys,
        log: args.log.clone(),
        json: args.json,
    };
    wiring::vault::run(&effective.config, serving)?;
    Ok(ExitCode::SUCCESS)
}

/// The content keys of all models, each by the owner's key that fits.
fn content_keys(args: &ServeArgs) -> Result<BTreeMap<Digest, ContentKey>, CommandError> {
    let owners = args
        .key
        .iter()
        .map(|path| owner_key(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut keys = BTreeMap::new();
    for path in &args.sealed {
        let sealed = Sealed::open(path)?;
        let header = sealed.header();
        let mut fits = None;
        for owner in &owners {
            let content = owner.content_key(&header.model)?;
            if key_id(&content)? == header.key_id {
                fits = Some(content);
            }
        }
        let content = fits.ok_or_else(|| CommandError::VaultModels {
            why: format!("none of the keys opens {}", path.display()),
        })?;
        keys.insert(header.model, content);
    }
    match (args.model_digest.as_slice(), owners.as_slice()) {
        ([], _) => {}
        (digests, [owner]) => {
            for digest in digests {
                keys.insert(*digest, owner.content_key(digest)?);
            }
        }
        _ => {
            return Err(CommandError::VaultModels {
                why: "a digest does not say which of several keys is its own; name the file with --sealed"
                    .to_owned(),
            });
        }
    }
    if keys.is_empty() {
        return Err(CommandError::VaultModels {
            why: "no model: name one with --sealed or --model-digest".to_owned(),
        });
    }
    Ok(keys)
}

/// An owner's key: 64 hexadecimal digits in a file that only its owner reads.
fn owner_key(path: &Path) -> Result<OwnerKey, CommandError> {
    let no_key = || CommandError::VaultModels {
        why: format!(
            "{} holds no key of `cocoon vault key`; it was left as it is",
            path.display()
        ),
    };
    let token = Token::load(path).map_err(|error| match error {
        SecretFileError::Malformed { .. } => no_key(),
        other => CommandError::VaultKey(other),
    })?;
    let mut bytes = [0; OWNER_KEY_BYTES];
    hex::decode_to_slice(token.reveal(), &mut bytes).map_err(|_| no_key())?;
    Ok(OwnerKey::from_bytes(bytes))
}

/// A sealed model, for people and for scripts.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    model: Digest,
    plain_bytes: u64,
    sealed_bytes: u64,
    chunk_bytes: u32,
    chunks: u64,
    key_id: String,
    /// Whether every chunk was read and found in order; absent if nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    whole: Option<bool>,
}

impl<'a> Shown<'a> {
    fn new(header: &'a SealedHeader, sealed_bytes: u64, whole: Option<bool>) -> Self {
        Self {
            name: &header.name,
            model: header.model,
            plain_bytes: header.plain_bytes,
            sealed_bytes,
            chunk_bytes: header.chunk_bytes,
            chunks: header.count(),
            key_id: hex::encode(header.key_id),
            whole,
        }
    }
}

fn tell(shown: &Shown<'_>, json: bool) -> CommandResult {
    if json {
        println!("{}", serde_json::to_string_pretty(shown)?);
    } else {
        print!("{}", render(shown));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(shown: &Shown<'_>) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let chunks = format!(
        "{} of {}{}",
        shown.chunks,
        BinaryBytes(shown.chunk_bytes.into()),
        match shown.whole {
            Some(_) => ", all in order",
            None => "",
        }
    );
    for (what, value) in [
        ("name", plain(shown.name).into_owned()),
        ("model", shown.model.to_string()),
        ("plain", BinaryBytes(shown.plain_bytes).to_string()),
        ("sealed", BinaryBytes(shown.sealed_bytes).to_string()),
        ("chunks", chunks),
        ("key", shown.key_id.clone()),
    ] {
        table.add_row([what.to_owned(), value]);
    }
    let mut text = String::new();
    let _ = writeln!(text, "{table}");
    text
}

/// Progress on a terminal, and nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new(doing: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let template =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(doing);
        Self(bar)
    }

    fn tell(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }

    fn clear(self) {
        self.0.finish_and_clear();
    }
}
