//! The node's side of Intel's collateral: kept on disk, asked of peers, served to peers.
//!
//! Whoever can make a quote can be verified by anybody who has the collateral of its family of platforms.
//! So bundles travel without it, and a node asks for it once a family: the operator's own source first
//! (a file, a provisioning service), then the peer that is being verified, then a few others. All of them
//! may lie; what they hand over counts for nothing until [`cocoon_attestation::Shelf::learn`] has seen a
//! verdict in which its signatures held.

use crate::ask::{Address, ask};
use crate::mesh::{AskPeer, Mesh, ViewMesh};
use crate::port::Question;
use cocoon_attestation::shelf::{CollateralError, facts, family_of};
use cocoon_attestation::{Shelf, Shelved, Verdict};
use cocoon_protocol::collateral::{CollateralReply, CollateralRequest, PlatformFamily};
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::ids::PeerId;
use cocoon_protocol::units::UnixMillis;
use cocoon_settlement::ledger::KeptCollateral;
use cocoon_settlement::store::{Store, StoreError, WriteBatch, for_each};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{debug, info, warn};

/// Peers that are asked for one family's collateral before giving up.
const MAX_ASKED: usize = 4;

/// Where an operator has collateral from, apart from other nodes. Blocking; called off the actors' thread.
pub trait Provisioning: Send + Sync {
    /// Collateral of this family as JSON, whatever is to be had now, the best first. It is checked by whoever
    /// gets it.
    fn fetch(&self, family: &PlatformFamily) -> Vec<Vec<u8>>;
}

/// No source but other nodes.
pub struct NoProvisioning;

