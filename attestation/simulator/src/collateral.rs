//! What Intel's provisioning service would hand out about a platform: TCB information, the quoting
//! enclave's identity, and the two revocation lists.
//!
//! Formats: Intel, "SGX and TDX Provisioning Certification Service API", version 4.

use dcap_qvl::{QuoteCollateralV3, TcbStatus};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};

use crate::certificates::date;
use crate::keys::SeededKey;
use crate::quote::{QE_ISV_SVN, QE_PRODUCT, TDX_MODULE_SVN};
use crate::root::{CPU_SVN, PCE_SVN, Simulator};
use crate::{FMSPC, QE_MRSIGNER, SimulatorError};

/// What the simulated Intel says about the simulated platforms.
#[derive(Clone, Debug)]
pub struct CollateralTerms {
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// How long it is valid, seconds. Intel's TCB information lives 30 days.
    pub lifetime_seconds: u64,
    /// Status of the only platform TCB level.
    pub platform_status: TcbStatus,
    /// Status of the only quoting enclave level.
    pub enclave_status: TcbStatus,
    /// Advisories that the platform's level carries.
    pub advisories: Vec<String>,
    /// `tcbEvaluationDataNumber` of TCB information and enclave identity.
    pub evaluation: u32,
    /// Serial numbers of revoked PCK certificates, see [`crate::Machine::serial`].
    pub revoked: Vec<u64>,
    /// Serial numbers of authorities that the root has revoked, such as [`crate::PCK_CA_SERIAL`].
    pub revoked_authorities: Vec<u64>,
    /// Signer that the quoting enclave has to have.
    pub enclave_signer: [u8; 32],
}

impl CollateralTerms {
    /// Thirty days from `issued`, all up to date, nothing revoked.
    pub fn healthy(issued: u64) -> Self {
        Self {
            issued,
            lifetime_seconds: 30 * 24 * 3600,
            platform_status: TcbStatus::UpToDate,
            enclave_status: TcbStatus::UpToDate,
            advisories: Vec::new(),
            evaluation: 20,
            revoked: Vec::new(),
            revoked_authorities: Vec::new(),
            enclave_signer: QE_MRSIGNER,
        }
    }

    fn next_update(&self) -> u64 {
        self.issued.saturating_add(self.lifetime_seconds)
    }
}

fn rfc3339(unix_seconds: u64) -> Result<String, SimulatorError> {
    let at = date(unix_seconds)?;
    Ok(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    ))
}

/// Sixteen component versions of which the first ones are given and the others zero.
fn components(first: &[u8]) -> Value {
    (0..16)
        .map(|index| json!({ "svn": first.get(index).copied().unwrap_or(0) }))
        .collect()
}

impl Simulator {
    /// Collateral on the given terms, signed by the simulated root's authorities.
    ///
    /// # Errors
    /// If a time does not fit into X.509 or the builder refuses.
    pub fn collateral(&self, terms: &CollateralTerms) -> Result<QuoteCollateralV3, SimulatorError> {
        let tcb_info = tcb_info(terms)?.to_string();
        let qe_identity = qe_identity(terms)?.to_string();
        let root = self.root.pem();
        let signer_chain = format!("{}{root}", self.tcb_signer.pem());
        Ok(QuoteCollateralV3 {
            pck_crl_issuer_chain: format!("{}{root}", self.pck_ca.pem()),
            root_ca_crl: revocations(
                terms,
                &self.root_params,
                &self.root_key,
                &terms.revoked_authorities,
            )?,
            pck_crl: revocations(terms, &self.pck_ca_params, &self.pck_ca_key, &terms.revoked)?,
            tcb_info_issuer_chain: signer_chain.clone(),
            tcb_info_signature: self.tcb_key.sign_raw(tcb_info.as_bytes()).to_vec(),
            tcb_info,
            qe_identity_issuer_chain: signer_chain,
            qe_identity_signature: self.tcb_key.sign_raw(qe_identity.as_bytes()).to_vec(),
            qe_identity,
            pck_certificate_chain: None,
        })
    }
}

fn tcb_info(terms: &CollateralTerms) -> Result<Value, SimulatorError> {
    let issued = rfc3339(terms.issued)?;
    let zero_signer = "00".repeat(48);
    let zero_attributes = "00".repeat(8);
    let full_mask = "FF".repeat(8);
    Ok(json!({
        "id": "TDX",
        "version": 3,
        "issueDate": issued,
        "nextUpdate": rfc3339(terms.next_update())?,
        "fmspc": hex::encode_upper(FMSPC),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": terms.evaluation,
        "tdxModule": {
            "mrsigner": zero_signer,
            "attributes": zero_attributes,
            "attributesMask": full_mask,
        },
        "tdxModuleIdentities": [{
            "id": "TDX_01",
            "mrsigner": zero_signer,
            "attributes": zero_attributes,
            "attributesMask": full_mask,
            "tcbLevels": [{
                "tcb": { "isvsvn": TDX_MODULE_SVN },
                "tcbDate": issued,
                "tcbStatus": TcbStatus::UpToDate,
            }],
        }],
        "tcbLevels": [{
            "tcb": {
                "sgxtcbcomponents": components(&[CPU_SVN]),
                "pcesvn": PCE_SVN,
                "tdxtcbcomponents": components(&[TDX_MODULE_SVN, 1]),
            },
            "tcbDate": issued,
            "tcbStatus": terms.platform_status,
            "advisoryIDs": terms.advisories,
        }],
    }))
}

fn qe_identity(terms: &CollateralTerms) -> Result<Value, SimulatorError> {
    let issued = rfc3339(terms.issued)?;
    Ok(json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": issued,
        "nextUpdate": rfc3339(terms.next_update())?,
        "tcbEvaluationDataNumber": terms.evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(terms.enclave_signer),
        "isvprodid": QE_PRODUCT,
        "tcbLevels": [{
            "tcb": { "isvsvn": QE_ISV_SVN },
            "tcbDate": issued,
            "tcbStatus": terms.enclave_status,
        }],
    }))
}

fn revocations(
    terms: &CollateralTerms,
    issuer: &CertificateParams,
    key: &SeededKey,
    revoked: &[u64],
) -> Result<Vec<u8>, SimulatorError> {
    let revocation_time = date(terms.issued)?;
    let list = CertificateRevocationListParams {
        this_update: revocation_time,
        next_update: date(terms.next_update())?,
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time,
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::new(issuer.clone(), key.clone());
    Ok(list.signed_by(&issuer)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn collateral_is_a_function_of_seed_and_terms() {
        let terms = CollateralTerms::healthy(1_760_000_000);
        let one = Simulator::from_seed([7; 32])
            .unwrap()
            .collateral(&terms)
            .unwrap();
        let two = Simulator::from_seed([7; 32])
            .unwrap()
            .collateral(&terms)
            .unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn dates_are_written_as_intel_writes_them() {
        assert_eq!(rfc3339(1_750_328_163).unwrap(), "2025-06-19T10:16:03Z");
    }
}
