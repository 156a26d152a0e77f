//! The kernel as the firmware measures it.
//!
//! QEMU writes into the header of the kernel before it hands it over (where the initial file system
//! will lie, who loaded it), so the firmware measures another file than the one on disk. QEMU 10.0
//! and newer also offer the unchanged file, which edk2 2025.02 and newer take: [`Handover`].
//!
//! Both were seen: OVMF 2025.02 under QEMU 7.2 and under QEMU 10.0, with a software TPM in place of
//! TDX's registers, logged the digests that are computed here, for the kernel, the command line and
//! the initial file system of Linux 7.3.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use super::LaunchFiles;
use crate::Measurement;

/// Largest kernel that is looked at. Debian's have 8 to 15 MiB.
pub const MAX_KERNEL_BYTES: usize = 256 * 1024 * 1024;
/// Most sections of a PE file; the format's own limit.
const MAX_PE_SECTIONS: u16 = 96;

/// What the firmware gets as the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handover {
    /// As on disk: QEMU 10.0 and newer with edk2 2025.02 and newer.
    #[default]
    Unchanged,
    /// With QEMU's changes to its header: QEMU before 10.0, or edk2 before 2025.02.
    Patched,
}

/// Text that is no handover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to hand a kernel over; write patched or unchanged")]
pub struct UnknownHandover(String);

impl FromStr for Handover {
    type Err = UnknownHandover;

    fn from_str(text: &str) -> Result<Self, UnknownHandover> {
        match text {
            "patched" => Ok(Self::Patched),
            "unchanged" => Ok(Self::Unchanged),
            _ => Err(UnknownHandover(text.to_owned())),
        }
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Patched => "patched",
            Self::Unchanged => "unchanged",
        })
    }
}

/// Why a file cannot be measured as a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Larger than any.
    #[error("{bytes} bytes, more than {MAX_KERNEL_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It has no header of the Linux boot protocol 2.12 or newer, which is from 2012.
    #[error("no bzImage of the boot protocol 2.12 or newer")]
    NotLinux,
    /// It is no PE file, so the firmware cannot start it.
    #[error("no PE file: {0}; was it built with CONFIG_EFI_STUB?")]
    NotPe(&'static str),
    /// QEMU would write a video mode into the kernel.
    #[error("`vga=` in the command line changes the kernel; leave it out")]
    VideoMode,
    /// There is no room for the initial file system.
    #[error("an initial file system of {initrd} bytes does not fit a guest of {memory} bytes")]
    NoRoom {
        /// Its size.
        initrd: usize,
        /// Memory of the guest.
        memory: u64,
    },
}

/// The file that the firmware gets.
///
/// # Errors
/// [`KernelError`].
pub(super) fn as_handed_over(files: &LaunchFiles<'_>) -> Result<Vec<u8>, KernelError> {
    if files.kernel.len() > MAX_KERNEL_BYTES {
        return Err(KernelError::TooLarge {
            bytes: files.kernel.len(),
        });
    }
    match files.handover {
        Handover::Unchanged => Ok(files.kernel.to_vec()),
        Handover::Patched => patched(files),
    }
}

