//! MRTD from a firmware file.
//!
//! A TDX firmware file says in a table near its end which parts of it go where in memory, and which
//! of them are measured ("TDVF metadata", design guide 344991, section 11). The host adds them page
//! by page. The TDX module hashes, into one SHA-384, a block of 128 bytes for each page that is
//! added (`MEM.PAGE.ADD` and its address), and for each 256 bytes that are measured another such
//! block (`MR.EXTEND` and the address) and the bytes (TDX Module Base Architecture Specification,
//! 348549, "MRTD: Build-Time Measurement Register").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::Measurement;

/// Largest firmware file that is looked at. OVMF has 2 or 4 MiB.
pub const MAX_FIRMWARE_BYTES: usize = 64 * 1024 * 1024;
/// Most sections of a firmware. OVMF has 6.
pub const MAX_SECTIONS: usize = 64;
/// Most memory that all sections may take together, bytes.
pub const MAX_SECTION_BYTES: u64 = 256 * 1024 * 1024;

const PAGE: u64 = 4096;
/// What one `TDH.MR.EXTEND` covers.
const CHUNK: usize = 256;
/// Bytes of a block that names an operation and an address.
const BLOCK: usize = 128;
/// Where the address stands in it.
const BLOCK_ADDRESS: usize = 16;

/// OVMF's table ends this many bytes before the end of the file: the reset vector is after it.
const AFTER_TABLE: usize = 32;
/// `96b582de-1fb2-45f7-baea-a366c55a082d`, the table's last entry.
const TABLE_FOOTER: [u8; 16] = [
    0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d,
];
/// `e47a6535-984a-4798-865e-4685a7bf8ec2`, the entry that says where the metadata is.
const TDX_METADATA: [u8; 16] = [
    0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2,
];
/// Each entry of the table ends with its length (2 bytes) and its GUID.
const ENTRY_END: usize = 18;

const MEASURED: u32 = 1 << 0;
const ADDED_LATER: u32 = 1 << 1;
const CONFIGURATION_VOLUME: u32 = 1;

/// In what order a host adds and measures pages. Both are in use, and each gives another MRTD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageOrder {
    /// A page is measured right after it was added: Linux 6.16 and newer (KVM), QEMU 10.1 and
    /// newer.
    #[default]
    EachPage,
    /// All pages of a section are added, then all are measured: Intel's and Canonical's kernels and
    /// QEMUs before that.
    EachSection,
}

/// Text that is no order of pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no order of pages; write each-page or each-section")]
pub struct UnknownPageOrder(String);

impl FromStr for PageOrder {
    type Err = UnknownPageOrder;

    fn from_str(text: &str) -> Result<Self, UnknownPageOrder> {
        match text {
            "each-page" => Ok(Self::EachPage),
            "each-section" => Ok(Self::EachSection),
            _ => Err(UnknownPageOrder(text.to_owned())),
        }
    }
}

impl fmt::Display for PageOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EachPage => "each-page",
            Self::EachSection => "each-section",
        })
    }
}

