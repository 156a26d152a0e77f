//! Golden measurements, pinned: what NVIDIA published for drivers and VBIOS versions, as one file.
//!
//! `cocoon gpu rims` makes the manifest from RIM files whose signatures it checked ([`super::rim`]); a
//! release pins it. So a node needs no XML, no RIM service and no network, and a RIM that NVIDIA
//! changes afterwards changes nothing until somebody imports it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cocoon_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::time;
use crate::Measurement;

/// The only version of the format.
pub const MANIFEST_VERSION: u32 = 1;
/// Most bytes of a manifest as a file.
pub const MAX_MANIFEST_BYTES: usize = 8 * 1024 * 1024;
/// Most RIM files in a manifest.
pub const MAX_RIMS: usize = 512;
/// Most values that are right for one index.
pub const MAX_ALTERNATIVES: usize = 16;
/// Highest index. NVIDIA has 0 to 63; a report counts from 1, so 254 is the last that has a block.
pub const MAX_INDEX: u8 = 254;
/// Longest text of a field.
const MAX_TEXT: usize = 256;

/// What a RIM file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RimKind {
    /// The driver, and the firmware that it loads.
    Driver,
    /// What is in the board's flash memory.
    Vbios,
}

impl fmt::Display for RimKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Driver => "driver",
            Self::Vbios => "VBIOS",
        })
    }
}

/// The certificate whose key signed a RIM file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RimSigner {
    /// Its subject, RFC 4514.
    pub subject: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// First second in which it and its issuers are in force.
    #[serde(with = "time")]
    pub valid_from: u64,
    /// Last second in which it and its issuers are in force.
    #[serde(with = "time")]
    pub valid_until: u64,
}

/// The values that are right for one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Index in the RIM file, from 0. The report's block has the next number.
    pub index: u8,
    /// Any of these.
    pub digests: Vec<Measurement>,
}

/// One RIM file, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRim {
    /// Driver or VBIOS.
    pub kind: RimKind,
    /// The chip, such as GH100.
    pub product: String,
    /// Version of the driver or VBIOS.
    pub version: String,
    /// Name of the file that it was imported from.
    pub file: String,
    /// SHA-256 of that file.
    pub sha256: Digest,
    /// The tag's own name (`tagId`).
    pub tag_id: String,
    /// When it was imported and its signature checked.
    #[serde(with = "time")]
    pub imported_at: u64,
    /// Whether the signer's certificate, or one above it, had expired by then. A RIM file carries no
    /// time of signing, so nothing shows that it was signed before.
    pub signer_expired_at_import: bool,
    /// Who signed it.
    pub signer: RimSigner,
    /// The indices that are compared ("active"), in order.
    pub measurements: Vec<Golden>,
}

/// A manifest that means something: bounded, in order, and without contradictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct GpuManifest {
    rims: Vec<GoldenRim>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default, rename = "rim")]
    rims: Vec<GoldenRim>,
}

