//! The attestor actor: evidence, ours and other people's.
//!
//! On a client it fetches a worker's evidence when the directory asks for it, has it verified off
//! the actor's thread and remembers what was accepted. On a worker it holds the enclave's keys and
//! the evidence that binds them, renews both every epoch, and answers requests for them.

use crate::ask::{Address, Ask, Named, Query, ask};
use crate::clock;
use crate::collateral::CollateralKeeper;
use crate::log_watch::{LogWatch, ViewLog, show_head};
use crate::mesh::{AskPeer, Mesh};
use crate::metrics::Metrics;
use crate::port::Question;
use actix::prelude::*;
use cocoon_attestation::{Admission, Check, Expectation, FactorResult, Verdict};
use cocoon_protocol::advert::Advert;
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle, EvidenceReply, EvidenceRequest};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::log::ImageProof;
use cocoon_protocol::session::{EnclaveSecrets, SessionBinding};
use cocoon_protocol::units::UnixMillis;
use cocoon_settlement::chain::{Chain, ChainError};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{info, warn};

/// Verified workers remembered with their claims; the one whose evidence ends first goes first.
pub const MAX_ACCEPTED: usize = 4096;
/// Examinations under way at once; for one more the directory asks again later.
pub const MAX_EXAMINATIONS: usize = 16;
/// How old the block may be that evidence names as its beacon, seconds of the chain's clock. A
/// little over the hour after which evidence is renewed anyway.
pub const MAX_BEACON_AGE_S: u32 = 2 * 3600;
/// Enclave keys that still open a session: the current ones and those before.
const KEPT_ENCLAVES: usize = 2;

/// A worker whose evidence was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Factor by factor.
    pub verdict: Verdict,
    /// What was examined: claims (the keys to talk to), quote, collateral.
    pub bundle: EvidenceBundle,
}

/// This worker's enclave: secrets that never leave memory, and the evidence that binds them.
pub struct Enclave {
    /// Keys of the session handshake.
    pub secrets: EnclaveSecrets,
    /// Signs receipts.
    pub receipt_key: SigningKey,
    /// The evidence.
    pub bundle: EvidenceBundle,
    /// When the evidence stops counting.
    pub valid_until: UnixMillis,
}

impl Enclave {
    /// Short name of the evidence: digest of its report data. Quotes are malleable, so nothing is
    /// ever named by a hash of the quote.
    #[must_use]
    pub fn evidence(&self) -> Digest {
        self.bundle.claims.digest()
    }
}

/// See the module's doc.
pub struct Attestor {
    mesh: Address<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
    collateral: Arc<CollateralKeeper>,
    /// Where the policy names a log of images.
    log: Option<Address<LogWatch>>,
    metrics: Metrics,
    trust_domain: Digest,
    accepted: BTreeMap<PeerId, Arc<Accepted>>,
    verdicts: BTreeMap<PeerId, Verdict>,
    examining: usize,
    /// Newest first.
    enclaves: VecDeque<Arc<Enclave>>,
}

impl Attestor {
    /// An attestor that admits by these rules and knows the beacons of this chain.
    #[must_use]
    pub fn new(
        mesh: Address<Mesh>,
        chain: Arc<dyn Chain>,
        admission: Admission,
        collateral: Arc<CollateralKeeper>,
        log: Option<Address<LogWatch>>,
        metrics: Metrics,
        trust_domain: Digest,
    ) -> Self {
        Self {
            mesh,
            chain,
            admission: Arc::new(Mutex::new(admission)),
            collateral,
            log,
            metrics,
            trust_domain,
            accepted: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            examining: 0,
            enclaves: VecDeque::new(),
        }
    }

