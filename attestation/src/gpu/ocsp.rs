//! OCSP responses that came along: does the issuer say that a certificate is not revoked?
//!
//! RFC 6960. A response counts if it is about the certificate (hashes of issuer's name and key, serial
//! number), is signed by the issuer or by a responder whom the issuer certified for it (section
//! 4.2.2.2), and is in force. Nobody asks the responder here, so there is no nonce; how old a
//! response may be is the responder's word (`nextUpdate`), and a day without one.

use der::asn1::{
    AnyRef, BitStringRef, GeneralizedTime, Int, Null, ObjectIdentifier, OctetStringRef,
};
use der::{Choice, Decode as _, Encode as _, Enumerated, Sequence};
use ring::digest;
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierRef;

use super::certificate::{Certificate, ECDSA_WITH_SHA384};
use super::time::shown;

/// Most certificates in one response that are tried as its signer.
pub const MAX_RESPONDERS: usize = 4;
/// Most certificates that one response speaks of.
pub const MAX_SINGLE_RESPONSES: usize = 8;
/// How far a clock may be behind the responder's, seconds.
const MAX_SKEW: u64 = 300;
/// How long a response stands that says nothing of a next one, seconds.
const DEFAULT_LIFE: u64 = 24 * 60 * 60;

/// id-pkix-ocsp-basic.
const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
/// id-kp-OCSPSigning.
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Why a response says nothing good of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    /// Not DER, or not a basic OCSP response.
    #[error("not an OCSP response: {0}")]
    Malformed(der::Error),
    /// The responder could not answer.
    #[error("the responder answered with status {0}, which is no success")]
    NoSuccess(u8),
    /// A response without content, or of another type.
    #[error("the response is not of the basic type")]
    NotBasic,
    /// More than is looked at.
    #[error("the response speaks of more than {MAX_SINGLE_RESPONSES} certificates")]
    TooMany,
    /// Not signed with ECDSA and SHA-384.
    #[error("the response is not signed with ECDSA and SHA-384")]
    OtherSignature,
    /// Not signed by the issuer or for it.
    #[error("the response is signed neither by the certificate's issuer nor by its responder")]
    Signer,
    /// The issuer takes the certificate back.
    #[error("the certificate is revoked, since {since}")]
    Revoked {
        /// When.
        since: String,
    },
    /// The issuer does not know it.
    #[error("the issuer does not know the certificate")]
    Unknown,
    /// Not yet, or not any more.
    #[error("the response is in force from {from} to {until}")]
    NotInForce {
        /// `thisUpdate`.
        from: String,
        /// `nextUpdate`, or a day later.
        until: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[repr(u8)]
enum ResponseStatus {
    Successful = 0,
    MalformedRequest = 1,
    InternalError = 2,
    TryLater = 3,
    SignatureRequired = 5,
    Unauthorized = 6,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Response<'a> {
    status: ResponseStatus,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    bytes: Option<ResponseBytes<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct ResponseBytes<'a> {
    kind: ObjectIdentifier,
    response: &'a OctetStringRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Basic<'a> {
    /// As it is, since the signature is over its bytes.
    data: AnyRef<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    certificates: Option<Vec<AnyRef<'a>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct ResponseData {
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    version: Option<u8>,
    responder: ResponderId,
    produced_at: GeneralizedTime,
    responses: Vec<SingleResponse>,
    #[asn1(context_specific = "1", optional = "true", tag_mode = "EXPLICIT")]
    extensions: Option<Extensions>,
}

#[derive(Clone, Debug, PartialEq, Eq, Choice)]
enum ResponderId {
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", constructed = "true")]
    ByName(Name),
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", constructed = "true")]
    ByKey(der::asn1::OctetString),
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct SingleResponse {
    certificate: CertificateId,
    status: Status,
    this_update: GeneralizedTime,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    next_update: Option<GeneralizedTime>,
    #[asn1(context_specific = "1", optional = "true", tag_mode = "EXPLICIT")]
    extensions: Option<Extensions>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct CertificateId {
    hash: x509_cert::spki::AlgorithmIdentifierOwned,
    issuer_name: der::asn1::OctetString,
    issuer_key: der::asn1::OctetString,
    serial: Int,
}

#[derive(Clone, Debug, PartialEq, Eq, Choice)]
enum Status {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    Good(Null),
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", constructed = "true")]
    Revoked(RevokedInfo),
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT")]
    Unknown(Null),
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct RevokedInfo {
    since: GeneralizedTime,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    reason: Option<RevocationReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[repr(u8)]
enum RevocationReason {
    Unspecified = 0,
    KeyCompromise = 1,
    CaCompromise = 2,
    AffiliationChanged = 3,
    Superseded = 4,
    CessationOfOperation = 5,
    CertificateHold = 6,
    RemoveFromCrl = 8,
    PrivilegeWithdrawn = 9,
    AaCompromise = 10,
}

/// A response, taken apart. Nothing is checked yet.
#[derive(Clone, Debug)]
pub struct OcspResponse {
    signed: Vec<u8>,
    data: ResponseData,
    signature: Vec<u8>,
    responders: Vec<Certificate>,
}

impl OcspResponse {
    /// Decodes one.
    ///
    /// # Errors
    /// Why the bytes are none, or none that says anything.
    pub fn from_der(bytes: &[u8]) -> Result<Self, OcspError> {
        let response = Response::from_der(bytes).map_err(OcspError::Malformed)?;
        if response.status != ResponseStatus::Successful {
            return Err(OcspError::NoSuccess(response.status as u8));
        }
        let inner = response.bytes.ok_or(OcspError::NotBasic)?;
        if inner.kind != BASIC {
            return Err(OcspError::NotBasic);
        }
        let basic = Basic::from_der(inner.response.as_bytes()).map_err(OcspError::Malformed)?;
        if basic.algorithm.oid != ECDSA_WITH_SHA384 {
            return Err(OcspError::OtherSignature);
        }
        let signed = basic.data.to_der().map_err(OcspError::Malformed)?;
        let data = ResponseData::from_der(&signed).map_err(OcspError::Malformed)?;
        if data.responses.len() > MAX_SINGLE_RESPONSES {
            return Err(OcspError::TooMany);
        }
        let responders = basic
            .certificates
            .unwrap_or_default()
            .iter()
            .take(MAX_RESPONDERS)
            .filter_map(|certificate| Certificate::from_der(&certificate.to_der().ok()?).ok())
            .collect();
        Ok(Self {
            signed,
            data,
            signature: basic
                .signature
                .as_bytes()
                .ok_or(OcspError::OtherSignature)?
                .to_vec(),
            responders,
        })
    }

    /// Whether it speaks of this certificate of this issuer.
    #[must_use]
    pub fn is_about(&self, certificate: &Certificate, issuer: &Certificate) -> bool {
        self.single(certificate, issuer).is_some()
    }

    fn single(&self, certificate: &Certificate, issuer: &Certificate) -> Option<&SingleResponse> {
        let name = certificate
            .parsed
            .tbs_certificate()
            .issuer()
            .to_der()
            .ok()?;
        self.data.responses.iter().find(|single| {
            let id = &single.certificate;
            let hash = match id.hash.oid {
                SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
                SHA256 => &digest::SHA256,
                SHA384 => &digest::SHA384,
                _ => return false,
            };
            // `Int` and the certificate's serial number are both without leading zeros, but for
            // the one that keeps a number positive.
            let serial = |bytes: &'_ [u8]| -> Vec<u8> {
                bytes
                    .iter()
                    .copied()
                    .skip_while(|byte| *byte == 0)
                    .collect()
            };
            serial(id.serial.as_bytes()) == serial(certificate.serial())
                && id.issuer_name.as_bytes() == digest::digest(hash, &name).as_ref()
                && id.issuer_key.as_bytes() == digest::digest(hash, issuer.key()).as_ref()
        })
    }

    /// Checks that the issuer calls the certificate good at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// Why it does not, or why the response does not count.
    pub fn check(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        now: u64,
    ) -> Result<(), OcspError> {
        let single = self.single(certificate, issuer).ok_or(OcspError::Unknown)?;
        if !self.signed_for(issuer, now) {
            return Err(OcspError::Signer);
        }
        let from = single.this_update.to_unix_duration().as_secs();
        let until = single.next_update.map_or_else(
            || from.saturating_add(DEFAULT_LIFE),
            |next| next.to_unix_duration().as_secs(),
        );
        match &single.status {
            // A revocation does not go away when the response grows old.
            Status::Revoked(info) => Err(OcspError::Revoked {
                since: shown(info.since.to_unix_duration().as_secs()),
            }),
            Status::Unknown(_) => Err(OcspError::Unknown),
            Status::Good(_) if from > now.saturating_add(MAX_SKEW) || until < now => {
                Err(OcspError::NotInForce {
                    from: shown(from),
                    until: shown(until),
                })
            }
            Status::Good(_) => Ok(()),
        }
    }

    fn signed_for(&self, issuer: &Certificate, now: u64) -> bool {
        if issuer.verifies_asn1(&self.signed, &self.signature) {
            return true;
        }
        self.responders.iter().any(|responder| {
            let (from, until) = responder.validity();
            (from..=until).contains(&now)
                && responder
                    .extension::<ExtendedKeyUsage>()
                    .is_some_and(|usage| usage.0.contains(&OCSP_SIGNING))
                && issuer.issued(responder)
                && responder.verifies_asn1(&self.signed, &self.signature)
        })
    }
}
