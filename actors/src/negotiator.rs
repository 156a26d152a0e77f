//! The negotiator actor: offers, given and taken.
//!
//! A worker's owns the book of slots, offers and leases; a client's owns one negotiation per job
//! that looks for a worker. Both are `protocol`'s state machines.

use crate::ask::{Address, Ask, Named, Query, Reply, ask};
use crate::clock;
use crate::mesh::{AskPeer, Mesh};
use crate::port::Question;
use actix::prelude::*;
use cocoon_protocol::ModelTerms;
use cocoon_protocol::ids::{Digest, JobId, Keypair, OfferId, PeerId, TonAddress};
use cocoon_protocol::negotiation::{
    Candidate, Decline, Lease, LeaseId, Negotiation, NegotiationConfig, NegotiationInput,
    NegotiationOutput, Offer, OfferBook, QuoteReply, QuoteRequest, RedeemError, Refusal, ScoreLine,
    Wish, WorkerTerms, decode_offer,
};
use cocoon_protocol::units::{NanoTon, UnixMillis};
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{Instrument, debug, warn};

/// Negotiations under way at once.
pub const MAX_NEGOTIATIONS: usize = 256;
/// What a job that runs already makes a newcomer wait, ms: they share one machine.
const WAIT_PER_RUNNING_JOB_MS: u32 = 2_000;

/// What a worker offers.
pub struct Shop {
    /// Slots, offers, leases.
    pub book: OfferBook,
    /// Signs offers.
    pub key: Keypair,
    /// Models and prices.
    pub models: Vec<ModelTerms>,
    /// Where channels must pay to.
    pub payout: TonAddress,
    /// How far jobs run ahead of the vouchers.
    pub credit_window: NanoTon,
    /// The evidence in force; before there is any, nothing is offered.
    pub evidence: Option<Digest>,
}

struct Search {
    negotiation: Negotiation,
    reply: Reply<Found>,
}

/// See the module's doc.
pub struct Negotiator {
    mesh: Address<Mesh>,
    shop: Option<Shop>,
    searches: BTreeMap<JobId, Search>,
    config: NegotiationConfig,
    rng: StdRng,
}

impl Negotiator {
    /// A client's negotiator, and with a shop a worker's too.
    #[must_use]
    pub fn new(
        mesh: Address<Mesh>,
        config: NegotiationConfig,
        shop: Option<Shop>,
        rng: StdRng,
    ) -> Self {
        Self {
            mesh,
            shop,
            searches: BTreeMap::new(),
            config,
            rng,
        }
    }
}

impl Named for Negotiator {
    const NAME: &'static str = "negotiator";
}
impl Actor for Negotiator {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Self::Context) {
        // Offers that nobody took up free their slots without waiting for the next request.
        context.run_interval(Duration::from_secs(1), |actor, _| {
            if let Some(shop) = &mut actor.shop {
                shop.book.expire(clock::now());
            }
        });
    }
}
impl Supervised for Negotiator {
    fn restarting(&mut self, _: &mut Self::Context) {
        // The questions that were under way are gone, and their answers will not come.
        self.searches.clear();
    }
}

impl Handler<crate::supervision::Stop> for Negotiator {
    type Result = ();
    fn handle(&mut self, _: crate::supervision::Stop, context: &mut Self::Context) {
        context.stop();
    }
}

/// The evidence in force has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NewEvidence(pub Digest);

impl Handler<NewEvidence> for Negotiator {
    type Result = ();
    fn handle(&mut self, NewEvidence(evidence): NewEvidence, _: &mut Self::Context) {
        if let Some(shop) = &mut self.shop {
            shop.evidence = Some(evidence);
        }
    }
}

/// Make no more offers: the worker is going away.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for Negotiator {
    type Result = ();
    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        if let Some(shop) = &mut self.shop {
            shop.book.drain();
        }
    }
}