    /// Remembers a verdict, and with an accepted one what it is about.
    fn conclude(&mut self, peer: PeerId, verdict: Verdict, bundle: EvidenceBundle) -> Examined {
        // Not the same as "nothing failed": what was skipped has not passed.
        let examined = if verdict.accepted() {
            Examined::Accepted {
                until: verdict.valid_until,
            }
        } else {
            let reason = verdict.first_failure().map_or_else(
                || "a required factor was skipped".to_owned(),
                |factor| format!("{}: {}", factor.name, factor.reason),
            );
            warn!(%peer, %reason, "evidence refused");
            Examined::Refused { reason }
        };
        if !self.verdicts.contains_key(&peer) && self.verdicts.len() >= MAX_ACCEPTED {
            self.verdicts.pop_first();
        }
        self.verdicts.insert(peer, verdict.clone());
        if !verdict.accepted() {
            self.accepted.remove(&peer);
            return examined;
        }
        if !self.accepted.contains_key(&peer) && self.accepted.len() >= MAX_ACCEPTED {
            let ends_first = self
                .accepted
                .iter()
                .min_by_key(|(_, accepted)| accepted.verdict.valid_until)
                .map(|(peer, _)| *peer);
            if let Some(peer) = ends_first {
                self.accepted.remove(&peer);
            }
        }
        let accepted = Accepted { verdict, bundle };
        self.accepted.insert(peer, Arc::new(accepted));
        let weather = self.weather();
        self.metrics
            .tcb_expires("first_peer", weather.peers.values().min().copied());
        examined
    }
}

/// Until when Intel's word holds that platforms are up to date, by the collateral that this node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcbWeather {
    /// This node's own platform.
    pub own: Option<UnixMillis>,
    /// The platforms of verified workers.
    pub peers: BTreeMap<PeerId, UnixMillis>,
}

impl Attestor {
    fn weather(&self) -> TcbWeather {
        let now = clock::now();
        let expires = |bundle: &EvidenceBundle| self.collateral.expires(now, &bundle.quote);
        TcbWeather {
            own: self.enclaves.front().and_then(|own| expires(&own.bundle)),
            peers: self
                .accepted
                .iter()
                .filter_map(|(peer, accepted)| Some((*peer, expires(&accepted.bundle)?)))
                .collect(),
        }
    }
}

/// The [`TcbWeather`].
#[derive(Debug)]
pub struct Weather;
impl Query for Weather {
    type Answer = TcbWeather;
}
impl Handler<Ask<Weather>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<Weather>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(self.weather());
    }
}

impl Named for Attestor {
    const NAME: &'static str = "attestor";
}
impl Actor for Attestor {
    type Context = Context<Self>;
}
impl Supervised for Attestor {
    fn restarting(&mut self, _: &mut Self::Context) {
        // The examinations that were under way have ended with the futures that made them.
        self.examining = 0;
    }
}

impl Handler<crate::supervision::Stop> for Attestor {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// Fetch and judge the evidence that an advert names.
#[derive(Debug)]
pub struct Examine {
    /// The advert: peer, models, digest of the evidence.
    pub advert: Advert,
}
/// What an [`Examine`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It counts until then.
    Accepted {
        /// Until when.
        until: UnixMillis,
    },
    /// It was refused, or not to be had.
    Refused {
        /// The first required factor that failed, or why there was nothing to look at.
        reason: String,
    },
    /// Nobody looked: [`MAX_EXAMINATIONS`] are under way. Ask again later.
    Busy,
}
impl Query for Examine {
    type Answer = Examined;
}
impl Handler<Ask<Examine>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<Examine>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        if self.examining >= MAX_EXAMINATIONS {
            return reply.send(Examined::Busy);
        }
        self.examining = self.examining.saturating_add(1);
        let peer = query.advert.peer;
        let examination = examine(
            self.mesh.clone(),
            Arc::clone(&self.chain),
            Arc::clone(&self.admission),
            Arc::clone(&self.collateral),
            self.log.clone(),
            query.advert,
        );
        context.spawn(
            examination
                .into_actor(self)
                .map(move |examination, actor: &mut Self, _| {
                    actor.examining = actor.examining.saturating_sub(1);
                    reply.send(match examination {
                        Ok((verdict, bundle)) => actor.conclude(peer, verdict, bundle),
                        Err(reason) => Examined::Refused { reason },
                    });
                }),
        );
    }
}

