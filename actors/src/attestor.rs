//! The attestor actor: evidence, ours and other people's.
//!
//! On a client it fetches a worker's evidence when the directory asks for it, has it verified off
//! the actor's thread and remembers what was accepted. On a worker it holds the enclave's keys and
//! the evidence that binds them, renews both every epoch, and answers requests for them.

use crate::ask::{Ask, Named, Query, ask};
use crate::clock;
use crate::mesh::{AskPeer, Mesh};
use crate::port::Question;
use actix::prelude::*;
use cocoon_attestation::{Admission, Expectation, Verdict};
use cocoon_protocol::advert::Advert;
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle, EvidenceReply, EvidenceRequest};
use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::session::{EnclaveSecrets, SessionBinding};
use cocoon_protocol::units::UnixMillis;
use ed25519_dalek::SigningKey;
use cocoon_settlement::chain::{Chain, ChainError};
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
    mesh: Addr<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
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
        mesh: Addr<Mesh>,
        chain: Arc<dyn Chain>,
        admission: Admission,
        trust_domain: Digest,
    ) -> Self {
        Self {
            mesh,
            chain,
            admission: Arc::new(Mutex::new(admission)),
            trust_domain,
            accepted: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            examining: 0,
            enclaves: VecDeque::new(),
        }
    }

    fn remember(&mut self, peer: PeerId, verdict: &Verdict, bundle: Option<EvidenceBundle>) {
        while self.verdicts.len() >= MAX_ACCEPTED {
            self.verdicts.pop_first();
        }
        self.verdicts.insert(peer, verdict.clone());
        match bundle {
            Some(bundle) if verdict.accepted() => {
                while self.accepted.len() >= MAX_ACCEPTED {
                    let first = self
                        .accepted
                        .iter()
                        .min_by_key(|(_, accepted)| accepted.verdict.valid_until)
                        .map(|(peer, _)| *peer);
                    if let Some(first) = first {
                        self.accepted.remove(&first);
                    }
                }
                let verdict = verdict.clone();
                self.accepted
                    .insert(peer, Arc::new(Accepted { verdict, bundle }));
            }
            _ => {
                self.accepted.remove(&peer);
            }
        }
    }
}

impl Named for Attestor {
    const NAME: &'static str = "attestor";
}
impl Actor for Attestor {
    type Context = Context<Self>;
}
impl Supervised for Attestor {}

impl Handler<crate::supervision::Stop> for Attestor {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// Fetch and judge the evidence that an advert names.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Examine {
    /// The advert: peer, models, digest of the evidence.
    pub advert: Advert,
    /// Who wants to know.
    pub answer_to: Recipient<Examined>,
}

/// The result of an [`Examine`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Examined {
    /// Whose evidence.
    pub peer: PeerId,
    /// Which evidence.
    pub evidence: Digest,
    /// Until when it counts, or the first required factor that failed.
    pub result: Result<UnixMillis, String>,
}

/// What became of an examination.
enum Examination {
    /// Nothing to judge arrived.
    Unanswered(String),
    Judged(Verdict, Box<EvidenceBundle>),
}

impl Handler<Examine> for Attestor {
    type Result = ();
    fn handle(&mut self, examine: Examine, context: &mut Self::Context) {
        if self.examining >= MAX_EXAMINATIONS {
            return;
        }
        self.examining = self.examining.saturating_add(1);
        let Examine { advert, answer_to } = examine;
        let (peer, evidence) = (advert.peer, advert.evidence);
        let examination = examination(
            self.mesh.clone(),
            Arc::clone(&self.chain),
            Arc::clone(&self.admission),
            advert,
        );
        context.spawn(examination.into_actor(self).map(
            move |examination, actor: &mut Self, _| {
                actor.examining = actor.examining.saturating_sub(1);
                let result = match examination {
                    Examination::Unanswered(reason) => Err(reason),
                    Examination::Judged(verdict, bundle) => {
                        actor.remember(peer, &verdict, Some(*bundle));
                        match verdict.first_failure() {
                            None => Ok(verdict.valid_until),
                            Some(factor) => {
                                warn!(%peer, factor = factor.name, reason = %factor.reason, "evidence refused");
                                Err(format!("{}: {}", factor.name, factor.reason))
                            }
                        }
                    }
                };
                let examined = Examined {
                    peer,
                    evidence,
                    result,
                };
                if answer_to.try_send(examined).is_err() {
                    warn!(%peer, "the directory did not take an examination's result");
                }
            },
        ));
    }
}

async fn examination(
    mesh: Addr<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
    advert: Advert,
) -> Examination {
    match examine(mesh, chain, admission, advert).await {
        Ok(examination) => examination,
        Err(reason) => Examination::Unanswered(reason),
    }
}

async fn examine(
    mesh: Addr<Mesh>,
    chain: Arc<dyn Chain>,
    admission: Arc<Mutex<Admission>>,
    advert: Advert,
) -> Result<Examination, String> {
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
    let bundle = match EvidenceReply::decode(&reply).map_err(|error| error.to_string())? {
        EvidenceReply::Bundle(bundle) => bundle,
        EvidenceReply::NotFound => {
            return Err("the worker does not know this evidence".to_owned());
        }
    };
    let recent_beacons: Vec<Beacon> = beacon(chain.as_ref(), bundle.claims.beacon.seqno)
        .await
        .map_err(|error| format!("the beacon could not be looked up: {error}"))?
        .into_iter()
        .collect();
    tokio::task::spawn_blocking(move || {
        let expectation = Expectation {
            peer,
            model,
            evidence: advert.evidence,
            recent_beacons: &recent_beacons,
        };
        admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(clock::now(), &peer, &bundle, &expectation)
            .map(|verdict| Examination::Judged(verdict, Box::new(bundle)))
            .map_err(|error| error.to_string())
    })
    .await
    .map_err(|error| error.to_string())?
}

/// The block of this number, if it is recent enough to show that evidence is.
async fn beacon(chain: &dyn Chain, seqno: u32) -> Result<Option<Beacon>, ChainError> {
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
    fn handle(&mut self, Ask { query, reply }: Ask<AcceptedOf>, _: &mut Self::Context) {
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
    fn handle(&mut self, Ask { reply, .. }: Ask<ListVerdicts>, _: &mut Self::Context) {
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
    fn handle(&mut self, Ask { reply, .. }: Ask<Enclaves>, _: &mut Self::Context) {
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
    fn handle(&mut self, Ask { query, reply }: Ask<OwnEvidence>, _: &mut Self::Context) {
        let answer = EvidenceRequest::decode(&query.request).ok().map(|request| {
            let found = self
                .enclaves
                .iter()
                .find(|enclave| enclave.evidence() == request.evidence);
            match found {
                Some(enclave) => EvidenceReply::Bundle(enclave.bundle.clone()),
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
