//! One event: its type, and what its data says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::parse::Cursor;
use crate::Measurement;

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which RTMR was extended, 0 to 3.
    pub register: u8,
    /// What kind of thing. Not covered by the digest.
    pub kind: EventKind,
    /// What the register was extended with.
    pub digest: Measurement,
    /// What the firmware wrote beside it. Often not what the digest is of; see [`Event::binding`].
    pub data: Vec<u8>,
}

/// What the digest says about the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The digest is of all the data, so the data is genuine if the digest is.
    Data,
    /// The digest is of the value of a UEFI variable, whose name stands beside it unproven.
    Value,
    /// The digest is of something else, such as a file. The data is a label that anybody may have
    /// written.
    Label,
}

/// What an event's data says, as far as it is cheap to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A UEFI variable: `UEFI_VARIABLE_DATA`.
    Variable {
        /// Whose name it is.
        vendor: Guid,
        /// Its name, such as `SecureBoot`.
        name: String,
        /// SHA-384 of its value.
        value: Measurement,
        /// Length of its value, bytes.
        bytes: usize,
    },
    /// A part of the firmware's volume, or a table: `UEFI_PLATFORM_FIRMWARE_BLOB2` and
    /// `UEFI_HANDOFF_TABLE_POINTERS2` begin alike.
    Blob {
        /// What the firmware calls it.
        description: String,
    },
    /// An executable that was loaded: `UEFI_IMAGE_LOAD_EVENT`.
    Image {
        /// Its length in memory, bytes.
        bytes: u64,
        /// The file in its device path, empty if there is none.
        file: String,
    },
    /// A tag and a text: `TCG_PCClientTaggedEvent`. Linux uses it for initrd and command line.
    Tagged {
        /// The tag.
        tag: u32,
        /// Its text.
        text: String,
    },
    /// A text, in one or two bytes a character.
    Text(String),
    /// Anything else.
    Bytes,
}

/// A type of event, `TCG_EVENTTYPE`. Written by its name where it has one, else as `0x…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKind(pub u32);

/// TCG PC Client Platform Firmware Profile 1.06, table 27.
const NAMES: [(u32, &str); 26] = [
    (0x0000_0000, "EV_PREBOOT_CERT"),
    (0x0000_0001, "EV_POST_CODE"),
    (0x0000_0003, "EV_NO_ACTION"),
    (0x0000_0004, "EV_SEPARATOR"),
    (0x0000_0005, "EV_ACTION"),
    (0x0000_0006, "EV_EVENT_TAG"),
    (0x0000_0007, "EV_S_CRTM_CONTENTS"),
    (0x0000_0008, "EV_S_CRTM_VERSION"),
    (0x0000_0009, "EV_CPU_MICROCODE"),
    (0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, "EV_TABLE_OF_DEVICES"),
    (0x0000_000c, "EV_COMPACT_HASH"),
    (0x0000_000d, "EV_IPL"),
    (0x0000_000e, "EV_IPL_PARTITION_DATA"),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
];

impl EventKind {
    /// Not measured.
    pub const NO_ACTION: Self = Self(0x0000_0003);
    /// The end of what the firmware does before it starts the boot loader.
    pub const SEPARATOR: Self = Self(0x0000_0004);
    /// Tagged by whoever measured it: Linux's initrd and command line.
    pub const EVENT_TAG: Self = Self(0x0000_0006);
    /// In a TDX guest: ACPI tables from the host.
    pub const PLATFORM_CONFIG_FLAGS: Self = Self(0x0000_000a);
    /// By boot loaders: command lines, files.
    pub const IPL: Self = Self(0x0000_000d);
    /// `SecureBoot`, `PK`, `KEK`, `db`, `dbx`.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// `BootOrder`, `Boot####`; the digest is of the value alone.
    pub const VARIABLE_BOOT: Self = Self(0x8000_0002);
    /// A boot loader or a kernel; the digest is its Authenticode hash.
    pub const BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    /// What the firmware does, as text.
    pub const ACTION: Self = Self(0x8000_0007);
    /// In a TDX guest: the firmware's configuration volume.
    pub const FIRMWARE_BLOB2: Self = Self(0x8000_000a);
    /// In a TDX guest: the list of memory from the host, TD HOB.
    pub const HANDOFF_TABLES2: Self = Self(0x8000_000b);
    /// `BootOrder`, `Boot####`; the digest is of name and value.
    pub const VARIABLE_BOOT2: Self = Self(0x8000_000c);
    /// Which entry of `db` vouched for a boot loader.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);
}

/// Text that names no type of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of event: write a name such as EV_SEPARATOR, or 0x and its number")]
pub struct UnknownKind(String);

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => formatter.pad(name),
            None => formatter.pad(&format!("{:#x}", self.0)),
        }
    }
}

impl fmt::Debug for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for EventKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        if let Some((number, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return Ok(Self(*number));
        }
        text.strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A UEFI GUID as it lies in memory: the first three groups little endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// `EFI_GLOBAL_VARIABLE`: `SecureBoot`, `PK`, `KEK`, `BootOrder`.
    pub const GLOBAL_VARIABLE: Self = Self([
        0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b,
        0x8c,
    ]);
    /// `EFI_IMAGE_SECURITY_DATABASE_GUID`: `db`, `dbx`.
    pub const IMAGE_SECURITY: Self = Self([
        0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65,
        0x6f,
    ]);
}

