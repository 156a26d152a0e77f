//! The graphics card: its driver, and whether it keeps what it computes from the host.

use std::io;

use super::{Finding, Look, Patient};

const DRIVER: &str = "/proc/driver/nvidia/version";

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    vec![driver(patient), confidential(patient)]
}

fn not_wanted(patient: &Patient<'_>) -> Option<&'static str> {
    if !patient.is_worker() {
        Some("only workers compute")
    } else if !patient.on_a_card() {
        Some("the model is not computed on a card by this process")
    } else {
        None
    }
}

fn driver(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "nvidia driver",
        DRIVER,
        "device = \"cuda\" computes through it",
    );
    if let Some(why) = not_wanted(patient) {
        return look.not_applicable(why);
    }
    match patient.place.text(DRIVER) {
        Ok(text) => {
            let line = text.lines().next().unwrap_or_default();
            let version = line
                .strip_prefix("NVRM version:")
                .unwrap_or(line)
                .split_whitespace();
            look.ok(version.collect::<Vec<_>>().join(" "))
        }
        Err(_) => look.missing(
            "no driver is loaded",
            "install NVIDIA's driver with the open kernel modules and modprobe nvidia; or set device = \"processor\"",
        ),
    }
}

fn confidential(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "gpu cc mode",
        "nvidia-smi conf-compute -f",
        "without it the host reads conversations in the card's memory",
    );
    if let Some(why) = not_wanted(patient) {
        return look.not_applicable(why);
    }
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let on = "on the host: switch the card's mode on (nvidia_gpu_tools.py --set-cc-mode=on --reset-after-cc-mode-switch), \
              then start the guest again; it needs a Hopper or newer card";
    let install = "install the nvidia-smi of the driver's version";
    match patient.machine.run("nvidia-smi", &["conf-compute", "-f"]) {
        None => look.not_applicable(patient.not_live()),
        Some(Ok(ran)) => match (ran.ok, status(&ran.said).as_deref()) {
            (true, Some("ON")) => look.ok("on"),
            (true, Some("DEVTOOLS")) => {
                look.missing("devtools: on, but with debugging that lets the host in", on)
            }
            (true, Some(other)) => look.missing(format!("{other:?}"), on),
            (true, None) => look.missing("an answer without a status", on),
            (false, _) => look.missing("refused: this card or driver has no such mode", on),
        },
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            look.missing("nvidia-smi is not installed", install)
        }
        Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => look.missing(
            "nvidia-smi does not come back",
            "see `dmesg | grep -i nvrm`, and restart the guest",
        ),
        Some(Err(error)) => look.missing(format!("nvidia-smi: {error}"), install),
    }
}

/// What follows the last colon of `CC status: ON`.
fn status(said: &str) -> Option<String> {
    said.lines()
        .filter(|line| line.to_ascii_lowercase().contains("cc status"))
        .find_map(|line| Some(line.rsplit_once(':')?.1.trim().to_ascii_uppercase()))
}
