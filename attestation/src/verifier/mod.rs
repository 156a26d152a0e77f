//! The verifier: a bundle and an expectation in, a verdict out.

mod attached;
mod chain;
mod claims;
pub(crate) mod collateral;
mod guest;
mod tcb;
mod unique;

use cocoon_protocol::evidence::{Beacon, EvidenceBundle, MAX_QUOTE_BYTES};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::intel::{PckExtension, extract_cert_chain, parse_pck_extension};
use dcap_qvl::quote::{Quote, TDReport10};

use crate::findings::Findings;
use crate::gpu::{GpuManifest, GpuTrust, NrasKeys};
use crate::memory::Memory;
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
    /// Highest TCB evaluation that the verifier has seen elsewhere. The collateral must not be
    /// older, nor older than the policy's floor. 0: the policy's alone counts.
    pub evaluation_floor: u32,
    /// The verifier's own collateral for the worker's platform, as JSON, for bundles without any.
    pub collateral: Option<&'a [u8]>,
}

impl<'a> Expectation<'a> {
    /// An expectation without a floor and without collateral of the verifier's own.
    #[must_use]
    pub fn new(
        peer: PeerId,
        model: Digest,
        evidence: Digest,
        recent_beacons: &'a [Beacon],
    ) -> Self {
        Self {
            peer,
            model,
            evidence,
            recent_beacons,
            evaluation_floor: 0,
            collateral: None,
        }
    }
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// To the end of the first stage with a failure.
    UntilFailure,
    /// As far as the bundle can be read at all.
    Everything,
}

/// One bundle being looked at.
struct Look<'a> {
    now: UnixMillis,
    bundle: &'a EvidenceBundle,
    expectation: &'a Expectation<'a>,
    depth: Depth,
    memory: Option<&'a Memory>,
    findings: Findings,
    verdict: Verdict,
}

impl Look<'_> {
    fn stop(&self) -> bool {
        self.depth == Depth::UntilFailure && self.findings.any_failed()
    }
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

/// What GPUs are held against beside the policy. By default NVIDIA's roots and nothing that a driver
/// may measure to, so that no GPU passes.
#[derive(Clone, Debug, Default)]
pub struct GpuReferences {
    /// What drivers and VBIOS versions measure to.
    pub manifest: GpuManifest,
    /// Whose signatures count.
    pub trust: GpuTrust,
    /// Keys of NVIDIA's attestation service; without any its tokens are not looked at.
    pub nras_keys: NrasKeys,
}

/// Verifies bundles under one root and one policy.
pub struct Verifier {
    trust: Trust,
    policy: Policy,
    root_der: &'static [u8],
    gpus: GpuReferences,
}

impl Verifier {
    /// A verifier for `trust` and `policy`.
    ///
    /// # Errors
    /// If the policy cannot be meant, or the simulated root cannot be built.
    pub fn new(trust: Trust, policy: Policy) -> Result<Self, TrustError> {
        policy.check().map_err(Box::new)?;
        Ok(Self {
            trust,
            policy,
            root_der: trust.root_der()?,
            gpus: GpuReferences::default(),
        })
    }