/// What `x86_load_linux` of QEMU does to the header, whose fields are in Linux's
/// `Documentation/arch/x86/boot.rst`.
fn patched(files: &LaunchFiles<'_>) -> Result<Vec<u8>, KernelError> {
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x206;
    const TYPE_OF_LOADER: usize = 0x210;
    const LOAD_FLAGS: usize = 0x211;
    const INITRD_ADDRESS: usize = 0x218;
    const INITRD_SIZE: usize = 0x21c;
    const HEAP_END: usize = 0x224;
    const COMMAND_LINE: usize = 0x228;
    const INITRD_LIMIT: usize = 0x22c;
    const XLOAD_FLAGS: usize = 0x236;

    const LOADED_HIGH: u8 = 0x01;
    const CAN_USE_HEAP: u8 = 0x80;
    const ABOVE_4G: u16 = 1 << 1;
    const QEMU: u8 = 0xb0;
    /// Where QEMU puts the real mode part and the command line.
    const REAL_MODE_AT: u32 = 0x1_0000;
    const COMMAND_LINE_AT: u32 = 0x2_0000;

    if files.command_line.contains("vga=") {
        return Err(KernelError::VideoMode);
    }
    let mut kernel = files.kernel.to_vec();
    let u16_at = |at: usize| -> Option<u16> {
        Some(u16::from_le_bytes(*files.kernel.get(at..)?.first_chunk()?))
    };
    let u32_at = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(*files.kernel.get(at..)?.first_chunk()?))
    };
    let flags = files.kernel.get(LOAD_FLAGS).copied();
    let modern = u32_at(MAGIC) == Some(u32::from_le_bytes(*b"HdrS"))
        && u16_at(VERSION).is_some_and(|version| version >= 0x20c)
        && flags.is_some_and(|flags| flags & LOADED_HIGH != 0);
    let header = u16_at(XLOAD_FLAGS).zip(u32_at(INITRD_LIMIT)).zip(flags);
    let Some(((xload_flags, initrd_limit), flags)) = header.filter(|_| modern) else {
        return Err(KernelError::NotLinux);
    };
    let heap_end = COMMAND_LINE_AT
        .saturating_sub(REAL_MODE_AT)
        .saturating_sub(0x200);
    write(&mut kernel, TYPE_OF_LOADER, &[QEMU]);
    write(&mut kernel, LOAD_FLAGS, &[flags | CAN_USE_HEAP]);
    let heap_end = u16::try_from(heap_end).unwrap_or(u16::MAX);
    write(&mut kernel, HEAP_END, &heap_end.to_le_bytes());
    write(&mut kernel, COMMAND_LINE, &COMMAND_LINE_AT.to_le_bytes());
    if let Some(initrd) = files.initrd {
        let limit = if xload_flags & ABOVE_4G == 0 {
            initrd_limit
        } else {
            u32::MAX
        };
        let no_room = KernelError::NoRoom {
            initrd: initrd.len(),
            memory: files.memory_bytes,
        };
        let size = u32::try_from(initrd.len()).map_err(|_| no_room.clone())?;
        let address = initrd_address(size, limit, files.memory_bytes).ok_or(no_room)?;
        write(&mut kernel, INITRD_ADDRESS, &address.to_le_bytes());
        write(&mut kernel, INITRD_SIZE, &size.to_le_bytes());
    }
    Ok(kernel)
}

/// As high as it goes below 4 GiB. QEMU's q35 keeps 2 GiB there, or up to 2816 MiB if the guest has
/// no more, and reserves the end for ACPI tables.
fn initrd_address(size: u32, limit: u32, memory: u64) -> Option<u32> {
    const LOW_MEMORY: u64 = 0xb000_0000;
    const LOW_MEMORY_OF_LARGE: u64 = 0x8000_0000;
    const ACPI_DATA: u64 = 0x2_8000;
    const PAGE_MASK: u64 = !0xfff;
    let below_4g = if memory >= LOW_MEMORY {
        LOW_MEMORY_OF_LARGE
    } else {
        memory
    };
    let last = below_4g.checked_sub(ACPI_DATA)?.checked_sub(1)?;
    let address = u64::from(limit).min(last).checked_sub(u64::from(size))? & PAGE_MASK;
    u32::try_from(address).ok().filter(|address| *address > 0)
}

fn write(kernel: &mut [u8], at: usize, bytes: &[u8]) {
    for (byte, new) in kernel.iter_mut().skip(at).zip(bytes) {
        *byte = *new;
    }
}

/// The Authenticode hash of a PE file, SHA-384, as edk2 computes it.
///
/// # Errors
/// If the file is no PE file.
pub fn authenticode(file: &[u8]) -> Result<Measurement, KernelError> {
    let mut hash = Sha384::new();
    for part in authenticode_parts(file)? {
        hash.update(part);
    }
    Ok(Measurement::from_bytes(hash.finalize().into()))
}