impl Provisioning for NoProvisioning {
    fn fetch(&self, _: &PlatformFamily) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// See the module's doc. Shared by the attestor, the worker's life and the pump.
pub struct CollateralKeeper {
    shelf: Mutex<Shelf>,
    store: Arc<dyn Store>,
    mesh: Address<Mesh>,
    provisioning: Arc<dyn Provisioning>,
}

impl CollateralKeeper {
    /// With what was stored. A record that can no longer be read as collateral is left alone and not used.
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        store: Arc<dyn Store>,
        mesh: Address<Mesh>,
        provisioning: Arc<dyn Provisioning>,
    ) -> Result<Self, StoreError> {
        let mut stored = Vec::new();
        for_each(&store, &[], |kept: KeptCollateral| {
            match shelved(&kept) {
                Ok(shelved) => stored.push(shelved),
                Err(error) => warn!(family = %kept.family, %error, "stored collateral is not used"),
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(Self {
            shelf: Mutex::new(Shelf::restore(stored)),
            store,
            mesh,
            provisioning,
        })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the best collateral that can be had into a bundle whose own is missing, of no use, or older than
    /// what is known. Asks `first` and then others only if nothing is at hand: what others hand over may be
    /// forged, and must not push out what was checked. For newer there is [`Self::renew`].
    pub async fn complete(
        &self,
        now: UnixMillis,
        bundle: &mut EvidenceBundle,
        first: Option<PeerId>,
    ) {
        let Some(family) = family_of(&bundle.quote) else {
            return; // The verifier will say what is wrong with the quote.
        };
        let kept = self.shelf().find(now, &family).cloned();
        let own = Some(&bundle.collateral_json)
            .filter(|json| self.shelf().would_use(now, &family, json))
            .and_then(|json| facts(json).ok());
        match (own, kept) {
            // As new as what is known, or newer.
            (Some(own), Some(kept)) if own.evaluation >= kept.facts.evaluation => {}
            (Some(_), None) => {}
            (_, Some(kept)) => bundle.collateral_json = kept.json.to_vec(),
            (None, None) => {
                if let Some(json) = self.obtain(now, &family, now, first).await {
                    bundle.collateral_json = json;
                }
            }
        }
    }

    /// Collateral that is in force beyond `beyond`, from wherever it can be had. Not authenticated.
    pub async fn obtain(
        &self,
        now: UnixMillis,
        family: &PlatformFamily,
        beyond: UnixMillis,
        first: Option<PeerId>,
    ) -> Option<Vec<u8>> {
        let provisioning = Arc::clone(&self.provisioning);
        let wanted = *family;
        let local = tokio::task::spawn_blocking(move || provisioning.fetch(&wanted)).await;
        for json in local.unwrap_or_default() {
            if self.is_wanted(now, family, beyond, &json) {
                return Some(json);
            }
            warn!(%family, "collateral of this node's own source is of no use: for other platforms, out of date, or older than what is known");
        }
        let peers = match ask(&self.mesh, ViewMesh).await {
            Ok(view) => view.peers.into_keys().collect(),
            Err(_) => Vec::new(),
        };
        let others = peers.into_iter().filter(|peer| Some(*peer) != first);
        for peer in first.into_iter().chain(others).take(MAX_ASKED) {
            match self.ask_peer(peer, family, beyond).await {
                Some(json) if self.is_wanted(now, family, beyond, &json) => return Some(json),
                Some(_) => debug!(%peer, %family, "collateral of no use"),
                None => {}
            }
        }
        None
    }

    fn is_wanted(
        &self,
        now: UnixMillis,
        family: &PlatformFamily,
        beyond: UnixMillis,
        json: &[u8],
    ) -> bool {
        self.shelf().would_use(now, family, json)
            && facts(json).is_ok_and(|facts| facts.until > beyond)
    }

    async fn ask_peer(
        &self,
        peer: PeerId,
        family: &PlatformFamily,
        beyond: UnixMillis,
    ) -> Option<Vec<u8>> {
        let question = AskPeer {
            peer,
            question: Question::Collateral,
            request: CollateralRequest {
                family: *family,
                beyond,
            }
            .encode(),
        };
        let reply = ask(&self.mesh, question).await.ok()?.ok()?;
        match CollateralReply::decode(&reply).ok()? {
            CollateralReply::Collateral(json) => Some(json),
            CollateralReply::None => None,
        }
    }

    /// Keeps a bundle's collateral if its verdict authenticates it. Waits for the disk.
    ///
    /// # Errors
    /// The store's; then it is known until the process ends and not longer.
    pub fn learn(&self, bundle: &EvidenceBundle, verdict: &Verdict) -> Result<(), StoreError> {
        let Some(learned) = self.shelf().learn(bundle, verdict) else {
            return Ok(());
        };
        let facts = learned.facts;
        info!(family = %facts.family, evaluation = facts.evaluation, until = %facts.until, "collateral kept");
        let mut batch = WriteBatch::new();
        batch.put(&KeptCollateral {
            family: facts.family,
            floor: learned.floor,
            json: learned.json.to_vec(),
        });
        self.store.commit(batch)
    }

    /// The answer to a peer; `None` if its bytes are no request.
    #[must_use]
    pub fn answer(&self, now: UnixMillis, request: &[u8]) -> Option<Vec<u8>> {
        let request = CollateralRequest::decode(request).ok()?;
        Some(self.shelf().answer(now, &request).encode())
    }

    /// The bundle as it goes over the wire: without collateral, if whoever gets it can ask for it here.
    #[must_use]
    pub fn slim(&self, now: UnixMillis, bundle: &EvidenceBundle) -> EvidenceBundle {
        let mut slim = bundle.clone();
        if self.expires(now, &bundle.quote).is_some() {
            slim.collateral_json.clear();
        }
        slim
    }

    /// When the best collateral for the platform of this quote ends, if there is any in force.
    #[must_use]
    pub fn expires(&self, now: UnixMillis, quote: &[u8]) -> Option<UnixMillis> {
        let family = family_of(quote)?;
        self.shelf().find(now, &family).map(|kept| kept.facts.until)
    }

    /// The lowest evaluation number that counts for the platform of this quote.
    #[must_use]
    pub fn floor(&self, quote: &[u8]) -> u32 {
        family_of(quote).map_or(0, |family| self.shelf().floor(&family))
    }

    /// If the collateral for this platform is in the last quarter of its life, newer one, from wherever it
    /// can be had. Not authenticated.
    pub async fn renew(&self, now: UnixMillis, quote: &[u8]) -> Option<Vec<u8>> {
        let family = family_of(quote)?;
        let due = self.shelf().due(now).find(|(due, _)| *due == family);
        let (_, until) = due?;
        self.obtain(now, &family, until, None).await
    }
}

fn shelved(kept: &KeptCollateral) -> Result<Shelved, CollateralError> {
    let facts = facts(&kept.json)?;
    if facts.family != kept.family {
        return Err(CollateralError::Silent("the platforms it is filed under"));
    }
    Ok(Shelved {
        json: kept.json.as_slice().into(),
        facts,
        floor: kept.floor.max(facts.evaluation),
    })
}
