//! The verifier: a bundle and an expectation in, a verdict out.

mod chain;
mod claims;
pub(crate) mod collateral;
mod guest;

use cocoon_protocol::evidence::{Beacon, EvidenceBundle, MAX_QUOTE_BYTES};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::intel::{PckExtension, extract_cert_chain, parse_pck_extension};
use dcap_qvl::quote::{Quote, TDReport10};

use crate::cache::{CacheKey, VerdictCache};
use crate::verdict::Findings;
use crate::{Check, Policy, Trust, TrustError, Verdict};

/// How far clocks may differ, milliseconds. Only the evidence's own hour gets this allowance.
pub const MAX_CLOCK_SKEW_MS: u64 = 120_000;

const HOUR_MS: u64 = 3_600_000;

/// What the verifier knows about the worker from elsewhere. Nothing in here comes from the bundle.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The peer at the other end, as libp2p authenticated it, or the one whose advert it is.
    pub peer: PeerId,
    /// Digest of the model that the advert promises.
    pub model: Digest,
    /// Digest of `report_data` that the advert names.
    pub evidence: Digest,
    /// Recent blocks of the chain, as the verifier itself knows them. If it knows none, nothing is
    /// accepted.
    pub recent_beacons: &'a [Beacon],
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// To the end of the first stage with a failure.
    UntilFailure,
    /// As far as the bundle can be read at all.
    Everything,
}

/// A quote that could be read. Nothing in it is authenticated yet.
struct Shown {
    quote: Quote,
    td: TDReport10,
    /// Certificates that the quote carries, DER, leaf first.
    certificates: Vec<Vec<u8>>,
    /// The platform, as its PCK certificate describes it.
    pck: PckExtension,
}

/// Verifies bundles under one root and one policy.
pub struct Verifier {
    trust: Trust,
    policy: Policy,
    root_der: &'static [u8],
}

impl Verifier {
    /// A verifier for `trust` and `policy`.
    ///
    /// # Errors
    /// If the policy cannot be meant, or the simulated root cannot be built.
    pub fn new(trust: Trust, policy: Policy) -> Result<Self, TrustError> {
        policy.check()?;
        Ok(Self {
            trust,
            policy,
            root_der: trust.root_der()?,
        })
    }

    /// The root.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Looks at a stranger's bundle, cheapest checks first, and stops after the first stage in
    /// which something failed.
    #[must_use]
    pub fn verify(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
    ) -> Verdict {
        self.run(now, bundle, expectation, Depth::UntilFailure, None)
    }

    /// As [`Verifier::verify`], but takes the platform's factors from an accepted verdict on the
    /// same platform and claims. The cheap checks, and all that the expectation says, are done
    /// again. The cache must only have been filled by this verifier; [`crate::Admission`] sees to
    /// that.
    pub fn verify_cached(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
        cache: &mut VerdictCache,
    ) -> Verdict {
        self.run(now, bundle, expectation, Depth::UntilFailure, Some(cache))
    }

    /// Looks at everything, whatever fails, for people who want to know all that is wrong with one
    /// bundle. Not for strangers' traffic: a bad bundle costs as much as a good one.
    #[must_use]
    pub fn examine(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
    ) -> Verdict {
        self.run(now, bundle, expectation, Depth::Everything, None)
    }

    fn run(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
        depth: Depth,
        cache: Option<&mut VerdictCache>,
    ) -> Verdict {
        let mut findings = Findings::default();
        let mut verdict = Verdict {
            factors: Vec::new(),
            valid_until: UnixMillis::from_millis(0),
            claims: bundle.claims.clone(),
            evidence: bundle.claims.digest(),
            trust: self.trust,
            platform_id: String::new(),
            cached: false,
        };
        let expires = self.stages(
            now,
            bundle,
            expectation,
            depth,
            cache.as_deref(),
            &mut findings,
            &mut verdict,
        );
        verdict.factors = findings.finish();
        if let (true, Some(expires)) = (verdict.accepted(), expires) {
            verdict.valid_until = expires.min(self.epoch_end(bundle.claims.epoch));
            if let (Some(cache), false) = (cache, verdict.cached) {
                let key = cache_key(&verdict.platform_id, bundle);
                cache.insert(now, key, verdict.clone());
            }
        }
        verdict
    }

