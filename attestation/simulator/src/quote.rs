//! TDX quotes of version 4 and 5: header, TD report, and ECDSA authentication data.
//!
//! Layout: Intel, "TDX DCAP Quoting Library API", appendix A.3. The attestation key signs header
//! and report; the quoting enclave's report names that key; the PCK key signs the enclave's report.

use dcap_qvl::INTEL_QE_VENDOR_ID;
use dcap_qvl::quote::{
    AuthData, AuthDataV4, CertificationData, Data, EnclaveReport, Header,
    QEReportCertificationData, Quote, Report, TDReport10,
};
use scale::Encode as _;
use sha2::{Digest as _, Sha256};

use crate::keys::SeededKey;
use crate::root::{Machine, Simulator};
use crate::{QE_MRSIGNER, SimulatorError};

/// Intel's number for ECDSA-256-with-P-256.
const ATTESTATION_KEY_TYPE: u16 = 2;
const TEE_TYPE_TDX: u32 = 0x81;
pub(crate) const QE_ISV_SVN: u16 = 6;
pub(crate) const QE_PRODUCT: u16 = 2;
/// `INIT` and `PROVISION_KEY`, and no `DEBUG`.
const QE_ATTRIBUTES: u8 = 0x11;
/// Certification data is a PEM chain.
const CERTIFICATES: u16 = 5;
/// Certification data is a quoting enclave's report.
const QE_REPORT: u16 = 6;
/// Module version 1 at its security version 5, see [`crate::CollateralTerms`].
pub(crate) const TDX_MODULE_SVN: u8 = 5;
const TEE_TCB_SVN: [u8; 16] = [TDX_MODULE_SVN, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `SEPT_VE_DISABLE`, bit 28, and nothing else.
const TD_ATTRIBUTES: [u8; 8] = [0, 0, 0, 0x10, 0, 0, 0, 0];
/// x87, SSE, AVX, AVX-512, PKRU and AMX, as an ordinary Linux guest has them.
const XFAM: [u8; 8] = [0xe7, 0x02, 0x06, 0, 0, 0, 0, 0];

/// The report of an ordinary guest: not under debug, no owner fields, given measurements.
/// Change single fields to play a guest that is not ordinary.
pub fn td_report(mr_td: [u8; 48], rt_mr: [[u8; 48]; 4], report_data: [u8; 64]) -> TDReport10 {
    let [rt_mr0, rt_mr1, rt_mr2, rt_mr3] = rt_mr;
    TDReport10 {
        tee_tcb_svn: TEE_TCB_SVN,
        mr_seam: [0x5e; 48],
        mr_signer_seam: [0; 48],
        seam_attributes: [0; 8],
        td_attributes: TD_ATTRIBUTES,
        xfam: XFAM,
        mr_td,
        mr_config_id: [0; 48],
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rt_mr0,
        rt_mr1,
        rt_mr2,
        rt_mr3,
        report_data,
    }
}

impl Simulator {
    /// A version 4 quote for `report`, made on `machine`.
    ///
    /// # Errors
    /// If a certificate cannot be built.
    pub fn quote(&self, machine: &Machine, report: &TDReport10) -> Result<Vec<u8>, SimulatorError> {
        self.quote_of(machine, Report::TD10(*report))
    }

    /// A quote for a report of any generation: version 4 for TD 1.0, version 5 for later ones.
    ///
    /// # Errors
    /// If a certificate cannot be built.
    pub fn quote_of(&self, machine: &Machine, report: Report) -> Result<Vec<u8>, SimulatorError> {
        let version = match report {
            Report::TD10(_) => 4,
            _ => 5,
        };
        let (pck, pck_key) = self.pck(machine)?;
        let attestation_key = SeededKey::derive(
            &self.seed,
            &format!("attestation/{}", hex::encode(machine.ppid)),
        )?;
        let chain = format!("{}{}{}", pck.pem(), self.pck_ca.pem(), self.root.pem());

        let enclave = self.quoting_enclave(machine, &attestation_key)?;
        let qe_report_data = QEReportCertificationData {
            qe_report: enclave,
            qe_report_signature: pck_key.sign_raw(&enclave),
            qe_auth_data: Data::new(QE_AUTH_DATA.to_vec()),
            certification_data: CertificationData {
                cert_type: CERTIFICATES,
                body: Data::new(chain.into_bytes()),
            },
        };
        let unsigned = AuthDataV4 {
            ecdsa_signature: [0; 64],
            ecdsa_attestation_key: attestation_key.raw_point(),
            certification_data: CertificationData {
                cert_type: QE_REPORT,
                body: Data::new(Vec::new()),
            },
            qe_report_data,
        };
        let mut user_data = [0; 20];
        for (to, from) in user_data.iter_mut().zip(machine.platform_instance) {
            *to = from;
        }
        let mut quote = Quote {
            header: Header {
                version,
                attestation_key_type: ATTESTATION_KEY_TYPE,
                tee_type: TEE_TYPE_TDX,
                qe_svn: QE_ISV_SVN,
                pce_svn: machine.pce_svn,
                qe_vendor_id: INTEL_QE_VENDOR_ID,
                user_data,
            },
            report,
            auth_data: AuthData::V4(unsigned.clone()),
        };
        let raw = quote.encode();
        let signed = raw
            .get(..quote.signed_length())
            .ok_or(SimulatorError::Size {
                what: "signed part of the quote",
            })?;
        quote.auth_data = AuthData::V4(AuthDataV4 {
            ecdsa_signature: attestation_key.sign_raw(signed),
            ..unsigned
        });
        Ok(quote.encode())
    }

    /// The quoting enclave's report, whose data names the attestation key.
    fn quoting_enclave(
        &self,
        machine: &Machine,
        attestation_key: &SeededKey,
    ) -> Result<[u8; 384], SimulatorError> {
        let mut report_data = [0; 64];
        let named = Sha256::new()
            .chain_update(attestation_key.raw_point())
            .chain_update(QE_AUTH_DATA)
            .finalize();
        for (to, from) in report_data.iter_mut().zip(named) {
            *to = from;
        }
        let mut attributes = [0; 16];
        if let Some(first) = attributes.first_mut() {
            *first = QE_ATTRIBUTES;
        }
        EnclaveReport {
            cpu_svn: machine.cpu_svn,
            misc_select: 0,
            reserved1: [0; 28],
            attributes,
            mr_enclave: [0x51; 32],
            reserved2: [0; 32],
            mr_signer: QE_MRSIGNER,
            reserved3: [0; 96],
            isv_prod_id: QE_PRODUCT,
            isv_svn: QE_ISV_SVN,
            reserved4: [0; 60],
            report_data,
        }
        .encode()
        .try_into()
        .map_err(|_| SimulatorError::Size {
            what: "quoting enclave report",
        })
    }
}

/// The verifier insists on exactly 32 bytes.
const QE_AUTH_DATA: [u8; 32] = *b"simulated authentication data 01";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dcap_qvl::quote::TDReport15;

    use super::*;

    #[test]
    fn a_quote_is_a_function_of_seed_machine_and_report() {
        let machine = Machine::from_seed(b"1");
        let report = td_report([1; 48], [[2; 48]; 4], [3; 64]);
        let one = Simulator::from_seed([7; 32])
            .unwrap()
            .quote(&machine, &report)
            .unwrap();
        let two = Simulator::from_seed([7; 32])
            .unwrap()
            .quote(&machine, &report)
            .unwrap();
        assert_eq!(one, two);
        assert!(one.len() < 16 * 1024);
    }

    #[test]
    fn later_reports_come_in_version_5_and_hold_the_same_guest() {
        let base = td_report([1; 48], [[2; 48]; 4], [3; 64]);
        let later = TDReport15 {
            base,
            tee_tcb_svn2: base.tee_tcb_svn,
            mr_service_td: [0; 48],
        };
        let simulator = Simulator::public().unwrap();
        let quote = simulator
            .quote_of(&Machine::from_seed(b"1"), Report::TD15(later))
            .unwrap();
        let parsed = Quote::parse(&quote).unwrap();
        assert_eq!(parsed.header.version, 5);
        assert_eq!(parsed.report.as_td15(), Some(&later));
    }

    #[test]
    fn a_quote_parses_back_into_the_report_it_was_made_for() {
        let report = td_report([1; 48], [[2; 48]; 4], [3; 64]);
        let simulator = Simulator::public().unwrap();
        let quote = simulator.quote(&Machine::from_seed(b"1"), &report).unwrap();
        let parsed = Quote::parse(&quote).unwrap();
        assert_eq!(parsed.report.as_td10(), Some(&report));
        let chain = dcap_qvl::intel::extract_cert_chain(&parsed).unwrap();
        let pck = dcap_qvl::intel::parse_pck_extension(chain.first().unwrap()).unwrap();
        assert_eq!(pck.fmspc, crate::FMSPC);
        assert_eq!(pck.ppid, Machine::from_seed(b"1").ppid);
    }
}
