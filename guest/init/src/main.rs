//! The first process of the guest, in place of a shell, systemd and their hundreds of programs.
//!
//! It mounts what the kernel shows, loads the modules that the image lists, opens the model's volume
//! with the root hash from the (measured) command line, sets the address that the host gives, and
//! starts the node. When the node ends, so does the guest: nothing is started twice, since RTMR3
//! tells of one launch. There is nothing to log in to.
//!
//! # What the host decides
//! Three files that QEMU passes by fw_cfg, none of them measured: the network's addresses, the node's
//! configuration and DCAP collateral. The node binds what matters of its configuration into RTMR3 and
//! its evidence; `--evidence tdx` and the directories are fixed here and cannot be configured.

mod command_line;
mod error;
mod network;
mod system;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use error::InitError;
use rustix::process::{WaitOptions, wait};

/// Where QEMU's files are, `-fw_cfg name=opt/org.cocoon/…,file=…`.
const FROM_HOST: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.cocoon";
/// Modules of the image, in the order to load them.
const MODULES: &str = "/lib/modules/load";
const MODEL: &str = "/model";
const DATA: &str = "/run/cocoon/data";
const CONFIG: &str = "/run/cocoon/worker.toml";
const NODE: &str = "/usr/bin/cocoon";
/// Largest file that is taken from the host.
const MAX_HOST_FILE_BYTES: u64 = 1024 * 1024;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("cocoon-init is the first process of a guest and nothing else");
        return ExitCode::FAILURE;
    }
    let ended = system::mount_all().and_then(|()| run());
    match ended {
        Ok(()) => eprintln!("init: the node ended"),
        Err(error) => eprintln!("init: {error}"),
    }
    system::power_off();
    ExitCode::FAILURE
}

fn run() -> Result<(), InitError> {
    system::load_modules(Path::new(MODULES))?;
    system::mount_reports()?;
    let line = system::read_text(Path::new("/proc/cmdline"), MAX_HOST_FILE_BYTES)?;
    if let Some(volume) = command_line::model_volume(&line)? {
        system::open_model(&volume, Path::new(MODEL))?;
    }
    if let Some(text) = from_host("network")? {
        system::set_up_network(&network::Network::parse(&text)?)?;
    }
    fs::create_dir_all(DATA).map_err(InitError::io(DATA))?;
    let config = from_host("worker.toml")?.unwrap_or_default();
    fs::write(CONFIG, config).map_err(InitError::io(CONFIG))?;
    if let Some(collateral) = from_host("collateral.json")? {
        let path = Path::new(DATA).join("collateral.json");
        fs::write(&path, collateral).map_err(InitError::io(&path))?;
    }
    let node = Command::new(NODE)
        .args(["run", "--config", CONFIG, "--data-dir", DATA])
        .args(["--evidence", "tdx"])
        .env_clear()
        .spawn()
        .map_err(InitError::io(NODE))?;
    reap_until(node.id())
}

/// The first process inherits every orphan. Ends with the node.
fn reap_until(node: u32) -> Result<(), InitError> {
    loop {
        let ended = wait(WaitOptions::empty()).map_err(|error| InitError::Wait(error.into()))?;
        if let Some((process, status)) = ended
            && u32::try_from(process.as_raw_nonzero().get()) == Ok(node)
        {
            eprintln!("init: the node's status is {:?}", status.exit_status());
            return Ok(());
        }
    }
}

fn from_host(name: &str) -> Result<Option<String>, InitError> {
    let path = Path::new(FROM_HOST).join(name).join("raw");
    if !path.exists() {
        return Ok(None);
    }
    system::read_text(&path, MAX_HOST_FILE_BYTES).map(Some)
}
