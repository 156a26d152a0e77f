//! `cocoon guest`: what the registers of a guest's image will hold, and what a firmware's event log
//! says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use cocoon_attestation::event_log::{self, CCEL_LOG, EventPolicy, Replay, read_log};
use cocoon_attestation::launch_measure::kernel::MAX_KERNEL_BYTES;
use cocoon_attestation::launch_measure::tdvf::MAX_FIRMWARE_BYTES;
use cocoon_attestation::launch_measure::{Expected, Handover, LaunchFiles, PageOrder, expect};
use cocoon_attestation::{Image, Measurement};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::{CommandError, CommandResult, FAILURE, model};
use crate::terminal::plain;

/// How much of an event's text is shown to people; all of it with `--json`.
const SHOWN_CHARACTERS: usize = 80;
/// Largest initial file system that is read.
const MAX_INITRD_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// Flags of `cocoon guest`.
#[derive(Clone, Debug, clap::Args)]
pub struct GuestArgs {
    /// What to do
    #[command(subcommand)]
    pub command: GuestCommand,
}

/// The commands of `cocoon guest`.
#[derive(Clone, Debug, Subcommand)]
pub enum GuestCommand {
    /// Compute what MRTD, RTMR1 and RTMR2 of an image will be, from its files
    Measure(MeasureArgs),
    /// Show the firmware's event log and what it replays to
    Log(LogArgs),
}

/// Flags of `cocoon guest measure`.
#[derive(Clone, Debug, clap::Args)]
pub struct MeasureArgs {
    /// The firmware given to QEMU's -bios: OVMF with TDX metadata, code and variables in one file
    #[arg(long, value_name = "FILE")]
    pub firmware: PathBuf,
    /// The kernel given to -kernel
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// The initial file system given to -initrd
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The command line given to -append
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub cmdline: String,
    /// The guest's memory; it matters only below 2816MiB and with --handover patched
    #[arg(long, value_name = "SIZE", value_parser = model::size, default_value = "4GiB")]
    pub memory: u64,
    /// In what order the host adds and measures pages: each-page (Linux 6.16 and newer) or
    /// each-section (Intel's and Canonical's before)
    #[arg(long, value_name = "ORDER", default_value_t = PageOrder::EachPage)]
    pub pages: PageOrder,
    /// What the firmware gets as the kernel: unchanged (QEMU 10.0 and newer with edk2 2025.02 and
    /// newer) or patched by QEMU
    #[arg(long, value_name = "HOW", default_value_t = Handover::Unchanged)]
    pub handover: Handover,
    /// An event log of a guest with these files: gives RTMR0, and has to agree in RTMR1 and RTMR2
    #[arg(long, value_name = "FILE")]
    pub event_log: Option<PathBuf>,
    /// Name of the image in the policy
    #[arg(long, value_name = "NAME", default_value = "cocoon guest")]
    pub name: String,
    /// As JSON
    #[arg(long, conflicts_with = "toml")]
    pub json: bool,
    /// As the table that a policy takes
    #[arg(long)]
    pub toml: bool,
}

/// Flags of `cocoon guest log`.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// The log, with or without the filling after it
    #[arg(value_name = "FILE", default_value = CCEL_LOG)]
    pub log: PathBuf,
    /// As JSON
    #[arg(long, conflicts_with = "draft")]
    pub json: bool,
    /// Draft a policy for RTMR0's events from it
    #[arg(long)]
    pub draft: bool,
    /// Judge RTMR0's events by this policy; exit 0 only if nothing is wrong
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "draft"])]
    pub policy: Option<PathBuf>,
}

/// Does it.
///
/// # Errors
/// Files that cannot be read or are not what they should be.
pub fn run(args: &GuestArgs) -> CommandResult {
    match &args.command {
        GuestCommand::Measure(args) => measure(args),
        GuestCommand::Log(args) => log(args),
    }
}

/// What `measure --json` says.
#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    expected: &'a Expected,
    rtmr0: Option<Measurement>,
    pages: PageOrder,
    handover: Handover,
    memory_bytes: u64,
    /// Whether the event log, if one was given, has the same RTMR1 and RTMR2.
    log_agrees: Option<bool>,
}

