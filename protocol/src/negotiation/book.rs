//! The worker's side: open offers, and the slots behind them.
//!
//! A slot is free, promised to one open offer, or leased to one job. An offer is made only if a slot
//! is free, and holds it until it is redeemed or expires: that is what makes it binding, and why
//! redeeming needs no look at the load. The price is that offers nobody takes keep slots idle for
//! their lifetime, so that should be a few round trips and no more.

use super::quote::{Offer, QuoteRequest, Refusal};
use crate::advert::ModelTerms;
use crate::ids::{Digest, OfferId, PeerId, TonAddress};
use crate::metering::least_window;
use crate::units::{NanoTon, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Offers remembered after they ended, so that who comes late hears why. The oldest go first.
pub const MAX_REMEMBERED_OFFERS: usize = 1024;

/// How a worker makes offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferBookConfig {
    /// Jobs at once.
    pub slots: u16,
    /// Most open offers, to everybody together. There are never more than free slots.
    pub max_open_offers: usize,
    /// Most open offers to one client.
    pub max_open_offers_per_client: usize,
    /// How long an offer binds, in milliseconds.
    pub offer_lifetime_ms: u64,
}

impl Default for OfferBookConfig {
    /// One slot, and offers of two seconds: a round trip across the world, and a handshake.
    fn default() -> Self {
        Self {
            slots: 1,
            max_open_offers: 64,
            max_open_offers_per_client: 4,
            offer_lifetime_ms: 2_000,
        }
    }
}

/// What the worker offers at this moment.
#[derive(Clone, Debug)]
pub struct WorkerTerms<'a> {
    /// Itself.
    pub worker: PeerId,
    /// What it serves.
    pub models: &'a [ModelTerms],
    /// Its evidence, [`crate::evidence::Claims::digest`].
    pub evidence: Digest,
    /// Where it is paid.
    pub payout: TonAddress,
    /// How far it runs ahead of vouchers. An offer has at least [`least_window`], whatever is
    /// said here, since with less it could stall.
    pub credit_window: NanoTon,
    /// How long until a job would begin, in milliseconds.
    pub expected_wait_ms: u32,
}

/// Names a slot in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

/// A slot, and the offer it was taken under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// For [`OfferBook::release`].
    pub id: LeaseId,
    /// The terms.
    pub offer: Offer,
}

/// Why an offer cannot be redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    /// Never made, or forgotten.
    #[error("there is no offer {offer}")]
    Unknown {
        /// The offer.
        offer: OfferId,
    },
    /// Its time is over.
    #[error("offer {offer} ended {late_ms} ms ago")]
    Expired {
        /// The offer.
        offer: OfferId,
        /// By how much.
        late_ms: u64,
    },
    /// It was made to somebody else.
    #[error("offer {offer} was made to another client than {client}")]
    OtherClient {
        /// The offer.
        offer: OfferId,
        /// Who wanted it.
        client: PeerId,
    },
    /// It was redeemed before.
    #[error("offer {offer} was redeemed before")]
    AlreadyRedeemed {
        /// The offer.
        offer: OfferId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Leased,
    /// Redeemed, and the lease is over.
    Spent,
    Expired,
}

#[derive(Clone, Debug)]
struct Record {
    offer: Offer,
    state: State,
}

/// See the module's doc.
#[derive(Clone, Debug)]
pub struct OfferBook {
    config: OfferBookConfig,
    draining: bool,
    records: BTreeMap<OfferId, Record>,
    /// Open offers, the next to expire first.
    open: BTreeSet<(UnixMillis, OfferId)>,
    leases: BTreeMap<LeaseId, OfferId>,
    /// Offers that ended, oldest first.
    ended: VecDeque<OfferId>,
    next_lease: u64,
}

impl OfferBook {
    /// An empty book.
    #[must_use]
    pub const fn new(config: OfferBookConfig) -> Self {
        Self {
            config,
            draining: false,
            records: BTreeMap::new(),
            open: BTreeSet::new(),
            leases: BTreeMap::new(),
            ended: VecDeque::new(),
            next_lease: 0,
        }
    }