async fn examine(
    mesh: Address<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
    collateral: Arc<CollateralKeeper>,
    log: Option<Address<LogWatch>>,
    advert: Advert,
) -> Result<(Verdict, EvidenceBundle), String> {
    let peer = advert.peer;
    let Some(model) = advert.models.first().map(|terms| terms.digest) else {
        return Err("the advert names no model".to_owned());
    };
    if advert.models.iter().any(|terms| terms.digest != model) {
        // One guest measures one set of weights; evidence says nothing about others.
        return Err("the advert names weights that its evidence cannot cover".to_owned());
    }
    let question = AskPeer {
        peer,
        question: Question::Evidence,
        request: EvidenceRequest {
            evidence: advert.evidence,
        }
        .encode(),
    };
    let reply = ask(&mesh, question)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let mut bundle = match EvidenceReply::decode(&reply).map_err(|error| error.to_string())? {
        EvidenceReply::Bundle(bundle) => bundle,
        EvidenceReply::NotFound => {
            return Err("the worker does not know this evidence".to_owned());
        }
    };
    collateral
        .complete(clock::now(), &mut bundle, Some(peer))
        .await;
    let recent_beacons: Vec<Beacon> = beacon(chain.as_ref(), bundle.claims.beacon.seqno)
        .await
        .map_err(|error| format!("the beacon could not be looked up: {error}"))?
        .into_iter()
        .collect();
    let (verifier, keeper) = (Arc::clone(&admission), Arc::clone(&collateral));
    let judged = tokio::task::spawn_blocking(move || {
        let expectation = Expectation {
            evaluation_floor: collateral.floor(&bundle.quote),
            ..Expectation::new(peer, model, advert.evidence, &recent_beacons)
        };
        let verdict = admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(clock::now(), &peer, &bundle, &expectation)
            .map_err(|error| error.to_string())?;
        if let Err(error) = collateral.learn(&bundle, &verdict) {
            // The verdict stands; after a restart the collateral is asked for again.
            warn!(%error, "collateral not stored");
        }
        Ok((verdict, bundle))
    })
    .await
    .map_err(|error| error.to_string())?;
    if let Ok((verdict, bundle)) = &judged
        && verdict.accepted()
    {
        renew(verifier, keeper, bundle).await;
    }
    match log {
        Some(log) => admitted_by_one_log(&log, peer, judged?).await,
        None => judged,
    }
}

/// Asks for newer collateral when what there is ends soon, and tries it on evidence that was just accepted. Nobody is
/// blamed for what is wrong with it: it may come from anybody.
async fn renew(
    admission: Arc<Mutex<Admission>>,
    collateral: Arc<CollateralKeeper>,
    bundle: &EvidenceBundle,
) {
    let Some(json) = collateral.renew(clock::now(), &bundle.quote).await else {
        return;
    };
    let renewed = EvidenceBundle {
        collateral_json: json,
        ..bundle.clone()
    };
    let tried = tokio::task::spawn_blocking(move || {
        let claims = &renewed.claims;
        let beacons = [claims.beacon];
        let expectation = Expectation::new(claims.peer, claims.model, claims.digest(), &beacons);
        let verdict = admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .verifier()
            .verify(clock::now(), &renewed, &expectation);
        collateral.learn(&renewed, &verdict)
    });
    if let Ok(Err(error)) = tried.await {
        warn!(%error, "newer collateral not stored");
    }
}

