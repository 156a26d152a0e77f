//! The machine itself: the data directory, the disk, memory.

use std::io;
use std::os::unix::fs::PermissionsExt;

use cocoon_inference::store::Contents;

use super::{Finding, Look, Patient};
use crate::secret_file::{SecretFileError, Token};

/// Free space below which the ledger is at risk, KiB: 256 MiB.
const MIN_FREE_KIB: u64 = 256 << 10;
/// Free space below which an operator should know, KiB: 2 GiB.
const LOW_FREE_KIB: u64 = 2 << 20;
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// Files in the data directory that only their owner may read.
const SECRETS: [&str; 4] = ["peer-key", "wallet-key", "admin-token", "api-token"];

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    vec![directory(patient), disk(patient), huge_pages(patient)]
}

fn directory(patient: &Patient<'_>) -> Finding {
    let path = &patient.config.data_dir;
    let look = Look::at(
        "data directory",
        path.display().to_string(),
        "keys and the ledger live there; whoever reads the wallet's key has the money",
    );
    let here = patient.place.path(path);
    let mode = match std::fs::metadata(&here) {
        Ok(about) if !about.is_dir() => {
            return look.missing("not a folder", "name another one with --data-dir");
        }
        Ok(about) => about.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return look.ok("not there yet; the first start makes it");
        }
        Err(error) => {
            return look.missing(
                format!("cannot be used: {error}"),
                "let the worker's user own it: chown, chmod 700",
            );
        }
    };
    for secret in SECRETS {
        match Token::load(&here.join(secret)) {
            Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            }
            Err(SecretFileError::Exposed { mode, .. }) => {
                let file = path.join(secret);
                return look.missing(
                    format!("{secret} can be read by others (mode {mode:03o})"),
                    format!(
                        "chmod 600 {}; if others had access, make new keys",
                        file.display()
                    ),
                );
            }
            Err(error) => {
                return look.missing(
                    error.to_string(),
                    "let the worker's user own it, or move the file away if it is not needed",
                );
            }
            Ok(_) => {}
        }
    }
    if mode & 0o077 != 0 {
        return look.warning(
            format!("others may look into it (mode {mode:03o})"),
            format!("chmod 700 {}; the next start does it", path.display()),
        );
    }
    look.ok(format!(
        "mode {mode:03o}, keys readable by their owner alone"
    ))
}

fn disk(patient: &Patient<'_>) -> Finding {
    let path = &patient.config.data_dir;
    let look = Look::at(
        "disk",
        format!("df -Pk {}", path.display()),
        "vouchers are written before tokens are sent; with a full disk no job goes on",
    );
    // The folder, or the nearest one above that is there already.
    let here = patient.place.path(path);
    let Some(there) = here.ancestors().find(|folder| folder.exists()) else {
        return look.warning("no such folder", "mend `data directory` first");
    };
    let answer = patient
        .machine
        .run("df", &["-Pk", &there.display().to_string()]);
    let Some(answer) = answer else {
        return look.not_applicable(patient.not_live());
    };
    let free = answer.ok().and_then(|ran| free_kib(&ran.said));
    match free {
        None => look.warning("df does not say", "look with df yourself"),
        Some(kib) => {
            let found = format!("{} MiB free", kib >> 10);
            if kib < MIN_FREE_KIB {
                look.missing(found, "free 2 GiB, or move data_dir to a larger disk")
            } else if kib < LOW_FREE_KIB {
                look.warning(found, "free 2 GiB, or move data_dir to a larger disk")
            } else {
                look.ok(found)
            }
        }
    }
}

/// The fourth column of the second line (POSIX, `df -P`).
fn free_kib(said: &str) -> Option<u64> {
    said.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

fn huge_pages(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "huge pages",
        HUGE_PAGES,
        "weights are read once per token, and small pages cost a tenth of the speed and more",
    );
    if !patient.is_worker() || patient.on_a_card() {
        return look.not_applicable("no weights are read from memory by this processor");
    }
    match patient.place.text(HUGE_PAGES) {
        Ok(text) if text.contains("[never]") => {
            look.warning("never", format!("echo madvise > {HUGE_PAGES}"))
        }
        Ok(text) => look.ok(text.trim().to_owned()),
        Err(_) => look.warning(
            "not there: this kernel has none",
            "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}

/// Whether the weights and the cache find room. The model's contents come from [`super::model`], which has read it.
pub(super) fn memory(patient: &Patient<'_>, contents: &Contents) -> Finding {
    let look = Look::at(
        "memory",
        "/proc/meminfo",
        "weights stay in memory; where they do not fit the kernel ends the worker",
    );
    if patient.on_a_card() || patient.config.upstream.is_some() {
        return look.not_applicable("the weights are not in this process's memory");
    }
    let cache = u64::from(patient.config.cache_mib) << 20;
    let needed = contents.weights_bytes.saturating_add(cache);
    let meminfo = patient.place.text("/proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) = (
        meminfo_bytes(&meminfo, "MemTotal:"),
        meminfo_bytes(&meminfo, "MemAvailable:"),
    ) else {
        return look.warning("cannot be read", "mount /proc");
    };
    let mib = |bytes: u64| bytes >> 20;
    let found = format!(
        "{} MiB for weights and {} MiB for the cache, of {} MiB free and {} MiB in all",
        mib(contents.weights_bytes),
        mib(cache),
        mib(available),
        mib(total)
    );
    if needed > total {
        let next = "give the guest more memory, take a smaller model, or lower cache_mib";
        look.missing(found, next)
    } else if needed > available {
        let next = "right if this worker runs already; else end what else takes memory, or lower cache_mib";
        look.warning(found, next)
    } else {
        look.ok(found)
    }
}

fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}
