//! The TDX guest: processor, kernel, `configfs-tsm`, quote, measurement registers, event log.

use std::io;
use std::path::Path;

use cocoon_attestation::shelf::family_of;
use cocoon_attestation::source::TSM_REPORTS;
use cocoon_protocol::evidence::MAX_EVENT_LOG_BYTES;

use super::{Finding, Look, Patient, Place};

/// The provider of quotes in a TDX guest, as the kernel names it.
const PROVIDER: &str = "tdx_guest";
/// First kernel with `configfs-tsm`.
const QUOTES_SINCE: (u32, u32) = (6, 7);
/// First kernel that shows the measurement registers as files.
const REGISTERS_SINCE: (u32, u32) = (6, 16);
/// The register that a launch is measured into.
const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
/// Bytes of a register: SHA-384.
const REGISTER_BYTES: usize = 48;
/// The firmware's event log, in the log area of the ACPI table CCEL.
const EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// Where the signature of a log's first event stands (TCG PC Client Platform Firmware Profile, section 10.4.5.1):
/// after a register's number, an event's type, a SHA-1 digest and a length.
const LOG_SIGNATURE: (usize, &[u8]) = (32, b"Spec ID Event03\0");

/// All checks of the guest, and the quote if one could be had.
pub(super) fn examine(patient: &Patient<'_>) -> (Vec<Finding>, Option<Vec<u8>>) {
    let mut findings = vec![
        processor(patient),
        kernel(patient),
        configfs(patient),
        reports(patient),
    ];
    let (provider, quote, bytes) = quote(patient);
    findings.extend([provider, quote, registers(patient), event_log(patient)]);
    (findings, bytes)
}

/// What kind of machine this is.
enum Kind {
    Guest,
    /// Hosts TDX guests.
    Host,
    Virtual,
    Bare,
}

fn kind(place: &Place) -> io::Result<Kind> {
    let cpuinfo = place.text("/proc/cpuinfo")?;
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
    let hosts = || {
        place
            .text("/sys/module/kvm_intel/parameters/tdx")
            .is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
    };
    Ok(if has("tdx_guest") {
        Kind::Guest
    } else if has("tdx_host_platform") || hosts() {
        Kind::Host
    } else if has("hypervisor") {
        Kind::Virtual
    } else {
        Kind::Bare
    })
}

fn processor(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "tdx guest",
        "flags in /proc/cpuinfo",
        "only in a trust domain can neither the host nor its owner read what clients say",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    match kind(patient.place) {
        Ok(Kind::Guest) => look.ok("tdx_guest"),
        Ok(Kind::Host) => look.missing(
            "this is a host of TDX guests, not a guest",
            "run the worker inside a guest: qemu-system-x86_64 … -object tdx-guest,id=tdx0 \
             -machine q35,kernel-irqchip=split,confidential-guest-support=tdx0",
        ),
        Ok(Kind::Virtual) => look.missing(
            "a virtual machine without tdx_guest",
            "start it as a trust domain: with QEMU `-object tdx-guest,id=tdx0 -machine \
             q35,kernel-irqchip=split,confidential-guest-support=tdx0`, in a cloud an instance type with Intel TDX",
        ),
        Ok(Kind::Bare) => look.missing(
            "no hypervisor: this is a machine itself, and TDX is not switched on",
            "it needs a Xeon with TDX (4th generation in clouds, from the 5th everywhere), TDX and TME-MT in the \
             firmware's setup, a host kernel with kvm_intel.tdx=1; then run the worker in a guest on it",
        ),
        Err(error) => look.missing(
            format!("cannot be read: {error}"),
            "mount /proc, and run this on Linux",
        ),
    }
}