    /// Runs the stages; gives the platform's expiry if all of them were reached.
    #[allow(clippy::too_many_arguments)]
    fn stages(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
        depth: Depth,
        cache: Option<&VerdictCache>,
        findings: &mut Findings,
        verdict: &mut Verdict,
    ) -> Option<UnixMillis> {
        let stop = |findings: &Findings| depth == Depth::UntilFailure && findings.any_failed();

        let shown = read_quote(&bundle.quote, findings)?;
        verdict.platform_id = hex::encode(&shown.pck.ppid);

        self.claims(now, &shown.td, bundle, expectation, findings);
        if stop(findings) {
            return None;
        }
        self.guest(&shown, &bundle.claims, findings);
        if stop(findings) {
            return None;
        }
        if let Some(known) =
            cache.and_then(|cache| cache.get(now, &cache_key(&verdict.platform_id, bundle)))
        {
            for check in Check::ALL
                .iter()
                .filter(|check| **check >= Check::RootPinned)
            {
                if let Some(factor) = known.factor(*check) {
                    findings.copy(*check, factor);
                }
            }
            verdict.cached = true;
            return Some(known.valid_until);
        }
        let collateral = self.collateral(now, &shown, &bundle.collateral_json, findings);
        if stop(findings) {
            return None;
        }
        let Some(collateral) = collateral else {
            chain::leave_open(findings, "not reached: collateral_structure failed");
            return None;
        };
        self.chain(now, &shown, bundle, collateral, findings)
    }

    /// When evidence of this hour is no longer taken.
    fn epoch_end(&self, epoch: u64) -> UnixMillis {
        let hours = epoch
            .saturating_add(1)
            .saturating_add(self.policy.max_epoch_age_hours);
        UnixMillis::from_millis(hours.saturating_mul(HOUR_MS))
    }
}

fn cache_key(platform_id: &str, bundle: &EvidenceBundle) -> CacheKey {
    CacheKey {
        platform_id: platform_id.to_owned(),
        report_data: bundle.claims.report_data(),
    }
}

/// Size and structure. `None` if there is nothing that later checks could look at.
fn read_quote(bytes: &[u8], findings: &mut Findings) -> Option<Shown> {
    let size = format!("{} bytes", bytes.len());
    let limit = format!("at most {MAX_QUOTE_BYTES} bytes");
    if bytes.len() > MAX_QUOTE_BYTES {
        findings.fail(
            Check::QuoteSize,
            "the quote is larger than any real one",
            size,
            limit,
        );
        return None;
    }
    findings.pass(Check::QuoteSize, "the quote's size is in bounds", size);

    let mut refuse = |reason: &str, seen: String| {
        findings.fail(
            Check::QuoteStructure,
            reason,
            seen,
            "a TDX quote of version 4 or 5",
        );
        None
    };
    let Ok(quote) = Quote::parse(bytes) else {
        return refuse(
            "these bytes are not a quote",
            format!("{} bytes", bytes.len()),
        );
    };
    let Some(td) = quote.report.as_td10().copied() else {
        return refuse(
            "the quote is of an SGX enclave and not of a TDX guest",
            format!("version {}", quote.header.version),
        );
    };
    // Guests hand out quotes in a padded buffer, so zeroes may follow; anything else is somebody's
    // way to make one quote look like many.
    match trailing(bytes, &quote) {
        Some(rest) if rest.iter().all(|byte| *byte == 0) => {}
        _ => {
            return refuse(
                "the quote is followed by other bytes",
                format!("{} bytes", bytes.len()),
            );
        }
    }
    let certificates = extract_cert_chain(&quote).unwrap_or_default();
    let Some(Ok(pck)) = certificates.first().map(|leaf| parse_pck_extension(leaf)) else {
        return refuse(
            "the quote carries no PCK certificate that can be read",
            format!("{} certificates", certificates.len()),
        );
    };
    findings.pass(
        Check::QuoteStructure,
        "a TDX quote with its certificates",
        format!(
            "version {}, {} certificates",
            quote.header.version,
            certificates.len()
        ),
    );
    Some(Shown {
        quote,
        td,
        certificates,
        pck,
    })
}

/// What follows the quote: signed part, length of the authentication data, authentication data.
fn trailing<'a>(bytes: &'a [u8], quote: &Quote) -> Option<&'a [u8]> {
    let rest = bytes.get(quote.signed_length()..)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)
}
