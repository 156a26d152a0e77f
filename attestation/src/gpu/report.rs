//! A GPU's report: one SPDM 1.1 measurement exchange, request and signed response.
//!
//! ```text
//! request    11 e0 | param1: signature asked | param2: which blocks | nonce, 32 | slot
//! response   11 60 | param1 | param2 | number of blocks | length of record, 3 | record
//!            | nonce, 32 | length of opaque data, 2 | opaque data | signature, 96
//! block      index | 01: DMTF | length, 2 | type of value | length, 2 | value
//! opaque     type, 2 | length, 2 | value, and again
//! ```
//!
//! Integers are little-endian. The signature is ECDSA with P-384 and SHA-384, `r ‖ s`, over all that
//! precedes it, the request included. Layout: DMTF DSP0274 1.1, sections 10.11.1 and 10.11.2; the
//! opaque data's types are NVIDIA's, from its open verifier (`nv-local-gpu-verifier`).
//!
//! Every byte has one meaning: what is left over, doubled or cut short is an error.

use std::collections::BTreeMap;
use std::fmt;

use cocoon_protocol::gpu::MAX_GPU_REPORT_BYTES;
use serde::{Deserialize, Serialize};

use super::certificate::Certificate;

/// Most fields of the opaque data. NVIDIA names 32 types.
pub const MAX_OPAQUE_FIELDS: usize = 64;
/// Bytes of the signature.
const SIGNATURE_BYTES: usize = 96;
/// Version 1.1, in both messages.
const SPDM_VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// Bit of the request's first parameter: sign the response.
const SIGNATURE_REQUESTED: u8 = 1;
/// The request's second parameter: every block.
const ALL_BLOCKS: u8 = 0xff;
/// The only measurement specification there is.
const DMTF: u8 = 1;
/// What an NVIDIA flag of one byte says.
const ENABLED: u8 = 0xaa;
const DISABLED: u8 = 0x55;

/// Why bytes are no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// More than is looked at.
    #[error("a report has at most {MAX_GPU_REPORT_BYTES} bytes, this has {0}")]
    TooLarge(usize),
    /// Ends early.
    #[error("the report ends within {0}")]
    CutShort(&'static str),
    /// Goes on after its end.
    #[error("{bytes} bytes follow after {after}")]
    LeftOver {
        /// After what.
        after: &'static str,
        /// How many.
        bytes: usize,
    },
    /// A byte that can have one value has another.
    #[error("{what} is {seen:#04x}, not {wanted:#04x}")]
    Unexpected {
        /// Which byte.
        what: &'static str,
        /// What it is.
        seen: u8,
        /// What it must be.
        wanted: u8,
    },
    /// Two lengths of one block contradict each other.
    #[error("block {0} holds a value of another length than it says")]
    BlockLength(u8),
    /// Twice the same block.
    #[error("block {0} comes twice")]
    BlockTwice(u8),
    /// Twice the same opaque field.
    #[error("the opaque field {0} comes twice")]
    FieldTwice(u16),
    /// Too many opaque fields.
    #[error("there are more than {MAX_OPAQUE_FIELDS} opaque fields")]
    TooManyFields,
}

/// NVIDIA's types of opaque data that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opaque {
    /// Version of the driver, text.
    DriverVersion,
    /// Version of the VBIOS, see [`Report::vbios_version`].
    VbiosVersion,
    /// Whether the first video decoder is on.
    Nvdec0,
    /// Product number of the chip, text.
    ChipSku,
    /// The board, text.
    Project,
    /// Product number of the board, text.
    ProjectSku,
    /// Identity of the firmware that holds the signing key.
    Fwid,
    /// Whether protected PCIe is on; older than [`Opaque::FeatureFlag`].
    ProtectedPcie,
    /// Version of the opaque data. From 1 on it has [`Opaque::FeatureFlag`].
    DataVersion,
    /// Name of the chip, text; Blackwell and later.
    ChipInfo,
    /// The mode, see [`GpuMode`].
    FeatureFlag,
}

impl Opaque {
    /// NVIDIA's number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::DriverVersion => 3,
            Self::VbiosVersion => 6,
            Self::Nvdec0 => 11,
            Self::ChipSku => 15,
            Self::Project => 17,
            Self::ProjectSku => 18,
            Self::Fwid => 20,
            Self::ProtectedPcie => 21,
            Self::DataVersion => 34,
            Self::ChipInfo => 35,
            Self::FeatureFlag => 36,
        }
    }
}

/// How GPUs of a confidential guest work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuMode {
    /// One GPU, passed through alone ("SPT").
    Spt,
    /// Several GPUs, with their links encrypted ("MPT").
    Mpt,
    /// All GPUs and switches of a machine, with the links between them in the clear ("protected PCIe").
    Ppcie,
}