/// A peer asks for a quote; `None` if its bytes are no request, or nothing is sold here.
#[derive(Debug)]
pub struct Quote {
    /// When.
    pub now: UnixMillis,
    /// Who.
    pub client: PeerId,
    /// The encoded request.
    pub request: Vec<u8>,
}
impl Query for Quote {
    type Answer = Option<Vec<u8>>;
}
impl Handler<Ask<Quote>> for Negotiator {
    type Result = ();
    fn handle(&mut self, asked: Ask<Quote>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let answer = self.shop.as_mut().and_then(|shop| {
            if let Ok(decline) = Decline::decode(&query.request) {
                shop.book.decline(query.now, decline.offer, query.client);
                return Some(Vec::new());
            }
            let request = QuoteRequest::decode(&query.request)
                .inspect_err(|error| debug!(client = %query.client, %error, "no quote request"))
                .ok()?;
            Some(shop.quote(query.now, query.client, &request).encode())
        });
        reply.send(answer);
    }
}

impl Shop {
    fn quote(&mut self, now: UnixMillis, client: PeerId, request: &QuoteRequest) -> QuoteReply {
        let Some(evidence) = self.evidence else {
            return QuoteReply::Refused(Refusal::Busy);
        };
        let running = u32::try_from(self.book.leased()).unwrap_or(u32::MAX);
        let terms = WorkerTerms {
            worker: self.key.public().to_peer_id(),
            models: &self.models,
            evidence,
            payout: self.payout,
            credit_window: self.credit_window,
            expected_wait_ms: running.saturating_mul(WAIT_PER_RUNNING_JOB_MS),
        };
        let offer = match self.book.quote(now, request, client, &terms) {
            Ok(offer) => offer,
            Err(refusal) => return QuoteReply::Refused(refusal),
        };
        match offer.sign(&self.key) {
            Ok(signed) => QuoteReply::Offer(signed),
            Err(error) => {
                warn!(%error, "an offer could not be signed");
                QuoteReply::Refused(Refusal::Busy)
            }
        }
    }
}

/// A client takes an offer up.
#[derive(Debug)]
pub struct Redeem {
    /// When.
    pub now: UnixMillis,
    /// Which.
    pub offer: OfferId,
    /// Who.
    pub client: PeerId,
}
impl Query for Redeem {
    type Answer = Result<Lease, RedeemError>;
}
impl Handler<Ask<Redeem>> for Negotiator {
    type Result = ();
    fn handle(&mut self, asked: Ask<Redeem>, _: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Redeem { now, offer, client } = query;
        let Some(shop) = &mut self.shop else {
            return reply.send(Err(RedeemError::Unknown { offer }));
        };
        if let Err(Ok(lease)) = reply.deliver(shop.book.redeem(now, offer, client)) {
            // The job has gone before it began.
            shop.book.release(lease.id);
        }
    }
}

/// A job is over: its slot is free.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Release(pub LeaseId);

impl Handler<Release> for Negotiator {
    type Result = ();
    fn handle(&mut self, Release(lease): Release, _: &mut Self::Context) {
        if let Some(shop) = &mut self.shop
            && !shop.book.release(lease)
        {
            warn!(?lease, "released twice");
        }
    }
}

/// An offer that a search found will not be taken up after all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unneeded {
    /// Who made it.
    pub worker: PeerId,
    /// Which.
    pub offer: OfferId,
}

impl Handler<Unneeded> for Negotiator {
    type Result = ();
    fn handle(&mut self, Unneeded { worker, offer }: Unneeded, context: &mut Self::Context) {
        self.decline(worker, offer, context);
    }
}

/// How a search ended.
#[derive(Clone, Debug)]
pub struct Found {
    /// The best offer, if anybody made one.
    pub offer: Option<Offer>,
    /// Why it went as it did, a line per worker asked.
    pub lines: Vec<ScoreLine>,
}

/// Looks for a worker for a job.
#[derive(Debug)]
pub struct Negotiate {
    /// The job.
    pub job: JobId,
    /// What it needs.
    pub wish: Wish,
    /// Whom to ask.
    pub candidates: Vec<Candidate>,
}
impl Query for Negotiate {
    type Answer = Found;
}
impl Handler<Ask<Negotiate>> for Negotiator {
    type Result = ();
    fn handle(&mut self, asked: Ask<Negotiate>, context: &mut Self::Context) {
        let (query, reply, _job) = asked.open();
        let Negotiate {
            job,
            wish,
            candidates,
        } = query;
        if self.searches.len() >= MAX_NEGOTIATIONS {
            return reply.send(Found {
                offer: None,
                lines: Vec::new(),
            });
        }
        let patience = Duration::from_millis(self.config.patience_ms.saturating_add(10));
        let (negotiation, outputs) = Negotiation::start(
            self.config.clone(),
            wish,
            clock::now(),
            candidates,
            &mut self.rng,
        );
        self.searches.insert(job, Search { negotiation, reply });
        context.run_later(patience, move |actor, context| {
            actor.drive(job, NegotiationInput::Tick, context);
        });
        self.perform(job, outputs, context);
    }
}

