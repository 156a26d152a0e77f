//! Collateral from Intel's provisioning certification service (PCS), version 4, or from a caching service that
//! speaks the same (PCCS): which addresses to ask, and how the answers become one document.
//!
//! Addresses and headers: Intel, "API documentation for Provisioning Certification Service", version 4. No
//! network in here: [`questions`] says what to get, [`assemble`] takes what came. Nothing is believed; the
//! verifier checks every signature.

use cocoon_protocol::collateral::PlatformFamily;
use cocoon_protocol::evidence::MAX_COLLATERAL_BYTES;
use dcap_qvl::QuoteCollateralV3;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Intel's own service.
pub const INTEL_PCS: &str = "https://api.trustedservices.intel.com";
/// Where Intel publishes its root's revocation list; its service has no address of its own for that.
const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
/// Most bytes of one answer.
pub const MAX_ANSWER_BYTES: usize = MAX_COLLATERAL_BYTES;

/// The four addresses to get, and the header that each answer has its issuers' certificates in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// What the platforms' versions are worth; signed JSON.
    pub tcb_info: (String, &'static str),
    /// What the quoting enclave must be; signed JSON.
    pub qe_identity: (String, &'static str),
    /// Revoked platforms, DER.
    pub pck_crl: (String, &'static str),
    /// Revoked authorities, DER, or DER in hexadecimal.
    pub root_crl: String,
}

/// One answer: body, and the header that [`Questions`] names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// The header's value, percent-encoded PEM; empty if it was not there.
    pub issuers: String,
}

/// Why answers are not collateral.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisioningError {
    /// A header is missing or is not text.
    #[error("the service's answer on {0} does not name its issuers")]
    Issuers(&'static str),
    /// A body is not what it should be.
    #[error("the service's answer on {0} cannot be read")]
    Body(&'static str),
    /// All of it together is larger than a bundle may carry.
    #[error("the service's collateral has {0} bytes, more than {MAX_COLLATERAL_BYTES}")]
    TooLarge(usize),
}

/// What to ask the service at `base` (like [`INTEL_PCS`]) for a family.
#[must_use]
pub fn questions(base: &str, family: &PlatformFamily) -> Questions {
    let base = base.trim_end_matches('/');
    let fmspc = hex::encode_upper(family.fmspc);
    let root_crl = if base == INTEL_PCS {
        INTEL_ROOT_CRL.to_owned()
    } else {
        format!("{base}/sgx/certification/v4/rootcacrl")
    };
    Questions {
        tcb_info: (
            format!("{base}/tdx/certification/v4/tcb?fmspc={fmspc}"),
            "TCB-Info-Issuer-Chain",
        ),
        qe_identity: (
            format!("{base}/tdx/certification/v4/qe/identity"),
            "SGX-Enclave-Identity-Issuer-Chain",
        ),
        pck_crl: (
            format!(
                "{base}/sgx/certification/v4/pckcrl?ca={}&encoding=der",
                family.authority.name()
            ),
            "SGX-PCK-CRL-Issuer-Chain",
        ),
        root_crl,
    }
}

/// Signed JSON as the service sends it. What is signed are the bytes of the inner value as they stand.
#[derive(Deserialize)]
struct Signed<'a> {
    #[serde(borrow, alias = "tcbInfo", alias = "enclaveIdentity")]
    signed: &'a RawValue,
    signature: String,
}

/// Puts the answers together to what a quote is verified with, as JSON.
///
/// # Errors
/// [`ProvisioningError`].
pub fn assemble(
    tcb_info: &Answer,
    qe_identity: &Answer,
    pck_crl: &Answer,
    root_crl: &[u8],
) -> Result<Vec<u8>, ProvisioningError> {
    let (tcb, tcb_signature) = signed("TCB information", tcb_info)?;
    let (enclave, enclave_signature) = signed("enclave identity", qe_identity)?;
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: issuers("revoked platforms", pck_crl)?,
        root_ca_crl: der("revoked authorities", root_crl)?,
        pck_crl: der("revoked platforms", &pck_crl.body)?,
        tcb_info_issuer_chain: issuers("TCB information", tcb_info)?,
        tcb_info: tcb,
        tcb_info_signature: tcb_signature,
        qe_identity_issuer_chain: issuers("enclave identity", qe_identity)?,
        qe_identity: enclave,
        qe_identity_signature: enclave_signature,
        pck_certificate_chain: None,
    };
    let json =
        serde_json::to_vec(&collateral).map_err(|_| ProvisioningError::Body("everything"))?;
    if json.len() > MAX_COLLATERAL_BYTES {
        return Err(ProvisioningError::TooLarge(json.len()));
    }
    Ok(json)
}

fn signed(what: &'static str, answer: &Answer) -> Result<(String, Vec<u8>), ProvisioningError> {
    let bad = ProvisioningError::Body(what);
    let Signed { signed, signature } =
        serde_json::from_slice(&answer.body).map_err(|_| bad.clone())?;
    let signature = hex::decode(signature).map_err(|_| bad)?;
    Ok((signed.get().to_owned(), signature))
}