/// Major and minor of `6.16.0-rc3-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "kernel",
        "/proc/sys/kernel/osrelease",
        "quotes come through configfs-tsm (6.7 and newer), launch measurements through files (6.16 and newer)",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let release = match patient.place.text("/proc/sys/kernel/osrelease") {
        Ok(text) => text.trim().to_owned(),
        Err(error) => return look.warning(format!("cannot be read: {error}"), "mount /proc"),
    };
    // Distributions carry both back into older kernels, so what is there counts more than the number.
    let (quotes, registers) = (
        patient.place.exists(TSM_REPORTS),
        patient.place.exists(RTMR3),
    );
    match version(&release) {
        None => look.warning(
            format!("{release}, which is no version"),
            "see what the next checks find",
        ),
        Some(found) if found >= REGISTERS_SINCE => look.ok(release),
        Some(_) if quotes && registers => {
            look.ok(format!("{release}, with both interfaces carried back"))
        }
        Some(found) if found >= QUOTES_SINCE || quotes => look.missing(
            format!("{release}: makes quotes, but shows no measurement registers"),
            "boot a guest image with Linux 6.16 or newer",
        ),
        Some(_) => look.missing(
            format!("{release}: too old for quotes"),
            "boot a guest image with Linux 6.16 or newer",
        ),
    }
}

fn mounted(place: &Place) -> io::Result<bool> {
    Ok(place.text("/proc/mounts")?.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        (fields.next(), fields.next()) == (Some("/sys/kernel/config"), Some("configfs"))
    }))
}

fn configfs(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "configfs",
        "/proc/mounts",
        "the kernel's reports are made by creating folders in it",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    match mounted(patient.place) {
        Ok(true) => look.ok("mounted at /sys/kernel/config"),
        Ok(false) => look.missing(
            "not mounted",
            "mount -t configfs none /sys/kernel/config (or systemctl start sys-kernel-config.mount); if there is no \
             such folder: modprobe configfs",
        ),
        Err(error) => look.missing(format!("cannot be read: {error}"), "mount /proc"),
    }
}

fn reports(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "tsm reports",
        TSM_REPORTS,
        "the folder in which the kernel makes quotes",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    if patient.place.exists(TSM_REPORTS) {
        return look.ok("there");
    }
    if !mounted(patient.place).unwrap_or(false) {
        return look.missing("not there, as configfs is not mounted", "mount configfs");
    }
    let next = "modprobe tdx_guest; if there is no such module, the kernel was built without CONFIG_TDX_GUEST_DRIVER \
                or CONFIG_TSM_REPORTS";
    look.missing("not there, though configfs is mounted", next)
}

/// Who makes quotes, and one of them.
fn quote(patient: &Patient<'_>) -> (Finding, Finding, Option<Vec<u8>>) {
    let provider = Look::at(
        "tsm provider",
        format!("{TSM_REPORTS}/…/provider"),
        "another provider's quotes are of another technology, which clients do not accept",
    );
    let quote = Look::at(
        "quote",
        format!("{TSM_REPORTS}/…/outblob"),
        "a quote is what proves the guest to clients; the host's quoting service signs it",
    );
    if let Some(why) = patient.no_tdx() {
        return (
            provider.not_applicable(why),
            quote.not_applicable(why),
            None,
        );
    }
    if !patient.place.exists(TSM_REPORTS) {
        let next = "mend `tsm reports` first";
        return (
            provider.missing("no reports to ask", next),
            quote.missing("no reports to ask", next),
            None,
        );
    }
    let reports = patient.place.path(TSM_REPORTS);
    match patient.machine.tsm_report(&reports, PROVIDER) {
        None => (
            from_files(provider, &reports),
            quote.not_applicable(patient.not_live()),
            None,
        ),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => (
            provider.missing(
                "no report may be made by this user",
                "run the worker, and this, as root or with write access to that folder",
            ),
            quote.missing("no report may be made by this user", "the same"),
            None,
        ),
        Some(Err(error)) => (
            provider.missing(
                format!("no report can be made: {error}"),
                "see `dmesg | grep -i tdx`, and modprobe tdx_guest",
            ),
            quote.missing("no report can be made", "mend `tsm provider` first"),
            None,
        ),
        Some(Ok(report)) => {
            let (finding, bytes) = judge_quote(quote, report.quote);
            (judge_provider(provider, &report.provider), finding, bytes)
        }
    }
}

