//! What is asked of the kernel, and of the two programs in the image that talk to it.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use crate::command_line::ModelVolume;
use crate::error::InitError;
use crate::network::Network;

const VERITYSETUP: &str = "/usr/sbin/veritysetup";
const IP: &str = "/usr/sbin/ip";
/// The volume with the model is the guest's first disk.
const DISK: &str = "/dev/vda";
const INTERFACES: &str = "/sys/class/net";
/// Longest wait for a device after its driver was loaded.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);

/// What every program expects, and a console to speak on.
pub(crate) fn mount_all() -> Result<(), InitError> {
    let nothing_runs = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    attach("proc", "/proc", nothing_runs)?;
    attach("sysfs", "/sys", nothing_runs)?;
    attach("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    attach("tmpfs", "/run", nothing_runs)?;
    attach("tmpfs", "/tmp", nothing_runs)?;
    // The kernel could not open it: the image has no devices.
    let console = File::options()
        .read(true)
        .write(true)
        .open("/dev/console")
        .map_err(InitError::io("/dev/console"))?;
    let failed = |error: rustix::io::Errno| InitError::io("/dev/console")(error.into());
    rustix::stdio::dup2_stdin(&console).map_err(failed)?;
    rustix::stdio::dup2_stdout(&console).map_err(failed)?;
    rustix::stdio::dup2_stderr(&console).map_err(failed)
}

/// Where quotes are made; there once its module is.
pub(crate) fn mount_reports() -> Result<(), InitError> {
    attach(
        "configfs",
        "/sys/kernel/config",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
    )
}

fn attach(kind: &'static str, at: &str, flags: MountFlags) -> Result<(), InitError> {
    // sysfs makes its own folders.
    if !Path::new(at).exists() {
        fs::create_dir_all(at).map_err(InitError::io(at))?;
    }
    mount(kind, at, kind, flags, None::<&CStr>).map_err(|error| InitError::Mount {
        what: kind,
        source: error.into(),
    })
}

/// Loads the modules that `list` names, one path per line. A module for a device that is not there is
/// no failure: TDX's driver refuses any machine that is no guest, and the node says so better.
pub(crate) fn load_modules(list: &Path) -> Result<(), InitError> {
    for path in read_text(list, 1 << 16)?.lines() {
        let file = File::open(path).map_err(InitError::io(path))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(rustix::io::Errno::NODEV) => eprintln!("init: {path}: no such device here"),
            Err(error) => {
                return Err(InitError::Module {
                    name: path.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Opens the volume: from here on the kernel checks every block against the root hash.
pub(crate) fn open_model(volume: &ModelVolume, at: &Path) -> Result<(), InitError> {
    appears(DISK)?;
    let offset = format!("--hash-offset={}", volume.hash_offset);
    program(
        VERITYSETUP,
        &[
            "open",
            DISK,
            "model",
            DISK,
            &volume.root,
            &offset,
            "--panic-on-corruption",
        ],
    )?;
    fs::create_dir_all(at).map_err(InitError::io(at))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("/dev/mapper/model", at, "erofs", flags, None::<&CStr>).map_err(|error| {
        InitError::Mount {
            what: "the model's volume",
            source: error.into(),
        }
    })
}

/// Addresses and routes of the only interface.
pub(crate) fn set_up_network(network: &Network) -> Result<(), InitError> {
    program(IP, &["link", "set", "lo", "up"])?;
    let names = fs::read_dir(INTERFACES).map_err(InitError::io(INTERFACES))?;
    let interface = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name != "lo")
        .ok_or(InitError::NoDevice("a network interface"))?;
    for (address, prefix) in &network.addresses {
        let address = format!("{address}/{prefix}");
        program(IP, &["address", "add", &address, "dev", &interface])?;
    }
    program(IP, &["link", "set", &interface, "up"])?;
    for gateway in &network.gateways {
        let gateway = gateway.to_string();
        program(IP, &["route", "add", "default", "via", &gateway])?;
    }
    let servers = network
        .nameservers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect::<String>();
    fs::write("/etc/resolv.conf", servers).map_err(InitError::io("/etc/resolv.conf"))
}

pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, InitError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_string(&mut text))
        .map_err(InitError::io(path))?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > limit) {
        return Err(InitError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(text)
}

pub(crate) fn power_off() {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("init: cannot switch off: {}", io::Error::from(error));
    }
}

fn appears(device: &'static str) -> Result<(), InitError> {
    let deadline = Instant::now().checked_add(DEVICE_PATIENCE);
    while !Path::new(device).exists() {
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            return Err(InitError::NoDevice(device));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn program(program: &'static str, arguments: &[&str]) -> Result<(), InitError> {
    let status = Command::new(program)
        .args(arguments)
        .env_clear()
        // There is no udev: libdevmapper makes its own nodes.
        .env("DM_DISABLE_UDEV", "1")
        .status()
        .map_err(InitError::io(program))?;
    if status.success() {
        Ok(())
    } else {
        Err(InitError::Program { program, status })
    }
}