/// The parts of a PE file that its Authenticode hash is of, in order: everything but the checksum,
/// the place of the certificates and the certificates (Windows Authenticode Portable Executable
/// Signature Format, "Calculating the PE Image Hash"). As in edk2, the end is not padded.
///
/// # Errors
/// If the file is no PE file.
pub fn authenticode_parts(file: &[u8]) -> Result<Vec<&[u8]>, KernelError> {
    const PE_AT: usize = 0x3c;
    /// Signature (4) and COFF header (20).
    const HEADERS: usize = 24;
    const CHECKSUM: usize = 64;
    const SIZE_OF_HEADERS: usize = 60;
    /// The fifth of the data directories, 8 bytes each.
    const CERTIFICATES: usize = 4 * 8;
    const SECTION: usize = 40;

    let short = KernelError::NotPe("it is cut off");
    let u16_at = |at: usize| -> Result<u16, KernelError> {
        let bytes = file.get(at..).and_then(|rest| rest.first_chunk());
        Ok(u16::from_le_bytes(*bytes.ok_or_else(|| short.clone())?))
    };
    let u32_at = |at: usize| -> Result<usize, KernelError> {
        let bytes = file.get(at..).and_then(|rest| rest.first_chunk());
        let value = u32::from_le_bytes(*bytes.ok_or_else(|| short.clone())?);
        usize::try_from(value).map_err(|_| short.clone())
    };
    let part = |from: usize, to: usize| file.get(from..to).ok_or_else(|| short.clone());

    if file.get(..2) != Some(b"MZ") {
        return Err(KernelError::NotPe("it does not begin with MZ"));
    }
    let pe = u32_at(PE_AT)?;
    if file.get(pe..).and_then(|rest| rest.first_chunk()) != Some(b"PE\0\0") {
        return Err(KernelError::NotPe("it has no PE signature"));
    }
    let at = |base: usize, offset: usize| base.saturating_add(offset);
    let count = u16_at(at(pe, 6))?;
    if count > MAX_PE_SECTIONS {
        return Err(KernelError::NotPe("it has too many sections"));
    }
    let optional = at(pe, HEADERS);
    let optional_length = usize::from(u16_at(at(pe, 20))?);
    let directories = match u16_at(optional)? {
        0x10b => 96,
        0x20b => 112,
        _ => {
            return Err(KernelError::NotPe(
                "its optional header is of no known kind",
            ));
        }
    };
    let checksum = at(optional, CHECKSUM);
    let headers = u32_at(at(optional, SIZE_OF_HEADERS))?;
    let directory_count = u32_at(at(optional, directories).saturating_sub(4))?;
    let certificates = at(optional, at(directories, CERTIFICATES));
    let mut parts = vec![part(0, checksum)?];
    let after_checksum = at(checksum, 4);
    let certificate_bytes = if directory_count > 4 {
        parts.push(part(after_checksum, certificates)?);
        parts.push(part(at(certificates, 8), headers)?);
        u32_at(at(certificates, 4))?
    } else {
        parts.push(part(after_checksum, headers)?);
        0
    };
    let mut sections = Vec::new();
    for index in 0..usize::from(count) {
        let section = at(at(optional, optional_length), index.saturating_mul(SECTION));
        let (length, start) = (u32_at(at(section, 16))?, u32_at(at(section, 20))?);
        if length > 0 {
            sections.push((start, length));
        }
    }
    sections.sort_unstable();
    let mut hashed = headers;
    for (start, length) in sections {
        parts.push(part(start, at(start, length))?);
        hashed = hashed.saturating_add(length);
    }
    let end = file.len().saturating_sub(certificate_bytes);
    if end > hashed {
        parts.push(part(hashed, end)?);
    }
    Ok(parts)
}
