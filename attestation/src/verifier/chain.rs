//! Stage five: the signatures, by `dcap-qvl` under its strict policy.
//!
//! The library answers with one error for its whole pipeline. To name the factor behind it, the
//! strict policy is wrapped so that the authenticated claims are kept even if it refuses them; and
//! if the pipeline ended before there were claims, the likely cause is looked for in the same
//! bytes. That search only chooses the name of a refusal. It accepts nothing.

use std::cell::RefCell;

use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{PckCertFlag, Policy as AppraisalPolicy, QuoteClaims, QuotePolicy, TcbStatus};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;
use x509_cert::serial_number::SerialNumber;

use super::collateral::Collateral;
use super::{Shown, Verifier};
use crate::Check;
use crate::verdict::Findings;

/// Longest library message that a verdict repeats. It may quote what a stranger sent.
const MAX_MESSAGE_CHARS: usize = 200;

/// The strict policy, and what it was shown.
struct Strict {
    policy: QuotePolicy,
    shown: RefCell<Option<QuoteClaims>>,
}

impl AppraisalPolicy for Strict {
    fn validate(&self, claims: &QuoteClaims) -> anyhow::Result<()> {
        *self.shown.borrow_mut() = Some(claims.clone());
        self.policy.validate(claims)
    }
}

impl Verifier {
    /// Gives the expiry of what the chain rests on.
    pub(super) fn chain(
        &self,
        now: UnixMillis,
        shown: &Shown,
        bundle: &EvidenceBundle,
        collateral: Collateral,
        findings: &mut Findings,
    ) -> Option<UnixMillis> {
        let strict = Strict {
            policy: QuotePolicy::strict(now.seconds())
                .allow_dynamic_platform(self.policy.allow_dynamic_platform)
                .allow_cached_keys(self.policy.allow_cached_keys)
                .allow_smt(self.policy.allow_smt)
                .min_tcb_eval_data_number(self.policy.min_tcb_evaluation),
            shown: RefCell::new(None),
        };
        let outcome = QuoteVerifier::new(self.root_der.to_vec()).verify_with_policy(
            &bundle.quote,
            &collateral.whole,
            now.seconds(),
            &strict,
        );
        match (outcome, strict.shown.into_inner()) {
            (outcome, Some(claims)) => {
                self.appraise(shown, &claims, outcome.err(), findings);
                let expires = claims.earliest_expiration_date.saturating_mul(1_000);
                Some(UnixMillis::from_millis(expires))
            }
            // The policy is always asked; if that ever changes, nothing is accepted.
            (Ok(_), None) => {
                findings.fail(
                    Check::SignatureChain,
                    "the library verified without asking the policy",
                    "",
                    "",
                );
                None
            }
            (Err(error), None) => {
                name_the_cause(shown, &collateral, &error, findings);
                None
            }
        }
    }