impl fmt::Display for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, d @ ..] = self.0;
        let [d0, d1, node @ ..] = d;
        write!(
            formatter,
            "{}-{}-{}-{}-{}",
            hex::encode([a3, a2, a1, a0]),
            hex::encode([b1, b0]),
            hex::encode([c1, c0]),
            hex::encode([d0, d1]),
            hex::encode(node)
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Event {
    /// How far the digest vouches for the data.
    #[must_use]
    pub fn binding(&self) -> Binding {
        if Measurement::of(&self.data) == self.digest {
            return Binding::Data;
        }
        match self.content() {
            Content::Variable { value, .. } if value == self.digest => Binding::Value,
            _ => Binding::Label,
        }
    }

    /// What the data says. [`Content::Bytes`] if it cannot be read as its type says it should be.
    #[must_use]
    pub fn content(&self) -> Content {
        let read = match self.kind {
            EventKind::VARIABLE_DRIVER_CONFIG
            | EventKind::VARIABLE_BOOT
            | EventKind::VARIABLE_BOOT2
            | EventKind::VARIABLE_AUTHORITY => variable(&self.data),
            EventKind::FIRMWARE_BLOB2 | EventKind::HANDOFF_TABLES2 => blob(&self.data),
            EventKind::BOOT_SERVICES_APPLICATION => image(&self.data),
            EventKind::EVENT_TAG => tagged(&self.data),
            EventKind::ACTION | EventKind::IPL | EventKind::PLATFORM_CONFIG_FLAGS => {
                text(&self.data).map(Content::Text)
            }
            _ => None,
        };
        read.unwrap_or(Content::Bytes)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable { name, bytes, .. } => write!(formatter, "{name}, {bytes} bytes"),
            Self::Blob { description } => formatter.write_str(description),
            Self::Image { bytes, file } if file.is_empty() => {
                write!(formatter, "an image of {bytes} bytes")
            }
            Self::Image { bytes, file } => write!(formatter, "{file}, {bytes} bytes"),
            Self::Tagged { text, .. } | Self::Text(text) => formatter.write_str(text),
            Self::Bytes => Ok(()),
        }
    }
}

fn variable(data: &[u8]) -> Option<Content> {
    let mut cursor = Cursor::new(data);
    let vendor = Guid(cursor.array()?);
    let characters = usize::try_from(cursor.u64()?).ok()?;
    let bytes = usize::try_from(cursor.u64()?).ok()?;
    let name = utf16(cursor.take(characters.checked_mul(2)?)?)?;
    let value = cursor.take(bytes)?;
    cursor.rest().is_empty().then(|| Content::Variable {
        vendor,
        name,
        value: Measurement::of(value),
        bytes,
    })
}

fn blob(data: &[u8]) -> Option<Content> {
    let mut cursor = Cursor::new(data);
    let length = usize::from(cursor.u8()?);
    Some(Content::Blob {
        description: text(cursor.take(length)?)?,
    })
}

fn image(data: &[u8]) -> Option<Content> {
    const MEDIA: u8 = 4;
    const FILE_PATH: u8 = 4;
    const NODE_HEADER: usize = 4;
    let mut cursor = Cursor::new(data);
    cursor.u64()?; // Where it was loaded.
    let bytes = cursor.u64()?;
    cursor.u64()?; // Where it was linked to.
    let length = usize::try_from(cursor.u64()?).ok()?;
    // Device path nodes: type, subtype, length with this header, data (UEFI 2.10, section 10.3).
    let mut path = Cursor::new(cursor.take(length)?);
    let mut file = String::new();
    while !path.rest().is_empty() {
        let (kind, subtype) = (path.u8()?, path.u8()?);
        let node = usize::from(path.u16()?).checked_sub(NODE_HEADER)?;
        let node = path.take(node)?;
        if (kind, subtype) == (MEDIA, FILE_PATH) {
            file = utf16(node)?;
        }
    }
    Some(Content::Image { bytes, file })
}

fn tagged(data: &[u8]) -> Option<Content> {
    let mut cursor = Cursor::new(data);
    let tag = cursor.u32()?;
    let length = usize::try_from(cursor.u32()?).ok()?;
    Some(Content::Tagged {
        tag,
        text: text(cursor.take(length)?)?,
    })
}

/// Text as firmware and boot loaders write it: one byte a character, or UTF-16, ended by a NUL or
/// not.
fn text(data: &[u8]) -> Option<String> {
    let wide = data.len() >= 2
        && data.len().is_multiple_of(2)
        && data.iter().skip(1).step_by(2).all(|byte| *byte == 0);
    if wide {
        utf16(data)
    } else {
        printable(std::str::from_utf8(data).ok()?)
    }
}

fn utf16(data: &[u8]) -> Option<String> {
    let (pairs, []) = data.as_chunks::<2>() else {
        return None;
    };
    let text = char::decode_utf16(pairs.iter().map(|pair| u16::from_le_bytes(*pair)))
        .collect::<Result<String, _>>()
        .ok()?;
    printable(&text)
}

/// Without the NUL at the end. `None` if it has control characters, which would reach a terminal.
fn printable(text: &str) -> Option<String> {
    let text = text.trim_end_matches('\0');
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}
