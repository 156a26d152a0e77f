//! Where the doctor looks: files below a root, and a machine that runs or does not.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_protocol::evidence::MAX_QUOTE_BYTES;

/// Seconds that a command may take: a broken driver can keep its tool waiting for ever.
const COMMAND_SECONDS: &str = "10";
/// What coreutils' `timeout` exits with when it ended the command, and when there is no such command.
const TIMED_OUT: i32 = 124;
const NOT_FOUND: i32 = 127;
/// Longest file that is read as text, bytes.
const MAX_TEXT_BYTES: u64 = 256 * 1024;

/// A machine's files, below the folder that holds them.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// Files below `root`; `/` for this machine's own.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a file of the machine is here. On this machine a relative path stays one.
    #[must_use]
    pub fn path(&self, on_the_machine: impl AsRef<Path>) -> PathBuf {
        let path = on_the_machine.as_ref();
        if self.root == Path::new("/") {
            return path.to_owned();
        }
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// A file's beginning, up to [`MAX_TEXT_BYTES`].
    pub(super) fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let bytes = self.bytes(path, MAX_TEXT_BYTES)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// At most `limit` bytes of a file.
    pub(super) fn bytes(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(self.path(path))?
            .take(limit)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// What a command said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// It exited with 0.
    pub ok: bool,
    /// Standard output.
    pub said: String,
}

/// A report of the kernel's `configfs-tsm`.
#[derive(Debug)]
pub struct TsmReport {
    /// Who makes it.
    pub provider: String,
    /// The quote; not asked for where the provider is another one than TDX's.
    pub quote: Option<io::Result<Vec<u8>>>,
}

/// How a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(SocketAddr),
    /// UDP, for QUIC.
    Udp(SocketAddr),
}

/// What only a running machine can tell. `None` where there is none, only its files.
pub trait Machine {
    /// Runs a program. [`io::ErrorKind::NotFound`] if it is not installed, [`io::ErrorKind::TimedOut`] if it does not
    /// come back.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<io::Result<Ran>>;

    /// Makes a report in this folder, asks who makes quotes and, if it is `provider`, for one over 64 zeroes.
    fn tsm_report(&self, reports: &Path, provider: &str) -> Option<io::Result<TsmReport>>;

    /// Whether this address is free.
    fn bind(&self, at: Transport) -> Option<io::Result<()>>;
}

/// No machine, only files.
pub struct OnlyFiles;

impl Machine for OnlyFiles {
    fn run(&self, _: &str, _: &[&str]) -> Option<io::Result<Ran>> {
        None
    }

    fn tsm_report(&self, _: &Path, _: &str) -> Option<io::Result<TsmReport>> {
        None
    }

    fn bind(&self, _: Transport) -> Option<io::Result<()>> {
        None
    }
}

/// This machine.
pub struct Live;

impl Machine for Live {
    fn run(&self, program: &str, arguments: &[&str]) -> Option<io::Result<Ran>> {
        let output = Command::new("timeout")
            .arg(COMMAND_SECONDS)
            .arg(program)
            .args(arguments)
            .output();
        Some(output.and_then(|output| match output.status.code() {
            Some(NOT_FOUND) => Err(io::ErrorKind::NotFound.into()),
            Some(TIMED_OUT) => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(Ran {
                ok: output.status.success(),
                said: String::from_utf8_lossy(&output.stdout).into_owned(),
            }),
        }))
    }

    fn tsm_report(&self, reports: &Path, provider: &str) -> Option<io::Result<TsmReport>> {
        Some(report(reports, provider))
    }

    fn bind(&self, at: Transport) -> Option<io::Result<()>> {
        Some(match at {
            Transport::Tcp(address) => TcpListener::bind(address).map(drop),
            Transport::Udp(address) => UdpSocket::bind(address).map(drop),
        })
    }
}

/// Makes a report of its own and removes it again.
fn report(reports: &Path, provider: &str) -> io::Result<TsmReport> {
    let folder = reports.join(format!("cocoon-doctor-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let found = (|| {
        let found = fs::read_to_string(folder.join("provider"))?
            .trim()
            .to_owned();
        let quote = (found == provider).then(|| quote(&folder));
        Ok(TsmReport {
            provider: found,
            quote,
        })
    })();
    // The next one makes a folder of another name; nothing depends on this.
    let _ = fs::remove_dir(&folder);
    found
}

fn quote(folder: &Path) -> io::Result<Vec<u8>> {
    let mut inblob = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("inblob"))?;
    inblob.write_all(&[0; 64])?;
    drop(inblob);
    let limit = u64::try_from(MAX_QUOTE_BYTES).unwrap_or(u64::MAX);
    let mut quote = Vec::new();
    fs::File::open(folder.join("outblob"))?
        .take(limit)
        .read_to_end(&mut quote)?;
    Ok(quote)
}