/// Why a file is no firmware for TDX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdvfError {
    /// Larger than any.
    #[error("{bytes} bytes, more than {MAX_FIRMWARE_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// OVMF's table is not there.
    #[error("no table of GUIDs at its end: is it OVMF, with code and variables in one file?")]
    NoTable,
    /// The table has no entry for TDX.
    #[error("it was built without TDX metadata; take OVMF 2022.11 or newer, the file for -bios")]
    NoMetadata,
    /// The metadata is not what the design guide says.
    #[error("its TDX metadata is damaged: {0}")]
    Metadata(&'static str),
    /// A section is not what the design guide says.
    #[error("section {index} of its TDX metadata {problem}")]
    Section {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A part of the firmware: `TDVF_SECTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section<'a> {
    /// Its bytes in the file; what is missing to `pages` is zeroes.
    data: &'a [u8],
    address: u64,
    pages: u64,
    kind: u32,
    attributes: u32,
}

/// A firmware file whose metadata was understood.
#[derive(Clone, Debug)]
pub struct Firmware<'a> {
    sections: Vec<Section<'a>>,
}

impl<'a> Firmware<'a> {
    /// Reads the metadata.
    ///
    /// # Errors
    /// [`TdvfError`].
    pub fn parse(file: &'a [u8]) -> Result<Self, TdvfError> {
        if file.len() > MAX_FIRMWARE_BYTES {
            return Err(TdvfError::TooLarge { bytes: file.len() });
        }
        let from_end = metadata_offset(file)?;
        let at = file
            .len()
            .checked_sub(from_end)
            .ok_or(TdvfError::Metadata("it begins before the file"))?;
        let descriptor = file.get(at..).unwrap_or_default();
        let (head, mut rest) = descriptor
            .split_first_chunk::<16>()
            .ok_or(TdvfError::Metadata("it is cut off"))?;
        let [signature, _length, version, count] = words(head);
        if signature != u32::from_le_bytes(*b"TDVF") {
            return Err(TdvfError::Metadata("its signature is another one"));
        }
        if version != 1 {
            return Err(TdvfError::Metadata("its version is not 1"));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 || count > MAX_SECTIONS {
            return Err(TdvfError::Metadata("it has no sections, or too many"));
        }
        let mut sections = Vec::new();
        let mut pages = 0_u64;
        for index in 0..count {
            let (raw, after) = rest
                .split_first_chunk::<32>()
                .ok_or(TdvfError::Metadata("it is cut off"))?;
            rest = after;
            let section =
                section(file, raw).map_err(|problem| TdvfError::Section { index, problem })?;
            pages = pages.saturating_add(section.pages);
            sections.push(section);
        }
        if pages > MAX_SECTION_BYTES / PAGE {
            return Err(TdvfError::Metadata("its sections take too much memory"));
        }
        Ok(Self { sections })
    }

    /// MRTD of a guest that is made of this firmware.
    #[must_use]
    pub fn mrtd(&self, order: PageOrder) -> Measurement {
        let mut hash = Sha384::new();
        for section in &self.sections {
            let pages = || (0..section.pages).map(|page| page.saturating_mul(PAGE));
            match order {
                PageOrder::EachPage => {
                    for offset in pages() {
                        section.add(&mut hash, offset);
                        section.measure(&mut hash, offset);
                    }
                }
                PageOrder::EachSection => {
                    pages().for_each(|offset| section.add(&mut hash, offset));
                    pages().for_each(|offset| section.measure(&mut hash, offset));
                }
            }
        }
        Measurement::from_bytes(hash.finalize().into())
    }

    /// Digest of the configuration volume (variables as shipped): the firmware measures it into
    /// RTMR0 itself, since the host may change it.
    #[must_use]
    pub fn configuration_volume(&self) -> Option<Measurement> {
        self.sections
            .iter()
            .find(|section| section.kind == CONFIGURATION_VOLUME)
            .map(|section| Measurement::of(section.data))
    }
}

impl Section<'_> {
    fn add(&self, hash: &mut Sha384, offset: u64) {
        if self.attributes & ADDED_LATER == 0 {
            hash.update(block(b"MEM.PAGE.ADD", self.address.saturating_add(offset)));
        }
    }

    fn measure(&self, hash: &mut Sha384, offset: u64) {
        if self.attributes & MEASURED == 0 {
            return;
        }
        for chunk in (0..PAGE).step_by(CHUNK) {
            let offset = offset.saturating_add(chunk);
            hash.update(block(b"MR.EXTEND", self.address.saturating_add(offset)));
            let mut bytes = [0; CHUNK];
            let data = usize::try_from(offset)
                .ok()
                .and_then(|offset| self.data.get(offset..))
                .unwrap_or_default();
            for (byte, data) in bytes.iter_mut().zip(data) {
                *byte = *data;
            }
            hash.update(bytes);
        }
    }
}

/// An operation's name and an address, as the TDX module hashes them.
fn block(operation: &[u8], address: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (byte, name) in block.iter_mut().zip(operation) {
        *byte = *name;
    }
    for (byte, address) in block
        .iter_mut()
        .skip(BLOCK_ADDRESS)
        .zip(address.to_le_bytes())
    {
        *byte = address;
    }
    block
}

/// Where the metadata begins, bytes before the end of the file.
fn metadata_offset(file: &[u8]) -> Result<usize, TdvfError> {
    let end = file
        .len()
        .checked_sub(AFTER_TABLE)
        .ok_or(TdvfError::NoTable)?;
    let mut table = file.get(..end).unwrap_or_default();
    let (footer, length, before) = entry(table).ok_or(TdvfError::NoTable)?;
    if footer != TABLE_FOOTER {
        return Err(TdvfError::NoTable);
    }
    // The footer's length is that of the whole table, with itself.
    let entries = length
        .checked_sub(ENTRY_END)
        .and_then(|entries| before.len().checked_sub(entries))
        .and_then(|start| before.get(start..))
        .ok_or(TdvfError::NoTable)?;
    table = entries;
    while !table.is_empty() {
        let (guid, length, before) = entry(table).ok_or(TdvfError::NoTable)?;
        let data = length
            .checked_sub(ENTRY_END)
            .and_then(|data| before.len().checked_sub(data))
            .and_then(|start| before.split_at_checked(start));
        let (rest, data) = data.ok_or(TdvfError::NoTable)?;
        if guid == TDX_METADATA {
            return data
                .try_into()
                .map(u32::from_le_bytes)
                .ok()
                .and_then(|offset| usize::try_from(offset).ok())
                .ok_or(TdvfError::Metadata("its place is not 4 bytes"));
        }
        table = rest;
    }
    Err(TdvfError::NoMetadata)
}

/// GUID and length of the last entry of a table, and what is before these two.
fn entry(table: &[u8]) -> Option<([u8; 16], usize, &[u8])> {
    let (before, guid) = table.split_last_chunk::<16>()?;
    let (before, length) = before.split_last_chunk::<2>()?;
    Some((*guid, usize::from(u16::from_le_bytes(*length)), before))
}

fn section<'a>(file: &'a [u8], raw: &[u8; 32]) -> Result<Section<'a>, &'static str> {
    let [
        offset,
        length,
        low,
        high,
        size_low,
        size_high,
        kind,
        attributes,
    ] = words(raw);
    let wide = |low, high| u64::from(low) | u64::from(high) << 32;
    let (address, size) = (wide(low, high), wide(size_low, size_high));
    if !address.is_multiple_of(PAGE) || !size.is_multiple_of(PAGE) {
        return Err("is not made of whole pages");
    }
    if address.checked_add(size).is_none() {
        return Err("ends beyond the address space");
    }
    if u64::from(length) > size {
        return Err("has more data than memory");
    }
    let data = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(offset, length)| file.get(offset..)?.get(..length))
        .ok_or("lies outside the file")?;
    Ok(Section {
        data,
        address,
        pages: size / PAGE,
        kind,
        attributes,
    })
}

/// Little-endian words of 4 bytes. `N` words are read from `4 * N` bytes; what is missing is 0.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (chunks, _) = bytes.as_chunks::<4>();
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}