/// A copy of a machine's files may hold a report.
fn from_files(look: Look, reports: &Path) -> Finding {
    let found = std::fs::read_dir(reports).ok().and_then(|entries| {
        entries
            .take(64)
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("provider")).ok())
            .next()
    });
    match found {
        Some(found) => judge_provider(look, found.trim()),
        None => look.not_applicable("only files were looked at, and no report is among them"),
    }
}

fn judge_provider(look: Look, found: &str) -> Finding {
    if found == PROVIDER {
        return look.ok(found);
    }
    look.missing(
        format!("{found:?}, not {PROVIDER:?}"),
        "run the worker in an Intel TDX guest: no other technology is verified",
    )
}

fn judge_quote(look: Look, quote: Option<io::Result<Vec<u8>>>) -> (Finding, Option<Vec<u8>>) {
    let serve = "on the host: start Intel's quoting service (systemctl start qgsd), let QEMU reach it \
                 (-object tdx-guest,…,quote-generation-socket), and register the platform (PCCS, mpa_registration_tool)";
    match quote {
        None => (
            look.missing("not asked for", "mend `tsm provider` first"),
            None,
        ),
        Some(Err(error)) => (look.missing(format!("none: {error}"), serve), None),
        Some(Ok(bytes)) => match family_of(&bytes) {
            Some(family) => {
                let found = format!("{} bytes, of a platform of family {family}", bytes.len());
                (look.ok(found), Some(bytes))
            }
            None => (
                look.missing(
                    format!(
                        "{} bytes that are no quote with a certificate in it",
                        bytes.len()
                    ),
                    serve,
                ),
                None,
            ),
        },
    }
}

fn registers(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "rtmr3",
        RTMR3,
        "model and configuration are measured into it before the network opens; without, clients refuse the evidence",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let limit = u64::try_from(REGISTER_BYTES).unwrap_or(u64::MAX);
    match patient.place.bytes(RTMR3, limit.saturating_add(1)) {
        Ok(bytes) if bytes.len() != REGISTER_BYTES => look.missing(
            format!("reads as {} bytes, not {REGISTER_BYTES}", bytes.len()),
            "boot a guest image with Linux 6.16 or newer",
        ),
        Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => look.ok("empty, ready for a launch"),
        Ok(bytes) => look.warning(
            format!("holds {} already", hex::encode(bytes)),
            "right if this worker has run since the guest booted; else reboot the guest, and see what else measures",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => look.missing(
            "may not be read by this user",
            "run the worker, and this, as root or with access to that file",
        ),
        Err(_) => look.missing(
            "not there",
            "boot a guest image with Linux 6.16 or newer, and modprobe tdx_guest",
        ),
    }
}

fn event_log(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "event log",
        EVENT_LOG,
        "with the firmware's log a client can tell what was measured, not only that it differs",
    );
    if let Some(why) = patient.no_tdx() {
        return look.not_applicable(why);
    }
    let limit = u64::try_from(MAX_EVENT_LOG_BYTES).unwrap_or(u64::MAX);
    match patient.place.bytes(EVENT_LOG, limit.saturating_add(1)) {
        Ok(bytes) if bytes.len() > MAX_EVENT_LOG_BYTES => look.warning(
            format!("more than {MAX_EVENT_LOG_BYTES} bytes, which no evidence can carry"),
            "use a firmware with a smaller log area",
        ),
        Ok(bytes) => {
            let (at, signature) = LOG_SIGNATURE;
            if bytes
                .get(at..)
                .is_some_and(|rest| rest.starts_with(signature))
            {
                look.ok(format!("{} bytes", bytes.len()))
            } else {
                look.warning(
                    format!("{} bytes that do not begin as an event log does", bytes.len()),
                    "use a firmware that writes one: TDVF (OVMF built for TDX)",
                )
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => look.warning(
            "may not be read by this user",
            "run the worker, and this, as root or with access to that file",
        ),
        Err(_) => look.warning(
            "not there",
            "use a firmware that writes one: TDVF (OVMF built for TDX); the ACPI table is called CCEL",
        ),
    }
}