impl fmt::Display for GpuMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Spt => "SPT",
            Self::Mpt => "MPT",
            Self::Ppcie => "PPCIE",
        })
    }
}

/// What a flag of one byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
    /// The report has no such field.
    Absent,
    /// Neither.
    Unknown,
}

/// A report, taken apart. Nothing here is checked yet.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The nonce that was asked for, 32 bytes.
    pub nonce: [u8; 32],
    /// What the signature is over.
    pub signed: &'a [u8],
    /// `r ‖ s`.
    pub signature: &'a [u8],
    /// Values by block index; NVIDIA counts from 1 to 64, 48 bytes each.
    pub measurements: BTreeMap<u8, &'a [u8]>,
    opaque: BTreeMap<u16, &'a [u8]>,
}

/// Bytes not yet read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], ReportError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ReportError::CutShort(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, ReportError> {
        self.take(1, what)
            .map(|taken| taken.first().copied().unwrap_or_default())
    }

    /// A byte that can have one value only.
    fn expect(&mut self, wanted: u8, what: &'static str) -> Result<(), ReportError> {
        match self.byte(what)? {
            seen if seen == wanted => Ok(()),
            seen => Err(ReportError::Unexpected { what, seen, wanted }),
        }
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, ReportError> {
        let low = self.byte(what)?;
        Ok(u16::from_le_bytes([low, self.byte(what)?]))
    }

    const fn end(&self, after: &'static str) -> Result<(), ReportError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(ReportError::LeftOver { after, bytes }),
        }
    }
}

impl<'a> Report<'a> {
    /// Takes a report apart.
    ///
    /// # Errors
    /// Why the bytes are none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_GPU_REPORT_BYTES {
            return Err(ReportError::TooLarge(bytes.len()));
        }
        let mut rest = Rest(bytes);
        rest.expect(SPDM_VERSION, "the request's version")?;
        rest.expect(GET_MEASUREMENTS, "the request's code")?;
        rest.expect(SIGNATURE_REQUESTED, "the request's first parameter")?;
        rest.expect(ALL_BLOCKS, "the request's second parameter")?;
        let mut nonce = [0; 32];
        nonce.copy_from_slice(rest.take(32, "the request's nonce")?);
        rest.byte("the request's slot")?;

        rest.expect(SPDM_VERSION, "the response's version")?;
        rest.expect(MEASUREMENTS, "the response's code")?;
        rest.take(2, "the response's parameters")?;
        let blocks = rest.byte("the number of blocks")?;
        let length = usize::from(rest.u16("the length of the record")?)
            | usize::from(rest.byte("the length of the record")?) << 16;
        let measurements = measurements(rest.take(length, "the measurement record")?, blocks)?;
        rest.take(32, "the response's nonce")?;
        let length = usize::from(rest.u16("the length of the opaque data")?);
        let opaque = opaque(rest.take(length, "the opaque data")?)?;
        let signed = bytes
            .len()
            .checked_sub(rest.0.len())
            .and_then(|end| bytes.get(..end))
            .ok_or(ReportError::CutShort("the report"))?;
        let signature = rest.take(SIGNATURE_BYTES, "the signature")?;
        rest.end("the signature")?;
        Ok(Self {
            nonce,
            signed,
            signature,
            measurements,
            opaque,
        })
    }

    /// Whether the key of this certificate signed it.
    #[must_use]
    pub fn is_signed_by(&self, certificate: &Certificate) -> bool {
        certificate.verifies_fixed(self.signed, self.signature)
    }

    /// A field of the opaque data.
    #[must_use]
    pub fn opaque(&self, field: Opaque) -> Option<&'a [u8]> {
        self.opaque.get(&field.number()).copied()
    }

    /// Numbers and lengths of all opaque fields.
    pub fn opaque_fields(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.opaque.iter().map(|(number, value)| (*number, *value))
    }

    /// A field of text: printable ASCII, then zeros.
    #[must_use]
    pub fn text(&self, field: Opaque) -> Option<&'a str> {
        let value = self.opaque(field)?;
        let end = value.iter().position(|byte| *byte == 0);
        let (text, padding) = value.split_at_checked(end.unwrap_or(value.len()))?;
        let fits = !text.is_empty()
            && text.iter().all(u8::is_ascii_graphic)
            && padding.iter().all(|byte| *byte == 0);
        if fits {
            std::str::from_utf8(text).ok()
        } else {
            None
        }
    }

    /// As the driver and RIM files write it, `96.00.9F.00.01`: four bytes of a little-endian integer
    /// and the revision of the maker, which is the fifth byte.
    #[must_use]
    pub fn vbios_version(&self) -> Option<String> {
        let [fourth, third, second, first, revision, 0, 0, 0] =
            self.opaque(Opaque::VbiosVersion)?
        else {
            return None;
        };
        Some(format!(
            "{first:02X}.{second:02X}.{third:02X}.{fourth:02X}.{revision:02X}"
        ))
    }

    /// What a flag of one byte says.
    #[must_use]
    pub fn switch(&self, field: Opaque) -> Switch {
        match self.opaque(field) {
            None => Switch::Absent,
            Some([ENABLED]) => Switch::On,
            Some([DISABLED]) => Switch::Off,
            Some(_) => Switch::Unknown,
        }
    }

    /// Whether the opaque data is of a version that has the feature flag.
    #[must_use]
    pub fn has_feature_flag(&self) -> bool {
        self.opaque(Opaque::FeatureFlag).is_some()
            || self
                .opaque(Opaque::DataVersion)
                .is_some_and(|version| version.iter().any(|byte| *byte != 0))
    }

    /// The mode, if the report has a known one.
    #[must_use]
    pub fn mode(&self) -> Option<GpuMode> {
        let (first, rest) = self.opaque(Opaque::FeatureFlag)?.split_first()?;
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        match first {
            0 => Some(GpuMode::Spt),
            1 => Some(GpuMode::Mpt),
            2 => Some(GpuMode::Ppcie),
            _ => None,
        }
    }
}