/// Why RIM files make no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// From another release.
    #[error("the manifest has version {0}; this program reads {MANIFEST_VERSION}")]
    Version(u32),
    /// More than is looked at.
    #[error("a manifest has at most {MAX_RIMS} RIM files, this has {0}")]
    TooManyRims(usize),
    /// Two files say different things of the same.
    #[error("{first} and {second} contradict each other on {kind} {version} of {product}")]
    Contradiction {
        /// Driver or VBIOS.
        kind: RimKind,
        /// The chip.
        product: String,
        /// The version.
        version: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A file that is not in order.
    #[error("{file}: {what}")]
    Rim {
        /// Which file.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl TryFrom<File> for GpuManifest {
    type Error = ManifestError;

    fn try_from(file: File) -> Result<Self, ManifestError> {
        if file.version != MANIFEST_VERSION {
            return Err(ManifestError::Version(file.version));
        }
        Self::new(file.rims)
    }
}

impl From<GpuManifest> for File {
    fn from(manifest: GpuManifest) -> Self {
        Self {
            version: MANIFEST_VERSION,
            rims: manifest.rims,
        }
    }
}

impl GpuManifest {
    /// Puts RIM files in order. Of two that say the same of the same version, the one whose signer is
    /// valid for longer stays.
    ///
    /// # Errors
    /// What is out of bounds or contradictory.
    pub fn new(rims: Vec<GoldenRim>) -> Result<Self, ManifestError> {
        if rims.len() > MAX_RIMS {
            return Err(ManifestError::TooManyRims(rims.len()));
        }
        let mut known: BTreeMap<(RimKind, String, String), GoldenRim> = BTreeMap::new();
        for rim in rims {
            check(&rim)?;
            let key = (rim.kind, rim.product.clone(), rim.version.clone());
            match known.get(&key) {
                Some(other) if other.measurements != rim.measurements => {
                    return Err(ManifestError::Contradiction {
                        kind: rim.kind,
                        product: rim.product,
                        version: rim.version,
                        first: other.file.clone(),
                        second: rim.file,
                    });
                }
                Some(other) if other.signer.valid_until >= rim.signer.valid_until => {}
                _ => {
                    known.insert(key, rim);
                }
            }
        }
        Ok(Self {
            rims: known.into_values().collect(),
        })
    }

    /// All, by kind, chip and version.
    #[must_use]
    pub fn rims(&self) -> &[GoldenRim] {
        &self.rims
    }

    /// The one for a version.
    #[must_use]
    pub fn find(&self, kind: RimKind, product: &str, version: &str) -> Option<&GoldenRim> {
        self.rims.iter().find(|rim| {
            rim.kind == kind
                && rim.product.eq_ignore_ascii_case(product)
                && rim.version.eq_ignore_ascii_case(version)
        })
    }

    /// Versions that it knows for a chip.
    pub fn versions(&self, kind: RimKind, product: &str) -> impl Iterator<Item = &str> {
        self.rims
            .iter()
            .filter(move |rim| rim.kind == kind && rim.product.eq_ignore_ascii_case(product))
            .map(|rim| rim.version.as_str())
    }
}

fn check(rim: &GoldenRim) -> Result<(), ManifestError> {
    let wrong = |what| {
        Err(ManifestError::Rim {
            file: rim.file.chars().take(MAX_TEXT).collect(),
            what,
        })
    };
    let texts = [
        &rim.product,
        &rim.version,
        &rim.file,
        &rim.tag_id,
        &rim.signer.subject,
        &rim.signer.serial,
    ];
    if texts
        .iter()
        .any(|text| text.len() > MAX_TEXT || text.chars().any(char::is_control))
    {
        return wrong("a text is too long or has control characters");
    }
    if rim.product.is_empty() || rim.version.is_empty() {
        return wrong("product or version is missing");
    }
    if rim.measurements.is_empty() {
        return wrong("nothing in it is active, so it would match every report");
    }
    let indices: BTreeSet<_> = rim.measurements.iter().map(|golden| golden.index).collect();
    if indices.len() != rim.measurements.len() {
        return wrong("an index comes twice");
    }
    if indices.last().is_some_and(|last| *last > MAX_INDEX) {
        return wrong("an index is higher than a report can have");
    }
    if !rim.measurements.is_sorted_by_key(|golden| golden.index) {
        return wrong("the indices are not in order");
    }
    if rim
        .measurements
        .iter()
        .any(|golden| golden.digests.is_empty() || golden.digests.len() > MAX_ALTERNATIVES)
    {
        return wrong("an index has no value or too many");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn rim(kind: RimKind, version: &str, file: &str) -> GoldenRim {
        GoldenRim {
            kind,
            product: "GH100".to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            sha256: Digest::sha256(file.as_bytes()),
            tag_id: "tag".to_owned(),
            imported_at: 1_763_000_000,
            signer_expired_at_import: true,
            signer: RimSigner {
                subject: "CN=HCC RIM L4 Signer".to_owned(),
                serial: "01".to_owned(),
                valid_from: 1_687_000_000,
                valid_until: 1_750_000_000,
            },
            measurements: vec![
                Golden {
                    index: 0,
                    digests: vec![Measurement::of(b"a"), Measurement::of(b"b")],
                },
                Golden {
                    index: 35,
                    digests: vec![Measurement::of(b"c")],
                },
            ],
        }
    }

    #[test]
    fn a_manifest_survives_toml_and_json() {
        let manifest = GpuManifest::new(vec![
            rim(RimKind::Vbios, "96.00.9F.00.01", "v"),
            rim(RimKind::Driver, "550.90.07", "d"),
        ])
        .unwrap();
        let text = toml::to_string(&manifest).unwrap();
        assert!(text.contains("valid_until = \"2025-06-15T"), "{text}");
        assert_eq!(toml::from_str::<GpuManifest>(&text).unwrap(), manifest);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(
            serde_json::from_str::<GpuManifest>(&json).unwrap(),
            manifest
        );
        assert_eq!(manifest.rims()[0].kind, RimKind::Driver);
    }

    #[test]
    fn a_version_is_found_whatever_the_case_of_its_letters() {
        let manifest = GpuManifest::new(vec![rim(RimKind::Vbios, "96.00.9f.00.01", "v")]).unwrap();
        assert!(
            manifest
                .find(RimKind::Vbios, "gh100", "96.00.9F.00.01")
                .is_some()
        );
        assert!(
            manifest
                .find(RimKind::Driver, "GH100", "96.00.9F.00.01")
                .is_none()
        );
        assert!(
            manifest
                .find(RimKind::Vbios, "GB100", "96.00.9F.00.01")
                .is_none()
        );
    }

    #[test]
    fn two_files_that_agree_become_one_and_two_that_do_not_are_refused() {
        let mut later = rim(RimKind::Driver, "1.2", "later");
        later.signer.valid_until += 1;
        let manifest =
            GpuManifest::new(vec![rim(RimKind::Driver, "1.2", "first"), later.clone()]).unwrap();
        assert_eq!(manifest.rims(), [later.clone()]);
        later.measurements[0].digests.pop();
        assert!(matches!(
            GpuManifest::new(vec![rim(RimKind::Driver, "1.2", "first"), later]),
            Err(ManifestError::Contradiction { .. })
        ));
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        for change in [
            (|rim: &mut GoldenRim| rim.measurements.clear()) as fn(&mut GoldenRim),
            |rim| rim.measurements[1].index = 0,
            |rim| rim.measurements[1].index = 255,
            |rim| rim.measurements.reverse(),
            |rim| rim.measurements[0].digests.clear(),
            |rim| rim.measurements[0].digests = vec![Measurement::ZERO; MAX_ALTERNATIVES + 1],
            |rim| rim.version.clear(),
            |rim| rim.file = "a\u{1b}[2Jb".to_owned(),
            |rim| rim.tag_id = "x".repeat(MAX_TEXT + 1),
        ] {
            let mut bad = rim(RimKind::Driver, "1.2", "f");
            change(&mut bad);
            assert!(matches!(
                GpuManifest::new(vec![bad]),
                Err(ManifestError::Rim { .. })
            ));
        }
    }

    #[test]
    fn another_version_or_an_unknown_field_is_refused() {
        assert!(toml::from_str::<GpuManifest>("version = 1").is_ok());
        assert!(toml::from_str::<GpuManifest>("version = 2").is_err());
        assert!(toml::from_str::<GpuManifest>("version = 1\nrims = []").is_err());
    }

    #[test]
    fn any_text_may_come_as_a_manifest() {
        bolero::check!()
            .with_iterations(1_000)
            .for_each(|bytes: &[u8]| {
                let _ = toml::from_str::<GpuManifest>(&String::from_utf8_lossy(bytes));
            });
    }
}
