//! What the registers of a guest will hold, computed from its files without starting it.
//!
//! For one way to boot: QEMU starts the firmware (OVMF or TDVF) and hands it kernel, initial file
//! system and command line over fw_cfg ("direct kernel boot"). There is no boot loader and no disk
//! in between. Then
//!
//! - **MRTD** is the firmware, as the TDX module hashed the pages that it was made of ([`tdvf`]);
//! - **RTMR1** is the kernel: the Authenticode hash of the file that QEMU hands over ([`kernel`]),
//!   and four fixed events of the firmware around it;
//! - **RTMR2** is what the kernel's EFI stub (Linux 6.9 and newer) measures: its command line and
//!   the initial file system.
//!
//! The number of processors is in none of them. The memory is in RTMR1 only if QEMU patches the
//! kernel, and then only below 2816 MiB. RTMR0 cannot be computed from these files: it holds ACPI tables that the
//! host's QEMU makes. See [`crate::event_log`] for how it is judged instead.
//!
//! # Sources
//! Intel TDX Module Base Architecture Specification (348549), "Measurement and attestation"; Intel
//! TDX Virtual Firmware Design Guide (344991), sections 8 and 11; edk2's
//! `SecurityPkg/Library/DxeTpmMeasureBootLib` and `OvmfPkg/Library/X86QemuLoadImageLib`; QEMU's
//! `hw/i386/x86-common.c`; Linux's `drivers/firmware/efi/libstub/efi-stub-helper.c`.

pub mod kernel;
pub mod tdvf;

use serde::Serialize;

pub use self::kernel::{Handover, KernelError};
pub use self::tdvf::{Firmware, PageOrder, TdvfError};
use crate::Measurement;

/// Longest command line that Linux takes on x86, bytes (`COMMAND_LINE_SIZE`).
pub const MAX_COMMAND_LINE_BYTES: usize = 2048;

/// The firmware appends this to the command line if there is an initial file system.
const INITRD_ARGUMENT: &str = " initrd=initrd";

/// What a guest is started with.
#[derive(Clone, Copy, Debug)]
pub struct LaunchFiles<'a> {
    /// OVMF or TDVF, the file given to QEMU's `-bios`.
    pub firmware: &'a [u8],
    /// A Linux bzImage with EFI stub.
    pub kernel: &'a [u8],
    /// The initial file system, as it is: compressed if it is compressed.
    pub initrd: Option<&'a [u8]>,
    /// As given to QEMU's `-append`.
    pub command_line: &'a str,
    /// Memory of the guest, bytes.
    pub memory_bytes: u64,
    /// How the host adds the firmware's pages.
    pub pages: PageOrder,
    /// What the firmware gets as the kernel.
    pub handover: Handover,
}

/// One extension of a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extension {
    /// Which RTMR.
    pub register: u8,
    /// What is measured.
    pub what: &'static str,
    /// Its digest.
    pub digest: Measurement,
}

/// What the registers will hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The firmware.
    pub mrtd: Measurement,
    /// The kernel.
    pub rtmr1: Measurement,
    /// Command line and initial file system.
    pub rtmr2: Measurement,
    /// How RTMR1 and RTMR2 come about, in order.
    pub extensions: Vec<Extension>,
    /// Digest of the firmware's configuration volume, RTMR0's second event, if the firmware has
    /// one.
    pub configuration_volume: Option<Measurement>,
}

/// Why nothing can be expected of these files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchMeasureError {
    /// The firmware.
    #[error("the firmware: {0}")]
    Firmware(#[from] TdvfError),
    /// The kernel.
    #[error("the kernel: {0}")]
    Kernel(#[from] KernelError),
    /// Longer than Linux takes: it would cut it, and so does not measure what was meant.
    #[error("a command line of {bytes} bytes; Linux takes {MAX_COMMAND_LINE_BYTES}")]
    CommandLine {
        /// With what the firmware appends.
        bytes: usize,
    },
}

/// Computes MRTD, RTMR1 and RTMR2.
///
/// # Errors
/// If a file is not what it should be, or the command line is too long.
pub fn expect(files: &LaunchFiles<'_>) -> Result<Expected, LaunchMeasureError> {
    let firmware = Firmware::parse(files.firmware)?;
    let handed = kernel::as_handed_over(files)?;
    let extension = |register, what, digest| Extension {
        register,
        what,
        digest,
    };
    let mut extensions = vec![
        extension(1, "kernel", kernel::authenticode(&handed)?),
        extension(
            1,
            "boot option",
            Measurement::of(b"Calling EFI Application from Boot Option"),
        ),
        extension(1, "separator", Measurement::of(&[0; 4])),
        extension(
            1,
            "exit boot services",
            Measurement::of(b"Exit Boot Services Invocation"),
        ),
        extension(
            1,
            "exited boot services",
            Measurement::of(b"Exit Boot Services Returned with Success"),
        ),
        extension(2, "command line", command_line(files)?),
    ];
    extensions.extend(
        files
            .initrd
            .map(|initrd| extension(2, "initial file system", Measurement::of(initrd))),
    );
    let register = |wanted: u8| {
        extensions
            .iter()
            .filter(|extension| extension.register == wanted)
            .fold(Measurement::ZERO, |register, extension| {
                register.extended(extension.digest)
            })
    };
    Ok(Expected {
        mrtd: firmware.mrtd(files.pages),
        rtmr1: register(1),
        rtmr2: register(2),
        configuration_volume: firmware.configuration_volume(),
        extensions,
    })
}

/// Linux measures its EFI load options: UTF-16 with the NUL at the end.
fn command_line(files: &LaunchFiles<'_>) -> Result<Measurement, LaunchMeasureError> {
    let mut line = files.command_line.to_owned();
    if files.initrd.is_some() {
        line.push_str(INITRD_ARGUMENT);
    }
    if line.len() >= MAX_COMMAND_LINE_BYTES {
        return Err(LaunchMeasureError::CommandLine { bytes: line.len() });
    }
    let wide = line
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    Ok(Measurement::of(&wide))
}
