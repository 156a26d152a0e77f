//! RIM files: what NVIDIA says a driver or a VBIOS measures to, signed.
//!
//! TCG "Reference Integrity Manifest Information Model", as a SWID tag (ISO/IEC 19770-2) with an XML
//! signature. Checked on import, once, by people who make a manifest; nodes read the manifest.
//!
//! A general XML security library would bring 200 crates for one class of documents, all alike: no
//! entities, no instructions, one canonical form, one signature algorithm. [`canonical`] and
//! [`signature`] are 300 lines that do just that and refuse the rest; `roxmltree` parses.

pub mod canonical;
mod signature;

use cocoon_protocol::ids::Digest;
use roxmltree::{Document, Node, ParsingOptions};

use super::chain::ChainError;
use super::manifest::{Golden, GoldenRim, MAX_ALTERNATIVES, MAX_INDEX, RimKind, RimSigner};
use super::roots::GpuTrust;
use crate::Measurement;

/// Most bytes of a RIM file. NVIDIA's have 20 to 26 KiB.
pub const MAX_RIM_BYTES: usize = 256 * 1024;
/// Most nodes of its tree.
const MAX_NODES: u32 = 4_096;
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const SHA384: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// NVIDIA's number at IANA.
const NVIDIA: &str = "5703";
const RIM_INFORMATION_MODEL: &str = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/";