    /// All signatures hold; `refusal` is what the strict policy had to say about the rest.
    fn appraise(
        &self,
        shown: &Shown,
        claims: &QuoteClaims,
        refusal: Option<anyhow::Error>,
        findings: &mut Findings,
    ) {
        // What the cheap stages looked at has to be what was authenticated.
        let same = claims.report.as_td10() == Some(&shown.td)
            && claims.platform.pck.ppid == shown.pck.ppid
            && claims.platform.pck.fmspc == shown.pck.fmspc;
        findings.require(
            Check::SignatureChain,
            same,
            (
                "every signature from the root to the quote holds",
                "the signatures are over something else than what was looked at",
            ),
            hex::encode(&claims.platform.pck.ppid),
            hex::encode(&shown.pck.ppid),
        );
        findings.require(
            Check::RootPinned,
            claims.platform.root_key_id.as_slice() == self.trust.root_key_id().as_slice(),
            (
                &format!("the chain ends in the {} root", self.trust),
                "the chain was verified under another root than the pinned one",
            ),
            hex::encode(&claims.platform.root_key_id),
            hex::encode(self.trust.root_key_id()),
        );
        findings.pass(
            Check::Revocation,
            "the platform's certificates are on no revocation list",
            format!(
                "lists {} and {}",
                claims.platform.root_ca_crl_num, claims.platform.pck_crl_num
            ),
        );
        let enclave = &claims.qe.tcb_level;
        findings.require(
            Check::QeIdentity,
            enclave.tcb_status == TcbStatus::UpToDate,
            (
                "the quoting enclave is up to date",
                "the quoting enclave is not up to date",
            ),
            with_advisories(enclave.tcb_status, &enclave.advisory_ids),
            TcbStatus::UpToDate.to_string(),
        );
        let tcb = &claims.tcb;
        findings.require(
            Check::TcbStatus,
            tcb.status == TcbStatus::UpToDate,
            (
                "platform and TDX module are up to date",
                "the platform is not up to date",
            ),
            with_advisories(tcb.status, &tcb.advisory_ids),
            TcbStatus::UpToDate.to_string(),
        );
        self.evaluation(tcb.eval_data_number, findings);
        self.flags(claims, findings);
        self.label(
            &claims.platform.pck.ppid,
            &[claims.platform.pck.fmspc.to_vec()],
            findings,
        );
        // Ours and the library's strictness are meant to be the same. Where they are not, the
        // stricter one counts.
        if let Some(refusal) = refusal
            && !findings.any_failed()
        {
            findings.fail(
                Check::TcbStatus,
                message(&refusal),
                "",
                "the strict policy's consent",
            );
        }
    }

    fn flags(&self, claims: &QuoteClaims, findings: &mut Findings) {
        let pck = &claims.platform.pck;
        let bad = [
            (
                pck.dynamic_platform,
                self.policy.allow_dynamic_platform,
                "a dynamic platform",
            ),
            (
                pck.cached_keys,
                self.policy.allow_cached_keys,
                "cached platform keys",
            ),
            (pck.smt_enabled, self.policy.allow_smt, "hyperthreading"),
        ]
        .into_iter()
        .filter_map(|(flag, allowed, name)| (flag == PckCertFlag::True && !allowed).then_some(name))
        .collect::<Vec<_>>();
        findings.require(
            Check::PlatformFlags,
            bad.is_empty(),
            (
                "the policy allows how the platform is set up",
                &format!("the policy does not allow {}", bad.join(", ")),
            ),
            format!(
                "dynamic {:?}, cached keys {:?}, hyperthreading {:?}",
                pck.dynamic_platform, pck.cached_keys, pck.smt_enabled
            ),
            "",
        );
    }
}

/// The pipeline ended without claims: finds the factor to blame.
fn name_the_cause(
    shown: &Shown,
    collateral: &Collateral,
    error: &anyhow::Error,
    findings: &mut Findings,
) {
    let cause = revoked(shown, collateral)
        .or_else(|| enclave(shown, collateral))
        .or_else(|| platform_level(shown, collateral));
    match cause {
        Some((check, reason, seen)) => {
            let reason = format!("{reason} (library: {})", message(error));
            findings.fail(check, reason, seen, "in order");
            findings.not_reached(
                Check::SignatureChain,
                format!(
                    "not wholly checked: the library stopped at {}",
                    check.name()
                ),
            );
        }
        None => {
            findings.fail(
                Check::SignatureChain,
                "not every signature from the root to the quote holds",
                message(error),
                "a chain that verifies",
            );
            leave_open(findings, "not reached: signature_chain failed");
        }
    }
}

/// Nothing that rests on signatures is known.
pub(super) fn leave_open(findings: &mut Findings, reason: &str) {
    for check in [
        Check::RootPinned,
        Check::SignatureChain,
        Check::Revocation,
        Check::QeIdentity,
        Check::TcbStatus,
        Check::PlatformFlags,
    ] {
        findings.not_reached(check, reason);
    }
}