/// Shows the watch the head of an accepted worker's proof, and accepts nobody by a log of which there are two.
async fn admitted_by_one_log(
    log: &Address<LogWatch>,
    peer: PeerId,
    judged: (Verdict, EvidenceBundle),
) -> Result<(Verdict, EvidenceBundle), String> {
    let (verdict, bundle) = &judged;
    if verdict.result(Check::ImageInLog) != Some(FactorResult::Pass) {
        return Ok(judged);
    }
    if let Ok(proof) = ImageProof::decode(&bundle.attached.image_proof) {
        show_head(log, peer, proof.checkpoint);
    }
    let view = ask(log, ViewLog).await.map_err(|error| error.to_string())?;
    if view.split {
        let origin = view.origin;
        return Err(format!(
            "image_in_log: the keys of {origin} signed two logs, so it admits nobody"
        ));
    }
    Ok(judged)
}

/// The block of this number, if it is recent enough to show that evidence is.
pub(crate) async fn beacon(chain: &dyn Chain, seqno: u32) -> Result<Option<Beacon>, ChainError> {
    let block = match chain.block(seqno).await {
        Ok(block) => block,
        Err(ChainError::NoSuchBlock { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let head = chain.head().await?;
    let recent = head.unix.saturating_sub(block.unix) <= MAX_BEACON_AGE_S;
    Ok(recent.then_some(Beacon {
        seqno: block.seqno,
        hash: block.hash,
    }))
}

/// The accepted evidence of a worker.
#[derive(Debug)]
pub struct AcceptedOf(pub PeerId);
impl Query for AcceptedOf {
    type Answer = Option<Arc<Accepted>>;
}
impl Handler<Ask<AcceptedOf>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<AcceptedOf>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        reply.send(self.accepted.get(&query.0).cloned());
    }
}

/// Every verdict remembered, for people to read.
#[derive(Debug)]
pub struct ListVerdicts;
impl Query for ListVerdicts {
    type Answer = BTreeMap<PeerId, Verdict>;
}
impl Handler<Ask<ListVerdicts>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<ListVerdicts>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send(self.verdicts.clone());
    }
}

/// Takes a fresh enclave into service; the one before still opens sessions for a while.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Install(pub Arc<Enclave>);

impl Handler<Install> for Attestor {
    type Result = ();
    fn handle(&mut self, Install(enclave): Install, _: &mut Self::Context) {
        info!(evidence = %enclave.evidence(), until = %enclave.valid_until, "new evidence");
        self.enclaves.push_front(enclave);
        self.enclaves.truncate(KEPT_ENCLAVES);
        self.metrics.tcb_expires("own", self.weather().own);
    }
}

/// The enclaves in service, newest first, and the trust domain that their sessions are bound to.
#[derive(Debug)]
pub struct Enclaves;
impl Query for Enclaves {
    type Answer = (Digest, Vec<Arc<Enclave>>);
}
impl Handler<Ask<Enclaves>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<Enclaves>, _: &mut Self::Context) {
        let (_, reply, _job) = asked.open();
        reply.send((self.trust_domain, self.enclaves.iter().cloned().collect()));
    }
}

/// A peer's request for our evidence; `None` if its bytes are no request.
#[derive(Debug)]
pub struct OwnEvidence {
    /// The encoded request.
    pub request: Vec<u8>,
}
impl Query for OwnEvidence {
    type Answer = Option<Vec<u8>>;
}
impl Handler<Ask<OwnEvidence>> for Attestor {
    type Result = ();
    fn handle(&mut self, asked: Ask<OwnEvidence>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let answer = EvidenceRequest::decode(&query.request).ok().map(|request| {
            let found = self
                .enclaves
                .iter()
                .find(|enclave| enclave.evidence() == request.evidence);
            match found {
                Some(enclave) => {
                    EvidenceReply::Bundle(self.collateral.slim(clock::now(), &enclave.bundle))
                }
                None => EvidenceReply::NotFound,
            }
            .encode()
        });
        reply.send(answer);
    }
}

/// What a session with an enclave of these claims is bound to.
#[must_use]
pub fn binding(trust_domain: Digest, claims: &Claims) -> SessionBinding {
    SessionBinding {
        trust_domain,
        report_data: claims.report_data(),
    }
}
