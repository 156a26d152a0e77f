//! Stage five: the signatures, by `dcap-qvl` under a policy that is ours.
//!
//! The library answers with one error for its whole pipeline. To name the factor behind it, its
//! policy is wrapped so that the authenticated claims are kept even if it refuses them; and
//! if the pipeline ended before there were claims, the likely cause is looked for in the same
//! bytes. That search only chooses the name of a refusal. It accepts nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cocoon_protocol::units::UnixMillis;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{PckCertFlag, Policy as AppraisalPolicy, QuoteClaims, QuotePolicy, TcbStatus};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;
use x509_cert::serial_number::SerialNumber;

use super::collateral::{Collateral, evaluated, seconds};
use super::tcb::{self, Level};
use super::{Look, Shown, Verifier};
use crate::Check;
use crate::findings::Findings;

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
        shown: &Shown,
        collateral: Collateral,
        floor: u32,
        look: &mut Look<'_>,
    ) -> Option<UnixMillis> {
        let now = look.now.seconds();
        let platform = &self.policy.platform;
        let strict = Strict {
            policy: tcb::appraisal(&self.policy.tcb, now)
                .allow_dynamic_platform(platform.allow_dynamic_platform)
                .allow_cached_keys(platform.allow_cached_keys)
                .allow_smt(platform.allow_smt)
                .min_tcb_eval_data_number(floor),
            shown: RefCell::new(None),
        };
        let outcome = QuoteVerifier::new(self.root_der.to_vec()).verify_with_policy(
            &look.bundle.quote,
            &collateral.whole,
            now,
            &strict,
        );
        let findings = &mut look.findings;
        match (outcome, strict.shown.into_inner()) {
            (outcome, Some(claims)) => {
                look.verdict.tcb_evaluation = Some(claims.tcb.eval_data_number);
                evaluated(claims.tcb.eval_data_number, floor, findings);
                let grace = self.appraise(now, shown, &claims, outcome.err(), findings);
                let expires = claims
                    .earliest_expiration_date
                    .min(grace.unwrap_or(u64::MAX));
                Some(UnixMillis::from_millis(expires.saturating_mul(1_000)))
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

    /// All signatures hold; `refusal` is what the library's policy had to say about the rest.
    /// Gives the end of the grace, seconds since 1970, if the platform is accepted by grace.
    fn appraise(
        &self,
        now: u64,
        shown: &Shown,
        claims: &QuoteClaims,
        refusal: Option<anyhow::Error>,
        findings: &mut Findings,
    ) -> Option<u64> {
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
            Check::RootCrl,
            "the root has revoked none of the authorities",
            format!("list {}", claims.platform.root_ca_crl_num),
        );
        findings.pass(
            Check::PckCrl,
            "the platform's certificate is not revoked",
            format!("list {}", claims.platform.pck_crl_num),
        );
        findings.pass(
            Check::TdxModule,
            "the TDX module has the signer and the attributes that Intel names",
            format!(
                "signer {}, attributes {}",
                hex::encode(shown.td.mr_signer_seam),
                hex::encode(shown.td.seam_attributes)
            ),
        );
        let grace = self.levels(now, claims, findings);
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
                "the library's consent",
            );
        }
        grace
    }

    /// The enclave's level and the platform's, each by itself: the library's verdict converges
    /// them, and a verdict would not say which of the two is old.
    fn levels(&self, now: u64, claims: &QuoteClaims, findings: &mut Findings) -> Option<u64> {
        let policy = &self.policy.tcb;
        let enclave = &claims.qe.tcb_level;
        let enclave = Level {
            status: enclave.tcb_status,
            advisories: enclave.advisory_ids.iter().map(String::as_str).collect(),
            dated: seconds(&enclave.tcb_date),
        };
        let platform = &claims.platform;
        let platform = Level {
            status: if enclave.status == TcbStatus::UpToDate {
                // With the TD's current version taken into account (TD 1.5).
                claims.tcb.status
            } else {
                platform.tcb_level.tcb_status
            },
            advisories: [
                Some(&platform.tcb_level),
                platform.current_tcb_level.as_ref(),
            ]
            .into_iter()
            .flatten()
            .flat_map(|level| level.advisory_ids.iter().map(String::as_str))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
            dated: Some(platform.tcb_date_tag),
        };
        let mut grace = None;
        for (check, what, level) in [
            (Check::QeIdentity, "the quoting enclave", enclave),
            (
                Check::TcbStatus,
                "the platform with its TDX module",
                platform,
            ),
        ] {
            let judged = tcb::judge(policy, now, &level);
            match judged.outcome {
                Ok(reason) => findings.pass(check, format!("{what} is {reason}"), judged.seen),
                Err(reason) => findings.fail(
                    check,
                    format!("{what} is {reason}"),
                    judged.seen,
                    tcb::wanted(policy),
                ),
            }
            grace = [grace, judged.until].into_iter().flatten().min();
        }
        grace
    }

    fn flags(&self, claims: &QuoteClaims, findings: &mut Findings) {
        let pck = &claims.platform.pck;
        let bad = [
            (
                pck.dynamic_platform,
                self.policy.platform.allow_dynamic_platform,
                "a dynamic platform",
            ),
            (
                pck.cached_keys,
                self.policy.platform.allow_cached_keys,
                "cached platform keys",
            ),
            (
                pck.smt_enabled,
                self.policy.platform.allow_smt,
                "hyperthreading",
            ),
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
        .or_else(|| platform_level(shown, collateral))
        .or_else(|| module(shown, collateral));
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
        Check::RootCrl,
        Check::PckCrl,
        Check::QeIdentity,
        Check::TdxModule,
        Check::TcbStatus,
        Check::PlatformFlags,
    ] {
        findings.not_reached(check, reason);
    }
}