type Cause = (Check, String, String);

fn revoked(shown: &Shown, collateral: &Collateral) -> Option<Cause> {
    let serials: Vec<_> = shown
        .certificates
        .iter()
        .filter_map(|der| Certificate::from_der(der).ok())
        .map(|certificate| certificate.tbs_certificate().serial_number().clone())
        .collect();
    let [leaf, authorities @ ..] = serials.as_slice() else {
        return None;
    };
    let serial = if lists(&collateral.pck_revocations, leaf) {
        leaf
    } else {
        authorities
            .iter()
            .find(|serial| lists(&collateral.root_revocations, serial))?
    };
    Some((
        Check::Revocation,
        "a certificate of the platform is revoked".to_owned(),
        format!("serial {serial}"),
    ))
}

fn lists(list: &CertificateList<Rfc5280>, serial: &SerialNumber<Rfc5280>) -> bool {
    list.tbs_cert_list
        .revoked_certificates
        .iter()
        .flatten()
        .any(|revoked| revoked.serial_number == *serial)
}

fn enclave(shown: &Shown, collateral: &Collateral) -> Option<Cause> {
    let report = shown.quote.qe_report();
    let identity = &collateral.qe_identity;
    let blame = |reason: &str, seen: String| Some((Check::QeIdentity, reason.to_owned(), seen));
    // Offsets of MRSIGNER, ISVPRODID and ISVSVN: Intel SDM volume 3D, "REPORT structure".
    let signer = report.get(128..160)?;
    let product = u16::from_le_bytes(report.get(256..258)?.try_into().ok()?);
    let version = u16::from_le_bytes(report.get(258..260)?.try_into().ok()?);
    if signer != identity.mrsigner.as_slice() {
        return blame(
            "the quoting enclave has another signer",
            hex::encode(signer),
        );
    }
    if product != identity.isvprodid {
        return blame(
            "the quoting enclave is another product",
            format!("product {product}"),
        );
    }
    let seen = format!("version {version}");
    match identity
        .tcb_levels
        .iter()
        .find(|level| version >= level.tcb.isvsvn)
    {
        None => blame("the quoting enclave is older than any known one", seen),
        Some(level) if level.tcb_status == TcbStatus::Revoked => {
            blame("the quoting enclave's version is revoked", seen)
        }
        Some(_) => None,
    }
}

fn platform_level(shown: &Shown, collateral: &Collateral) -> Option<Cause> {
    let pck = &shown.pck;
    let mut versions = vec![shown.td.tee_tcb_svn];
    versions.extend(
        shown
            .quote
            .report
            .as_td15()
            .map(|report| report.tee_tcb_svn2),
    );
    for version in versions {
        let level = collateral.tcb_info.tcb_levels.iter().find(|level| {
            level
                .shortfalls(&pck.cpu_svn, pck.pce_svn, Some(&version))
                .is_ok_and(|missing| missing.is_empty())
        });
        let seen = format!("TDX components {}", hex::encode(version));
        match level {
            None => {
                let reason = "the platform is older than any level that Intel knows of";
                return Some((Check::TcbStatus, reason.to_owned(), seen));
            }
            Some(level) if level.tcb_status == TcbStatus::Revoked => {
                let seen = with_advisories(level.tcb_status, &level.advisory_ids);
                return Some((
                    Check::TcbStatus,
                    "the platform's level is revoked".to_owned(),
                    seen,
                ));
            }
            Some(_) => {}
        }
    }
    None
}

fn with_advisories(status: TcbStatus, advisories: &[String]) -> String {
    if advisories.is_empty() {
        status.to_string()
    } else {
        format!("{status} ({})", advisories.join(", "))
    }
}

/// The library's message on one line, bounded, without control characters.
fn message(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(MAX_MESSAGE_CHARS)
        .collect()
}
