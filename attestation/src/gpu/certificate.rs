//! One X.509 certificate, decoded strictly: RFC 5280, a P-384 key, signed with ECDSA and SHA-384.
//!
//! The signature is checked over the bytes as they came, not over an encoding of what was understood:
//! some of NVIDIA's certificates spell dates in a way that no encoder would choose. An extension that is marked critical and not understood
//! refuses the certificate (RFC 5280, section 4.2).

use cocoon_protocol::gpu::MAX_GPU_CERTIFICATE_BYTES;
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::oid::AssociatedOid;
use der::{Decode, Encode as _, Sequence};
use ring::signature::{ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

/// Longest name that is repeated in a message. A stranger may have chosen it.
const MAX_NAME_CHARS: usize = 200;
/// id-ecPublicKey, RFC 5480.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp384r1, RFC 5480.
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// ecdsa-with-SHA384, RFC 5758.
pub(super) const ECDSA_WITH_SHA384: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// Why bytes are no certificate that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than is looked at.
    #[error("a certificate has at most {MAX_GPU_CERTIFICATE_BYTES} bytes, this has {0}")]
    TooLarge(usize),
    /// Not DER, or not a certificate.
    #[error("not a certificate: {0}")]
    Malformed(der::Error),
    /// Another kind of key.
    #[error("its key is not of the curve P-384")]
    OtherKey,
    /// Another kind of signature.
    #[error("its signature is not ECDSA with SHA-384")]
    OtherSignature,
    /// Something critical that is not understood.
    #[error("its extension {0} is critical and unknown")]
    Critical(ObjectIdentifier),
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error)
    }
}

/// A certificate as three parts, each as it came.
#[derive(Sequence)]
struct Outer<'a> {
    signed: AnyRef<'a>,
    #[allow(dead_code, reason = "compared in its decoded form")]
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

/// A certificate. That it decodes says nothing of who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    pub(super) parsed: x509_cert::Certificate,
}

impl Certificate {
    /// Decodes one.
    ///
    /// # Errors
    /// Why the bytes are none, or not of the kind that NVIDIA issues.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_GPU_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge(bytes.len()));
        }
        let parsed = x509_cert::Certificate::from_der(bytes)?;
        let outer = Outer::from_der(bytes)?;
        let signature = outer
            .signature
            .as_bytes()
            .ok_or(CertificateError::OtherSignature)?;
        let tbs = parsed.tbs_certificate();
        for algorithm in [tbs.signature(), parsed.signature_algorithm()] {
            if algorithm.oid != ECDSA_WITH_SHA384 || algorithm.parameters.is_some() {
                return Err(CertificateError::OtherSignature);
            }
        }
        let key = tbs.subject_public_key_info();
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
        if key.algorithm.oid != EC_PUBLIC_KEY || curve != Some(P384) {
            return Err(CertificateError::OtherKey);
        }
        for extension in tbs.extensions().into_iter().flatten() {
            let known = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID]
                .contains(&extension.extn_id);
            if extension.critical && !known {
                return Err(CertificateError::Critical(extension.extn_id));
            }
        }
        Ok(Self {
            der: bytes.to_vec(),
            signed: outer.signed.to_der()?,
            signature: signature.to_vec(),
            parsed,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it is about (RFC 4514), cut to 200 characters.
    #[must_use]
    pub fn subject(&self) -> String {
        shown(&self.parsed.tbs_certificate().subject().to_string())
    }

    /// Who is said to have signed it (RFC 4514), cut to 200 characters.
    #[must_use]
    pub fn issuer(&self) -> String {
        shown(&self.parsed.tbs_certificate().issuer().to_string())
    }

    /// Its serial number, big-endian.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate().serial_number().as_bytes()
    }

    /// First and last second since 1970 in which it is in force.
    #[must_use]
    pub fn validity(&self) -> (u64, u64) {
        let validity = self.parsed.tbs_certificate().validity();
        (
            validity.not_before.to_unix_duration().as_secs(),
            validity.not_after.to_unix_duration().as_secs(),
        )
    }

    /// SHA-256 of its key (the DER of SubjectPublicKeyInfo).
    #[must_use]
    pub fn key_digest(&self) -> [u8; 32] {
        let key = self.parsed.tbs_certificate().subject_public_key_info();
        Sha256::digest(key.to_der().unwrap_or_default()).into()
    }

    /// The key as bytes: `04 ‖ x ‖ y`.
    pub(super) fn key(&self) -> &[u8] {
        self.parsed
            .tbs_certificate()
            .subject_public_key_info()
            .subject_public_key
            .raw_bytes()
    }

    /// Whether its subject is the other's issuer, and its key signed the other.
    pub(super) fn issued(&self, other: &Self) -> bool {
        self.parsed.tbs_certificate().subject() == other.parsed.tbs_certificate().issuer()
            && self.verifies_asn1(&other.signed, &other.signature)
    }

    /// Whether its key made an X.509-style signature.
    pub(super) fn verifies_asn1(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, self.key())
            .verify(message, signature)
            .is_ok()
    }

    /// Whether its key made an `r ‖ s` signature.
    pub(super) fn verifies_fixed(&self, message: &[u8], signature: &[u8]) -> bool {
        verifies_fixed(self.key(), message, signature)
    }

    /// A decoded extension, if it is there and decodes.
    pub(super) fn extension<'a, T: Decode<'a> + AssociatedOid>(&'a self) -> Option<T>
    where
        der::Error: From<<T as Decode<'a>>::Error>,
    {
        let extension = self
            .parsed
            .tbs_certificate()
            .extensions()?
            .iter()
            .find(|extension| extension.extn_id == T::OID)?;
        T::from_der(extension.extn_value.as_bytes()).ok()
    }
}

/// Whether a P-384 key (`04 ‖ x ‖ y`) made an `r ‖ s` signature with SHA-384.
pub(super) fn verifies_fixed(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
        .verify(message, signature)
        .is_ok()
}

fn shown(name: &str) -> String {
    name.chars()
        .filter(|character| !character.is_control())
        .take(MAX_NAME_CHARS)
        .collect()
}
