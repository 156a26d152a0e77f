//! Stage four: what can be said about certificates and collateral without checking a signature.
//!
//! Everything read here is read again, by the same parsers from the same bytes, when signatures
//! are checked. Looking first lets a verdict name what is wrong, and lets the commonest mistakes
//! (another network's evidence, old collateral) cost microseconds.

use cocoon_protocol::evidence::MAX_COLLATERAL_BYTES;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{DateTime, Decode as _, Encode as _};

use super::{Shown, Verifier};
use crate::findings::Findings;
use crate::trust::{SIMULATED_FMSPC, SIMULATED_PPID};
use crate::{Check, Trust};

/// Collateral that could be read. Not authenticated.
pub(crate) struct Collateral {
    pub(crate) whole: QuoteCollateralV3,
    pub(crate) tcb_info: TcbInfo,
    pub(crate) qe_identity: QeIdentity,
    pub(crate) root_revocations: CertificateList<Rfc5280>,
    pub(crate) pck_revocations: CertificateList<Rfc5280>,
}

/// From when to when, seconds since 1970, a part of the collateral is in force.
pub(crate) struct Window {
    pub(crate) part: &'static str,
    pub(crate) from: Option<u64>,
    pub(crate) until: Option<u64>,
}

impl Verifier {
    pub(super) fn collateral(
        &self,
        now: UnixMillis,
        shown: &Shown,
        json: &[u8],
        floor: u32,
        findings: &mut Findings,
    ) -> Option<Collateral> {
        self.root(shown, findings);
        let collateral = match read(json) {
            Ok(collateral) => {
                findings.pass(
                    Check::CollateralStructure,
                    "the collateral can be read",
                    format!("{} bytes", json.len()),
                );
                Some(collateral)
            }
            Err(reason) => {
                findings.fail(
                    Check::CollateralStructure,
                    reason,
                    format!("{} bytes", json.len()),
                    format!("DCAP collateral as JSON, at most {MAX_COLLATERAL_BYTES} bytes"),
                );
                None
            }
        };
        let mut families = vec![shown.pck.fmspc.to_vec()];
        if let Some(collateral) = &collateral {
            families.push(hex::decode(&collateral.tcb_info.fmspc).unwrap_or_default());
            expiry(now, collateral, findings);
            let evaluation = collateral
                .tcb_info
                .tcb_evaluation_data_number
                .min(collateral.qe_identity.tcb_evaluation_data_number);
            evaluated(evaluation, floor, findings);
        }
        self.label(&shown.pck.ppid, &families, findings);
        collateral
    }

    /// The chain inside the quote has to end in our root. A forger can put our root there too;
    /// then the signatures do not hold. Honest evidence of another network is told apart here.
    fn root(&self, shown: &Shown, findings: &mut Findings) {
        let wanted = self.trust.trust_domain();
        let seen = shown
            .certificates
            .last()
            .and_then(|der| Certificate::from_der(der).ok())
            .and_then(|last| {
                last.tbs_certificate()
                    .subject_public_key_info()
                    .to_der()
                    .ok()
            })
            .map(|key| Digest::sha256(&key));
        let shows = seen.map_or_else(|| "no certificate".to_owned(), |seen| seen.to_string());
        if seen != Some(wanted) {
            findings.fail(
                Check::RootPinned,
                format!(
                    "the quote's certificates do not end in the {} root",
                    self.trust
                ),
                shows,
                wanted.to_string(),
            );
        }
    }

    pub(super) fn label(&self, ppid: &[u8], families: &[Vec<u8>], findings: &mut Findings) {
        let says_simulated = |family: &Vec<u8>| family.as_slice() == SIMULATED_FMSPC.as_slice();
        let seen = format!(
            "platform {} of family {}",
            hex::encode(ppid),
            families
                .iter()
                .map(hex::encode)
                .collect::<Vec<_>>()
                .join(" and ")
        );
        match self.trust {
            Trust::Intel => findings.require(
                Check::PlatformLabel,
                !ppid.starts_with(&SIMULATED_PPID) && !families.iter().any(says_simulated),
                (
                    "the platform does not call itself simulated",
                    "the platform is a simulated one",
                ),
                seen,
                "a real platform",
            ),
            #[cfg(feature = "simulated-evidence")]
            Trust::Simulated => findings.require(
                Check::PlatformLabel,
                ppid.starts_with(&SIMULATED_PPID) && families.iter().all(says_simulated),
                (
                    "the platform labels itself as simulated, as it must",
                    "the platform does not label itself as simulated",
                ),
                seen,
                "a simulated platform",
            ),
        }
    }
}