impl Negotiator {
    fn drive(&mut self, job: JobId, input: NegotiationInput, context: &mut Context<Self>) {
        if let Some(search) = self.searches.get_mut(&job) {
            let outputs = search.negotiation.handle(clock::now(), input);
            self.perform(job, outputs, context);
        } else if let NegotiationInput::Reply {
            peer,
            reply: Ok(offer),
        } = input
        {
            // Too late to be chosen.
            self.decline(peer, offer.id, context);
        }
    }

    fn perform(
        &mut self,
        job: JobId,
        outputs: Vec<NegotiationOutput>,
        context: &mut Context<Self>,
    ) {
        for output in outputs {
            let offer = match output {
                NegotiationOutput::Ask { peer, request } => {
                    self.ask_peer(job, peer, &request, context);
                    continue;
                }
                NegotiationOutput::Chosen(offer) => Some(offer),
                NegotiationOutput::Exhausted { .. } => None,
            };
            // Either output ends the search.
            if let Some(mut search) = self.searches.remove(&job) {
                for (peer, offer) in search.negotiation.decline_rest() {
                    self.decline(peer, offer, context);
                }
                let lines = search.negotiation.explain();
                if let Err(Found {
                    offer: Some(offer), ..
                }) = search.reply.deliver(Found { offer, lines })
                {
                    // The job has gone before it began.
                    self.decline(offer.worker, offer.id, context);
                }
            }
        }
    }

    /// Tells a worker that its offer is not needed. If it does not hear, the offer expires.
    fn decline(&self, peer: PeerId, offer: OfferId, context: &mut Context<Self>) {
        let mesh = self.mesh.clone();
        let question = AskPeer {
            peer,
            question: Question::Offer,
            request: Decline { offer }.encode(),
        };
        let telling = async move { ask(&mesh, question).await };
        context.spawn(
            telling
                .in_current_span()
                .into_actor(self)
                .map(move |told, _, _| {
                    if !matches!(told, Ok(Ok(_))) {
                        debug!(%peer, %offer, "the worker did not hear that its offer is declined");
                    }
                }),
        );
    }

    fn ask_peer(
        &self,
        job: JobId,
        peer: PeerId,
        request: &QuoteRequest,
        context: &mut Context<Self>,
    ) {
        let mesh = self.mesh.clone();
        let question = AskPeer {
            peer,
            question: Question::Offer,
            request: request.encode(),
        };
        let asking = async move { ask(&mesh, question).await };
        context.spawn(asking.in_current_span().into_actor(self).map(
            move |answer, actor, context| {
                let input = match answer {
                    Ok(Ok(bytes)) => read_reply(peer, &bytes),
                    Ok(Err(error)) => {
                        debug!(%peer, %error, "no quote");
                        NegotiationInput::Failed { peer }
                    }
                    Err(error) => {
                        debug!(%peer, %error, "no quote");
                        NegotiationInput::Failed { peer }
                    }
                };
                actor.drive(job, input, context);
            },
        ));
    }
}

fn read_reply(peer: PeerId, bytes: &[u8]) -> NegotiationInput {
    let reply = match QuoteReply::decode(bytes) {
        Ok(QuoteReply::Offer(offer)) => match decode_offer(&offer) {
            Ok(offer) => Ok(offer),
            Err(error) => {
                debug!(%peer, %error, "not an offer");
                return NegotiationInput::Failed { peer };
            }
        },
        Ok(QuoteReply::Refused(refusal)) => Err(refusal),
        Err(error) => {
            debug!(%peer, %error, "not a quote reply");
            return NegotiationInput::Failed { peer };
        }
    };
    NegotiationInput::Reply { peer, reply }
}