    /// The same verifier with other references for GPUs.
    #[must_use]
    pub fn with_gpus(mut self, gpus: GpuReferences) -> Self {
        self.gpus = gpus;
        self
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

    /// As [`Verifier::verify`], but with a memory: takes the platform's factors from an accepted
    /// verdict on the same platform and claims, and refuses a machine's or a GPU's second worker.
    /// The cheap checks, and all that the expectation says, are done again. The memory must only
    /// have been filled by this verifier; [`crate::Admission`] sees to that.
    pub fn verify_remembering(
        &self,
        now: UnixMillis,
        bundle: &EvidenceBundle,
        expectation: &Expectation<'_>,
        memory: &mut Memory,
    ) -> Verdict {
        // Hours whose evidence cannot be taken any more.
        let hour = now.millis() / HOUR_MS;
        let age = self.policy.max_epoch_age_hours;
        memory.census.forget_before(hour.saturating_sub(age));
        let verdict = self.run(now, bundle, expectation, Depth::UntilFailure, Some(memory));
        if verdict.accepted() {
            memory.accepted(now, self.places(), &verdict);
        }
        verdict
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
        memory: Option<&Memory>,
    ) -> Verdict {
        let mut look = Look {
            now,
            bundle,
            expectation,
            depth,
            memory,
            findings: Findings::insisting(&self.policy.required),
            verdict: Verdict::unfinished(self.trust, &bundle.claims),
        };
        let expires = self.stages(&mut look);
        let mut verdict = look.verdict;
        verdict.factors = look.findings.finish();
        if let (true, Some(expires)) = (verdict.accepted(), expires) {
            verdict.valid_until = expires.min(self.epoch_end(bundle.claims.epoch));
        }
        verdict
    }

    /// Runs the stages; gives the platform's expiry if all of them were reached.
    fn stages(&self, look: &mut Look<'_>) -> Option<UnixMillis> {
        let bundle = look.bundle;
        let shown = read_quote(&bundle.quote, &mut look.findings)?;
        look.verdict.platform_id = hex::encode(&shown.pck.ppid);

        self.claims(
            look.now,
            &shown.td,
            bundle,
            look.expectation,
            &mut look.findings,
        );
        if look.stop() {
            return None;
        }
        let logged = self.image_in_log(bundle, &shown.td, &mut look.findings);
        self.guest(&shown, bundle, logged.as_ref(), &mut look.findings);
        self.platform_unique(look);
        if look.stop() {
            return None;
        }
        let expires = match self.remembered(look) {
            Some(known) => Some(known),
            None => self.platform(&shown, look),
        };
        if look.stop() {
            return None;
        }
        self.gpu_unique(look);
        expires
    }

    /// Takes the platform's factors from memory, if it has them.
    fn remembered(&self, look: &mut Look<'_>) -> Option<UnixMillis> {
        let memory = look.memory?;
        let known = memory.cache.get(look.now, &look.verdict.cache_key())?;
        if known.tcb_evaluation < Some(self.floor(look.expectation)) {
            return None;
        }
        for check in Check::ALL.iter().filter(|check| check.is_of_platform()) {
            if let Some(factor) = known.factor(*check) {
                look.findings.copy(*check, factor);
            }
        }
        look.verdict.cached = true;
        look.verdict.tcb_evaluation = known.tcb_evaluation;
        look.verdict.gpu_ids.clone_from(&known.gpu_ids);
        look.verdict.gpu.clone_from(&known.gpu);
        Some(known.valid_until)
    }

    /// Certificates, collateral, signatures, and the GPUs', which cost most of all.
    fn platform(&self, shown: &Shown, look: &mut Look<'_>) -> Option<UnixMillis> {
        let json = match look.expectation.collateral {
            Some(own) if look.bundle.collateral_json.is_empty() => own,
            _ => &look.bundle.collateral_json,
        };
        let floor = self.floor(look.expectation);
        let collateral = self.collateral(look.now, shown, json, floor, &mut look.findings);
        if look.stop() {
            return None;
        }
        let expires = match collateral {
            Some(collateral) => self.chain(shown, collateral, floor, look),
            None => {
                chain::leave_open(
                    &mut look.findings,
                    "not reached: collateral_structure failed",
                );
                None
            }
        };
        if look.stop() {
            return None;
        }
        self.gpu(look);
        expires
    }

    /// The lowest TCB evaluation that is taken.
    fn floor(&self, expectation: &Expectation<'_>) -> u32 {
        self.policy
            .tcb
            .min_evaluation
            .max(expectation.evaluation_floor)
    }

    /// How many worker identities a machine may show in an hour.
    fn places(&self) -> usize {
        usize::try_from(self.policy.platform.workers_per_platform).unwrap_or(usize::MAX)
    }

    /// When evidence of this hour is no longer taken.
    fn epoch_end(&self, epoch: u64) -> UnixMillis {
        let hours = epoch
            .saturating_add(1)
            .saturating_add(self.policy.max_epoch_age_hours);
        UnixMillis::from_millis(hours.saturating_mul(HOUR_MS))
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