pub(super) fn evaluated(evaluation: u32, floor: u32, findings: &mut Findings) {
    findings.require(
        Check::TcbEvaluation,
        evaluation >= floor,
        (
            "the collateral is recent enough",
            "the collateral is older than the floor",
        ),
        format!("evaluation {evaluation}"),
        format!("evaluation {floor} or later"),
    );
}

pub(crate) fn read(json: &[u8]) -> Result<Collateral, &'static str> {
    if json.len() > MAX_COLLATERAL_BYTES {
        return Err("the collateral is larger than any real one");
    }
    let mut whole: QuoteCollateralV3 =
        serde_json::from_slice(json).map_err(|_| "the collateral is not DCAP collateral")?;
    // Only the chain inside the quote counts. A second one would make the first a place for
    // anything at all.
    whole.pck_certificate_chain = None;
    let tcb_info =
        serde_json::from_str(&whole.tcb_info).map_err(|_| "unreadable TCB information")?;
    let qe_identity =
        serde_json::from_str(&whole.qe_identity).map_err(|_| "unreadable enclave identity")?;
    let root_revocations = CertificateList::from_der(&whole.root_ca_crl)
        .map_err(|_| "unreadable revocation list of the root")?;
    let pck_revocations = CertificateList::from_der(&whole.pck_crl)
        .map_err(|_| "unreadable revocation list of the platforms' authority")?;
    Ok(Collateral {
        whole,
        tcb_info,
        qe_identity,
        root_revocations,
        pck_revocations,
    })
}

pub(super) fn seconds(rfc3339: &str) -> Option<u64> {
    rfc3339
        .parse::<DateTime>()
        .ok()
        .map(|at| at.unix_duration().as_secs())
}

fn revocation_window(part: &'static str, list: &CertificateList<Rfc5280>) -> Window {
    let list = &list.tbs_cert_list;
    Window {
        part,
        from: Some(list.this_update.to_unix_duration().as_secs()),
        until: list.next_update.map(|at| at.to_unix_duration().as_secs()),
    }
}

/// The parts that expire.
pub(crate) fn windows(collateral: &Collateral) -> [Window; 4] {
    [
        Window {
            part: "TCB information",
            from: seconds(&collateral.tcb_info.issue_date),
            until: seconds(&collateral.tcb_info.next_update),
        },
        Window {
            part: "enclave identity",
            from: seconds(&collateral.qe_identity.issue_date),
            until: seconds(&collateral.qe_identity.next_update),
        },
        revocation_window("the root's revocation list", &collateral.root_revocations),
        revocation_window(
            "the platforms' revocation list",
            &collateral.pck_revocations,
        ),
    ]
}

fn expiry(now: UnixMillis, collateral: &Collateral, findings: &mut Findings) {
    let windows = windows(collateral);
    let now = now.seconds();
    for window in &windows {
        let (Some(from), Some(until)) = (window.from, window.until) else {
            findings.fail(
                Check::CollateralExpiry,
                format!("{} does not say when it is in force", window.part),
                "no dates",
                "two dates",
            );
            return;
        };
        let seen = format!("{from} to {until}");
        let wanted = format!("in force at {now}");
        if now < from {
            let reason = format!("{} is not in force yet", window.part);
            findings.fail(Check::CollateralExpiry, reason, seen, wanted);
            return;
        }
        if now >= until {
            let reason = format!("{} has expired", window.part);
            findings.fail(Check::CollateralExpiry, reason, seen, wanted);
            return;
        }
    }
    let until = windows
        .iter()
        .filter_map(|window| window.until)
        .min()
        .unwrap_or_default();
    findings.pass(
        Check::CollateralExpiry,
        "all parts of the collateral are in force",
        format!("until {until}"),
    );
}
