//! Intel's collateral, kept by family of platforms and shared between peers.
//!
//! Collateral is signed, so any peer may serve it; what a peer can do is withhold it or serve what is
//! out of date. Against the second there is a floor: once collateral of evaluation number *n* has been
//! seen for a family, none below *n* is used or served again, and the floor outlives the collateral
//! itself. (The same quote is up to date under evaluation 17 and has four open advisories under 20.)
//! The floor also follows collateral that Intel publishes early.
//!
//! Nothing is kept on a stranger's word. [`Shelf::learn`] takes a bundle together with its verdict, and
//! takes the collateral only if all signatures over it were found to hold, whatever else the verdict
//! says of the worker.
//!
//! No clock and no IO: the caller stores what [`Shelf::learn`] gives back, and brings it again with
//! [`Shelf::restore`].

use std::collections::BTreeMap;
use std::sync::Arc;

use cocoon_protocol::collateral::{
    CollateralReply, CollateralRequest, PckAuthority, PlatformFamily,
};
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::units::UnixMillis;
use dcap_qvl::intel::{extract_cert_chain, parse_pck_extension};
use dcap_qvl::quote::Quote;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::verifier::collateral::{self, Collateral};
use crate::{Check, FactorResult, Verdict};

/// Most families that are kept. Intel has shipped fewer that can run TDX.
pub const MAX_FAMILIES: usize = 256;
/// Collateral is renewed when less than this part of its lifetime is left: one in four.
const RENEW_IN_LAST: u64 = 4;

/// What collateral says of itself. Not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollateralFacts {
    /// Whose it is.
    pub family: PlatformFamily,
    /// The lower `tcbEvaluationDataNumber` of its two signed documents.
    pub evaluation: u32,
    /// All its parts are in force from here.
    pub from: UnixMillis,
    /// The first of its parts ends here.
    pub until: UnixMillis,
}

/// Why bytes are not collateral that could be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// They cannot be read.
    #[error("not collateral: {0}")]
    Unreadable(&'static str),
    /// They do not say for which platforms, or not until when.
    #[error("collateral that does not say {0}")]
    Silent(&'static str),
}

/// Reads what collateral says of itself, and believes none of it.
///
/// # Errors
/// [`CollateralError`].
pub fn facts(json: &[u8]) -> Result<CollateralFacts, CollateralError> {
    let collateral = collateral::read(json).map_err(CollateralError::Unreadable)?;
    let fmspc = hex::decode(&collateral.tcb_info.fmspc)
        .ok()
        .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
        .ok_or(CollateralError::Silent("for which platforms it is"))?;
    let issuer = collateral.pck_revocations.tbs_cert_list.issuer.to_string();
    let authority = authority(&issuer).ok_or(CollateralError::Silent(
        "who certifies the platforms that it is for",
    ))?;
    let (from, until) =
        window(&collateral).ok_or(CollateralError::Silent("when it is in force"))?;
    Ok(CollateralFacts {
        family: PlatformFamily { fmspc, authority },
        evaluation: collateral
            .tcb_info
            .tcb_evaluation_data_number
            .min(collateral.qe_identity.tcb_evaluation_data_number),
        from,
        until,
    })
}

fn window(collateral: &Collateral) -> Option<(UnixMillis, UnixMillis)> {
    let windows = collateral::windows(collateral);
    let (mut from, mut until) = (0, u64::MAX);
    for part in &windows {
        from = from.max(part.from?);
        until = until.min(part.until?);
    }
    let millis = |seconds: u64| UnixMillis::from_millis(seconds.saturating_mul(1_000));
    Some((millis(from), millis(until)))
}

/// The authorities are told apart by name, as by Intel's own library.
fn authority(issuer: &str) -> Option<PckAuthority> {
    match (
        issuer.contains("PCK Platform CA"),
        issuer.contains("PCK Processor CA"),
    ) {
        (true, false) => Some(PckAuthority::Platform),
        (false, true) => Some(PckAuthority::Processor),
        _ => None,
    }
}

/// The family of the platform that made a quote. Not authenticated.
#[must_use]
pub fn family_of(quote: &[u8]) -> Option<PlatformFamily> {
    let quote = Quote::parse(quote).ok()?;
    let certificates = extract_cert_chain(&quote).ok()?;
    let leaf = certificates.first()?;
    let issuer = Certificate::from_der(leaf)
        .ok()?
        .tbs_certificate()
        .issuer()
        .to_string();
    Some(PlatformFamily {
        fmspc: parse_pck_extension(leaf).ok()?.fmspc,
        authority: authority(&issuer)?,
    })
}

/// Collateral whose signatures held once, and the floor of its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// The collateral, JSON.
    pub json: Arc<[u8]>,
    /// What it says.
    pub facts: CollateralFacts,
    /// No collateral of a lower evaluation number counts for this family any more.
    pub floor: u32,
}