    /// Makes an offer, and keeps a slot for it. Asking again with the same id gives the same offer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn quote(
        &mut self,
        now: UnixMillis,
        request: &QuoteRequest,
        client: PeerId,
        terms: &WorkerTerms<'_>,
    ) -> Result<Offer, Refusal> {
        self.expire(now);
        if self.draining {
            return Err(Refusal::Draining);
        }
        let model = terms
            .models
            .iter()
            .find(|model| model.id == request.model && model.digest == request.model_digest)
            .ok_or(Refusal::UnknownModel)?;
        let limit_tokens = model.context_tokens;
        match request
            .max_prompt_tokens
            .checked_add(request.max_output_tokens)
        {
            Some(tokens) if tokens <= limit_tokens => {}
            _ => return Err(Refusal::TooLong { limit_tokens }),
        }
        if let Some(record) = self.records.get(&request.offer_request) {
            let same = record.state == State::Open
                && record.offer.client == client
                && record.offer.model == request.model
                && record.offer.model_digest == request.model_digest
                && record.offer.max_prompt_tokens == request.max_prompt_tokens
                && record.offer.max_output_tokens == request.max_output_tokens;
            return if same {
                Ok(record.offer.clone())
            } else {
                Err(Refusal::Busy)
            };
        }
        let of_client = |(_, id): &&(UnixMillis, OfferId)| {
            self.records
                .get(id)
                .is_some_and(|record| record.offer.client == client)
        };
        if self.open.len() >= self.config.max_open_offers
            || self.open.iter().filter(of_client).count() >= self.config.max_open_offers_per_client
        {
            return Err(Refusal::Busy);
        }
        if self.free_slots() == 0 {
            return Err(Refusal::NoFreeSlot);
        }
        let least = least_window(&model.price, request.max_prompt_tokens).ok_or(Refusal::Busy)?;
        let offer = Offer {
            id: request.offer_request,
            worker: terms.worker,
            client,
            model: model.id.clone(),
            model_digest: model.digest,
            price: model.price,
            credit_window: terms.credit_window.max(least),
            expected_wait_ms: terms.expected_wait_ms,
            expires: now.saturating_add(self.config.offer_lifetime_ms),
            evidence: terms.evidence,
            max_prompt_tokens: request.max_prompt_tokens,
            max_output_tokens: request.max_output_tokens,
            payout: terms.payout,
        };
        self.open.insert((offer.expires, offer.id));
        let record = Record {
            offer: offer.clone(),
            state: State::Open,
        };
        self.records.insert(offer.id, record);
        Ok(offer)
    }

    /// Turns an offer into a lease of the slot that was kept for it.
    ///
    /// # Errors
    /// [`RedeemError`].
    pub fn redeem(
        &mut self,
        now: UnixMillis,
        id: OfferId,
        client: PeerId,
    ) -> Result<Lease, RedeemError> {
        self.expire(now);
        let Some(record) = self.records.get_mut(&id) else {
            return Err(RedeemError::Unknown { offer: id });
        };
        if record.offer.client != client {
            return Err(RedeemError::OtherClient { offer: id, client });
        }
        match record.state {
            State::Open => {}
            State::Leased | State::Spent => {
                return Err(RedeemError::AlreadyRedeemed { offer: id });
            }
            State::Expired => {
                return Err(RedeemError::Expired {
                    offer: id,
                    late_ms: now.saturating_since(record.offer.expires),
                });
            }
        }
        record.state = State::Leased;
        self.open.remove(&(record.offer.expires, id));
        let lease = Lease {
            id: LeaseId(self.next_lease),
            offer: record.offer.clone(),
        };
        // 2^64 leases do not happen.
        self.next_lease = self.next_lease.wrapping_add(1);
        self.leases.insert(lease.id, id);
        Ok(lease)
    }

    /// The client took another offer: the slot that was kept for this one is free. False if there
    /// is no such open offer to this client.
    pub fn decline(&mut self, now: UnixMillis, id: OfferId, client: PeerId) -> bool {
        self.expire(now);
        let Some(record) = self.records.get(&id) else {
            return false;
        };
        if record.state != State::Open || record.offer.client != client {
            return false;
        }
        self.open.remove(&(record.offer.expires, id));
        self.end(id, State::Spent);
        true
    }

    /// The job is over: its slot is free. False if it was already.
    pub fn release(&mut self, lease: LeaseId) -> bool {
        let Some(offer) = self.leases.remove(&lease) else {
            return false;
        };
        self.end(offer, State::Spent);
        true
    }

    /// Ends the offers whose time is over. Every other call does it too, so this is only for who
    /// wants to know which.
    pub fn expire(&mut self, now: UnixMillis) -> Vec<OfferId> {
        let mut expired = Vec::new();
        while let Some(&(expires, id)) = self.open.first() {
            if expires > now {
                break;
            }
            self.open.pop_first();
            self.end(id, State::Expired);
            expired.push(id);
        }
        expired
    }

    fn end(&mut self, id: OfferId, state: State) {
        if let Some(record) = self.records.get_mut(&id) {
            record.state = state;
            self.ended.push_back(id);
        }
        while self.ended.len() > MAX_REMEMBERED_OFFERS {
            if let Some(oldest) = self.ended.pop_front() {
                self.records.remove(&oldest);
            }
        }
    }

    /// From now on no new offers; those that are open stay binding.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Slots neither promised nor leased, as of the last call that took a time.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        usize::from(self.config.slots)
            .saturating_sub(self.open.len())
            .saturating_sub(self.leases.len())
    }

    /// Jobs that hold a slot.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// Offers that hold a slot.
    #[must_use]
    pub fn open_offers(&self) -> usize {
        self.open.len()
    }
}