type Cause = (Check, String, String);

fn revoked(shown: &Shown, collateral: &Collateral) -> Option<Cause> {
    let serial = |certificate: &Certificate| certificate.tbs_certificate().serial_number().clone();
    let platform: Vec<_> = shown
        .certificates
        .iter()
        .filter_map(|der| Certificate::from_der(der).ok())
        .map(|certificate| serial(&certificate))
        .collect();
    let [leaf, authorities @ ..] = platform.as_slice() else {
        return None;
    };
    if lists(&collateral.pck_revocations, leaf) {
        return Some((
            Check::PckCrl,
            "the platform's certificate is revoked".to_owned(),
            format!("serial {leaf}"),
        ));
    }
    let whole = &collateral.whole;
    let signers = [
        &whole.tcb_info_issuer_chain,
        &whole.qe_identity_issuer_chain,
    ];
    let signers = signers
        .into_iter()
        .filter_map(|pem| Certificate::load_pem_chain(pem.as_bytes()).ok())
        .flatten()
        .map(|certificate| serial(&certificate));
    let serial = authorities
        .iter()
        .cloned()
        .chain(signers)
        .find(|serial| lists(&collateral.root_revocations, serial))?;
    Some((
        Check::RootCrl,
        "the root has revoked an authority".to_owned(),
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

/// Signer, attributes and least version of the TDX module, by the identity of its major version.
fn module(shown: &Shown, collateral: &Collateral) -> Option<Cause> {
    let td = &shown.td;
    let blame = |reason: &str, seen: String| Some((Check::TdxModule, reason.to_owned(), seen));
    let Ok(identity) = collateral.tcb_info.tdx_module_identity(&td.tee_tcb_svn) else {
        let seen = format!("components {}", hex::encode(td.tee_tcb_svn));
        return blame("Intel knows no TDX module of this version", seen);
    };
    let (signer, attributes, mask) = match (identity, &collateral.tcb_info.tdx_module) {
        (Some(known), _) => (&known.mrsigner, &known.attributes, &known.attributes_mask),
        (None, Some(known)) => (&known.mrsigner, &known.attributes, &known.attributes_mask),
        (None, None) => {
            return blame(
                "the collateral does not describe TDX modules",
                String::new(),
            );
        }
    };
    if hex::decode(signer).ok()?.as_slice() != td.mr_signer_seam {
        return blame(
            "the TDX module has another signer",
            hex::encode(td.mr_signer_seam),
        );
    }
    let (attributes, mask) = (hex::decode(attributes).ok()?, hex::decode(mask).ok()?);
    let as_named = td
        .seam_attributes
        .iter()
        .zip(attributes.iter().zip(&mask))
        .all(|(seen, (wanted, mask))| seen & mask == wanted & mask && seen & !mask == 0);
    if !as_named {
        return blame(
            "the TDX module has other attributes than Intel names",
            hex::encode(td.seam_attributes),
        );
    }
    // A TD 1.5 may run on a newer module than it was launched on; both are judged.
    let current = shown.quote.report.as_td15();
    let versions = [Some(td.tee_tcb_svn), current.map(|td| td.tee_tcb_svn2)];
    let unknown = versions.into_iter().flatten().find(|version| {
        match collateral.tcb_info.tdx_module_identity(version) {
            Err(_) => true,
            Ok(None) => false,
            Ok(Some(known)) => !known
                .tcb_levels
                .iter()
                .any(|level| level.shortfall(version).is_none()),
        }
    })?;
    blame(
        "the TDX module is older than any that Intel knows of",
        format!("components {}", hex::encode(unknown)),
    )
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
