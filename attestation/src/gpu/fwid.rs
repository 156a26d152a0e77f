//! The firmware identity in the certificate of a report's key.
//!
//! The GPU's boot ROM issues a key per firmware (DICE) and writes into the certificate which firmware
//! it was made for. The report names the firmware too (opaque field 20), and both must agree.
//!
//! - Hopper, extension 2.23.133.5.4.1: a "composite device id" as in Microsoft's RIoT, `SEQUENCE
//!   { version INTEGER, key SubjectPublicKeyInfo, fwid FWID }`. NVIDIA's own verifier takes "the last
//!   48 bytes"; here the structure is decoded, and the last 48 bytes are what it ends in.
//! - Blackwell, extension 2.23.133.5.4.1.1 (and .5.4.1, where TCG has it): `DiceTcbInfo` of the TCG
//!   DICE Attestation Architecture 1.1, section 6.1.1. Its list has several entries; the first counts,
//!   as in NVIDIA's verifier.

use der::asn1::{BitString, Int, ObjectIdentifier, OctetString, Utf8StringRef};
use der::{Decode as _, Sequence};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::certificate::Certificate;

/// Bytes of a firmware identity: SHA-384.
pub const FWID_BYTES: usize = 48;
/// Most identities in one certificate.
pub const MAX_FWIDS: usize = 16;

/// tcg-dice-TcbInfo; on Hopper a composite device id.
const TCB_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
/// Where Blackwell has it.
const TCB_INFO_BLACKWELL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
/// OperationalFlags: the firmware can be debugged.
const FLAG_DEBUG: usize = 3;
const TAG_INTEGER: u8 = 0x02;

/// Why a certificate has no firmware identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwidError {
    /// No such extension.
    #[error("the certificate has no DICE extension (2.23.133.5.4.1)")]
    Missing,
    /// Two of them.
    #[error("the certificate has more than one DICE extension")]
    Several,
    /// Neither of the two structures.
    #[error("the DICE extension does not decode: {0}")]
    Malformed(der::Error),
    /// A structure without identities.
    #[error("the DICE extension names no firmware")]
    Empty,
    /// More than is looked at.
    #[error("the DICE extension names {0} firmwares, at most {MAX_FWIDS} are looked at")]
    TooMany(usize),
    /// Another hash.
    #[error("the firmware is named by {0}, not by SHA-384")]
    OtherHash(ObjectIdentifier),
    /// A hash of another length.
    #[error("the firmware's SHA-384 has {0} bytes")]
    Length(usize),
}

/// What a certificate says of the firmware that its key was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Its identity, SHA-384.
    pub fwid: [u8; FWID_BYTES],
    /// Maker, if named.
    pub vendor: Option<String>,
    /// Model, if named.
    pub model: Option<String>,
    /// Whether it says that it can be debugged; none if it says nothing.
    pub debug: Option<bool>,
}

/// `FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }`
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Fwid {
    algorithm: ObjectIdentifier,
    digest: OctetString,
}

/// RIoT's `CompositeDeviceID`.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct CompositeDeviceId {
    version: u8,
    key: SubjectPublicKeyInfoOwned,
    fwid: Fwid,
}

/// TCG's `DiceTcbInfo`, every field optional and implicitly tagged.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
#[asn1(tag_mode = "IMPLICIT")]
struct TcbInfo<'a> {
    #[asn1(context_specific = "0", optional = "true")]
    vendor: Option<Utf8StringRef<'a>>,
    #[asn1(context_specific = "1", optional = "true")]
    model: Option<Utf8StringRef<'a>>,
    #[asn1(context_specific = "2", optional = "true")]
    version: Option<Utf8StringRef<'a>>,
    #[asn1(context_specific = "3", optional = "true")]
    svn: Option<Int>,
    #[asn1(context_specific = "4", optional = "true")]
    layer: Option<Int>,
    #[asn1(context_specific = "5", optional = "true")]
    index: Option<Int>,
    #[asn1(context_specific = "6", optional = "true", constructed = "true")]
    fwids: Option<Vec<Fwid>>,
    #[asn1(context_specific = "7", optional = "true")]
    flags: Option<BitString>,
    #[asn1(context_specific = "8", optional = "true")]
    vendor_info: Option<OctetString>,
    #[asn1(context_specific = "9", optional = "true")]
    kind: Option<OctetString>,
    #[asn1(context_specific = "10", optional = "true")]
    flags_mask: Option<BitString>,
}

/// Reads the firmware identity of a certificate.
///
/// # Errors
/// Why there is none.
pub fn firmware(certificate: &Certificate) -> Result<Firmware, FwidError> {
    let mut found = certificate
        .parsed
        .tbs_certificate()
        .extensions()
        .into_iter()
        .flatten()
        .filter(|extension| [TCB_INFO, TCB_INFO_BLACKWELL].contains(&extension.extn_id));
    let extension = found.next().ok_or(FwidError::Missing)?;
    if found.next().is_some() {
        return Err(FwidError::Several);
    }
    decode(extension.extn_value.as_bytes())
}

/// Decodes the content of the extension.
///
/// # Errors
/// Why it is neither of the two structures.
pub fn decode(content: &[u8]) -> Result<Firmware, FwidError> {
    // The first field of the outer SEQUENCE tells the two apart: a version, or a tagged field.
    let first = der::asn1::AnyRef::from_der(content)
        .map_err(FwidError::Malformed)?
        .value()
        .first()
        .copied();
    if first == Some(TAG_INTEGER) {
        let id = CompositeDeviceId::from_der(content).map_err(FwidError::Malformed)?;
        return Ok(Firmware {
            fwid: digest(&id.fwid)?,
            vendor: None,
            model: None,
            debug: None,
        });
    }
    let info = TcbInfo::from_der(content).map_err(FwidError::Malformed)?;
    let fwids = info.fwids.unwrap_or_default();
    if fwids.len() > MAX_FWIDS {
        return Err(FwidError::TooMany(fwids.len()));
    }
    let text = |field: Option<Utf8StringRef<'_>>| field.map(|text| text.as_str().to_owned());
    Ok(Firmware {
        fwid: digest(fwids.first().ok_or(FwidError::Empty)?)?,
        vendor: text(info.vendor),
        model: text(info.model),
        debug: info
            .flags
            .map(|flags| flags.bits().nth(FLAG_DEBUG).unwrap_or(false)),
    })
}

fn digest(fwid: &Fwid) -> Result<[u8; FWID_BYTES], FwidError> {
    if fwid.algorithm != SHA384 {
        return Err(FwidError::OtherHash(fwid.algorithm));
    }
    let bytes = fwid.digest.as_bytes();
    bytes.try_into().map_err(|_| FwidError::Length(bytes.len()))
}