fn measurements(record: &[u8], blocks: u8) -> Result<BTreeMap<u8, &[u8]>, ReportError> {
    let mut rest = Rest(record);
    let mut values = BTreeMap::new();
    for _ in 0..blocks {
        let index = rest.byte("a block's index")?;
        rest.expect(DMTF, "a block's specification")?;
        let length = usize::from(rest.u16("a block's length")?);
        let mut block = Rest(rest.take(length, "a block")?);
        block.byte("a value's type")?;
        let length = usize::from(block.u16("a value's length")?);
        let value = block
            .take(length, "a value")
            .map_err(|_| ReportError::BlockLength(index))?;
        block
            .end("a value")
            .map_err(|_| ReportError::BlockLength(index))?;
        if values.insert(index, value).is_some() {
            return Err(ReportError::BlockTwice(index));
        }
    }
    rest.end("the last block")?;
    Ok(values)
}

fn opaque(data: &[u8]) -> Result<BTreeMap<u16, &[u8]>, ReportError> {
    let mut rest = Rest(data);
    let mut fields = BTreeMap::new();
    while !rest.0.is_empty() {
        if fields.len() == MAX_OPAQUE_FIELDS {
            return Err(ReportError::TooManyFields);
        }
        let number = rest.u16("an opaque field's type")?;
        let length = usize::from(rest.u16("an opaque field's length")?);
        let value = rest.take(length, "an opaque field")?;
        if fields.insert(number, value).is_some() {
            return Err(ReportError::FieldTwice(number));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn block(index: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        [
            &[index, DMTF][..],
            &(length + 3).to_le_bytes(),
            &[1],
            &length.to_le_bytes(),
            value,
        ]
        .concat()
    }

    fn field(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        [&number.to_le_bytes()[..], &length.to_le_bytes(), value].concat()
    }

    fn report(blocks: &[Vec<u8>], fields: &[Vec<u8>]) -> Vec<u8> {
        let (record, opaque) = (blocks.concat(), fields.concat());
        let mut bytes = vec![0x11, 0xe0, 1, 0xff];
        bytes.extend([7; 32]);
        bytes.extend([0, 0x11, 0x60, 0, 0, u8::try_from(blocks.len()).unwrap()]);
        bytes.extend(&u32::try_from(record.len()).unwrap().to_le_bytes()[..3]);
        bytes.extend(record);
        bytes.extend([8; 32]);
        bytes.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        bytes.extend(opaque);
        bytes.extend([9; SIGNATURE_BYTES]);
        bytes
    }

    fn small() -> Vec<u8> {
        report(
            &[block(1, &[1; 48]), block(2, &[2; 48])],
            &[field(3, b"550.90.07\0"), field(36, &[2, 0])],
        )
    }

    fn refused(bytes: &[u8]) -> ReportError {
        Report::parse(bytes).unwrap_err()
    }

    #[test]
    fn a_report_is_taken_apart() {
        let bytes = small();
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.nonce, [7; 32]);
        assert_eq!(report.signed.len() + SIGNATURE_BYTES, bytes.len());
        assert_eq!(report.signature, [9; SIGNATURE_BYTES]);
        assert_eq!(report.measurements[&2], [2; 48]);
        assert_eq!(report.text(Opaque::DriverVersion), Some("550.90.07"));
        assert_eq!(report.mode(), Some(GpuMode::Ppcie));
    }

    #[test]
    fn a_report_that_is_cut_anywhere_or_goes_on_is_refused() {
        let bytes = small();
        for end in 0..bytes.len() {
            assert!(
                matches!(refused(&bytes[..end]), ReportError::CutShort(_)),
                "cut at {end}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(
            refused(&longer),
            ReportError::LeftOver { bytes: 1, .. }
        ));
        assert_eq!(
            refused(&vec![0x11; MAX_GPU_REPORT_BYTES + 1]),
            ReportError::TooLarge(MAX_GPU_REPORT_BYTES + 1)
        );
    }

    #[test]
    fn every_fixed_byte_is_checked() {
        // Version, code and parameters of the request; version and code of the response; a block's
        // specification.
        for at in [0, 1, 2, 3, 37, 38, 46] {
            let mut bytes = small();
            bytes[at] ^= 0x40;
            assert!(
                matches!(refused(&bytes), ReportError::Unexpected { .. }),
                "byte {at}"
            );
        }
    }

    #[test]
    fn nothing_comes_twice() {
        let twice = [block(1, &[1; 48]), block(1, &[1; 48])];
        assert_eq!(refused(&report(&twice, &[])), ReportError::BlockTwice(1));
        let twice = [field(3, b"a"), field(3, b"a")];
        assert_eq!(refused(&report(&[], &twice)), ReportError::FieldTwice(3));
    }

    #[test]
    fn lengths_agree() {
        // The number of blocks is one too low, then one too high.
        let mut bytes = small();
        bytes[41] = 1;
        assert!(matches!(refused(&bytes), ReportError::LeftOver { .. }));
        bytes[41] = 3;
        assert!(matches!(refused(&bytes), ReportError::CutShort(_)));
        // The value within the block is one byte shorter than the block.
        let mut bytes = small();
        bytes[50] -= 1;
        assert_eq!(refused(&bytes), ReportError::BlockLength(1));
    }

    #[test]
    fn there_are_not_too_many_fields() {
        let fields = |count: u16| (0..count).map(|at| field(at, b"")).collect::<Vec<_>>();
        let most = u16::try_from(MAX_OPAQUE_FIELDS).unwrap();
        assert!(Report::parse(&report(&[], &fields(most))).is_ok());
        assert_eq!(
            refused(&report(&[], &fields(most + 1))),
            ReportError::TooManyFields
        );
    }

    #[test]
    fn text_is_printable_and_padded_with_zeros() {
        for (value, text) in [
            (&b"575.32\0"[..], Some("575.32")),
            (b"575.32", Some("575.32")),
            (b"882\0\0\0", Some("882")),
            (b"", None),
            (b"\0", None),
            (b"5\x1b[2J\0", None),
            (b"5\0x", None),
            (b"5 6\0", None),
        ] {
            let bytes = report(&[], &[field(3, value)]);
            let report = Report::parse(&bytes).unwrap();
            assert_eq!(report.text(Opaque::DriverVersion), text, "{value:?}");
        }
    }

    #[test]
    fn a_vbios_version_is_a_number_and_a_revision() {
        let shown = |value: &[u8]| {
            let bytes = report(&[], &[field(6, value)]);
            Report::parse(&bytes).unwrap().vbios_version()
        };
        // NVIDIA's sample reports and the versions that its own tools print for them.
        assert_eq!(
            shown(&[0, 0x9f, 0, 0x96, 1, 0, 0, 0]).as_deref(),
            Some("96.00.9F.00.01")
        );
        assert_eq!(
            shown(&[0, 0x88, 0, 0x97, 0x0f, 0, 0, 0]).as_deref(),
            Some("97.00.88.00.0F")
        );
        assert_eq!(shown(&[0, 0x9f, 0, 0x96, 1, 1, 0, 0]), None);
        assert_eq!(shown(&[0, 0x9f, 0, 0x96, 1]), None);
    }

    #[test]
    fn modes_and_flags_are_known_or_not() {
        for (value, mode) in [
            (&[0, 0][..], Some(GpuMode::Spt)),
            (&[1], Some(GpuMode::Mpt)),
            (&[2, 0, 0, 0], Some(GpuMode::Ppcie)),
            (&[3, 0], None),
            (&[0, 1], None),
            (&[], None),
        ] {
            let bytes = report(&[], &[field(36, value)]);
            let report = Report::parse(&bytes).unwrap();
            assert_eq!(report.mode(), mode, "{value:?}");
            assert!(report.has_feature_flag());
        }
        let bytes = report(
            &[],
            &[field(34, &[1, 0]), field(11, &[0xaa]), field(21, &[0])],
        );
        let report = Report::parse(&bytes).unwrap();
        assert!(report.has_feature_flag(), "it should have one and has none");
        assert_eq!(report.switch(Opaque::Nvdec0), Switch::On);
        assert_eq!(report.switch(Opaque::ProtectedPcie), Switch::Unknown);
    }
}