fn issuers(what: &'static str, answer: &Answer) -> Result<String, ProvisioningError> {
    let text = percent_decode_str(&answer.issuers)
        .decode_utf8()
        .map_err(|_| ProvisioningError::Issuers(what))?;
    if text.contains("BEGIN CERTIFICATE") {
        Ok(text.into_owned())
    } else {
        Err(ProvisioningError::Issuers(what))
    }
}

/// Caching services hand revocation lists out in hexadecimal.
fn der(what: &'static str, body: &[u8]) -> Result<Vec<u8>, ProvisioningError> {
    const DER_SEQUENCE: u8 = 0x30;
    // "30" in hexadecimal begins with the digit 3, which is 0x33.
    if body.first() == Some(&DER_SEQUENCE) {
        return Ok(body.to_vec());
    }
    hex::decode(body.trim_ascii()).map_err(|_| ProvisioningError::Body(what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_protocol::collateral::PckAuthority;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../tests/fixtures/tdx_quote_collateral.json");

    fn sample() -> QuoteCollateralV3 {
        serde_json::from_slice(SAMPLE).unwrap()
    }

    fn answer(body: Vec<u8>, issuers: &str) -> Answer {
        Answer {
            body,
            issuers: utf8_percent_encode(issuers, NON_ALPHANUMERIC).to_string(),
        }
    }

    /// Intel's sample collateral as the service would have sent it.
    fn answers() -> [Answer; 3] {
        let sample = sample();
        let signed = |name: &str, text: &str, signature: &[u8]| {
            let signature = hex::encode(signature);
            format!("{{\"{name}\":{text},\"signature\":\"{signature}\"}}").into_bytes()
        };
        [
            answer(
                signed("tcbInfo", &sample.tcb_info, &sample.tcb_info_signature),
                &sample.tcb_info_issuer_chain,
            ),
            answer(
                signed(
                    "enclaveIdentity",
                    &sample.qe_identity,
                    &sample.qe_identity_signature,
                ),
                &sample.qe_identity_issuer_chain,
            ),
            answer(sample.pck_crl, &sample.pck_crl_issuer_chain),
        ]
    }

    #[test]
    fn answers_become_the_collateral_they_were_made_of() {
        let [tcb, enclave, crl] = answers();
        let mut wanted = sample();
        wanted.pck_certificate_chain = None;
        let plain = assemble(&tcb, &enclave, &crl, &wanted.root_ca_crl).unwrap();
        let in_hex = hex::encode(&wanted.root_ca_crl).into_bytes();
        let from_a_cache = assemble(&tcb, &enclave, &crl, &in_hex).unwrap();
        for json in [plain, from_a_cache] {
            let made: QuoteCollateralV3 = serde_json::from_slice(&json).unwrap();
            assert_eq!(made, wanted);
        }
    }

    #[test]
    fn what_is_signed_is_kept_to_the_byte() {
        let [mut tcb, enclave, crl] = answers();
        let text = String::from_utf8(tcb.body).unwrap();
        tcb.body = text
            .replacen("\"version\":3", "\"version\" :  3", 1)
            .into_bytes();
        let json = assemble(&tcb, &enclave, &crl, &sample().root_ca_crl).unwrap();
        let made: QuoteCollateralV3 = serde_json::from_slice(&json).unwrap();
        assert!(made.tcb_info.contains("\"version\" :  3"));
    }

    #[test]
    fn answers_that_are_none_are_named() {
        let [tcb, enclave, crl] = answers();
        let root = sample().root_ca_crl;
        let silent = Answer {
            issuers: String::new(),
            ..enclave.clone()
        };
        assert_eq!(
            assemble(&tcb, &silent, &crl, &root),
            Err(ProvisioningError::Issuers("enclave identity"))
        );
        let page = Answer {
            body: b"<html>busy</html>".to_vec(),
            ..tcb.clone()
        };
        assert_eq!(
            assemble(&page, &enclave, &crl, &root),
            Err(ProvisioningError::Body("TCB information"))
        );
        assert_eq!(
            assemble(&tcb, &enclave, &crl, b"not found"),
            Err(ProvisioningError::Body("revoked authorities"))
        );
        let large = Answer {
            body: [vec![0x30], vec![0; MAX_COLLATERAL_BYTES]].concat(),
            ..crl
        };
        assert!(matches!(
            assemble(&tcb, &enclave, &large, &root),
            Err(ProvisioningError::TooLarge(_))
        ));
    }

    #[test]
    fn the_addresses_are_those_of_version_4() {
        let family = PlatformFamily {
            fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
            authority: PckAuthority::Platform,
        };
        let asked = questions("http://127.0.0.1:8081/", &family);
        assert_eq!(
            asked.tcb_info.0,
            "http://127.0.0.1:8081/tdx/certification/v4/tcb?fmspc=B0C06F000000"
        );
        assert_eq!(
            asked.pck_crl.0,
            "http://127.0.0.1:8081/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
        );
        assert!(questions(INTEL_PCS, &family).root_crl.ends_with(".der"));
    }
}