/// What a policy takes.
#[derive(Serialize)]
struct Images {
    images: Vec<Image>,
}

fn measure(args: &MeasureArgs) -> CommandResult {
    let firmware = read(&args.firmware, MAX_FIRMWARE_BYTES)?;
    let kernel = read(&args.kernel, MAX_KERNEL_BYTES)?;
    let initrd = match &args.initrd {
        Some(path) => Some(read(path, MAX_INITRD_BYTES)?),
        None => None,
    };
    let expected = expect(&LaunchFiles {
        firmware: &firmware,
        kernel: &kernel,
        initrd: initrd.as_deref(),
        command_line: &args.cmdline,
        memory_bytes: args.memory,
        pages: args.pages,
        handover: args.handover,
    })?;
    let replay = match &args.event_log {
        Some(path) => Some(read_replay(path)?),
        None => None,
    };
    let rtmr0 = replay.as_ref().map(|replay| replay.rtmr[0]);
    let log_agrees = replay
        .as_ref()
        .map(|replay| replay.rtmr[1..3] == [expected.rtmr1, expected.rtmr2]);
    if args.json {
        let measured = Measured {
            expected: &expected,
            rtmr0,
            pages: args.pages,
            handover: args.handover,
            memory_bytes: args.memory,
            log_agrees,
        };
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else if args.toml {
        print!("{}", as_toml(&args.name, &expected, rtmr0)?);
    } else {
        print!("{}", as_table(&expected, rtmr0));
    }
    if log_agrees == Some(false) {
        eprintln!(
            "the event log has other values of RTMR1 or RTMR2; `cocoon guest log` shows its events"
        );
        return Ok(ExitCode::from(FAILURE));
    }
    Ok(ExitCode::SUCCESS)
}

/// The table of the policy. RTMR0 stays open if it is not known: a policy without it is refused, so it
/// cannot be forgotten.
fn as_toml(
    name: &str,
    expected: &Expected,
    rtmr0: Option<Measurement>,
) -> Result<String, CommandError> {
    let image = Image {
        name: name.to_owned(),
        mrtd: expected.mrtd,
        rtmr0: rtmr0.unwrap_or(Measurement::ZERO),
        rtmr1: expected.rtmr1,
        rtmr2: expected.rtmr2,
    };
    let text = toml::to_string(&Images {
        images: vec![image],
    })?;
    if rtmr0.is_some() {
        return Ok(text);
    }
    let open = "# RTMR0 holds the host's ACPI tables: take it from the event log of a guest with these\n\
                # files (--event-log), started with the processors and devices it will have.\n\
                # rtmr0 = \"\"";
    Ok(text
        .lines()
        .map(|line| {
            if line.starts_with("rtmr0") {
                open
            } else {
                line
            }
        })
        .flat_map(|line| [line, "\n"])
        .collect())
}

fn as_table(expected: &Expected, rtmr0: Option<Measurement>) -> String {
    let mut registers = table();
    registers.add_row(["MRTD", &expected.mrtd.to_string(), "firmware"]);
    if let Some(rtmr0) = rtmr0 {
        registers.add_row(["RTMR0", &rtmr0.to_string(), "from the event log"]);
    }
    registers.add_row(["RTMR1", &expected.rtmr1.to_string(), "kernel"]);
    registers.add_row([
        "RTMR2",
        &expected.rtmr2.to_string(),
        "command line, initial file system",
    ]);
    let mut extensions = table();
    for extension in &expected.extensions {
        extensions.add_row([
            format!("RTMR{}", extension.register),
            extension.digest.to_string(),
            extension.what.to_owned(),
        ]);
    }
    if let Some(volume) = expected.configuration_volume {
        extensions.add_row([
            "RTMR0",
            &volume.to_string(),
            "firmware's configuration volume, second event",
        ]);
    }
    format!("{registers}\n\nmade of\n{extensions}\n")
}

/// What `log --json` says of one event.
#[derive(Serialize)]
struct EventLine {
    register: u8,
    event: event_log::EventKind,
    digest: Measurement,
    /// Whether the digest is a hash of what `shows` was read from: `data`, `value` or `label`.
    binding: String,
    shows: String,
}

/// What `log --json` says.
#[derive(Serialize)]
struct LogReport {
    rtmr: [Measurement; 4],
    events: Vec<EventLine>,
}

fn log(args: &LogArgs) -> CommandResult {
    let replay = read_replay(&args.log)?;
    if args.draft {
        print!("{}", toml::to_string(&EventPolicy::drafted_from(&replay))?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.policy {
        return judge(replay, path);
    }
    let report = LogReport {
        rtmr: replay.rtmr,
        events: replay
            .events
            .iter()
            .map(|event| EventLine {
                register: event.register,
                event: event.kind,
                digest: event.digest,
                binding: format!("{:?}", event.binding()).to_lowercase(),
                shows: event.content().to_string(),
            })
            .collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut events = table();
    for event in &report.events {
        let digest = event.digest.to_string();
        events.add_row([
            format!("RTMR{}", event.register),
            event.event.to_string(),
            digest.get(..16).unwrap_or_default().to_owned(),
            event.binding.clone(),
            plain(&event.shows).chars().take(SHOWN_CHARACTERS).collect(),
        ]);
    }
    println!("{events}\n");
    for (register, value) in report.rtmr.iter().enumerate() {
        println!("RTMR{register} {value}");
    }
    println!("\nA log proves nothing until these are the registers of a verified quote.");
    Ok(ExitCode::SUCCESS)
}

fn judge(replay: Replay, path: &Path) -> CommandResult {
    let bytes = read(path, MAX_POLICY_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let policy: EventPolicy = toml::from_str(&text).map_err(|error| CommandError::NoPolicy {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    policy.check().map_err(|error| CommandError::NoPolicy {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let [rtmr0, rtmr1, rtmr2, _] = replay.rtmr;
    // Proven by itself: this command is asked about a log, not about a quote.
    let findings = replay
        .proven_by(&[rtmr0, rtmr1, rtmr2])
        .map(|log| policy.judge(&log))
        .unwrap_or_default();
    for finding in &findings {
        println!("{}", plain(&finding.to_string()));
    }
    if findings.is_empty() {
        println!("every event of RTMR0 is as the policy wants it, if the quote's RTMR0 is {rtmr0}");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(FAILURE))
}

/// Largest policy that is read.
const MAX_POLICY_BYTES: usize = 1024 * 1024;

fn read_replay(path: &Path) -> Result<Replay, CommandError> {
    Ok(event_log::replay(&read_log(path)?).map_err(event_log::ReadLogError::from)?)
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CommandError> {
    let what = || format!("cannot read {}", path.display());
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(CommandError::io(what()))?;
    if bytes.len() > limit {
        return Err(CommandError::io(what())(std::io::Error::other(format!(
            "more than {limit} bytes"
        ))));
    }
    Ok(bytes)
}

fn table() -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use cocoon_attestation::Policy;

    use super::*;

    fn expected() -> Expected {
        Expected {
            mrtd: Measurement::of(b"firmware"),
            rtmr1: Measurement::of(b"kernel"),
            rtmr2: Measurement::of(b"files"),
            extensions: Vec::new(),
            configuration_volume: None,
        }
    }

    #[test]
    fn the_table_is_one_that_a_policy_takes() {
        let rtmr0 = Measurement::of(b"tables");
        let text = as_toml("release 1", &expected(), Some(rtmr0)).unwrap();
        let policy: Policy = toml::from_str(&text).unwrap();
        assert_eq!(policy.check(), Ok(()));
        assert_eq!(policy.images[0].name, "release 1");
        assert_eq!(policy.images[0].rtmr0, Some(rtmr0));
    }

    #[test]
    fn a_table_without_rtmr0_is_refused_until_somebody_fills_it_in() {
        let text = as_toml("release 1", &expected(), None).unwrap();
        assert!(text.contains("--event-log"), "{text}");
        let policy: Policy = toml::from_str(&text).unwrap();
        let error = policy.check().unwrap_err().to_string();
        assert!(error.contains("rtmr0"), "{error}");
    }
}