/// See the module's doc.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    families: BTreeMap<PlatformFamily, Shelved>,
}

impl Shelf {
    /// What was stored, on the word of this node's own disk.
    #[must_use]
    pub fn restore(stored: impl IntoIterator<Item = Shelved>) -> Self {
        let families = stored
            .into_iter()
            .take(MAX_FAMILIES)
            .map(|shelved| (shelved.facts.family, shelved));
        Self {
            families: families.collect(),
        }
    }

    /// All that is kept, by family.
    pub fn iter(&self) -> impl Iterator<Item = &Shelved> {
        self.families.values()
    }

    /// Collateral that is in force now, if there is any.
    #[must_use]
    pub fn find(&self, now: UnixMillis, family: &PlatformFamily) -> Option<&Shelved> {
        self.families
            .get(family)
            .filter(|kept| now >= kept.facts.from && now < kept.facts.until)
    }

    /// The lowest evaluation number that still counts for this family.
    #[must_use]
    pub fn floor(&self, family: &PlatformFamily) -> u32 {
        self.families.get(family).map_or(0, |kept| kept.floor)
    }

    /// Whether collateral that somebody offers would be used: of this family, in force, not below the
    /// floor. Its signatures are not looked at.
    #[must_use]
    pub fn would_use(&self, now: UnixMillis, family: &PlatformFamily, json: &[u8]) -> bool {
        facts(json).is_ok_and(|facts| {
            facts.family == *family
                && facts.evaluation >= self.floor(family)
                && now >= facts.from
                && now < facts.until
        })
    }

    /// Keeps a bundle's collateral if the verdict says that its signatures hold and if it is better than
    /// what is there: a higher evaluation, or as high and in force longer. Gives back what to store.
    pub fn learn(&mut self, bundle: &EvidenceBundle, verdict: &Verdict) -> Option<Shelved> {
        let holds = |check| verdict.result(check) == Some(FactorResult::Pass);
        // A remembered verdict did not look at this collateral.
        if verdict.cached
            || ![
                Check::CollateralStructure,
                Check::CollateralExpiry,
                Check::RootPinned,
                Check::SignatureChain,
            ]
            .into_iter()
            .all(holds)
        {
            return None;
        }
        let facts = facts(&bundle.collateral_json).ok()?;
        let kept = self.families.get(&facts.family);
        let better = kept.is_none_or(|kept| {
            (facts.evaluation, facts.until) > (kept.facts.evaluation, kept.facts.until)
        });
        if !better || (kept.is_none() && self.families.len() >= MAX_FAMILIES) {
            return None;
        }
        let shelved = Shelved {
            json: bundle.collateral_json.as_slice().into(),
            facts,
            floor: facts.evaluation.max(self.floor(&facts.family)),
        };
        self.families.insert(facts.family, shelved.clone());
        Some(shelved)
    }

    /// What to tell a peer that asks.
    #[must_use]
    pub fn answer(&self, now: UnixMillis, request: &CollateralRequest) -> CollateralReply {
        self.find(now, &request.family)
            .filter(|kept| kept.facts.until > request.beyond)
            .map_or(CollateralReply::None, |kept| {
                CollateralReply::Collateral(kept.json.to_vec())
            })
    }

    /// Families whose collateral is in the last quarter of its life or beyond it, with the end of what is
    /// there: time to ask for newer.
    pub fn due(&self, now: UnixMillis) -> impl Iterator<Item = (PlatformFamily, UnixMillis)> {
        self.families.values().filter_map(move |kept| {
            let facts = kept.facts;
            let lifetime = facts.until.saturating_since(facts.from);
            // One in four is not none.
            let last = lifetime.checked_div(RENEW_IN_LAST).unwrap_or(0);
            (now.saturating_add(last) >= facts.until).then_some((facts.family, facts.until))
        })
    }
}