/// Why a file is no RIM that can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RimError {
    /// More than is looked at.
    #[error("a RIM file has at most {MAX_RIM_BYTES} bytes, this has {0}")]
    TooLarge(usize),
    /// Not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not XML, or with a document type.
    #[error("not XML: {0}")]
    Xml(roxmltree::Error),
    /// Something that the canonical form does not cover.
    #[error(transparent)]
    Canonical(#[from] canonical::CanonicalError),
    /// No signature.
    #[error("it is not signed")]
    Unsigned,
    /// A signature of another shape.
    #[error("{0}")]
    Shape(&'static str),
    /// The content was changed.
    #[error("its content is not what was signed")]
    Digest,
    /// The signature was not made by the key of the certificate.
    #[error("its signature does not verify")]
    Signature,
    /// The signer's certificates are no chain to NVIDIA's RIM root.
    #[error("its signer: {0}")]
    Chain(#[from] ChainError),
    /// Signed by a certificate that has expired, and that was not allowed.
    #[error("its signer: {0}; --allow-expired-signers imports it all the same, and marks it so")]
    Expired(ChainError),
    /// Not about a GPU.
    #[error("it is about {0:?}, not about a GPU")]
    NotAGpu(String),
    /// A driver and VBIOS are told apart by their version alone.
    #[error("{0:?} is the version neither of a driver nor of a VBIOS")]
    Version(String),
    /// The tag lacks something or has it twice.
    #[error("the tag is not in order: {0}")]
    Tag(&'static str),
}

/// Checks a RIM file and takes from it what a manifest needs. `now` is in seconds since 1970.
///
/// # Errors
/// Why it is none that can be trusted.
pub fn import(
    file: &str,
    bytes: &[u8],
    trust: &GpuTrust,
    now: u64,
    allow_expired_signers: bool,
) -> Result<GoldenRim, RimError> {
    if bytes.len() > MAX_RIM_BYTES {
        return Err(RimError::TooLarge(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| RimError::NotUtf8)?;
    let options = ParsingOptions {
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options).map_err(RimError::Xml)?;
    let chain = signature::check(&document)?;
    chain.links()?;
    chain.ends_in(trust.rim_root())?;
    let expired = match chain.in_force(now) {
        Ok(()) => false,
        Err(ChainError::NotInForce { expired: true, .. }) if allow_expired_signers => true,
        Err(error @ ChainError::NotInForce { expired: true, .. }) => {
            return Err(RimError::Expired(error));
        }
        Err(error) => return Err(error.into()),
    };
    let (valid_from, valid_until) = chain.validity();
    let tag = Tag::read(document.root_element())?;
    Ok(GoldenRim {
        kind: tag.kind,
        product: tag.product,
        version: tag.version,
        file: file.to_owned(),
        sha256: Digest::sha256(bytes),
        tag_id: tag.tag_id,
        imported_at: now,
        signer_expired_at_import: expired,
        signer: RimSigner {
            subject: chain.leaf().subject(),
            serial: hex::encode(chain.leaf().serial()),
            valid_from,
            valid_until,
        },
        measurements: tag.measurements,
    })
}

/// The tag itself.
struct Tag {
    kind: RimKind,
    product: String,
    version: String,
    tag_id: String,
    measurements: Vec<Golden>,
}

impl Tag {
    fn read(root: Node<'_, '_>) -> Result<Self, RimError> {
        if !root.has_tag_name((SWID, "SoftwareIdentity")) {
            return Err(RimError::Tag("it is no SWID tag"));
        }
        let meta = only(root, "Meta")?;
        let text = |name: &str| meta.attribute(name).unwrap_or_default().to_owned();
        if meta.attribute((RIM_INFORMATION_MODEL, "PlatformManufacturerId")) != Some(NVIDIA) {
            return Err(RimError::Tag("the platform is not NVIDIA's"));
        }
        if meta.attribute("edition") != Some("GPU") {
            return Err(RimError::NotAGpu(
                text("edition").chars().take(32).collect(),
            ));
        }
        let version = text("colloquialVersion");
        let kind =
            kind(&version).ok_or_else(|| RimError::Version(version.chars().take(32).collect()))?;
        Ok(Self {
            kind,
            product: text("product"),
            version: version.to_ascii_uppercase(),
            tag_id: root.attribute("tagId").unwrap_or_default().to_owned(),
            measurements: measurements(only(root, "Payload")?)?,
        })
    }
}

/// The one child of this name.
fn only<'a, 'input>(
    parent: Node<'a, 'input>,
    name: &'static str,
) -> Result<Node<'a, 'input>, RimError> {
    let mut found = parent
        .children()
        .filter(|child| child.has_tag_name((SWID, name)));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node),
        _ => Err(RimError::Tag("it has not one Meta and one Payload")),
    }
}

/// `96.00.5E.00.01` is a VBIOS, `550.90.07` a driver.
fn kind(version: &str) -> Option<RimKind> {
    let parts: Vec<_> = version.split('.').collect();
    let all = |fits: fn(&u8) -> bool| {
        parts
            .iter()
            .all(|part| !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| fits(&byte)))
    };
    if parts.len() == 5 && parts.iter().all(|part| part.len() == 2) && all(u8::is_ascii_hexdigit) {
        Some(RimKind::Vbios)
    } else if (2..=4).contains(&parts.len()) && all(u8::is_ascii_digit) {
        Some(RimKind::Driver)
    } else {
        None
    }
}

fn measurements(payload: Node<'_, '_>) -> Result<Vec<Golden>, RimError> {
    let mut all = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for resource in payload.children().filter(Node::is_element) {
        let number = |name: &str| {
            resource
                .attribute(name)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<usize>().ok())
        };
        if !resource.has_tag_name((SWID, "Resource"))
            || resource.attribute("type") != Some("Measurement")
            || number("size") != Some(48)
        {
            return Err(RimError::Tag("its payload is not of SHA-384 measurements"));
        }
        let index = number("index")
            .and_then(|index| u8::try_from(index).ok())
            .filter(|index| *index <= MAX_INDEX)
            .ok_or(RimError::Tag(
                "a measurement has no index, or too high a one",
            ))?;
        if !seen.insert(index) {
            return Err(RimError::Tag("an index comes twice"));
        }
        let alternatives = number("alternatives")
            .filter(|count| (1..=MAX_ALTERNATIVES).contains(count))
            .ok_or(RimError::Tag("a measurement has no values, or too many"))?;
        let hashes = resource
            .attributes()
            .filter(|attribute| attribute.namespace() == Some(SHA384))
            .count();
        let digests = (0..alternatives)
            .map(|alternative| {
                resource
                    .attribute((SHA384, format!("Hash{alternative}").as_str()))
                    .and_then(|text| text.parse::<Measurement>().ok())
            })
            .collect::<Option<Vec<_>>>()
            .filter(|_| hashes == alternatives)
            .ok_or(RimError::Tag(
                "a measurement has other values than it counts",
            ))?;
        match resource.attribute("active") {
            Some("True") => all.push(Golden { index, digests }),
            Some("False") => {}
            _ => return Err(RimError::Tag("a measurement is neither active nor not")),
        }
    }
    all.sort_by_key(|golden| golden.index);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_driver_and_vbios_apart() {
        assert_eq!(kind("96.00.5E.00.01"), Some(RimKind::Vbios));
        assert_eq!(kind("96.00.5e.00.01"), Some(RimKind::Vbios));
        for driver in ["545.00", "550.90.07", "535.86.10.1"] {
            assert_eq!(kind(driver), Some(RimKind::Driver));
        }
        for neither in [
            "",
            "1",
            "96.00.5E",
            "1..2",
            "1.2.3.4.5",
            "550.90.07a",
            "a.b",
        ] {
            assert_eq!(kind(neither), None, "{neither}");
        }
    }

    #[test]
    fn any_bytes_may_come_as_a_rim() {
        bolero::check!()
            .with_iterations(2_000)
            .for_each(|bytes: &[u8]| {
                assert!(import("file", bytes, &GpuTrust::Nvidia, 0, true).is_err());
            });
    }
}
